"""The one loop that tries again: what, how often, and how long after.

Connections that break, HTTP 429 and 5xx: as often as HTTP errors may. A device or key service that
does not answer as it should: as often as the signer's errors may. A refusal that a wrong clock
explains, and a bare `invalid_client` for what worked today: once. A client's own rate limit: as
soon as there is room. Nothing else: what the server refused it refuses again, and a wrong PIN tried
again locks the token.

Each try has a fresh assertion, so it is safe after a connection that died when the request was
sent: should the server have granted a token nobody received, it expires; a second assertion with
another `jti` is no replay.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

from keystay.concurrency.clock import SYSTEM_CLOCK, backoff
from keystay.concurrency.forks import reset_after_fork
from keystay.config.client import parse_rate
from keystay.errors import (
    BackendTimeoutError,
    BackendUnavailableError,
    DiscoveryError,
    KeystayError,
    NetworkError,
    NetworkTimeoutError,
    RateBudgetError,
    TokenRefusedError,
)
from keystay.http.errors import root

if TYPE_CHECKING:
    from keystay.concurrency.clock import Clock
    from keystay.http.io import IO
    from keystay.signer import Signer
    from keystay.token_stores.access_token import AccessToken
    from keystay.tokens.events import TokenEvents
    from keystay.tokens.request import TokenRequest
    from keystay.tokens.server_clock import ServerClock

__all__ = ["RateLimiter", "Retry", "always"]

logger = logging.getLogger("keystay.tokens")

T = TypeVar("T")

# Seconds before a second try: doubled each time, half of it left to chance.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_BROKEN = ("network-failed", "network-refused")


def always() -> bool:
    """Whether to try again: yes."""
    return True


class Retry:
    """Tries the token requests of one client again where that is right.

    Args:
        request: Makes one request.
        retries: How often after connections that break, HTTP 429 and 5xx: 0 to 20.
        signer_retries: How often after a device or key service that is not there: 0 to 20.
        rate_limit: `"5/60"`: five token requests in any 60 seconds; None for no limit.
        server_clock: Tells whether a wrong clock explains a refusal.
        events: Told of each error that is not raised.
        clock: Measures the rate.
    """

    def __init__(
        self,
        request: TokenRequest,
        *,
        retries: int,
        signer_retries: int,
        rate_limit: str | None = None,
        server_clock: ServerClock,
        events: TokenEvents,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._request = request
        self._http = retries
        self._signer = signer_retries
        self._limiter = None if rate_limit is None else RateLimiter(rate_limit, clock)
        self._server_clock, self._events = server_clock, events

    async def token(
        self,
        io: IO,
        may_retry: Callable[[], bool] = always,
        *,
        scope: str | None = None,
        signer: Signer | None = None,
    ) -> AccessToken:
        """A new token.

        Args:
            io: Does the requests; a pause that would last beyond its deadline is not begun.
            may_retry: Whether to try again at all; asked after each error.
            scope: Instead of the client's.
            signer: Instead of the client's.

        Raises:
            KeystayError: The error that ended the last try.
        """
        ask = partial(self._request.request, io, scope=scope, signer=signer)
        return await self.with_retries(ask, io, may_retry, limiter=self._limiter)

    async def with_retries(
        self,
        ask: Callable[[Callable[[], object]], Awaitable[T]],
        io: IO,
        may_retry: Callable[[], bool] = always,
        *,
        limiter: RateLimiter | None = None,
    ) -> T:
        """What `ask` returns, tried again where that is right.

        Args:
            ask: Makes one try; it is given what to call when its request is about to be sent.
            io: As for `token`.
            may_retry: As for `token`.
            limiter: Limits how many are sent.

        Raises:
            KeystayError: The error that ended the last try.
        """
        left = _Left(self._http, self._signer)
        number = 0
        while True:
            number += 1
            try:
                if limiter is None:
                    return await ask(always)
                with limiter.acquire() as place:
                    return await ask(place.sent)
            except KeystayError as error:
                pause = left.pause_after(error, self._server_clock, may_retry)
                if pause is None or (pause and pause >= io.deadline.remaining):
                    raise
                if pause and not isinstance(error, RateBudgetError):
                    logger.warning(
                        "tried again in %.2f s: %s",
                        pause,
                        error.message,
                        extra={"event": "retry-due"},
                    )
                    self._events.retried(error, number, pause)
            if pause:
                await io.sleep(pause)


class _Left:
    """What one call has left to try."""

    __slots__ = ("_clock", "_doubtful", "_failures", "_left")

    def __init__(self, http: int, signer: int) -> None:
        self._left = {"http": http, "signer": signer}
        self._failures = {"http": 0, "signer": 0}
        self._clock = self._doubtful = 1

    def pause_after(
        self, error: KeystayError, clock: ServerClock, may_retry: Callable[[], bool]
    ) -> float | None:
        """Seconds until the next try: 0.0 for at once, None when the error is final."""
        if self._clock and _is_the_clock(error, clock):
            self._clock = 0
            return 0.0
        if isinstance(error, RateBudgetError):
            return error.retry_after if may_retry() else None
        if self._doubtful and _is_doubtful(error) and may_retry():
            self._doubtful = 0
            return backoff(1, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE)
        kind = _kind(error)
        if kind is None or not self._left[kind] or not may_retry():
            return None
        self._left[kind] -= 1
        self._failures[kind] += 1
        return backoff(
            self._failures[kind],
            first=_FIRST_PAUSE,
            longest=_LONGEST_PAUSE,
            retry_after=getattr(error, "retry_after", None),
        )


def _is_the_clock(error: KeystayError, clock: ServerClock) -> bool:
    """Whether a refusal tells that its assertion was stamped by a wrong clock."""
    if not isinstance(error, TokenRefusedError) or error.status == 429 or error.status >= 500:
        return False
    return clock.matters(clock.correction - error.correction)


def _is_doubtful(error: KeystayError) -> bool:
    """Whether a refusal says nothing, and this client, key and endpoint worked today.

    Epic answers so now and then, and grants the next request.
    """
    return (
        isinstance(error, TokenRefusedError)
        and error.worked_today
        and error.error == "invalid_client"
        and not error.error_description
        and not error.error_uri
    )


def _kind(error: KeystayError) -> Literal["http", "signer"] | None:
    """Which tries an error draws on; None for what is never tried again."""
    if isinstance(error, BackendUnavailableError):
        return None if isinstance(error, BackendTimeoutError) else "signer"
    if isinstance(error, TokenRefusedError | DiscoveryError):
        status = error.status or 0
        return "http" if status == 429 or status >= 500 else None
    if isinstance(error, NetworkError) and not isinstance(error, NetworkTimeoutError):
        return "http" if error.code in _BROKEN or _name_server_is_down(error) else None
    return None


def _name_server_is_down(error: NetworkError) -> bool:
    found = root(error)
    return isinstance(found, socket.gaierror) and found.errno == socket.EAI_AGAIN


class RateLimiter:
    """So many token requests in any span of so many seconds, retries included.

    It counts what this process sends; processes that share a client id share the server's limit.
    athenahealth allows 5 in a minute.

    Args:
        rate: `"5/60"`: five requests in any 60 seconds.
        clock: Measures the span.

    Raises:
        ConfigurationError: It is not such a text.
    """

    def __init__(self, rate: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._count, self._seconds = parse_rate(rate)
        self._now = clock.now
        self._sent: deque[float] = deque()
        self._reset()
        reset_after_fork(self._reset)

    def acquire(self) -> _Place:
        """A place for one request, for a block in which it is made and sent.

        Raises:
            RateBudgetError: There is none now; `retry_after` says in how many seconds.
        """
        with self._lock:
            moment = self._now()
            while self._sent and self._sent[0] + self._seconds <= moment:
                self._sent.popleft()
            if len(self._sent) + len(self._places) >= self._count:
                # A place that is only held is free so long after its request is sent.
                wait = (self._sent[0] if self._sent else moment) + self._seconds - moment
                raise self._exhausted(wait)
            place = _Place(self)
            self._places.add(place)
            return place

    def release(self, place: _Place, *, sent: bool) -> None:
        """Count a place's request as sent now, or give the place back."""
        with self._lock:
            if place in self._places:
                self._places.remove(place)
                if sent:
                    self._sent.append(self._now())

    def _reset(self) -> None:
        """At the beginning, and in a forked child: what others make ready there is the parent's."""
        self._lock = threading.RLock()
        self._places: set[_Place] = set()  # held, for requests not yet sent

    def _exhausted(self, wait: float) -> RateBudgetError:
        return RateBudgetError(
            f"The budget of {self._count} token requests in {self._seconds:g} s is spent; "
            f"the next can be sent in {wait:.0f} s.",
            retry_after=wait,
            cause="rate_limit is reached: tokens were asked for more often than needed, or "
            "failed requests were repeated.",
            hint="Wait. Share one TokenClient: it keeps a token until shortly before it expires.",
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """A place under the limit: free again after the block, unless its request was sent."""

    limiter: RateLimiter

    def sent(self) -> None:
        """Count it."""
        self.limiter.release(self, sent=True)

    def __enter__(self) -> _Place:
        return self

    def __exit__(self, *exception: object) -> None:
        self.limiter.release(self, sent=False)
