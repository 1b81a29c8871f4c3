"""What the flows of this package ask their shells to do, and the type of such a flow."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from keystay.smart.messages import HttpRequest

if TYPE_CHECKING:
    from keystay.assertion import ClientAssertion
    from keystay.tokens.attempt import Attempt

__all__ = ["Action", "BuildAssertion", "Call", "Flow", "Pause", "Wait"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BuildAssertion:
    """Asks for a fresh assertion."""

    assertion: ClientAssertion
    audience: str


@dataclass(frozen=True, slots=True)
class Call:
    """Asks to call something that blocks, such as opening a key."""

    function: Callable[[], object]


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
