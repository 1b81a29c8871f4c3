"""What AWS KMS and the way to it can do wrong, over real sockets with the real SDK."""

from __future__ import annotations

import base64
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

import pytest

import keystay
from keystay.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    KeyChangedError,
    KeyNotFoundError,
    KeyUnusableError,
    SignatureInvalidError,
)
from tests.support.kms_proxy import Answer
from tests.support.secrets_watch import WATCH
from tests.support.token_clients import CLIENT_ID, client_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from keystay.signer import Signer
    from keystay.testing import SmartTestServer
    from tests.support.aws_fixtures import KmsUri
    from tests.support.kms_proxy import Ask, Exchange, KmsProxy
    from tests.support.ministack import MiniStack


@pytest.fixture
def signer(ministack: MiniStack, kms_uri: KmsUri, alias: str) -> Iterator[Signer]:
    """A P-384 key opened by its alias."""
    ministack.point(alias, ministack.key("P-384"))
    with keystay.open_signer(kms_uri(alias)) as opened:
        yield opened


@pytest.fixture
def server(smart_server: SmartTestServer, signer: Signer) -> SmartTestServer:
    """A strict server that knows the key."""
    smart_server.register(CLIENT_ID, jwks=keystay.JWKSet.from_signers([signer]))
    return smart_server


def assertions(server: SmartTestServer) -> int:
    """How many assertions reached the server."""
    return sum(event.kind == "token" for event in server.log.events)


def token_client(
    server: SmartTestServer, signer: Signer, client_id: str = CLIENT_ID, **settings: Any
) -> keystay.TokenClient:
    """A token client for the strict server."""
    return keystay.TokenClient(**client_settings(signer, server, client_id=client_id, **settings))


def test_throttled_three_times(
    kms_proxy: KmsProxy, signer: Signer, server: SmartTestServer
) -> None:
    """KMS throttles three times, then answers: one token, and one assertion reached the server."""
    kms_proxy.clear()
    kms_proxy.fail("Sign", "ThrottlingException", times=3, message="Rate exceeded")
    with token_client(server, signer) as client:
        token = client.token()
    assert server.authorization_server.introspect(token.value) is not None
    assert (4, 1) == (kms_proxy.count("Sign"), assertions(server))


def test_throttled_for_good(kms_proxy: KmsProxy, signer: Signer) -> None:
    """Throttling beyond the deadline is an error of its own, with the wait and the quota."""
    kms_proxy.fail("Sign", "ThrottlingException", times=None)
    began = time.monotonic()
    with pytest.raises(BackendUnavailableError, match=r"throttled Sign for 1\.5 s") as caught:
        signer.sign(b"message", timeout=1.5)
    assert time.monotonic() - began < 2.5
    assert "aws-throttled" == caught.value.code
    assert "quota" in str(caught.value)
    assert kms_proxy.count("Sign") > 2


@pytest.mark.parametrize("operation", ["DescribeKey", "GetPublicKey", "Sign"])
def test_hang(kms_proxy: KmsProxy, ministack: MiniStack, kms_uri: KmsUri, operation: str) -> None:
    """A KMS that takes the request and is silent: an error inside the deadline."""
    uri = kms_uri(ministack.key("P-384"))
    kms_proxy.hang(operation)
    began = time.monotonic()

    def sign() -> None:
        nonlocal began
        with keystay.open_signer(uri, timeout=2) as signer:
            began = time.monotonic()
            signer.sign(b"message")

    with pytest.raises(BackendTimeoutError, match=f"{operation} within 2 s"):
        sign()
    assert time.monotonic() - began < 3


def test_hang_no_token(kms_proxy: KmsProxy, signer: Signer, server: SmartTestServer) -> None:
    """The whole exchange ends inside its deadline, and nothing is sent."""
    kms_proxy.hang("Sign")
    with token_client(server, signer, timeout=1.5) as client:
        began = time.monotonic()
        with pytest.raises(BackendTimeoutError):
            client.token()
    assert time.monotonic() - began < 2.5
    assert 0 == assertions(server)


def test_hang_then_answers(
    kms_proxy: KmsProxy, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One silent attempt is given up after the read timeout, and the next one answers."""
    monkeypatch.setattr("keystay_aws_kms.client.READ_SECONDS", 0.3)
    kms_proxy.hang("DescribeKey", times=1)
    # A new connection, to be made with the shorter timeout.
    with keystay.open_signer(_uri(signer), timeout=5) as again:
        assert again.key_id == signer.key_id
    assert kms_proxy.count("DescribeKey") >= 3


def _uri(signer: Signer) -> str:
    return repr(signer).split()[1]


def test_slow_credentials(
    kms_uri: KmsUri, ministack: MiniStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A credential process that hangs is bounded by the same deadline."""
    (tmp_path / "aws-config").write_text("[profile slow]\ncredential_process = sleep 3\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    began = time.monotonic()
    with pytest.raises(BackendTimeoutError, match="DescribeKey within 1 s"):
        keystay.open_signer(f"{kms_uri(ministack.key('P-384'))}&profile=slow", timeout=1)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("KMSInternalException", 500),
        ("DependencyTimeoutException", 500),
        ("KeyUnavailableException", 500),
        ("ThrottlingException", 400),
        ("LimitExceededException", 400),
        ("InternalFailure", 500),
        ("ServiceUnavailable", 503),
        ("Whatever", 502),
    ],
)
def test_passing_fault(kms_proxy: KmsProxy, signer: Signer, code: str, status: int) -> None:
    """A fault that passes is tried again, until the deadline; then it is told."""
    kms_proxy.clear()
    kms_proxy.fail("Sign", code, status=status)
    signer.sign(b"message")
    assert 2 == kms_proxy.count("Sign")
    kms_proxy.fail("Sign", code, status=status, times=None)
    with pytest.raises(BackendUnavailableError, match=r"attempt"):
        signer.sign(b"message", timeout=0.6)


def test_reset_and_latency(kms_proxy: KmsProxy, signer: Signer) -> None:
    """A connection that is reset is made again; a slow answer is waited for."""
    kms_proxy.reset("Sign", times=2)
    kms_proxy.delay("Sign", 0.3)
    signer.sign(b"message")
    assert 3 == kms_proxy.count("Sign")
    kms_proxy.reset("Sign", times=None)
    with pytest.raises(BackendTimeoutError):
        signer.sign(b"message", timeout=0.6)


@pytest.mark.parametrize(
    ("code", "kind", "ours", "said"),
    [
        ("AccessDeniedException", KeyUnusableError, "aws-access-denied", "kms:Sign"),
        ("DisabledException", KeyUnusableError, "aws-key-disabled", "enable-key"),
        ("KMSInvalidStateException", KeyUnusableError, "aws-key-state", "KeyState"),
        ("NotFoundException", KeyNotFoundError, "key-not-found", "region eu-west-1"),
        ("InvalidKeyUsageException", KeyUnusableError, "aws-key-usage", "SIGN_VERIFY"),
        ("InvalidGrantTokenException", KeyUnusableError, "aws-grant-token", "grant"),
        ("UnsupportedOperationException", KeyUnusableError, "aws-key-usage", "cannot do Sign"),
        ("CustomKeyStoreInvalidStateException", KeyUnusableError, "aws-key-state", "CloudHSM"),
        ("InvalidArnException", KeyNotFoundError, "key-not-found", "does not take"),
        ("ValidationException", BackendError, "aws-refused", "ValidationException"),
        ("<script>", BackendError, "aws-refused", "an unknown error"),
    ],
)
def test_fatal_at_once(
    kms_proxy: KmsProxy, signer: Signer, code: str, kind: type[BackendError], ours: str, said: str
) -> None:
    """What another attempt cannot mend is told at once, without what AWS wrote."""
    kms_proxy.clear()
    kms_proxy.fail("Sign", code, times=None, message="quoted nowhere")
    with pytest.raises(kind) as caught:
        signer.sign(b"message")
    assert (1, ours) == (kms_proxy.count("Sign"), caught.value.code)
    assert said in str(caught.value)
    assert "quoted nowhere" not in str(caught.value)
    assert "(request " in caught.value.message


def test_alias_is_pointed_elsewhere(
    kms_proxy: KmsProxy,
    ministack: MiniStack,
    signer: Signer,
    server: SmartTestServer,
    alias: str,
) -> None:
    """Between two signatures the alias gets another key: an error, and no assertion is sent."""
    other = ministack.make_key()
    with token_client(server, signer) as client:
        client.token()
        assert 1 == assertions(server)
        ministack.point(alias, other)
        with pytest.raises(KeyChangedError) as caught:
            client.request_token()
    assert other in str(caught.value)
    assert 1 == assertions(server)
    with pytest.raises(KeyChangedError):
        signer.health()


@pytest.mark.parametrize("other", ["another curve", "disabled", "not ours"])
def test_alias_is_pointed_at_a_key_that_refuses(
    kms_proxy: KmsProxy, ministack: MiniStack, signer: Signer, alias: str, other: str
) -> None:
    """Where the new key cannot stand in, that the alias was moved is still what is told."""
    arn = ministack.make_key(KeySpec="ECC_NIST_P256" if other == "another curve" else "RSA_2048")
    if other == "disabled":
        with contextlib.closing(ministack.client()) as kms:
            kms.disable_key(KeyId=arn)
    if other == "not ours":
        kms_proxy.fail("Sign", "AccessDeniedException")
    ministack.point(alias, arn)
    with pytest.raises(KeyChangedError, match=arn):
        signer.sign(b"message")


def test_alias_is_deleted(ministack: MiniStack, signer: Signer, alias: str) -> None:
    """An alias that is gone is not replaced by what it pointed at."""
    with contextlib.closing(ministack.client()) as kms:
        kms.delete_alias(AliasName=alias)
    with pytest.raises(KeyNotFoundError):
        signer.sign(b"message")


def test_key_is_disabled_after_opening(ministack: MiniStack, kms_uri: KmsUri, alias: str) -> None:
    """The state of now explains a refusal, with its own remedy."""
    arn = ministack.make_key(alias)
    with keystay.open_signer(kms_uri(alias)) as opened:
        with contextlib.closing(ministack.client()) as kms:
            kms.schedule_key_deletion(KeyId=arn, PendingWindowInDays=7)
        with pytest.raises(KeyUnusableError, match=r"deletion on 20\d\d-") as caught:
            opened.sign(b"message")
        assert "cancel-key-deletion" in str(caught.value.hint)


def test_other_key_answers(kms_proxy: KmsProxy, ministack: MiniStack, signer: Signer) -> None:
    """An answer under another key's ARN is refused."""
    other = ministack.key("P-256")
    kms_proxy.change("Sign", lambda body: {**body, "KeyId": other})
    with pytest.raises(KeyChangedError, match=other):
        signer.sign(b"message")


def test_corrupted_signature(kms_proxy: KmsProxy, signer: Signer) -> None:
    """A signature that does not verify does not leave."""
    kms_proxy.corrupt_signature()
    with pytest.raises(SignatureInvalidError):
        signer.sign(b"message")
    signer.sign(b"message")


@pytest.mark.parametrize(
    "change",
    [
        lambda body: {},
        lambda body: {**body, "Signature": None},
        lambda body: {**body, "Signature": "no base64!"},
        lambda body: {**body, "KeyId": 7},
    ],
)
def test_unreadable_answer(
    kms_proxy: KmsProxy, signer: Signer, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """An answer that lacks its parts is an error of ours."""
    kms_proxy.change("Sign", change)
    with pytest.raises(BackendError) as caught:
        signer.sign(b"message")
    assert caught.value.code in ("aws-answer-invalid", "signature-malformed")


@pytest.mark.parametrize(
    ("operation", "member", "value"),
    [
        ("GetPublicKey", "PublicKey", None),
        ("GetPublicKey", "PublicKey", base64.b64encode(b"no key").decode()),
        ("GetPublicKey", "KeyId", "arn:aws:kms:eu-west-1:000000000000:key/other"),
        ("DescribeKey", "KeyMetadata", None),
        ("DescribeKey", "KeyMetadata", {"Arn": "arn"}),
    ],
)
def test_unreadable_answer_when_opening(
    kms_proxy: KmsProxy,
    ministack: MiniStack,
    kms_uri: KmsUri,
    operation: str,
    member: str,
    value: object,
) -> None:
    """The same when the key is opened."""
    kms_proxy.change(operation, lambda body: {**body, member: value})
    with pytest.raises(BackendUnavailableError, match="lacks what it must have"):
        keystay.open_signer(kms_uri(ministack.key("P-384")))


def test_public_key_of_another(kms_proxy: KmsProxy, ministack: MiniStack, kms_uri: KmsUri) -> None:
    """A public key that is not of the key's spec is not taken."""
    with contextlib.closing(ministack.client()) as kms:
        other = kms.get_public_key(KeyId=ministack.key("P-256"))["PublicKey"]
    spoilt = base64.b64encode(other).decode()
    kms_proxy.change("GetPublicKey", lambda body: {**body, "PublicKey": spoilt})
    with pytest.raises(BackendUnavailableError, match="lacks what it must have"):
        keystay.open_signer(kms_uri(ministack.key("P-384")))


def test_assertion_beyond_4096_bytes(
    kms_proxy: KmsProxy, signer: Signer, smart_server: SmartTestServer
) -> None:
    """A client id of 5 KB, as CMS DPC's macaroons can be, is no obstacle."""
    client_id = "m" * 5000
    smart_server.register(client_id, jwks=keystay.JWKSet.from_signers([signer]))
    with token_client(smart_server, signer, client_id) as client:
        assert client.token().value
    assert {"DIGEST"} == {
        exchange.body["MessageType"]
        for exchange in kms_proxy.exchanges
        if exchange.operation == "Sign"
    }


def test_nothing_secret(
    kms_proxy: KmsProxy, ministack: MiniStack, kms_uri: KmsUri, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even when AWS sends the session token back, as it does with a refused signature."""
    import traceback

    session = ministack.session_of(ministack.admin)
    for name, value in session.env.items():
        monkeypatch.setenv(name, value)
    assert session.token
    canonical = (
        "The request signature we calculated does not match. The Canonical String for this "
        f"request should have been\n'POST\n/\n\nx-amz-security-token:{session.token}\n'"
    )
    uri = kms_uri(ministack.key("Ed25519"))
    with keystay.open_signer(uri) as signer:
        signed = keystay.ClientAssertion(client_id="me", signer=signer).build(audience="https://a")
        WATCH.add("the assertion", signed)
        WATCH.add("its signature", signed.rpartition(".")[2])
        for code in ("InvalidSignatureException", "IncompleteSignature", "ExpiredTokenException"):
            kms_proxy.fail("Sign", code, status=403, message=canonical)
            with pytest.raises(keystay.errors.LoginError) as caught:
                signer.sign(b"message")
            shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
            WATCH.check(shown, "the error")
            assert "security-token" not in shown
    for exchange in kms_proxy.exchanges:
        assert session.token == exchange.headers["x-amz-security-token"]


def test_debug_log(
    kms_proxy: KmsProxy, ministack: MiniStack, kms_uri: KmsUri, caplog: pytest.LogCaptureFixture
) -> None:
    """botocore's DEBUG records do not show what is signed; those about other calls still come."""
    caplog.set_level(logging.DEBUG)
    with keystay.open_signer(kms_uri(ministack.key("P-384"))) as signer:
        signer.sign(b"message")
    names = {record.name for record in caplog.records if record.levelno == logging.DEBUG}
    assert set() == names & {"botocore.auth", "botocore.endpoint", "botocore.parsers"}
    with contextlib.closing(ministack.client()) as kms:
        kms.list_keys()
    names = {record.name for record in caplog.records}
    assert {"botocore.auth", "botocore.endpoint", "botocore.parsers"} <= names


def test_garbage(kms_proxy: KmsProxy, ministack: MiniStack, kms_uri: KmsUri) -> None:
    """An answer of something that is not KMS."""

    def other(exchange: Exchange, ask: Ask) -> Answer:
        return Answer(200, {"hello": "from the captive portal"})

    kms_proxy.inject("DescribeKey", other)
    with pytest.raises(BackendUnavailableError, match="lacks what it must have"):
        keystay.open_signer(kms_uri(ministack.key("P-384")))
