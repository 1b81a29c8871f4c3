"""An opened key, on an SDK client that is a fake."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keystay.algorithms import get
from keystay.backends import BackendKey, Deadline, GeneratesKeys, ListsKeys, SignRequest
from keystay.errors import AlgorithmError, SignatureInvalidError, SignerClosedError
from keystay_aws_kms.client import Connection, Kms
from keystay_aws_kms.key import KmsKey
from keystay_aws_kms.settings import Settings
from keystay_aws_kms.store import KmsStore
from keystay_aws_kms.uri import KeyReference

ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"


class FakeKms:
    """One key; notes how Sign is called."""

    def __init__(
        self, spec: str, algorithm: str, endpoint: str = "https://kms.eu-west-1.amazonaws.com"
    ) -> None:
        private = (
            ec.generate_private_key(ec.SECP384R1())
            if spec == "ECC_NIST_P384"
            else ed25519.Ed25519PrivateKey.generate()
        )
        public = private.public_key()
        self.der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.spec, self.algorithm = spec, algorithm
        self.signed: list[dict[str, Any]] = []
        self.closed = 0
        self.meta = SimpleNamespace(region_name="eu-west-1", endpoint_url=endpoint)

    def describe_key(self, *, KeyId: str) -> dict[str, Any]:  # noqa: N803
        metadata = {
            "Arn": ARN, "KeyId": ARN[-36:], "KeySpec": self.spec, "KeyUsage": "SIGN_VERIFY",
            "KeyState": "Enabled", "SigningAlgorithms": [self.algorithm],
        }  # fmt: skip
        return {"KeyMetadata": metadata}

    def get_public_key(self, *, KeyId: str) -> dict[str, Any]:  # noqa: N803
        return {"KeyId": KeyId, "PublicKey": self.der}

    def sign(self, **parameters: Any) -> dict[str, Any]:
        self.signed.append(parameters)
        return {"KeyId": ARN, "Signature": b"s", "ResponseMetadata": {"RequestId": "r-1"}}

    def close(self) -> None:
        self.closed += 1


def opened(fake: FakeKms, name: str = "alias/epic") -> KmsKey:
    """The fake's key."""
    connection = Connection(Settings(), lambda _: cast(Kms, fake))
    return KmsKey(connection, KeyReference(name), Deadline.after(5))


def request(
    algorithm: str, message: bytes | None = b"message", digest: bytes | None = None
) -> SignRequest:
    return SignRequest(get(algorithm), message, Deadline.after(5), digest)


@pytest.mark.parametrize("name", ["alias/epic", ARN, ARN[-36:]])
def test_what_sign_is_given(name: str) -> None:
    """The digest; an alias by its name so that a change shows, all else by the ARN."""
    fake = FakeKms("ECC_NIST_P384", "ECDSA_SHA_384")
    key = opened(fake, name)
    made = key.sign(request("ES384"))
    assert ("der", ARN, "r-1") == (made.encoding, made.key_id, made.request_id)
    assert made.session > 0
    assert fake.signed == [
        {
            "KeyId": "alias/epic" if name == "alias/epic" else ARN,
            "Message": get("ES384").digest(b"message"),
            "MessageType": "DIGEST",
            "SigningAlgorithm": "ECDSA_SHA_384",
        }
    ]
    assert "alias/epic" if name == "alias/epic" else ARN[-36:] == key.describe().label
    assert isinstance(key, BackendKey)
    assert f"<KmsKey {name}>" == repr(key)
    key.sign(request("ES384", None, bytes(48)))
    key.close()
    key.close()
    assert 1 == fake.closed
    with pytest.raises(SignerClosedError):
        key.sign(request("ES384"))


def test_what_cannot_be_signed() -> None:
    """Another key type's algorithm, a digest of a wrong length."""
    key = opened(FakeKms("ECC_NIST_P384", "ECDSA_SHA_384"))
    with pytest.raises(AlgorithmError, match="cannot sign with RS384"):
        key.sign(request("RS384"))
    with pytest.raises(SignatureInvalidError, match="1000 bytes, 48 are due"):
        key.sign(request("ES384", None, bytes(1000)))


def test_ed25519() -> None:
    """The message itself, at most 4096 bytes."""
    fake = FakeKms("ECC_NIST_EDWARDS25519", "ED25519_SHA_512")
    key = opened(fake)
    assert "raw" == key.sign(request("EdDSA")).encoding
    assert ("RAW", b"message") == (fake.signed[0]["MessageType"], fake.signed[0]["Message"])
    with pytest.raises(AlgorithmError, match="4097 bytes; AWS KMS signs at most 4096") as caught:
        key.sign(request("EdDSA", bytes(4097)))
    assert "P-384" in str(caught.value.hint)
    with pytest.raises(AlgorithmError, match="only its hash"):
        key.sign(request("EdDSA", None))
    key.health(Deadline.after(5))  # an emulator that knows no DryRun


@pytest.mark.parametrize(
    ("endpoint", "location", "said"),
    [
        ("https://kms.eu-west-1.amazonaws.com", "remote-service", "signs in AWS KMS"),
        ("https://kms.eu-west-1.api.aws", "remote-service", "signs in AWS KMS"),
        ("https://kms.example.org", "remote-service", "not AWS's word"),
        ("http://127.0.0.1:4566", "other-process", "an emulator, not AWS"),
        ("https://amazonaws.com.example.org", "remote-service", "not AWS's word"),
    ],
)
def test_custody_by_where_it_is_reached(endpoint: str, location: str, said: str) -> None:
    """Whoever named the endpoint, the client says which one it uses."""
    key = opened(FakeKms("ECC_NIST_P384", "ECDSA_SHA_384", endpoint))
    for custody in (key.describe().custody, key.custody_now(Deadline.after(5))):
        assert (location, True) == (custody.location, said in custody.reason)
        assert ("endpoint" in custody.facts) is ("signs in AWS KMS" not in said)


def test_capabilities() -> None:
    """The store makes keys and lists them."""
    assert issubclass(KmsStore, GeneratesKeys)
    assert issubclass(KmsStore, ListsKeys)
