"""What is tried again, how often, and how long after.

Connections that break, HTTP 429 and 5xx: as often as HTTP errors may. A device or key service that
does not answer as it should: as often as the signer's errors may. Nothing else: what the server
refused it refuses again, and a wrong PIN tried again locks the token.

Each try has a fresh assertion, so it is safe after a connection that died when the request was
sent: should the server have granted a token nobody received, it expires; a second assertion with
another `jti` is no replay.
"""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from keystay.config.limits import require_tries
from keystay.errors import (
    BackendTimeoutError,
    BackendUnavailableError,
    DiscoveryError,
    KeystayError,
    NetworkError,
    NetworkTimeoutError,
    TokenRefusedError,
)
from keystay.http.errors import root
from keystay.tokens.actions import Pause

if TYPE_CHECKING:
    from keystay.concurrency import Deadline
    from keystay.tokens.actions import Flow

__all__ = ["DEFAULT_RETRIES", "DEFAULT_SIGNER_RETRIES", "RetryBudgets", "persistent"]

logger = logging.getLogger("keystay.tokens")

T = TypeVar("T")

DEFAULT_RETRIES = 3
DEFAULT_SIGNER_RETRIES = 1

# Seconds before a second try: doubled each time, half of it left to chance.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
# Beyond what Retry-After asks for, so that not everybody comes at once.
_SPREAD = 0.25
_BROKEN = ("network-failed", "network-refused")


@dataclass(frozen=True, slots=True)
class RetryBudgets:
    """How often one call tries again after errors of each kind.

    Attributes:
        http: After connections that break, HTTP 429 and 5xx.
        signer: After a device or key service that is not there.

    Raises:
        ConfigurationError: One is not a whole number from 0 to 20.
    """

    http: int = DEFAULT_RETRIES
    signer: int = DEFAULT_SIGNER_RETRIES

    def __post_init__(self) -> None:
        require_tries(self.http, "retries")
        require_tries(self.signer, "signer_retries")


def _to_nobody(*told: object) -> None:
    """Tells nobody."""


def _always() -> bool:
    return True


def persistent(
    attempt: Callable[[], Flow[T]],
    budgets: RetryBudgets,
    deadline: Deadline,
    tell: Callable[[KeystayError, int, float], object] = _to_nobody,
    *,
    is_patient: Callable[[], bool] = _always,
) -> Flow[T]:
    """What an attempt returns, tried again where that is right, all by one deadline.

    Args:
        attempt: Makes the flow of one try.
        budgets: How often.
        deadline: A pause that would last longer is not begun: the error is raised at once.
        tell: Told of each error that is not raised, which attempt it ended, and the pause.
        is_patient: Whether to try again at all; asked after each error.
    """
    number = 0
    left = {"http": budgets.http, "signer": budgets.signer}
    while True:
        number += 1
        try:
            return (yield from attempt())
        except KeystayError as error:
            kind = _kind(error)
            if kind is None or left[kind] == 0 or not is_patient():
                raise
            left[kind] -= 1
            done = (budgets.http if kind == "http" else budgets.signer) - left[kind]
            pause = _pause(done, getattr(error, "retry_after", None))
            if pause >= deadline.remaining:
                raise
            logger.warning(
                "tried again in %.2f s: %s", pause, error.message, extra={"event": "retry-due"}
            )
            tell(error, number, pause)
        yield Pause(pause)


def _kind(error: KeystayError) -> Literal["http", "signer"] | None:
    """Whose budget an error draws on; None for what is never tried again."""
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


def _pause(done: int, asked: float | None) -> float:
    pause: float = min(_FIRST_PAUSE * 2 ** (done - 1), _LONGEST_PAUSE)
    pause *= random.uniform(0.5, 1.0)  # noqa: S311 (jitter, no secret)
    if asked is not None:
        pause = max(pause, asked + random.uniform(0.0, min(_SPREAD, asked)))  # noqa: S311
    return pause
