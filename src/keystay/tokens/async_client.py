"""`AsyncTokenClient`, the asynchronous shell."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Unpack

import httpx

from keystay.concurrency import Deadline
from keystay.concurrency.clock import now
from keystay.config import Config, load_config
from keystay.http.clients import HttpLink
from keystay.http.settings import HttpSettings
from keystay.tokens.client import _Client
from keystay.tokens.settings import ClientSettings, configured
from keystay.tokens.shells import drive_async
from keystay.tokens.source import TokenSource

if TYPE_CHECKING:
    from keystay.signer import Signer
    from keystay.smart.discovery import SmartConfiguration
    from keystay.token_stores.access_token import AccessToken
    from keystay.tokens.auth import BearerAuth

__all__ = ["AsyncTokenClient"]


class AsyncTokenClient(_Client):
    """As `TokenClient`, for asyncio and trio; signing leaves the event loop free.

    To share one token with threads, make it with `TokenClient.as_async()`.

    Args:
        http: How to reach servers, or your own `httpx.AsyncClient`, which stays yours to close.
        timeout: Seconds for a whole exchange; default that of `http`, else 10.
        **settings: As for `TokenClient`.

    Raises:
        ConfigurationError: An argument cannot be used.
    """

    def __init__(
        self,
        *,
        http: HttpSettings | httpx.AsyncClient | None = None,
        timeout: float | None = None,
        **settings: Unpack[ClientSettings],
    ) -> None:
        source = TokenSource(settings)
        self._start(source, http, timeout, own_signer=source.own_signer)

    @classmethod
    def _sharing(
        cls, source: TokenSource, http: HttpSettings | httpx.AsyncClient, timeout: float
    ) -> AsyncTokenClient:
        client = cls.__new__(cls)
        client._start(source, http, timeout, own_signer=False)
        return client

    def _start(
        self,
        source: TokenSource,
        http: HttpSettings | httpx.AsyncClient | None,
        timeout: float | None,
        *,
        own_signer: bool,
    ) -> None:
        _Client.__init__(self, source, own_signer=own_signer)
        self._http = HttpLink(http, httpx.AsyncClient)
        self._timeout = self._http.settings.timeout if timeout is None else timeout

    @classmethod
    def from_config(
        cls, name: str | None = None, *, config: Config | None = None
    ) -> AsyncTokenClient:
        """As `TokenClient.from_config`; opens the key before the event loop has to wait for it."""
        config = config or load_config()
        with configured(config, name) as settings:
            return cls(http=config.http, **settings)

    async def token(self) -> AccessToken:
        """As `TokenClient.token`."""
        if (kept := self._renewal.good()) is not None:
            return kept
        deadline = Deadline.after(self._timeout)
        return await drive_async(self._source.obtain(deadline), self._http.client, deadline)

    async def request_token(
        self, *, scope: str | None = None, signer: Signer | None = None
    ) -> AccessToken:
        """As `TokenClient.request_token`."""
        deadline = Deadline.after(self._timeout)
        flow = self._source.request(deadline, scope=scope, signer=signer)
        return await drive_async(flow, self._http.client, deadline)

    async def authorization(self) -> str:
        """As `TokenClient.authorization`."""
        renewal = self._renewal
        if now() < renewal.look_at:
            return renewal.header
        return (await self.token()).authorization

    def auth(self) -> BearerAuth:
        """An `httpx.Auth` for `httpx.AsyncClient`."""
        from keystay.tokens.auth import BearerAuth

        return BearerAuth(
            self._source.origins,
            token=None,
            token_async=self.token,
            reject=self.invalidate,
            cached=self._renewal.good,
        )

    async def smart_configuration(self) -> SmartConfiguration:
        """As `TokenClient.smart_configuration`."""
        deadline = Deadline.after(self._timeout)
        return await drive_async(self._source.configuration(deadline), self._http.client, deadline)

    async def aclose(self) -> None:
        """Close what the client opened itself; idempotent."""
        if (http := self._http.let_go()) is not None:
            await http.aclose()
        if self._own_signer:
            self._source.signers.close()

    async def __aenter__(self) -> AsyncTokenClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
