"""Calls KMS: one deadline for all attempts, a retry where that can help, every error mapped.

Each attempt runs in a thread of its own, so that the deadline holds whatever is slow: DNS, a
credential process, an instance's metadata, or a peer that sends a byte now and then. botocore's
timeouts are fixed when a client is made and bound the silence of one peer only.
"""

from __future__ import annotations

import contextvars
import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from keystay_aws_kms import error_codes, errors
from keystay_aws_kms.quiet import quiet

if TYPE_CHECKING:
    from keystay.backends import Deadline
    from keystay_aws_kms.connection import Connection, Kms

__all__ = ["Calls"]

# Full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter"); seconds.
_FIRST_DELAY = 0.1
_LONGEST_DELAY = 2.0

T = TypeVar("T")


class Calls:
    """The way to KMS.

    Args:
        connection: Has the client.
        sleep: Waits that many seconds before another attempt; a test may hand in its own.
    """

    def __init__(self, connection: Connection, sleep: Callable[[float], None] = time.sleep) -> None:
        self._connection, self._sleep = connection, sleep

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
        while True:
            attempt += 1
            outcome = self._attempt(send, deadline.remaining)
            if not isinstance(outcome, Exception):
                return outcome
            if isinstance(outcome, _NoAnswerError):
                break
            last = outcome
            if not error_codes.is_retryable(last, operation):
                errors.raise_translated(last, errors.Call(operation, key, self._connection.where))
            limit = min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** (attempt - 1))
            delay = random.uniform(0.0, limit)  # noqa: S311
            if delay >= deadline.remaining:
                break
            self._sleep(delay)
        call = errors.Call(operation, key, self._connection.where)
        errors.raise_late(last, call, deadline.seconds, attempt)

    @property
    def endpoint(self) -> str | None:
        """The endpoint that somebody named; None for AWS's own. Known after a call."""
        return self._connection.endpoint

    def close(self) -> None:
        """Close the connection; idempotent."""
        self._connection.close()

    def _attempt(self, send: Callable[[Kms], T], seconds: float) -> tuple[T, int] | Exception:
        """One attempt: what came of it, or what it raised."""
        if seconds <= 0:
            return _NoAnswerError()
        outcome: list[tuple[T, int] | BaseException] = []

        def work() -> None:
            try:
                with quiet():
                    connected = self._connection.get()
                    outcome.append((send(connected.client), connected.number))
            except BaseException as error:  # noqa: BLE001
                outcome.append(error)

        context = contextvars.copy_context()  # tracing follows the caller into the thread
        thread = threading.Thread(
            target=context.run, args=(work,), name="keystay-aws-kms", daemon=True
        )
        thread.start()
        thread.join(seconds)
        if not outcome:
            # The thread is left to end by botocore's own timeouts.
            return _NoAnswerError()
        result = outcome[0]
        if isinstance(result, BaseException) and not isinstance(result, Exception):
            raise result
        return result


class _NoAnswerError(Exception):
    """The deadline passed during an attempt."""
