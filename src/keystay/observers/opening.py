"""Tells observers that a key was opened, or why it was not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from keystay.errors import KeystayError
from keystay.observers.events import SignerOpened

if TYPE_CHECKING:
    from keystay.observers.dispatch import Observers
    from keystay.signer import Signer

__all__ = ["watch_opening"]


@contextmanager
def watch_opening(
    observers: Observers, key: str, backend: str
) -> Iterator[Callable[[Signer], None]]:
    """For the block that opens a key; it is given what it calls with the signer.

    Args:
        observers: Whom to tell.
        key: The key URI, redacted.
        backend: Its scheme.
    """
    began = time.monotonic()

    def emit(outcome: str, **known: Any) -> None:
        duration = round(time.monotonic() - began, 6)
        observers.emit(
            SignerOpened(key=key, backend=backend, outcome=outcome, duration=duration, **known)
        )

    def opened(signer: Signer) -> None:
        emit(
            "ok",
            kid=signer.kid,
            key_id=signer.key_id,
            algorithm=signer.algorithm,
            custody=signer.custody.location,
            evidence=signer.custody.evidence,
        )

    try:
        yield opened
    except Exception as error:
        emit(error.code if isinstance(error, KeystayError) else "unexpected")
        raise
