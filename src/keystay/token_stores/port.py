"""The port of token stores: where processes that use the same client share its token.

A store keeps tokens for a while and says who may renew one; it never decides when.
`keystay.tokens.sharing` is what uses it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from keystay.token_stores.access_token import AccessToken

__all__ = ["Claim", "TokenOwner", "TokenStore"]


class TokenOwner(msgspec.Struct, frozen=True, kw_only=True):
    """Whose a token is, and what for: no other's is ever handed out in its place.

    Attributes:
        client_id: The client.
        fhir_base_url: At which server.
        token_endpoint: The one configured, or "" when it is discovered.
        scope: The scope asked for.
    """

    client_id: str
    fhir_base_url: str
    token_endpoint: str
    scope: str

    @property
    def digest(self) -> str:
        """32 hexadecimal digits that tell owners apart, for names of files and the like."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:32]


class Claim(Protocol):
    """The right to renew."""

    def release(self) -> None:
        """Give it up; at once, and whatever happens."""


class TokenStore(Protocol):
    """What a store does. Safe for threads and processes.

    Its own failures are warnings, not errors: without a store each process has its own token.
    """

    def load(self, owner: TokenOwner) -> AccessToken | None:
        """The owner's token, if there is one, it is beyond doubt the owner's, and it lives."""

    def save(self, owner: TokenOwner, token: AccessToken) -> None:
        """Keep a token, unless the one kept was asked for later."""

    def claim(self, owner: TokenOwner, seconds: float) -> Claim | None:
        """The right to renew the owner's token; None when another has it. Does not wait.

        Args:
            owner: Whose token.
            seconds: After so many a claim that was not released is void: its holder hangs.
        """

    def discard(self, owner: TokenOwner, token: AccessToken) -> None:
        """Drop this token, and never another. Does not wait."""
