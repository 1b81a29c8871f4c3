"""Time: the clock that is injected, deadlines measured by it, and the pause between two tries.

`time.monotonic()` stands still while a laptop is suspended (CLOCK_MONOTONIC on Linux, see
clock_gettime(2), mach_absolute_time on macOS), so a token would outlive its own end by as long. The
wall clock is set by people and by NTP. Neither measures how much of a token's life is over.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec

from keystay.concurrency import forks
from keystay.errors import BackendTimeoutError

forks.arm()

__all__ = ["SYSTEM_CLOCK", "Clock", "Deadline", "backoff"]

# Seconds beyond what a server asks to wait, so that not all clients come back at once.
_SPREAD = 0.25


def _elapsed() -> Callable[[], float]:
    """A clock that cannot be set and that goes on while the machine sleeps."""
    if sys.platform == "linux":
        identity = time.CLOCK_BOOTTIME
    elif sys.platform == "darwin":
        identity = time.CLOCK_MONOTONIC  # counts sleep there
    else:
        return time.monotonic
    try:
        time.clock_gettime(identity)
    except OSError:  # a sandbox without it
        return time.monotonic
    return partial(time.clock_gettime, identity)


@dataclass(frozen=True, slots=True)
class Clock:
    """Everything that time is asked for; a test hands in its own.

    Attributes:
        now: Seconds since some moment. Only differences mean anything, and only on this machine:
            it cannot be set, and counts the time that the machine sleeps.
        sleep: Blocks the calling thread for that many seconds.
        time: Unix time in seconds, as this machine believes.
        wait: Waits for a condition, whose lock is held, at most that many seconds.
    """

    now: Callable[[], float]
    sleep: Callable[[float], object] = time.sleep
    time: Callable[[], float] = time.time
    wait: Callable[[threading.Condition, float], object] = threading.Condition.wait


SYSTEM_CLOCK = Clock(_elapsed())
"""The machine's own."""


class Deadline(msgspec.Struct, frozen=True, gc=False):
    """A point in time by which an operation is over.

    Attributes:
        at: By `now()`, in seconds.
        seconds: The length it was made with, for messages.
        now: The clock it is measured by.
    """

    at: float
    seconds: float
    now: Callable[[], float] = SYSTEM_CLOCK.now

    @classmethod
    def after(cls, seconds: float, clock: Clock = SYSTEM_CLOCK) -> Deadline:
        """The deadline `seconds` from now."""
        now = clock.now
        return cls(now() + seconds, seconds, now)

    def extended(self, seconds: float) -> Deadline:
        """The same, `seconds` later: time that a person took is not the device's."""
        return Deadline(self.at + seconds, self.seconds, self.now) if seconds else self

    def at_most(self, seconds: float) -> Deadline:
        """The deadline `seconds` from now, or this one if that is earlier."""
        at = self.now() + seconds
        return self if at >= self.at else Deadline(at, seconds, self.now)

    @property
    def remaining(self) -> float:
        """Seconds left; 0.0 when it has passed."""
        left = self.at - self.now()
        return max(0.0, left)

    @property
    def expired(self) -> bool:
        """Whether it has passed."""
        return self.now() >= self.at

    def check(self, what: str) -> None:
        """Raise `BackendTimeoutError` saying that `what` took too long, if it has passed."""
        if self.now() >= self.at:
            raise BackendTimeoutError(
                f"{what} did not finish within {self.seconds:g} s.",
                cause="The device or service is slow, overloaded or gone.",
                hint="Check its health and load; raise the timeout only if it is slow by nature.",
            )


def backoff(
    failures: int, *, first: float, longest: float, retry_after: float | None = None
) -> float:
    """Seconds before the next try: doubled with each failure, half of it left to chance.

    Args:
        failures: How many tries have failed, at least 1.
        first: The pause after the first failure, in seconds.
        longest: Where the doubling ends, in seconds.
        retry_after: Seconds that the server asked to wait; the pause is never shorter.
    """
    pause = min(first * 2.0 ** min(failures - 1, 30), longest)
    pause *= random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
    if retry_after is not None:
        spread = random.uniform(0.0, min(_SPREAD, retry_after))  # noqa: S311
        pause = max(pause, retry_after + spread)
    return pause
