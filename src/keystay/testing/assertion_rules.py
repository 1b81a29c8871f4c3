"""Every check on one client assertion, in the order in which they are made.

Sources: SMART App Launch 2.2.0 "Client Authentication: Asymmetric (public key)", RFC 7523 section
3, RFC 7515 (JWS) and RFC 7519 (JWT). Where vendors are stricter (a `jti` of at most 151
characters, `iat` and `nbf` not in the future, `exp` at most five minutes after `iat`), so is this.
Nothing the assertion claims is believed before its signature is verified, except who to ask.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hmac
import json
import re
import threading
from typing import TYPE_CHECKING, Any

from keystay import algorithms, signatures
from keystay.errors import KeystayError
from keystay.testing.refusals import AssertionRefusedError
from keystay.testing.registered_client import RegisteredClient, find_key, load_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

ALGORITHM_NAMES = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
"""What a server here accepts unless told otherwise, as JWS names."""

LONGEST_LIFETIME = 300
"""Seconds that an assertion may live (SMART App Launch 2.2.0)."""

LONGEST_JTI = 151
"""Characters of a `jti` (Epic's limit, the tightest of the vendors')."""

_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")


@dataclasses.dataclass(slots=True, repr=False)
class Assertion:
    """A client assertion in its parts, filled in as far as the checks have come.

    Attributes:
        header: The JOSE header, or None when it could not be read.
        claims: The claims, or None when they could not be read.
        client: The registered client that `iss` names, or None.
    """

    header: dict[str, Any] | None = None
    claims: dict[str, Any] | None = None
    client: RegisteredClient | None = None

    def __repr__(self) -> str:
        """Show the client only."""
        return f"<Assertion of {self.client.client_id if self.client else 'nobody known'}>"


class AssertionRules:
    """Checks assertions for one token endpoint, remembering the ones that it has seen.

    Args:
        audience: The token endpoint's URL, the only `aud` accepted.
        find_client: Looks a client up by its id; None when it is unknown.
        clock: The time now, in seconds since the epoch.
        algorithm_names: The `alg` values accepted.
    """

    def __init__(
        self,
        *,
        audience: str,
        find_client: Callable[[str], RegisteredClient | None],
        clock: Callable[[], float],
        algorithm_names: Iterable[str] = ALGORITHM_NAMES,
    ) -> None:
        """Start with no assertion seen."""
        self.audience = audience
        self.algorithm_names = tuple(algorithm_names)
        self._find_client = find_client
        self._clock = clock
        self._seen: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def check(self, compact: str, assertion: Assertion) -> RegisteredClient:
        """Check one assertion and use up its `jti`.

        Args:
            compact: The JWS compact serialization.
            assertion: Takes the parts as they become known, also when a check fails.

        Returns:
            The client that the assertion authenticates.

        Raises:
            AssertionRefusedError: A check failed; its reason tells which.
        """
        segments = compact.split(".")
        if len(segments) != 3:
            raise AssertionRefusedError(
                "segments", f"a JWT has three segments, this one has {len(segments)}"
            )
        assertion.header = header = _json_object(segments[0], "header")
        assertion.claims = claims = _json_object(segments[1], "claims")
        signature = _decode(segments[2], "signature")

        algorithm = self._check_header(header)
        assertion.client = client = self._check_client(claims)
        _check_jku(header, client)
        key = find_key(client.keys(), header["kid"])
        signing_input = compact.rpartition(".")[0].encode("ascii")
        _check_signature(key, algorithm, signing_input, signature)
        self._check_audience(claims)
        now = self._clock()
        expiry = _check_times(claims, now)
        self._use_up(client.client_id, _check_jti(claims), expiry, now)
        return client

    def _check_header(self, header: Mapping[str, Any]) -> algorithms.Algorithm:
        if header.get("typ") != "JWT":
            raise AssertionRefusedError("typ", f"typ must be 'JWT', not {header.get('typ')!r}")
        name = header.get("alg")
        if name not in self.algorithm_names:
            raise AssertionRefusedError(
                "alg-unsupported",
                f"alg {name!r} is not one of {', '.join(self.algorithm_names)}",
            )
        if "crit" in header:
            raise AssertionRefusedError("crit", "crit names extensions; none is understood here")
        if not isinstance(header.get("kid"), str) or not header["kid"]:
            raise AssertionRefusedError("kid-missing", "the header has no kid, or it is no string")
        return algorithms.get(str(name))

    def _check_client(self, claims: Mapping[str, Any]) -> RegisteredClient:
        for name in ("iss", "sub"):
            if not isinstance(claims.get(name), str) or not claims[name]:
                raise AssertionRefusedError(
                    f"{name}-missing", f"{name} is missing, or it is no string"
                )
        if claims["iss"] != claims["sub"]:
            raise AssertionRefusedError(
                "iss-sub-differ", f"iss '{claims['iss']}' and sub '{claims['sub']}' must be equal"
            )
        client = self._find_client(claims["iss"])
        if client is None:
            raise AssertionRefusedError(
                "client-unknown", f"no client is registered as '{claims['iss']}'"
            )
        return client

    def _check_audience(self, claims: Mapping[str, Any]) -> None:
        audience = claims.get("aud")
        if audience is None:
            raise AssertionRefusedError("aud-missing", "the claim aud is missing")
        if not isinstance(audience, str):
            raise AssertionRefusedError(
                "aud-not-a-string", "aud must be one string, the URL of the token endpoint"
            )
        if audience != self.audience:
            raise AssertionRefusedError(
                "aud-mismatch", f"aud is '{audience}', but must be exactly '{self.audience}'"
            )

    def _use_up(self, client_id: str, jti: str, expiry: float, now: float) -> None:
        """Remember a `jti` until its assertion expires; two at once cannot both succeed."""
        with self._lock:
            for spent in [known for known, until in self._seen.items() if until <= now]:
                del self._seen[spent]
            if (client_id, jti) in self._seen:
                raise AssertionRefusedError("jti-replayed", f"the jti '{jti}' was used before")
            self._seen[client_id, jti] = expiry


def _check_jku(header: Mapping[str, Any], client: RegisteredClient) -> None:
    if "jku" in header and header["jku"] != client.jwks_uri:
        raise AssertionRefusedError(
            "jku-mismatch",
            f"jku {header['jku']!r} is not the registered JWKS URL, {client.jwks_uri!r}",
        )


def _check_signature(
    jwk: Mapping[str, Any], algorithm: algorithms.Algorithm, message: bytes, signature: bytes
) -> None:
    public_key = load_key(jwk)
    if (jwk.get("kty"), jwk.get("crv")) != (algorithm.kty, algorithm.curve):
        kind = " ".join(str(jwk[name]) for name in ("kty", "crv") if name in jwk)
        raise AssertionRefusedError(
            "key-type-mismatch", f"the registered key is {kind}, which cannot do {algorithm.name}"
        )
    if jwk.get("alg", algorithm.name) != algorithm.name:
        raise AssertionRefusedError(
            "key-alg-mismatch",
            f"the registered key is for {jwk['alg']!r}, the assertion says {algorithm.name}",
        )
    if jwk.get("use", "sig") != "sig" or "verify" not in jwk.get("key_ops", ["verify"]):
        raise AssertionRefusedError("key-use", "the registered key is not for signatures")
    try:
        signatures.verify(public_key, algorithm, message, signature)
    except KeystayError as error:
        raise AssertionRefusedError("signature-invalid", error.message) from error


def _check_times(claims: Mapping[str, Any], now: float) -> int:
    """Check `exp`, `nbf` and `iat`; return `exp`."""
    expiry = claims.get("exp")
    if expiry is None:
        raise AssertionRefusedError("exp-missing", "the claim exp is missing")
    if not isinstance(expiry, int) or isinstance(expiry, bool):
        raise AssertionRefusedError("exp-not-an-integer", f"exp must be an integer, not {expiry!r}")
    if expiry <= now:
        raise AssertionRefusedError("exp-past", f"exp {expiry} is past; it is {now:.3f} here")
    if expiry > now + LONGEST_LIFETIME:
        raise AssertionRefusedError(
            "exp-too-far",
            f"exp {expiry} is more than {LONGEST_LIFETIME} s ahead; it is {now:.3f} here",
        )
    for name in ("nbf", "iat"):
        if name not in claims:
            continue
        if not isinstance(claims[name], int | float) or isinstance(claims[name], bool):
            raise AssertionRefusedError(f"{name}-not-a-number", f"{name} must be a number")
        if claims[name] > now:
            raise AssertionRefusedError(
                f"{name}-future", f"{name} {claims[name]} is in the future; it is {now:.3f} here"
            )
    if "iat" in claims and expiry - claims["iat"] > LONGEST_LIFETIME:
        raise AssertionRefusedError(
            "lifetime-too-long", f"exp is more than {LONGEST_LIFETIME} s after iat"
        )
    return expiry


def _check_jti(claims: Mapping[str, Any]) -> str:
    jti = claims.get("jti")
    if jti is None:
        raise AssertionRefusedError("jti-missing", "the claim jti is missing")
    if not isinstance(jti, str):
        raise AssertionRefusedError("jti-not-a-string", "jti must be a string")
    if not 1 <= len(jti) <= LONGEST_JTI:
        raise AssertionRefusedError(
            "jti-length", f"jti has {len(jti)} characters, 1 to {LONGEST_JTI} are allowed"
        )
    return jti


def _decode(segment: str, name: str) -> bytes:
    """Decode base64url without padding (RFC 7515 section 2), in its one canonical spelling."""
    if _BASE64URL.fullmatch(segment):
        try:
            decoded = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
        except binascii.Error:
            decoded = b""
        again = base64.urlsafe_b64encode(decoded).rstrip(b"=")
        if hmac.compare_digest(again, segment.encode("ascii")):
            return decoded
    raise AssertionRefusedError(
        f"{name}-not-base64url", f"the {name} segment is not base64url without padding"
    )


def _json_object(segment: str, name: str) -> dict[str, Any]:
    """Decode a segment that must be a JSON object without repeated names (RFC 7519 section 4)."""
    decoded = _decode(segment, name)
    try:
        value = json.loads(
            decoded.decode("utf-8"),
            object_pairs_hook=_without_repeats,
            parse_constant=_not_json,
        )
    except (ValueError, RecursionError) as error:
        raise AssertionRefusedError(
            f"{name}-not-json", f"the {name} segment is not valid JSON with unique names"
        ) from error
    if not isinstance(value, dict):
        raise AssertionRefusedError(f"{name}-not-json", f"the {name} segment is no JSON object")
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name occurs twice")
    return members


def _not_json(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
