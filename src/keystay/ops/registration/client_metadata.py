"""What a client says of itself when it registers (RFC 7591 §2), and what the server made of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from keystay.errors import ConfigurationError, JWKError
from keystay.jwk import JWKSet, thumbprint
from keystay.smart.scopes import missing_scopes

__all__ = [
    "Difference",
    "backend_services",
    "changed",
    "differences",
    "shortcomings",
    "without_secrets",
]

# Members a client does not choose (RFC 7591 §3.2.1, RFC 7592 §3), or that keystay sets itself.
_NOT_ASKED_FOR = frozenset(
    (
        "client_id",
        "client_id_issued_at",
        "client_secret",
        "client_secret_expires_at",
        "registration_access_token",
        "registration_client_uri",
    )
)
_KEYS = frozenset(("jwks", "jwks_uri"))
_LONGEST_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Difference:
    """A member the server registered otherwise than it was asked to.

    Attributes:
        name: The metadata member, such as `scope`.
        asked: What was asked for.
        granted: What the server answered; None when it does not mention it.
    """

    name: str
    asked: Any
    granted: Any

    def __str__(self) -> str:
        granted = "not mentioned" if self.granted is None else f"granted {_shown(self.granted)}"
        return f"{self.name}: asked for {_shown(self.asked)}, {granted}"


def backend_services(
    keys: JWKSet,
    *,
    jwks_uri: str | None = None,
    scope: str,
    client_name: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The metadata of a SMART Backend Services client.

    `response_types` is empty because left out it means `["code"]` (RFC 7591 §2);
    `redirect_uris` is left out, since there is no redirect. The signing algorithm is named when
    all keys have the same.

    Args:
        keys: The public keys, the successor's included where there is one.
        jwks_uri: Where they are published; registered instead of the keys themselves.
        scope: Scopes, separated by blanks.
        client_name: What the server's administrators see.
        extra: Further members; these replace the defaults above, None leaves one out.

    Raises:
        ConfigurationError: `extra` names what a client does not choose, or keys; or is not JSON.
        JWKError: There is no key.
    """
    if not len(keys):
        raise JWKError("There is no key to register.", hint="Hand in the signer of the client.")
    algorithms = {key.get("alg") for key in keys}
    metadata: dict[str, Any] = {
        "client_name": client_name,
        "grant_types": ["client_credentials"],
        "response_types": [],
        "token_endpoint_auth_method": "private_key_jwt",
        "token_endpoint_auth_signing_alg": algorithms.pop() if len(algorithms) == 1 else None,
        "scope": scope,
        **_checked(extra or {}),
    }
    metadata |= {"jwks": keys.to_dict()} if jwks_uri is None else {"jwks_uri": jwks_uri}
    return {name: value for name, value in metadata.items() if value is not None}


def changed(metadata: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata with changes, ready to be sent: a client has its keys in one place (RFC 7591 §2).

    Args:
        metadata: As registered.
        changes: Members to set; None removes one. `jwks` and `jwks_uri` replace each other.

    Raises:
        ConfigurationError: `changes` names what a client does not choose, or is not JSON.
        JWKError: `jwks` is no set to publish: a key in it is private, say.
    """
    _refuse_unsuitable(changes)
    if (jwks := changes.get("jwks")) is not None:
        JWKSet.from_json(json.dumps(jwks))
    result = {**metadata, **changes}
    for name, other in (("jwks", "jwks_uri"), ("jwks_uri", "jwks")):
        if changes.get(name) is not None and changes.get(other) is None:
            result.pop(other, None)
    return {name: value for name, value in result.items() if value is not None}


def _checked(extra: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in extra:
        if name in _KEYS:
            raise ConfigurationError(
                f"The metadata holds {name!r}.",
                cause="Keys registered by hand may be others than those that sign.",
                hint="Leave it out: keystay registers the client's own keys, or their URL.",
            )
    _refuse_unsuitable(extra)
    return extra


def _refuse_unsuitable(extra: Mapping[str, Any]) -> None:
    for name in extra:
        if name in _NOT_ASKED_FOR:
            raise ConfigurationError(
                f"The metadata member {name!r} is the server's to give.", hint="Leave it out."
            )
    try:
        json.dumps(extra, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise ConfigurationError(
            "The metadata cannot be written as JSON.",
            hint="Use strings, numbers, lists and objects (RFC 7591 §2).",
        ) from None


def without_secrets(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A server's answer without secrets and tokens, and without what is not metadata."""
    return {
        name: value
        for name, value in metadata.items()
        if name not in _NOT_ASKED_FOR and not name.endswith(("_secret", "_token"))
    }


def differences(asked: Mapping[str, Any], granted: Mapping[str, Any]) -> tuple[Difference, ...]:
    """The members that were asked for and are not registered so, in the order asked for.

    Scopes are compared by what they allow, keys by `kid` and thumbprint, lists whatever their
    order.
    """
    return tuple(
        Difference(name, value, granted.get(name))
        for name, value in asked.items()
        if not _same(name, value, granted.get(name))
    )


def shortcomings(granted: Mapping[str, Any]) -> Iterator[str]:
    """What in a server's answer keeps a Backend Services client from getting a token."""
    method = granted.get("token_endpoint_auth_method", "private_key_jwt")
    if method != "private_key_jwt":
        yield (
            f"the server registered token_endpoint_auth_method {_shown(method)}: it will not "
            "accept assertions of this client"
        )
    grants = granted.get("grant_types", ["client_credentials"])
    if not isinstance(grants, list) or "client_credentials" not in grants:
        yield (
            f"the server registered grant_types {_shown(grants)}: it will not grant tokens to this "
            "client itself"
        )
    if granted.get("client_secret"):
        yield (
            "the server issued a client secret, which nobody asked for; it is not shown and not "
            "kept, and keystay has no use for it"
        )


def _same(name: str, asked: Any, granted: Any) -> bool:
    if name == "scope" and isinstance(asked, str) and isinstance(granted, str):
        return not missing_scopes(asked, granted) and not missing_scopes(granted, asked)
    if name == "jwks":
        return _keys(asked) == _keys(granted)
    if isinstance(asked, list) and isinstance(granted, list):
        return sorted(map(json.dumps, asked)) == sorted(map(json.dumps, granted))
    return bool(asked == granted)


def _keys(jwks: Any) -> list[tuple[str, str]] | None:
    """The kid and thumbprint of each key; another key under a known kid is another key."""
    keys = jwks.get("keys") if isinstance(jwks, Mapping) else None
    if not isinstance(keys, list) or not all(isinstance(key, Mapping) for key in keys):
        return None
    return sorted((str(key.get("kid")), _thumbprint(key)) for key in keys)


def _thumbprint(jwk: Mapping[str, Any]) -> str:
    try:
        return thumbprint(jwk)
    except JWKError:
        return "no key"


def _shown(value: Any) -> str:
    """As JSON, which escapes whatever would steer a terminal; of keys, what tells them apart."""
    keys = _keys(value)
    if keys is not None:
        value = [kid if kid == digest else f"{kid} ({digest})" for kid, digest in keys]
    text = json.dumps(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
