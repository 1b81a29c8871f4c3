"""The encodings of a signature, each strict: ASN.1 DER, JOSE r‖s, DigestInfo; and verification.

Clouds and OpenSSL return ECDSA signatures as DER (RFC 3279 §2.2.3), PKCS#11 and JWS use
fixed-width r‖s (RFC 7518 §3.4). The two cannot be told apart by looking, so nothing here
guesses: the caller says which it has.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from keystay import algorithms
from keystay.errors import AlgorithmError, SignatureInvalidError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
    from cryptography.hazmat.primitives.hashes import HashAlgorithm

    from keystay.algorithms import Algorithm

__all__ = ["der_to_raw", "digest_info", "load", "raw_to_der", "verify"]

# DER of DigestInfo up to the digest itself (RFC 8017 §9.2, note 1).
_DIGEST_INFO_PREFIX = {
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}

_SEQUENCE, _INTEGER = 0x30, 0x02

_NEEDED = (
    "cryptography.exceptions",
    "cryptography.hazmat.primitives.hashes",
    "cryptography.hazmat.primitives.asymmetric.padding",
    "cryptography.hazmat.primitives.asymmetric.utils",
)

# JWK's curve by the name `cryptography` gives it. Size alone would let secp256k1 pass for P-256.
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


def der_to_raw(der: bytes, algorithm: str | Algorithm) -> bytes:
    """Turn an ASN.1 DER `Ecdsa-Sig-Value` into JOSE's fixed-width r‖s.

    Args:
        der: SEQUENCE of two INTEGERs, DER, nothing before or after.
        algorithm: `ES256`, `ES384` or `ES512`.

    Returns:
        64, 96 or 132 bytes: r, then s, each big-endian and left-padded with zeros.

    Raises:
        SignatureInvalidError: Not DER, or an integer that is zero, negative or too large.
        AlgorithmError: The algorithm is not an ECDSA one.
    """
    size = _coordinate_size(algorithm)
    body, end = _read(der, 0, _SEQUENCE)
    if end != len(der):
        raise _bad("bytes follow the signature")
    r, middle = _read(body, 0, _INTEGER)
    s, last = _read(body, middle, _INTEGER)
    if last != len(body):
        raise _bad("bytes follow s inside the signature")
    return _coordinate(r, size, "r") + _coordinate(s, size, "s")


def raw_to_der(raw: bytes, algorithm: str | Algorithm) -> bytes:
    """Turn JOSE's fixed-width r‖s into an ASN.1 DER `Ecdsa-Sig-Value`.

    Args:
        raw: 64, 96 or 132 bytes, by algorithm.
        algorithm: `ES256`, `ES384` or `ES512`.

    Returns:
        Minimal DER.

    Raises:
        SignatureInvalidError: Wrong length, or r or s is zero.
        AlgorithmError: The algorithm is not an ECDSA one.
    """
    size = _coordinate_size(algorithm)
    if len(raw) != 2 * size:
        raise _bad(f"r‖s has {len(raw)} bytes where {2 * size} are due")
    body = _integer(raw[:size], "r") + _integer(raw[size:], "s")
    return bytes((_SEQUENCE,)) + _length(len(body)) + body


def digest_info(digest: bytes, algorithm: str | Algorithm) -> bytes:
    """Wrap a digest as DER `DigestInfo`, for RSA mechanisms that pad but do not hash.

    Args:
        digest: The hash of the message, of the algorithm's digest size.
        algorithm: `RS256`, `RS384` or `RS512`.

    Raises:
        SignatureInvalidError: The digest has another length than the hash yields.
        AlgorithmError: The algorithm is not an RSASSA-PKCS1-v1_5 one.
    """
    algorithm = _resolve(algorithm)
    if algorithm.family != "RSASSA-PKCS1-v1_5" or algorithm.hash_name is None:
        raise _wrong_family(algorithm, "DigestInfo belongs to RS256, RS384 and RS512")
    if len(digest) != algorithm.digest_size:
        raise _bad(
            f"the digest has {len(digest)} bytes, {algorithm.hash_name} yields "
            f"{algorithm.digest_size}"
        )
    return _DIGEST_INFO_PREFIX[algorithm.hash_name] + digest


def verify(
    public_key: PublicKeyTypes,
    algorithm: str | Algorithm,
    message: bytes | None,
    signature: bytes,
    *,
    digest: bytes | None = None,
) -> None:
    """Check a JOSE signature; return when it is good.

    Args:
        public_key: A `cryptography` public key.
        algorithm: The JWS algorithm.
        message: The signed bytes (the JWS signing input); may be None when `digest` is given.
        signature: As JOSE has it: r‖s for ECDSA, the plain octets otherwise.
        digest: The message's hash, when the caller has it already.

    Raises:
        SignatureInvalidError: It does not verify, or is malformed.
        AlgorithmError: The key is not of the kind the algorithm needs.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

    algorithm = _resolve(algorithm)
    try:
        if algorithm.hash_name is None:
            if not isinstance(public_key, ed25519.Ed25519PublicKey):
                raise _wrong_family(algorithm, "this key is not an Ed25519 key")
            if message is None:
                raise _wrong_family(algorithm, "it signs messages, not digests")
            public_key.verify(signature, message)
            return
        data, hashed = _hash_argument(algorithm, message, digest)
        if algorithm.kty == "EC":
            if not isinstance(public_key, ec.EllipticCurvePublicKey):
                raise _wrong_family(algorithm, "this key is not an elliptic-curve key")
            if _CURVES.get(public_key.curve.name) != algorithm.curve:
                raise _wrong_family(algorithm, f"this key is on {public_key.curve.name}")
            public_key.verify(raw_to_der(signature, algorithm), data, ec.ECDSA(hashed))
            return
        if not isinstance(public_key, rsa.RSAPublicKey):
            raise _wrong_family(algorithm, "this key is not an RSA key")
        if algorithm.family == "RSASSA-PSS":
            salt = algorithm.digest_size
            plain = _hash_object(algorithm)
            pad: padding.AsymmetricPadding = padding.PSS(padding.MGF1(plain), salt)
        else:
            pad = padding.PKCS1v15()
        public_key.verify(signature, data, pad, hashed)
    except InvalidSignature:
        raise SignatureInvalidError(
            f"The {algorithm.name} signature does not verify with the public key.",
            cause="Another key signed, or the bytes signed were not the ones expected.",
        ) from None


def load() -> None:
    """Import what `verify` needs, ahead of its first use.

    A child forked while another thread imports would wait for that thread's import lock for ever.
    """
    for name in _NEEDED:
        import_module(name)
    import_module("cryptography.hazmat.backends").default_backend()


def _resolve(algorithm: str | Algorithm) -> Algorithm:
    return algorithms.get(algorithm) if isinstance(algorithm, str) else algorithm


def _coordinate_size(algorithm: str | Algorithm) -> int:
    algorithm = _resolve(algorithm)
    if not algorithm.coordinate_size:
        raise _wrong_family(algorithm, "r‖s belongs to ES256, ES384 and ES512")
    return algorithm.coordinate_size


def _read(data: bytes, start: int, tag: int) -> tuple[bytes, int]:
    """One TLV of `tag` at `start`: its content and the offset behind it."""
    if len(data) < start + 2 or data[start] != tag:
        raise _bad("it is not a SEQUENCE of two INTEGERs")
    length, position = data[start + 1], start + 2
    if length >= 0x80:
        # The largest signature (P-521) is 139 bytes: one length byte after 0x81 is enough.
        if length != 0x81 or len(data) <= position or data[position] < 0x80:
            raise _bad("a length is not minimal DER")
        length, position = data[position], position + 1
    end = position + length
    if end > len(data):
        raise _bad("it is cut short")
    return data[position:end], end


def _coordinate(integer: bytes, size: int, name: str) -> bytes:
    if not integer:
        raise _bad(f"{name} is empty")
    if integer[0] & 0x80:
        raise _bad(f"{name} is negative")
    if integer[0] == 0 and (len(integer) == 1 or not integer[1] & 0x80):
        raise _bad(f"{name} is zero or has a needless leading zero")
    magnitude = integer[1:] if integer[0] == 0 else integer
    if len(magnitude) > size:
        raise _bad(f"{name} has {len(magnitude)} bytes, the curve's are {size}")
    return magnitude.rjust(size, b"\0")


def _integer(coordinate: bytes, name: str) -> bytes:
    magnitude = coordinate.lstrip(b"\0")
    if not magnitude:
        raise _bad(f"{name} is zero")
    if magnitude[0] & 0x80:
        magnitude = b"\0" + magnitude
    return bytes((_INTEGER,)) + _length(len(magnitude)) + magnitude


def _length(length: int) -> bytes:
    return bytes((length,)) if length < 0x80 else bytes((0x81, length))


def _hash_object(algorithm: Algorithm) -> HashAlgorithm:
    from cryptography.hazmat.primitives import hashes

    table: dict[str, HashAlgorithm] = {
        "sha256": hashes.SHA256(),
        "sha384": hashes.SHA384(),
        "sha512": hashes.SHA512(),
    }
    return table[algorithm.hash_name or ""]


def _hash_argument(
    algorithm: Algorithm, message: bytes | None, digest: bytes | None
) -> tuple[bytes, HashAlgorithm | Prehashed]:
    """What to hand to `cryptography`: the digest when known, else the message."""
    from cryptography.hazmat.primitives.asymmetric import utils

    hashed = _hash_object(algorithm)
    if digest is None:
        if message is None:
            raise _bad("neither the message nor its digest is known")
        return message, hashed
    if len(digest) != algorithm.digest_size:
        raise _bad(f"the digest has {len(digest)} bytes, {algorithm.digest_size} are due")
    return digest, utils.Prehashed(hashed)


def _bad(what: str) -> SignatureInvalidError:
    return SignatureInvalidError(
        f"The signature is malformed: {what}.",
        cause="The backend returned another encoding than it declared, or the bytes were cut.",
        code="signature-malformed",
    )


def _wrong_family(algorithm: Algorithm, why: str) -> AlgorithmError:
    return AlgorithmError(f"{algorithm.name} does not fit here: {why}.")
