"""One token for many callers, and at most one renewal under way, whoever asks from wherever.

No input, no output and no waiting here: `obtain` is a flow that any thread or task drives. What
callers share is a token, a moment until which nobody has to look closer, and one `Attempt`.

A caller that finds the token within its renewal window renews it; until that is over the others
go on with what is there. Only when nothing valid is left do they wait, and then for that one
attempt. A failure is everybody's who waited for it; while the old token lives it is nobody's.
"""

from __future__ import annotations

import copy
import logging
import random
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from keystay.concurrency.clock import now
from keystay.concurrency.forks import reset_after_fork
from keystay.config.limits import require_window
from keystay.errors import (
    ConfigurationError,
    KeystayError,
    NetworkTimeoutError,
    ObserverError,
    PolicyError,
    SignerClosedError,
)
from keystay.tokens.actions import Flow, Pause, Wait
from keystay.tokens.attempt import Attempt

if TYPE_CHECKING:
    from keystay.concurrency import Deadline
    from keystay.token_stores.access_token import AccessToken

__all__ = ["DEFAULT_WINDOW", "Renewal"]

logger = logging.getLogger("keystay.tokens")

DEFAULT_WINDOW = 0.2
"""The share of a token's life, at its end, in which it is renewed."""

_LONGEST_WINDOW = 60.0
# Seconds past its deadline after which an attempt's maker counts as gone; an exchange that is cut
# and a signature that is given up are over before. So long do those wait for the maker's own
# error, which says more than theirs.
_GRACE = 0.5
# Seconds between failed attempts: doubled each time, half of it left to chance.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
# The longest that a server's Retry-After is obeyed across calls: one may be a slip.
_LONGEST_OBEYED = 600.0
# Local and lasting: with no token left, nobody is spared anything by waiting. But before an
# observer or a policy has its say the key has signed, and the server may have been asked.
_UNPAUSED = (ConfigurationError, SignerClosedError)
_PAUSED = (ObserverError, PolicyError)


class Renewal:
    """Keeps a token and has it renewed in time, by one caller.

    Args:
        window: Share of a token's life, at its end, in which it is renewed: more than 0, less
            than 1. The window is never longer than a minute.

    Raises:
        ConfigurationError: The window is none, or the whole life.

    Attributes:
        token: The token kept, or None.
        header: Its Authorization header.
        look_at: Until then, by `clock.now()`, token and header are good without a closer look.
    """

    __slots__ = (
        "__weakref__", "_attempt", "_error", "_failures", "_lock", "_not_before", "_window",
        "header", "look_at", "token",
    )  # fmt: skip

    def __init__(self, window: float = DEFAULT_WINDOW) -> None:
        self._window = require_window(window)
        self.look_at = 0.0
        self.header = ""
        self.token: AccessToken | None = None
        self._failures = 0
        self._not_before = 0.0
        self._error: Exception | None = None
        self._attempt: Attempt | None = None
        self.remake_locks()
        reset_after_fork(self.remake_locks)

    def obtain(
        self, ask: Callable[[Deadline, bool], Flow[AccessToken]], deadline: Deadline
    ) -> Flow[AccessToken]:
        """A valid token: the one kept, the one somebody is getting, or one got by `ask`.

        Args:
            ask: Makes the flow that gets a new token. It is told whether it may take its time
                and try again: not while the old token is good and this caller could go on.
            deadline: When this caller gives up.

        Raises:
            KeystayError: As `ask`, when nothing valid is left.
        """
        while True:
            found = self._look(deadline)
            if not isinstance(found, tuple):
                return found
            attempt, is_ours = found
            if is_ours:
                return (yield from self._renew(attempt, ask, deadline))
            left = min(deadline.remaining + _GRACE, attempt.overdue_at - now())
            is_over = yield Wait(attempt, max(0.0, left))
            if attempt.token is not None and not attempt.token.expired:
                return attempt.token
            if attempt.error is not None:
                if (held := self.held()) is not None:  # got by another way meanwhile
                    return held
                raise _again(attempt.error)
            if is_over is None:  # this thread has interrupted its own attempt
                return self.adopt((yield from ask(deadline, True)))
            if is_over or deadline.remaining > 0:
                continue  # whoever made it gave up or is gone: look again, perhaps take over
            raise NetworkTimeoutError(
                f"The renewal under way brought no token within {deadline.seconds:g} s.",
                cause="The server or the key is slow.",
                hint="Try again; raise [http] timeout only if they are slow by nature.",
            )

    def adopt(self, token: AccessToken) -> AccessToken:
        """Keep a new token. The one place where that happens."""
        with self._lock:
            self._failures, self._not_before, self._error = 0, 0.0, None
            self.token, self.header = token, token.authorization
            self.look_at = self._renew_at(token)
        return token

    def is_fresh(self, token: AccessToken) -> bool:
        """Whether a token, kept or not, is not to be renewed yet."""
        return now() < self._renew_at(token)

    def good(self) -> AccessToken | None:
        """The kept token, when it is good without a closer look."""
        return self.token if now() < self.look_at else None

    def held(self) -> AccessToken | None:
        """The kept token, unless it has expired."""
        token = self.token
        return None if token is None or token.expired else token

    def drop(self, token: AccessToken | None = None) -> None:
        """Forget the kept token; with an argument, only if it is that one."""
        with self._lock:
            if token is None or self.token is token:
                self.look_at = 0.0
                self.token, self.header = None, ""

    def _renew_at(self, token: AccessToken) -> float:
        return token.ends_at - min(self._window * token.lifetime, _LONGEST_WINDOW)

    def _look(self, deadline: Deadline) -> AccessToken | tuple[Attempt, bool]:
        """A good token, or the attempt to wait for, or to make (then True)."""
        with self._lock:
            moment = now()
            token = self.held()
            if token is not None and moment < max(self.look_at, self._not_before):
                return token
            attempt = self._attempt
            if attempt is not None and moment < attempt.overdue_at:
                return token if token is not None else (attempt, False)
            pause = self._not_before - moment
            if token is None and self._error is not None and pause > deadline.remaining:
                raise _again(self._error, pause)
            self._attempt = attempt = Attempt(deadline.remaining + _GRACE)
            if token is not None:
                # The others need not look closer until it should be over.
                self.look_at = min(token.ends_at, attempt.overdue_at)
            return attempt, True

    def _renew(
        self,
        attempt: Attempt,
        ask: Callable[[Deadline, bool], Flow[AccessToken]],
        deadline: Deadline,
    ) -> Flow[AccessToken]:
        token: AccessToken | None = None
        error: Exception | None = None
        try:
            is_urgent = self.held() is None
            if (pause := self._not_before - now()) > 0:
                yield Pause(pause)
            token = yield from ask(deadline, is_urgent)
            return self.adopt(token)
        except Exception as caught:
            error = caught
            if (kept := self._failed(caught)) is None:
                raise
            return kept
        finally:
            # Without either its maker was cancelled or interrupted, and one who waits takes over.
            with self._lock:
                if self._attempt is attempt:
                    self._attempt = None
            attempt.end(token, error)

    def _failed(self, error: Exception) -> AccessToken | None:
        """Put off the next attempt; return the kept token if it is still good."""
        with self._lock:
            token = self.held()
            if token is not None or not isinstance(error, _UNPAUSED) or isinstance(error, _PAUSED):
                self._failures += 1
                pause = min(_FIRST_PAUSE * 2 ** min(self._failures - 1, 10), _LONGEST_PAUSE)
                pause *= random.uniform(0.5, 1.0)  # noqa: S311 (jitter, no secret)
                asked = getattr(error, "retry_after", None) or 0.0
                self._error = error
                self._not_before = now() + max(pause, min(asked, _LONGEST_OBEYED))
            if token is None:
                return None
            self.look_at = min(token.ends_at, self._not_before)
        logger.warning(
            "the token is good for %.0f s more and could not be renewed, to be tried in %.0f s: %s",
            token.expires_in,
            max(0.0, self._not_before - now()),
            error.message if isinstance(error, KeystayError) else type(error).__name__,
            extra={"event": "renewal-failed"},
        )
        return token

    def remake_locks(self) -> None:
        """Start without an attempt: at the beginning, and in a forked child.

        There the thread that made the parent's attempt does not exist.
        """
        self._lock = threading.RLock()
        self._attempt = None


def _again(error: Exception, pause: float | None = None) -> Exception:
    """An error to raise once more: each caller gets one of its own, with a traceback of its own."""
    if not isinstance(error, KeystayError):
        return error
    again = copy.copy(error)
    again.__cause__ = error.__cause__
    if pause is not None:
        wait = f"The server is asked again in {pause:.0f} s at the earliest."
        again.hint = f"{error.hint} {wait}" if error.hint else wait
    return again
