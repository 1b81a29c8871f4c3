"""Our Google Cloud KMS does what Google's documentation says, seen with Google's client alone.

https://cloud.google.com/kms/docs/reference/rpc/google.cloud.kms.v1 and, for the algorithms,
https://cloud.google.com/kms/docs/algorithms
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import google_crc32c
import grpc
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import kms_v1
from google.cloud.kms_v1.services.key_management_service import transports

from tests.support.gcp_kms_server import KEY_RING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.gcp_kms_server import GcpKmsServer

MESSAGE = b"what is signed"
SHA384 = hashlib.sha384(MESSAGE).digest()


@pytest.fixture
def client(gcp_kms_both: GcpKmsServer) -> Iterator[Any]:
    """Google's client, without anything of keystay's."""
    endpoint = gcp_kms_both.endpoint
    transport: Any
    if gcp_kms_both.transport == "rest":
        transport = transports.KeyManagementServiceRestTransport(
            host=endpoint,
            credentials=AnonymousCredentials(),
            url_scheme="http",
        )
        transport._session.trust_env = False
    else:
        transport = transports.KeyManagementServiceGrpcTransport(
            channel=grpc.insecure_channel(endpoint)
        )
    yield kms_v1.KeyManagementServiceClient(transport=transport)
    transport.close()


def call(method: Any, **request: Any) -> Any:
    """A call without the library's retries."""
    return method(request=request, retry=None, timeout=10)


def refused(method: Any, **request: Any) -> str:
    """What a call is refused with."""
    with pytest.raises(exceptions.GoogleAPICallError) as caught:
        call(method, **request)
    return f"{caught.value.code} {caught.value.message}"


def test_a_digest_is_signed(gcp_kms_both: GcpKmsServer, client: Any) -> None:
    """The signature is DER, verifies with the PEM, and every integrity field is filled."""
    name = gcp_kms_both.service.add("ec", "EC_SIGN_P384_SHA384", level="HSM")
    public = call(client.get_public_key, name=name)
    assert (name, "HSM") == (public.name, public.protection_level.name)
    assert public.pem_crc32c == google_crc32c.value(public.pem.encode())
    answer = call(
        client.asymmetric_sign,
        name=name,
        digest={"sha384": SHA384},
        digest_crc32c=google_crc32c.value(SHA384),
    )
    assert (name, True, False) == (
        answer.name,
        answer.verified_digest_crc32c,
        answer.verified_data_crc32c,
    )
    assert answer.signature_crc32c == google_crc32c.value(answer.signature)
    key = load_pem_public_key(public.pem.encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(answer.signature, MESSAGE, ec.ECDSA(hashes.SHA384()))


def test_raw_pkcs1_pads_and_signs_what_it_gets(gcp_kms_both: GcpKmsServer, client: Any) -> None:
    """Over a DigestInfo it is what a hashing mechanism makes (RFC 8017 §9.2)."""
    name = gcp_kms_both.service.add("raw", "RSA_SIGN_RAW_PKCS1_2048")
    info = bytes.fromhex("3041300d060960864801650304020205000430") + SHA384
    answer = call(client.asymmetric_sign, name=name, data=info, data_crc32c=None)
    assert not answer.verified_data_crc32c
    key: Any = load_pem_public_key(call(client.get_public_key, name=name).pem.encode())
    key.verify(answer.signature, MESSAGE, padding.PKCS1v15(), hashes.SHA384())


def test_raw_pkcs1_data_fits_the_modulus(gcp_kms_both: GcpKmsServer, client: Any) -> None:
    """At least 11 bytes are padding: 245 are left of 256."""
    name = gcp_kms_both.service.add("raw", "RSA_SIGN_RAW_PKCS1_2048")
    call(client.asymmetric_sign, name=name, data=b"x" * 245)
    assert "400" in refused(client.asymmetric_sign, name=name, data=b"x" * 246)


@pytest.mark.parametrize(
    ("algorithm", "request_"),
    [
        pytest.param("EC_SIGN_P384_SHA384", {"digest": {"sha256": b"x" * 32}}, id="other hash"),
        pytest.param("EC_SIGN_P384_SHA384", {"digest": {"sha384": b"x" * 32}}, id="wrong length"),
        pytest.param("EC_SIGN_P384_SHA384", {}, id="neither"),
        pytest.param(
            "EC_SIGN_P384_SHA384", {"digest": {"sha384": SHA384}, "data": b"x"}, id="both"
        ),
        pytest.param(
            "EC_SIGN_P384_SHA384", {"digest": {"sha384": SHA384}, "digest_crc32c": 1}, id="digest"
        ),
        pytest.param("EC_SIGN_ED25519", {"data": b"x", "data_crc32c": 1}, id="data checksum"),
        pytest.param("EC_SIGN_ED25519", {"digest": {"sha384": SHA384}}, id="Ed25519 digest"),
        pytest.param("EC_SIGN_ED25519", {"data": b"x" * 65537}, id="too long"),
        pytest.param("RSA_SIGN_RAW_PKCS1_2048", {"digest": {"sha384": SHA384}}, id="RAW digest"),
    ],
)
def test_what_does_not_fit_is_refused(
    gcp_kms_both: GcpKmsServer, client: Any, algorithm: str, request_: dict[str, Any]
) -> None:
    """INVALID_ARGUMENT, whatever it is."""
    name = gcp_kms_both.service.add("key", algorithm)
    assert "400" in refused(client.asymmetric_sign, name=name, **request_)


@pytest.mark.parametrize("state", ["DISABLED", "DESTROYED", "PENDING_GENERATION"])
def test_only_an_enabled_version_signs(gcp_kms_both: GcpKmsServer, client: Any, state: str) -> None:
    """FAILED_PRECONDITION names the state; GetCryptoKeyVersion still tells it."""
    name = gcp_kms_both.service.add("key", "EC_SIGN_P256_SHA256", state=state)
    text = refused(client.asymmetric_sign, name=name, digest={"sha256": b"x" * 32})
    assert "400" in text
    assert state in text
    assert state in refused(client.get_public_key, name=name)
    assert state == call(client.get_crypto_key_version, name=name).state.name


def test_external_keys_take_the_message(gcp_kms_both: GcpKmsServer, client: Any) -> None:
    """The external key manager hashes."""
    name = gcp_kms_both.service.add("ekm", "EC_SIGN_P256_SHA256", level="EXTERNAL")
    assert "400" in refused(client.asymmetric_sign, name=name, digest={"sha256": b"x" * 32})
    answer = call(client.asymmetric_sign, name=name, data=MESSAGE)
    key: Any = load_pem_public_key(call(client.get_public_key, name=name).pem.encode())
    key.verify(answer.signature, MESSAGE, ec.ECDSA(hashes.SHA256()))


def test_unknown_things_are_not_found(client: Any) -> None:
    """404 for a version, a key and a key ring."""
    assert "404" in refused(
        client.get_crypto_key_version, name=f"{KEY_RING}/cryptoKeys/no/cryptoKeyVersions/1"
    )
    assert "404" in refused(client.list_crypto_key_versions, parent=f"{KEY_RING}/cryptoKeys/no")
    assert "404" in refused(client.list_crypto_keys, parent=KEY_RING.replace("smart", "other"))


def test_a_key_is_made_once(gcp_kms_both: GcpKmsServer, client: Any) -> None:
    """Version 1 comes with the key, PENDING_GENERATION at first; a second time is refused."""
    gcp_kms_both.service.pending = 1
    request = {
        "parent": KEY_RING,
        "crypto_key_id": "new",
        "crypto_key": {
            "purpose": "ASYMMETRIC_SIGN",
            "version_template": {"algorithm": "EC_SIGN_P384_SHA384", "protection_level": "HSM"},
        },
    }
    key = call(client.create_crypto_key, **request)
    assert f"{KEY_RING}/cryptoKeys/new" == key.name
    first, second = (
        call(client.get_crypto_key_version, name=f"{key.name}/cryptoKeyVersions/1")
        for _ in range(2)
    )
    assert ("PENDING_GENERATION", "ENABLED") == (first.state.name, second.state.name)
    assert ("EC_SIGN_P384_SHA384", "HSM") == (second.algorithm.name, second.protection_level.name)
    assert "409" in refused(client.create_crypto_key, **request)


def test_lists_come_in_pages(gcp_kms_both: GcpKmsServer, client: Any) -> None:
    """The pager goes through all of them."""
    service = gcp_kms_both.service
    service.page_size = 2
    names = [service.add("key", "EC_SIGN_P256_SHA256") for _ in range(5)]
    pager = call(client.list_crypto_key_versions, parent=names[0].rpartition("/crypto")[0])
    assert names == [version.name for version in pager]
    keys = [service.add(f"other-{n}", "EC_SIGN_P256_SHA256") for n in range(2)]
    assert len(keys) + 1 == len(list(call(client.list_crypto_keys, parent=KEY_RING)))


def test_faults(gcp_kms_both: GcpKmsServer, client: Any) -> None:
    """What a test orders is what comes, once."""
    service = gcp_kms_both.service
    name = service.add("key", "EC_SIGN_P256_SHA256")
    service.faults.refuse("RESOURCE_EXHAUSTED", method="GetPublicKey")
    call(client.get_crypto_key_version, name=name)
    assert "429" in refused(client.get_public_key, name=name)
    assert name == call(client.get_public_key, name=name).name
    service.faults.denied = {"cloudkms.cryptoKeyVersions.viewPublicKey"}
    assert "403" in refused(client.get_public_key, name=name)
