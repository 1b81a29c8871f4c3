"""A backend's key whose signatures go wrong on their way to keystay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystay.backends.port import BackendSignature, SignRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keystay.backends.port import BackendKey, KeyDescription
    from keystay.concurrency.clock import Deadline

    Tamper = Callable[[BackendKey, SignRequest], BackendSignature]

__all__ = ["TAMPERINGS", "TamperedKey"]


class TamperedKey:
    """Answers for a key, with another signature.

    Args:
        key: The key.
        tamper: Makes the signature.
    """

    def __init__(self, key: BackendKey, tamper: Tamper) -> None:
        self._key, self._tamper = key, tamper

    def describe(self) -> KeyDescription:
        """As the key."""
        return self._key.describe()

    def sign(self, request: SignRequest) -> BackendSignature:
        """What the tampering makes of it."""
        return self._tamper(self._key, request)

    def health(self, deadline: Deadline) -> None:
        """As the key."""
        self._key.health(deadline)

    def close(self) -> None:
        """Nothing: the key belongs to somebody else."""


def _other_message(key: BackendKey, request: SignRequest) -> BackendSignature:
    """Of a device that hashes what was hashed."""
    message = request.digest or b"another message"
    return key.sign(SignRequest(request.algorithm, message, request.deadline))


def _flipped(key: BackendKey, request: SignRequest) -> BackendSignature:
    result = key.sign(request)
    value = bytearray(result.value)
    value[-1] ^= 1
    return result._replace(value=bytes(value))


def _other_encoding(key: BackendKey, request: SignRequest) -> BackendSignature:
    result = key.sign(request)
    return result._replace(encoding="raw" if result.encoding == "der" else "der")


TAMPERINGS: Mapping[str, Tamper] = {
    "a digest hashed again": _other_message,
    "a flipped bit": _flipped,
    "another encoding than declared": _other_encoding,
    "cut short": lambda key, request: _cut(key.sign(request)),
    "empty": lambda key, request: key.sign(request)._replace(value=b""),
    "another key's id": lambda key, request: key.sign(request)._replace(key_id="another key"),
}
"""What can go wrong, by name."""


def _cut(result: BackendSignature) -> BackendSignature:
    return result._replace(value=result.value[:-1])
