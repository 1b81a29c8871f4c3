"""The token clients: two thin shells, synchronous and asynchronous, over one flow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Required, TypedDict, TypeVar, Unpack

from keystay.assertion import DEFAULT_LIFETIME, ClientAssertion
from keystay.backends.port import Deadline
from keystay.config import Config, HttpSettings, load_config, open_client_signer
from keystay.errors import ConfigurationError, did_you_mean
from keystay.smart.discovery import SmartConfiguration, discovery_flow
from keystay.smart.scopes import DEFAULT_SCOPE, ScopeStyle, normalise, require_style
from keystay.smart.urls import Origin, origin_of, require_base, require_secure
from keystay.tokens.exchange import send, send_async
from keystay.tokens.flow import Action, BuildAssertion, Endpoint, token_flow
from keystay.tokens.http_clients import new_async_client, new_client

if TYPE_CHECKING:
    import httpx

    from keystay.signer import Signer
    from keystay.tokens.access_token import AccessToken
    from keystay.tokens.auth import BearerAuth

__all__ = ["AsyncTokenClient", "TokenClient", "discover"]

T = TypeVar("T")
Flow = Generator[Action, Any, T]


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
    settings, client, own = _http_of(http, new_client)
    try:
        deadline = Deadline.after(settings.timeout if timeout is None else timeout)
        flow = discovery_flow(fhir_base_url, allow_insecure_loopback=allow_insecure_loopback)
        return _drive(flow, client, deadline)
    finally:
        if own:
            client.close()


class ClientSettings(TypedDict, total=False):
    """What both clients take; `TokenClient` says what each means."""

    fhir_base_url: Required[str]
    client_id: Required[str]
    signer: Required[Signer]
    scope: str
    scope_style: ScopeStyle
    token_endpoint: str | None
    jwks_url: str | None
    lifetime: int
    allowed_origins: Iterable[str]
    allow_insecure_loopback: bool
    extra_headers: Mapping[str, Any] | None
    extra_claims: Mapping[str, Any] | None
    discovery_lifetime: float
    own_signer: bool


class _Shared:
    """What both clients have in common: settings, the flow, and the token they keep."""

    _current: AccessToken | None = None
    _renew_at = 0.0
    _header = ""

    def __init__(self, settings: ClientSettings) -> None:
        _refuse_unknown(settings)
        insecure = settings.get("allow_insecure_loopback", False)
        token_endpoint, jwks_url = settings.get("token_endpoint"), settings.get("jwks_url")

        def secure(url: str, what: str) -> str:
            return require_secure(url, what, allow_insecure_loopback=insecure)

        self._fhir_base_url = require_base(
            settings["fhir_base_url"], allow_insecure_loopback=insecure
        )
        if token_endpoint is not None:
            secure(token_endpoint, "The token endpoint")
        if jwks_url is not None:
            secure(jwks_url, "The JWKS URL")
        allowed = tuple(settings.get("allowed_origins", ()))
        for url in allowed:
            secure(url, "An allowed origin")
        self._keeping = threading.Lock()
        origins = {origin_of(url) for url in (self._fhir_base_url, *allowed)}
        self._origins: frozenset[Origin] = frozenset(o for o in origins if o is not None)
        self._scope = normalise(settings.get("scope", DEFAULT_SCOPE))
        self._signer, self._own_signer = settings["signer"], settings.get("own_signer", False)
        self._assertion_for = partial(
            ClientAssertion,
            client_id=settings["client_id"],
            lifetime=settings.get("lifetime", DEFAULT_LIFETIME),
            jku=jwks_url,
            extra_headers=settings.get("extra_headers"),
            extra_claims=settings.get("extra_claims"),
        )
        self._assertion = self._assertion_for(signer=self._signer)
        self._endpoint = Endpoint(
            self._fhir_base_url,
            token_endpoint,
            allow_insecure_loopback=insecure,
            lifetime=settings.get("discovery_lifetime", 3600.0),
            scope_style=require_style(
                settings.get("scope_style", "as-written"), discovered=token_endpoint is None
            ),
        )

    @property
    def fhir_base_url(self) -> str:
        """The FHIR server's base URL, without a trailing slash."""
        return self._fhir_base_url

    @property
    def client_id(self) -> str:
        """The client's id at this server."""
        return self._assertion.client_id

    @property
    def signer(self) -> Signer:
        """The signer of its assertions."""
        return self._signer

    def invalidate(self, token: AccessToken | None = None) -> None:
        """Drop the kept token; with an argument, only if it is that one.

        A token rejected late must not take its successor with it.
        """
        with self._keeping:
            if token is None or self._current is token:
                self._current, self._renew_at = None, 0.0

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self._fhir_base_url} client_id={self.client_id!r} "
            f"{self._signer!r}>"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} is not pickled: open one in each process")

    def _cached(self) -> AccessToken | None:
        return self._current if time.monotonic() < self._renew_at else None

    def _keep(self, token: AccessToken) -> AccessToken:
        with self._keeping:
            self._current, self._header, self._renew_at = token, token.authorization, token.renew_at
        return token

    def _flow(self, scope: str | None, signer: Signer | None) -> Flow[AccessToken]:
        return token_flow(
            self._endpoint,
            self._assertion if signer is None else self._assertion_for(signer=signer),
            self._scope if scope is None else normalise(scope),
        )


class TokenClient(_Shared):
    """Gets access tokens and keeps one fresh. Thread-safe.

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
        own_signer: Whether `close()` closes the signer too.
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
        super().__init__(settings)
        found, self._http, self._own_http = _http_of(http, new_client)
        self._timeout = found.timeout if timeout is None else timeout
        self._lock = threading.Lock()

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
        with _opened(config, name) as settings:
            return cls(http=config.http, **settings)

    def token(self) -> AccessToken:
        """A valid token: the one kept, or a new one when that is about to expire.

        Raises:
            KeystayError: No token could be had; see `keystay.errors`.
        """
        if (kept := self._cached()) is not None:
            return kept
        with self._lock:  # one request, however many threads wait here
            return self._cached() or self._keep(self.request_token())

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
        return _drive(self._flow(scope, signer), self._http, Deadline.after(self._timeout))

    def authorization(self) -> str:
        """The value of an Authorization header with a valid token: `Bearer …`."""
        if time.monotonic() < self._renew_at:
            return self._header
        return self.token().authorization

    def auth(self) -> BearerAuth:
        """An `httpx.Auth` for `httpx.Client` and `httpx.AsyncClient`."""
        from keystay.tokens.auth import BearerAuth

        return BearerAuth(
            self._origins, token=self.token, reject=self.invalidate, cached=self._cached
        )

    def smart_configuration(self) -> SmartConfiguration:
        """The server's SMART configuration, asked for when none is kept."""
        deadline = Deadline.after(self._timeout)
        return _drive(self._endpoint.configuration(), self._http, deadline)

    def close(self) -> None:
        """Close what the client opened itself; idempotent."""
        if self._own_http:
            self._http.close()
        if self._own_signer:
            self._signer.close()

    def __enter__(self) -> TokenClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncTokenClient(_Shared):
    """As `TokenClient`, for asyncio and trio; signing runs in worker threads.

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
        import anyio

        super().__init__(settings)
        found, self._http, self._own_http = _http_of(http, new_async_client)
        self._timeout = found.timeout if timeout is None else timeout
        self._lock = anyio.Lock()

    @classmethod
    def from_config(
        cls, name: str | None = None, *, config: Config | None = None
    ) -> AsyncTokenClient:
        """As `TokenClient.from_config`; opens the key before the event loop has to wait for it."""
        config = config or load_config()
        with _opened(config, name) as settings:
            return cls(http=config.http, **settings)

    async def token(self) -> AccessToken:
        """As `TokenClient.token`."""
        if (kept := self._cached()) is not None:
            return kept
        async with self._lock:
            return self._cached() or self._keep(await self.request_token())

    async def request_token(
        self, *, scope: str | None = None, signer: Signer | None = None
    ) -> AccessToken:
        """As `TokenClient.request_token`."""
        flow = self._flow(scope, signer)
        return await _drive_async(flow, self._http, Deadline.after(self._timeout))

    async def authorization(self) -> str:
        """As `TokenClient.authorization`."""
        if time.monotonic() < self._renew_at:
            return self._header
        return (await self.token()).authorization

    def auth(self) -> BearerAuth:
        """An `httpx.Auth` for `httpx.AsyncClient`."""
        from keystay.tokens.auth import BearerAuth

        return BearerAuth(
            self._origins,
            token=None,
            token_async=self.token,
            reject=self.invalidate,
            cached=self._cached,
        )

    async def smart_configuration(self) -> SmartConfiguration:
        """As `TokenClient.smart_configuration`."""
        deadline = Deadline.after(self._timeout)
        return await _drive_async(self._endpoint.configuration(), self._http, deadline)

    async def aclose(self) -> None:
        """Close what the client opened itself; idempotent."""
        if self._own_http:
            await self._http.aclose()
        if self._own_signer:
            self._signer.close()

    async def __aenter__(self) -> AsyncTokenClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


def _refuse_unknown(settings: Mapping[str, object]) -> None:
    """As Python does where the arguments are spelt out: a misspelt scope must not go unnoticed."""
    for name in settings.keys() - ClientSettings.__annotations__.keys():
        known = sorted(ClientSettings.__annotations__)
        raise TypeError(f"unexpected keyword argument {name!r}. {did_you_mean(name, known)}")
    for name in sorted({"fhir_base_url", "client_id", "signer"} - settings.keys()):
        raise TypeError(f"missing keyword argument {name!r}")


@contextmanager
def _opened(config: Config, name: str | None) -> Iterator[ClientSettings]:
    """A configured client's settings; its signer is closed again if no client comes of it."""
    settings = _settings_of(config, name)
    try:
        yield settings
    except BaseException:
        settings["signer"].close()
        raise


def _settings_of(config: Config, name: str | None) -> ClientSettings:
    """A configured client's settings, its signer opened."""
    client = config.client(name)
    return {
        "fhir_base_url": client.fhir_base_url,
        "client_id": client.registered_id(),
        "scope": client.scope,
        "scope_style": client.scope_style,
        "token_endpoint": client.token_endpoint,
        "jwks_url": client.jwks_url,
        "lifetime": client.assertion_lifetime,
        "allowed_origins": client.allowed_origins,
        "allow_insecure_loopback": client.allow_insecure_loopback,
        "signer": open_client_signer(config, name),
        "own_signer": True,
    }


def _http_of(given: Any, make: Callable[[HttpSettings], Any]) -> tuple[HttpSettings, Any, bool]:
    """Settings, client, and whether the client is ours to close."""
    if given is None or isinstance(given, HttpSettings):
        settings = given or HttpSettings()
        return settings, make(settings), True
    import httpx

    wanted = httpx.Client if make is new_client else httpx.AsyncClient
    if not isinstance(given, wanted):
        raise ConfigurationError(
            f"http is a {type(given).__name__}.",
            hint=f"Hand in an httpx.{wanted.__name__} or HttpSettings.",
        )
    return HttpSettings(), given, False


def _drive(flow: Flow[T] | Generator[Any, Any, T], client: httpx.Client, deadline: Deadline) -> T:
    """Give a flow what it asks for until it returns."""
    try:
        action = next(flow)
        while True:
            if isinstance(action, BuildAssertion):
                answer: Any = action.assertion.build(action.audience, timeout=deadline.remaining)
            else:
                answer = send(client, action, deadline)
            action = flow.send(answer)
    except StopIteration as finished:
        return finished.value  # type: ignore[no-any-return]
    finally:
        flow.close()


async def _drive_async(
    flow: Flow[T] | Generator[Any, Any, T], client: httpx.AsyncClient, deadline: Deadline
) -> T:
    """As `_drive`, awaiting."""
    try:
        action = next(flow)
        while True:
            if isinstance(action, BuildAssertion):
                answer: Any = await action.assertion.build_async(
                    action.audience, timeout=deadline.remaining
                )
            else:
                answer = await send_async(client, action, deadline)
            action = flow.send(answer)
    except StopIteration as finished:
        return finished.value  # type: ignore[no-any-return]
    finally:
        flow.close()
