"""httpx clients as regulated networks need them: own CAs, proxy, client certificate."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from typing import Generic, Required, TypedDict, TypeVar

import httpx

from keystay.backends.secrets import SecretResolver
from keystay.concurrency.clock import SYSTEM_CLOCK, Clock, Deadline
from keystay.concurrency.forks import detect_fork, hold_off_forks, reset_after_fork
from keystay.errors import ConfigurationError
from keystay.http.errors import client_closed
from keystay.http.settings import HttpSettings, http_faults

__all__ = ["HttpLink", "new_async_client", "new_client"]

Client = TypeVar("Client", httpx.Client, httpx.AsyncClient)

# A token is asked for every few minutes. By then a firewall has often dropped the idle
# connection without a word, so every exchange opens its own.
_LIMITS = httpx.Limits(max_keepalive_connections=0)


def new_client(settings: HttpSettings) -> httpx.Client:
    """A client for token requests and FHIR reads. No connection is kept: see `_LIMITS`.

    Raises:
        ConfigurationError: A setting cannot be used.
    """
    return HttpLink(settings, httpx.Client).client


def new_async_client(settings: HttpSettings) -> httpx.AsyncClient:
    """As `new_client`, asynchronous."""
    return HttpLink(settings, httpx.AsyncClient).client


class HttpLink(Generic[Client]):
    """How servers are reached: the caller's own httpx client, or one made from settings.

    A client made here is made anew in a forked child: another thread may have held a lock of the
    parent's at that moment. Certificates and secrets are not read again.

    Args:
        given: Settings, an httpx client, or None for default settings.
        kind: The class of client wanted.

    Attributes:
        settings: As given; the default ones beside a caller's own client.
        is_own: Whether the client is ours to close.

    Raises:
        ConfigurationError: A setting cannot be used, or the client is of another kind.
    """

    def __init__(
        self, given: HttpSettings | httpx.Client | httpx.AsyncClient | None, kind: type[Client]
    ) -> None:
        self.is_own: bool = given is None or isinstance(given, HttpSettings)
        self.settings: HttpSettings = given if isinstance(given, HttpSettings) else HttpSettings()
        self._client: Client | None
        self._inherited: Client | None  # kept: a child does not tidy up its parent's sockets
        if self.is_own:
            with hold_off_forks(Deadline.after(self.settings.timeout)):  # for OpenSSL's own locks
                self._make: Callable[[], Client] = partial(kind, **_options(self.settings))
                with _proxies_usable():
                    self._client = self._make()
            reset_after_fork(self._reset)
        elif isinstance(given, kind):
            self._client = given
        else:
            raise ConfigurationError(
                f"http is a {type(given).__name__}.",
                hint=f"Hand in an httpx.{kind.__name__} or HttpSettings.",
            )
        self._is_closed = False

    @property
    def client(self) -> Client:
        """The client to use in this process.

        Raises:
            ConfigurationError: It was let go.
        """
        detect_fork()
        if self._is_closed:  # httpx itself may forget: a request on its way opens it again
            raise client_closed()
        if self._client is None:
            with _proxies_usable():
                self._client = self._make()
        return self._client

    def checked(self) -> HttpLink[Client]:
        """Itself.

        Raises:
            ConfigurationError: The client is closed.
        """
        if self.client.is_closed:
            raise client_closed()
        return self

    def deadline(self, timeout: float | None, clock: Clock = SYSTEM_CLOCK) -> Deadline:
        """The deadline of an exchange that begins now: `timeout` seconds, or what is configured."""
        return Deadline.after(self.settings.timeout if timeout is None else timeout, clock)

    def let_go(self) -> Client | None:
        """The client to close, if it is ours and not let go yet; it is used no more."""
        detect_fork()
        if not self.is_own or self._is_closed:
            return None
        self._is_closed = True
        return self._client

    def _reset(self) -> None:
        self._inherited, self._client = self._client, None


class _Options(TypedDict, total=False):
    verify: Required[ssl.SSLContext]
    timeout: Required[float]
    limits: Required[httpx.Limits]
    headers: Required[dict[str, str]]
    mounts: Required[dict[str, None]]
    proxy: httpx.Proxy


def _options(settings: HttpSettings) -> _Options:
    for _, fault in http_faults(settings):
        raise fault
    secrets = SecretResolver()
    agent = settings.user_agent or f"keystay/{metadata.version('keystay')}"
    options: _Options = {
        "verify": _tls(settings, secrets),
        "timeout": settings.timeout,
        "limits": _LIMITS,
        "headers": {"User-Agent": agent},
        # Plain HTTP is for loopback only: through a proxy it would leave this machine.
        "mounts": {"http://": None},
    }
    if settings.proxy is not None:
        options["proxy"] = _proxy(settings, secrets)
    return options


def _trust(settings: HttpSettings) -> ssl.SSLContext:
    try:
        context = (
            httpx.create_ssl_context()
            if settings.ca_bundle is None
            else ssl.create_default_context(cafile=settings.ca_bundle)
        )
    except (OSError, ssl.SSLError) as error:
        bundle = settings.ca_bundle or "that SSL_CERT_FILE or SSL_CERT_DIR names"
        raise ConfigurationError(
            f"The CA bundle {bundle} cannot be used: {_reason(error)}.",
            hint="Name a PEM file with your organisation's CA certificates.",
            code="ca-bundle-invalid",
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _tls(settings: HttpSettings, secrets: SecretResolver) -> ssl.SSLContext:
    context = _trust(settings)
    if settings.client_cert is not None:
        passphrase = secrets.resolve(
            settings.client_key_passphrase, "the passphrase of the client certificate's key"
        )
        try:
            context.load_cert_chain(
                settings.client_cert,
                settings.client_key,
                # Never let OpenSSL ask on the terminal.
                passphrase.reveal() if passphrase else "",
            )
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"The client certificate {settings.client_cert} cannot be used: {_reason(error)}.",
                hint="Check client_cert, client_key and client_key_passphrase; the key must belong "
                "to the certificate.",
                code="client-cert-invalid",
            ) from error
    return context


def _proxy(settings: HttpSettings, secrets: SecretResolver) -> httpx.Proxy:
    url = settings.proxy or ""
    credentials = secrets.resolve(settings.proxy_credentials, "the proxy's user:password")
    auth = None
    if credentials is not None:
        user, colon, password = credentials.reveal().partition(":")
        if not colon:
            raise ConfigurationError(
                "What proxy_credentials refers to is not user:password.",
                hint=f"Write both, with a colon between them, where {settings.proxy_credentials} "
                "points to.",
                code="proxy-credentials-invalid",
            )
        auth = (user, password)
    # The proxy's own certificate, where it has one, is trusted as the servers' are.
    tls = _trust(settings) if url.lower().startswith("https:") else None
    return httpx.Proxy(url, ssl_context=tls, auth=auth)


@contextmanager
def _proxies_usable() -> Iterator[None]:
    """What httpx says of a proxy that the environment names, without quoting it."""
    try:
        yield
    except (ValueError, ImportError, httpx.InvalidURL):
        raise ConfigurationError(
            "The proxy that the environment names cannot be used.",
            cause="HTTPS_PROXY, HTTP_PROXY or ALL_PROXY is not an http:// or https:// URL; SOCKS "
            "needs the package httpx[socks].",
            hint="Correct or unset it, or set [http] proxy.",
            code="proxy-invalid",
        ) from None


def _reason(error: Exception) -> str:
    found = getattr(error, "reason", None) or getattr(error, "strerror", None)
    return str(found or type(error).__name__)
