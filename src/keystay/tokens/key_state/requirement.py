"""`require_published`: no signature by a key that the server could not find."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystay.concurrency.clock import SYSTEM_CLOCK
from keystay.errors import ConfigurationError, KeyUnusableError
from keystay.jwk import public_jwk
from keystay.tokens.key_state.publication import Publication, fetch_publication

if TYPE_CHECKING:
    from keystay.concurrency.clock import Clock
    from keystay.http.io import IO
    from keystay.signer import Signer
    from keystay.tokens.key_state.client_keys import ClientKeys

__all__ = ["PublicationRequirement"]

LONGEST_TRUST = 60.0
"""Seconds that a look at the JWKS URL counts at most; less when its Cache-Control says less."""


class PublicationRequirement:
    """Looks at the JWKS URL before a key signs.

    Args:
        url: The JWKS URL.
        allow_insecure_loopback: Allow plain HTTP to this machine.
        clock: Measures how long a look counts.
    """

    def __init__(
        self, url: str, *, allow_insecure_loopback: bool, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._url, self._insecure, self._now = url, allow_insecure_loopback, clock.now
        self._seen: tuple[float, Publication] | None = None

    @classmethod
    def of(cls, keys: ClientKeys) -> PublicationRequirement | None:
        """What the policy requires of a client; None when it does not.

        Raises:
            ConfigurationError: It does, and the client has no `jwks_url`.
        """
        if not keys.config.policy_of(keys.client).require_published:
            return None
        if keys.client.jwks_url is None:
            raise ConfigurationError(
                "The policy requires published keys, and the client has no jwks_url.",
                cause="Where to look is not known. Keys that are registered inline are published "
                "nowhere.",
                hint='Set jwks_url = "https://…", or require_published = false.',
                code="rotation-url-missing",
            )
        return cls(
            keys.client.jwks_url, allow_insecure_loopback=keys.client.allow_insecure_loopback
        )

    async def check(self, signer: Signer, io: IO) -> None:
        """Return if the signer's key is published.

        Raises:
            KeyUnusableError: It is not.
            NetworkError, JWKError: That cannot be told.
        """
        jwk = public_jwk(signer.public_key, kid=signer.kid, algorithm=signer.algorithm)
        seen = self._seen
        if seen is not None and self._now() < seen[0] and seen[1].holds(jwk):
            return
        asked = self._now()
        found = await fetch_publication(io, self._url, allow_insecure_loopback=self._insecure)
        trusted = LONGEST_TRUST if found.max_age is None else min(found.max_age, LONGEST_TRUST)
        self._seen = (asked + trusted, found)
        if not found.holds(jwk):
            raise KeyUnusableError(
                f"The key {signer.kid} is not published at {self._url}; it was not used.",
                cause="The set was not published again since this key became the current one, or "
                "an older one is served.",
                hint="Publish it (keystay jwks CLIENT --out FILE, or keystay jwks serve); keystay "
                f"jwks check {self._url} compares.",
                code="key-not-published",
            )
