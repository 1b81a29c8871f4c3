"""How many TLS connections an exchange takes, and that none is left after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import keystay
from keystay.http.settings import HttpSettings
from tests.support.certificates import Authority
from tests.support.tls_server import TLSServer
from tests.support.token_clients import client_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from keystay.signer import Signer

pytestmark = pytest.mark.usefixtures("no_environment", "nothing_left")

DISCOVERY, TOKEN = "/fhir/.well-known/smart-configuration", "/token"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The servers' own."""
    return Authority(tmp_path)


@pytest.fixture
def server(authority: Authority) -> Iterator[TLSServer]:
    """FHIR server and token endpoint at one origin."""
    with TLSServer(authority.server_context()) as running:
        yield running


@pytest.fixture
def parted(authority: Authority, server: TLSServer) -> Iterator[TLSServer]:
    """A FHIR server whose token endpoint is at another origin, that of `server`."""
    with TLSServer(authority.server_context("parted"), server.token_endpoint) as running:
        yield running


@pytest.fixture
def http(authority: Authority, http_library: Any) -> HttpSettings:
    """Settings that trust them."""
    return HttpSettings(ca_bundle=str(authority.bundle))


def options(signer: Signer, server: TLSServer, **more: Any) -> dict[str, Any]:
    """A client of the server that discovers its token endpoint."""
    return client_settings(signer, fhir_base_url=f"{server.origin}/fhir", **more)


def test_one_origin(server: TLSServer, http: HttpSettings, pem_signer: Signer) -> None:
    """Discovery and token share a connection; the next token, without discovery, has its own."""
    with keystay.TokenClient(http=http, **options(pem_signer, server)) as client:
        client.token()
        assert server.all_ended(1)
        client.request_token()
        assert server.all_ended(2)
    assert [DISCOVERY, TOKEN, TOKEN] == server.paths


async def test_one_origin_async(server: TLSServer, http: HttpSettings, pem_signer: Signer) -> None:
    """The same under asyncio and trio."""
    async with keystay.AsyncTokenClient(http=http, **options(pem_signer, server)) as client:
        await client.token()
        assert server.all_ended(1)
        await client.smart_configuration()
    assert [DISCOVERY, TOKEN] == server.paths


async def test_in_a_clients_auth(
    server: TLSServer,
    authority: Authority,
    http: HttpSettings,
    http_library: Any,
    pem_signer: Signer,
) -> None:
    """A TokenClient in an AsyncClient: one handshake of ours, one of the caller's."""
    import ssl

    trust = ssl.create_default_context(cafile=str(authority.bundle))
    with keystay.TokenClient(http=http, **options(pem_signer, server)) as client:
        async with http_library.AsyncClient(verify=trust, auth=client.auth()) as fhir:
            assert 200 == (await fhir.get(f"{server.origin}/fhir/Patient/1")).status_code
            assert 2 == server.handshakes
    assert server.all_ended(2)
    assert [DISCOVERY, TOKEN, "/fhir/Patient/1"] == server.paths


@pytest.mark.parametrize("kind", ["sync", "async", "loop"])
async def test_two_origins(
    server: TLSServer, parted: TLSServer, http: HttpSettings, pem_signer: Signer, kind: str
) -> None:
    """Another origin takes another connection, and neither is left."""
    settings = options(pem_signer, parted)
    if kind == "async":
        async with keystay.AsyncTokenClient(http=http, **settings) as tasks:
            await tasks.token()
    else:
        with keystay.TokenClient(http=http, **settings) as client:
            await client._token_async() if kind == "loop" else client.token()
    assert server.all_ended(1)
    assert parted.all_ended(1)
    assert ([DISCOVERY], [TOKEN]) == (parted.paths, server.paths)


def test_discovery_alone(server: TLSServer, http: HttpSettings) -> None:
    """`discover` leaves nothing, though it asks for a connection that stays."""
    keystay.discover(f"{server.origin}/fhir", http=http)
    assert server.all_ended(1)


def test_failing_exchange(
    server: TLSServer, parted: TLSServer, http: HttpSettings, pem_signer: Signer
) -> None:
    """The discovery's connection is not left where the token request fails."""
    parted.token_endpoint = f"{server.origin}/.well-known/token"  # answers with no token
    with (
        keystay.TokenClient(http=http, **options(pem_signer, parted)) as client,
        pytest.raises(keystay.KeystayError),
    ):
        client.token()
    assert parted.all_ended(1)
    assert server.all_ended(1)


async def test_callers_own_client(
    server: TLSServer, authority: Authority, http_library: Any, pem_signer: Signer
) -> None:
    """One handshake there too; what is kept of it is their pool's business."""
    import ssl

    trust = ssl.create_default_context(cafile=str(authority.bundle))
    with http_library.Client(verify=trust) as own:
        with keystay.TokenClient(http=own, **options(pem_signer, server)) as client:
            client.token()
        assert 1 == server.handshakes
    assert server.all_ended(1)
    async with http_library.AsyncClient(verify=trust) as tasks:
        async with keystay.AsyncTokenClient(http=tasks, **options(pem_signer, server)) as other:
            await other.token()
        assert 2 == server.handshakes
    assert server.all_ended(2)
