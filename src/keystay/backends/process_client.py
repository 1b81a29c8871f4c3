"""The client of a remote key service's SDK: made when first needed, one for each process."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from keystay.concurrency.clock import Deadline
from keystay.concurrency.forks import detect_fork, reset_after_fork
from keystay.concurrency.locks import DeadlineLock
from keystay.errors import SignerClosedError

__all__ = ["Connected", "ProcessClient"]

C = TypeVar("C")

_NUMBERS = itertools.count(1)
# Clients that a fork brought along. Their sockets and threads belong to the parent, and destroying
# one may talk to those: they are kept to the end of the process.
_INHERITED: list[object] = []


class Connected(NamedTuple, Generic[C]):
    """A client, and its number among those of this process; a `BackendSignature.session`."""

    client: C
    number: int


class ProcessClient(Generic[C]):
    """Makes the client, once, and again in a forked child. Thread-safe.

    Args:
        service: Name of the service, for messages.
        make: Makes a client before a deadline.
        close: Closes one.
    """

    def __init__(
        self, service: str, make: Callable[[Deadline], C], close: Callable[[C], object]
    ) -> None:
        self._service, self._make, self._close = service, make, close
        self._current: Connected[C] | None = None
        self._closed = False
        self._making = DeadlineLock(f"connecting to {service}")
        reset_after_fork(self._reset)

    @property
    def current(self) -> C | None:
        """The client, if it was made in this process."""
        return None if self._current is None else self._current.client

    def get(self, deadline: Deadline) -> Connected[C]:
        """The client, made when first asked for in this process.

        Raises:
            SignerClosedError: After `close()`.
            BackendTimeoutError: Another thread was making it until the deadline.
            Exception: Whatever `make` raises.
        """
        detect_fork()
        self.check_open()
        if (current := self._current) is not None:
            return current
        with self._making.held(deadline):
            self.check_open()
            if self._current is None:
                self._current = Connected(self._make(deadline), next(_NUMBERS))
            return self._current

    def check_open(self) -> None:
        """Raise `SignerClosedError` after `close()`."""
        if self._closed:
            raise SignerClosedError(
                f"The connection to {self._service} is closed.", hint="Open the signer again."
            )

    def close(self) -> None:
        """Close the client, if it is this process's own; idempotent. Waits for none being made."""
        self._closed = True
        detect_fork()
        current, self._current = self._current, None
        if current is not None:
            self._close(current.client)

    def _reset(self) -> None:
        """In a forked child: the client belongs to the parent."""
        if self._current is not None:
            _INHERITED.append(self._current.client)
            self._current = None
