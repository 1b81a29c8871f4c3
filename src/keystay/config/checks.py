"""Values of the right type that still cannot be: found when loading, not at 3 a.m."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from urllib.parse import urlsplit

from keystay import algorithms, key_uri
from keystay.assertion import DEFAULT_LIFETIME, MAX_LIFETIME
from keystay.config.limits import parse_rate, require_tries, require_window
from keystay.config.models import ClientConfig, HttpSettings
from keystay.errors import ConfigurationError, KeystayError
from keystay.smart import scopes, urls, vendors

__all__ = ["faults", "http_faults"]

_MAX_TIMEOUT = 600
_PROXY = 'Write proxy = "http://proxy.example.org:3128".'


def faults(client: ClientConfig) -> Iterator[tuple[str, KeystayError]]:
    """Each key of a client whose value cannot be used, with the error that says why."""
    for key, check in _checks(client):
        try:
            check()
        except KeystayError as error:
            yield key, error


def http_faults(http: HttpSettings) -> Iterator[tuple[str, KeystayError]]:
    """As `faults`, for how servers are reached."""
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


def _checks(client: ClientConfig) -> Iterator[tuple[str, Callable[[], object]]]:
    secure = partial(urls.require_secure, allow_insecure_loopback=client.allow_insecure_loopback)
    yield (
        "fhir_base_url",
        partial(
            urls.require_base,
            client.fhir_base_url,
            allow_insecure_loopback=client.allow_insecure_loopback,
        ),
    )
    if client.token_endpoint is not None:
        yield "token_endpoint", partial(secure, client.token_endpoint, "The token endpoint")
    if client.jwks_url is not None:
        yield "jwks_url", partial(secure, client.jwks_url, "The JWKS URL")
    for origin in client.allowed_origins:
        yield "allowed_origins", partial(secure, origin, "An allowed origin")
    yield (
        "client_id",
        partial(
            _require,
            client.client_id,
            "The client_id is empty.",
            "Use the one registration returned.",
        ),
    )
    yield "key", partial(key_uri.parse, client.key)
    yield "scope", partial(scopes.normalise, client.scope)
    if client.algorithm is not None:
        yield "algorithm", partial(algorithms.get, client.algorithm)
    if client.kid is not None:
        yield (
            "kid",
            partial(
                _require,
                client.kid,
                "The kid is empty.",
                "Leave it out: the default is the thumbprint.",
            ),
        )
    yield "vendor", partial(vendors.vendor_of, client.fhir_base_url, client.vendor)
    yield (
        "assertion_lifetime",
        partial(
            _require,
            1 <= client.assertion_lifetime <= MAX_LIFETIME,
            f"The assertion lifetime is not between 1 and {MAX_LIFETIME} seconds.",
            f"Leave it at {DEFAULT_LIFETIME}: that leaves room for clocks that differ.",
        ),
    )
    yield "renewal_window", partial(require_window, client.renewal_window)
    yield "retries", partial(require_tries, client.retries, "retries")
    yield "signer_retries", partial(require_tries, client.signer_retries, "signer_retries")
    if client.rate_limit is not None:
        yield "rate_limit", partial(parse_rate, client.rate_limit)


def _require(condition: object, message: str, hint: str) -> None:
    if not condition:
        raise _invalid(message, hint)


def _invalid(message: str, hint: str) -> ConfigurationError:
    return ConfigurationError(message, hint=hint, code="config-value-invalid")
