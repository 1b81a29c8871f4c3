"""What is asked of every signature before anybody sees it: the right key, the right form, and good.

A backend may sign with another mechanism, encoding or key than it says. SoftHSM signs a thousand
bytes as a digest without complaint; a DER signature sent as a JWS fails at the server, with nothing
but `invalid_client` to show for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from keystay import jwk, signatures
from keystay.algorithms import ALGORITHMS
from keystay.concurrency.forks import hold_off_forks
from keystay.errors import ConfigurationError, KeyChangedError, SignatureInvalidError

if TYPE_CHECKING:
    from keystay.backends.port import BackendSignature, KeyDescription, SignRequest

__all__ = ["SESSIONS_REMEMBERED", "Verification", "Verify"]

Verify = Literal["always", "first"]
"""Check every signature, or the first of each backend session."""

SESSIONS_REMEMBERED = 1024


class Verification:
    """Checks the signatures of one opened key.

    Args:
        name: What messages call the key.
        description: What the backend said of it when it was opened.
        verify: `always` or `first`. What is signed by the very library that would verify it is
            not verified again.

    Raises:
        ConfigurationError: `verify` is neither.
    """

    def __init__(self, name: str, description: KeyDescription, verify: Verify) -> None:
        if verify not in ("always", "first"):
            raise ConfigurationError(
                f"verify is {verify!r}.", hint='Write verify = "always" or verify = "first".'
            )
        self._name, self._description = name, description
        bits = jwk.key_kind(description.public_key)[2]
        self._sizes = {name: a.signature_size(bits) for name, a in ALGORITHMS.items()}
        self._each = verify == "always" and not description.signs_here
        self._first = verify == "first" and not description.signs_here
        self._verified: set[tuple[int, str]] = set()

    def check_key(self, result: BackendSignature) -> None:
        """Refuse a signature by another key than the one that was opened.

        Raises:
            KeyChangedError: It is.
        """
        if result.key_id != self._description.key_id:
            raise KeyChangedError(
                f"The key {self._name} signed as {result.key_id}, "
                f"not as {self._description.key_id}.",
                cause="An alias was pointed at another key, or the key was replaced.",
                hint="Publish the new public key first, then open the signer again.",
            )

    def accept(self, result: BackendSignature, request: SignRequest) -> bytes:
        """The signature as JOSE has it.

        Raises:
            SignatureInvalidError: It has another form than it should, or does not verify.
        """
        value, algorithm = result.value, request.algorithm
        try:
            if result.encoding == "der" and algorithm.kty == "EC":
                value = signatures.der_to_raw(value, algorithm)
            elif result.encoding != "raw":
                raise SignatureInvalidError(
                    f"The encoding {result.encoding!r} does not belong to it.",
                    code="signature-malformed",
                )
            if len(value) != (expected := self._sizes[algorithm.name]):
                raise SignatureInvalidError(
                    f"The signature has {len(value)} bytes where {expected} are due.",
                    code="signature-malformed",
                )
            if self._each:
                self._verify(request, value)
            elif self._first and (session := (result.session, algorithm.name)) not in (
                self._verified
            ):
                self._verify(request, value)
                if len(self._verified) >= SESSIONS_REMEMBERED:
                    self._verified.clear()
                self._verified.add(session)
        except SignatureInvalidError as error:
            raise SignatureInvalidError(
                f"The key {self._name} returned a bad {algorithm.name} signature: {error.message}",
                cause="The backend used another mechanism, encoding or key than it says; "
                "or the public key beside the private key is another one's.",
                hint="Compare the public key on the token or in the KMS with the private key's, "
                "and the mechanism with the algorithm. The signature was not used.",
                code=error.code,
            ) from error
        return value

    def _verify(self, request: SignRequest, value: bytes) -> None:
        with hold_off_forks(request.deadline):  # for OpenSSL's own locks
            signatures.verify(
                self._description.public_key,
                request.algorithm,
                request.message,
                value,
                digest=request.given_digest,
            )
