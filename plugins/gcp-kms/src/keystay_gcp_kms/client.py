"""The calls of Google's client that are used, and how they are made: in time, again, after a fork.

The libraries' own retries are off: they know neither our deadline nor RESOURCE_EXHAUSTED.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from keystay.backends.log_filter import no_debug_records
from keystay.backends.process_client import ProcessClient
from keystay.concurrency.clock import SYSTEM_CLOCK, backoff
from keystay.concurrency.forks import hold_off_forks
from keystay.concurrency.threads import WorkerThreads
from keystay.errors import BackendTimeoutError
from keystay_gcp_kms.errors import (
    FAILURES,
    TEXTS,
    Step,
    is_retryable,
    status_of,
    translate,
    wait_asked,
)

if TYPE_CHECKING:
    from google.cloud import kms_v1
    from google.cloud.kms_v1.services.key_management_service import pagers
    from google.cloud.kms_v1.services.key_management_service.transports import (
        KeyManagementServiceTransport,
    )

    from keystay.concurrency.clock import Clock, Deadline
    from keystay_gcp_kms.settings import Settings

__all__ = ["LOGGERS", "Connection", "KmsClient"]

T = TypeVar("T")

_KMS = "google.cloud.kms_v1.services.key_management_service"
LOGGERS = (
    f"{_KMS}.client",
    f"{_KMS}.transports.grpc",
    f"{_KMS}.transports.rest",
    "google.auth.transport.requests",
)
"""Those loggers of Google's that show what is signed; as JSON, where
GOOGLE_SDK_PYTHON_LOGGING_SCOPE says so."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0  # seconds


class KmsClient(Protocol):
    """What is used of `google.cloud.kms_v1.KeyManagementServiceClient`."""

    def get_crypto_key_version(
        self, request: kms_v1.GetCryptoKeyVersionRequest, *, retry: None, timeout: float
    ) -> kms_v1.CryptoKeyVersion:
        """State, algorithm and protection level of a version."""

    def get_public_key(
        self, request: kms_v1.GetPublicKeyRequest, *, retry: None, timeout: float
    ) -> kms_v1.PublicKey:
        """The public key of a version."""

    def asymmetric_sign(
        self, request: kms_v1.AsymmetricSignRequest, *, retry: None, timeout: float
    ) -> kms_v1.AsymmetricSignResponse:
        """Sign."""

    def list_crypto_keys(
        self, request: kms_v1.ListCryptoKeysRequest, *, retry: None, timeout: float
    ) -> pagers.ListCryptoKeysPager:
        """The keys of a key ring."""

    def list_crypto_key_versions(
        self, request: kms_v1.ListCryptoKeyVersionsRequest, *, retry: None, timeout: float
    ) -> pagers.ListCryptoKeyVersionsPager:
        """The versions of a key."""

    def create_crypto_key(
        self, request: kms_v1.CreateCryptoKeyRequest, *, retry: None, timeout: float
    ) -> kms_v1.CryptoKey:
        """Make a key with its version 1."""


class Connection:
    """Google Cloud KMS as the settings reach it. Thread-safe; usable after a fork.

    Args:
        settings: How to reach it.
        make_client: Makes the client; a test may hand in its own.
        clock: Waits before another attempt; a test may hand in its own.
    """

    def __init__(
        self,
        settings: Settings,
        make_client: Callable[[Settings], KmsClient] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._settings, self._clock = settings, clock
        self._make_client = make_client or _make_client
        self._threads = _Threads("Google Cloud KMS")
        self._client = ProcessClient("Google Cloud KMS", self._make, _close)

    def call(
        self,
        step: Step,
        deadline: Deadline,
        method: Callable[[KmsClient, float], T],
        *,
        repeatable: bool = True,
    ) -> tuple[T, int]:
        """Make a call, and make it again while that can help and time is left.

        Args:
            step: For messages.
            deadline: When to give up, with all repetitions.
            method: Makes the call with the client, within the seconds given.
            repeatable: Whether doing it twice does no harm. Otherwise only what was refused for
                a quota is repeated.

        Returns:
            The answer, and the number of the client it came through.

        Raises:
            BackendError: Mapped from what Google's libraries raised, which is chained.
        """
        telling: BaseException | None = None
        for attempt in itertools.count(1):
            self._client.check_open()
            try:
                deadline.check(str(step))
                client, number = self._client.get(deadline)
                with no_debug_records(LOGGERS):
                    if self._settings.transport == "rest":
                        # requests' timeout is that of each read: this one is of the whole.
                        make = partial(method, client, deadline.remaining)
                        answer = self._threads.call_with_deadline(make, deadline)
                    else:
                        with hold_off_forks(deadline, may_hang=True):
                            answer = method(client, deadline.remaining)
                return answer, number
            except _NoAnswerError:
                if telling is None:
                    raise TEXTS.error("no-answer", step=step, seconds=deadline.seconds) from None
                raise translate(telling, step, seconds=deadline.seconds) from telling
            except BackendTimeoutError:
                if telling is None:
                    raise
                raise translate(telling, step, seconds=deadline.seconds) from telling
            except FAILURES as error:
                self._client.check_open()  # closed meanwhile: no wonder then
                # A deadline that ends a row of refusals does not explain them.
                if telling is None or status_of(error) != "DEADLINE_EXCEEDED":
                    telling = error
                pause = backoff(
                    attempt,
                    first=_FIRST_PAUSE,
                    longest=_LONGEST_PAUSE,
                    retry_after=wait_asked(error),
                )
                again = is_retryable(error) and (
                    repeatable or status_of(error) == "RESOURCE_EXHAUSTED"
                )
                if not again or pause >= deadline.remaining:
                    raise translate(telling, step, seconds=deadline.seconds) from telling
            self._clock.sleep(pause)
        raise AssertionError("unreachable")  # pragma: no cover

    def close(self) -> None:
        """Close the client, if it is this process's own; idempotent."""
        self._client.close()

    def _make(self, deadline: Deadline) -> KmsClient:
        # Looking for credentials may ask a metadata server that does not answer.
        make = partial(self._make_client, self._settings)
        return self._threads.call_with_deadline(make, deadline)


class _NoAnswerError(Exception):
    """A call that keeps no deadline itself did not return in time."""


class _Threads(WorkerThreads):
    def timeout_error(self, deadline: Deadline) -> Exception:
        return _NoAnswerError()


def _close(client: KmsClient) -> None:
    close = getattr(getattr(client, "transport", None), "close", None)
    if close is not None:
        close()


def _make_client(settings: Settings) -> KmsClient:
    from google.api_core.client_options import ClientOptions
    from google.cloud import kms_v1

    if settings.loopback:
        return kms_v1.KeyManagementServiceClient(transport=_loopback_transport(settings))
    options = ClientOptions(api_endpoint=settings.endpoint) if settings.endpoint else None
    return kms_v1.KeyManagementServiceClient(transport=settings.transport, client_options=options)


def _loopback_transport(settings: Settings) -> KeyManagementServiceTransport:
    """In the clear and anonymous: no credential leaves for an emulator."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.kms_v1.services.key_management_service import transports

    endpoint = str(settings.endpoint)
    if settings.transport == "rest":
        anonymous = AnonymousCredentials()
        rest = transports.KeyManagementServiceRestTransport(
            host=endpoint, credentials=anonymous, url_scheme="http"
        )
        # A proxy of the environment is not on this machine; there is no public way to say so.
        rest._session.trust_env = False
        return rest
    import grpc

    channel = grpc.insecure_channel(endpoint, options=[("grpc.enable_http_proxy", 0)])
    return transports.KeyManagementServiceGrpcTransport(channel=channel)
