"""Other libraries use a key on a SoftHSM token, and one in AWS KMS, unchanged."""

from __future__ import annotations

import datetime
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import jwt
import msal
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from joserfc import jws
from joserfc.jwk import RSAKey

import keystay
from keystay.errors import KeystayError
from tests.support.openssl import openssl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.aws_fixtures import KmsUri
    from tests.support.ministack import MiniStack
    from tests.support.softhsm import SoftHSM

KINDS = {
    "RSA-2048": ("rsa:2048", hashes.SHA256()),
    "P-256": ("EC:secp256r1", hashes.SHA256()),
    "P-384": ("EC:secp384r1", hashes.SHA384()),
    "P-521": ("EC:secp521r1", hashes.SHA512()),
    "Ed25519": ("EC:edwards25519", None),
}
NAME = x509.Name([
    x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example Hospital"),
    x509.NameAttribute(NameOID.COMMON_NAME, "nightly-export"),
])  # fmt: skip
# An EdDSA certificate names no hash (RFC 8410); the others do.
HASHES: dict[str, Any] = {name: hashed for name, (_, hashed) in KINDS.items()}


@pytest.fixture(scope="module")
def labels(softhsm: SoftHSM) -> dict[str, str]:
    """A key of every kind, made by OpenSC."""
    for number, (name, (kind, _)) in enumerate(KINDS.items(), start=0xD0):
        softhsm.generate_key(kind, f"library-{name}", f"{number:02x}")
    return {name: f"library-{name}" for name in KINDS}


@pytest.fixture(params=KINDS)
def signer(
    request: pytest.FixtureRequest, softhsm: SoftHSM, labels: dict[str, str]
) -> Iterator[keystay.Signer]:
    with keystay.open_signer(softhsm.key_uri(labels[request.param])) as signer:
        yield signer


@pytest.fixture
def rsa_signer(softhsm: SoftHSM, labels: dict[str, str]) -> Iterator[keystay.Signer]:
    with keystay.open_signer(softhsm.key_uri(labels["RSA-2048"])) as signer:
        yield signer


def test_pyjwt(signer: keystay.Signer) -> None:
    """Every algorithm of the key, as PyJWT calls it."""
    key: Any = signer.as_private_key()
    public_key: Any = signer.public_key
    for name in signer.algorithms:
        token = jwt.encode({"sub": "nightly-export"}, key, algorithm=name)
        assert jwt.decode(token, public_key, algorithms=[name]) == {"sub": "nightly-export"}


def test_joserfc_cannot(rsa_signer: keystay.Signer) -> None:
    """It asks for the private numbers before it signs, and is told why there are none."""
    private_key: Any = rsa_signer.as_private_key()
    key = RSAKey.import_key(private_key)
    with pytest.raises(KeystayError, match="stays where it is"):
        jws.serialize_compact({"alg": "RS256"}, b"{}", key)


def check_certificate_request(signer: keystay.Signer, directory: Path) -> None:
    """`openssl req -verify` accepts what cryptography builds with the key."""
    key: Any = signer.as_private_key()
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(NAME)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("export.example.org")]), False)
        .sign(key, HASHES[signer.key_type])
    )
    assert request.is_signature_valid
    path = directory / "request.pem"
    path.write_bytes(request.public_bytes(Encoding.PEM))
    assert "verify OK" in openssl("req", "-verify", "-noout", "-in", path)


def test_certificate_request(signer: keystay.Signer, tmp_path: Path) -> None:
    """From each kind of key on the token."""
    check_certificate_request(signer, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_certificate_request_by_aws_kms(
    ministack: MiniStack, kms_uri: KmsUri, kind: str, tmp_path: Path
) -> None:
    """From each kind of key in the KMS."""
    with keystay.open_signer(kms_uri(ministack.key(kind))) as signer:
        check_certificate_request(signer, tmp_path)


def test_certificate_request_with_pss(rsa_signer: keystay.Signer, tmp_path: Path) -> None:
    """PSS where the builder is asked for it."""
    key: Any = rsa_signer.as_private_key()
    hashed = hashes.SHA384()
    pss = padding.PSS(padding.MGF1(hashed), padding.PSS.DIGEST_LENGTH)
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(NAME)
        .sign(key, hashed, rsa_padding=pss)
    )
    path = tmp_path / "request.pem"
    path.write_bytes(request.public_bytes(Encoding.PEM))
    assert "verify OK" in openssl("req", "-verify", "-noout", "-in", path)


def self_signed(signer: keystay.Signer) -> x509.Certificate:
    key: Any = signer.as_private_key()
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, HASHES[signer.key_type])
    )


def test_certificate(signer: keystay.Signer, tmp_path: Path) -> None:
    """`openssl verify` accepts a certificate that the key has signed."""
    certificate = self_signed(signer)
    certificate.verify_directly_issued_by(certificate)
    path = tmp_path / "certificate.pem"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    assert "OK" in openssl("verify", "-check_ss_sig", "-CAfile", path, path)


def test_revocation_list(rsa_signer: keystay.Signer) -> None:
    """The third of cryptography's builders."""
    key: Any = rsa_signer.as_private_key()
    now = datetime.datetime.now(datetime.UTC)
    revoked = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(NAME)
        .last_update(now)
        .next_update(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    public_key: Any = rsa_signer.public_key
    assert revoked.is_signature_valid(public_key)


class Response:
    """What MSAL wants of an HTTP client's response."""

    headers: dict[str, str] = {}  # noqa: RUF012
    status_code = 200

    def __init__(self, body: dict[str, Any]) -> None:
        self.text = json.dumps(body)

    def raise_for_status(self) -> None:
        """It is well."""


class OfflineEntra:
    """Answers MSAL's requests, and keeps what was posted."""

    AUTHORITY = "https://login.microsoftonline.com/tenant"

    def __init__(self) -> None:
        self.posted: dict[str, str] = {}

    def get(self, url: str, **kwargs: Any) -> Response:
        return Response({
            "authorization_endpoint": f"{self.AUTHORITY}/oauth2/v2.0/authorize",
            "token_endpoint": f"{self.AUTHORITY}/oauth2/v2.0/token",
            "issuer": f"{self.AUTHORITY}/v2.0",
        })  # fmt: skip

    def post(self, url: str, **kwargs: Any) -> Response:
        data = kwargs["data"]
        if not isinstance(data, dict):
            data = {name: values[0] for name, values in parse_qs(data).items()}
        self.posted = {
            name: value.decode() if isinstance(value, bytes) else value
            for name, value in data.items()
        }
        return Response({"token_type": "Bearer", "expires_in": 3600, "access_token": "offline"})

    def close(self) -> None:
        """Nothing is open."""


def test_msal(rsa_signer: keystay.Signer) -> None:
    """MSAL's certificate credential takes the key where its documentation shows a PEM."""
    certificate = self_signed(rsa_signer)
    entra = OfflineEntra()
    application = msal.ConfidentialClientApplication(
        "client",
        authority=OfflineEntra.AUTHORITY,
        client_credential={
            "private_key": rsa_signer.as_private_key(),
            "thumbprint": certificate.fingerprint(hashes.SHA1()).hex(),
            "public_certificate": certificate.public_bytes(Encoding.PEM).decode(),
        },
        http_client=entra,
        instance_discovery=False,
    )
    result = application.acquire_token_for_client(["https://graph.microsoft.com/.default"])
    assert result["access_token"] == "offline", result
    assertion = entra.posted["client_assertion"]
    header = jwt.get_unverified_header(assertion)
    assert header["alg"] in ("RS256", "PS256")
    public_key: Any = rsa_signer.public_key
    claims = jwt.decode(
        assertion,
        public_key,
        algorithms=[header["alg"]],
        audience=f"{OfflineEntra.AUTHORITY}/oauth2/v2.0/token",
    )
    assert claims["sub"] == "client"
