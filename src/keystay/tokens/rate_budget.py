"""A client's own limit on token requests, below the server's (athenahealth: 5 in a minute)."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from keystay.concurrency.clock import now
from keystay.concurrency.forks import reset_after_fork
from keystay.config.limits import parse_rate
from keystay.errors import RateBudgetError
from keystay.tokens.actions import Pause

if TYPE_CHECKING:
    from keystay.concurrency import Deadline
    from keystay.tokens.actions import Flow

__all__ = ["RateBudget"]


class RateBudget:
    """So many token requests in any span of so many seconds, retries included.

    It counts what this process sends; processes that share a client id share the server's limit.

    Args:
        rate: `"5/60"`: five requests in any 60 seconds; None for no limit.

    Raises:
        ConfigurationError: It is not such a text.
    """

    def __init__(self, rate: str | None) -> None:
        self._count, self._seconds = (0, 0.0) if rate is None else parse_rate(rate)
        self._sent: deque[float] = deque()
        self.remake_locks()
        reset_after_fork(self.remake_locks)

    def admit(
        self, deadline: Deadline, *, is_patient: Callable[[], bool]
    ) -> Flow[AbstractContextManager[None]]:
        """Hold a place for one request, as soon as there is room for it.

        Args:
            deadline: A wait that would last longer is not begun.
            is_patient: Whether to wait at all; asked when there is no room.

        Returns:
            A block in which the request is made ready. It counts as sent when that ends; if it
            fails, nothing was sent and the place is free again.

        Raises:
            RateBudgetError: There is no room in time.
        """
        if not self._count:
            return nullcontext()
        place = object()
        while (wait := self._take(place)) > 0:
            if not is_patient() or wait >= deadline.remaining:
                raise RateBudgetError(
                    f"The budget of {self._count} token requests in {self._seconds:g} s is spent; "
                    f"the next can be sent in {wait:.0f} s.",
                    retry_after=wait,
                    cause="rate_limit is reached: tokens were asked for more often than needed, or "
                    "failed requests were repeated.",
                    hint="Wait. Share one TokenClient: it keeps a token until shortly before it "
                    "expires.",
                )
            yield Pause(wait)
        return self._held(place)

    def remake_locks(self) -> None:
        """At the beginning, and in a forked child: what others make ready there is the parent's."""
        self._lock = threading.RLock()
        self._places: set[object] = set()  # held, for requests not yet sent

    def _take(self, place: object) -> float:
        """Take a place out of the budget and return 0.0, or the seconds until there is one."""
        with self._lock:
            moment = now()
            while self._sent and self._sent[0] + self._seconds <= moment:
                self._sent.popleft()
            if len(self._sent) + len(self._places) >= self._count:
                # A place that is only held is free so long after its request is sent.
                return (self._sent[0] if self._sent else moment) + self._seconds - moment
            self._places.add(place)
            return 0.0

    @contextmanager
    def _held(self, place: object) -> Iterator[None]:
        sent = False
        try:
            yield
            sent = True
        finally:
            with self._lock:
                self._places.discard(place)
                if sent:
                    self._sent.append(now())
