"""What Google's libraries raise, and how calls are made, without a server."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import requests
from google.api_core import exceptions as api
from google.auth import exceptions as auth

from keystay.backends import Deadline, process_client
from keystay.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    KeyNotFoundError,
    KeyUnusableError,
    LoginError,
    SignerClosedError,
)
from keystay_gcp_kms import client as gcp_client
from keystay_gcp_kms.client import Connection
from keystay_gcp_kms.errors import Step, is_retryable, said, status_of, translate, wait_asked
from keystay_gcp_kms.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

STEP = Step("signing", "projects/p/…/1", "cloudkms.x.useToSign", "roles/cloudkms.signer")


def answer(status: int, body: bytes) -> Any:
    """The error Google's REST client makes of an answer."""
    response = requests.Response()
    response.status_code = status
    response._content = body
    response.request = requests.Request("POST", "https://cloudkms.googleapis.com/v1/x").prepare()
    return api.from_http_response(response)


@pytest.mark.parametrize(
    ("error", "status", "retryable"),
    [
        (api.ServiceUnavailable("x"), "UNAVAILABLE", True),
        (api.DeadlineExceeded("x"), "DEADLINE_EXCEEDED", True),
        (api.InternalServerError("x"), "INTERNAL", True),
        (api.ResourceExhausted("x"), "RESOURCE_EXHAUSTED", True),
        (api.Aborted("x"), "ABORTED", True),
        (api.FailedPrecondition("x"), "FAILED_PRECONDITION", False),
        (api.PermissionDenied("x"), "PERMISSION_DENIED", False),
        (api.Unknown("x"), "UNKNOWN", False),
        (
            answer(400, b'{"error": {"status": "FAILED_PRECONDITION"}}'),
            "FAILED_PRECONDITION",
            False,
        ),
        (answer(400, b"<html>"), "INVALID_ARGUMENT", False),
        (answer(429, b""), "RESOURCE_EXHAUSTED", True),
        (answer(502, b"<html>"), "UNAVAILABLE", True),
        (answer(418, b"[]"), "UNKNOWN", False),
        (answer(503, b'{"error": {"status": 7}}'), "UNAVAILABLE", True),
        (api.RetryError("x", None), "DEADLINE_EXCEEDED", True),
        (requests.ConnectTimeout(), "DEADLINE_EXCEEDED", True),
        (requests.ConnectionError(), "UNAVAILABLE", True),
        (requests.exceptions.InvalidURL(), "UNKNOWN", False),
        (ConnectionResetError(), "UNAVAILABLE", True),
        (ValueError(), "UNKNOWN", False),
        (auth.DefaultCredentialsError(), "CREDENTIALS", False),
        (auth.RefreshError("x", retryable=False), "CREDENTIALS", False),
        (auth.TransportError("x", retryable=True), "CREDENTIALS", True),
        (
            api.ServiceUnavailable("Getting metadata from plugin failed with error: ya29.x"),
            "CREDENTIALS",
            False,
        ),
    ],
)
def test_status(error: BaseException, status: str, retryable: bool) -> None:
    """gRPC, REST, the network and the credentials, in one vocabulary."""
    assert (status, retryable) == (status_of(error), is_retryable(error))
    mapped = translate(error, STEP, seconds=10)
    assert mapped.hint
    assert mapped.cause
    assert STEP.resource in mapped.message


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (api.NotFound("x"), KeyNotFoundError, "key-not-found"),
        (api.FailedPrecondition("x"), KeyUnusableError, "gcp-key-not-enabled"),
        (api.AlreadyExists("x"), KeyUnusableError, "key-exists"),
        (api.InvalidArgument("x"), BackendError, "gcp-request-refused"),
        (api.Unauthenticated("x"), LoginError, "gcp-credentials-refused"),
        (auth.InvalidOperation("x"), LoginError, "gcp-credentials-refused"),
        (auth.DefaultCredentialsError("x"), LoginError, "gcp-credentials-missing"),
        (auth.RefreshError("x"), LoginError, "gcp-credentials-failed"),
        (api.PermissionDenied("x"), BackendError, "gcp-access-denied"),
        (api.ResourceExhausted("x"), BackendUnavailableError, "gcp-throttled"),
        (api.ServiceUnavailable("x"), BackendUnavailableError, "gcp-unavailable"),
        (
            api.ServiceUnavailable("DNS resolution failed for cloudkms"),
            BackendUnavailableError,
            "gcp-unreachable",
        ),
        (
            api.ServiceUnavailable("failed to connect to all addresses"),
            BackendUnavailableError,
            "gcp-unreachable",
        ),
        (api.InternalServerError("x"), BackendUnavailableError, "gcp-internal"),
        (api.Aborted("x"), BackendUnavailableError, "gcp-aborted"),
        (api.DeadlineExceeded("x"), BackendTimeoutError, "backend-timeout"),
        (api.Unknown("x"), BackendError, "gcp-failed"),
    ],
)
def test_translation(error: BaseException, kind: type[BackendError], code: str) -> None:
    """Each has its class and its code."""
    mapped = translate(error, STEP, seconds=10)
    assert (kind, code) == (type(mapped), mapped.code)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (api.NotFound("first\nsecond"), "first"),
        (api.NotFound(""), ""),
        (api.NotFound("x" * 400), "x" * 300 + "…"),
        (api.NotFound("sent Bearer ya29.secret and eyJhbGciOi.x.y"), "sent *** and ***"),
        (auth.RefreshError("ya29.secret"), ""),
        (answer(404, b'{"error": {"message": "no key"}}'), "no key"),
    ],
)
def test_what_google_said(error: BaseException, text: str) -> None:
    """One line, not too long, without tokens."""
    assert text == said(error)


def test_no_wait_is_asked() -> None:
    """Most errors ask for none."""
    assert 0.0 == wait_asked(api.ResourceExhausted("x"))


class Client:
    """A client that does what the test says."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.calls = 0
        self.closed = 0
        self.transport = self

    def ask(self) -> Any:
        """The next outcome."""
        self.calls += 1
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def close(self) -> None:
        """Count."""
        self.closed += 1


def connection(client: Any, **settings: Any) -> Connection:
    """A connection with that client."""
    make: Callable[[Settings], Any] = lambda _: client  # noqa: E731
    return Connection(Settings(**settings), make)


def ask(client: Any, _: float) -> Any:
    """The call all tests make."""
    return client.ask()


class TestConnection:
    """Calls, repetitions, forks."""

    def test_repeats_what_can_pass(self) -> None:
        """And tells through which client the answer came."""
        client = Client(api.ServiceUnavailable("x"), api.Aborted("x"), "yes")
        made = connection(client)
        first, number = made.call(STEP, Deadline.after(5), ask)
        client.outcomes = ["again"]
        again, same = made.call(STEP, Deadline.after(5), ask)
        assert ("yes", "again", number) == (first, again, same)

    def test_the_deadline_has_passed(self) -> None:
        """Nothing is called any more."""
        client = Client("never")
        with pytest.raises(BackendTimeoutError):
            connection(client).call(STEP, Deadline.after(0), ask)
        assert 0 == client.calls

    def test_a_fork_makes_a_new_client(self) -> None:
        """The old one is left alone: neither used nor closed by the child."""
        client = Client("parent", "child")
        made = connection(client)
        _, parent = made.call(STEP, Deadline.after(5), ask)
        child = os.fork()
        if child == 0:
            made.close()
            ok = client.closed == 0 and any(kept is client for kept in process_client._INHERITED)
            again = connection(Client("child"))
            os._exit(0 if ok and again.call(STEP, Deadline.after(5), ask)[1] > parent else 1)
        assert 0 == os.waitpid(child, 0)[1]

    def test_close(self) -> None:
        """Nobody uses a closed channel."""
        client = Client("yes")
        made = connection(client)
        made.call(STEP, Deadline.after(5), ask)
        made.close()
        made.close()
        assert 1 == client.closed
        with pytest.raises(SignerClosedError):
            made.call(STEP, Deadline.after(5), ask)

    def test_closed_meanwhile(self) -> None:
        """What fails after close() fails for that reason."""
        client: Any = Client()
        made = connection(client)

        def close_then_fail(_: Any, __: float) -> None:
            made.close()
            raise ValueError("Cannot invoke RPC on closed channel!")

        with pytest.raises(SignerClosedError):
            made.call(STEP, Deadline.after(5), close_then_fail)

    def test_making_the_client_hangs(self) -> None:
        """As where a metadata server swallows packets: over in time, for each thread that waits."""
        release = threading.Event()

        def hang(_: Settings) -> Any:
            release.wait(30)
            return Client()

        made = Connection(Settings(), hang)
        start = time.monotonic()
        errors: list[BaseException] = []

        def wait() -> None:
            with pytest.raises(BackendTimeoutError) as caught:
                made.call(STEP, Deadline.after(0.4), ask)
            errors.append(caught.value)

        threads = [threading.Thread(target=wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        release.set()
        assert 3 == len(errors)
        assert time.monotonic() - start < 1.5

    def test_rest_drips(self) -> None:
        """requests' timeout begins anew with each byte; ours does not."""
        made = connection(Client(), transport="rest")
        start = time.monotonic()
        with pytest.raises(BackendTimeoutError):
            made.call(STEP, Deadline.after(0.3), lambda _, __: time.sleep(1))
        assert time.monotonic() - start < 0.9


def test_the_real_clients_are_made_for_google(monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS, the transport and the endpoint that were asked for, with the credentials found."""
    from google.auth.credentials import AnonymousCredentials

    def found(*_: Any, **__: Any) -> tuple[Any, str]:
        return AnonymousCredentials(), "hospital"

    monkeypatch.setattr("google.auth.default", found)
    for transport in ("grpc", "rest"):
        for endpoint in (None, "kms.example.org:8443"):
            made: Any = gcp_client._make_client(Settings(transport=transport, endpoint=endpoint))
            assert transport == made.transport.kind
            expected = endpoint or "cloudkms.googleapis.com"
            assert made.transport._host.removeprefix("https://").removesuffix(":443") == expected
            made.transport.close()


def test_loopback_sends_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not even looked for."""

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("credentials were looked for")

    monkeypatch.setattr("google.auth.default", never)
    for transport in ("grpc", "rest"):
        settings = Settings(transport=transport, endpoint="127.0.0.1:9")
        made: Any = gcp_client._make_client(settings)
        made.transport.close()
