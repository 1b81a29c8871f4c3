"""Keeps calls away from a token that is known to be down, and lets one through to see.

While it is down, a call fails at once, with the reason why it is down and the time of the next
attempt. That attempt is one call's, half open: whoever comes meanwhile waits for its outcome, if
that is a matter of a moment.
"""

from __future__ import annotations

import copy
import threading
import time
from typing import TYPE_CHECKING

from keystay.concurrency.forks import reset_after_fork
from keystay.errors import BackendTimeoutError, BackendUnavailableError, KeystayError

if TYPE_CHECKING:
    from keystay.backends import Deadline
    from keystay_pkcs11.errors import Place

__all__ = ["Circuit"]

_SHORTEST, _LONGEST = 0.5, 10.0  # seconds between attempts
_PART_OF_OUTAGE = 4  # in between: this part of the time since it was lost
_PATIENCE = 1.0  # seconds that a call waits for the next attempt rather than fail
# Unavailable, and yet the token answers, or has its own way to say so at once.
_NOT_DOWN = frozenset(
    (
        "session-count",
        "module-not-thread-safe",
        "backend-hangs",
        "login-unanswered",
        "fork-unsupported",
    )
)


class Circuit:
    """One token's.

    Args:
        place: For messages.

    Attributes:
        reason: Why the token is down; None while it is not.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self.reason: BackendUnavailableError | None = None
        self._since = self._next = 0.0
        self._attempts = 0  # that failed
        self._reset()
        reset_after_fork(self._reset)

    def enter(self, deadline: Deadline) -> bool:
        """Begin a call.

        Returns:
            Whether it is the one that looks if the token is back; `ended` must follow.

        Raises:
            BackendUnavailableError: The token is down, and not tried now.
        """
        return self.reason is not None and self._enter_open(deadline)

    def ended(self, probing: bool, error: BaseException | None = None) -> None:
        """End a call.

        Args:
            probing: What `enter` returned.
            error: What came of it; None if the token did what it was asked to.
        """
        if error is None and self.reason is None and not probing:
            return
        with self._changed:
            if error is None:
                self.reason = None
            elif isinstance(error, BackendUnavailableError) and error.code not in _NOT_DOWN:
                # A deadline that passes may be the caller's own haste, or somebody else's queue.
                if probing or not isinstance(error, BackendTimeoutError):
                    self._open(error, probing)
            elif probing and isinstance(error, KeystayError):
                self.reason = None  # it did answer, if not as hoped
            if probing:
                self._probing = False
            self._changed.notify_all()

    def undecided(self) -> None:
        """End the call that looked if the token is back, without having seen."""
        with self._changed:
            self._probing = False
            self._changed.notify_all()

    def _reset(self) -> None:
        """In a forked child other threads, and their attempts, are not here."""
        self._changed = threading.Condition()
        self.reason, self._probing = None, False

    def _enter_open(self, deadline: Deadline) -> bool:
        patience = time.monotonic() + min(deadline.remaining, _PATIENCE)
        with self._changed:
            attempts = self._attempts
            while (reason := self.reason) is not None:
                now = time.monotonic()
                if not self._probing and self._next <= now:
                    self._probing = True
                    return True
                # An attempt under way ends with a notification; a pause ends by itself.
                until = patience if self._probing else self._next
                if attempts != self._attempts or until > patience or now >= patience:
                    raise self._refusal(reason, max(0.0, self._next - now))
                self._changed.wait(until - now)
        return False

    def _open(self, error: BackendUnavailableError, probing: bool) -> None:
        now = time.monotonic()
        if self.reason is None:
            self._since = now
        elif not probing:
            return  # it began before the token was lost
        self._attempts += 1
        self.reason = copy.copy(error)  # without the traceback and what hangs on it
        pause = (now - self._since) / _PART_OF_OUTAGE
        self._next = now + min(max(pause, _SHORTEST), _LONGEST)

    def _refusal(self, reason: BackendUnavailableError, wait: float) -> BackendUnavailableError:
        cause = f" {reason.cause}" if reason.cause else ""
        error = BackendUnavailableError(
            f"The {self._place} was lost and is not asked now; the next attempt is in "
            f"{wait:.1f} s.",
            cause=f"{reason.message}{cause}",
            hint=reason.hint,
            code="device-lost",
        )
        error.__cause__ = copy.copy(reason)
        return error
