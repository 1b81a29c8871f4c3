"""Values of the right type that still cannot be: found when loading, not at 3 a.m."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from keystay import algorithms, key_uri
from keystay.assertion import MAX_LIFETIME
from keystay.config.models import ClientConfig
from keystay.errors import ConfigurationError, KeystayError
from keystay.smart import scopes, urls

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
    yield "fhir_base_url", partial(secure, client.fhir_base_url, "The FHIR base URL")
    if client.token_endpoint is not None:
        yield "token_endpoint", partial(secure, client.token_endpoint, "The token endpoint")
    if client.jwks_url is not None:
        yield "jwks_url", partial(secure, client.jwks_url, "The JWKS URL")
    for origin in client.allowed_origins:
        yield "allowed_origins", partial(secure, origin, "An allowed origin")
    yield "client_id", partial(_require, client.client_id, "The client_id is empty.")
    yield "key", partial(key_uri.parse, client.key)
    yield "scope", partial(scopes.normalise, client.scope)
    if client.algorithm is not None:
        yield "algorithm", partial(algorithms.get, client.algorithm)
    if client.kid is not None:
        yield "kid", partial(_require, client.kid, "The kid is empty.")
    yield (
        "assertion_lifetime",
        partial(
            _require,
            1 <= client.assertion_lifetime <= MAX_LIFETIME,
            f"The assertion lifetime is not between 1 and {MAX_LIFETIME} seconds.",
        ),
    )


def _require(condition: object, message: str) -> None:
    if not condition:
        raise ConfigurationError(message, code="config-value-invalid")
