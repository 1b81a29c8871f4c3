"""Tells observers of each signature of one key."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from keystay.errors import KeystayError
from keystay.observers.dispatch import Observers
from keystay.observers.events import AssertionSigned, MessageSigned

if TYPE_CHECKING:
    from keystay.backends.port import KeyDescription

__all__ = ["About", "SignatureWitness", "Signed"]

About = Callable[[bytes | None], Mapping[str, Any]]
"""Says what a message is, for an `AssertionSigned`: `client_id`, `aud` and `jti`. It is given None
where it came to no message."""


class Signed(NamedTuple):
    """A message, its signature, and the backend's id of the request."""

    message: bytes
    signature: bytes
    request_id: str | None


class SignatureWitness:
    """Sees every signature of one key.

    Args:
        observers: Whom to tell.
        description: The key.
        backend: Scheme of its URI, or "".
        kid: Its key id in headers.
    """

    def __init__(
        self, observers: Observers, description: KeyDescription, *, backend: str, kid: str
    ) -> None:
        self.observers = observers
        self._facts: dict[str, Any] = {
            "backend": backend,
            "kid": kid,
            "key_id": description.key_id,
            "custody": description.custody.location,
        }

    def watch(self, sign: Callable[[], Signed], algorithm: str, about: About | None) -> Signed:
        """What `sign` returns or raises, told to the observers first.

        Raises:
            ObserverError: A required observer failed: the signature is not to be used.
        """
        kind = MessageSigned if about is None else AssertionSigned
        if not self.observers.wants(kind):
            return sign()
        began, signed, outcome = time.monotonic(), None, "ok"
        try:
            signed = sign()
        except KeystayError as error:
            outcome = error.code
            raise
        except BaseException as error:
            outcome = type(error).__name__
            raise
        finally:
            self.observers.emit(
                kind(
                    **self._facts,
                    **({} if about is None else about(None if signed is None else signed.message)),
                    algorithm=algorithm,
                    request_id=None if signed is None else signed.request_id,
                    outcome=outcome,
                    duration=round(time.monotonic() - began, 6),
                )
            )
        return signed
