"""The clock that tokens live by: nobody sets it, and it goes on while the machine sleeps.

`time.monotonic()` stands still while a laptop is suspended (CLOCK_MONOTONIC on Linux, see
clock_gettime(2), mach_absolute_time on macOS), so a token would outlive its own end by as long. The
wall clock is set by people and by NTP. Neither tells how much of a token's life is over.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

__all__ = ["now"]


def _chosen() -> Callable[[], float]:
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


now = _chosen()
"""Seconds since some moment; only differences mean anything, and only on this machine."""
