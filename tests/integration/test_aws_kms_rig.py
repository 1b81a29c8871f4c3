"""The emulator and the proxy before it behave as AWS documents, asked by boto3 alone."""

from __future__ import annotations

import contextlib
import hashlib
import time
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import load_der_public_key

from keystay.backends.log_filter import no_debug_records
from keystay_aws_kms.client import LOGGERS
from tests.support.ministack import REGION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.kms_proxy import KmsProxy
    from tests.support.ministack import MiniStack


@pytest.fixture
def kms(ministack: MiniStack, kms_proxy: KmsProxy) -> Iterator[Any]:
    """boto3's client, through the proxy."""
    session = boto3.Session(
        aws_access_key_id=ministack.admin.key_id,
        aws_secret_access_key=ministack.admin.secret,
        region_name=REGION,
    )
    config = Config(proxies={}, read_timeout=0.5, retries={"total_max_attempts": 1})
    client = session.client("kms", endpoint_url=kms_proxy.url, config=config)
    with no_debug_records(LOGGERS), contextlib.closing(client):
        yield client


def test_digest_is_not_hashed_again(ministack: MiniStack, kms: Any) -> None:
    """ECDSA and PSS signatures are over the digest; the PSS salt is as long as the hash."""
    digest = hashlib.sha384(b"message").digest()
    prehashed = utils.Prehashed(hashes.SHA384())
    made = {}
    for key_type, algorithm in (("P-384", "ECDSA_SHA_384"), ("RSA-2048", "RSASSA_PSS_SHA_384")):
        arn = ministack.key(key_type)
        public = load_der_public_key(kms.get_public_key(KeyId=arn)["PublicKey"])
        reply = kms.sign(
            KeyId=arn, Message=digest, MessageType="DIGEST", SigningAlgorithm=algorithm
        )
        assert arn == reply["KeyId"]
        made[key_type] = public, reply["Signature"]
    public, signature = made["P-384"]
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(signature, digest, ec.ECDSA(prehashed))
    public, signature = made["RSA-2048"]
    assert isinstance(public, rsa.RSAPublicKey)
    public.verify(signature, digest, padding.PSS(padding.MGF1(hashes.SHA384()), 48), prehashed)


def test_dry_run_and_size(ministack: MiniStack, kms: Any) -> None:
    """What the emulator leaves out, the proxy does: DryRun, and 4096 bytes at most."""
    arguments = {"KeyId": ministack.key("P-384"), "SigningAlgorithm": "ECDSA_SHA_384"}
    with pytest.raises(ClientError) as caught:
        kms.sign(**arguments, Message=bytes(10), MessageType="RAW", DryRun=True)
    assert "DryRunOperationException" == caught.value.response["Error"]["Code"]
    kms.sign(**arguments, Message=bytes(4096), MessageType="RAW")
    with pytest.raises(ClientError) as caught:
        kms.sign(**arguments, Message=bytes(4097), MessageType="RAW")
    assert "ValidationException" == caught.value.response["Error"]["Code"]
    wrong = {**arguments, "SigningAlgorithm": "ECDSA_SHA_256"}
    with pytest.raises(ClientError) as caught:
        kms.sign(**wrong, Message=bytes(32), MessageType="DIGEST", DryRun=True)
    assert "InvalidKeyUsageException" == caught.value.response["Error"]["Code"]


def test_script(ministack: MiniStack, kms: Any, kms_proxy: KmsProxy) -> None:
    """Faults come in order, as often as told, for the operation named."""
    kms_proxy.fail("ListKeys", "ThrottlingException", times=2)
    for _ in range(2):
        kms.describe_key(KeyId=ministack.key("P-384"))
        with pytest.raises(ClientError, match="Throttling"):
            kms.list_keys()
    kms.list_keys()
    assert (3, 2) == (kms_proxy.count("ListKeys"), kms_proxy.count("DescribeKey"))

    kms_proxy.reset("ListKeys")
    with pytest.raises(ConnectionClosedError):
        kms.list_keys()
    kms_proxy.delay("ListKeys", 0.2)
    began = time.monotonic()
    kms.list_keys()
    assert time.monotonic() - began >= 0.2
    kms_proxy.hang("ListKeys")
    with pytest.raises(ReadTimeoutError):
        kms.list_keys()
    kms_proxy.clear()
    kms.list_keys()
    kms_proxy.change("ListKeys", lambda body: {"Keys": []})
    assert [] == kms.list_keys()["Keys"]
    assert "<Exchange" not in repr(kms_proxy.exchanges[0])
    assert "body" not in repr(kms_proxy.exchanges[0])


def test_signature_of_the_request_is_checked(ministack: MiniStack, kms_proxy: KmsProxy) -> None:
    """The emulator refuses a wrong secret, through the proxy as well."""
    client = boto3.Session(
        aws_access_key_id=ministack.admin.key_id,
        aws_secret_access_key="another-secret",
        region_name=REGION,
    ).client("kms", endpoint_url=kms_proxy.url, config=Config(proxies={}))
    with contextlib.closing(client), pytest.raises(ClientError, match="InvalidSignature"):
        client.list_keys()
