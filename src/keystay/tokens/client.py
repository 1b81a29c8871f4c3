"""`TokenClient` and `AsyncTokenClient`: two faces of one core, and `discover`."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

import msgspec

from keystay.config import Config, load_config
from keystay.errors import ConfigurationError
from keystay.http.clients import HttpLink, async_link, sync_link
from keystay.http.io import (
    LoopIO,
    LoopIOWithThreads,
    ThreadIO,
    run_async,
    run_once,
    run_sync,
)
from keystay.http.settings import HttpSettings
from keystay.smart.discovery import SmartConfiguration, fetch_configuration
from keystay.tokens.core import ClientCore
from keystay.tokens.settings import (
    AsyncTokenClientArguments,
    TokenClientArguments,
    configured,
    takes,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import httpx
    import requests.auth

    from keystay.http.library import AsyncClient, Client
    from keystay.signer import Signer
    from keystay.token_stores.access_token import AccessToken
    from keystay.tokens.auth import Bearer, BearerAuth
    from keystay.tokens.settings import Arguments

__all__ = ["AsyncTokenClient", "TokenClient", "discover"]


def discover(
    fhir_base_url: str,
    *,
    allow_insecure_loopback: bool = False,
    http: HttpSettings | Client | None = None,
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
    return run_once(
        http,
        timeout,
        fetch_configuration,
        fhir_base_url,
        allow_insecure_loopback=allow_insecure_loopback,
    )


class _Client:
    """What both clients have in common; all of it is about their core."""

    def _start(self, core: ClientCore, given: Arguments) -> None:
        self._core, self._cache = core, core.cache
        self._timeout, self._clock, self._own_signer = given.timeout, given.clock, given.own_signer
        self._given, self._now = given, given.clock.now

    @property
    def fhir_base_url(self) -> str:
        """The FHIR server's base URL, without a trailing slash."""
        return self._core.fhir_base_url

    @property
    def client_id(self) -> str:
        """The client's id at this server."""
        return self._core.client_id

    @property
    def signer(self) -> Signer:
        """The signer of its assertions."""
        return self._core.signer

    @property
    def clock_offset(self) -> float | None:
        """Seconds the server's clock is ahead of this machine's, by its last answer, or None."""
        return self._core.server_clock.offset

    def invalidate(self, token: AccessToken | None = None) -> None:
        """Drop the kept token; with an argument, only if it is that one.

        A token rejected late must not take its successor with it.
        """
        self._core.invalidate(token)

    def _bearer(
        self,
        token: Callable[[], AccessToken] | None,
        token_async: Callable[[], Awaitable[AccessToken]],
    ) -> Bearer:
        from keystay.tokens.auth import Bearer

        return Bearer(
            self._core.origins,
            token=token,
            token_async=token_async,
            reject=self.invalidate,
            cached=self._cache.fresh,
        )

    def __call__(self, request: object) -> NoReturn:
        """Called where the client itself is given as `auth=`: says what is to be given instead."""
        from keystay.tokens.auth import refuse_call

        refuse_call(request)

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

    Args: Beside the settings of `[clients.NAME]` in keystay.toml, by the same names:
        signer: Signs the assertions; stays yours to close.
        own_signer: Whether `close()` closes the signer too.
        store: Where processes share the token, such as a `FileTokenStore`; stays yours.
        extra_headers: Further members of the assertion's header.
        extra_claims: Further claims of the assertion.
        http: How to reach servers, or your own `Client` of httpx or httpx2, which stays yours to
            close.
        timeout: Seconds for a whole exchange; default that of `http`, else 10.
        clock: What time is measured by; a test may hand in its own.

    Raises:
        ConfigurationError: A setting cannot be used.
    """

    _http: HttpLink[httpx.Client]

    @takes(TokenClientArguments)
    def __init__(self, given: TokenClientArguments) -> None:
        self._open(given)

    def _open(self, given: TokenClientArguments) -> None:
        self._http = sync_link(given.http)
        self._start(ClientCore(given), given)

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
        with configured(config or load_config(), name, TokenClientArguments) as given:
            client = cls.__new__(cls)
            client._open(given)
            return client

    def token(self) -> AccessToken:
        """A valid token: the one kept, or a new one when that is about to expire.

        Raises:
            KeystayError: No token could be had; see `keystay.errors`.
        """
        if (kept := self._cache.fresh()) is not None:
            return kept
        return run_sync(self._io(), self._cache.get)

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
        return run_sync(self._io(), self._core.retry.token, scope=scope, signer=signer)

    def authorization(self) -> str:
        """The value of an Authorization header with a valid token: `Bearer …`."""
        cache = self._cache
        if self._now() < cache.refresh_after:
            return cache.header
        return self.token().authorization

    def auth(self) -> BearerAuth:
        """An `auth=` for `Client` and `AsyncClient` of httpx and httpx2.

        For those of the two that are imported when it is called.
        """
        from keystay.tokens.auth import bearer_auth

        return bearer_auth(self._bearer(self.token, self._token_async))

    def requests_auth(self) -> requests.auth.AuthBase:
        """An `auth=` for `requests`.

        Raises:
            ConfigurationError: The package requests is not installed.
        """
        from keystay.tokens.auth import requests_auth

        return requests_auth(self._bearer(self.token, self._token_async))

    def as_async(self, *, http: HttpSettings | AsyncClient | None = None) -> AsyncTokenClient:
        """This client for asyncio and trio: one token and one renewal, shared by both.

        Args:
            http: How to reach servers, or your own `AsyncClient`; default as this client does.
                Needed where this client was given a `Client`.

        Returns:
            A client whose `aclose()` closes what it opened itself; the signer stays this one's.

        Raises:
            ConfigurationError: `http` is missing or cannot be used.
        """
        if http is None:
            if not self._http.is_own:
                raise ConfigurationError(
                    "The token client uses your own HTTP client, which cannot serve tasks.",
                    hint="Hand an AsyncClient with the same settings to as_async(http=…).",
                )
            http = self._http.settings
        client = AsyncTokenClient.__new__(AsyncTokenClient)
        client._http = async_link(http)
        timeout = self._http.settings.timeout if self._timeout is None else self._timeout
        given = msgspec.structs.replace(self._given, own_signer=False, timeout=timeout)
        client._start(self._core, given)
        return client

    def smart_configuration(self) -> SmartConfiguration:
        """The server's SMART configuration, asked for when none is kept."""
        return run_sync(self._io(), self._core.configuration)

    def close(self) -> None:
        """Close what the client opened itself; idempotent."""
        self._http.close()
        if self._own_signer:
            self._core.given_signer.close()

    async def _token_async(self) -> AccessToken:
        """As `token`, for a task; the request runs in a worker thread."""
        deadline = self._http.deadline(self._timeout, self._clock)
        return await run_async(LoopIOWithThreads(self._http, deadline), self._cache.get)

    def _io(self) -> ThreadIO:
        deadline = self._http.deadline(self._timeout, self._clock)
        return ThreadIO(self._http, deadline, self._clock)

    def __enter__(self) -> TokenClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncTokenClient(_Client):
    """As `TokenClient`, for asyncio and trio; signing leaves the event loop free.

    To share one token with threads, make it with `TokenClient.as_async()`.

    Takes what `TokenClient` takes; `http` is a `HttpSettings` or your own `AsyncClient`.

    Raises:
        ConfigurationError: A setting cannot be used.
    """

    _http: HttpLink[httpx.AsyncClient]

    @takes(AsyncTokenClientArguments)
    def __init__(self, given: AsyncTokenClientArguments) -> None:
        self._open(given)

    def _open(self, given: AsyncTokenClientArguments) -> None:
        self._http = async_link(given.http)
        self._start(ClientCore(given), given)

    @classmethod
    def from_config(
        cls, name: str | None = None, *, config: Config | None = None
    ) -> AsyncTokenClient:
        """As `TokenClient.from_config`; opens the key before the event loop has to wait for it."""
        with configured(config or load_config(), name, AsyncTokenClientArguments) as given:
            client = cls.__new__(cls)
            client._open(given)
            return client

    async def token(self) -> AccessToken:
        """As `TokenClient.token`."""
        if (kept := self._cache.fresh()) is not None:
            return kept
        return await run_async(self._io(), self._cache.get)

    async def request_token(
        self, *, scope: str | None = None, signer: Signer | None = None
    ) -> AccessToken:
        """As `TokenClient.request_token`."""
        return await run_async(self._io(), self._core.retry.token, scope=scope, signer=signer)

    async def authorization(self) -> str:
        """As `TokenClient.authorization`."""
        cache = self._cache
        if self._now() < cache.refresh_after:
            return cache.header
        return (await self.token()).authorization

    def auth(self) -> BearerAuth:
        """An `auth=` for `AsyncClient` of httpx and httpx2; see `TokenClient.auth`."""
        from keystay.tokens.auth import bearer_auth

        return bearer_auth(self._bearer(None, self.token))

    async def smart_configuration(self) -> SmartConfiguration:
        """As `TokenClient.smart_configuration`."""
        return await run_async(self._io(), self._core.configuration)

    def _io(self) -> LoopIO:
        return LoopIO(self._http, self._http.deadline(self._timeout, self._clock))

    async def aclose(self) -> None:
        """Close what the client opened itself; idempotent."""
        self._http.close()
        if self._own_signer:
            self._core.given_signer.close()

    async def __aenter__(self) -> AsyncTokenClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
