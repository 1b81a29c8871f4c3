"""A signer as `cryptography`'s private keys look, so that other libraries can use the key.

PyJWT, MSAL and cryptography's certificate builders take these interfaces (`RSAPrivateKey` and its
kin) and call `sign`. Here `sign` is the signer's: the backend signs, the signature is verified, the
deadline holds. Everything that would need the private numbers is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeAlias

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from keystay import signatures
from keystay.algorithms import ALGORITHMS
from keystay.errors import AlgorithmError, KeyUnusableError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

__all__ = ["BackedPrivateKey", "SignsForOthers", "backed_private_key"]

BackedPrivateKey: TypeAlias = (
    rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
)

_BITS = {"sha256": "256", "sha384": "384", "sha512": "512"}
_ECDSA = {a.curve: a for a in ALGORITHMS.values() if a.family == "ECDSA"}
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


class SignsForOthers(Protocol):
    """What is needed of a signer; `keystay.Signer` has it."""

    @property
    def public_key(self) -> PublicKeyTypes:
        """The public key."""

    def sign(self, message: bytes, algorithm: str | None = None) -> bytes:
        """A JOSE signature of a message."""

    def sign_digest(self, digest: bytes, algorithm: str | None = None) -> bytes:
        """A JOSE signature of a message of which only the digest is known."""


def backed_private_key(signer: SignsForOthers) -> BackedPrivateKey:
    """A signer's key behind the interface of `cryptography` that fits it."""
    public_key = signer.public_key
    if isinstance(public_key, rsa.RSAPublicKey):
        return BackedRSAPrivateKey(signer, public_key)
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return BackedECPrivateKey(signer, public_key)
    assert isinstance(public_key, ed25519.Ed25519PublicKey)
    return BackedEd25519PrivateKey(signer, public_key)


class _Refuses:
    """What a key that stays where it is does not give."""

    _signer: SignsForOthers

    def private_bytes(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused."""
        raise _stays("serialised")

    def private_numbers(self) -> NoReturn:
        """Refused."""
        raise _stays("read")

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("this private key is not pickled: pass the key URI and open it there")

    def __repr__(self) -> str:
        return f"<private key of {self._signer!r}>"


class BackedRSAPrivateKey(_Refuses, rsa.RSAPrivateKey):
    """An RSA key that signs through its backend.

    PKCS #1 v1.5, or PSS with MGF1 of the same hash and a salt as long as the digest; with SHA-256,
    SHA-384 or SHA-512. That is what RS256 … PS512 are, and what backends can do.
    """

    def __init__(self, signer: SignsForOthers, public_key: rsa.RSAPublicKey) -> None:
        self._signer, self._public_key = signer, public_key

    @property
    def key_size(self) -> int:
        """Bits of the modulus."""
        return self._public_key.key_size

    def public_key(self) -> rsa.RSAPublicKey:
        """The public key."""
        return self._public_key

    # The name of the second argument is cryptography's, and callers use it.
    def sign(
        self,
        data: bytes,
        padding: padding.AsymmetricPadding,
        algorithm: utils.Prehashed | hashes.HashAlgorithm | utils.NoDigestInfo,
    ) -> bytes:
        """Sign.

        Args:
            data: The message, or its digest when `algorithm` is `Prehashed`.
            padding: `PKCS1v15`, or `PSS` as the class says.
            algorithm: SHA-256, SHA-384 or SHA-512, or `Prehashed` with one of them.

        Raises:
            AlgorithmError: Another padding, hash or salt length.
            KeystayError: As for `Signer.sign`.
        """
        hashed, prehashed = _hash_of(algorithm)
        name = f"{_family(padding, hashed)}{_BITS[hashed.name]}"
        return _sign(self._signer, data, name, prehashed=prehashed)

    def decrypt(self, ciphertext: bytes, padding: padding.AsymmetricPadding) -> NoReturn:
        """Refused: the key is for signing."""
        raise _stays("used to decrypt")


class BackedECPrivateKey(_Refuses, ec.EllipticCurvePrivateKey):
    """An elliptic-curve key that signs through its backend, with the hash that fits its curve."""

    def __init__(self, signer: SignsForOthers, public_key: ec.EllipticCurvePublicKey) -> None:
        self._signer, self._public_key = signer, public_key

    @property
    def curve(self) -> ec.EllipticCurve:
        """The curve."""
        return self._public_key.curve

    @property
    def key_size(self) -> int:
        """Bits of the curve's order."""
        return self._public_key.curve.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public key."""
        return self._public_key

    def sign(
        self,
        data: bytes | bytearray | memoryview,
        signature_algorithm: ec.EllipticCurveSignatureAlgorithm,
    ) -> bytes:
        """Sign.

        Args:
            data: The message, or its digest when the hash is `Prehashed`.
            signature_algorithm: `ECDSA` with SHA-256 on P-256, SHA-384 on P-384, SHA-512 on P-521.

        Returns:
            The signature as ASN.1 DER, as `cryptography` has it.

        Raises:
            AlgorithmError: Another hash, or deterministic signing.
            KeystayError: As for `Signer.sign`.
        """
        if not isinstance(signature_algorithm, ec.ECDSA):
            raise AlgorithmError(
                f"{type(signature_algorithm).__name__} is not ECDSA.", hint="Pass ec.ECDSA(hash)."
            )
        if signature_algorithm.deterministic_signing:
            raise AlgorithmError(
                "Deterministic ECDSA cannot be asked of a backend.",
                cause="The device or service chooses the nonce.",
                hint="Leave deterministic_signing out; the signature verifies all the same.",
            )
        hashed, prehashed = _hash_of(signature_algorithm.algorithm)
        fitting = _ECDSA[_CURVES[self.curve.name]]
        if hashed.name != fitting.hash_name:
            raise AlgorithmError(
                f"A key on {fitting.curve} signs with {fitting.hash_name}, not with {hashed.name}.",
                cause="JWS ties each curve to one hash (RFC 7518 §3.4), and so do the backends.",
                hint=f"Pass ec.ECDSA(hashes.{str(fitting.hash_name).upper()}()), or "
                f"hashes.{str(fitting.hash_name).upper()}() to a certificate builder.",
            )
        raw = _sign(self._signer, data, fitting.name, prehashed=prehashed)
        return signatures.raw_to_der(raw, fitting)

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> NoReturn:
        """Refused: the key is for signing."""
        raise _stays("used for a key exchange")


class BackedEd25519PrivateKey(_Refuses, ed25519.Ed25519PrivateKey):
    """An Ed25519 key that signs through its backend."""

    def __init__(self, signer: SignsForOthers, public_key: ed25519.Ed25519PublicKey) -> None:
        self._signer, self._public_key = signer, public_key

    def public_key(self) -> ed25519.Ed25519PublicKey:
        """The public key."""
        return self._public_key

    def sign(self, data: bytes | bytearray | memoryview) -> bytes:
        """Sign a message.

        Raises:
            KeystayError: As for `Signer.sign`.
        """
        return self._signer.sign(bytes(data), "EdDSA")

    def private_bytes_raw(self) -> NoReturn:
        """Refused."""
        raise _stays("read")


def _sign(
    signer: SignsForOthers, data: bytes | bytearray | memoryview, name: str, *, prehashed: bool
) -> bytes:
    if prehashed:
        return signer.sign_digest(bytes(data), name)
    return signer.sign(bytes(data), name)


def _hash_of(
    algorithm: utils.Prehashed | hashes.HashAlgorithm | utils.NoDigestInfo,
) -> tuple[hashes.HashAlgorithm, bool]:
    """The hash, and whether the caller has applied it."""
    prehashed = isinstance(algorithm, utils.Prehashed)
    # Prehashed keeps its hash to itself; there is no public way to it.
    hashed = algorithm._algorithm if isinstance(algorithm, utils.Prehashed) else algorithm
    name = getattr(hashed, "name", type(hashed).__name__)
    if not isinstance(hashed, hashes.HashAlgorithm) or name not in _BITS:
        raise AlgorithmError(
            f"The hash {name} is not one that JWS knows.",
            hint="Use SHA-256, SHA-384 or SHA-512.",
        )
    return hashed, prehashed


def _family(pad: padding.AsymmetricPadding, hashed: hashes.HashAlgorithm) -> str:
    """`RS` or `PS`; refuses what these two are not."""
    if isinstance(pad, padding.PKCS1v15):
        return "RS"
    if not isinstance(pad, padding.PSS):
        raise AlgorithmError(
            f"{type(pad).__name__} is not a padding for signatures.",
            hint="Pass padding.PKCS1v15() or padding.PSS(…).",
        )
    mask = pad.mgf._algorithm
    if not isinstance(pad.mgf, padding.MGF1) or mask.name != hashed.name:
        raise AlgorithmError(
            f"PSS with {hashed.name} uses MGF1 with {hashed.name}, not with {mask.name}.",
            cause="PS256, PS384 and PS512 have one hash for both (RFC 7518 §3.5).",
            hint=f"Pass padding.MGF1(hashes.{hashed.name.upper()}()).",
        )
    salt = pad._salt_length
    if salt is not padding.PSS.DIGEST_LENGTH and salt != hashed.digest_size:
        asked = salt if isinstance(salt, int) else type(salt).__name__.strip("_")
        raise AlgorithmError(
            f"A PSS salt of {asked} cannot be made; it has {hashed.digest_size} bytes, "
            "as the digest.",
            cause="PS256, PS384 and PS512 fix the salt's length (RFC 7518 §3.5), and a cloud KMS "
            "knows no other.",
            hint="Pass salt_length=padding.PSS.DIGEST_LENGTH.",
        )
    return "PS"


def _stays(used: str) -> KeyUnusableError:
    return KeyUnusableError(
        f"The private key cannot be {used}: it stays where it is.",
        cause="This object signs through a keystay signer; it does not hold the key.",
        hint="Use its sign method.",
        code="key-stays",
    )
