"""Locks in a forked child: a thread that held one in the parent does not exist there."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["HoldsLocks", "remake_in_children"]


class HoldsLocks(Protocol):
    """Something with locks of its own."""

    def remake_locks(self) -> None:
        """Make the locks, and forget what threads of another process were about to do."""
        ...


# A plain dictionary: unlike a WeakSet's, each of its changes is whole whenever a fork comes.
_all: dict[int, weakref.ref[HoldsLocks]] = {}


def remake_in_children(owner: HoldsLocks) -> None:
    """Have `owner.remake_locks()` called in every child forked from now on, as long as it lives."""
    key = id(owner)
    _all[key] = weakref.ref(owner, lambda _: _all.pop(key, None))


def _after_fork() -> None:
    for found in list(_all.values()):
        if (owner := found()) is not None:
            owner.remake_locks()


os.register_at_fork(after_in_child=_after_fork)
