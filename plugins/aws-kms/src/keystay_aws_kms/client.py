"""The SDK's KMS client: which of its calls are used, how it is made, and one for each process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from keystay.concurrency.forks import detect_fork, reset_after_fork
from keystay.concurrency.locks import DeadlineLock
from keystay.errors import ConfigurationError, SignerClosedError
from keystay_aws_kms.settings import endpoint_problem, is_aws, is_loopback

if TYPE_CHECKING:
    from keystay.concurrency.clock import Deadline
    from keystay_aws_kms.settings import Settings

__all__ = ["CONNECT_SECONDS", "READ_SECONDS", "Connected", "Connection", "Kms", "connect"]

CONNECT_SECONDS = 2.0
"""Seconds that connecting may take, for one attempt."""

READ_SECONDS = 5.0
"""Seconds that KMS may be silent, in one attempt."""

# urllib3 keeps so many connections; more threads open more and throw them away afterwards.
_KEPT_CONNECTIONS = 32

Reply = Mapping[str, Any]


class Kms(Protocol):
    """What is used of boto3's KMS client. It is thread-safe; the session it comes from is not."""

    @property
    def meta(self) -> Any:
        """`region_name` and `endpoint_url`."""

    def describe_key(self, *, KeyId: str) -> Reply:  # noqa: N803
        """`KeyMetadata`."""

    def get_public_key(self, *, KeyId: str) -> Reply:  # noqa: N803
        """`KeyId`, `PublicKey` (DER SubjectPublicKeyInfo), `SigningAlgorithms`."""

    def sign(self, **parameters: Any) -> Reply:
        """`KeyId` (the key's ARN), `Signature`."""

    def list_keys(self, **parameters: Any) -> Reply:
        """`Keys`, `Truncated`, `NextMarker`."""

    def list_aliases(self, **parameters: Any) -> Reply:
        """`Aliases`, `Truncated`, `NextMarker`."""

    def create_key(self, **parameters: Any) -> Reply:
        """`KeyMetadata`."""

    def create_alias(self, *, AliasName: str, TargetKeyId: str) -> object:  # noqa: N803
        """Nothing."""

    def schedule_key_deletion(self, *, KeyId: str, PendingWindowInDays: int) -> object:  # noqa: N803
        """Nothing that is used."""

    def close(self) -> None:
        """Close its connections."""


class Connected(NamedTuple):
    """A client, and its number among those of its connection."""

    client: Kms
    number: int


def connect(settings: Settings) -> Kms:
    """Make a client of a new boto3 session.

    Raises:
        ConfigurationError: The endpoint that the SDK found elsewhere is not HTTPS.
        Exception: Whatever boto3 raises.
    """
    import boto3
    from botocore.config import Config

    options: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        # One attempt: keystay retries itself, within one deadline.
        "retries": {"mode": "standard", "total_max_attempts": 1},
        "max_pool_connections": _KEPT_CONNECTIONS,
        "user_agent_extra": "keystay",
    }
    if settings.endpoint is not None and is_loopback(settings.endpoint):
        options["proxies"] = {}  # what is on this machine is not sent through a proxy
    session = boto3.Session(profile_name=settings.profile, region_name=settings.region)
    client = cast(
        Kms, session.client("kms", endpoint_url=settings.endpoint, config=Config(**options))
    )
    # AWS_ENDPOINT_URL_KMS and profiles can name one as well.
    if problem := endpoint_problem(client.meta.endpoint_url):
        client.close()
        raise ConfigurationError(
            f"The KMS endpoint that the AWS configuration names {problem}.",
            cause="AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_KMS or endpoint_url in the AWS profile.",
            hint="Use an https:// URL without path; http:// is for this machine only.",
        )
    return client


class Connection:
    """The client of this process; a forked child gets its own.

    Args:
        settings: How to reach KMS.
        make: Makes a client; a test may hand in its own.
    """

    def __init__(self, settings: Settings, make: Callable[[Settings], Kms] = connect) -> None:
        self._settings, self._make = settings, make
        self._current: Connected | None = None
        self._number = 0
        self._closed = False
        self._making = DeadlineLock("connecting to AWS KMS")
        reset_after_fork(self._reset)

    def get(self, deadline: Deadline) -> Connected:
        """The client, made when first asked for in this process.

        Raises:
            SignerClosedError: After `close()`.
            BackendTimeoutError: Another thread was making it until the deadline.
            Exception: Whatever boto3 raises.
        """
        detect_fork()
        if self._current is not None and not self._closed:
            return self._current
        with self._making.held(deadline):
            if self._closed:
                raise SignerClosedError("The connection to AWS KMS is closed.")
            if self._current is None:
                self._number += 1
                self._current = Connected(self._make(self._settings), self._number)
            return self._current

    @property
    def region(self) -> str | None:
        """The region; None until it is known."""
        current = self._current
        return self._settings.region if current is None else current.client.meta.region_name

    @property
    def endpoint(self) -> str | None:
        """The endpoint that somebody named, AWS's own configuration too; None for AWS's own."""
        current = self._current
        if self._settings.endpoint is not None or current is None:
            return self._settings.endpoint
        url: str = current.client.meta.endpoint_url
        return None if is_aws(url) else url

    @property
    def where(self) -> str:
        """Region and endpoint, in words."""
        region = f"region {self.region}" if self.region else "boto3's default region"
        return f"{region} at {self.endpoint}" if self.endpoint else region

    def close(self) -> None:
        """Close the client; idempotent. Does not wait for one that is being made."""
        self._closed = True
        detect_fork()
        current, self._current = self._current, None
        if current is not None:
            current.client.close()

    def _reset(self) -> None:
        """In a forked child: the parent's sockets are not for it."""
        self._current = None
