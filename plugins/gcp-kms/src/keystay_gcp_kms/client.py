"""The calls of Google's client that are used, and how they are made: in time, again, after a fork.

The libraries' own retries are off: they know neither our deadline nor RESOURCE_EXHAUSTED.
"""

from __future__ import annotations

import contextvars
import itertools
import os
import queue
import random
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from keystay.errors import BackendTimeoutError, SignerClosedError
from keystay_gcp_kms.errors import FAILURES, Step, is_retryable, status_of, translate, wait_asked
from keystay_gcp_kms.forks import inside_grpc
from keystay_gcp_kms.quiet import quiet

if TYPE_CHECKING:
    from google.cloud import kms_v1
    from google.cloud.kms_v1.services.key_management_service import pagers
    from google.cloud.kms_v1.services.key_management_service.transports import (
        KeyManagementServiceTransport,
    )

    from keystay.backends import Deadline
    from keystay_gcp_kms.settings import Settings

__all__ = ["Connection", "KmsClient"]

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
_GENERATIONS = itertools.count(1)
# Clients that a fork brought along. Their channels belong to the parent, and destroying one talks
# to the parent's threads, which are not here: they are kept to the end of the process.
_INHERITED: list[object] = []


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


class _State:
    """The client of one process. A fork makes a new one, with a lock nobody holds."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.client: KmsClient | None = None
        self.generation = 0


class Connection:
    """Google Cloud KMS as the settings reach it. Thread-safe; usable after a fork.

    Args:
        settings: How to reach it.
        make_client: Makes the client; a test may hand in its own.
    """

    def __init__(
        self, settings: Settings, make_client: Callable[[Settings], KmsClient] | None = None
    ) -> None:
        self._settings = settings
        self._make_client = make_client or _make_client
        self._state = _State()
        self._closed = False

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
        for attempt in itertools.count():
            self._check_open()
            try:
                deadline.check(str(step))
                client, generation = self._client(deadline, step)
                with quiet():
                    if self._settings.transport == "rest":
                        # requests' timeout is that of each read: this one is of the whole.
                        make = partial(method, client, deadline.remaining)
                        answer = _within(deadline, step, make)
                    else:
                        with inside_grpc(deadline):
                            answer = method(client, deadline.remaining)
                return answer, generation
            except BackendTimeoutError:
                if telling is None:
                    raise
                raise translate(telling, step, seconds=deadline.seconds) from telling
            except FAILURES as error:
                self._check_open()  # closed meanwhile: no wonder then
                # A deadline that ends a row of refusals does not explain them.
                if telling is None or status_of(error) != "DEADLINE_EXCEEDED":
                    telling = error
                pause = max(wait_asked(error), _pause(attempt))
                again = is_retryable(error) and (
                    repeatable or status_of(error) == "RESOURCE_EXHAUSTED"
                )
                if not again or pause >= deadline.remaining:
                    raise translate(telling, step, seconds=deadline.seconds) from telling
            time.sleep(pause)
        raise AssertionError("unreachable")  # pragma: no cover

    def close(self) -> None:
        """Close the client, if it is this process's own; idempotent."""
        self._closed = True
        state = self._state
        if state.pid == os.getpid() and state.client is not None:
            client, state.client = state.client, None
            close = getattr(getattr(client, "transport", None), "close", None)
            if close is not None:
                close()

    def _check_open(self) -> None:
        if self._closed:
            raise SignerClosedError(
                "The connection to Google Cloud KMS is closed.", hint="Open the signer again."
            )

    def _client(self, deadline: Deadline, step: Step) -> tuple[KmsClient, int]:
        state = self._state
        if state.pid != os.getpid():
            # Two threads may both do this: one client too many, which is harmless.
            _INHERITED.append(state)
            state = self._state = _State()
        if state.client is not None:
            return state.client, state.generation
        if not state.lock.acquire(timeout=deadline.remaining):
            deadline.check(str(step))
        try:
            if state.client is None:
                # Looking for credentials may ask a metadata server that does not answer.
                state.client = _within(deadline, step, lambda: self._make_client(self._settings))
                state.generation = next(_GENERATIONS)
            return state.client, state.generation
        finally:
            state.lock.release()


def _within(deadline: Deadline, step: Step, call: Callable[[], T]) -> T:
    """Run a call that keeps no deadline itself; when time is up its thread is abandoned."""
    outcome: queue.SimpleQueue[tuple[list[T], BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put(([call()], None))
        except BaseException as error:  # noqa: BLE001 - raised again where it was asked for
            outcome.put(([], error))

    # With the caller's context: telemetry's, and our silence.
    target = partial(contextvars.copy_context().run, run)
    threading.Thread(target=target, name="keystay-gcpkms", daemon=True).start()
    try:
        values, error = outcome.get(timeout=deadline.remaining)
    except queue.Empty:
        raise BackendTimeoutError(
            f"{step}: no answer within {deadline.seconds:g} s.",
            cause="Google Cloud KMS, the token endpoint or the metadata server does not answer.",
            hint="Check the proxy and firewall for googleapis.com.",
        ) from None
    if error is not None:
        raise error
    return values[0]


def _pause(attempt: int) -> float:
    """Seconds before the next attempt: exponential with jitter, at least half of it."""
    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(attempt, 10))
    return random.uniform(longest / 2, longest)  # noqa: S311 - no secret hangs on it


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
