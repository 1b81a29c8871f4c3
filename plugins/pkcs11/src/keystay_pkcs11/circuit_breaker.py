"""The availability of a token: a circuit breaker that refuses calls to one that is down.

| event                             | `closed` | `open`                  | `half-open`           |
|-----------------------------------|----------|-------------------------|-----------------------|
| `allow_request`, before it is due | allowed  | refused, or waits 1 s   | –                     |
| `allow_request`, once it is due   | allowed  | allowed, and half-open: | refused, or waits 1 s |
|                                   |          | it is the probe         | for the probe         |
| `record` of a success             | closed   | closed                  | closed                |
| `record` of a loss                | open     | open                    | by the probe: open    |
| `record` of another error         | closed   | open                    | by the probe: closed  |
| `cancel`, by the probe            | –        | –                       | open, and due         |
| fork, in the child                | closed   | closed                  | closed                |

The first probe is due 0.5 s after the loss, a later one after a quarter of the time that the token
has been away, at most 10 s. A quarter, rather than the doubling of `concurrency.backoff`, since a
call waits for 1 s: so an outage of up to 4 s gives no error to any call that begins after it.
"""

from __future__ import annotations

import copy
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from keystay.concurrency.clock import SYSTEM_CLOCK, Clock
from keystay.concurrency.forks import reset_after_fork
from keystay.errors import BackendTimeoutError, BackendUnavailableError, KeystayError
from keystay_pkcs11.errors import TEXTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystay.backends import Deadline
    from keystay_pkcs11.errors import Place

__all__ = ["CircuitBreaker"]

_SHORTEST, _LONGEST = 0.5, 10.0  # seconds between two probes
_PART_OF_OUTAGE = 4  # in between: this part of the time since the loss
_PATIENCE = 1.0  # seconds that a call waits for the next probe, or its outcome, rather than fail
# Unavailable, and yet the token answers, or has an error of its own for it.
_NOT_DOWN = frozenset(
    (
        "session-count", "module-not-thread-safe", "backend-hangs", "login-unanswered",
        "fork-unsupported",
    )
)  # fmt: skip


class CircuitBreaker:
    """One token's.

    Args:
        place: For messages.
        clock: The machine's, or a test's.

    Attributes:
        reason: Why the token is down; None while it is not.
        next_probe: When the next probe is due, by the clock's `now()`.
    """

    reason: BackendUnavailableError | None

    def __init__(self, place: Place, clock: Clock = SYSTEM_CLOCK) -> None:
        self._place, self._clock = place, clock
        self.next_probe = 0.0
        self._lost_at = 0.0
        self._failed_probes = 0
        self._reset()
        reset_after_fork(self._reset)

    @property
    def state(self) -> str:
        """`closed`, `open` or `half-open`."""
        if self.reason is None:
            return "closed"
        return "half-open" if self._is_probing else "open"

    def allow_request(self, deadline: Deadline) -> bool:
        """Begin a call; `record`, or `cancel` of the probe, must follow.

        Returns:
            Whether it is the probe.

        Raises:
            BackendUnavailableError: The token is down, and not tried now.
        """
        return self.reason is not None and self._await_probe(deadline)

    def record(self, is_probe: bool, error: BaseException | None = None) -> None:
        """End a call.

        Args:
            is_probe: What `allow_request` returned.
            error: What it raised; None if the token did what it was asked to.
        """
        if error is None and self.reason is None and not is_probe:
            return
        with self._changed:
            if error is None:
                self.reason = None
            elif isinstance(error, BackendUnavailableError) and error.code not in _NOT_DOWN:
                # A deadline that passes may be too short, or spent in a queue.
                if is_probe or not isinstance(error, BackendTimeoutError):
                    self._open(error, is_probe)
            elif is_probe and isinstance(error, KeystayError):
                self.reason = None  # it did answer, if not as hoped
            if is_probe:
                self._is_probing = False
            self._changed.notify_all()

    def cancel(self) -> None:
        """End the probe without having asked the token for anything: the next call is it."""
        with self._changed:
            self._is_probing = False
            self._changed.notify_all()

    @contextmanager
    def guard(self, deadline: Deadline) -> Iterator[None]:
        """Make the block a call."""
        is_probe = self.allow_request(deadline)
        try:
            yield
        except BaseException as error:
            self.record(is_probe, error)
            raise
        self.record(is_probe)

    def _reset(self) -> None:
        """In a forked child other threads, and their probes, are not there."""
        self._changed = threading.Condition()
        self.reason = None
        self._is_probing = False

    def _await_probe(self, deadline: Deadline) -> bool:
        now = self._clock.now
        patience = now() + min(deadline.remaining, _PATIENCE)
        with self._changed:
            failed_before = self._failed_probes
            while (reason := self.reason) is not None:
                if not self._is_probing and self.next_probe <= now():
                    self._is_probing = True
                    return True
                # A probe's end notifies; a pause ends by itself.
                until = patience if self._is_probing else self.next_probe
                if failed_before != self._failed_probes or until > patience or now() >= patience:
                    raise self._refusal(reason)
                self._clock.wait(self._changed, until - now())
        return False

    def _open(self, error: BackendUnavailableError, is_probe: bool) -> None:
        now = self._clock.now()
        if self.reason is None:
            self._lost_at = now
        elif not is_probe:
            return  # it began before the token was lost
        self._failed_probes += 1
        self.reason = copy.copy(error)  # without the traceback and what hangs on it
        pause = (now - self._lost_at) / _PART_OF_OUTAGE
        self.next_probe = now + min(max(pause, _SHORTEST), _LONGEST)

    def _refusal(self, reason: BackendUnavailableError) -> KeystayError:
        wait = max(0.0, self.next_probe - self._clock.now())
        why = f"{reason.message} {reason.cause}" if reason.cause else reason.message
        hint = reason.hint or ""
        error = TEXTS.error("token-down", place=self._place, wait=wait, reason=why, hint=hint)
        error.__cause__ = copy.copy(reason)
        return error
