"""Where the tokens of one client come from: its settings, its flows, and the token it keeps.

A `TokenClient`, and every `AsyncTokenClient` made from it, draws from one of these.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

from keystay.assertion import DEFAULT_LIFETIME, ClientAssertion
from keystay.errors import ConfigurationError, TokenRefusedError
from keystay.smart.scopes import DEFAULT_SCOPE, normalise, require_style
from keystay.smart.urls import Origin, origin_of, require_base, require_secure
from keystay.token_stores.port import TokenOwner
from keystay.tokens.actions import Call
from keystay.tokens.flow import Endpoint, token_flow
from keystay.tokens.key_state.signer_source import signer_source
from keystay.tokens.rate_budget import RateBudget
from keystay.tokens.renewal import DEFAULT_WINDOW, Renewal
from keystay.tokens.retries import (
    DEFAULT_RETRIES,
    DEFAULT_SIGNER_RETRIES,
    RetryBudgets,
    persistent,
)
from keystay.tokens.server_clock import ServerClock
from keystay.tokens.settings import ClientSettings, refuse_unknown
from keystay.tokens.sharing import SharedToken
from keystay.tokens.witness import TokenWitness

if TYPE_CHECKING:
    from keystay.concurrency import Deadline
    from keystay.signer import Signer
    from keystay.smart.discovery import SmartConfiguration
    from keystay.token_stores.access_token import AccessToken
    from keystay.tokens.actions import Flow

__all__ = ["TokenSource"]


class TokenSource:
    """One client at one server, without any input or output.

    Attributes:
        renewal: The token kept, and who renews it.
        clock: The server's.
        signers: Give the signer of each assertion.
        own_signer: Whether closing the client closes the signer.
        fhir_base_url: Without a trailing slash.
        origins: Where its tokens may go.

    Raises:
        ConfigurationError: A setting cannot be used.
    """

    def __init__(self, settings: ClientSettings) -> None:
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
        self._scope = normalise(settings.get("scope", DEFAULT_SCOPE))
        self.signers = signer_source(settings["signer"])
        self.own_signer = settings.get("own_signer", False)
        lifetime = settings.get("lifetime", DEFAULT_LIFETIME)
        self._witness = TokenWitness(
            settings["client_id"], self.fhir_base_url, self.signer.observers
        )
        self.clock = ServerClock(
            lifetime=lifetime, corrects=_corrects(settings), tell=self._witness.skewed
        )
        self._assertion_for = partial(
            ClientAssertion,
            client_id=settings["client_id"],
            lifetime=lifetime,
            jku=jwks_url,
            extra_headers=settings.get("extra_headers"),
            extra_claims=settings.get("extra_claims"),
            clock=self.clock.time,
        )
        self._assertion = self._assertion_for(signer=self.signers.signer)
        self._endpoint = Endpoint(
            self.fhir_base_url,
            token_endpoint,
            allow_insecure_loopback=insecure,
            lifetime=settings.get("discovery_lifetime", 3600.0),
            clock=self.clock,
            scope_style=require_style(
                settings.get("scope_style", "as-written"), discovered=token_endpoint is None
            ),
        )
        self._budget = RateBudget(settings.get("rate_limit"))
        self._retries = RetryBudgets(
            settings.get("retries", DEFAULT_RETRIES),
            settings.get("signer_retries", DEFAULT_SIGNER_RETRIES),
        )
        self.renewal = Renewal(settings.get("renewal_window", DEFAULT_WINDOW))
        self._shared: SharedToken | None = None
        if (store := settings.get("store")) is not None:
            owner = TokenOwner(
                client_id=self.client_id,
                fhir_base_url=self.fhir_base_url,
                token_endpoint=token_endpoint or "",
                scope=self._scope,
            )
            self._shared = SharedToken(store, owner, self.renewal)

    @property
    def signer(self) -> Signer:
        """The signer of its assertions."""
        return self.signers.signer

    @property
    def client_id(self) -> str:
        """The client's id at this server."""
        return self._assertion.client_id

    def obtain(self, deadline: Deadline) -> Flow[AccessToken]:
        """A valid token, new only if need be."""
        return self.renewal.obtain(self._renewed, deadline)

    def request(
        self, deadline: Deadline, *, scope: str | None = None, signer: Signer | None = None
    ) -> Flow[AccessToken]:
        """A new token, and not kept."""
        return self._granted(deadline, lambda: True, scope, signer)

    def configuration(self, deadline: Deadline) -> Flow[SmartConfiguration]:
        """The server's SMART configuration."""
        return persistent(
            self._endpoint.configuration, self._retries, deadline, self._witness.retried
        )

    def invalidate(self, token: AccessToken | None) -> None:
        """Drop the kept token, from the store as well; with an argument, only if it is that one."""
        kept = self.renewal.token
        rejected = kept if token is None else token
        self.renewal.drop(token)
        if rejected is not None and rejected is kept:  # else others had dropped it already
            self._witness.invalidated(rejected)
        if rejected is not None and self._shared is not None:
            self._shared.reject(rejected)

    def _renewed(self, deadline: Deadline, patient: bool) -> Flow[AccessToken]:
        """What the one caller does who renews: asks the server, or a store that others fill."""

        def is_patient() -> bool:
            # While the old token was good one try was enough; it may have ended since.
            return patient or self.renewal.held() is None

        ask = partial(self._granted, deadline, is_patient, None, None)
        shared = self._shared
        flow = ask() if shared is None else shared.obtain(ask, deadline)
        return self._witness.renewal(
            flow, self.renewal.token, lambda token: shared is not None and token is shared.taken
        )

    def _granted(
        self,
        deadline: Deadline,
        is_patient: Callable[[], bool],
        scope: str | None,
        signer: Signer | None,
    ) -> Flow[AccessToken]:
        """A token, asked for again where that is right and there is the patience."""
        admit = partial(self._budget.admit, deadline, is_patient=is_patient)
        attempt = partial(self._on_time, partial(self._attempt, deadline, scope, signer, admit))
        tell = self._witness.retried
        return persistent(attempt, self._retries, deadline, tell, is_patient=is_patient)

    def _on_time(self, attempt: Callable[[], Flow[AccessToken]]) -> Flow[AccessToken]:
        """An attempt; one more if its refusal tells that it was stamped by a wrong clock."""
        try:
            return (yield from attempt())
        except TokenRefusedError as error:
            learnt = self.clock.correction - error.correction
            if error.status == 429 or error.status >= 500 or not self.clock.matters(learnt):
                raise
        return (yield from attempt())

    def _attempt(
        self,
        deadline: Deadline,
        scope: str | None,
        signer: Signer | None,
        admit: Callable[[], Flow[AbstractContextManager[None]]],
    ) -> Flow[AccessToken]:
        """One request, with a fresh assertion; here the signer is chosen."""
        asked = self._scope if scope is None else normalise(scope)

        def ask(assertion: ClientAssertion) -> Flow[AccessToken]:
            flow = token_flow(self._endpoint, assertion, asked, clock=self.clock, admit=admit)
            return self._witness.request(flow, assertion.signer)

        if signer is not None:
            yield from self.signers.check(signer)
            return (yield from ask(self._assertion_for(signer=signer)))
        if self.signers.is_stale:
            yield Call(partial(self.signers.refresh, deadline), is_left=True)
        with self.signers.lease() as current:
            yield from self.signers.check(current)
            assertion = self._assertion
            if assertion.signer is not current:
                self._assertion = assertion = self._assertion_for(signer=current)
            return (yield from ask(assertion))


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
