"""The SDK's KMS client: which of its calls are used, how it is made, one for each process.

One deadline holds for all attempts of a call, with a retry where that can help, and every error is
translated. Each attempt runs in a thread of its own, so that the deadline holds whatever is slow:
DNS, a credential process, an instance's metadata, or a peer that sends a byte now and then.
botocore's timeouts are fixed when a client is made and bound the silence of one peer only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from keystay.backends.log_filter import no_debug_records
from keystay.backends.process_client import ProcessClient
from keystay.concurrency.clock import SYSTEM_CLOCK, backoff
from keystay.concurrency.threads import WorkerThreads
from keystay_aws_kms.errors import TEXTS, Call, is_retryable, too_late, translate
from keystay_aws_kms.settings import endpoint_problem, is_aws, is_loopback

if TYPE_CHECKING:
    from keystay.concurrency.clock import Clock, Deadline
    from keystay_aws_kms.settings import Settings

__all__ = ["LOGGERS", "Connection", "Kms", "connect"]

CONNECT_SECONDS = 2.0
"""Seconds that connecting may take, for one attempt."""

READ_SECONDS = 5.0
"""Seconds that KMS may be silent, in one attempt."""

LOGGERS = tuple(
    f"botocore.{name}"
    for name in (
        "auth", "awsrequest", "client", "credentials", "endpoint", "hooks", "httpsession",
        "parsers", "retryhandler", "tokens", "utils",
    )
)  # fmt: skip
"""Those of botocore's loggers that show requests, responses or credentials."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0  # seconds

# urllib3 keeps so many connections; more threads open more and throw them away afterwards.
_KEPT_CONNECTIONS = 32

Reply = Mapping[str, Any]

T = TypeVar("T")


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
        raise TEXTS.error("endpoint", problem=problem)
    return client


class Connection:
    """KMS as the settings reach it. Thread-safe; a forked child gets a client of its own.

    Args:
        settings: How to reach KMS.
        make: Makes a client; a test may hand in its own.
        clock: Waits before another attempt; a test may hand in its own.

    Attributes:
        client: The client of this process.
    """

    def __init__(
        self,
        settings: Settings,
        make: Callable[[Settings], Kms] = connect,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._settings, self._clock = settings, clock
        self.client = ProcessClient("AWS KMS", lambda _: make(settings), lambda kms: kms.close())
        self._threads = _Threads("AWS KMS")

    def call(
        self, operation: str, key: str, send: Callable[[Kms], T], deadline: Deadline
    ) -> tuple[T, int]:
        """Call, and call again while that can help and the deadline allows.

        Args:
            operation: What KMS calls it, such as `Sign`.
            key: The key it is about, for messages: an ARN, or what the user wrote.
            send: Calls the SDK.
            deadline: For all attempts together.

        Returns:
            What `send` returned, and the number of the client it came through.

        Raises:
            BackendTimeoutError: No answer in time.
            BackendUnavailableError: Throttled, or failing, until the deadline.
            KeystayError: Anything else that is wrong, at once.
        """
        attempt = 0
        last: Exception | None = None
        while not deadline.expired:
            attempt += 1
            try:
                return self._threads.call_with_deadline(
                    partial(self._send, send, deadline), deadline
                )
            except _NoAnswerError:  # the thread is left to end by botocore's own timeouts
                break
            except Exception as error:  # noqa: BLE001 - the SDK's, to be translated
                last = error
            if not is_retryable(last, operation):
                raise translate(last, Call(operation, key, self.where))
            pause = backoff(attempt, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE)
            if pause >= deadline.remaining:
                break
            self._clock.sleep(pause)
        raise too_late(last, Call(operation, key, self.where), deadline.seconds, attempt)

    @property
    def endpoint(self) -> str | None:
        """The endpoint that somebody named, AWS's own configuration too; None for AWS's own."""
        current = self.client.current
        if self._settings.endpoint is not None or current is None:
            return self._settings.endpoint
        url: str = current.meta.endpoint_url
        return None if is_aws(url) else url

    @property
    def where(self) -> str:
        """Region and endpoint, in words."""
        current = self.client.current
        name = self._settings.region if current is None else current.meta.region_name
        region = f"region {name}" if name else "boto3's default region"
        return f"{region} at {self.endpoint}" if self.endpoint else region

    def close(self) -> None:
        """Close the client; idempotent. Does not wait for one that is being made."""
        self.client.close()

    def _send(self, send: Callable[[Kms], T], deadline: Deadline) -> tuple[T, int]:
        with no_debug_records(LOGGERS):
            client, number = self.client.get(deadline)
            return send(client), number


class _NoAnswerError(Exception):
    """The deadline passed during an attempt."""


class _Threads(WorkerThreads):
    def timeout_error(self, deadline: Deadline) -> Exception:
        return _NoAnswerError()
