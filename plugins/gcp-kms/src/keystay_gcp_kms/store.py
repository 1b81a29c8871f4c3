"""A key ring or a key as a key store: makes keys in Google Cloud KMS, and lists their versions."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import quote

from google.cloud import kms_v1

from keystay.backends import Deadline, KeyRecord
from keystay.errors import BackendError
from keystay.key_uri import successor_name
from keystay_gcp_kms.algorithms import algorithm_for_new, key_type_of
from keystay_gcp_kms.checks import check_name
from keystay_gcp_kms.client import Connection
from keystay_gcp_kms.errors import TEXTS, Step
from keystay_gcp_kms.settings import Settings
from keystay_gcp_kms.uri import ResourceName
from keystay_gcp_kms.versions import enum_name, get_version, list_keys, list_versions

if TYPE_CHECKING:
    from keystay.backends import BackendContext
    from keystay.errors import KeystayError
    from keystay.key_uri import KeyURI

__all__ = ["GcpStore"]

_ADMIN = "roles/cloudkms.admin"
_RAW_ADMIN = f"{_ADMIN} and roles/cloudkms.expertRawPKCS1"
_POLL_SECONDS = 0.25


class GcpStore:
    """The key ring or key a `gcpkms:` URI means.

    Args:
        connection: The way to Google; the store closes it.
        name: What the URI names.
        settings: With the protection level of new keys.
        uri: What the user wrote.
        timeout: Seconds each operation may take.
    """

    def __init__(
        self,
        connection: Connection,
        name: ResourceName,
        settings: Settings,
        uri: KeyURI,
        timeout: float,
    ) -> None:
        self._connection, self._name, self._settings = connection, name, settings
        self._uri, self._timeout = uri, timeout
        self._closed = False

    @classmethod
    def open(cls, uri: KeyURI, context: BackendContext) -> GcpStore:
        """Prepare the store; Google is first asked when it is used.

        Raises:
            ConfigurationError: The URI or a setting cannot be used.
        """
        settings = Settings.read(uri, context.settings)
        name = ResourceName.read(uri)
        return cls(Connection(settings), name, settings, uri, context.timeout)

    def __repr__(self) -> str:
        return f"<GcpStore {self._name}>"

    def generate_key(self, key_type: str) -> KeyRecord:
        """Make the key the URI names, with its version 1, in an existing key ring.

        Args:
            key_type: `P-256`, `P-384`, `RSA-2048`, `RSA-3072`, `RSA-4096` or `Ed25519`. RSA keys
                are RAW_PKCS1, since only those can do RS384.

        Returns:
            Version 1. Its `state` is PENDING_GENERATION when Google is still at it.

        Raises:
            ConfigurationError: Google has no such type, or the URI does not name a key.
            KeyUnusableError: The key exists; it is left as it is.
            BackendError: Google refuses.
        """
        self._check_open()
        algorithm = algorithm_for_new(key_type)
        if self._name.key is None or self._name.version is not None:
            raise self._unnamed()
        key = self._name.key
        deadline = Deadline.after(self._timeout)
        request = kms_v1.CreateCryptoKeyRequest(
            parent=self._name.key_ring,
            crypto_key_id=self._name.key_id,
            crypto_key=kms_v1.CryptoKey(
                purpose=kms_v1.CryptoKey.CryptoKeyPurpose.ASYMMETRIC_SIGN,
                version_template=kms_v1.CryptoKeyVersionTemplate(
                    algorithm=algorithm, protection_level=self._settings.protection.upper()
                ),
            ),
        )
        raw = "_RAW_" in algorithm
        made, _ = self._connection.call(
            Step(
                "generating the key",
                key,
                "cloudkms.cryptoKeys.create"
                + (" or cloudkms.cryptoKeyVersions.manageRawPKCS1Keys" if raw else ""),
                _RAW_ADMIN if raw else _ADMIN,
            ),
            deadline,
            lambda client, timeout: client.create_crypto_key(request, retry=None, timeout=timeout),
            repeatable=False,
        )
        check_name(made.name, key, "CreateCryptoKey")
        return self._record(self._generated(f"{key}/cryptoKeyVersions/1", algorithm, deadline))

    def list_keys(self) -> list[KeyRecord]:
        """The key versions that the URI names: of a key ring, of a key, or the one.

        Raises:
            BackendError: Google does not say.
        """
        self._check_open()
        deadline = Deadline.after(self._timeout)
        if self._name.version is not None:
            return [self._record(get_version(self._connection, self._name.version, deadline))]
        names = (
            [key.name for key in list_keys(self._connection, self._name.key_ring, deadline)]
            if self._name.key is None
            else [self._name.key]
        )
        return [
            self._record(version)
            for name in sorted(names)
            for version in list_versions(self._connection, name, deadline)
        ]

    def successor_uri(self, suffix: str) -> str:
        """Another key of the ring: `cryptoKeys/epic` becomes `cryptoKeys/epic-<suffix>`.

        Raises:
            ConfigurationError: The URI names no key.
        """
        if self._name.key_id is None:
            raise self._unnamed()
        _, mark, query = self._uri.text.partition("?")
        key = f"{self._name.key_ring}/cryptoKeys/{successor_name(self._name.key_id, suffix)}"
        return f"gcpkms://{key}{mark}{query}"

    def close(self) -> None:
        """Close the connection; idempotent."""
        self._closed = True
        self._connection.close()

    def _unnamed(self) -> KeystayError:
        if self._name.key is None:
            return TEXTS.error("new-key-unnamed", name=self._name)
        return TEXTS.error("new-version-named", name=self._name.key)

    def _check_open(self) -> None:
        if self._closed:
            raise TEXTS.error("store-closed", name=self._name)

    def _generated(self, name: str, algorithm: str, deadline: Deadline) -> kms_v1.CryptoKeyVersion:
        """The new version, once it is enabled; or as it is when time is up: it exists by now."""
        version = kms_v1.CryptoKeyVersion(
            name=name,
            algorithm=algorithm,
            protection_level=self._settings.protection.upper(),
            state="PENDING_GENERATION",
        )
        pending = kms_v1.CryptoKeyVersion.CryptoKeyVersionState.PENDING_GENERATION
        while version.state == pending:
            try:
                version = get_version(self._connection, name, deadline)
            except BackendError:
                return version
            if version.state == pending:
                time.sleep(min(_POLL_SECONDS, deadline.remaining))
        return version

    def _record(self, version: kms_v1.CryptoKeyVersion) -> KeyRecord:
        algorithm = enum_name(version.algorithm)
        query = {n: v for n, v in self._uri.query.items() if n != "protection"}
        text = "&".join(f"{name}={quote(value, safe='-._~:')}" for name, value in query.items())
        return KeyRecord(
            uri=f"gcpkms://{version.name}" + (f"?{text}" if text else ""),
            key_type=key_type_of(algorithm),
            label=version.name.split("/")[-3],
            key_id=version.name,
            attributes={
                "algorithm": algorithm,
                "protection_level": enum_name(version.protection_level),
                "state": enum_name(version.state),
                "imported": bool(version.import_job),
            },
        )
