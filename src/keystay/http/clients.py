"""HTTP clients as regulated networks need them: own CAs, proxy, client certificate.

Making one takes 1.3 to 2.1 ms, and reading the CAs it trusts 22 to 40 ms and 0.85 MB. So a client
is made when it is first used, and shared by all whose settings are equal; the TLS context is shared
by all that trust the same. Files that the settings name are read again when they change.
"""

from __future__ import annotations

import os
import ssl
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib import metadata
from pathlib import Path
from threading import get_ident
from typing import TYPE_CHECKING, Generic, Literal, TypeVar, cast
from weakref import WeakValueDictionary

from msgspec.structs import asdict

from keystay.backends.secrets import Secret, SecretResolver
from keystay.concurrency.clock import SYSTEM_CLOCK, Clock, Deadline
from keystay.concurrency.forks import detect_fork, hold_off_forks, reset_after_fork
from keystay.concurrency.threads import running_loop
from keystay.errors import ConfigurationError
from keystay.http.errors import client_closed
from keystay.http.library import error_classes, library_of, own_library
from keystay.http.settings import HttpSettings
from keystay.settings import as_keyword, read_table

if TYPE_CHECKING:
    import httpx

    from keystay.http.library import AsyncClient
    from keystay.http.library import Client as SyncClient
    from keystay.http.messages import HttpRequest

    Made = TypeVar("Made", httpx.Client, httpx.AsyncClient)
else:
    Made = TypeVar("Made")

__all__ = ["HttpExchange", "HttpLink", "async_link", "sync_link"]

Kind = Literal["Client", "AsyncClient"]
Slot = tuple[object, ...]

_DEFAULT = HttpSettings()

# What httpx and OpenSSL read of the environment when a client is made.
_VARIABLES = (
    "ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_DIR", "SSL_CERT_FILE",
    "SSLKEYLOGFILE", "all_proxy", "https_proxy", "http_proxy", "no_proxy",
)  # fmt: skip

# Threads with an event loop whose clients one token client remembers.
_MOST_SLOTS = 64

# Seconds that a connection may be idle between discovery and the token request: servers and
# firewalls drop it after longer ones.
_IDLE_SECONDS = 5.0


def sync_link(given: HttpSettings | SyncClient | None) -> HttpLink[httpx.Client]:
    """How a thread reaches servers."""
    return HttpLink(given, "Client")


def async_link(given: HttpSettings | AsyncClient | None) -> HttpLink[httpx.AsyncClient]:
    """How a task reaches servers."""
    return HttpLink(given, "AsyncClient")


class HttpLink(Generic[Made]):
    """How servers are reached: the caller's own HTTP client, or one made from settings.

    Args:
        given: Settings, a client of httpx or httpx2, or None for default settings.
        kind: The class of client wanted.

    Attributes:
        settings: As given; the default ones beside a caller's own client.
        is_own: Whether the client is made here.

    Raises:
        ConfigurationError: A setting cannot be used, or the client is of another kind.
    """

    def __init__(self, given: object, kind: Kind) -> None:
        self.is_own: bool = given is None or isinstance(given, HttpSettings)
        self.settings = given if isinstance(given, HttpSettings) else _DEFAULT
        self._kind: Kind = kind
        self._is_closed = False
        self._given: Made | None = None
        # Held here, for `_Clients` itself holds nothing.
        self._material: _Material | None = None
        self._made: dict[Slot, Made] = {}
        if self.is_own:
            own_library()
            if given is not None:
                read_table(HttpSettings, asdict(self.settings), as_keyword)
            return
        library = library_of(type(given))  # type: ignore[arg-type]
        if library is None or not isinstance(given, getattr(library, kind)):
            where, what = type(given).__module__.partition(".")[0], type(given).__name__
            raise ConfigurationError(
                f"http cannot be of the class {f'{where}.{what}'.removeprefix('builtins.')}.",
                hint=f"Hand in an httpx.{kind}, an httpx2.{kind} or HttpSettings.",
            )
        self._given = cast("Made", given)

    def __repr__(self) -> str:
        if self._given is None:
            return f"<HttpLink {own_library().__name__}>"
        return f"<HttpLink the caller's own {type(self._given).__module__.partition('.')[0]}>"

    @property
    def client(self) -> Made:
        """The client to use in this thread, and on its event loop.

        An asynchronous one serves the event loops of one thread that are of one kind, of which one
        runs at a time: it keeps no connection that the next could find.

        Raises:
            ConfigurationError: It was let go, or a certificate or secret cannot be used.
        """
        detect_fork()
        if self._is_closed:  # httpx itself may forget: a request on its way opens it again
            raise client_closed()
        if self._given is not None:
            return self._given
        slot: Slot = ("Client",)
        if self._kind == "AsyncClient":
            slot = ("AsyncClient", get_ident(), type(running_loop()[0]))
        made = cast("Made", _CLIENTS.shared(self.load(), slot))
        if len(self._made) >= _MOST_SLOTS:  # of threads that have long ended
            self._made = {}
        self._made[slot] = made
        return made

    @property
    def is_loaded(self) -> bool:
        """Whether `load` need not wait for a file or a person, unless a file has changed."""
        return not self.is_own or self._material is not None

    def load(self) -> _Material:
        """What the settings name, read now if it was not read before, or has changed."""
        made = self._material = _CLIENTS.material(self.settings)
        return made

    def private_client(self) -> Made:
        """A client that keeps its connections, for the caller to close."""
        return cast("Made", _CLIENTS.make(self.load(), self._kind, keeps=True))

    def checked(self) -> HttpLink[Made]:
        """Itself.

        Raises:
            ConfigurationError: The client is closed.
        """
        if self._is_closed or (self._given is not None and self._given.is_closed):
            raise client_closed()
        return self

    def deadline(self, timeout: float | None, clock: Clock = SYSTEM_CLOCK) -> Deadline:
        """The deadline of an exchange that begins now: `timeout` seconds, or what is configured."""
        return Deadline.after(self.settings.timeout if timeout is None else timeout, clock)

    def close(self) -> None:
        """Refuse further requests. A client made here is left to others that share it."""
        self._is_closed = self.is_own
        self._material, self._made = None, {}


class HttpExchange(Generic[Made]):
    """The HTTP client of one exchange.

    The request that another may follow to the same origin (discovery) opens a connection for both,
    in a client of this exchange alone. A caller's own client keeps connections as it likes.

    Args:
        link: How servers are reached.

    Attributes:
        private: That client, for the exchange's end to close.

    Raises:
        ConfigurationError: The link is closed.
    """

    __slots__ = ("link", "private")

    def __init__(self, link: HttpLink[Made]) -> None:
        self.link: HttpLink[Made] = link.checked()
        self.private: Made | None = None

    def client_for(self, request: HttpRequest) -> Made:
        """The client to send a request with.

        Raises:
            ConfigurationError: The link is closed, or a setting cannot be used.
        """
        link = self.link.checked()
        if self.private is None and request.is_followed and link.is_own:
            self.private = link.private_client()
        return link.client if self.private is None else self.private


class _Material:
    """What settings name, read: certificates, and the proxy's credentials.

    Attributes:
        key: Equal as long as the same would be read.
        settings: That name it.
        context: Trusts what they say, and has the client certificate.
        proxy: The library's own `Proxy`, or None.
    """

    __slots__ = ("__weakref__", "context", "key", "proxy", "settings")

    def __init__(
        self, key: Slot, settings: HttpSettings, context: ssl.SSLContext, proxy: object
    ) -> None:
        self.key, self.settings, self.context, self.proxy = key, settings, context, proxy


class _Clients:
    """The clients made here, and what they were made of, as long as anybody uses them.

    A forked child makes its clients anew: another thread may have held a lock of the parent's at
    that moment. What certificates and secrets said is not read again: a person may have typed it.
    """

    def __init__(self) -> None:
        self._clients: WeakValueDictionary[Slot, object] = WeakValueDictionary()
        self._materials: WeakValueDictionary[Slot, _Material] = WeakValueDictionary()
        self._contexts: WeakValueDictionary[Slot, ssl.SSLContext] = WeakValueDictionary()
        self._inherited: list[object] = []  # a child does not tidy up its parent's sockets
        reset_after_fork(self._reset)

    def shared(self, material: _Material, slot: Slot) -> object:
        """The client for what was read; no connection is kept after an exchange.

        A token is asked for every few minutes. By then a firewall has often dropped the idle
        connection without a word.
        """
        key = (material.key, *slot)
        made = self._clients.get(key)
        if made is None:
            kind: Kind = "Client" if slot[0] == "Client" else "AsyncClient"
            made = self._clients.setdefault(key, self.make(material, kind, keeps=False))
        return made

    def make(self, material: _Material, kind: Kind, *, keeps: bool) -> object:
        """A client of its own."""
        library, settings = own_library(), material.settings
        with hold_off_forks(Deadline.after(settings.timeout)), _proxies_usable():
            made: object = getattr(library, kind)(
                verify=material.context,
                timeout=settings.timeout,
                limits=library.Limits(
                    max_keepalive_connections=None if keeps else 0, keepalive_expiry=_IDLE_SECONDS
                ),
                headers={"User-Agent": settings.user_agent or _user_agent()},
                # Requests are made elsewhere and bear none: here they would only pile up.
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
                # Plain HTTP is for loopback only: through a proxy it would leave this machine.
                mounts={"http://": None},
                proxy=material.proxy,
            )
        return made

    def material(self, settings: HttpSettings) -> _Material:
        """What settings name, read once by all whose settings are equal.

        Raises:
            ConfigurationError, SecretError: It cannot be used.
        """
        environment = _environment()
        key = (own_library().__name__, settings, environment, _stamps(settings))
        made = self._materials.get(key)
        if made is None:
            with hold_off_forks(Deadline.after(settings.timeout)):  # for OpenSSL's own locks
                context = self._context(settings, environment)
                proxy = None if settings.proxy is None else self._proxy(settings, environment)
            made = self._materials.setdefault(key, _Material(key, settings, context, proxy))
        return made

    def _context(
        self, settings: HttpSettings, environment: Slot, *, identified: bool = True
    ) -> ssl.SSLContext:
        """A context that trusts what settings say, with their client certificate or without."""
        names = (settings.client_cert, settings.client_key, settings.client_key_passphrase)
        identity = names if identified and settings.client_cert is not None else None
        key = (settings.trust, settings.ca_bundle, identity, environment, _stamps(settings))
        made = self._contexts.get(key)
        if made is None:
            made = _trust(settings)
            if identity is not None:
                _identify(made, settings)
            made = self._contexts.setdefault(key, made)
        return made

    def _proxy(self, settings: HttpSettings, environment: Slot) -> object:
        url = settings.proxy or ""
        # The proxy's own certificate, where it has one, is trusted as the servers' are.
        is_https = url.lower().startswith("https:")
        tls = self._context(settings, environment, identified=False) if is_https else None
        credentials = _secret(settings.proxy_credentials, "the proxy's user:password")
        if credentials is not None and ":" not in credentials.reveal():
            raise ConfigurationError(
                "What proxy_credentials refers to is not user:password.",
                hint="Write both, with a colon between them, where "
                f"{settings.proxy_credentials} points to.",
                code="proxy-credentials-invalid",
            )
        # In no variable: error reporters send those of every frame.
        return own_library().Proxy(
            url,
            ssl_context=tls,
            auth=None if credentials is None else tuple(credentials.reveal().split(":", 1)),
        )

    def _reset(self) -> None:
        self._inherited.extend(self._clients.values())
        self._clients = WeakValueDictionary()


_CLIENTS = _Clients()


@cache
def _user_agent() -> str:
    return f"keystay/{metadata.version('keystay')}"


def _secret(reference: str | None, purpose: str) -> Secret | None:
    return None if reference is None else SecretResolver().resolve(reference, purpose)


def _environment() -> Slot:
    """What tells that a variable is another now; not its value, a proxy's may hold a password."""
    return tuple(hash(os.environ.get(name)) for name in _VARIABLES)


def _stamps(settings: HttpSettings) -> Slot:
    """What tells that something the settings name is another now."""
    names = (
        settings.ca_bundle or os.environ.get("SSL_CERT_FILE"), settings.client_cert,
        settings.client_key, settings.client_key_passphrase, settings.proxy_credentials,
    )  # fmt: skip
    return tuple(None if name is None else _stamp(name) for name in names)


def _stamp(name: str) -> object:
    if name.startswith("env:"):
        return hash(os.environ.get(name.removeprefix("env:")))
    try:
        found = Path(name.removeprefix("file:")).stat()
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(found.st_mode):  # a FIFO is another after each reading, and read once only
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _trust(settings: HttpSettings) -> ssl.SSLContext:
    """A context that trusts what the settings say, the same whichever library sends."""
    bundle = settings.ca_bundle
    try:
        if bundle is None and settings.trust == "system":
            context = _system_context()
        else:
            file, folder = (bundle, None) if bundle is not None else _default_bundle()
            context = ssl.create_default_context(cafile=file, capath=folder)
    except (OSError, ssl.SSLError) as error:
        bundle = bundle or "that SSL_CERT_FILE or SSL_CERT_DIR names"
        raise ConfigurationError(
            f"The CA bundle {bundle} cannot be used: {_reason(error)}.",
            hint="Name a PEM file with your organisation's CA certificates.",
            code="ca-bundle-invalid",
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _system_context() -> ssl.SSLContext:
    """A context that trusts what the operating system trusts.

    On Linux that is what OpenSSL loads by default: truststore's context loads the same again for
    each connection, and OpenSSL before 3.4 keeps every copy (truststore#212).
    """
    paths = ssl.get_default_verify_paths()
    has_any = paths.cafile or (paths.capath and any(Path(paths.capath).iterdir()))
    if sys.platform == "linux" and has_any:
        return ssl.create_default_context()
    import truststore

    context: ssl.SSLContext = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return context


def _default_bundle() -> tuple[str | None, str | None]:
    """The file or folder of CAs that OpenSSL's variables name, else certifi's."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if file or folder:
        return (file, None) if file else (None, folder)
    import certifi

    return certifi.where(), None


def _identify(context: ssl.SSLContext, settings: HttpSettings) -> None:
    """Load the client certificate."""
    passphrase = _secret(
        settings.client_key_passphrase, "the passphrase of the client certificate's key"
    )
    try:
        context.load_cert_chain(
            settings.client_cert or "",
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


@contextmanager
def _proxies_usable() -> Iterator[None]:
    """What httpx says of a proxy that the environment names, without quoting it."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, (ValueError, ImportError, *error_classes("InvalidURL"))):
            raise
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
