"""Tells observers of each signature of one key."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from keystay.errors import KeystayError
from keystay.observers.dispatch import Observers
from keystay.observers.events import AssertionSigned, MessageSigned

if TYPE_CHECKING:
    from keystay.backends.port import KeyDescription

__all__ = ["About", "SignatureWitness", "Signed", "Stamp"]

About = Callable[[bytes], dict[str, Any]]
"""Says of a message what an `AssertionSigned` tells: `client_id`, `aud` and `jti`."""

Signed = tuple[bytes, bytes, str | None]
"""A message, its signature, and the backend's id of the request."""

Stamp = Callable[[], bytes]
"""Makes a message."""


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

    def watch(
        self,
        sign: Callable[[Stamp | None], Signed],
        stamp: Stamp | None,
        algorithm: str,
        about: About | None,
    ) -> Signed:
        """What `sign` returns or raises, told to the observers first.

        Args:
            sign: Signs what the function it is given returns.
            stamp: That function; None where `sign` has a digest.
            algorithm: The JWS algorithm.
            about: Says what the message is; None for what is no assertion.

        Raises:
            ObserverError: A required observer failed: the signature is not to be used.
        """
        stamped: list[bytes] = []

        def remembered() -> bytes:
            assert stamp is not None
            stamped.append(stamp())
            return stamped[-1]

        began, request_id, outcome = time.monotonic(), None, "ok"
        try:
            signed = sign(None if stamp is None else remembered)
            request_id = signed[2]
            return signed
        except BaseException as error:
            outcome = error.code if isinstance(error, KeystayError) else type(error).__name__
            raise
        finally:
            facts = dict(self._facts, algorithm=algorithm, request_id=request_id, outcome=outcome)
            facts["duration"] = round(time.monotonic() - began, 6)
            if about is None:
                self.observers.emit(MessageSigned(**facts))
            elif stamped:
                self.observers.emit(AssertionSigned(**facts, **about(stamped[-1])))
            elif stamp is not None:  # it came to no assertion: none has this jti
                self.observers.emit(AssertionSigned(**facts, **(about(stamp()) | {"jti": None})))
