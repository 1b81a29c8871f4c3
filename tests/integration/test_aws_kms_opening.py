"""What keystay says of AWS KMS keys that cannot be used, and of credentials and networks."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest

import keystay
from keystay.errors import (
    BackendUnavailableError,
    ConfigurationError,
    KeyNotFoundError,
    KeyUnusableError,
    LoginError,
)
from tests.support.kms_proxy import refusal
from tests.support.ministack import REGION

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.aws_fixtures import KmsUri
    from tests.support.kms_proxy import Answer, Ask, Exchange, KmsProxy
    from tests.support.ministack import Credentials, MiniStack

ARN = f"arn:aws:kms:{REGION}:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def use(patch: pytest.MonkeyPatch, credentials: Credentials) -> None:
    for name, value in credentials.env.items():
        patch.setenv(name, value)


@pytest.mark.parametrize("form", ["alias", "alias ARN", "id", "ARN", "key/id"])
def test_forms(ministack: MiniStack, kms_uri: KmsUri, alias: str, form: str) -> None:
    """An alias, an id and an ARN of either lead to the same key, held to its ARN."""
    arn = ministack.key("P-384")
    ministack.point(alias, arn)
    prefix, _, key_id = arn.rpartition("key/")
    text = {
        "alias": alias,
        "alias ARN": prefix + alias,
        "id": key_id,
        "ARN": arn,
        "key/id": f"key/{key_id}",
    }[form]
    region = None if "ARN" in form else REGION  # an ARN says its region
    with keystay.open_signer(kms_uri(text, region=region)) as signer:
        assert arn == signer.key_id
        signer.sign(b"message")
        signer.health()


def test_settings(
    ministack: MiniStack, aws_environment: MiniStack, kms_proxy: KmsProxy, tmp_path: Path
) -> None:
    """Region, profile and endpoint may stand in the configuration."""
    user = ministack.admin
    (tmp_path / "aws-credentials").write_text(
        f"[signing]\naws_access_key_id = {user.key_id}\naws_secret_access_key = {user.secret}\n"
    )
    settings = {"region": REGION, "profile": "signing", "endpoint": kms_proxy.url}
    key = ministack.key("P-384").rpartition("/")[2]
    with keystay.open_signer(f"awskms:///{key}", backends={"awskms": settings}) as signer:
        assert kms_proxy.url == signer.custody.facts["endpoint"].value


def states(kms: Any, arn: str, state: str) -> None:
    if state == "Disabled":
        kms.disable_key(KeyId=arn)
    elif state == "PendingDeletion":
        kms.schedule_key_deletion(KeyId=arn, PendingWindowInDays=7)


@pytest.mark.parametrize(
    ("state", "code", "remedy"),
    [
        ("Disabled", "aws-key-disabled", "aws kms enable-key --key-id arn:"),
        ("PendingDeletion", "aws-key-pending-deletion", "aws kms cancel-key-deletion"),
        ("PendingImport", "aws-key-pending-import", "aws kms import-key-material"),
    ],
)
def test_state(ministack: MiniStack, kms_uri: KmsUri, state: str, code: str, remedy: str) -> None:
    """A key in a state that does not sign is refused when opened, with its remedy."""
    arn = ministack.make_key(Origin="EXTERNAL" if state == "PendingImport" else "AWS_KMS")
    with contextlib.closing(ministack.client()) as kms:
        states(kms, arn, state)
    with pytest.raises(KeyUnusableError) as caught:
        keystay.open_signer(kms_uri(arn))
    assert (code, True) == (caught.value.code, remedy in str(caught.value.hint))


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"KeyState": "Creating"}, "aws-key-creating", "Wait a minute"),
        (
            {"KeyState": "Unavailable", "CustomKeyStoreId": "cks-1234567890abcdef0"},
            "aws-key-unavailable",
            "connect-custom-key-store --custom-key-store-id cks-1234567890abcdef0",
        ),
        ({"KeyState": "PendingReplicaDeletion"}, "aws-key-pending-deletion", "replicas"),
        ({"KeyState": "Dreaming"}, "aws-key-state", "Dreaming"),
        ({"KeySpec": "SM2"}, "aws-key-spec", "SM2"),
        ({"KeySpec": "ML_DSA_65"}, "aws-key-spec", "ML-DSA"),
        ({"KeySpec": "ML_KEM_768"}, "aws-key-spec", "cannot sign"),
        ({"KeySpec": "NEW_1"}, "aws-key-spec", "does not know"),
        ({"SigningAlgorithms": ["SM2DSA"]}, "aws-key-spec", "SM2DSA"),
        ({"SigningAlgorithms": []}, "aws-key-spec", "none"),
    ],
)
def test_reported(
    ministack: MiniStack,
    kms_proxy: KmsProxy,
    kms_uri: KmsUri,
    change: dict[str, object],
    code: str,
    said: str,
) -> None:
    """The same for what the emulator cannot be brought to."""
    kms_proxy.change("DescribeKey", lambda body: {"KeyMetadata": {**body["KeyMetadata"], **change}})
    with pytest.raises(KeyUnusableError) as caught:
        keystay.open_signer(kms_uri(ministack.key("P-384")))
    assert code == caught.value.code
    assert said in str(caught.value)


def test_updating_signs(ministack: MiniStack, kms_proxy: KmsProxy, kms_uri: KmsUri) -> None:
    """A key whose primary region is being changed signs."""
    kms_proxy.change(
        "DescribeKey", lambda body: {"KeyMetadata": {**body["KeyMetadata"], "KeyState": "Updating"}}
    )
    with keystay.open_signer(kms_uri(ministack.key("P-384"))) as signer:
        signer.sign(b"message")


@pytest.mark.parametrize(
    ("spec", "usage", "said"),
    [
        ("ECC_SECG_P256K1", "SIGN_VERIFY", "secp256k1"),
        ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", "symmetric encryption key"),
        ("HMAC_256", "GENERATE_VERIFY_MAC", "HMAC"),
        ("RSA_2048", "ENCRYPT_DECRYPT", "for ENCRYPT_DECRYPT, not for SIGN_VERIFY"),
    ],
)
def test_wrong_kind(
    ministack: MiniStack, kms_uri: KmsUri, spec: str, usage: str, said: str
) -> None:
    """Each kind of key that cannot sign assertions is named."""
    arn = ministack.make_key(KeySpec=spec, KeyUsage=usage)
    with pytest.raises(KeyUnusableError, match=said):
        keystay.open_signer(kms_uri(arn))


def test_custody_of_other_origins(
    ministack: MiniStack, kms_proxy: KmsProxy, kms_uri: KmsUri
) -> None:
    """Custom key stores and imported keys are told; the location stays what is certain."""
    extra: dict[str, object] = {"CustomKeyStoreId": "cks-1", "ValidTo": 1900000000}

    def other(body: dict[str, Any]) -> dict[str, Any]:
        return {"KeyMetadata": {**body["KeyMetadata"], **extra}}

    kms_proxy.change("DescribeKey", other, times=None)
    for origin, said in (
        ("AWS_CLOUDHSM", "CloudHSM cluster"),
        ("EXTERNAL_KEY_STORE", "outside AWS"),
        ("EXTERNAL", "copies may exist"),
        ("ODD", "its origin is ODD"),
    ):
        extra["Origin"] = origin
        with keystay.open_signer(kms_uri(ministack.key("P-384"))) as signer:
            assert said in signer.custody.reason
            assert "other-process" == signer.custody.location
            facts = {name: fact.value for name, fact in signer.custody.facts.items()}
            assert ("cks-1", origin) == (facts["custom_key_store"], facts["origin"])
            assert str(facts["material_expires"]).startswith("2030-")
    with pytest.raises(keystay.errors.PolicyError):
        keystay.open_signer(kms_uri(ministack.key("P-384")), custody="hardware")


@pytest.mark.parametrize("missing", ["kms:DescribeKey", "kms:GetPublicKey", "kms:Sign"])
def test_access_denied(
    ministack: MiniStack,
    kms_uri: KmsUri,
    monkeypatch: pytest.MonkeyPatch,
    alias: str,
    missing: str,
) -> None:
    """A real IAM refusal names the action, the key's ARN and the user to grant it to."""
    arn = ministack.key("P-384")
    actions = [a for a in ("kms:DescribeKey", "kms:GetPublicKey", "kms:Sign") if a != missing]
    name = f"no-{missing.rpartition(':')[2]}-{alias[-6:]}"
    use(monkeypatch, ministack.make_user(name, [{"Action": actions, "Resource": arn}]))
    if missing == "kms:Sign":
        with keystay.open_signer(kms_uri(arn)) as signer:
            with pytest.raises(KeyUnusableError, match="Access denied: kms:Sign"):
                signer.health()
            with pytest.raises(KeyUnusableError) as caught:
                signer.sign(b"message")
    else:
        with pytest.raises(KeyUnusableError) as caught:
            keystay.open_signer(kms_uri(arn))
    error = caught.value
    assert "aws-access-denied" == error.code
    assert f"Access denied: {missing} on {arn}" in error.message
    assert f"Grant {missing} on {arn} to arn:aws:iam::000000000000:user/{name}." in str(error.hint)


def test_access_denied_by_alias(
    ministack: MiniStack, kms_proxy: KmsProxy, kms_uri: KmsUri, alias: str
) -> None:
    """Where AWS names no ARN, the advice does not pretend that an alias can be granted."""
    ministack.point(alias, ministack.key("P-384"))
    kms_proxy.fail("DescribeKey", "AccessDeniedException", message="no")
    with pytest.raises(KeyUnusableError, match=f"the key behind {alias}"):
        keystay.open_signer(kms_uri(alias))


def test_minimal_policy(
    ministack: MiniStack, kms_uri: KmsUri, monkeypatch: pytest.MonkeyPatch, alias: str
) -> None:
    """The three actions of the documented policy are enough to open, sign and probe."""
    # By ARN: unlike AWS, the emulator wants an alias to be granted for itself.
    arn = ministack.key("P-384")
    actions = ["kms:DescribeKey", "kms:GetPublicKey", "kms:Sign"]
    name = f"signer-{alias[-6:]}"
    use(monkeypatch, ministack.make_user(name, [{"Action": actions, "Resource": arn}]))
    with keystay.open_signer(kms_uri(arn)) as signer:
        signer.health()
        signer.sign(b"message")


def test_health_does_not_sign(ministack: MiniStack, kms_proxy: KmsProxy, kms_uri: KmsUri) -> None:
    """`health` asks with DryRun."""
    with keystay.open_signer(kms_uri(ministack.key("P-384"))) as signer:
        signer.health()
        kms_proxy.fail("Sign", "KMSInvalidStateException")
        with pytest.raises(KeyUnusableError, match="does not allow Sign"):
            signer.health()
    probes = [e for e in kms_proxy.exchanges if e.operation == "Sign"]
    assert [(True, 400), (True, 400)] == [(e.body["DryRun"], e.status) for e in probes]


@pytest.mark.parametrize("used", ["RS384", "RS256"])
def test_health_under_one_algorithm(
    ministack: MiniStack, kms_proxy: KmsProxy, kms_uri: KmsUri, used: str
) -> None:
    """Where the policy allows one algorithm, `health` asks for the one that signs."""
    allowed = f"RSASSA_PKCS1_V1_5_SHA_{used[2:]}"

    def condition(exchange: Exchange, ask: Ask) -> Answer:
        if exchange.body["SigningAlgorithm"] != allowed:
            return refusal("AccessDeniedException", "kms:SigningAlgorithm")
        return ask()

    kms_proxy.inject("Sign", condition, times=None)
    with keystay.open_signer(kms_uri(ministack.key("RSA-2048"))) as signer:
        if used == signer.algorithm:
            signer.health()
        signer.sign(b"message", used)
        signer.health()


def test_wrong_credentials(
    ministack: MiniStack, kms_uri: KmsUri, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown access key and a wrong secret are told apart from a refusal."""
    uri = kms_uri(ministack.key("P-384"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret-at-all")
    with pytest.raises(LoginError, match="InvalidSignature") as caught:
        keystay.open_signer(uri)
    assert "aws-credentials-refused" == caught.value.code
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIANOSUCHKEY")
    with pytest.raises(LoginError, match="UnrecognizedClient"):
        keystay.open_signer(uri)


@pytest.mark.parametrize(
    ("code", "message", "ours"),
    [
        ("ExpiredTokenException", "The security token included in the request is expired",
         "aws-credentials-expired"),
        ("InvalidSignatureException", "Signature expired: 20261124T000000Z is now earlier than",
         "aws-clock-wrong"),
        ("MissingAuthenticationTokenException", "", "aws-credentials-refused"),
    ],
)  # fmt: skip
def test_bad_credentials(
    ministack: MiniStack, kms_proxy: KmsProxy, kms_uri: KmsUri, code: str, message: str, ours: str
) -> None:
    """What else is wrong with credentials has its own remedy."""
    kms_proxy.fail("DescribeKey", code, status=403, message=message)
    with pytest.raises(LoginError) as caught:
        keystay.open_signer(kms_uri(ministack.key("P-384")))
    assert ours == caught.value.code


def test_no_credentials(
    ministack: MiniStack, kms_uri: KmsUri, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None at all, or half of them."""
    uri = kms_uri(ministack.key("P-384"))
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(LoginError, match="incomplete"):
        keystay.open_signer(uri)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(LoginError, match="no AWS credentials"):
        keystay.open_signer(uri)


def test_credential_process_fails(
    kms_uri: KmsUri, ministack: MiniStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What such a process wrote is not repeated."""
    import traceback

    (tmp_path / "aws-config").write_text(
        "[profile broken]\ncredential_process = sh -c 'echo hunter2-hunter2 >&2; exit 1'\n"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(LoginError, match="could not get the AWS credentials") as caught:
        keystay.open_signer(f"{kms_uri(ministack.key('P-384'))}&profile=broken")
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_no_region(aws_environment: MiniStack, alias: str) -> None:
    """No region anywhere, and one that is none."""
    with pytest.raises(ConfigurationError, match="No AWS region"):
        keystay.open_signer(f"awskms:///{alias}")
    with pytest.raises(ConfigurationError, match="no AWS region"):
        keystay.open_signer(f"awskms:///{alias}?region=ireland")


def test_no_profile(kms_uri: KmsUri, alias: str) -> None:
    """A profile that is not there."""
    with pytest.raises(ConfigurationError, match="profile cannot be used"):
        keystay.open_signer(f"{kms_uri(alias)}&profile=nobody")


def test_wrong_region(ministack: MiniStack, kms_uri: KmsUri, alias: str) -> None:
    """A key of another region is not found, and the message says where it was looked for."""
    arn = ministack.make_key(alias)
    for name in (alias, arn.rpartition("/")[2]):
        with pytest.raises(KeyNotFoundError, match="region us-east-1") as caught:
            keystay.open_signer(kms_uri(name, region="us-east-1"))
        assert "region" in str(caught.value.hint)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "https://kms.invalid"])
def test_no_network(aws_environment: MiniStack, alias: str, url: str) -> None:
    """A closed port and an unknown name are told at once."""
    began = time.monotonic()
    with pytest.raises(BackendUnavailableError, match="cannot be reached") as caught:
        keystay.open_signer(f"awskms:///{alias}?region={REGION}&endpoint={url}")
    assert ("aws-unreachable", True) == (caught.value.code, url in caught.value.message)
    assert time.monotonic() - began < 5


def test_no_tls(kms_proxy: KmsProxy, aws_environment: MiniStack, alias: str) -> None:
    """Something that does not speak TLS where it should."""
    url = kms_proxy.url.replace("http://", "https://")
    with pytest.raises(BackendUnavailableError, match="TLS connection") as caught:
        keystay.open_signer(f"awskms:///{alias}?region={REGION}&endpoint={url}")
    assert "aws-tls" == caught.value.code


def test_proxy_is_down(
    aws_environment: MiniStack, alias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that is not there; its credentials are not shown."""
    import traceback

    monkeypatch.setenv("HTTPS_PROXY", "http://me:proxy-password@127.0.0.1:9")
    with pytest.raises(BackendUnavailableError, match="proxy") as caught:
        keystay.open_signer(f"awskms:///{alias}?region={REGION}")
    assert "proxy-password" not in "".join(traceback.format_exception(caught.value))


def test_loopback_goes_past_the_proxy(
    ministack: MiniStack, kms_uri: KmsUri, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An emulator on this machine is reached directly."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    keystay.open_signer(kms_uri(ministack.key("P-384"))).close()


def test_insecure_endpoint_of_the_sdk(
    aws_environment: MiniStack, alias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endpoint from AWS's own variables is checked as strictly."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://kms.example.org")
    with pytest.raises(ConfigurationError, match="plain HTTP to another machine"):
        keystay.open_signer(f"awskms:///{alias}?region={REGION}")


@pytest.mark.parametrize("named_in", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS", "profile"])
def test_endpoint_of_the_sdk(
    ministack: MiniStack,
    aws_environment: MiniStack,
    kms_proxy: KmsProxy,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    named_in: str,
) -> None:
    """An emulator that AWS's own configuration names is told for one, and named in errors."""
    if named_in == "profile":
        (tmp_path / "aws-config").write_text(f"[default]\nendpoint_url = {kms_proxy.url}\n")
    else:
        monkeypatch.setenv(named_in, kms_proxy.url)
    arn = ministack.key("P-384")
    with keystay.open_signer(f"awskms:///{arn}") as signer:
        custody = signer.custody
        assert ("other-process", "asserted") == (custody.location, custody.evidence)
        assert kms_proxy.url == custody.facts["endpoint"].value
    kms_proxy.fail("DescribeKey", "NotFoundException")
    with pytest.raises(KeyNotFoundError, match=kms_proxy.url):
        keystay.open_signer(f"awskms:///{arn}")
