"""`TokenClient`, the synchronous shell, and `discover`."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Unpack

import httpx

from keystay.concurrency import Deadline
from keystay.concurrency.clock import now
from keystay.config import Config, load_config
from keystay.errors import ConfigurationError
from keystay.http.clients import HttpLink
from keystay.http.settings import HttpSettings
from keystay.smart.discovery import SmartConfiguration, discovery_flow
from keystay.tokens.settings import ClientSettings, configured
from keystay.tokens.shells import drive, drive_in_threads
from keystay.tokens.source import TokenSource

if TYPE_CHECKING:
    from keystay.signer import Signer
    from keystay.token_stores.access_token import AccessToken
    from keystay.tokens.async_client import AsyncTokenClient
    from keystay.tokens.auth import BearerAuth

__all__ = ["TokenClient", "discover"]


def discover(
    fhir_base_url: str,
    *,
    allow_insecure_loopback: bool = False,
    http: HttpSettings | httpx.Client | None = None,
    timeout: float | None = None,
) -> SmartConfiguration:
    """Read a FHIR server's SMART configuration.

    Args:
        fhir_base_url: The FHIR server's base URL.
        allow_insecure_loopback: Allow plain HTTP to this machine.
        http: How to reach it, or your own client.
        timeout: Seconds; default that of `http`, else 10.

    Raises:
        DiscoveryError, NetworkError, ConfigurationError: See `keystay.errors`.
    """
    link = HttpLink(http, httpx.Client)
    try:
        deadline = Deadline.after(link.settings.timeout if timeout is None else timeout)
        flow = discovery_flow(fhir_base_url, allow_insecure_loopback=allow_insecure_loopback)
        return drive(flow, link.client, deadline)
    finally:
        if link.is_own:
            link.client.close()


class _Client:
    """What both clients have in common; all of it is about their source."""

    def __init__(self, source: TokenSource, *, own_signer: bool) -> None:
        self._source, self._own_signer = source, own_signer
        self._renewal = source.renewal

    @property
    def fhir_base_url(self) -> str:
        """The FHIR server's base URL, without a trailing slash."""
        return self._source.fhir_base_url

    @property
    def client_id(self) -> str:
        """The client's id at this server."""
        return self._source.client_id

    @property
    def signer(self) -> Signer:
        """The signer of its assertions."""
        return self._source.signer

    @property
    def clock_offset(self) -> float | None:
        """Seconds the server's clock is ahead of this machine's, by its last answer, or None."""
        return self._source.clock.offset

    def invalidate(self, token: AccessToken | None = None) -> None:
        """Drop the kept token; with an argument, only if it is that one.

        A token rejected late must not take its successor with it.
        """
        self._source.invalidate(token)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.fhir_base_url} client_id={self.client_id!r} "
            f"{self.signer!r}>"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} is not pickled: open one in each process")


class TokenClient(_Client):
    """Gets access tokens and keeps one fresh. Thread-safe; tasks use `as_async()`.

    However many threads and tasks ask, one request is made.

    Args:
        fhir_base_url: The FHIR server's base URL.
        client_id: Issued at registration.
        signer: Signs the assertions; stays yours to close.
        scope: Scopes separated by blanks; default `system/*.rs`.
        scope_style: How `system/` scopes are sent: `as-written` (the default), `v1`, `v2`, or
            `auto`: the version the server advertises, if it is one only.
        token_endpoint: Skips discovery when given.
        jwks_url: URL of the registered JWK Set; sent as `jku`.
        lifetime: Seconds an assertion lives; at most 300.
        allowed_origins: Origins besides the FHIR server's that may receive the token.
        allow_insecure_loopback: Allow plain HTTP to this machine, for tests.
        extra_headers: Further members of the assertion's header.
        extra_claims: Further claims of the assertion.
        discovery_lifetime: Seconds a discovered configuration is kept.
        store: Where processes share the token, such as a `FileTokenStore`; stays yours.
        own_signer: Whether `close()` closes the signer too.
        renewal_window: Share of a token's life, at its end, in which it is renewed; at most a
            minute.
        retries: How often a call tries again after broken connections, HTTP 429 and 5xx, each
            time with a fresh assertion, by one deadline.
        signer_retries: The same after a device or key service that is not there.
        rate_limit: Token requests this client may send: `"5/60"` for five a minute.
        clock_correction: `on` to stamp assertions by the server's clock where this machine's
            differs enough to have them refused; `warn` to say so only.
        http: How to reach servers, or your own `httpx.Client`, which stays yours to close.
        timeout: Seconds for a whole exchange; default that of `http`, else 10.

    Raises:
        ConfigurationError: An argument cannot be used.
    """

    def __init__(
        self,
        *,
        http: HttpSettings | httpx.Client | None = None,
        timeout: float | None = None,
        **settings: Unpack[ClientSettings],
    ) -> None:
        source = TokenSource(settings)
        super().__init__(source, own_signer=source.own_signer)
        self._http = HttpLink(http, httpx.Client)
        self._timeout = self._http.settings.timeout if timeout is None else timeout

    @classmethod
    def from_config(cls, name: str | None = None, *, config: Config | None = None) -> TokenClient:
        """The client that keystay.toml or the environment describes.

        Args:
            name: The client's name in the file; None when there is but one, or when the
                environment describes it.
            config: A loaded configuration; default `keystay.load_config()`.

        Raises:
            KeystayError: The configuration or the key cannot be used.
        """
        config = config or load_config()
        with configured(config, name) as settings:
            return cls(http=config.http, **settings)

    def token(self) -> AccessToken:
        """A valid token: the one kept, or a new one when that is about to expire.

        Raises:
            KeystayError: No token could be had; see `keystay.errors`.
        """
        if (kept := self._renewal.good()) is not None:
            return kept
        deadline = Deadline.after(self._timeout)
        return drive(self._source.obtain(deadline), self._http.client, deadline)

    def request_token(
        self, *, scope: str | None = None, signer: Signer | None = None
    ) -> AccessToken:
        """A new token, never the one kept, and not kept.

        Args:
            scope: Instead of the client's.
            signer: Instead of the client's.

        Raises:
            KeystayError: No token could be had; see `keystay.errors`.
        """
        deadline = Deadline.after(self._timeout)
        flow = self._source.request(deadline, scope=scope, signer=signer)
        return drive(flow, self._http.client, deadline)

    def authorization(self) -> str:
        """The value of an Authorization header with a valid token: `Bearer …`."""
        renewal = self._renewal
        if now() < renewal.look_at:
            return renewal.header
        return self.token().authorization

    def auth(self) -> BearerAuth:
        """An `httpx.Auth` for `httpx.Client` and `httpx.AsyncClient`."""
        from keystay.tokens.auth import BearerAuth

        return BearerAuth(
            self._source.origins,
            token=self.token,
            token_async=self._token_async,
            reject=self.invalidate,
            cached=self._renewal.good,
        )

    def as_async(self, *, http: HttpSettings | httpx.AsyncClient | None = None) -> AsyncTokenClient:
        """This client for asyncio and trio: one token and one renewal, shared by both.

        Args:
            http: How to reach servers, or your own `httpx.AsyncClient`; default as this client
                does. Needed where this client was given an `httpx.Client`.

        Returns:
            A client whose `aclose()` closes what it opened itself; the signer stays this one's.

        Raises:
            ConfigurationError: `http` is missing or cannot be used.
        """
        from keystay.tokens.async_client import AsyncTokenClient

        if http is None:
            if not self._http.is_own:
                raise ConfigurationError(
                    "The token client uses your own httpx.Client, which cannot serve tasks.",
                    hint="Hand an httpx.AsyncClient with the same settings to as_async(http=…).",
                )
            http = self._http.settings
        return AsyncTokenClient._sharing(self._source, http, self._timeout)

    def smart_configuration(self) -> SmartConfiguration:
        """The server's SMART configuration, asked for when none is kept."""
        deadline = Deadline.after(self._timeout)
        return drive(self._source.configuration(deadline), self._http.client, deadline)

    def close(self) -> None:
        """Close what the client opened itself; idempotent."""
        if (http := self._http.let_go()) is not None:
            http.close()
        if self._own_signer:
            self._source.signers.close()

    async def _token_async(self) -> AccessToken:
        """As `token`, for a task; the request runs in a worker thread."""
        deadline = Deadline.after(self._timeout)
        return await drive_in_threads(self._source.obtain(deadline), self._http.client, deadline)

    def __enter__(self) -> TokenClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
