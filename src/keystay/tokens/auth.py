"""Attaches the access token to requests where it belongs, and renews it once on a 401.

`bearer_auth` makes an `auth=` for the clients of httpx and httpx2, `requests_auth` one for
`requests`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from functools import cache
from typing import TYPE_CHECKING, NoReturn, TypedDict, Unpack

from keystay.errors import ConfigurationError
from keystay.http.library import loaded_libraries, own_library
from keystay.smart.urls import DEFAULT_PORTS, origin_of

if TYPE_CHECKING:
    import httpx
    import httpx2
    import requests
    import requests.auth

    from keystay.smart.urls import Origin
    from keystay.token_stores.access_token import AccessToken

    class BearerAuth(httpx.Auth, httpx2.Auth):  # type: ignore[misc]
        """An `auth=` for the clients of httpx and httpx2."""


__all__ = ["Bearer", "bearer_auth", "refuse_call", "requests_auth"]

_UNAUTHORIZED = 401


class _Options(TypedDict, total=False):
    """What `requests` sent the first request with."""

    stream: bool
    timeout: float | tuple[float, float] | tuple[float, None] | None
    verify: bool | str
    cert: str | tuple[str, str] | None
    proxies: dict[str, str] | None


class Bearer:
    """Which requests get a token, and which token.

    Args:
        origins: Where the token may go.
        token: Returns a valid token; None where only the asynchronous one exists.
        token_async: The same, asynchronous.
        reject: Called with a token that was answered with a 401.
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
        self._origins, self._token = origins, token
        # As httpx has the parts of a URL: a default port is None.
        self.httpx_origins = frozenset(
            (scheme, host.encode(), None if port == DEFAULT_PORTS[scheme] else port)
            for scheme, host, port in origins
        )
        self.token_async, self.reject, self.cached = token_async, reject, cached

    def token(self) -> AccessToken:
        """A valid token.

        Raises:
            ConfigurationError: There is an asynchronous client only.
            KeystayError: No token could be had.
        """
        if self._token is None:
            raise ConfigurationError(
                "An AsyncTokenClient's auth() cannot serve a synchronous HTTP client.",
                hint="Use keystay.TokenClient: its auth() serves both kinds.",
            )
        return self.cached() or self._token()

    def may_go_to(self, origin: Origin | None) -> bool:
        """Whether an origin, as the library that sends has parsed it, is allowed."""
        return origin in self._origins


def bearer_auth(bearer: Bearer) -> BearerAuth:
    """An `auth=` for `Client` and `AsyncClient` of each of the two libraries that is imported.

    It sends a bearer token to the allowed origins, and to no other (RFC 6750 §2.1). A request to
    another origin goes out without a token. After a 401 the token that was rejected is dropped and
    the request is sent once more, if its body can be sent again.
    """
    libraries = loaded_libraries() or [own_library()]
    return _auth_class(*(library.Auth for library in libraries))(bearer)


@cache
def _auth_class(*bases: type) -> Callable[[Bearer], BearerAuth]:
    return type("BearerAuth", (_Flows, *bases), {})


class _Flows:
    """The flows of `httpx.Auth` and `httpx2.Auth`."""

    def __init__(self, bearer: Bearer) -> None:
        self._bearer = bearer

    def __call__(self, request: object) -> NoReturn:
        """Called by what takes an `auth=` of another kind."""
        refuse_call(request)

    def __reduce__(self) -> NoReturn:
        raise TypeError("an auth() is not pickled: open a client in each process")

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        """For `Client`."""
        bearer = self._bearer
        url = request.url
        if (url.scheme, url.raw_host, url.port) not in bearer.httpx_origins:
            yield request
            return
        token = bearer.cached() or bearer.token()
        request.headers["Authorization"] = token.authorization
        response = yield request
        if _is_rejected(token, response):
            bearer.reject(token)
            if _is_repeatable(request):
                request.headers["Authorization"] = bearer.token().authorization
                yield request

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """For `AsyncClient`."""
        bearer = self._bearer
        url = request.url
        if (url.scheme, url.raw_host, url.port) not in bearer.httpx_origins:
            yield request
            return
        token = bearer.cached() or await bearer.token_async()
        request.headers["Authorization"] = token.authorization
        response = yield request
        if _is_rejected(token, response):
            bearer.reject(token)
            if _is_repeatable(request):
                request.headers["Authorization"] = (await bearer.token_async()).authorization
                yield request


def requests_auth(bearer: Bearer) -> requests.auth.AuthBase:
    """An `auth=` for `requests`, which does as `bearer_auth` says.

    Raises:
        ConfigurationError: The package requests is not installed.
    """
    try:
        return _requests_class()(bearer)
    except ImportError as error:
        raise ConfigurationError(
            "The package requests is not installed.",
            hint="pip install 'keystay[requests]'; or use client.auth() with httpx or httpx2.",
            code="requests-missing",
        ) from error


@cache
def _requests_class() -> Callable[[Bearer], requests.auth.AuthBase]:
    from requests.auth import AuthBase
    from urllib3.util import parse_url

    class RequestsAuth(AuthBase):
        """Attaches the token, and listens for a 401."""

        def __init__(self, bearer: Bearer) -> None:
            self._bearer = bearer

        __reduce__ = _Flows.__reduce__

        def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
            if not self._may_go_with(request):
                return request
            token = self._bearer.token()
            request.headers["Authorization"] = token.authorization
            start = _position(request.body)

            def renew(
                response: requests.Response, **options: Unpack[_Options]
            ) -> requests.Response:
                # A redirect takes this hook along, but not the token to another origin.
                if not _is_rejected(token, response):
                    return response
                self._bearer.reject(token)
                if start is None:
                    return response
                response.content  # noqa: B018 - read to its end, so that the connection is free
                response.close()
                again = response.request.copy()
                if start >= 0:
                    again.body.seek(start)  # type: ignore[union-attr]
                again.headers["Authorization"] = self._bearer.token().authorization
                answer = response.connection.send(again, **options)
                answer.history.append(response)
                answer.request = again
                return answer

            request.register_hook("response", renew)  # type: ignore[no-untyped-call]
            return request

        def _may_go_with(self, request: requests.PreparedRequest) -> bool:
            """Whether both parsers that requests uses on the way to the socket name one origin."""
            url = request.url or ""
            origin, parsed = origin_of(url), parse_url(url)
            host = (parsed.host or "").strip("[]").lower()
            port = parsed.port or DEFAULT_PORTS.get(parsed.scheme or "")
            return origin == (parsed.scheme, host, port) and self._bearer.may_go_to(origin)

    return RequestsAuth


def refuse_call(argument: object) -> NoReturn:
    """Say which call an HTTP library needs that was given something else.

    Raises:
        ConfigurationError: Always.
    """
    library = type(argument).__module__.partition(".")[0]
    advice = {
        "requests": "Give requests auth=client.requests_auth(), of a keystay.TokenClient.",
        "httpx": "Give httpx auth=client.auth(), called after httpx was imported.",
        "httpx2": "Give httpx2 auth=client.auth(), called after httpx2 was imported.",
    }
    raise ConfigurationError(
        f"This auth= is not one that {library} can use.",
        hint=advice.get(
            library,
            "httpx and httpx2 take auth=client.auth(), requests takes client.requests_auth(); "
            "for anything else send the header Authorization: client.authorization().",
        ),
        code="auth-unusable",
    )


def _is_rejected(token: AccessToken, response: httpx.Response | requests.Response) -> bool:
    """Whether a request that bore the token got a 401: after a redirect elsewhere it does not."""
    if response.status_code != _UNAUTHORIZED:
        return False
    return bool(response.request.headers.get("Authorization") == token.authorization)


def _is_repeatable(request: httpx.Request) -> bool:
    return isinstance(request.stream, tuple(library.ByteStream for library in loaded_libraries()))


def _position(body: object) -> int | None:
    """Where a body begins: -1 if it is whole in memory, None if it is used up once sent."""
    if body is None or isinstance(body, str | bytes | bytearray):
        return -1
    try:
        if hasattr(body, "seekable") and not body.seekable():
            return None
        return int(body.tell()) if hasattr(body, "seek") else None  # type: ignore[attr-defined]
    except (AttributeError, OSError):
        return None
