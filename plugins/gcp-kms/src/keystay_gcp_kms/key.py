"""An opened Google Cloud KMS key version."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from google.cloud import kms_v1

from keystay.backends import BackendSignature, Deadline, KeyDescription
from keystay.custody import Fact
from keystay.errors import BackendError, KeystayError
from keystay.jwk import key_kind
from keystay.signatures import digest_info
from keystay_gcp_kms import algorithms, attestation, custody
from keystay_gcp_kms.checks import check_name, check_public_key, check_signature, crc32c
from keystay_gcp_kms.client import Connection
from keystay_gcp_kms.errors import TEXTS, Step
from keystay_gcp_kms.settings import Settings
from keystay_gcp_kms.uri import ResourceName
from keystay_gcp_kms.versions import enum_name, get_version, list_versions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
    from cryptography.x509 import Certificate

    from keystay.backends import BackendContext, SignRequest
    from keystay.custody import Custody
    from keystay.key_uri import KeyURI

__all__ = ["GcpKey"]

_EXTERNAL = ("EXTERNAL", "EXTERNAL_VPC")
_SIGNER = "roles/cloudkms.signer"
_RAW_SIGNER = f"{_SIGNER} and roles/cloudkms.expertRawPKCS1"
_MOST_LISTED = 10


class GcpKey:
    """A key version in Google Cloud KMS.

    Args:
        connection: The way to Google; the key closes it.
        name: The key version's name.
        settings: For the custody.
        deadline: When to give up opening it.
        roots: Certificates trusted to vouch for HSMs.

    Raises:
        BackendError: It cannot be reached, is not enabled, or cannot sign assertions; or an
            answer fails Google's integrity checks.
    """

    def __init__(
        self,
        connection: Connection,
        name: ResourceName,
        settings: Settings,
        deadline: Deadline,
        roots: Sequence[Certificate] = (),
    ) -> None:
        self._connection, self._settings, self._roots = connection, settings, roots
        self._name = str(name)
        self._closed = False
        version = self._version(deadline)
        algorithm_name = enum_name(version.algorithm)
        self._algorithm = algorithms.find(algorithm_name, self._name)
        self._level = enum_name(version.protection_level)
        public_key = self._public_key(deadline, algorithm_name)
        # An external key manager gets the message itself, and hashes it.
        self._sends = "message" if self._level in _EXTERNAL else self._algorithm.sends
        self._description = KeyDescription(
            public_key=public_key,
            algorithms=self._algorithm.able,
            key_id=self._name,
            label=f"{name.key_id} version {name.values[-1]}",
            custody=self._judge(version, public_key),
            created=_created(version),
            algorithm_hint=algorithms.hint(self._algorithm),
        )

    @classmethod
    def open(cls, uri: KeyURI, context: BackendContext) -> GcpKey:
        """Open the key version a URI names.

        Raises:
            KeyURIError: The URI names none; the error lists the enabled versions of the key.
            ConfigurationError: A setting cannot be used.
            BackendError: As for the class.
        """
        settings = Settings.read(uri, context.settings)
        name = ResourceName.read(uri)
        deadline = Deadline.after(context.timeout)
        connection = Connection(settings)
        try:
            if name.version is None:
                raise _no_version(connection, name, deadline)
            return cls(connection, name, settings, deadline, _roots(settings, context))
        except BaseException:
            connection.close()
            raise

    def __repr__(self) -> str:
        return f"<GcpKey {self._name}>"

    def describe(self) -> KeyDescription:
        """What is known about the key version, as of its opening."""
        return self._description

    def custody_now(self, deadline: Deadline) -> Custody:
        """Where the key is, by what Google and the HSM say now.

        Raises:
            KeyUnusableError: The version is not enabled any more.
            BackendError: Google cannot be asked.
        """
        return self._judge(self._version(deadline), self._description.public_key)

    def sign(self, request: SignRequest) -> BackendSignature:
        """Have Google sign; repeated within the deadline while that can help.

        Raises:
            BackendError: It cannot; or the answer fails an integrity check (`gcp-crc-…`).
            KeyChangedError: The key signed at another protection level than it had.
        """
        self._check_open()
        asked = self._request(request)
        step = Step(
            "signing",
            self._name,
            "cloudkms.cryptoKeyVersions.useToSign"
            + (" or manageRawPKCS1Keys" if self._algorithm.sends == "digest-info" else ""),
            _RAW_SIGNER if self._algorithm.sends == "digest-info" else _SIGNER,
        )
        answer, session = self._connection.call(
            step,
            request.deadline,
            lambda client, timeout: client.asymmetric_sign(asked, retry=None, timeout=timeout),
        )
        check_signature(answer, sent="digest" if self._sends == "digest" else "data")
        level = enum_name(answer.protection_level)
        if level != self._level:
            raise TEXTS.error(
                "protection-changed", name=self._name, found=level, opened=self._level
            )
        # The name is what the core compares with the one that was opened.
        encoding: Literal["der", "raw"] = "der" if request.algorithm.kty == "EC" else "raw"
        name = answer.name or "(no name)"
        return BackendSignature(answer.signature, encoding, name, session=session)

    def health(self, deadline: Deadline) -> None:
        """Ask for the version's state; signs nothing.

        Raises:
            KeyUnusableError: It is not enabled any more.
            BackendError: Google cannot be asked.
        """
        self._check_open()
        self._version(deadline)

    def close(self) -> None:
        """Close the connection; idempotent."""
        self._closed = True
        self._connection.close()

    def _check_open(self) -> None:
        if self._closed:
            raise TEXTS.error("key-closed", name=self._name)

    def _judge(self, version: kms_v1.CryptoKeyVersion, public_key: PublicKeyTypes) -> Custody:
        statement = version.attestation.content
        found = custody.Attestation(base64.b64encode(statement).decode() if statement else None)
        if self._roots:
            try:
                root = attestation.verify(version.attestation, public_key, self._roots)
                found = replace(found, verified_by=root)
            except attestation.AttestationInvalid as error:
                found = replace(found, failure=str(error))
        level, algorithm = enum_name(version.protection_level), enum_name(version.algorithm)
        return custody.judge(level, self._settings, _facts(version, algorithm), found)

    def _version(self, deadline: Deadline) -> kms_v1.CryptoKeyVersion:
        version = get_version(self._connection, self._name, deadline)
        state = enum_name(version.state)
        if state != "ENABLED":
            failure = version.import_failure_reason or version.generation_failure_reason
            reason = failure or "It was disabled or destroyed, or is not ready yet."
            raise TEXTS.error("not-enabled", name=self._name, state=state, reason=reason)
        return version

    def _public_key(self, deadline: Deadline, algorithm: str) -> PublicKeyTypes:
        request = kms_v1.GetPublicKeyRequest(name=self._name)
        answer, _ = self._connection.call(
            Step(
                "reading the public key",
                self._name,
                "cloudkms.cryptoKeyVersions.viewPublicKey",
                "roles/cloudkms.publicKeyViewer",
            ),
            deadline,
            lambda client, timeout: client.get_public_key(request, retry=None, timeout=timeout),
        )
        check_public_key(answer)
        check_name(answer.name, self._name, "GetPublicKey")
        told = enum_name(answer.algorithm), enum_name(answer.protection_level)
        if told != (algorithm, self._level):
            raise self._inconsistent(
                f"its public key is said to be {told[0]} at {told[1]}, the version {algorithm} "
                f"at {self._level}"
            )
        try:
            public_key = load_pem_public_key(answer.pem.encode())
        except (ValueError, UnsupportedAlgorithm) as error:
            raise self._inconsistent("its public key cannot be read") from error
        kty, curve, bits = key_kind(public_key)
        kind = f"RSA-{bits}" if kty == "RSA" else str(curve)
        if kind != self._algorithm.key_type:
            raise self._inconsistent(f"its public key is {kind}, its algorithm {algorithm}")
        return public_key

    def _inconsistent(self, what: str) -> KeystayError:
        return TEXTS.error("answers-disagree", name=self._name, what=what)

    def _request(self, request: SignRequest) -> kms_v1.AsymmetricSignRequest:
        digest, data = request.digest, request.message
        if self._sends == "message":
            if data is None:
                raise TEXTS.error("message-needed", name=self._name)
        elif digest is None:
            raise TEXTS.error("no-digest", algorithm=request.algorithm.name)
        elif self._sends == "digest":
            return kms_v1.AsymmetricSignRequest(
                name=self._name,
                digest=kms_v1.Digest({str(request.algorithm.hash_name): digest}),
                digest_crc32c=crc32c(digest),
            )
        else:
            data = digest_info(digest, request.algorithm)
        return kms_v1.AsymmetricSignRequest(name=self._name, data=data, data_crc32c=crc32c(data))


def _facts(version: kms_v1.CryptoKeyVersion, algorithm: str) -> dict[str, str | bool]:
    facts: dict[str, str | bool] = {"algorithm": algorithm, "imported": bool(version.import_job)}
    if version.generate_time:
        facts["generated"] = version.generate_time.isoformat()
    if version.import_time:
        facts["import_time"] = version.import_time.isoformat()
    if version.attestation.content:
        facts["attestation_format"] = enum_name(version.attestation.format)
    return facts


def _created(version: kms_v1.CryptoKeyVersion) -> Fact | None:
    """When it was generated; a key that was imported is older than Google can say."""
    if version.import_job or not version.generate_time:
        return None
    return Fact(version.generate_time.isoformat(), "reported")


def _roots(settings: Settings, context: BackendContext) -> list[Certificate]:
    if settings.attestation_roots is None:
        return []
    path = context.base_dir / settings.attestation_roots
    try:
        return attestation.load_roots(path.read_bytes())
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it holds no PEM certificate"
        raise TEXTS.error("attestation-roots", path=path, problem=why) from None


def _no_version(connection: Connection, name: ResourceName, deadline: Deadline) -> KeystayError:
    if name.key is None:
        return TEXTS.error("key-ring", name=name)
    try:
        found = [
            v
            for v in list_versions(connection, name.key, deadline)
            if enum_name(v.state) == "ENABLED"
        ]
        listed = ", ".join(
            f"{v.name.removeprefix(f'{name}/')} ({enum_name(v.algorithm)})"
            for v in found[:_MOST_LISTED]
        )
        more = f" and {len(found) - _MOST_LISTED} more" if len(found) > _MOST_LISTED else ""
        enabled = f"Enabled: {listed}{more}." if found else "No version of it is enabled."
        first = found[0].name if found else f"{name}/cryptoKeyVersions/N"
    except BackendError as error:
        enabled = f"Its versions could not be listed: {error.message}"
        first = f"{name}/cryptoKeyVersions/N"
    return TEXTS.error("version-missing", enabled=enabled, first=first)
