"""Public keys as JSON: JWK, JWK Set (RFC 7517, 7518 §6, 8037 §2) and thumbprint (RFC 7638)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from keystay import algorithms
from keystay.errors import JWKError, KeyUnusableError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

__all__ = ["JWKSet", "PublicSigner", "key_kind", "public_jwk", "public_key_from_jwk", "thumbprint"]

_CURVES = {"secp256r1": ("P-256", 32), "secp384r1": ("P-384", 48), "secp521r1": ("P-521", 66)}
# RFC 7638 §3.2 and RFC 8037 §2: what identifies a key, in lexicographic order.
_IDENTITY = {"RSA": ("e", "kty", "n"), "EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x")}
_PRIVATE = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+\Z")


class PublicSigner(Protocol):
    """What a JWK Set needs of a signer."""

    @property
    def public_key(self) -> PublicKeyTypes:
        """The public key."""

    @property
    def kid(self) -> str:
        """The key id to publish."""

    @property
    def algorithm(self) -> str:
        """The JWS algorithm it signs with."""


def key_kind(public_key: PublicKeyTypes) -> tuple[str, str | None, int]:
    """A key's JWK `kty`, `crv` (None for RSA) and size in bits.

    Raises:
        KeyUnusableError: The key is of a kind that JWS has no algorithm for, or too weak.
    """
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(public_key, rsa.RSAPublicKey):
        if public_key.key_size < algorithms.MIN_RSA_BITS:
            raise KeyUnusableError(
                f"The RSA key has {public_key.key_size} bits.",
                cause=f"JWS requires {algorithms.MIN_RSA_BITS} or more (RFC 7518 §3.3).",
                hint="Generate an RSA-3072 or P-384 key and register it.",
                code="key-weak",
            )
        return "RSA", None, public_key.key_size
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        curve = _CURVES.get(public_key.curve.name, (public_key.curve.name, 0))[0]
        algorithms.for_key("EC", curve)
        return "EC", curve, public_key.key_size
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return "OKP", "Ed25519", 256
    name = type(public_key).__name__.strip("_").removesuffix("PublicKey")
    algorithms.for_key("other", name)
    raise AssertionError("unreachable")  # pragma: no cover


def public_jwk(
    public_key: PublicKeyTypes, *, kid: str | None = None, algorithm: str | None = None
) -> dict[str, Any]:
    """A public key as a JWK for signature verification.

    Args:
        public_key: A `cryptography` public key: RSA, EC or Ed25519.
        kid: The key id; default is the RFC 7638 thumbprint.
        algorithm: Goes to `alg` when given.

    Returns:
        Members in publishing order: identity, `use`, `key_ops`, `alg`, `kid`.

    Raises:
        KeyUnusableError: The key cannot sign assertions.
    """
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    kty, curve, _ = key_kind(public_key)
    jwk: dict[str, Any] = {"kty": kty}
    if isinstance(public_key, rsa.RSAPublicKey):
        rsa_numbers = public_key.public_numbers()
        jwk |= {"n": _encode_integer(rsa_numbers.n), "e": _encode_integer(rsa_numbers.e)}
    elif isinstance(public_key, ec.EllipticCurvePublicKey):
        size = (public_key.key_size + 7) // 8
        point = public_key.public_numbers()
        jwk |= {
            "crv": curve,
            "x": _encode(point.x.to_bytes(size, "big")),
            "y": _encode(point.y.to_bytes(size, "big")),
        }
    else:
        raw = public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        jwk |= {"crv": curve, "x": _encode(raw)}
    jwk |= {"use": "sig", "key_ops": ["verify"]}
    if algorithm is not None:
        jwk["alg"] = algorithm
    jwk["kid"] = thumbprint(jwk) if kid is None else kid
    return jwk


def public_key_from_jwk(jwk: Mapping[str, Any]) -> PublicKeyTypes:
    """The `cryptography` public key a JWK describes.

    Raises:
        JWKError: A member is missing or malformed, or the JWK holds private members.
        KeyUnusableError: The key cannot verify assertions (weak, other curve).
    """
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    refuse_private(jwk)
    curves = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
    kty, crv = jwk.get("kty"), jwk.get("crv")
    key: PublicKeyTypes
    try:
        if kty == "RSA":
            key = rsa.RSAPublicNumbers(
                int.from_bytes(_member(jwk, "e"), "big"), int.from_bytes(_member(jwk, "n"), "big")
            ).public_key()
        elif kty == "EC" and isinstance(crv, str) and crv in curves:
            curve = curves[crv]
            size = (curve.key_size + 7) // 8
            x, y = _member(jwk, "x"), _member(jwk, "y")
            if (len(x), len(y)) != (size, size):
                raise JWKError(f"x and y of a {crv} key have {size} bytes each.")
            key = ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + x + y)
        elif kty == "OKP" and crv == "Ed25519":
            key = ed25519.Ed25519PublicKey.from_public_bytes(_member(jwk, "x"))
        else:
            raise JWKError(
                f"A JWK with kty {kty!r} and crv {crv!r} is not a signature key.",
                hint="Use RSA, EC on P-256, P-384 or P-521, or OKP on Ed25519.",
            )
    except ValueError as error:
        raise JWKError("The JWK does not describe a valid public key.") from error
    key_kind(key)
    return key


def thumbprint(jwk: Mapping[str, Any]) -> str:
    """The RFC 7638 thumbprint: base64url of SHA-256 over the identifying members.

    Raises:
        JWKError: The key type is unknown or an identifying member is missing.
    """
    kty = jwk.get("kty")
    if not isinstance(kty, str) or kty not in _IDENTITY:
        raise JWKError(
            f"A JWK with kty {kty!r} is not a signature key.", hint="Use RSA, EC or OKP."
        )
    identity = {name: jwk.get(name) for name in _IDENTITY[kty]}
    for name, value in identity.items():
        if not isinstance(value, str) or not _BASE64URL.match(value):
            raise JWKError(f"The JWK member {name!r} is missing or malformed.")
    canonical = json.dumps(identity, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    return _encode(hashlib.sha256(canonical.encode()).digest())


def refuse_private(jwk: Mapping[str, Any]) -> None:
    """Raise `JWKError` when a JWK holds private or symmetric members; names them, never values."""
    if found := sorted(_PRIVATE & jwk.keys()):
        raise JWKError(
            f"The JWK holds private members: {', '.join(found)}.",
            cause="A private key was about to be published.",
            hint="Remove them, and treat that key as disclosed.",
            code="jwk-private",
        )


@dataclass(frozen=True, slots=True)
class JWKSet:
    """The public keys of a client, ready to publish (RFC 7517 §5).

    Args:
        keys: JWKs; `kid` present and unique (SMART App Launch 2.2), nothing private.

    Raises:
        JWKError: A kid is missing or occurs twice, or a member is private.
    """

    keys: Sequence[Mapping[str, Any]]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for jwk in self.keys:
            refuse_private(jwk)
            kid = jwk.get("kid")
            if not isinstance(kid, str) or not kid:
                raise JWKError("A JWK in the set has no kid.", code="jwk-kid-missing")
            if not kid.isprintable():  # nor is it a kid that anybody could compare
                raise JWKError(f"The kid {kid!r} holds what cannot be printed.")
            if kid in seen:
                raise JWKError(
                    f"The kid {kid!r} occurs twice in the set.",
                    cause="Servers refuse a set in which a kid matches several keys.",
                    hint="Give each key its own kid, or leave kid out: the thumbprint is unique.",
                    code="jwk-kid-duplicate",
                )
            seen.add(kid)

    @classmethod
    def from_signers(cls, signers: Iterable[PublicSigner]) -> JWKSet:
        """The set of these signers' public keys, in the order given."""
        return cls(
            tuple(public_jwk(s.public_key, kid=s.kid, algorithm=s.algorithm) for s in signers)
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> JWKSet:
        """Parse a published set.

        Raises:
            JWKError: It is not a JSON object with a list called `keys`, or not a set as
                `JWKSet` wants it.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise JWKError("The JWK Set is not JSON.") from error
        keys = document.get("keys") if isinstance(document, dict) else None
        if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
            raise JWKError('A JWK Set is an object with a list "keys" of objects.')
        return cls(tuple(keys))

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)

    def to_dict(self) -> dict[str, Any]:
        """The set as plain data."""
        return {"keys": [dict(key) for key in self.keys]}

    def to_json(self, *, indent: int | None = None) -> str:
        """The set as JSON text, as a JWKS URL serves it."""
        return json.dumps(self.to_dict(), indent=indent)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _encode_integer(number: int) -> str:
    return _encode(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def _member(jwk: Mapping[str, Any], name: str) -> bytes:
    """A base64url member, without padding (RFC 7515 §2)."""
    value = jwk.get(name)
    if not isinstance(value, str) or not _BASE64URL.match(value):
        raise JWKError(f"The JWK member {name!r} is missing or not base64url.")
    try:
        return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    except binascii.Error:
        raise JWKError(f"The JWK member {name!r} is missing or not base64url.") from None
