"""AWS KMS as a key store: keys made, listed and shown by the installed `keystay` command."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

import keystay
from keystay.backends import BackendContext
from keystay.backends.registry import default_registry
from keystay.errors import ConfigurationError, KeyUnusableError, KeyURIError
from keystay.key_uri import parse
from tests.support.ministack import REGION, SPECS
from tests.support.secrets_watch import WATCH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystay_aws_kms.store import KmsStore
    from tests.support.aws_fixtures import KmsUri
    from tests.support.kms_proxy import KmsProxy
    from tests.support.ministack import MiniStack

KEYSTAY = str(Path(sys.executable).with_name("keystay"))


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `keystay` with this process's environment."""
    env = {n: v for n, v in os.environ.items() if not n.startswith("KEYSTAY_")}
    done = subprocess.run(
        [KEYSTAY, *arguments], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    WATCH.check(done.stdout + done.stderr, "the output")
    return done


@pytest.fixture
def store(kms_uri: KmsUri, alias: str) -> Iterator[KmsStore]:
    """The store, at an alias that does not exist."""
    with contextlib.closing(open_store(kms_uri(alias))) as opened:
        yield opened


def open_store(uri: str, **settings: Any) -> KmsStore:
    """The store a URI means."""
    opened = default_registry().open_store(parse(uri), BackendContext(settings=settings))
    return cast("KmsStore", opened)


def test_command_line(kms_uri: KmsUri, alias: str, tmp_path: Path) -> None:
    """Generate, list, show and sign with what was made; an alias is not reused."""
    uri = kms_uri(alias)
    made = command("key", "generate", uri, "--type", "P-384", "--json", cwd=tmp_path)
    assert (0, "") == (made.returncode, made.stderr)
    [record] = json.loads(made.stdout)
    assert ("P-384", alias, uri) == (record["key_type"], record["label"], record["uri"])
    assert {"state": "Enabled", "origin": "AWS_KMS", "multi_region": False} == record["attributes"]

    listed = command("key", "list", uri, "--json", cwd=tmp_path)
    assert [record] == json.loads(listed.stdout)

    shown = command("key", "show", uri, "--json", cwd=tmp_path)
    document = json.loads(shown.stdout)
    assert (record["key_id"], ["ES384"]) == (document["key_id"], document["algorithms"])
    assert "other-process" == document["custody"]["location"]
    assert 0 == command("key", "show", uri, cwd=tmp_path).returncode

    again = command("key", "generate", uri, cwd=tmp_path)
    assert (3, True) == (again.returncode, "[key-exists]" in again.stderr)


@pytest.mark.parametrize("key_type", [name for name in SPECS if name != "RSA-4096"])
def test_generate(store: KmsStore, kms_uri: KmsUri, key_type: str) -> None:
    """Every type makes a key of that type, which signs."""
    record = store.generate_key(key_type)
    with keystay.open_signer(record.uri) as signer:
        assert (key_type, record.key_id) == (signer.key_type, signer.key_id)
        signer.sign(b"message")


def test_tags(kms_proxy: KmsProxy, kms_uri: KmsUri, alias: str) -> None:
    """A new key gets the tags of the configuration."""
    with contextlib.closing(open_store(kms_uri(alias), tags={"app": "epic"})) as opened:
        opened.generate_key("P-256")
    [made] = [e.body for e in kms_proxy.exchanges if e.operation == "CreateKey"]
    assert [{"TagKey": "app", "TagValue": "epic"}] == made["Tags"]
    assert ("SIGN_VERIFY", "ECC_NIST_P256") == (made["KeyUsage"], made["KeySpec"])


def test_refusals(kms_uri: KmsUri, store: KmsStore, ministack: MiniStack) -> None:
    """What cannot be generated is refused before a key is made."""
    with pytest.raises(ConfigurationError, match="no key type 'P-385'") as caught:
        store.generate_key("P-385")
    assert "'P-384'" in str(caught.value.hint)
    for name in (ministack.key("P-384"), "*", "alias/x*"):
        with pytest.raises(ConfigurationError, match="no alias"):
            open_store(kms_uri(name)).generate_key("P-384")
    with pytest.raises(ConfigurationError, match="AWS's own"):
        open_store(kms_uri("alias/aws/mine")).generate_key("P-384")
    with pytest.raises(KeyURIError, match="pattern"):
        open_store(kms_uri("epic-*"))


def test_alias_taken_meanwhile(
    store: KmsStore, kms_proxy: KmsProxy, ministack: MiniStack, caplog: pytest.LogCaptureFixture
) -> None:
    """A key that got no alias is deleted again, as far as that is allowed."""
    kms_proxy.fail("CreateAlias", "AlreadyExistsException")
    with pytest.raises(KeyUnusableError, match="exists already"):
        store.generate_key("P-384")
    assert 1 == kms_proxy.count("ScheduleKeyDeletion")
    assert "is being deleted" in caplog.text

    kms_proxy.fail("CreateAlias", "AccessDeniedException")
    kms_proxy.fail("ScheduleKeyDeletion", "AccessDeniedException")
    with pytest.raises(KeyUnusableError, match="kms:CreateAlias") as caught:
        store.generate_key("P-384")
    assert "remains, without an alias" in caught.value.__notes__[0]


def test_creating_is_not_repeated(store: KmsStore, kms_proxy: KmsProxy) -> None:
    """A CreateKey that may have worked is not sent twice; a throttled one is."""
    kms_proxy.fail("CreateKey", "KMSInternalException", status=500)
    with pytest.raises(keystay.errors.BackendUnavailableError):
        store.generate_key("P-384")
    assert 1 == kms_proxy.count("CreateKey")
    kms_proxy.fail("CreateKey", "LimitExceededException")
    with pytest.raises(keystay.errors.BackendError, match="quota"):
        store.generate_key("P-384")
    kms_proxy.fail("CreateKey", "ThrottlingException")
    store.generate_key("P-384")
    assert 4 == kms_proxy.count("CreateKey")


def test_list_all(ministack: MiniStack, kms_proxy: KmsProxy, kms_uri: KmsUri, alias: str) -> None:
    """Pages are followed; only signing keys are listed, each by its alias or its ARN."""
    signing = [ministack.make_key(f"{alias}-{number}") for number in range(3)]
    bare = ministack.make_key()
    others = [
        ministack.make_key(f"{alias}-symmetric", KeySpec="SYMMETRIC_DEFAULT",
                           KeyUsage="ENCRYPT_DECRYPT"),
        ministack.make_key(KeySpec="ECC_SECG_P256K1"),
    ]  # fmt: skip
    everything: list[dict[str, str]] = []

    def paged(body: dict[str, Any]) -> dict[str, Any]:
        everything[:] = body["Keys"]
        half = len(everything) // 2
        return {"Keys": everything[:half], "Truncated": True, "NextMarker": "next"}

    kms_proxy.change("ListKeys", paged)
    kms_proxy.change(
        "ListKeys", lambda body: {"Keys": everything[len(everything) // 2 :], "Truncated": False}
    )
    with contextlib.closing(open_store(kms_uri("*"))) as opened:
        records = {record.key_id: record for record in opened.list_keys()}
    assert {*signing, bare} <= set(records)
    assert not set(others) & set(records)
    assert [None, "next"] == [
        e.body.get("Marker") for e in kms_proxy.exchanges if e.operation == "ListKeys"
    ]
    assert f"{alias}-0" == records[signing[0]].label
    assert records[bare].uri.startswith(f"awskms:///{bare}?region={REGION}&endpoint=")
    keystay.open_signer(records[bare].uri).close()

    with contextlib.closing(open_store(kms_uri(f"{alias}-*"))) as opened:
        assert signing == [record.key_id for record in opened.list_keys()]


def test_list_one(ministack: MiniStack, kms_uri: KmsUri) -> None:
    """One key by its ARN; a key that cannot sign is no match."""
    arn = ministack.key("P-384")
    with contextlib.closing(open_store(kms_uri(arn))) as opened:
        assert [arn] == [record.key_id for record in opened.list_keys()]
    other = ministack.make_key(KeySpec="SYMMETRIC_DEFAULT", KeyUsage="ENCRYPT_DECRYPT")
    with contextlib.closing(open_store(kms_uri(other))) as opened:
        assert [] == opened.list_keys()
        assert other in repr(opened)
    with pytest.raises(keystay.errors.SignerClosedError):
        opened.list_keys()


def test_list_hidden(
    ministack: MiniStack,
    kms_proxy: KmsProxy,
    kms_uri: KmsUri,
    alias: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Keys that may not be described are left out, and that is said."""
    for number in range(2):
        ministack.make_key(f"{alias}-{number}")
    kms_proxy.fail("DescribeKey", "AccessDeniedException")
    with contextlib.closing(open_store(kms_uri(f"{alias}*"))) as opened:
        assert 1 == len(opened.list_keys())
    assert "1 keys are not shown: kms:DescribeKey" in caplog.text
