"""States and published sets for the tests of this folder; the keys are real, nobody signs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from keystay.jwk import JWKSet, public_jwk
from keystay.tokens.key_state.publication import Publication
from keystay.tokens.key_state.state import RotationKey, RotationState

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
URL = "https://keys.example.org/jwks.json"
JWKS: list[dict[str, Any]] = [
    public_jwk(ec.generate_private_key(ec.SECP384R1()).public_key(), algorithm="ES384")
    for _ in range(3)
]


def after(seconds: float) -> datetime:
    """So many seconds past the beginning of the tests' time."""
    return NOW + timedelta(seconds=seconds)


def key(number: int, state: Any, **more: Any) -> RotationKey:
    """One of the three keys."""
    return RotationKey(
        state=state, since=NOW, uri=f"file:{number}.pem", kid=JWKS[number]["kid"],
        algorithm="ES384", jwk=JWKS[number], **more,
    )  # fmt: skip


def state(*keys: RotationKey) -> RotationState:
    """A state of the client `etl`."""
    return RotationState(client="etl", configured_key="file:0.pem", keys=keys)


def published(*numbers: int, max_age: int | None = 60, url: str = URL) -> Publication:
    """What a URL publishes."""
    return Publication(url, JWKSet(tuple(JWKS[number] for number in numbers)), max_age)
