"""What flows await has a type. Never run: `make check` reads it with mypy --strict."""

from __future__ import annotations

from typing import assert_type

from keystay.assertion import ClientAssertion
from keystay.concurrency.threads import SharedEvent
from keystay.http.io import IO, ThreadIO, run_sync
from keystay.http.messages import HttpRequest, HttpResponse
from keystay.smart.discovery import SmartConfiguration, fetch_configuration
from keystay.token_stores.access_token import AccessToken
from keystay.tokens.cache import TokenCache
from keystay.tokens.endpoint import DiscoveredEndpoint
from keystay.tokens.key_state.publication import Publication, fetch_publication
from keystay.tokens.request import TokenRequest
from keystay.tokens.retry import Retry
from keystay.tokens.shared import SharedToken


async def io(io: IO, request: HttpRequest, assertion: ClientAssertion, event: SharedEvent) -> None:
    """The five things that flows ask for."""
    assert_type(await io.send(request), HttpResponse)
    assert_type(await io.sign(assertion, "https://as.example.org/token"), tuple[str, str | None])
    assert_type(await io.run(lambda: 7), int)
    assert_type(await io.sleep(1.0), None)
    assert_type(await io.wait(event, 1.0), bool)


async def flows(
    io: IO,
    cache: TokenCache,
    shared: SharedToken,
    retry: Retry,
    request: TokenRequest,
    endpoint: DiscoveredEndpoint,
) -> None:
    """From the cache to the socket."""
    assert_type(await cache.get(io), AccessToken)
    assert_type(await shared.renew(io, lambda: True), AccessToken)
    assert_type(await retry.token(io), AccessToken)
    assert_type(
        await retry.with_retries(lambda _: endpoint.configuration(io), io), SmartConfiguration
    )
    assert_type(await request.request(io, lambda: None), AccessToken)
    assert_type(await fetch_configuration(io, "https://ehr.example.org"), SmartConfiguration)
    assert_type(await fetch_publication(io, "https://ehr.example.org/jwks"), Publication)


def synchronous(cache: TokenCache, io: ThreadIO) -> None:
    """The synchronous client's step."""
    assert_type(run_sync(io, cache.get), AccessToken)
