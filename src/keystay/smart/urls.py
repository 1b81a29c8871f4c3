"""Which URLs an assertion or a token may travel to."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from keystay.errors import ConfigurationError, KeystayError

__all__ = ["DEFAULT_PORTS", "Origin", "origin_of", "require_base", "require_secure"]

Origin = tuple[str, str, int]
"""Scheme, host in lower case, port."""

DEFAULT_PORTS = {"https": 443, "http": 80}

_PRINTABLE = re.compile(r"[!-~]+\Z")


def require_secure(
    url: str,
    what: str,
    *,
    allow_insecure_loopback: bool = False,
    error: type[KeystayError] = ConfigurationError,
) -> str:
    """Return `url` if it is HTTPS, or plain HTTP to a loopback address where that is allowed.

    Args:
        url: An absolute URL.
        what: What it is, for messages: "The token endpoint".
        allow_insecure_loopback: Allow `http:` to 127.0.0.0/8, ::1 and localhost.
        error: The class to raise: who wrote the URL decides.

    Raises:
        KeystayError: Of class `error`; not a URL, not HTTPS, with user information or a fragment.
    """
    parts = _split(url)
    if parts is None:
        raise error(f"{what} is not an absolute URL.", hint="Write https://host/path.")
    if parts.username is not None or parts.password is not None:
        raise error(
            f"{what} holds user information before an @.",
            hint="Leave it out: keystay authenticates with the assertion.",
        )
    if parts.fragment:
        raise error(f"{what} has a fragment.", hint="Leave out the # and what follows.")
    if parts.scheme == "https":
        return url
    host = parts.hostname or ""
    if parts.scheme == "http" and _is_loopback(host):
        if allow_insecure_loopback:
            return url
        raise error(
            f"{what} is plain HTTP to this machine: {parts.scheme}://{parts.netloc}.",
            cause="Plain HTTP is refused, even to loopback, unless asked for.",
            hint="For a test server on this machine set allow_insecure_loopback = true "
            "(KEYSTAY_ALLOW_INSECURE_LOOPBACK=1).",
            code="url-insecure",
        )
    raise error(
        f"{what} is not HTTPS: {parts.scheme}://{parts.netloc}.",
        cause="Whoever is on the way could take the assertion or the token.",
        hint="Use the https: URL.",
        code="url-insecure",
    )


def require_base(url: str, *, allow_insecure_loopback: bool = False) -> str:
    """Return a FHIR base URL without its trailing slash, if paths can be appended to it.

    Raises:
        ConfigurationError: As `require_secure`, or it has a query.
    """
    what = "The FHIR base URL"
    require_secure(url, what, allow_insecure_loopback=allow_insecure_loopback)
    if "?" in url:
        raise ConfigurationError(
            f"{what} has a query.", hint="Leave out the ? and what follows: https://host/path."
        )
    return url.rstrip("/")


def origin_of(url: str) -> Origin | None:
    """The origin of an absolute URL (RFC 6454 §4), or None when it has none."""
    parts = _split(url)
    if parts is None:
        return None
    port = parts.port or DEFAULT_PORTS[parts.scheme]
    return parts.scheme, (parts.hostname or "").lower(), port


def _split(url: str) -> SplitResult | None:
    """The parts of an absolute HTTP URL in printable ASCII, or None."""
    if not isinstance(url, str) or not _PRINTABLE.match(url):
        return None
    try:
        parts = urlsplit(url)
        usable = parts.scheme in DEFAULT_PORTS and parts.hostname and parts.port != 0
    except ValueError:
        return None
    return parts if usable else None


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
