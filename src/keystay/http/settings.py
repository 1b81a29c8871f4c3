"""How servers are reached, as regulated networks need it: `[http]` of keystay.toml."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from keystay.errors import ConfigurationError, KeystayError

__all__ = ["HttpSettings", "http_faults"]

_MAX_TIMEOUT = 600
_PROXY = 'Write proxy = "http://proxy.example.org:3128".'


class HttpSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[http]`: how to reach servers, as regulated networks need it.

    Attributes:
        trust: Which CAs to trust: `bundled`, those of `certifi`, or `system`, the operating
            system's.
        ca_bundle: PEM file of the only CAs to trust, instead of either.
        proxy: Proxy URL, without credentials; default what HTTPS_PROXY and NO_PROXY say.
        proxy_credentials: Secret reference to `user:password`.
        timeout: Seconds for a whole exchange: discovery, signature, token request.
        user_agent: Default `keystay/<version>`.
        client_cert: PEM file with a client certificate (mutual TLS), and its key unless
            `client_key` names it.
        client_key: PEM file with the client certificate's key.
        client_key_passphrase: Secret reference.
    """

    trust: Literal["bundled", "system"] = "bundled"
    ca_bundle: str | None = None
    proxy: str | None = None
    proxy_credentials: str | None = None
    timeout: float = 10.0
    user_agent: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    client_key_passphrase: str | None = None


def http_faults(http: HttpSettings) -> Iterator[tuple[str, KeystayError]]:
    """Each setting whose value cannot be used, with the error that says why."""
    if not 0 < http.timeout <= _MAX_TIMEOUT:
        yield (
            "timeout",
            _invalid(
                f"The timeout is not between 0 and {_MAX_TIMEOUT} seconds.",
                "Write seconds for a whole exchange: timeout = 10.",
            ),
        )
    if http.proxy is not None and (fault := _proxy_fault(http.proxy)):
        yield "proxy", fault
    for key, needed in (
        ("proxy_credentials", "proxy"),
        ("client_key", "client_cert"),
        ("client_key_passphrase", "client_cert"),
    ):
        if getattr(http, key) is not None and getattr(http, needed) is None:
            yield key, _invalid(f"{key} is set and {needed} is not.", f"Set {needed} too.")
    agent = http.user_agent
    if agent is not None and not (agent.strip() and agent.isascii() and agent.isprintable()):
        yield (
            "user_agent",
            _invalid("The user agent is not printable ASCII.", 'Write "hospital-etl/1.0".'),
        )


def _proxy_fault(proxy: str) -> ConfigurationError | None:
    try:
        parts = urlsplit(proxy)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        return _invalid("The proxy is not a URL that can be used.", _PROXY)
    if parts.username is not None or parts.password is not None:
        return ConfigurationError(
            "The proxy URL holds credentials.",
            hint="Leave them out and set proxy_credentials to a reference: "
            'proxy_credentials = "file:/run/secrets/proxy" with user:password in it.',
            code="proxy-secret",
        )
    return None if usable else _invalid("The proxy is not an http:// or https:// URL.", _PROXY)


def _invalid(message: str, hint: str) -> ConfigurationError:
    return ConfigurationError(message, hint=hint, code="config-value-invalid")
