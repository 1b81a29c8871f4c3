"""A client's own limit on token requests, below the server's (athenahealth: 5 in a minute)."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from keystay.config.limits import parse_rate
from keystay.errors import RateBudgetError
from keystay.forks import remake_in_children
from keystay.tokens.actions import Pause
from keystay.tokens.clock import now

if TYPE_CHECKING:
    from keystay.backends.port import Deadline
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
        self._sent: deque[float] = deque(maxlen=self._count)
        self.remake_locks()
        remake_in_children(self)

    def admit(self, deadline: Deadline, *, patient: bool) -> Flow[None]:
        """Count one request, as soon as there is room for it.

        Args:
            deadline: A wait that would last longer is not begun.
            patient: Whether to wait at all.

        Raises:
            RateBudgetError: There is no room in time.
        """
        while (wait := self._take()) > 0:
            if not patient or wait >= deadline.remaining:
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

    def remake_locks(self) -> None:
        """At the beginning, and in a forked child."""
        self._lock = threading.RLock()

    def _take(self) -> float:
        """Take one request out of the budget and return 0.0, or the seconds until there is one."""
        with self._lock:
            moment = now()
            if self._count and len(self._sent) == self._count:
                wait = self._sent[0] + self._seconds - moment
                if wait > 0:
                    return wait
            self._sent.append(moment)
            return 0.0
