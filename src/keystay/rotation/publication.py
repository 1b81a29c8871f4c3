"""What a JWKS URL says: which keys are published there, and for how long that may be kept."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

from keystay.errors import JWKError, KeystayError, NetworkError
from keystay.jwk import JWKSet, thumbprint
from keystay.smart.messages import HttpRequest, HttpResponse
from keystay.smart.urls import require_secure

__all__ = ["Publication", "is_same_key", "publication_flow"]

_DIRECTIVE = re.compile(r'([A-Za-z-]+)(?:\s*=\s*"?([0-9]+)"?)?')
_LONGEST = 365 * 86400


@dataclass(frozen=True, slots=True)
class Publication:
    """A published set, as it was seen.

    Attributes:
        url: Where.
        keys: The set.
        max_age: Seconds that Cache-Control lets anybody on the way keep it; None without one.
    """

    url: str
    keys: JWKSet
    max_age: int | None

    def holds(self, jwk: Mapping[str, Any]) -> bool:
        """Whether this very key is there under its kid."""
        published = self.find(str(jwk.get("kid")))
        return published is not None and is_same_key(published, jwk)

    def find(self, kid: str) -> Mapping[str, Any] | None:
        """The key published under a kid, or None."""
        return next((key for key in self.keys if key["kid"] == kid), None)


def publication_flow(
    url: str, *, allow_insecure_loopback: bool = False
) -> Generator[HttpRequest, HttpResponse, Publication]:
    """Ask a JWKS URL for the set, past every cache that can be told so.

    Args:
        url: The JWKS URL.
        allow_insecure_loopback: Allow plain HTTP to this machine.

    Raises:
        NetworkError: No set came back; with the HTTP status if there was one.
        JWKError: What came back is no JWK Set, or one that servers refuse.
        ConfigurationError: The URL is not a secure one.
    """
    require_secure(url, "The JWKS URL", allow_insecure_loopback=allow_insecure_loopback)
    headers = {"Accept": "application/jwk-set+json, application/json", "Cache-Control": "no-cache"}
    response = yield HttpRequest("GET", url, "the request for the JWK Set", headers)
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
    return Publication(url, keys, _max_age(response.headers))


def is_same_key(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two JWKs are the same public key, whatever else they say."""
    try:
        return thumbprint(one) == thumbprint(other)
    except KeystayError:
        return False


def _max_age(headers: Mapping[str, str]) -> int | None:
    """Seconds that a cache may keep an answer (RFC 9111 §5.2.2); None when it does not say.

    The longer of max-age and s-maxage: a set from before a change may reach the server through a
    shared cache for as long as that.
    """
    text = headers.get("cache-control", "")
    found = {name.lower(): value for name, value in _DIRECTIVE.findall(text)}
    if "no-store" in found or "no-cache" in found:
        return 0
    ages = [int(found[name]) for name in ("max-age", "s-maxage") if found.get(name)]
    return min(max(ages), _LONGEST) if ages else None
