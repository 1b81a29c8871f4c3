"""An opened KMS key: resolved to its ARN and public key once, and held to both."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn

from botocore.exceptions import ClientError
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key

from keystay.algorithms import for_key, get
from keystay.backends import BackendSignature, Deadline, KeyDescription
from keystay.errors import BackendError
from keystay.jwk import key_kind
from keystay_aws_kms.algorithms import KEY_SPECS, MAX_RAW_BYTES, SIGNING
from keystay_aws_kms.client import Connection
from keystay_aws_kms.custody import custody_of
from keystay_aws_kms.errors import TEXTS, code_of
from keystay_aws_kms.metadata import KeyMetadata, unreadable
from keystay_aws_kms.settings import Settings
from keystay_aws_kms.uri import KeyReference

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

    from keystay.backends import BackendContext, SignRequest
    from keystay.custody import Custody
    from keystay.key_uri import KeyURI
    from keystay_aws_kms.client import Kms

__all__ = ["KmsKey"]

# Refusals of Sign that the key's state, or an alias at another key, may explain.
_EXPLAINED = frozenset(
    ("key-not-found", "aws-access-denied", "aws-key-disabled", "aws-key-state", "aws-key-usage",
     "aws-refused")
)  # fmt: skip


class KmsKey:
    """A private key in AWS KMS.

    Args:
        connection: The way to KMS; the key closes it.
        reference: The key as the user named it.
        deadline: When to give up opening it.

    Raises:
        KeyNotFoundError, KeyUnusableError, LoginError: As KMS says.
        BackendUnavailableError: KMS cannot be reached, or not in time.
    """

    def __init__(self, connection: Connection, reference: KeyReference, deadline: Deadline) -> None:
        self._connection = connection
        self._closed = False
        self._name = reference.text
        metadata = self._describe(deadline)
        metadata.check(self._name)
        self._arn = metadata.arn
        self._last_signed: str | None = None
        # A key is asked for by ARN. An alias goes on being asked for as such: KMS answers with
        # the ARN of whichever key signed, and that is how a re-pointed alias is found out.
        self._target = self._name if reference.alias else self._arn
        public_key = self._fetch_public_key(metadata, deadline)
        self._description = KeyDescription(
            public_key=public_key,
            algorithms=metadata.algorithms,
            key_id=self._arn,
            label=reference.alias or metadata.key_id,
            custody=custody_of(metadata, connection.endpoint),
            created=metadata.made,
        )

    @classmethod
    def open(cls, uri: KeyURI, context: BackendContext) -> KmsKey:
        """Open the key a URI names.

        Raises:
            KeyURIError, ConfigurationError: The URI or the settings cannot be used.
            BackendError: As for the class.
        """
        deadline = Deadline.after(context.timeout)
        reference = KeyReference.of(uri)
        settings = Settings.read(uri, context.settings, reference.region)
        connection = Connection(settings)
        try:
            return cls(connection, reference, deadline)
        except BaseException:
            connection.close()
            raise

    def __repr__(self) -> str:
        return f"<KmsKey {self._name}>"

    def describe(self) -> KeyDescription:
        """What is known about the key, since it was opened."""
        return self._description

    def custody_now(self, deadline: Deadline) -> Custody:
        """Where the key is, by what KMS says now.

        Raises:
            KeyChangedError: The alias points at another key.
            BackendError: KMS does not say.
        """
        metadata = self._describe(deadline)
        self._check_same(metadata)
        return custody_of(metadata, self._connection.endpoint)

    def sign(self, request: SignRequest) -> BackendSignature:
        """Sign in KMS; tries again, until the deadline, where that can help.

        Raises:
            AlgorithmError: The key cannot do this algorithm, or not with so long a message.
            SignatureInvalidError: The digest has a wrong length.
            KeyChangedError: The alias points at another key that cannot stand in.
            BackendTimeoutError: No answer in time.
            BackendError: KMS refuses.
        """
        self._check_open()
        parameters = self._parameters(request)
        try:
            reply, session = self._connection.call(
                "Sign", self._arn, lambda kms: kms.sign(**parameters), request.deadline
            )
        except BackendError as error:
            self._explain(error, request.deadline)
        self._last_signed = request.algorithm.name
        signature, key_id = reply.get("Signature"), reply.get("KeyId")
        if not isinstance(signature, bytes) or not isinstance(key_id, str):
            raise unreadable("Sign")
        encoding = SIGNING[request.algorithm.name].encoding
        return BackendSignature(signature, encoding, key_id, _request_id(reply), session)

    def health(self, deadline: Deadline) -> None:
        """Ask KMS whether the key could sign now (DryRun). Does not sign.

        Policies may allow one algorithm only, so the one that signed last is asked for; before
        the first signature the key's default.

        Raises:
            KeyChangedError: The alias points at another key.
            BackendError: It could not.
        """
        self._check_open()
        metadata = self._describe(deadline)
        self._check_same(metadata)
        metadata.check(self._name)
        algorithm = get(self._last_signed or self._default())
        signing = SIGNING[algorithm.name]
        digest = os.urandom(algorithm.digest_size or 32)

        def probe(kms: Kms) -> None:
            try:
                kms.sign(
                    KeyId=self._target,
                    Message=digest,
                    MessageType=signing.message_type,
                    SigningAlgorithm=signing.name,
                    DryRun=True,
                )
            except ClientError as error:  # KMS has no other way to say that it would
                if code_of(error) != "DryRunOperationException":
                    raise

        try:
            self._connection.call("Sign", self._arn, probe, deadline)
        except BackendError as error:
            self._explain(error, deadline)

    def close(self) -> None:
        """Close the connection; idempotent."""
        if not self._closed:
            self._closed = True
            self._connection.close()

    def _check_open(self) -> None:
        if self._closed:
            raise TEXTS.error("key-closed", name=self._name)

    def _default(self) -> str:
        """The algorithm that keystay signs with when nobody names one."""
        description = self._description
        kty, curve, _ = key_kind(description.public_key)
        return next(name for name in for_key(kty, curve) if name in description.algorithms)

    def _describe(self, deadline: Deadline) -> KeyMetadata:
        reply, _ = self._connection.call(
            "DescribeKey", self._name, lambda kms: kms.describe_key(KeyId=self._name), deadline
        )
        return KeyMetadata.of(reply)

    def _fetch_public_key(self, metadata: KeyMetadata, deadline: Deadline) -> PublicKeyTypes:
        arn = metadata.arn
        reply, _ = self._connection.call(
            "GetPublicKey", arn, lambda kms: kms.get_public_key(KeyId=arn), deadline
        )
        der = reply.get("PublicKey")
        if not isinstance(der, bytes) or reply.get("KeyId") != arn:
            raise unreadable("GetPublicKey")
        try:
            public_key = load_der_public_key(der)
        except (ValueError, UnsupportedAlgorithm):
            raise unreadable("GetPublicKey") from None
        kty, curve, bits = key_kind(public_key)
        if (curve or f"{kty}-{bits}") != KEY_SPECS[metadata.spec].key_type:
            raise unreadable("GetPublicKey")
        return public_key

    def _parameters(self, request: SignRequest) -> dict[str, Any]:
        """What Sign is given."""
        name = request.algorithm.name
        if name not in self._description.algorithms:
            able = ", ".join(self._description.algorithms)
            raise TEXTS.error("algorithm", name=self._name, algorithm=name, able=able)
        signing = SIGNING[name]
        message = request.digest if signing.message_type == "DIGEST" else request.message
        if message is None:
            raise TEXTS.error("message-needed", algorithm=name)
        size, due = len(message), request.algorithm.digest_size
        if signing.message_type == "RAW":
            if size > MAX_RAW_BYTES:
                raise TEXTS.error("message-too-long", algorithm=name, size=size, most=MAX_RAW_BYTES)
        elif size != due:
            raise TEXTS.error("digest-length", algorithm=name, size=size, due=due)
        return {
            "KeyId": self._target,
            "Message": message,
            "MessageType": signing.message_type,
            "SigningAlgorithm": signing.name,
        }

    def _check_same(self, metadata: KeyMetadata) -> None:
        if metadata.arn != self._arn:
            raise TEXTS.error("alias-moved", name=self._name, found=metadata.arn, opened=self._arn)

    def _explain(self, error: BackendError, deadline: Deadline) -> NoReturn:
        """Raise what is wrong with the key, if that explains why it did not sign; else `error`."""
        if error.code in _EXPLAINED:
            try:
                metadata = self._describe(deadline)
            except BackendError:
                raise error from error.__cause__
            self._check_same(metadata)
            metadata.check(self._name)
        raise error from error.__cause__


def _request_id(reply: Mapping[str, Any]) -> str | None:
    """AWS's id of the request, for its support and CloudTrail."""
    found = reply.get("ResponseMetadata", {}).get("RequestId")
    return found if isinstance(found, str) else None
