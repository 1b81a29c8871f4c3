"""What a `TokenClient` and every `AsyncTokenClient` made from it share."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from keystay.assertion import DEFAULT_LIFETIME, ClientAssertion
from keystay.errors import ConfigurationError
from keystay.smart.scopes import DEFAULT_SCOPE, normalise, require_style
from keystay.smart.urls import Origin, origin_of, require_base, require_secure
from keystay.token_stores.port import TokenOwner
from keystay.tokens.cache import DEFAULT_WINDOW, TokenCache
from keystay.tokens.endpoint import DiscoveredEndpoint
from keystay.tokens.events import TokenEvents
from keystay.tokens.key_state.signers import SignerSource
from keystay.tokens.request import TokenRequest
from keystay.tokens.retry import DEFAULT_RETRIES, DEFAULT_SIGNER_RETRIES, Retry
from keystay.tokens.server_clock import ServerClock
from keystay.tokens.settings import ClientSettings, refuse_unknown
from keystay.tokens.shared import SharedToken

if TYPE_CHECKING:
    from keystay.concurrency.clock import Clock
    from keystay.http.io import IO
    from keystay.signer import Signer
    from keystay.smart.discovery import SmartConfiguration
    from keystay.token_stores.access_token import AccessToken

__all__ = ["ClientCore"]


class ClientCore:
    """One client at one server, without any input or output.

    Args:
        settings: As `TokenClient` takes them.
        clock: What all of it measures time by.

    Attributes:
        cache: The token kept, and who renews it.
        retry: Gets new tokens.
        server_clock: The server's.
        given_signer: Signs, or gives the signer to use now.
        own_signer: Whether closing the client closes the signer.
        fhir_base_url: Without a trailing slash.
        client_id: The client's id at this server.
        origins: Where its tokens may go.

    Raises:
        ConfigurationError: A setting cannot be used.
    """

    def __init__(self, settings: ClientSettings, clock: Clock) -> None:
        refuse_unknown(settings)
        insecure = settings.get("allow_insecure_loopback", False)
        token_endpoint, jwks_url = settings.get("token_endpoint"), settings.get("jwks_url")
        secure = partial(require_secure, allow_insecure_loopback=insecure)
        self.fhir_base_url = require_base(
            settings["fhir_base_url"], allow_insecure_loopback=insecure
        )
        if token_endpoint is not None:
            secure(token_endpoint, "The token endpoint")
        if jwks_url is not None:
            secure(jwks_url, "The JWKS URL")
        allowed = tuple(settings.get("allowed_origins", ()))
        for url in allowed:
            secure(url, "An allowed origin")
        origins = {origin_of(url) for url in (self.fhir_base_url, *allowed)}
        self.origins: frozenset[Origin] = frozenset(o for o in origins if o is not None)
        self.client_id = settings["client_id"]
        self.given_signer = settings["signer"]
        self.own_signer = settings.get("own_signer", False)
        self._events = events = TokenEvents(
            self.client_id, self.fhir_base_url, self.signer.observers, clock
        )
        lifetime = settings.get("lifetime", DEFAULT_LIFETIME)
        self.server_clock = server_clock = ServerClock(
            lifetime=lifetime, corrects=_corrects(settings), tell=events.clock_skewed, clock=clock
        )
        self._endpoint = DiscoveredEndpoint(
            self.fhir_base_url,
            allow_insecure_loopback=insecure,
            lifetime=settings.get("discovery_lifetime", 3600.0),
            server_clock=server_clock,
            clock=clock,
        )

        def assertion_for(signer: Signer) -> ClientAssertion:
            return ClientAssertion(
                client_id=self.client_id,
                signer=signer,
                lifetime=lifetime,
                jku=jwks_url,
                extra_headers=settings.get("extra_headers"),
                extra_claims=settings.get("extra_claims"),
                clock=server_clock.time,
            )

        scope = normalise(settings.get("scope", DEFAULT_SCOPE))
        request = TokenRequest(
            assertion_for,
            self.given_signer,
            scope=scope,
            scope_style=require_style(
                settings.get("scope_style", "as-written"), discovered=token_endpoint is None
            ),
            token_endpoint=token_endpoint,
            discovered=self._endpoint,
            server_clock=server_clock,
            events=events,
            clock=clock,
        )
        self.retry = Retry(
            request,
            retries=settings.get("retries", DEFAULT_RETRIES),
            signer_retries=settings.get("signer_retries", DEFAULT_SIGNER_RETRIES),
            rate_limit=settings.get("rate_limit"),
            server_clock=server_clock,
            events=events,
            clock=clock,
        )
        window = settings.get("renewal_window", DEFAULT_WINDOW)
        self._shared: SharedToken | None = None
        store = settings.get("store")
        if store is None:
            self.cache = TokenCache(self.retry.token, events, window, clock=clock)
            return
        owner = TokenOwner(
            client_id=self.client_id,
            fhir_base_url=self.fhir_base_url,
            token_endpoint=token_endpoint or "",
            scope=scope,
        )
        self._shared = shared = SharedToken(store, owner, self.retry)
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
        return given.signer if isinstance(given, SignerSource) else given

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


def _corrects(settings: ClientSettings) -> bool:
    chosen = settings.get("clock_correction", "on")
    if chosen not in ("on", "warn"):
        raise ConfigurationError(
            f"clock_correction is {chosen!r}.",
            hint="Write \"on\" to stamp assertions by the server's clock where this machine's "
            'differs, "warn" to be told only.',
            code="config-value-invalid",
        )
    return chosen == "on"
