"""What keeps an HTTP answer from coming back, told so that somebody can act on it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from keystay.errors import NetworkError, NetworkTimeoutError

if TYPE_CHECKING:
    from keystay.concurrency import Deadline
    from keystay.http.messages import HttpRequest

__all__ = ["mapped", "root", "where"]


# OpenSSL's X509_V_ERR_… numbers (x509_vfy.h): not yet valid and expired; host, e-mail, IP mismatch.
_EXPIRED = (9, 10)
_OTHER_HOST = (62, 64)


@contextmanager
def mapped(request: HttpRequest, deadline: Deadline) -> Iterator[None]:
    """Httpx's errors as ours; what comes after the deadline is the deadline's doing."""
    try:
        yield
    except (httpx.TimeoutException, TimeoutError) as error:
        raise _late(request, deadline) from error
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, UnicodeError) as error:
        if deadline.remaining <= 0:
            raise _late(request, deadline) from error
        raise _failed(request, error) from error


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
    if isinstance(error, httpx.ProxyError):
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
