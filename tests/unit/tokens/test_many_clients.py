"""A platform has thousands of token clients in one process: each is small, and all share."""

from __future__ import annotations

import gc
import ssl
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

import keystay
from keystay.http.clients import HttpLink
from keystay.http.library import own_library
from tests.support.token_clients import client_settings

if TYPE_CHECKING:
    from keystay.signer import Signer
    from keystay.testing import SmartTestServer

pytestmark = pytest.mark.usefixtures("no_environment")

MANY, SOME = 2000, 12
MOST_BYTES = 8 * 1024


def living() -> dict[str, int]:
    """HTTP clients and TLS contexts that there are now."""
    gc.collect()
    library = own_library()
    clients = {library.Client, library.AsyncClient}
    kinds = [type(thing) for thing in gc.get_objects()]
    return {
        "clients": sum(kind in clients for kind in kinds),
        "contexts": kinds.count(ssl.SSLContext),
    }


def made(signer: Signer, count: int, **more: Any) -> list[keystay.TokenClient]:
    """Clients of as many servers."""
    base = {"fhir_base_url": "https://ehr.example.org/fhir/r4", **more}
    return [
        keystay.TokenClient(**client_settings(signer, **{**base, "client_id": f"etl-{number}"}))
        for number in range(count)
    ]


def test_before_the_first_token(pem_signer: Signer) -> None:
    """8 KB each at most, and neither an HTTP client nor a TLS context among them."""
    made(pem_signer, 1)
    before = living()
    tracemalloc.start()
    try:
        clients = made(pem_signer, MANY)
        each = tracemalloc.get_traced_memory()[0] / MANY
    finally:
        tracemalloc.stop()
    assert each <= MOST_BYTES
    assert before == living()
    assert MANY == len(clients)


@pytest.mark.usefixtures("http_library")
@pytest.mark.parametrize("discovers", [False, True], ids=["configured", "discovers"])
def test_after_a_token_each(
    registered: SmartTestServer, pem_signer: Signer, discovers: bool
) -> None:
    """One HTTP client and one TLS context at most for all, and little besides the token."""
    settings: dict[str, Any] = {"fhir_base_url": registered.fhir_base_url}
    if not discovers:
        settings["token_endpoint"] = registered.token_endpoint
    register = registered.register
    for number in range(SOME + 1):
        register(f"etl-{number}", jwks=keystay.JWKSet.from_signers([pem_signer]))
    made(pem_signer, 1, **settings)[0].token()
    before = living()
    clients = made(pem_signer, SOME, **settings)
    clients[0].token()  # brings the HTTP client, which is shared
    gc.collect()
    tracemalloc.start()
    try:
        for client in clients[1:]:
            client.token()
        gc.collect()
        snapshot = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    ours = snapshot.filter_traces(
        [tracemalloc.Filter(True, f"*/{place}/*") for place in ("keystay/tokens", "keystay/http")]
    )
    assert sum(found.size for found in ours.statistics("filename")) / (SOME - 1) <= MOST_BYTES
    after = living()
    assert after["contexts"] - before["contexts"] <= 1
    assert after["clients"] - before["clients"] <= (0 if discovers else 1)
    links = {id(client._http.load()) for client in clients}
    assert 1 == len(links)


def test_a_link_alone() -> None:
    """How servers are reached costs nothing until it is used."""
    links: list[HttpLink[Any]] = [HttpLink(None, "Client")]
    tracemalloc.start()
    try:
        links.extend(HttpLink(None, "Client") for _ in range(MANY))
        each = tracemalloc.get_traced_memory()[0] / MANY
    finally:
        tracemalloc.stop()
    assert each <= 512
