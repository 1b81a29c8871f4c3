"""A client as an authorization server registered it, and the right to change that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from keystay.backends.secrets import Secret
from keystay.errors import ConfigurationError
from keystay.ops.registration.client_metadata import Difference
from keystay.smart.urls import origin_of, require_secure

__all__ = ["Registration"]

_VERSION = 1
_MANAGEMENT = "The registration_client_uri"


@dataclass(frozen=True, slots=True)
class Registration:
    """What came of registering a client (RFC 7591 §3.2.1).

    Nothing secret is in its repr, and it is not pickled while it holds a token.

    Attributes:
        client_id: Goes into keystay.toml.
        registration_endpoint: Where it was registered.
        metadata: As the server registered it, without secrets.
        registration_client_uri: Where the registration is read, changed and deleted (RFC 7592);
            None when the server does not offer that.
        registration_access_token: The management token: who has it can replace the client's keys.
        differences: What was registered otherwise than asked.
        warnings: What else the reader should know.
    """

    client_id: str
    registration_endpoint: str
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
    registration_client_uri: str | None = None
    registration_access_token: Secret | None = field(default=None, repr=False)
    differences: tuple[Difference, ...] = ()
    warnings: tuple[str, ...] = ()

    def management(self, *, allow_insecure_loopback: bool = False) -> tuple[str, Secret]:
        """Where to manage the registration, and the token for it.

        The token goes to the origin of the registration endpoint and to no other: whoever has it
        can put their own key in the client's place.

        Args:
            allow_insecure_loopback: Allow plain HTTP to this machine.

        Raises:
            ConfigurationError: The server gave no URI or token, or a URI at another origin.
        """
        uri, token = self.registration_client_uri, self.registration_access_token
        if uri is None or token is None:
            raise ConfigurationError(
                f"The registration of {self.client_id!r} cannot be read, changed or deleted.",
                cause="The server gave no registration_client_uri, or no token for it.",
                hint="Change it in the vendor's portal.",
                code="registration-unmanaged",
            )
        require_secure(uri, _MANAGEMENT, allow_insecure_loopback=allow_insecure_loopback)
        if origin_of(uri) != origin_of(self.registration_endpoint):
            raise ConfigurationError(
                f"{_MANAGEMENT} {uri} is not at the origin of {self.registration_endpoint}.",
                cause="The server is misconfigured, or somebody wants the management token sent "
                "elsewhere.",
                hint="Ask the vendor. keystay sends the token to the origin it registered at only.",
                code="registration-uri-origin",
            )
        return uri, token

    def to_json(self) -> str:
        """Everything, the management token included, for a place that only its owner can read."""
        token = self.registration_access_token
        document = {
            "version": _VERSION,
            "client_id": self.client_id,
            "registration_endpoint": self.registration_endpoint,
            "registration_client_uri": self.registration_client_uri,
            "registration_access_token": token and token.reveal(),
            "metadata": dict(self.metadata),
        }
        return json.dumps(document, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Registration:
        """What `to_json` wrote.

        Raises:
            ConfigurationError: It is not that.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict) or document.get("version") != _VERSION:
            raise _not_one("it is not JSON with version 1")
        texts = ("client_id", "registration_endpoint")
        optional = ("registration_client_uri", "registration_access_token")
        for name in (*texts, *optional):
            value = document.get(name)
            if not (isinstance(value, str) and value) and not (name in optional and value is None):
                raise _not_one(f"{name} is missing or not text")
        metadata = document.get("metadata")
        if not isinstance(metadata, dict):
            raise _not_one("metadata is missing or not an object")
        token = document.get("registration_access_token")
        return cls(
            document["client_id"],
            document["registration_endpoint"],
            metadata,
            document.get("registration_client_uri"),
            None if token is None else Secret(token),
        )

    def renewed(self, **changes: Any) -> Registration:
        """The same with changes; a token and a URI that are None stay as they were."""
        kept = ("registration_client_uri", "registration_access_token")
        return replace(self, **{n: v for n, v in changes.items() if not (n in kept and v is None)})


def _not_one(why: str) -> ConfigurationError:
    return ConfigurationError(
        f"This is not a saved registration: {why}.",
        hint="Name the file that keystay register --save wrote.",
        code="registration-file-invalid",
    )
