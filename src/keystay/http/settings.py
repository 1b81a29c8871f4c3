"""How servers are reached, as regulated networks need it: `[http]` of keystay.toml."""

# No annotations as text: msgspec would compile each of them at every start.

from collections.abc import Iterator
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from keystay.errors import ConfigurationError, KeystayError
from keystay.settings import SecretReference, setting

__all__ = ["HttpSettings"]

_PROXY = 'Write proxy = "http://proxy.example.org:3128".'


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[http]`: how to reach servers, as regulated networks need it."""

    trust: Annotated[
        Literal["bundled", "system"],
        setting(
            "Which CAs to trust: `bundled`, those of certifi, or `system`, the operating system's."
        ),
    ] = "bundled"
    ca_bundle: Annotated[
        str | None,
        setting(
            "PEM file of the only CAs to trust, instead of those.",
            example='"/etc/ssl/hospital-ca.pem"',
        ),
    ] = None
    proxy: Annotated[
        str | None,
        setting(
            "Proxy URL without credentials.",
            example='"http://proxy.example.org:3128"',
            default="`HTTPS_PROXY`, `NO_PROXY`",
            is_shown=False,
        ),
    ] = None
    proxy_credentials: Annotated[
        SecretReference | None,
        setting("Reference to `user:password`.", is_secret_reference=True),
    ] = None
    timeout: Annotated[
        float,
        setting(
            "For a whole exchange: discovery, signature, token request.",
            unit="seconds",
            gt=0,
            le=600,
        ),
    ] = 10.0
    user_agent: Annotated[
        str | None,
        setting(
            "The User-Agent header.", example='"hospital-etl/1.0"', default="`keystay/VERSION`"
        ),
    ] = None
    client_cert: Annotated[
        str | None,
        setting(
            "PEM file with a client certificate (mutual TLS), and its key unless `client_key` "
            "names it.",
            example='"/etc/ssl/client.pem"',
        ),
    ] = None
    client_key: Annotated[
        str | None,
        setting("PEM file with the client certificate's key.", example='"/etc/ssl/client.key"'),
    ] = None
    client_key_passphrase: Annotated[
        SecretReference | None,
        setting("Reference to that key's passphrase.", is_secret_reference=True),
    ] = None

    def faults(self) -> Iterator[tuple[str, KeystayError]]:
        """Each setting of the right type that still cannot be used."""
        if self.proxy is not None and (fault := _proxy_fault(self.proxy)):
            yield "proxy", fault
        for key, needed in (
            ("proxy_credentials", "proxy"),
            ("client_key", "client_cert"),
            ("client_key_passphrase", "client_cert"),
        ):
            if getattr(self, key) is not None and getattr(self, needed) is None:
                yield key, _invalid(f"{key} is set and {needed} is not.", f"Set {needed} too.")
        agent = self.user_agent
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
