"""What a `TokenClient` and every `AsyncTokenClient` made from it share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystay.assertion import ClientAssertion
from keystay.signer import Signer
from keystay.smart.scopes import normalise
from keystay.smart.urls import Origin, origin_of
from keystay.token_stores.port import TokenOwner
from keystay.tokens.cache import TokenCache
from keystay.tokens.endpoint import DiscoveredEndpoint
from keystay.tokens.events import TokenEvents
from keystay.tokens.request import TokenRequest
from keystay.tokens.retry import Retry
from keystay.tokens.server_clock import ServerClock
from keystay.tokens.shared import SharedToken

if TYPE_CHECKING:
    from keystay.http.io import IO
    from keystay.smart.discovery import SmartConfiguration
    from keystay.token_stores.access_token import AccessToken
    from keystay.tokens.settings import Arguments

__all__ = ["ClientCore"]


class ClientCore:
    """One client at one server, without any input or output.

    Args:
        given: What a token client was given, checked.

    Attributes:
        cache: The token kept, and who renews it.
        retry: Gets new tokens.
        server_clock: The server's.
        given_signer: Signs, or gives the signer to use now.
        fhir_base_url: Without a trailing slash.
        client_id: The client's id at this server.
        origins: Where its tokens may go.
    """

    def __init__(self, given: Arguments) -> None:
        clock = given.clock
        self.fhir_base_url = given.fhir_base_url.rstrip("/")
        origins = map(origin_of, (self.fhir_base_url, *given.allowed_origins))
        self.origins: frozenset[Origin] = frozenset(filter(None, origins))
        self.client_id = given.client_id
        self.given_signer = given.signer
        self._events = events = TokenEvents(
            self.client_id, self.fhir_base_url, self.signer.observers, clock
        )
        self.server_clock = server_clock = ServerClock(
            lifetime=given.assertion_lifetime,
            corrects=given.clock_correction == "on",
            tell=events.clock_skewed,
            clock=clock,
        )
        self._endpoint = DiscoveredEndpoint(
            self.fhir_base_url,
            allow_insecure_loopback=given.allow_insecure_loopback,
            lifetime=given.discovery_lifetime,
            server_clock=server_clock,
            clock=clock,
        )

        def assertion_for(signer: Signer) -> ClientAssertion:
            return ClientAssertion(
                client_id=given.client_id,
                signer=signer,
                lifetime=given.assertion_lifetime,
                jku=given.jwks_url,
                extra_headers=given.extra_headers,
                extra_claims=given.extra_claims,
                clock=server_clock.time,
            )

        scope = normalise(given.scope)
        request = TokenRequest(
            assertion_for,
            given.signer,
            scope=scope,
            scope_style=given.scope_style,
            token_endpoint=given.token_endpoint,
            discovered=self._endpoint,
            server_clock=server_clock,
            events=events,
            clock=clock,
        )
        self.retry = Retry(
            request,
            retries=given.retries,
            signer_retries=given.signer_retries,
            rate_limit=given.rate_limit,
            server_clock=server_clock,
            events=events,
            clock=clock,
        )
        window = given.renewal_window
        self._shared: SharedToken | None = None
        if given.store is None:
            self.cache = TokenCache(self.retry.token, events, window, clock=clock)
            return
        owner = TokenOwner(
            client_id=self.client_id,
            fhir_base_url=self.fhir_base_url,
            token_endpoint=given.token_endpoint or "",
            scope=scope,
        )
        self._shared = shared = SharedToken(given.store, owner, self.retry)
        shared.kept = self.cache = TokenCache(
            shared.renew,
            events,
            window,
            from_store=lambda token: token is shared.taken,
            ask_directly=self.retry.token,
            clock=clock,
        )

    @property
    def signer(self) -> Signer:
        """The signer of new assertions, as far as is known."""
        given = self.given_signer
        return given if isinstance(given, Signer) else given.signer

    async def configuration(self, io: IO) -> SmartConfiguration:
        """The server's SMART configuration."""
        return await self.retry.with_retries(lambda _: self._endpoint.configuration(io), io)

    def invalidate(self, token: AccessToken | None) -> None:
        """Drop the kept token, from the store as well; with an argument, only if it is that one."""
        kept = self.cache.token
        rejected = kept if token is None else token
        self.cache.discard(token)
        if rejected is not None and rejected is kept:  # else others had dropped it already
            self._events.invalidated(rejected)
        if rejected is not None and self._shared is not None:
            self._shared.reject(rejected)
