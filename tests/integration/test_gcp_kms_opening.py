"""Opening a Google key: what is wrong with a name, a version or an answer is said by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import keystay
from keystay import key_uri
from keystay.backends import BackendContext, GeneratesKeys, ListsKeys
from keystay.backends.registry import default_registry
from keystay.errors import (
    BackendError,
    BackendUnavailableError,
    ConfigurationError,
    KeyChangedError,
    KeyNotFoundError,
    KeystayError,
    KeyUnusableError,
    KeyURIError,
    PolicyError,
    SignerClosedError,
)
from tests.support.gcp_kms_server import KEY_RING
from tests.support.secrets_watch import WATCH

if TYPE_CHECKING:
    from tests.support.gcp_kms_server import GcpKmsServer


def refused(uri: str, kind: type[KeystayError], code: str, **options: Any) -> str:
    """The text of the error that opening ends in; it has a cause and a remedy."""
    with pytest.raises(kind) as caught:
        keystay.open_signer(uri, **options)
    assert code == caught.value.code
    assert caught.value.hint
    WATCH.check(f"{caught.value} {caught.value.__cause__}", "the error")
    return str(caught.value)


def store(uri: str, **settings: Any) -> Any:
    """The store of a URI."""
    return default_registry().open_store(key_uri.parse(uri), BackendContext(settings=settings))


class TestVersion:
    """Which version."""

    def test_enabled_versions_are_listed(self, gcp_kms_both: GcpKmsServer) -> None:
        """A key without a version is refused; the remedy is a URI that works."""
        service = gcp_kms_both.service
        service.add("epic", "EC_SIGN_P256_SHA256", state="DISABLED")
        service.add("epic", "EC_SIGN_P384_SHA384")
        last = service.add("epic", "RSA_SIGN_RAW_PKCS1_2048")
        key = last.rpartition("/cryptoKeyVersions")[0]
        text = refused(gcp_kms_both.uri(key), KeyURIError, "gcp-version-missing")
        assert (
            "Enabled: cryptoKeyVersions/2 (EC_SIGN_P384_SHA384), "
            "cryptoKeyVersions/3 (RSA_SIGN_RAW_PKCS1_2048)."
        ) in text
        assert f"Write gcpkms://{key}/cryptoKeyVersions/2" in text

    def test_none_is_enabled(self, gcp_kms: GcpKmsServer) -> None:
        """It says so."""
        name = gcp_kms.service.add("epic", "EC_SIGN_P256_SHA256", state="DESTROYED")
        key = name.rpartition("/cryptoKeyVersions")[0]
        text = refused(gcp_kms.uri(key), KeyURIError, "gcp-version-missing")
        assert "No version of it is enabled." in text

    def test_listing_is_denied(self, gcp_kms: GcpKmsServer) -> None:
        """The version is still what is missing."""
        name = gcp_kms.service.add("epic", "EC_SIGN_P256_SHA256")
        gcp_kms.service.faults.denied = {"cloudkms.cryptoKeyVersions.list"}
        key = name.rpartition("/cryptoKeyVersions")[0]
        text = refused(gcp_kms.uri(key), KeyURIError, "gcp-version-missing")
        assert "could not be listed" in text

    def test_a_key_ring(self, gcp_kms: GcpKmsServer) -> None:
        """The remedy is the command that lists it."""
        text = refused(gcp_kms.uri(KEY_RING), KeyURIError, "gcp-version-missing")
        assert f"keystay key list 'gcpkms://{KEY_RING}'" in text

    @pytest.mark.parametrize("state", ["DISABLED", "DESTROYED", "PENDING_GENERATION"])
    def test_not_enabled(self, gcp_kms_both: GcpKmsServer, state: str) -> None:
        """The state is named."""
        uri = gcp_kms_both.add("epic", "EC_SIGN_P256_SHA256", state=state)
        assert f"is {state}, not ENABLED" in refused(uri, KeyUnusableError, "gcp-key-not-enabled")

    def test_not_there(self, gcp_kms_both: GcpKmsServer) -> None:
        """The name is repeated, and the way to see what there is."""
        uri = gcp_kms_both.uri(f"{KEY_RING}/cryptoKeys/none/cryptoKeyVersions/1")
        text = refused(uri, KeyNotFoundError, "key-not-found")
        assert "cryptoKeys/none" in text
        assert "keystay key list" in text


@pytest.mark.parametrize(
    ("algorithm", "why"),
    [
        ("EC_SIGN_SECP256K1_SHA256", "secp256k1"),
        ("HMAC_SHA256", "MAC"),
        ("RSA_DECRYPT_OAEP_3072_SHA256", "decrypt"),
        ("PQ_SIGN_ML_DSA_65", "post-quantum"),
        ("ML_KEM_768", "KEM"),
        ("AES_256_GCM", "encrypt"),
        ("GOOGLE_SYMMETRIC_ENCRYPTION", "encrypt"),
    ],
)
def test_algorithms_that_sign_no_assertions(
    gcp_kms: GcpKmsServer, algorithm: str, why: str
) -> None:
    """Refused by name, with the reason and what to create."""
    uri = gcp_kms.add("odd", algorithm)
    text = refused(uri, KeyUnusableError, "gcp-algorithm-unusable")
    assert algorithm in text
    assert why in text
    assert "EC_SIGN_P384_SHA384" in text


class TestAnswers:
    """Answers that do not agree."""

    def test_another_name(self, gcp_kms_both: GcpKmsServer) -> None:
        """GetCryptoKeyVersion answers for another version."""
        uri = gcp_kms_both.add("epic", "EC_SIGN_P256_SHA256")
        gcp_kms_both.service.faults.name = f"{KEY_RING}/cryptoKeys/epic/cryptoKeyVersions/9"
        assert "cryptoKeyVersions/9" in refused(uri, KeyChangedError, "gcp-name-mismatch")

    @pytest.mark.parametrize("corrupt", ["pem", "no-pem"])
    def test_the_pem_is_corrupted(self, gcp_kms_both: GcpKmsServer, corrupt: str) -> None:
        """A wrong checksum, and none at all."""
        uri = gcp_kms_both.add("epic", "EC_SIGN_P256_SHA256")
        gcp_kms_both.service.faults.corrupt = {corrupt}
        refused(uri, BackendUnavailableError, "gcp-crc-pem")

    def test_the_public_key_is_of_another_kind(self, gcp_kms: GcpKmsServer) -> None:
        """Google's algorithm and the PEM."""
        key = ec.generate_private_key(ec.SECP384R1())
        uri = gcp_kms.add("epic", "EC_SIGN_P256_SHA256", private_key=key)
        text = refused(uri, KeyUnusableError, "gcp-answers-disagree")
        assert "P-384" in text


class TestPermissions:
    """Each denial names the permission, the role and the resource."""

    @pytest.mark.parametrize(
        ("permission", "role"),
        [
            ("cloudkms.cryptoKeyVersions.get", "roles/cloudkms.viewer"),
            ("cloudkms.cryptoKeyVersions.viewPublicKey", "roles/cloudkms.publicKeyViewer"),
        ],
    )
    def test_opening(self, gcp_kms_both: GcpKmsServer, permission: str, role: str) -> None:
        """Reading the version and its public key."""
        uri = gcp_kms_both.add("epic", "EC_SIGN_P256_SHA256")
        gcp_kms_both.service.faults.denied = {permission}
        text = refused(uri, BackendError, "gcp-access-denied")
        assert permission in text
        assert role in text
        assert f"{KEY_RING}/cryptoKeys/epic/cryptoKeyVersions/1" in text

    @pytest.mark.parametrize(
        ("algorithm", "roles"),
        [
            ("EC_SIGN_P256_SHA256", ["roles/cloudkms.signer"]),
            ("RSA_SIGN_RAW_PKCS1_2048", ["roles/cloudkms.signer", "cloudkms.expertRawPKCS1"]),
        ],
    )
    def test_signing(self, gcp_kms: GcpKmsServer, algorithm: str, roles: list[str]) -> None:
        """RAW keys take a role of their own."""
        with keystay.open_signer(gcp_kms.add("epic", algorithm)) as signer:
            gcp_kms.service.faults.denied = {"cloudkms.cryptoKeyVersions.useToSign"}
            with pytest.raises(BackendError, match=r"useToSign") as caught:
                signer.sign(b"message")
        assert caught.value.code == "gcp-access-denied"
        assert all(role in str(caught.value) for role in roles)
        assert caught.value.__cause__ is not None

    def test_the_api_is_disabled(self, gcp_kms: GcpKmsServer) -> None:
        """The remedy enables it."""
        uri = gcp_kms.add("epic", "EC_SIGN_P256_SHA256")
        gcp_kms.service.faults.refuse("PERMISSION_DENIED", reason="SERVICE_DISABLED")
        assert "gcloud services enable" in refused(uri, BackendError, "gcp-api-disabled")


class TestCustody:
    """An emulator proves nothing; what it reports is told, and does not count."""

    def test_an_emulator_is_not_hardware(self, gcp_kms: GcpKmsServer) -> None:
        """Whatever level it reports."""
        uri = gcp_kms.add("epic", "EC_SIGN_P256_SHA256", level="HSM", imported=True)
        with keystay.open_signer(uri, custody="out-of-process") as signer:
            assert ("other-process", "asserted") == (
                signer.custody.location,
                signer.custody.evidence,
            )
            facts = {name: fact.value for name, fact in signer.custody.facts.items()}
        assert facts == {
            "protection_level": "HSM",
            "algorithm": "EC_SIGN_P256_SHA256",
            "imported": True,
            "import_time": "2026-01-02T00:00:00+00:00",
            "attestation_format": "CAVIUM_V2_COMPRESSED",
        }
        with pytest.raises(PolicyError):
            keystay.open_signer(uri, custody="hardware")


def test_health_asks_and_signs_nothing(gcp_kms_both: GcpKmsServer) -> None:
    """Good while the version is enabled."""
    name = gcp_kms_both.service.add("epic", "EC_SIGN_P256_SHA256")
    with keystay.open_signer(gcp_kms_both.uri(name)) as signer:
        signer.health()
        gcp_kms_both.service.set_state(name, "DISABLED")
        with pytest.raises(KeyUnusableError, match="DISABLED"):
            signer.health()
        with pytest.raises(KeyUnusableError, match="DISABLED") as caught:
            signer.sign(b"message")
        assert caught.value.code == "gcp-key-not-enabled"
    assert 1 == len(gcp_kms_both.service.called("AsymmetricSign"))


def test_settings_come_from_the_table(gcp_kms: GcpKmsServer) -> None:
    """The endpoint stands in [backends.gcpkms] as well; what is unknown there is refused."""
    name = gcp_kms.service.add("epic", "EC_SIGN_P256_SHA256")
    table: dict[str, object] = {"endpoint": gcp_kms.endpoint, "transport": "grpc"}
    with keystay.open_signer(f"gcpkms://{name}", backends={"gcpkms": table}) as signer:
        signer.sign(b"message")
    with pytest.raises(ConfigurationError, match="Did you mean 'endpoint'"):
        keystay.open_signer(f"gcpkms://{name}", backends={"gcpkms": {"endpiont": "x"}})


class TestStore:
    """Keys are made and listed."""

    @pytest.mark.parametrize(
        ("key_type", "algorithm"),
        [
            ("P-256", "EC_SIGN_P256_SHA256"),
            ("P-384", "EC_SIGN_P384_SHA384"),
            ("RSA-2048", "RSA_SIGN_RAW_PKCS1_2048"),
            ("RSA-3072", "RSA_SIGN_RAW_PKCS1_3072"),
            ("RSA-4096", "RSA_SIGN_RAW_PKCS1_4096"),
            ("Ed25519", "EC_SIGN_ED25519"),
        ],
    )
    def test_generate(self, gcp_kms_both: GcpKmsServer, key_type: str, algorithm: str) -> None:
        """The record's URI opens it, once Google is done."""
        gcp_kms_both.service.pending = 1
        made = store(gcp_kms_both.uri(f"{KEY_RING}/cryptoKeys/new"))
        assert isinstance(made, GeneratesKeys)
        assert isinstance(made, ListsKeys)
        record = made.generate_key(key_type)
        made.close()
        assert (key_type, "new", algorithm, "SOFTWARE", "ENABLED") == (
            record.key_type,
            record.label,
            *(record.attributes[n] for n in ("algorithm", "protection_level", "state")),
        )
        with keystay.open_signer(record.uri) as signer:
            assert (key_type, record.key_id) == (signer.key_type, signer.key_id)

    def test_generate_takes_its_time(self, gcp_kms: GcpKmsServer) -> None:
        """When time is up the key is there, and its record says that it is not ready."""
        gcp_kms.service.pending = 1000
        uri = key_uri.parse(gcp_kms.uri(f"{KEY_RING}/cryptoKeys/slow"))
        made: Any = default_registry().open_store(uri, BackendContext(timeout=1.0))
        record = made.generate_key("P-384")
        made.close()
        assert record.attributes["state"] == "PENDING_GENERATION"

    def test_never_replaced(self, gcp_kms_both: GcpKmsServer) -> None:
        """An existing key is left as it is."""
        gcp_kms_both.service.add("epic", "EC_SIGN_P256_SHA256")
        made = store(gcp_kms_both.uri(f"{KEY_RING}/cryptoKeys/epic"))
        with pytest.raises(KeyUnusableError) as caught:
            made.generate_key("P-384")
        made.close()
        assert caught.value.code == "key-exists"
        assert 1 == len(gcp_kms_both.service.versions)

    def test_making_is_not_repeated_but_for_a_quota(self, gcp_kms: GcpKmsServer) -> None:
        """An answer that got lost may have made the key already."""
        gcp_kms.service.faults.refuse("RESOURCE_EXHAUSTED")
        gcp_kms.service.faults.refuse("UNAVAILABLE")
        made = store(gcp_kms.uri(f"{KEY_RING}/cryptoKeys/new"))
        with pytest.raises(BackendUnavailableError):
            made.generate_key("P-384")
        made.close()
        assert 2 == len(gcp_kms.service.called("CreateCryptoKey"))

    @pytest.mark.parametrize(
        ("key_type", "match"), [("P-521", "Known: P-256"), ("RSA-3070", "Did you mean 'RSA-3072'")]
    )
    def test_types_google_does_not_have(
        self, gcp_kms: GcpKmsServer, key_type: str, match: str
    ) -> None:
        """P-521 and slips."""
        made = store(gcp_kms.uri(f"{KEY_RING}/cryptoKeys/new"))
        with pytest.raises(ConfigurationError, match=match):
            made.generate_key(key_type)
        made.close()

    @pytest.mark.parametrize(
        ("tail", "code"),
        [("", "key-label-missing"), ("/cryptoKeys/new/cryptoKeyVersions/1", "gcp-version-given")],
    )
    def test_the_uri_names_the_new_key(self, gcp_kms: GcpKmsServer, tail: str, code: str) -> None:
        """Neither the key ring nor a version."""
        made = store(gcp_kms.uri(KEY_RING + tail))
        with pytest.raises(KeyURIError) as caught:
            made.generate_key("P-384")
        made.close()
        assert code == caught.value.code

    def test_list(self, gcp_kms_both: GcpKmsServer) -> None:
        """Of a key ring, a key, a version; over pages; only keys that sign."""
        service = gcp_kms_both.service
        service.page_size = 2
        names = [service.add(key, "EC_SIGN_P256_SHA256") for key in ("b", "a", "b", "b", "c")]
        service.add("crypt", "GOOGLE_SYMMETRIC_ENCRYPTION", purpose="ENCRYPT_DECRYPT")
        for name, count in ((KEY_RING, 5), (f"{KEY_RING}/cryptoKeys/b", 3), (names[0], 1)):
            made = store(gcp_kms_both.uri(name))
            records = made.list_keys()
            made.close()
            assert count == len(records)
            for record in records:
                keystay.open_signer(record.uri).close()
        assert ["a", "b", "b", "b", "c"] == [r.label for r in self._all(gcp_kms_both)]

    def test_closed(self, gcp_kms: GcpKmsServer) -> None:
        """A closed store does nothing more."""
        made = store(gcp_kms.uri(KEY_RING))
        assert repr(made) == f"<GcpStore {KEY_RING}>"
        made.close()
        made.close()
        with pytest.raises(SignerClosedError):
            made.list_keys()

    def _all(self, server: GcpKmsServer) -> Any:
        made = store(server.uri(KEY_RING))
        records = made.list_keys()
        made.close()
        return records
