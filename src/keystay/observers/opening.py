"""Tells observers that a key was opened, or why it was not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from keystay.errors import KeystayError
from keystay.observers.events import SignerOpened

if TYPE_CHECKING:
    from keystay.custody import Custody
    from keystay.observers.dispatch import Observers

__all__ = ["watch_opening"]


class Opened(Protocol):
    """What is said of a key that was opened."""

    @property
    def kid(self) -> str: ...
    @property
    def key_id(self) -> str: ...
    @property
    def algorithm(self) -> str: ...
    @property
    def custody(self) -> Custody: ...


@contextmanager
def watch_opening(
    observers: Observers, key: str, backend: str
) -> Iterator[Callable[[Opened], None]]:
    """For the block that opens a key; it is given what it calls with the signer.

    Args:
        observers: Whom to tell.
        key: The key URI, redacted.
        backend: Its scheme.
    """
    began = time.monotonic()

    def event(signer: Opened | None, outcome: str = "ok") -> SignerOpened:
        return SignerOpened(
            key=key,
            backend=backend,
            kid=None if signer is None else signer.kid,
            key_id=None if signer is None else signer.key_id,
            algorithm=None if signer is None else signer.algorithm,
            custody=None if signer is None else signer.custody.location,
            evidence=None if signer is None else signer.custody.evidence,
            outcome=outcome,
            duration=round(time.monotonic() - began, 6),
        )

    try:
        yield lambda signer: observers.emit(event(signer))
    except Exception as error:
        observers.emit(event(None, error.code if isinstance(error, KeystayError) else "unexpected"))
        raise
