"""Single-flight token cache, shared by threads and the tasks of any event loop.

The caller that finds the token within its renewal window renews it; until that is over the others
go on with the token that is there. Only when none is unexpired do they wait, and then for that one
renewal. A failure is raised to everybody who waited for it; while the old token lives, to nobody.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Awaitable, Callable
from threading import get_ident
from typing import TYPE_CHECKING

from keystay.concurrency.clock import SYSTEM_CLOCK, backoff
from keystay.concurrency.forks import reset_after_fork
from keystay.concurrency.threads import SharedEvent
from keystay.errors import (
    ConfigurationError,
    KeystayError,
    NetworkTimeoutError,
    ObserverError,
    PolicyError,
    SignerClosedError,
)
from keystay.observers.dispatch import EVENTS_LOG
from keystay.observers.events import TokenRenewed
from keystay.token_stores.access_token import AccessToken

if TYPE_CHECKING:
    from keystay.concurrency.clock import Clock
    from keystay.http.io import IO
    from keystay.tokens.events import TokenEvents

__all__ = ["Ask", "InFlight", "TokenCache"]

logger = logging.getLogger("keystay.tokens")

Ask = Callable[["IO", Callable[[], bool]], Awaitable[AccessToken]]
"""Gets a new token; the function says whether there is time to try again."""

_LONGEST_WINDOW = 60.0
# Seconds past its deadline after which a renewal counts as lost; an exchange that is cut and a
# signature that is abandoned are over before. So long do waiters wait for its own error, which says
# more than theirs.
_GRACE = 0.5
# Seconds between failed renewals: doubled each time, half of it left to chance.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
# The longest that a server's Retry-After is obeyed across calls: one may be a slip.
_LONGEST_OBEYED = 600.0
# Local and lasting: with no token left, nobody is spared anything by waiting. But before an
# observer or a policy has its say the key has signed, and the server may have been asked.
_UNPAUSED = (ConfigurationError, SignerClosedError)
_PAUSED = (ObserverError, PolicyError)


class InFlight:
    """One renewal under way.

    Completes with a token, an error, or neither; then one waiter renews.

    Args:
        overdue_at: When its maker counts as gone without a word, by the cache's clock.

    Attributes:
        thread: The thread whose caller renews.
        done: Set when it is over.
        token: What it brought.
        error: What it failed with.
    """

    __slots__ = ("done", "error", "overdue_at", "thread", "token")

    def __init__(self, overdue_at: float) -> None:
        self.overdue_at = overdue_at
        self.thread = get_ident()
        self.done = SharedEvent()
        self.token: AccessToken | None = None
        self.error: Exception | None = None

    def complete(self, token: AccessToken | None, error: Exception | None) -> None:
        """End it, and wake everybody."""
        self.token, self.error = token, error
        self.done.set()


class TokenCache:
    """Keeps a token and has it renewed in time, by one caller.

    Nothing in here waits for a lock that is held for longer than a few instructions, and the lock
    is re-entrant: a signal handler may come between any two of them.

    Args:
        ask: Gets a new token.
        events: Told of renewals.
        window: Share of a token's life, at its end, in which it is renewed: more than 0, less
            than 1. The window is never longer than a minute.
        from_store: Whether a token was got by another process.
        ask_directly: Gets a new token where this thread has interrupted its own renewal, which
            may hold a store's lock.
        clock: Tells when tokens expire.

    Raises:
        ConfigurationError: The window is none, or the whole life.

    Attributes:
        token: The token kept, or None.
        header: Its Authorization header.
        refresh_after: Until then, by the clock, token and header are good without a closer look.
    """

    __slots__ = (
        "__weakref__", "_ask", "_ask_directly", "_error", "_events", "_failures", "_from_store",
        "_in_flight", "_lock", "_not_before", "_now", "_window", "header", "refresh_after",
        "token",
    )  # fmt: skip

    def __init__(
        self,
        ask: Ask,
        events: TokenEvents,
        window: float,
        *,
        from_store: Callable[[AccessToken], bool] | None = None,
        ask_directly: Ask | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._ask, self._ask_directly = ask, ask_directly or ask
        self._events, self._from_store = events, from_store
        self._window = window
        self._now = clock.now
        self.refresh_after = 0.0
        self.header = ""
        self.token: AccessToken | None = None
        self._failures = 0
        self._not_before = 0.0
        self._error: Exception | None = None
        self._in_flight: InFlight | None = None
        self._reset()
        reset_after_fork(self._reset)

    @property
    def is_renewing(self) -> bool:
        """Whether a renewal is under way."""
        return self._in_flight is not None

    async def get(self, io: IO) -> AccessToken:
        """A valid token: the one kept, the one somebody is getting, or a new one.

        Args:
            io: Waits, or gets the new one.

        Raises:
            KeystayError: No token could be had.
        """
        while True:
            found = self._unexpired_or_flight(io)
            if isinstance(found, AccessToken):
                return found
            flight, is_ours = found
            if is_ours:
                return await self.renew(flight, io)
            is_own_thread = io.blocks and flight.thread == get_ident()
            if not is_own_thread:
                left = min(io.deadline.remaining + _GRACE, flight.overdue_at - self._now())
                is_over = await io.wait(flight.done, max(0.0, left))
            if flight.token is not None and not flight.token.expired:
                return flight.token
            if flight.error is not None:
                if (held := self.unexpired()) is not None:  # got by another way meanwhile
                    return held
                raise _own_copy(flight.error)
            if is_own_thread:  # it has interrupted its own renewal, which waits for it to return
                return self.replace(await self._ask_directly(io, _always))
            if is_over or not io.deadline.expired:
                continue  # its maker gave up or is gone: look again, perhaps take over
            raise NetworkTimeoutError(
                f"The renewal under way brought no token within {io.deadline.seconds:g} s.",
                cause="The server or the key is slow.",
                hint="Try again; raise [http] timeout only if they are slow by nature.",
            )

    async def renew(self, flight: InFlight, io: IO) -> AccessToken:
        """Get a new token for everybody.

        Args:
            flight: The renewal, which is this caller's to make.
            io: Does it.

        Raises:
            KeystayError: It failed, and no unexpired token is left.
        """
        token: AccessToken | None = None
        error: Exception | None = None
        try:
            is_urgent = self.unexpired() is None
            if (pause := self._not_before - self._now()) > 0:
                await io.sleep(pause)

            def may_retry() -> bool:
                # While the old token was good one try was enough; it may have ended since.
                return is_urgent or self.unexpired() is None

            token = await self._ask_and_report(io, may_retry)
            return self.replace(token)
        except Exception as caught:
            error = caught
            if (unexpired := self._failed(caught)) is None:
                raise
            return unexpired
        finally:
            # Without either its maker was cancelled or interrupted, and one waiter takes over.
            with self._lock:
                if self._in_flight is flight:
                    self._in_flight = None
            flight.complete(token, error)

    def replace(self, token: AccessToken) -> AccessToken:
        """Keep a new token. The one place where that happens."""
        with self._lock:
            self._failures, self._not_before, self._error = 0, 0.0, None
            self.token, self.header = token, token.authorization
            self.refresh_after = self._renew_at(token)
        return token

    def is_fresh(self, token: AccessToken) -> bool:
        """Whether a token, kept or not, is not to be renewed yet."""
        return self._now() < self._renew_at(token)

    def fresh(self) -> AccessToken | None:
        """The kept token, when it is good without a closer look."""
        return self.token if self._now() < self.refresh_after else None

    def unexpired(self) -> AccessToken | None:
        """The kept token, unless it has expired."""
        token = self.token
        return None if token is None or token.expired else token

    def discard(self, token: AccessToken | None = None) -> None:
        """Forget the kept token; with an argument, only if it is that one."""
        with self._lock:
            if token is None or self.token is token:
                self.refresh_after = 0.0
                self.token, self.header = None, ""

    def _renew_at(self, token: AccessToken) -> float:
        return token.ends_at - min(self._window * token.lifetime, _LONGEST_WINDOW)

    def _unexpired_or_flight(self, io: IO) -> AccessToken | tuple[InFlight, bool]:
        """An unexpired token, or the renewal to wait for, or to make (then True)."""
        with self._lock:
            moment = self._now()
            token = self.unexpired()
            if token is not None and moment < max(self.refresh_after, self._not_before):
                return token
            flight = self._in_flight
            if flight is not None and (
                moment < flight.overdue_at or (io.blocks and flight.thread == get_ident())
            ):
                return token if token is not None else (flight, False)
            pause = self._not_before - moment
            if token is None and self._error is not None and pause > io.deadline.remaining:
                raise _own_copy(self._error, pause)
            self._in_flight = flight = InFlight(moment + io.deadline.remaining + _GRACE)
            if token is not None:
                # The others need not look closer until it should be over.
                self.refresh_after = min(token.ends_at, flight.overdue_at)
            return flight, True

    async def _ask_and_report(self, io: IO, may_retry: Callable[[], bool]) -> AccessToken:
        events, kept, began = self._events, self.token, self._now()
        held = 0.0 if kept is None else kept.expires_in
        try:
            token = await self._ask(io, may_retry)
        except BaseException as error:
            events.renewal_failed(error, held=held, seconds=self._now() - began)
            raise
        watched = events.observers.watched
        is_wanted = TokenRenewed in watched or EVENTS_LOG.isEnabledFor(logging.INFO)
        if is_wanted and token is not kept:
            from_store = self._from_store is not None and self._from_store(token)
            await events.renewed(
                io, token, held=held, from_store=from_store, seconds=self._now() - began
            )
        return token

    def _failed(self, error: Exception) -> AccessToken | None:
        """Put off the next renewal; return the kept token if it is still good."""
        with self._lock:
            token = self.unexpired()
            if token is not None or not isinstance(error, _UNPAUSED) or isinstance(error, _PAUSED):
                self._failures += 1
                asked = getattr(error, "retry_after", None) or 0.0
                pause = backoff(
                    self._failures,
                    first=_FIRST_PAUSE,
                    longest=_LONGEST_PAUSE,
                    retry_after=min(asked, _LONGEST_OBEYED),
                )
                self._error, self._not_before = error, self._now() + pause
            if token is None:
                return None
            self.refresh_after = min(token.ends_at, self._not_before)
        logger.warning(
            "the token is good for %.0f s more and could not be renewed, to be tried in %.0f s: %s",
            token.expires_in,
            max(0.0, self._not_before - self._now()),
            error.message if isinstance(error, KeystayError) else type(error).__name__,
            extra={"event": "renewal-failed"},
        )
        return token

    def _reset(self) -> None:
        """Start without a renewal: at the beginning, and in a forked child.

        There the thread that made the parent's renewal does not exist.
        """
        self._lock = threading.RLock()
        self._in_flight = None


def _always() -> bool:
    return True


def _own_copy(error: Exception, pause: float | None = None) -> Exception:
    """An error to raise once more: each caller gets one of its own, with a traceback of its own."""
    if not isinstance(error, KeystayError):
        return error
    again = copy.copy(error)
    again.__cause__ = error.__cause__
    if pause is not None:
        wait = f"The server is asked again in {pause:.0f} s at the earliest."
        again.hint = f"{error.hint} {wait}" if error.hint else wait
    return again
