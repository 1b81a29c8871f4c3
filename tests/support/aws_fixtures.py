"""Fixtures for AWS KMS: the emulator for the session, a proxy before it for each test."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.support.kms_proxy import KmsProxy
from tests.support.ministack import REGION, MiniStack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class KmsUri(Protocol):
    """Makes key URIs that go to the emulator through the proxy."""

    def __call__(self, key: str, *, region: str | None = REGION) -> str:
        """The URI of an alias, id or ARN."""
        ...


@pytest.fixture(scope="session")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MiniStack]:
    """AWS KMS with IAM, emulated in another process."""
    with MiniStack(tmp_path_factory.mktemp("ministack")) as emulator:
        yield emulator


@pytest.fixture
def kms_proxy(ministack: MiniStack) -> Iterator[KmsProxy]:
    """A proxy before the emulator that can be told to fail."""
    with KmsProxy(ministack.endpoint) as proxy:
        yield proxy


@pytest.fixture
def no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of AWS in the environment, no proxy, and no files of the user's."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def aws_environment(
    ministack: MiniStack, no_aws: None, monkeypatch: pytest.MonkeyPatch
) -> MiniStack:
    """The administrator's credentials in this process's environment; the emulator."""
    for name, value in ministack.admin.env.items():
        monkeypatch.setenv(name, value)
    return ministack


@pytest.fixture
def kms_uri(aws_environment: MiniStack, kms_proxy: KmsProxy) -> KmsUri:
    """A function that makes key URIs; credentials are in the environment."""

    def make(key: str, *, region: str | None = REGION) -> str:
        named = f"region={region}&" if region else ""
        return f"awskms:///{key}?{named}endpoint={kms_proxy.url}"

    return make


@pytest.fixture
def alias() -> str:
    """A new alias, of no key yet."""
    return f"alias/keystay-{uuid.uuid4().hex[:12]}"
