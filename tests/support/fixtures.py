"""Fixtures for the real parts, for every test of this repository and its plugins.

`softhsm` and `p11kit` serve the whole session and set this process's environment: a PKCS#11 library
looks at it once. Tests that spoil a token take `fresh_softhsm` and a subprocess.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import urllib.parse
from typing import TYPE_CHECKING, Protocol

import msgspec
import pytest

from keystay.http.library import own_library
from keystay.testing import Reply, Request, SmartTestServer
from tests.support.oidc_provider import OIDCProvider
from tests.support.p11kit import P11KitServer
from tests.support.p11shim import ShimmedToken, compile_shim
from tests.support.secrets_watch import WATCH
from tests.support.softhsm import SoftHSM

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from types import ModuleType
    from typing import Any


class StartOIDCProvider(Protocol):
    """Starts an oidc-provider that ends with the test."""

    def __call__(
        self,
        clients: Sequence[Mapping[str, Any]] = (),
        *,
        scopes: Sequence[str] = (),
        initial_access_token: str | None = None,
        report_assertions: bool = False,
    ) -> OIDCProvider:
        """Start it; see `OIDCProvider`."""
        ...


@pytest.fixture(scope="session")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHSM]:
    """A SoftHSM token for the session, in this process's environment."""
    token = SoftHSM(tmp_path_factory.mktemp("softhsm"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in token.env.items():
            patch.setenv(name, value)
        yield token


@pytest.fixture
def fresh_softhsm(tmp_path: Path) -> SoftHSM:
    """A SoftHSM token for one test, to be used in subprocesses."""
    directory = tmp_path / "softhsm"
    directory.mkdir()
    return SoftHSM(directory, label="keystay-fresh")


@pytest.fixture(scope="session")
def p11kit(softhsm: SoftHSM) -> Iterator[P11KitServer]:
    """The session's SoftHSM token in another process, in this process's environment."""
    with P11KitServer(softhsm) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.env.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def shim_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The PKCS#11 shim, compiled."""
    return compile_shim(tmp_path_factory.mktemp("p11shim"))


@pytest.fixture
def shimmed(fresh_softhsm: SoftHSM, shim_module: Path, tmp_path: Path) -> ShimmedToken:
    """A SoftHSM token for one test behind the shim, to be used in subprocesses."""
    return ShimmedToken(fresh_softhsm, shim_module, tmp_path)


@pytest.fixture
def oidc_provider(tmp_path: Path) -> Iterator[StartOIDCProvider]:
    """A function that starts npm's oidc-provider with the clients given."""
    numbers = itertools.count(1)
    with contextlib.ExitStack() as running:

        def start(
            clients: Sequence[Mapping[str, Any]] = (),
            *,
            scopes: Sequence[str] = (),
            initial_access_token: str | None = None,
            report_assertions: bool = False,
        ) -> OIDCProvider:
            directory = tmp_path / f"oidc-provider-{next(numbers)}"
            provider = OIDCProvider(
                directory,
                clients,
                scopes=scopes,
                initial_access_token=initial_access_token,
                report_assertions=report_assertions,
            )
            return running.enter_context(provider)

        yield start


@pytest.fixture(params=["httpx", "httpx2"])
def http_library(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModuleType]:
    """The library that keystay sends with: httpx as if httpx2 were not installed, and httpx2."""
    if request.param == "httpx":
        monkeypatch.setattr("keystay.http.library.find_spec", lambda name: None)
    own_library.cache_clear()
    assert request.param == own_library().__name__
    yield importlib.import_module(request.param)
    own_library.cache_clear()


@pytest.fixture
def smart_server() -> Iterator[SmartTestServer]:
    """keystay's strict SMART server; every assertion and token it sees is watched for."""
    with SmartTestServer() as server:
        watch_exchanges(server)
        yield server


def watch_exchanges(server: SmartTestServer) -> None:
    """Add the assertions that a server receives and the tokens that it issues to the watch."""
    register = server.registration_server.handle

    def watched_registration(request: Request) -> Reply:
        reply = register(request)
        if reply.status in (200, 201):
            token = msgspec.json.decode(reply.body)["registration_access_token"]
            WATCH.add("a management token", token)
        return reply

    setattr(server.registration_server, "handle", watched_registration)  # noqa: B010
    handle = server.authorization_server.handle

    def watched(request: Request) -> Reply:
        form = urllib.parse.parse_qs(request.body.decode("latin-1"))
        for assertion in form.get("client_assertion", []):
            if len(assertion) > 100:
                WATCH.add("a client assertion", assertion)
        reply = handle(request)
        if reply.status == 200:
            WATCH.add("an access token", msgspec.json.decode(reply.body)["access_token"])
        return reply

    setattr(server.authorization_server, "handle", watched)  # noqa: B010
