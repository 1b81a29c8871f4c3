"""Calls KMS: one deadline for all attempts, a retry where that can help, every error mapped.

Each attempt runs in a thread of its own, so that the deadline holds whatever is slow: DNS, a
credential process, an instance's metadata, or a peer that sends a byte now and then. botocore's
timeouts are fixed when a client is made and bound the silence of one peer only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from keystay.concurrency.clock import SYSTEM_CLOCK, backoff
from keystay.concurrency.threads import WorkerThreads
from keystay_aws_kms import error_codes, errors
from keystay_aws_kms.quiet import quiet

if TYPE_CHECKING:
    from keystay.concurrency.clock import Clock, Deadline
    from keystay_aws_kms.connection import Connection, Kms

__all__ = ["Calls"]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0  # seconds

T = TypeVar("T")


class Calls:
    """The way to KMS.

    Args:
        connection: Has the client.
        clock: Waits before another attempt; a test may hand in its own.
    """

    def __init__(self, connection: Connection, clock: Clock = SYSTEM_CLOCK) -> None:
        self._connection, self._clock = connection, clock
        self._threads = _Threads("AWS KMS")

    def run(  # noqa: RET503 (raise_late raises)
        self, operation: str, key: str, send: Callable[[Kms], T], deadline: Deadline
    ) -> tuple[T, int]:
        """Call, and call again while that can help and the deadline allows.

        Args:
            operation: What KMS calls it, such as `Sign`.
            key: The key it is about, for messages: an ARN, or what the user wrote.
            send: Calls the SDK.
            deadline: For all attempts together.

        Returns:
            What `send` returned, and the number of the connection it came over.

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
            if not error_codes.is_retryable(last, operation):
                errors.raise_translated(last, errors.Call(operation, key, self._connection.where))
            pause = backoff(attempt, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE)
            if pause >= deadline.remaining:
                break
            self._clock.sleep(pause)
        call = errors.Call(operation, key, self._connection.where)
        errors.raise_late(last, call, deadline.seconds, attempt)

    @property
    def endpoint(self) -> str | None:
        """The endpoint that somebody named; None for AWS's own. Known after a call."""
        return self._connection.endpoint

    def close(self) -> None:
        """Close the connection; idempotent."""
        self._connection.close()

    def _send(self, send: Callable[[Kms], T], deadline: Deadline) -> tuple[T, int]:
        with quiet():
            connected = self._connection.get(deadline)
            return send(connected.client), connected.number


class _NoAnswerError(Exception):
    """The deadline passed during an attempt."""


class _Threads(WorkerThreads):
    def timeout_error(self, deadline: Deadline) -> Exception:
        return _NoAnswerError()
