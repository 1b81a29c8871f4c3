"""What the flows of this package ask their shells to do, and the type of such a flow."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from keystay.http.messages import HttpRequest

if TYPE_CHECKING:
    from keystay.assertion import ClientAssertion
    from keystay.tokens.attempt import Attempt

__all__ = ["Action", "BuildAssertion", "Call", "Flow", "Pause", "Wait"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BuildAssertion:
    """Asks for a fresh assertion, and the backend's id of the request that signed it."""

    assertion: ClientAssertion
    audience: str


@dataclass(frozen=True, slots=True)
class Call:
    """Asks to call what may take a moment: a key's opening, a file's reading, an observer.

    Attributes:
        function: What to call.
        is_left: Whether a cancelled caller leaves it to itself. Otherwise it is seen to its end,
            for it may have taken a lock.
    """

    function: Callable[[], object]
    is_left: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """Asks to let some seconds pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Asks to wait until an attempt is over, some seconds at most."""

    attempt: Attempt
    seconds: float


Action = HttpRequest | BuildAssertion | Call | Pause | Wait
Flow = Generator[Action, Any, T]
