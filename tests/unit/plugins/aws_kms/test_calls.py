"""Retries, the deadline, the client of each process, with an SDK client that is a fake."""

from __future__ import annotations

import contextvars
import itertools
import logging
import os
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from botocore import exceptions as sdk

from keystay.backends.log_filter import no_debug_records
from keystay.concurrency.clock import SYSTEM_CLOCK, Clock, Deadline
from keystay.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    ConfigurationError,
    KeystayError,
    LoginError,
    SignerClosedError,
)
from keystay_aws_kms import errors
from keystay_aws_kms.client import LOGGERS, Connection, Kms
from keystay_aws_kms.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable


class FakeKms:
    """Counts what happens to it."""

    def __init__(self) -> None:
        self.meta = SimpleNamespace(
            region_name="eu-west-1", endpoint_url="https://kms.eu-west-1.amazonaws.com"
        )
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def calls(delays: list[float] | None = None) -> Connection:
    """The way to a fake; waits for retries are noted, not waited."""
    clock = Clock(SYSTEM_CLOCK.now, (delays if delays is not None else []).append)
    return Connection(Settings("eu-west-1"), lambda _: cast(Kms, FakeKms()), clock)


def refused(code: str, status: int = 400, operation: str = "Sign", message: str = "") -> Exception:
    """What boto3 raises."""
    response: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status, "RequestId": "r-1"},
    }
    error: Exception = sdk.ClientError(response, operation)
    return error


def scripted(*outcomes: object) -> Callable[[Kms], object]:
    """Raises or returns these, one after the other; the last for ever."""
    rest = itertools.chain(outcomes, itertools.repeat(outcomes[-1]))

    def send(kms: Kms) -> object:
        outcome = next(rest)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return send


def test_retries_until_it_works() -> None:
    """Delays grow to a limit; half of each is left to chance."""
    delays: list[float] = []
    fault = refused("ThrottlingException")
    way = calls(delays)
    done = way.call("Sign", "key", scripted(*[fault] * 9, "done"), Deadline.after(60))
    assert "done" == done[0]
    assert 9 == len(delays)
    limits = [min(2.0, 0.1 * 2**n) for n in range(9)]
    assert all(limit / 2 <= d <= limit for limit, d in zip(limits, delays, strict=True))
    assert len(set(delays)) == len(delays)


@pytest.mark.parametrize(
    "error",
    [
        sdk.ConnectTimeoutError(endpoint_url="https://kms"),
        sdk.ReadTimeoutError(endpoint_url="https://kms"),
        sdk.ConnectionClosedError(endpoint_url="https://kms"),
        refused("Anything", 503),
        refused("Anything", 429),
    ],
)
def test_lost_connections_are_tried_again(error: Exception) -> None:
    """Signing twice does no harm; creating twice does."""
    assert "done" == calls().call("Sign", "k", scripted(error, "done"), Deadline.after(5))[0]
    created = scripted(error, "done")
    if errors.is_throttled(error):
        calls().call("CreateKey", "k", created, Deadline.after(5))
    else:
        with pytest.raises(BackendUnavailableError):
            calls().call("CreateKey", "k", created, Deadline.after(5))


def test_no_time_left() -> None:
    """A deadline that has passed is told without a call."""
    with pytest.raises(BackendTimeoutError, match="within 0 s"):
        calls().call("Sign", "k", scripted("done"), Deadline.after(0))


def test_lost_until_the_deadline() -> None:
    """When the last attempts failed too, silence is a timeout and a fault is a fault."""
    lost = sdk.ConnectionClosedError(endpoint_url="https://kms")
    way = Connection(Settings(), lambda _: cast(Kms, FakeKms()))
    with pytest.raises(BackendTimeoutError) as timeout:
        way.call("Sign", "k", scripted(lost), Deadline.after(0.3))
    assert timeout.value.__cause__ is lost
    with pytest.raises(BackendUnavailableError, match="KMSInternalException") as caught:
        way.call("Sign", "k", scripted(refused("KMSInternalException", 500)), Deadline.after(0.3))
    assert "aws-unavailable" == caught.value.code


def test_the_caller_s_context_follows() -> None:
    """A tracing library finds its context in the thread that calls."""
    variable = contextvars.ContextVar("variable", default="none")
    variable.set("the caller's")
    result = calls().call("Sign", "k", lambda _: variable.get(), Deadline.after(5))
    assert "the caller's" == result[0]


def test_an_interrupt_passes() -> None:
    """What is no Exception is not mapped."""
    with pytest.raises(KeyboardInterrupt):
        calls().call("Sign", "k", scripted(KeyboardInterrupt()), Deadline.after(5))


def test_a_fork_while_the_client_is_made() -> None:
    """The child makes its own, though a thread that it does not have was at it."""
    making, release = threading.Event(), threading.Event()

    def make(_: Settings) -> Kms:
        if not making.is_set():
            making.set()
            release.wait(10)
        return cast(Kms, FakeKms())

    connection = Connection(Settings(), make)
    thread = threading.Thread(target=connection.client.get, args=(Deadline.after(10),))
    thread.start()
    making.wait(10)
    child = os.fork()
    if child == 0:
        os._exit(0 if connection.client.get(Deadline.after(5)).number else 1)
    assert 0 == os.waitpid(child, 0)[1]
    release.set()
    thread.join()


def test_one_client_for_each_process() -> None:
    """A child makes its own client, and leaves the parent's alone."""
    made: list[FakeKms] = []

    def make(_: Settings) -> Kms:
        made.append(FakeKms())
        return cast(Kms, made[-1])

    connection = Connection(Settings(), make)
    assert "boto3's default region" == connection.where
    deadline = Deadline.after(5)
    number = connection.client.get(deadline).number
    assert id(connection.client.get(deadline).client) == id(made[0])
    assert "region eu-west-1" == connection.where
    child = os.fork()
    if child == 0:
        ok = connection.client.get(deadline).number > number and len(made) == 2
        connection.close()
        os._exit(0 if ok and (made[0].closed, made[1].closed) == (0, 1) else 1)
    assert 0 == os.waitpid(child, 0)[1]
    connection.close()
    connection.close()
    assert 1 == made[0].closed
    with pytest.raises(SignerClosedError):
        connection.client.get(deadline)


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (sdk.NoRegionError(), ConfigurationError, "aws-region-missing"),
        (sdk.InvalidRegionError(region_name="x"), ConfigurationError, "aws-region-unknown"),
        (sdk.ProfileNotFound(profile="x"), ConfigurationError, "aws-profile-unusable"),
        (sdk.ConfigParseError(path="x", error="y"), ConfigurationError, "aws-profile-unusable"),
        (sdk.NoCredentialsError(), LoginError, "aws-credentials-missing"),
        (sdk.UnauthorizedSSOTokenError(), LoginError, "aws-credentials-unavailable"),
        (
            sdk.CredentialRetrievalError(provider="p", error_msg="hunter2"),
            LoginError,
            "aws-credentials-unavailable",
        ),
        (
            sdk.SSLError(endpoint_url="x", error="certificate verify failed"),
            BackendUnavailableError,
            "aws-tls",
        ),
        (
            sdk.ProxyConnectionError(proxy_url="x", error="y"),
            BackendUnavailableError,
            "aws-unreachable",
        ),
        (sdk.EndpointConnectionError(endpoint_url="x"), BackendUnavailableError, "aws-unreachable"),
        (sdk.ParamValidationError(report="hunter2"), BackendUnavailableError, "aws-unreachable"),
        (ValueError("hunter2"), BackendError, "aws-answer-invalid"),
        (
            refused("AccessDenied", 403, "AssumeRole", "is not authorized to perform: x on "
                    "resource: arn:aws:iam::111122223333:role/signer"),
            KeystayError,
            "aws-access-denied",
        ),
        (refused("AccessDenied", 403, "AssumeRole"), KeystayError, "aws-access-denied"),
        (refused("OptInRequired", 403), KeystayError, "aws-access-denied"),
    ],
)  # fmt: skip
def test_mapping(error: Exception, kind: type[KeystayError], code: str) -> None:
    """Everything boto3 raises becomes an error of ours, at once, quoting nothing."""
    with pytest.raises(kind) as caught:
        calls().call("Sign", "arn:aws:kms:x", scripted(error), Deadline.after(5))
    assert code == caught.value.code
    assert "hunter2" not in str(caught.value)
    assert caught.value.hint
    if "AssumeRole" in str(error):
        assert "sts:AssumeRole on " in caught.value.message


def test_unsafe_exceptions_are_not_chained() -> None:
    """Those whose text may hold a secret are neither cause nor context."""
    for error in (
        sdk.ParamValidationError(report="hunter2"),
        sdk.CredentialRetrievalError(provider="p", error_msg="hunter2"),
        refused("InvalidSignatureException", 403, message="hunter2"),
    ):
        with pytest.raises(KeystayError) as caught:
            raise errors.translate(error, errors.Call("Sign", "k", "region x"))
        assert (None, None) == (caught.value.__cause__, caught.value.__context__)
    ours = ConfigurationError("ours")
    with pytest.raises(ConfigurationError) as passed:
        raise errors.translate(ours, errors.Call("Sign", "k", "region x"))
    assert passed.value is ours


def test_filter_is_for_one_thread() -> None:
    """Only this thread's DEBUG records are dropped, and only in the block."""
    logger = logging.getLogger("botocore.endpoint")
    seen: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.msg)  # type: ignore[method-assign]
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        with no_debug_records(LOGGERS):
            logger.debug("mine")
            logger.warning("a warning")
            other = threading.Thread(target=logger.debug, args=("another's",))
            other.start()
            other.join()
        logger.debug("afterwards")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert ["a warning", "another's", "afterwards"] == seen
