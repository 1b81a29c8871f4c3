"""MiniStack's AWS KMS on loopback, in its own process: real requests, signatures and policies.

With `AUTH=true` it checks SigV4 and IAM. Its root credentials are public, so the tests use
those of a user made for each session.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import pytest

from keystay.backends.log_filter import no_debug_records
from keystay_aws_kms.client import LOGGERS
from tests.support.secrets_watch import WATCH

if TYPE_CHECKING:
    from types import TracebackType

REGION = "eu-west-1"
_ROOT = "test"
_START_TIMEOUT = 30.0
_POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*"}]}

SPECS = {
    "P-256": "ECC_NIST_P256",
    "P-384": "ECC_NIST_P384",
    "P-521": "ECC_NIST_P521",
    "RSA-2048": "RSA_2048",
    "RSA-3072": "RSA_3072",
    "RSA-4096": "RSA_4096",
    "Ed25519": "ECC_NIST_EDWARDS25519",
}


class Credentials(NamedTuple):
    """An access key of the emulator."""

    key_id: str
    secret: str
    token: str | None = None

    def __repr__(self) -> str:
        return f"<Credentials {self.key_id}>"

    @property
    def env(self) -> dict[str, str]:
        """The variables that boto3 reads."""
        env = {"AWS_ACCESS_KEY_ID": self.key_id, "AWS_SECRET_ACCESS_KEY": self.secret}
        return env | ({"AWS_SESSION_TOKEN": self.token} if self.token else {})


class MiniStack:
    """Runs the emulator for as long as a `with` block runs.

    Attributes:
        endpoint: Its URL.
        admin: Credentials that may do everything.
    """

    def __init__(self, directory: Path) -> None:
        """Start it; its log goes to a directory."""
        python = Path(sys.executable).parent.parent / "emulators" / "bin" / "python"
        if not python.exists():
            pytest.fail(
                "The AWS emulator is not installed. `make test` installs it; "
                "by hand: tools/setup emulators",
                pytrace=False,
            )
        port = _free_port()
        self.endpoint = f"http://127.0.0.1:{port}"
        self._log = directory / "ministack.log"
        self._keys: dict[str, str] = {}
        kept = {n: v for n, v in os.environ.items() if not n.startswith(("AWS_", "MINISTACK_"))}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [python, "-m", "ministack"],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **kept,
                    "AUTH": "true",
                    "BIND_HOST": "127.0.0.1",
                    "MINISTACK_HOST": "127.0.0.1",
                    "GATEWAY_PORT": str(port),
                    "IOT_MTLS_ENABLED": "0",
                    "SERVICES": "kms,iam,sts",
                    "DOCKER_HOST": "unix:///nonexistent",
                    "TMPDIR": str(directory),
                },
            )
        try:
            self._wait()
            self.admin = Credentials(_ROOT, _ROOT)
            self.admin = self.make_user("admin", _POLICY["Statement"])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def client(self, service: str = "kms", *, region: str = REGION) -> Any:
        """A boto3 client of the administrator's, past any proxy."""
        import boto3
        from botocore.config import Config

        return boto3.Session(
            aws_access_key_id=self.admin.key_id,
            aws_secret_access_key=self.admin.secret,
            region_name=region,
        ).client(service, endpoint_url=self.endpoint, config=Config(proxies={}))

    def make_user(self, name: str, statements: object) -> Credentials:
        """A user with a policy of these statements, and an access key."""
        with no_debug_records(LOGGERS), contextlib.closing(self.client("iam")) as iam:
            iam.create_user(UserName=name)
            policy = {"Version": "2012-10-17", "Statement": _complete(statements)}
            iam.put_user_policy(
                UserName=name, PolicyName="keystay", PolicyDocument=json.dumps(policy)
            )
            made = iam.create_access_key(UserName=name)["AccessKey"]
        WATCH.add(f"the secret access key of {name}", made["SecretAccessKey"])
        return Credentials(made["AccessKeyId"], made["SecretAccessKey"])

    def session_of(self, credentials: Credentials) -> Credentials:
        """Temporary credentials of a user's, with a session token."""
        import boto3

        sts = boto3.Session(
            aws_access_key_id=credentials.key_id,
            aws_secret_access_key=credentials.secret,
            region_name=REGION,
        ).client("sts", endpoint_url=self.endpoint)
        with no_debug_records(LOGGERS), contextlib.closing(sts):
            made = sts.get_session_token()["Credentials"]
        WATCH.add("a secret access key", made["SecretAccessKey"])
        WATCH.add("a session token", made["SessionToken"])
        return Credentials(made["AccessKeyId"], made["SecretAccessKey"], made["SessionToken"])

    def key(self, key_type: str) -> str:
        """The ARN of the session's key of a type; not to be disabled or deleted."""
        if key_type not in self._keys:
            self._keys[key_type] = self.make_key(KeySpec=SPECS[key_type])
        return self._keys[key_type]

    def make_key(self, alias: str | None = None, **parameters: Any) -> str:
        """Make a key for SIGN_VERIFY unless told otherwise, and an alias; return its ARN."""
        options = {"KeySpec": "ECC_NIST_P384", "KeyUsage": "SIGN_VERIFY", **parameters}
        with contextlib.closing(self.client()) as kms:
            metadata = kms.create_key(**options)["KeyMetadata"]
            if alias is not None:
                kms.create_alias(AliasName=alias, TargetKeyId=metadata["KeyId"])
        return str(metadata["Arn"])

    def point(self, alias: str, arn: str) -> None:
        """Point an alias at a key, whether it exists or not."""
        with contextlib.closing(self.client()) as kms:
            try:
                kms.update_alias(AliasName=alias, TargetKeyId=arn)
            except kms.exceptions.NotFoundException:
                kms.create_alias(AliasName=alias, TargetKeyId=arn)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)

    def _wait(self) -> None:
        until = time.monotonic() + _START_TIMEOUT
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while True:
            with (
                contextlib.suppress(OSError),
                direct.open(f"{self.endpoint}/_ministack/health", timeout=2) as reply,
            ):
                if json.load(reply).get("auth") == "enabled":
                    return
            if self._process.poll() is not None or time.monotonic() > until:
                pytest.fail(
                    f"MiniStack did not start:\n{self._log.read_text()[-2000:]}", pytrace=False
                )
            time.sleep(0.05)


def _complete(statements: object) -> list[dict[str, object]]:
    assert isinstance(statements, list)
    return [{"Effect": "Allow", "Resource": "*", **statement} for statement in statements]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
