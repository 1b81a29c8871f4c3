"""`httpx.Auth` that attaches the access token where it belongs, and renews it once on a 401."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import TYPE_CHECKING

import httpx

from keystay.errors import ConfigurationError
from keystay.smart.urls import DEFAULT_PORTS

if TYPE_CHECKING:
    from keystay.smart.urls import Origin
    from keystay.token_stores.access_token import AccessToken

__all__ = ["BearerAuth"]

_UNAUTHORIZED = 401


class BearerAuth(httpx.Auth):
    """Sends a bearer token to the allowed origins, and to no other (RFC 6750 §2.1).

    A request to another origin goes out without a token. After a 401 the token that was
    rejected is dropped and the request is sent once more, if its body can be sent again.

    Args:
        origins: Where the token may go.
        token: Returns a valid token; None where only the asynchronous one exists.
        token_async: The same, asynchronous.
        reject: Told which token was answered with a 401.
        cached: Returns a token that is good without any waiting, or None.
    """

    def __init__(
        self,
        origins: frozenset[Origin],
        *,
        token: Callable[[], AccessToken] | None,
        token_async: Callable[[], Awaitable[AccessToken]],
        reject: Callable[[AccessToken], None],
        cached: Callable[[], AccessToken | None],
    ) -> None:
        # As httpx has the parts of a URL: a default port is None.
        self._origins = frozenset(
            (scheme, host.encode(), None if port == DEFAULT_PORTS[scheme] else port)
            for scheme, host, port in origins
        )
        self._token, self._token_async = token, token_async
        self._reject, self._cached = reject, cached

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        """For `httpx.Client`."""
        if not self._is_allowed(request.url):
            yield request
            return
        if self._token is None:
            raise ConfigurationError(
                "An AsyncTokenClient's auth() cannot serve a synchronous httpx.Client.",
                hint="Use keystay.TokenClient: its auth() serves both kinds.",
            )
        token = self._cached() or self._token()
        request.headers["Authorization"] = token.authorization
        response = yield request
        if response.status_code == _UNAUTHORIZED and _was_sent(token, response):
            self._reject(token)
            if _repeatable(request):
                request.headers["Authorization"] = self._token().authorization
                yield request

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """For `httpx.AsyncClient`."""
        if not self._is_allowed(request.url):
            yield request
            return
        token = self._cached() or await self._token_async()
        request.headers["Authorization"] = token.authorization
        response = yield request
        if response.status_code == _UNAUTHORIZED and _was_sent(token, response):
            self._reject(token)
            if _repeatable(request):
                request.headers["Authorization"] = (await self._token_async()).authorization
                yield request

    def _is_allowed(self, url: httpx.URL) -> bool:
        return (url.scheme, url.raw_host, url.port) in self._origins


def _was_sent(token: AccessToken, response: httpx.Response) -> bool:
    """Whether the request answered bore the token: after a redirect to elsewhere it does not."""
    return bool(response.request.headers.get("Authorization") == token.authorization)


def _repeatable(request: httpx.Request) -> bool:
    return isinstance(request.stream, httpx.ByteStream)
