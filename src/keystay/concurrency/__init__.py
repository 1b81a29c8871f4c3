"""The one home of waiting: clocks and deadlines, blocking calls, locks, and what a fork must find.

The core and every plugin use it. Nothing here knows keys, HTTP or an event loop that is not
running.
"""

from keystay.concurrency.clock import SYSTEM_CLOCK, Clock, Deadline, backoff
from keystay.concurrency.forks import detect_fork, hold_off_forks, reset_after_fork
from keystay.concurrency.locks import DeadlineLock, ReadWriteGate
from keystay.concurrency.threads import SharedEvent, WorkerThreads

__all__ = [
    "SYSTEM_CLOCK",
    "Clock",
    "Deadline",
    "DeadlineLock",
    "ReadWriteGate",
    "SharedEvent",
    "WorkerThreads",
    "backoff",
    "detect_fork",
    "hold_off_forks",
    "reset_after_fork",
]
