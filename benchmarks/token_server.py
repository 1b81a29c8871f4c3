"""A token endpoint on loopback, in a process of its own, that takes its time and counts.

Run as `python -m benchmarks.token_server SECONDS`; it prints its origin. `POST /token` is answered
after so long; `GET /count` with the number of such requests so far; `GET /lifetime/N` sets what
`expires_in` will say; `GET …/.well-known/smart-configuration` names the token endpoint.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

BACKLOG = 2048


class TokenServer:
    """The server, as the benchmark sees it."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.token_endpoint = f"{origin}/token"

    @property
    def count(self) -> int:
        return int(self._ask("count"))

    def set_lifetime(self, seconds: int) -> None:
        self._ask(f"lifetime/{seconds}")

    def _ask(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.origin}/{path}", timeout=30) as answer:
            return str(answer.read().decode())


@contextmanager
def running(seconds: float) -> Iterator[TokenServer]:
    """Start one that takes `seconds` for a token."""
    command = [sys.executable, "-m", "benchmarks.token_server", str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield TokenServer(process.stdout.readline().strip())
        finally:
            process.terminate()


class _Endpoint:
    def __init__(self, seconds: float) -> None:
        self.seconds, self.count, self.lifetime = seconds, 0, 3600

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self._answer(head, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, head: bytes, reader: Any, writer: asyncio.StreamWriter) -> None:
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                await reader.readexactly(int(value))
        path = head.split()[1].decode()
        if path == "/token":
            self.count += 1
            number, lifetime = self.count, self.lifetime
            await asyncio.sleep(self.seconds)
            body = json.dumps(
                {
                    "access_token": f"{'y' * 600}{number}",
                    "token_type": "Bearer",
                    "expires_in": lifetime,
                    "scope": "system/*.rs",
                }
            )
        elif path.endswith("/.well-known/smart-configuration"):
            host = writer.get_extra_info("sockname")
            body = json.dumps({"token_endpoint": f"http://{host[0]}:{host[1]}/token"})
        elif path.startswith("/lifetime/"):
            self.lifetime = int(path.rpartition("/")[2])
            body = "set"
        else:
            body = str(self.count)
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body.encode())
        )
        await writer.drain()


async def main() -> None:
    endpoint = _Endpoint(float(sys.argv[1]))
    server = await asyncio.start_server(endpoint.serve, "127.0.0.1", 0, backlog=BACKLOG)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
