"""A registered client and its public keys, given inline or fetched from the client's JWKS URL.

SMART App Launch 2.2.0, "Registering a client communicating public keys": the URL is over TLS and
the server keeps a copy no longer than `Cache-Control` says. Plain HTTP is accepted for loopback.
"""

from __future__ import annotations

import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

import msgspec

from keystay.errors import KeystayError
from keystay.jwk import JWKSet, public_key_from_jwk
from keystay.testing.refusals import AssertionRefusedError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Mapping

JWKS_MAX_AGE = 60.0
"""Seconds that a fetched set is used when its `Cache-Control` does not say less."""

_LONGEST_SET = 64 * 1024
_FETCH_TIMEOUT = 5.0
_LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})
_MAX_AGE = re.compile(r"(?:^|[,\s])max-age=(\d+)")


class RegisteredClient:
    """A client that the authorization server knows.

    Args:
        client_id: The client's id, both `iss` and `sub` of its assertions.
        jwks: Its public keys, as an object with `keys` or as a `JWKSet`.
        jwks_uri: Where its public keys are published, instead of `jwks`.
        scope: The scopes it may have, space separated; None allows every scope.
        jwks_max_age: The most seconds that a fetched set is used.
        ssl_context: Trust for a `jwks_uri` over TLS; the system's when None.
        monotonic: The clock that ages the fetched set, in seconds.

    Raises:
        ValueError: Not exactly one of `jwks` and `jwks_uri`, no JWK Set, or a URL that may not be
            fetched.
        keystay.errors.KeystayError: A key in `jwks` is private, malformed or too weak.
    """

    def __init__(
        self,
        client_id: str,
        *,
        jwks: JWKSet | Mapping[str, Any] | None = None,
        jwks_uri: str | None = None,
        scope: str | None = None,
        jwks_max_age: float = JWKS_MAX_AGE,
        ssl_context: ssl.SSLContext | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Check the registration; fetch nothing yet."""
        if (jwks is None) == (jwks_uri is None):
            raise ValueError("register a client with exactly one of jwks and jwks_uri")
        self.client_id = client_id
        self.scope = scope
        self.jwks_uri = jwks_uri
        self.jwks_max_age = jwks_max_age
        self._inline = None if jwks is None else _inline_keys(jwks)
        self._opener = None if jwks_uri is None else _opener(jwks_uri, ssl_context)
        self._monotonic = monotonic
        self._fetched: tuple[Mapping[str, Any], ...] = ()
        self._stale_at: float | None = None
        self._lock = threading.Lock()
        self.fetches = 0

    def __repr__(self) -> str:
        """Show where the keys come from."""
        return f"<RegisteredClient {self.client_id!r}, keys {self.jwks_uri or 'inline'}>"

    def keys(self) -> tuple[Mapping[str, Any], ...]:
        """Return the client's JWKs, fetched again when the copy is stale.

        Raises:
            AssertionRefusedError: The set cannot be fetched (`jwks-unavailable`) or is not a
                JWK Set (`jwks-invalid`).
        """
        if self._inline is not None:
            return self._inline
        with self._lock:
            if self._stale_at is None or self._monotonic() >= self._stale_at:
                self._fetched, lifetime = self._fetch()
                self._stale_at = self._monotonic() + lifetime
            return self._fetched

    def forget_keys(self) -> None:
        """Fetch the set again for the next assertion."""
        with self._lock:
            self._stale_at = None

    def _fetch(self) -> tuple[tuple[Mapping[str, Any], ...], float]:
        assert self._opener is not None
        assert self.jwks_uri is not None
        self.fetches += 1
        headers = {"Accept": "application/json"}
        request = urllib.request.Request(self.jwks_uri, headers=headers)  # noqa: S310  (checked in _opener)
        try:
            with self._opener.open(request, timeout=_FETCH_TIMEOUT) as response:
                body = response.read(_LONGEST_SET + 1)
                cache_control = response.headers.get("Cache-Control", "")
        except urllib.error.HTTPError as error:
            error.close()
            raise AssertionRefusedError(
                "jwks-unavailable", f"{self.jwks_uri} answered with status {error.code}"
            ) from error
        except OSError as error:
            raise AssertionRefusedError(
                "jwks-unavailable", f"{self.jwks_uri} could not be fetched: {type(error).__name__}"
            ) from error
        if len(body) > _LONGEST_SET:
            raise AssertionRefusedError("jwks-invalid", f"the set is over {_LONGEST_SET} bytes")
        return _published_keys(body), _lifetime(cache_control, self.jwks_max_age)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect unfollowed, so that it surfaces as an error with its status."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow nothing."""


def _opener(url: str, ssl_context: ssl.SSLContext | None) -> urllib.request.OpenerDirector:
    """Make an opener without proxies and redirects, for a URL that is safe to fetch."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and not (
        parts.scheme == "http" and parts.hostname in _LOOPBACK_HOSTS
    ):
        raise ValueError(f"jwks_uri must be https, or http on loopback: {url}")
    return urllib.request.build_opener(
        urllib.request.ProxyHandler({}),
        urllib.request.HTTPSHandler(context=ssl_context),
        _NoRedirect(),
    )


def _inline_keys(jwks: JWKSet | Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Check an inline set key by key.

    Key ids are left to the assertion's check: a set with a repeated `kid` can be registered, as
    at real servers, and then fails.
    """
    keys = jwks.keys if isinstance(jwks, JWKSet) else jwks.get("keys")
    if not isinstance(keys, list | tuple):
        raise ValueError('jwks is an object with a list "keys"')
    for key in keys:
        public_key_from_jwk(key)
    return tuple(keys)


def _published_keys(body: bytes) -> tuple[Mapping[str, Any], ...]:
    """Decode a fetched set; of its keys only the one an assertion names is ever looked at."""
    try:
        return tuple(msgspec.json.decode(body, type=_PublishedSet).keys)
    except msgspec.MsgspecError as error:
        raise AssertionRefusedError("jwks-invalid", f"not a JWK Set: {error}") from error


class _PublishedSet(msgspec.Struct):
    keys: list[dict[str, Any]]


def _lifetime(cache_control: str, most: float) -> float:
    """Seconds that a set may be kept (RFC 9111 section 5.2.2)."""
    directives = cache_control.lower()
    if "no-store" in directives or "no-cache" in directives:
        return 0.0
    found = _MAX_AGE.search(directives)
    return min(float(found[1]), most) if found else most


def find_key(keys: Iterable[Mapping[str, Any]], kid: str) -> Mapping[str, Any]:
    """Return the one key with a key id (SMART App Launch 2.2.0: several or none fail).

    Raises:
        AssertionRefusedError: No key (`kid-unknown`) or several (`kid-ambiguous`) have it.
    """
    matches = [key for key in keys if key.get("kid") == kid]
    if not matches:
        raise AssertionRefusedError("kid-unknown", f"no registered key has the kid '{kid}'")
    if len(matches) > 1:
        raise AssertionRefusedError(
            "kid-ambiguous", f"{len(matches)} registered keys have the kid '{kid}'"
        )
    return matches[0]


def load_key(key: Mapping[str, Any]) -> Any:
    """Turn a registered JWK into a public key.

    Raises:
        AssertionRefusedError: The JWK is private, malformed or too weak (`key-invalid`).
    """
    try:
        return public_key_from_jwk(key)
    except KeystayError as error:
        raise AssertionRefusedError("key-invalid", error.message) from error
