"""A proxy before the KMS emulator: what the emulator leaves out, and faults by script.

It refuses messages over 4096 bytes and answers DryRun as AWS does (KMS API reference, Sign), and
it throttles, fails, waits, hangs, resets and changes answers when told to.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import http.server
import io
import json
import socket
import struct
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from types import TracebackType

MAX_MESSAGE = 4096


@dataclass
class Exchange:
    """One request.

    Attributes:
        operation: Such as `Sign`.
        body: The request's JSON.
        headers: Names in lower case.
        status: Of the answer; 0 when there was none.
    """

    operation: str
    body: dict[str, Any] = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    status: int = 0


@dataclass
class Answer:
    """An answer: AWS's JSON and its status."""

    status: int
    body: dict[str, Any]


class Reset(Exception):  # noqa: N818
    """Raised by a fault: end the connection with a TCP reset."""


Ask = Callable[[], Answer]
Fault = Callable[[Exchange, Ask], Answer]
"""Answers a request itself, or asks KMS and changes what it says."""


class KmsProxy:
    """Serves for as long as a `with` block runs.

    Args:
        upstream: URL of KMS.

    Attributes:
        url: Of the proxy.
        exchanges: What was asked.
    """

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = parts.hostname or "", parts.port or 80
        self._faults: list[tuple[str, Fault, int | None]] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.exchanges: list[Exchange] = []
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="kms-proxy"
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def count(self, operation: str) -> int:
        """How often something was asked."""
        with self._lock:
            return sum(exchange.operation == operation for exchange in self.exchanges)

    def inject(self, operation: str, fault: Fault, times: int | None = 1) -> None:
        """Let a fault answer the next requests for an operation; all of them when None."""
        with self._lock:
            self._faults.append((operation, fault, times))

    def fail(
        self,
        operation: str,
        code: str,
        *,
        times: int | None = 1,
        status: int = 400,
        message: str = "said the script",
    ) -> None:
        """Answer with an AWS error."""
        self.inject(operation, lambda _, __: refusal(code, message, status), times)

    def delay(self, operation: str, seconds: float, *, times: int | None = 1) -> None:
        """Answer late."""

        def late(_: Exchange, ask: Ask) -> Answer:
            self._closing.wait(seconds)
            return ask()

        self.inject(operation, late, times)

    def hang(self, operation: str, *, times: int | None = None) -> None:
        """Take the request and never answer."""

        def silent(_: Exchange, __: Ask) -> Answer:
            self._closing.wait()
            raise Reset

        self.inject(operation, silent, times)

    def reset(self, operation: str, *, times: int | None = 1) -> None:
        """Take the request and reset the connection."""

        def gone(_: Exchange, __: Ask) -> Answer:
            raise Reset

        self.inject(operation, gone, times)

    def change(
        self,
        operation: str,
        change: Callable[[dict[str, Any]], dict[str, Any]],
        *,
        times: int | None = 1,
    ) -> None:
        """Change what KMS answers."""

        def changed(_: Exchange, ask: Ask) -> Answer:
            answer = ask()
            return Answer(answer.status, change(answer.body)) if answer.status == 200 else answer

        self.inject(operation, changed, times)

    def corrupt_signature(self, *, times: int | None = 1) -> None:
        """Flip a bit of the signature that KMS gives."""

        def flipped(body: dict[str, Any]) -> dict[str, Any]:
            signature = bytearray(base64.b64decode(body["Signature"]))
            signature[-1] ^= 1
            return {**body, "Signature": base64.b64encode(signature).decode()}

        self.change("Sign", flipped, times=times)

    def clear(self) -> None:
        """Forget the script and what was asked."""
        with self._lock:
            self._faults.clear()
            self.exchanges.clear()

    def answer(self, exchange: Exchange, raw: bytes, headers: list[tuple[str, str]]) -> Answer:
        """What a request gets."""
        with self._lock:
            self.exchanges.append(exchange)
            fault = self._take(exchange.operation)

        def ask() -> Answer:
            return self._ask(exchange, raw, headers)

        answer = fault(exchange, ask) if fault else ask()
        exchange.status = answer.status
        return answer

    def _take(self, operation: str) -> Fault | None:
        for number, (name, fault, times) in enumerate(self._faults):
            if name in (operation, "*"):
                if times is not None:
                    self._faults[number] = name, fault, times - 1
                    if times <= 1:
                        del self._faults[number]
                return fault
        return None

    def _ask(self, exchange: Exchange, raw: bytes, headers: list[tuple[str, str]]) -> Answer:
        """What KMS says, with what the emulator leaves out."""
        if exchange.operation == "Sign":
            message = base64.b64decode(exchange.body.get("Message", ""))
            if len(message) > MAX_MESSAGE:
                return refusal(
                    "ValidationException",
                    "1 validation error detected: Value at 'message' failed to satisfy "
                    f"constraint: Member must have length less than or equal to {MAX_MESSAGE}",
                )
        connection = http.client.HTTPConnection(*self._upstream, timeout=30)
        with contextlib.closing(connection):
            connection.putrequest("POST", "/", skip_host=True, skip_accept_encoding=True)
            for name, value in headers:
                if name.lower() != "connection":
                    connection.putheader(name, value)
            connection.endheaders(raw)
            reply = connection.getresponse()
            answer = Answer(reply.status, json.loads(reply.read() or b"{}"))
        if exchange.operation == "Sign" and exchange.body.get("DryRun") and answer.status == 200:
            return refusal(
                "DryRunOperationException",
                "The request would have succeeded, but the DryRun option is set.",
            )
        return answer


def refusal(code: str, message: str, status: int = 400) -> Answer:
    """An error in the form of AWS's JSON protocol."""
    return Answer(status, {"__type": code, "message": message})


def _handler(proxy: KmsProxy) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            exchange = Exchange(
                operation=self.headers.get("X-Amz-Target", "").rpartition(".")[2],
                body=json.loads(raw or b"{}"),
                headers={name.lower(): value for name, value in self.headers.items()},
            )
            try:
                answer = proxy.answer(exchange, raw, self.headers.items())
            except Reset:
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.close_connection = True
                self.rfile.close()
                self.wfile.close()
                self.connection.close()
                self.wfile = io.BytesIO()  # the base class flushes it once more
                return
            data = json.dumps(answer.body).encode()
            with contextlib.suppress(OSError):  # the client has given up
                self.send_response(answer.status)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("x-amzn-RequestId", str(uuid.uuid4()))
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    return Handler
