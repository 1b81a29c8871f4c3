"""The server's clock, as its Date headers tell it, and what to do when ours disagrees.

An assertion lives minutes: a clock that is minutes wrong has every one refused. What is kept is
the server's time against a clock that nobody sets, so a step of this machine's wall clock shows at
once, without an answer in between.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from keystay.assertion import MAX_LIFETIME
from keystay.concurrency.clock import SYSTEM_CLOCK

if TYPE_CHECKING:
    from keystay.concurrency.clock import Clock
    from keystay.http.messages import HttpResponse

__all__ = ["ServerClock"]

logger = logging.getLogger("keystay.tokens")

# Assertions live minutes; a smaller difference between the clocks does no harm.
_TOLERANCE = 30.0
# Date has whole seconds and is read a moment later: less than that is no difference.
_RESOLUTION = 2.0
# A wrong time zone is a slip; a wrong year is a fault that somebody has to see.
_MOST_CORRECTED = 86400.0
# Seconds after which an answer says nothing any more: both clocks have drifted.
_FRESH = 86400.0


def _ignore(*told: object) -> None:
    """Tells no one."""


class _Reading(NamedTuple):
    at: float
    server: float
    is_first_hand: bool


class ServerClock:
    """Learns how far apart the clocks are, reports it, and corrects for it.

    Args:
        lifetime: Seconds an assertion lives, which decides how much of a difference matters.
        corrects: Whether assertions are stamped by the server's clock when it matters.
        tell: Told the offset when it begins or ceases to matter, and whether it is corrected for.
        clock: This machine's.
    """

    def __init__(
        self,
        *,
        lifetime: int,
        corrects: bool,
        tell: Callable[[float, bool], object] = _ignore,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._clock = clock
        self._corrects, self._tell = corrects, tell
        # The server refuses an exp that is past, and one that is more than MAX_LIFETIME ahead.
        room = min(_TOLERANCE, MAX_LIFETIME - lifetime, lifetime / 2)
        self._tolerance = max(_RESOLUTION, room)
        self._reading: _Reading | None = None
        self._is_reported = False

    @property
    def offset(self) -> float | None:
        """Seconds the server's clock is ahead of this machine's, or None when nobody has said."""
        reading = self._reading
        if reading is None or (age := self._clock.now() - reading.at) > _FRESH:
            return None
        return reading.server + age - self._clock.time()

    @property
    def correction(self) -> float:
        """Seconds added to this machine's time: 0.0 while the difference does not matter."""
        offset = self.offset
        if not self._corrects or not self.matters(offset) or abs(offset or 0.0) > _MOST_CORRECTED:
            return 0.0
        return offset or 0.0

    def time(self) -> float:
        """The Unix time to stamp assertions with, in seconds."""
        return self._clock.time() + self.correction

    def matters(self, difference: float | None) -> bool:
        """Whether assertions would be refused for such a difference."""
        return difference is not None and abs(difference) > self._tolerance

    def learn(self, response: HttpResponse, *, is_first_hand: bool) -> None:
        """Read an answer's Date header.

        Args:
            response: Any answer, refusals included.
            is_first_hand: Whether the token endpoint sent it, whose clock it is that counts. The
                FHIR server's is believed until then.
        """
        moment = response.server_time
        known = self._reading
        if moment is None or (known and known.is_first_hand and not is_first_hand):
            return
        self._reading = _Reading(self._clock.now(), moment, is_first_hand)
        offset = moment - self._clock.time()
        if (matters := self.matters(offset)) != self._is_reported:
            self._is_reported = matters
            self._report(offset, matters)
            self._tell(offset, self.correction != 0.0)

    def _report(self, offset: float, matters: bool) -> None:
        if not matters:
            logger.info(
                "this machine's clock and the server's agree again", extra={"event": "clock-agrees"}
            )
            return
        if not self._corrects:
            remedy = 'assertions may be refused: set the clock, or clock_correction = "on"'
        elif abs(offset) > _MOST_CORRECTED:
            remedy = "that is more than is corrected for, assertions may be refused: set the clock"
        else:
            remedy = "assertions are stamped by the server's: set the clock (chrony, ntpd)"
        side = "behind" if offset > 0 else "ahead of"
        logger.warning(
            "this machine's clock is %.0f s %s the server's; %s",
            abs(offset),
            side,
            remedy,
            extra={"event": "clock-differs"},
        )
