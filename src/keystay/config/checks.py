"""Values of the right type that still cannot be: found when loading, not at 3 a.m."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from keystay import algorithms, key_uri
from keystay.assertion import DEFAULT_LIFETIME, MAX_LIFETIME
from keystay.config.limits import parse_rate, require_tries, require_window
from keystay.config.models import ClientConfig
from keystay.errors import ConfigurationError, KeystayError
from keystay.smart import scopes, urls, vendors

__all__ = ["faults"]


def faults(client: ClientConfig) -> Iterator[tuple[str, KeystayError]]:
    """Each key of a client whose value cannot be used, with the error that says why."""
    for key, check in _checks(client):
        try:
            check()
        except KeystayError as error:
            yield key, error


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
            client.client_id != "",
            "The client_id is empty.",
            "Use the one registration returned; leave it out until then.",
        ),
    )
    yield "key", partial(key_uri.parse, client.key)
    yield "scope", partial(scopes.normalise, client.scope)
    yield (
        "scope_style",
        partial(scopes.require_style, client.scope_style, discovered=client.token_endpoint is None),
    )
    yield "scope_style", partial(scopes.convert, client.scope, client.scope_style)
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
    yield "store", partial(_check_store, client)
    yield "store_key", partial(_check_store_key, client)
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


def _check_store(client: ClientConfig) -> None:
    if client.store is None:
        return
    _require(
        client.store.removeprefix("file:") not in ("", client.store),
        "The store is not file: and a folder.",
        'Write store = "file:/run/keystay": a folder on this machine.',
    )
    _require(
        client.store_key,
        "store is set and store_key is not.",
        'Make a key: (umask 077; keystay store key > store.key), and set store_key = "file:…".',
    )


def _check_store_key(client: ClientConfig) -> None:
    if client.store_key is None:
        return
    _require(client.store, "store_key is set and store is not.", "Set store too.")
    if not client.store_key.startswith(("file:", "env:", "prompt:", "keyring:")):
        raise ConfigurationError(
            "store_key is no secret reference.",
            cause="The key itself may have been written here.",
            hint='Refer to it: store_key = "file:/run/secrets/store-key", env:NAME or keyring:….',
            code="config-secret",
        )


def _require(condition: object, message: str, hint: str) -> None:
    if not condition:
        raise _invalid(message, hint)


def _invalid(message: str, hint: str) -> ConfigurationError:
    return ConfigurationError(message, hint=hint, code="config-value-invalid")
