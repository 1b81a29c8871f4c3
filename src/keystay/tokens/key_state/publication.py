"""What a JWKS URL says: which keys are published there, and for how long that may be kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystay.errors import JWKError, KeystayError, NetworkError
from keystay.http.messages import HttpRequest
from keystay.jwk import JWKSet, thumbprint
from keystay.smart.urls import require_secure

if TYPE_CHECKING:
    from keystay.http.io import IO

__all__ = ["Publication", "fetch_publication", "is_same_key"]


@dataclass(frozen=True, slots=True)
class Publication:
    """A published set, as it was seen.

    Attributes:
        url: Where.
        keys: The set.
        max_age: Seconds that its headers let anybody on the way keep it; None if they do not say.
    """

    url: str
    keys: JWKSet
    max_age: int | None

    def holds(self, jwk: Mapping[str, object]) -> bool:
        """Whether this very key is there under its kid, to verify what `jwk` says it signs."""
        return self.fault(jwk) is None

    def fault(self, jwk: Mapping[str, object]) -> str | None:
        """Why a key is not there as it should be, in words; None if it is.

        A server may refuse what a JWK's own `alg`, `use` or `key_ops` does not allow (RFC 7517 §4).
        """
        published = self.find(str(jwk.get("kid")))
        if published is None:
            return "not published"
        if not is_same_key(published, jwk):
            return "another key is published under this kid"
        if (alg := published.get("alg")) not in (None, jwk.get("alg")):
            return f"published for {alg}, and signs {jwk.get('alg')}"
        if published.get("use") not in (None, "sig"):
            return f"published for use {published.get('use')!r}, not 'sig'"
        operations = published.get("key_ops")
        if isinstance(operations, list | tuple) and "verify" not in operations:
            return "published with key_ops that lack 'verify'"
        return None

    def find(self, kid: str) -> Mapping[str, object] | None:
        """The key published under a kid, or None."""
        return next((key for key in self.keys if key["kid"] == kid), None)


async def fetch_publication(
    io: IO, url: str, *, allow_insecure_loopback: bool = False
) -> Publication:
    """Ask a JWKS URL for the set, past every cache that can be told so.

    Args:
        io: Sends the request.
        url: The JWKS URL.
        allow_insecure_loopback: Allow plain HTTP to this machine.

    Raises:
        NetworkError: No set came back; with the HTTP status if there was one.
        JWKError: What came back is no JWK Set, or one that servers refuse.
        ConfigurationError: The URL is not a secure one.
    """
    require_secure(url, "The JWKS URL", allow_insecure_loopback=allow_insecure_loopback)
    headers = {"Accept": "application/jwk-set+json, application/json", "Cache-Control": "no-cache"}
    request = HttpRequest("GET", url, "the request for the JWK Set", headers)
    response = await io.send(request)
    if response.status != 200:
        raise NetworkError(
            f"The JWKS URL {url} answered HTTP {response.status}.",
            status=response.status,
            cause="A redirect: servers do not follow it either."
            if 300 <= response.status < 400
            else "Nothing is published there.",
            hint="Publish the set there (keystay jwks serve, or keystay jwks CLIENT --out FILE), "
            "or correct jwks_url.",
            code="jwks-unavailable",
        )
    try:
        keys = JWKSet.from_json(response.body)
    except JWKError as error:
        raise JWKError(
            f"What {url} publishes cannot be used: {error.message}",
            cause=error.cause or "A login page or another document answers there.",
            hint=error.hint or "Publish what keystay jwks prints, as it is.",
            code=error.code,
        ) from error
    return Publication(url, keys, response.kept_for)


def is_same_key(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    """Whether two JWKs are the same public key, whatever else they say."""
    try:
        return thumbprint(one) == thumbprint(other)
    except KeystayError:
        return False
