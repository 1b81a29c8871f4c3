"""A client's keys and where each stands in its life: what the state file holds."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

import msgspec

from keystay import key_uri
from keystay.errors import JWKError, KeystayError
from keystay.jwk import JWKSet, thumbprint

__all__ = ["PUBLISHED", "VERSION", "KeyState", "RotationKey", "RotationState", "check"]

VERSION = 1
"""Of the state file's format."""

KeyState = Literal["next", "current", "retiring", "retired"]

PUBLISHED: tuple[KeyState, ...] = ("current", "next", "retiring")
"""States whose keys are in the JWK Set, in its order."""

_LONGEST_HISTORY = 10


class RotationKey(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """One key. Nothing here is secret: a key URI only refers to secrets.

    Attributes:
        state: Where it is in its life.
        since: When it came there.
        uri: Key URI; relative paths start at keystay.toml's folder.
        kid: Key id; None while the key is still to be made.
        algorithm: JWS algorithm it signs with; as asked for, while the key is still to be made.
        jwk: The public key as published, so that publishing needs no backend; None likewise.
        key_type: What is to be generated; None once it is there.
        created: When keystay had the key made; None for a key that was there already.
        asked: The URI as `keystay rotate start` was given it, where a backend made it another.
        seen: When the successor was first seen at the JWKS URL, and has been ever since.
        seen_at: The URL.
        cache_seconds: How long servers may go on using the set from before the successor.
        cache_from: Where that comes from, in words.
        drain_seconds: Of a retiring key: how long it stays published at least.
        aborted: Whether it is leaving because its rotation was aborted.
    """

    state: KeyState
    since: datetime
    uri: str
    kid: str | None = None
    algorithm: str | None = None
    jwk: dict[str, object] | None = None
    key_type: str | None = None
    created: datetime | None = None
    asked: str | None = None
    seen: datetime | None = None
    seen_at: str | None = None
    cache_seconds: int | None = None
    cache_from: str | None = None
    drain_seconds: int = 0
    aborted: bool = False

    @property
    def made(self) -> bool:
        """Whether the key exists and its public key is known."""
        return self.jwk is not None


class RotationState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys of one client.

    Attributes:
        keystay_rotation: The format's version.
        client: The client's name.
        configured_key: `key` in keystay.toml when this was written: if it is edited later,
            somebody has to say which of the two counts.
        keys: Exactly one is current; the retired ones come last, the newest first.
    """

    keystay_rotation: int = VERSION
    client: str
    configured_key: str
    keys: tuple[RotationKey, ...]

    def of(self, state: KeyState) -> RotationKey | None:
        """The key in a state; of the retired ones, the newest."""
        return next((key for key in self.keys if key.state == state), None)

    @property
    def current(self) -> RotationKey:
        """The key that signs."""
        found = self.of("current")
        assert found is not None
        return found

    def published(self) -> JWKSet:
        """The set to publish: current, successor, and what is still draining."""
        found = (self.of(state) for state in PUBLISHED)
        return JWKSet(tuple(key.jwk for key in found if key is not None and key.jwk is not None))

    def publishes(self, kid: str) -> bool:
        """Whether a key belongs into the set."""
        return any(key.kid == kid and key.state in PUBLISHED for key in self.keys)

    def with_keys(self, *keys: RotationKey | None) -> RotationState:
        """The same with these keys before the retired ones; a long history is cut."""
        given = [key for key in keys if key is not None]
        retired = [k for k in given if k.state == "retired"]
        retired += [k for k in self.keys if k.state == "retired"]
        return msgspec.structs.replace(
            self,
            keys=(*(k for k in given if k.state != "retired"), *retired[:_LONGEST_HISTORY]),
        )


def check(state: RotationState) -> None:
    """Raise what is wrong with a state that somebody may have edited.

    Raises:
        KeystayError: What must hold does not.
    """
    for name, least in (("current", 1), ("next", 0), ("retiring", 0)):
        count = sum(key.state == name for key in state.keys)
        if not least <= count <= 1:
            raise KeystayError(f"{count} keys are {name}.")
    for key in state.keys:
        key_uri.parse(key.uri)
        for name in ("since", "created", "seen"):
            if (moment := getattr(key, name)) is not None and moment.tzinfo is None:
                raise KeystayError(f"{name} of the {key.state} key has no time zone.")
        if key.jwk is None:
            if key.state not in ("next", "retired"):
                raise KeystayError(f"The {key.state} key has no jwk.")
        else:
            _check_jwk(key, key.jwk)
    state.published()


def _check_jwk(key: RotationKey, jwk: Mapping[str, object]) -> None:
    JWKSet((jwk,))
    thumbprint(jwk)
    if jwk["kid"] != key.kid:
        raise JWKError(f"The {key.state} key's kid is not its jwk's.")
