"""Token clients for tests: one software key for the session, servers on loopback, no proxy."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

import keystay
from keystay.testing import Reply
from tests.support.clockshim import ClockShim, compile_clock_shim
from tests.support.raw_server import RawServer, read_request
from tests.support.secrets_watch import WATCH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keystay.signer import Signer
    from keystay.testing import SmartTestServer
    from tests.support.client_process import ClientProcess

CLIENT_ID = "hospital-etl"
SCOPE = "system/Patient.rs"
TOKEN = "issued-by-a-script-0123456789"
GRANT: dict[str, Any] = {
    "access_token": TOKEN,
    "token_type": "bearer",
    "expires_in": 300,
    "scope": SCOPE,
}


class MakeClient(Protocol):
    """Makes token clients that are closed with the test."""

    def __call__(self, server: SmartTestServer | None = None, **settings: Any) -> Any:
        """Make a `TokenClient`; `settings` replace those for `server`."""
        ...


@pytest.fixture(scope="session")
def pem_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A P-384 key in a file, made by the command line's own store."""
    path = tmp_path_factory.mktemp("key") / "client.pem"
    from keystay.backends.port import BackendContext, GeneratesKeys
    from keystay.backends.registry import default_registry
    from keystay.key_uri import parse

    store = default_registry().open_store(parse(f"file:{path}"), BackendContext())
    assert isinstance(store, GeneratesKeys)
    store.generate_key("P-384")
    return path


@pytest.fixture(scope="session")
def pem_signer(pem_file: Path) -> Iterator[Signer]:
    """A signer for the session's P-384 key."""
    with keystay.open_signer(f"file:{pem_file}") as signer:
        yield signer


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of KEYSTAY_… and no proxy in the environment."""
    for name in list(os.environ):
        if name.startswith("KEYSTAY_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def registered(smart_server: SmartTestServer, pem_signer: Signer) -> SmartTestServer:
    """A strict server that knows the session's key as `CLIENT_ID`."""
    smart_server.register(CLIENT_ID, jwks=keystay.JWKSet.from_signers([pem_signer]))
    WATCH.add("a scripted access token", TOKEN)
    return smart_server


@pytest.fixture
def make_client(pem_signer: Signer, no_environment: None) -> Iterator[MakeClient]:
    """A function that makes a `TokenClient` for a server, or one with settings of the test's."""
    with contextlib.ExitStack() as stack:

        def make(server: SmartTestServer | None = None, **settings: Any) -> keystay.TokenClient:
            return stack.enter_context(
                keystay.TokenClient(**client_settings(pem_signer, server, **settings))
            )

        yield make


def client_settings(
    signer: Signer, server: SmartTestServer | None = None, **settings: Any
) -> dict[str, Any]:
    """Keyword arguments for both kinds of token client; one try only, unless told otherwise."""
    base = {} if server is None else {"fhir_base_url": server.fhir_base_url}
    return {
        "client_id": CLIENT_ID,
        "signer": signer,
        "scope": SCOPE,
        "allow_insecure_loopback": True,
        "retries": 0,
        "signer_retries": 0,
        **base,
        **settings,
    }


def grant(**changes: Any) -> Reply:
    """A token response with changes; None leaves a member out."""
    document = {**GRANT, **changes}
    return Reply.json({name: value for name, value in document.items() if value is not None})


@pytest.fixture
def raw_server() -> Iterator[Callable[..., RawServer]]:
    """A function that starts a `RawServer` which ends with the test."""
    with contextlib.ExitStack() as stack:

        def start(
            talk: Callable[[RawServer, socket.socket], None] = _silent, **options: Any
        ) -> RawServer:
            return stack.enter_context(RawServer(talk, **options))

        yield start


@pytest.fixture
def client_process(registered: SmartTestServer, pem_file: Path) -> ClientProcess:
    """Programs with a client of the strict server, in processes of their own."""
    from tests.support.client_process import ClientProcess

    return ClientProcess(registered, pem_file)


@pytest.fixture(scope="session")
def clock_shim_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that moves a process's clocks, compiled."""
    return compile_clock_shim(tmp_path_factory.mktemp("clockshim"))


@pytest.fixture
def clocks(clock_shim_library: Path, tmp_path: Path) -> ClockShim:
    """The clocks of processes that run with its `env`."""
    return ClockShim(clock_shim_library, tmp_path / "clock-offsets")


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fails a test that leaves a thread or a descriptor behind."""
    before = _descriptors()
    yield
    until = time.monotonic() + 2
    while time.monotonic() < until:
        threads = [t.name for t in threading.enumerate() if t.name.startswith("keystay-http")]
        left = _descriptors() - before
        if not threads and left <= 0:
            return
        time.sleep(0.02)
    assert ([], 0) == (threads, left)


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir()) if sys.platform == "linux" else 0


def _silent(server: RawServer, connection: socket.socket) -> None:
    """Take the request and never answer."""
    read_request(server, connection)
    server.closing.wait()
