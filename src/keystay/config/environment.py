"""The client that environment variables describe."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from keystay.config.checks import faults
from keystay.config.models import ClientConfig
from keystay.errors import ConfigurationError

__all__ = ["client_from"]

_CLIENT_VARIABLES = {
    "KEYSTAY_FHIR_BASE_URL": "fhir_base_url",
    "KEYSTAY_CLIENT_ID": "client_id",
    "KEYSTAY_KEY": "key",
    "KEYSTAY_SCOPE": "scope",
    "KEYSTAY_SCOPE_STYLE": "scope_style",
    "KEYSTAY_ALGORITHM": "algorithm",
    "KEYSTAY_KID": "kid",
    "KEYSTAY_JWKS_URL": "jwks_url",
    "KEYSTAY_TOKEN_ENDPOINT": "token_endpoint",
    "KEYSTAY_STORE": "store",
    "KEYSTAY_STORE_KEY": "store_key",
    "KEYSTAY_ALLOW_INSECURE_LOOPBACK": "allow_insecure_loopback",
}
_OTHER_VARIABLES = ("KEYSTAY_CONFIG",)


def client_from(environ: Mapping[str, str]) -> ClientConfig | None:
    """The client that KEYSTAY_… variables describe, or None.

    Raises:
        ConfigurationError: They describe half a client, or one is misspelt.
    """
    known = (*_CLIENT_VARIABLES, *_OTHER_VARIABLES)
    for name in environ:
        if name.startswith("KEYSTAY_") and name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
            if close:
                raise ConfigurationError(
                    f"The environment variable {name} is not known.",
                    hint=f"Did you mean {close[0]}?",
                    code="environment-unknown",
                )
    values: dict[str, Any] = {
        key: environ[variable] for variable, key in _CLIENT_VARIABLES.items() if variable in environ
    }
    if not values:
        return None
    for variable, key in _CLIENT_VARIABLES.items():
        needed = key in ("fhir_base_url", "key") or (key == "client_id" and key in values)
        if needed and not values.get(key):
            raise ConfigurationError(
                f"The environment describes a client, and {variable} is not set.",
                hint="KEYSTAY_FHIR_BASE_URL, KEYSTAY_CLIENT_ID and KEYSTAY_KEY belong together; "
                "only a client that is not registered yet has no KEYSTAY_CLIENT_ID.",
                code="environment-incomplete",
            )
    if "allow_insecure_loopback" in values:
        flag = values["allow_insecure_loopback"]
        if flag not in ("0", "1", "true", "false"):
            raise ConfigurationError(
                "KEYSTAY_ALLOW_INSECURE_LOOPBACK is neither 0 nor 1.",
                hint="Set it to 1 for a test server on this machine, else leave it unset.",
                code="environment-invalid",
            )
        values["allow_insecure_loopback"] = flag in ("1", "true")
    client = ClientConfig(**values)
    variables = {key: variable for variable, key in _CLIENT_VARIABLES.items()}
    for key, error in faults(client):
        raise ConfigurationError(
            f"{variables[key]}: {error.message}",
            cause=error.cause,
            hint=error.hint,
            code=error.code,
        )
    return client
