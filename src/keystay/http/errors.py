"""What keeps an HTTP answer from coming back, told so that somebody can act on it."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from keystay.errors import ConfigurationError, NetworkError, NetworkTimeoutError
from keystay.http.library import error_classes

if TYPE_CHECKING:
    from keystay.concurrency.clock import Deadline
    from keystay.http.messages import HttpRequest

__all__ = [
    "client_closed",
    "failures",
    "hanging",
    "raise_network_error",
    "root",
    "too_long",
    "unread",
    "where",
]


# OpenSSL's X509_V_ERR_… numbers (x509_vfy.h): not yet valid and expired; host, e-mail, IP mismatch.
_EXPIRED = (9, 10)
_OTHER_HOST = (62, 64)


def failures() -> tuple[type[Exception], ...]:
    """What sending a request may raise.

    A `RuntimeError` is all that httpx says of a client that is closed, also by another thread on
    the way to the socket.
    """
    of_libraries = error_classes("HTTPError", "InvalidURL", "StreamError")
    return (*of_libraries, OSError, RuntimeError, UnicodeError)


def raise_network_error(
    request: HttpRequest, error: Exception, deadline: Deadline, *, closed: bool
) -> NoReturn:
    """Raise the error of ours for what sending raised; after the deadline it is a timeout.

    Args:
        request: What was sent.
        error: One of `failures()`.
        deadline: By which it had to be over.
        closed: Whether the client is closed now.

    Raises:
        KeystayError: Chained to `error`.
    """
    if isinstance(error, RuntimeError) and not isinstance(error, error_classes("StreamError")):
        if closed:
            raise client_closed() from error
        raise error
    if isinstance(error, (*error_classes("TimeoutException"), TimeoutError)) or deadline.expired:
        raise _late(request, deadline) from error
    raise _failed(request, error) from error


def client_closed() -> ConfigurationError:
    """The error for an HTTP client that is used after it was closed."""
    return ConfigurationError(
        "The HTTP client is closed.",
        cause="The token client, or the HTTP client it was given, was used after close().",
        hint="Make a new one, or close it later.",
        code="client-closed",
    )


def hanging(count: int) -> NetworkError:
    """The error for a request that is not sent because so many before it hang."""
    return NetworkError(
        f"{count} requests have not come back; no more are sent.",
        cause="Name resolution or connecting hangs in this machine's network, and cannot be "
        "interrupted.",
        hint="Check DNS and routes; requests are sent again as soon as one comes back.",
        code="network-hangs",
    )


def unread(request: HttpRequest, status: int) -> NetworkError:
    """The error for an answer that is compressed."""
    return NetworkError(
        f"The answer to {request.purpose} is compressed, which was not asked for.",
        status=status,
        hint="Something between here and the server changes answers: look there.",
        code="network-encoding",
    )


def too_long(request: HttpRequest) -> NetworkError:
    """The error for an answer beyond the bound."""
    return NetworkError(
        f"The answer to {request.purpose} is longer than {request.max_bytes} bytes.",
        cause="Something other than the expected service answered.",
        hint=f"Check {where(request)}.",
        code="network-too-large",
    )


def _late(request: HttpRequest, deadline: Deadline) -> NetworkTimeoutError:
    return NetworkTimeoutError(
        f"{request.purpose[:1].upper()}{request.purpose[1:]} to {where(request)} got no complete "
        f"answer within {deadline.seconds:g} s.",
        cause="The server is slow or down, or a firewall drops the connection.",
        hint="Try it with curl from this machine; behind a proxy set [http] proxy; raise "
        "[http] timeout only if the server is slow by nature.",
    )


def _failed(request: HttpRequest, error: Exception) -> NetworkError:
    what = f"{request.purpose[:1].upper()}{request.purpose[1:]} to {where(request)} failed"
    inner = root(error)
    if isinstance(inner, ssl.SSLCertVerificationError):
        return _untrusted(what, inner)
    if isinstance(inner, ssl.SSLError):
        return NetworkError(
            f"{what}: TLS could not be agreed on ({inner.reason or 'unknown reason'}).",
            cause="The server speaks no TLS on this port, wants a client certificate, or only "
            "offers versions before 1.2.",
            hint="Check the port; set [http] client_cert where mutual TLS is required.",
            code="tls-failed",
        )
    if isinstance(inner, socket.gaierror | UnicodeError):
        return NetworkError(
            f"{what}: the host name cannot be resolved.",
            cause="The name is misspelt, or this machine has no DNS for it.",
            hint="Check the URL; behind a proxy set [http] proxy.",
            code="network-dns",
        )
    if isinstance(inner, ConnectionRefusedError):
        return NetworkError(
            f"{what}: the connection was refused.",
            cause="Nothing listens there, or a firewall refuses.",
            hint="Check host and port (the proxy's, if there is one), and that the server runs.",
            code="network-refused",
        )
    if isinstance(error, error_classes("ProxyError")):
        return NetworkError(
            f"{what}: the proxy did not let it through.",
            hint="Check [http] proxy and proxy_credentials.",
            code="network-proxy",
        )
    return NetworkError(
        f"{what}: {type(error).__name__}.",
        cause="The connection broke, or what answered does not speak HTTP.",
        hint="Try again; check host and port.",
    )


def _untrusted(what: str, error: ssl.SSLCertVerificationError) -> NetworkError:
    if error.verify_code in _EXPIRED:
        return NetworkError(
            f"{what}: its TLS certificate is not valid now ({error.verify_message}).",
            cause="The server's certificate was not renewed, or this machine's clock is wrong.",
            hint="Compare this machine's clock; then tell whoever runs the server. Verification "
            "cannot be turned off.",
            code="tls-expired",
        )
    if error.verify_code in _OTHER_HOST:
        return NetworkError(
            f"{what}: its TLS certificate is for another host ({error.verify_message}).",
            cause="The URL has another name for the server than its certificate, or another "
            "server answered.",
            hint="Use the host name that the vendor documents. Verification cannot be turned off.",
            code="tls-wrong-host",
        )
    return NetworkError(
        f"{what}: its TLS certificate is not trusted ({error.verify_message}).",
        cause="The certificate is from a CA this machine does not know (a TLS-inspecting proxy has "
        "its own).",
        hint='Set [http] ca_bundle = "/path/to/your-ca.pem" if the CA is your organisation\'s. '
        "Verification cannot be turned off.",
        code="tls-untrusted",
    )


def root(error: BaseException) -> BaseException:
    """The innermost error: httpx, httpcore and anyio wrap what the socket said."""
    while True:
        inner = error.__cause__ or error.__context__
        if isinstance(error, BaseExceptionGroup):  # one for each address tried
            inner = error.exceptions[0]
        if inner is None:
            return error
        error = inner


def where(request: HttpRequest) -> str:
    """Scheme, host and port of a request, for messages."""
    parts = urlsplit(request.url)
    return f"{parts.scheme}://{parts.netloc}"
