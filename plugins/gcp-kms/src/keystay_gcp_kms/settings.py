"""What a `gcpkms:` URI and `[backends.gcpkms]` say together; the URI wins.

| URI and table | means                                                                     |
|---------------|---------------------------------------------------------------------------|
| `transport`   | `grpc` (default) or `rest`, for networks that let only HTTP/1.1 through   |
| `endpoint`    | `HOST` or `HOST:PORT` instead of cloudkms.googleapis.com                  |
| `protection`  | of keys that are generated: `software` (default) or `hsm`                 |

In the table only: `attestation_roots`, a PEM file of the certificates that are trusted to vouch for
HSMs (the manufacturer's root, Google's), so that an HSM's attestation can be verified.

An endpoint that is a loopback *address* is an emulator: it is spoken to in the clear and without
credentials. Every other gets TLS and Google's Application Default Credentials.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from keystay.errors import ConfigurationError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystay.key_uri import KeyURI

__all__ = ["Settings"]

_QUERY = ("transport", "endpoint", "protection")
_KNOWN = (*_QUERY, "attestation_roots")
_TABLE = "[backends.gcpkms]"
_ENDPOINT = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::(?P<port>\d{1,5}))?\Z"
)
_GOOGLE = ".googleapis.com"
_UNIVERSE = "GOOGLE_CLOUD_UNIVERSE_DOMAIN"  # of partners who run Google's software themselves


@dataclass(frozen=True, slots=True)
class Settings:
    """How to reach Google Cloud KMS.

    Attributes:
        transport: `grpc` or `rest`.
        endpoint: `HOST` or `HOST:PORT`, or None for Google's own.
        protection: `software` or `hsm`, for new keys.
        attestation_roots: PEM file of roots for attestations, or None.
    """

    transport: Literal["grpc", "rest"] = "grpc"
    endpoint: str | None = None
    protection: Literal["software", "hsm"] = "software"
    attestation_roots: str | None = None

    @classmethod
    def read(cls, uri: KeyURI, table: Mapping[str, object]) -> Settings:
        """Read both.

        Raises:
            KeyURIError: The URI holds something unknown or unusable.
            ConfigurationError: The table does.
        """
        uri.require_known(query=_QUERY)
        for name in table:
            if name not in _KNOWN:
                raise ConfigurationError(
                    f"{_TABLE} has no setting called {name!r}.", hint=did_you_mean(name, _KNOWN)
                )
        transport = _choice(uri, table, "transport", ("grpc", "rest"))
        protection = _choice(uri, table, "protection", ("software", "hsm"))
        return cls(
            cast(Literal["grpc", "rest"], transport),
            _endpoint(uri, table),
            cast(Literal["software", "hsm"], protection),
            _path(table, "attestation_roots"),
        )

    @property
    def loopback(self) -> bool:
        """Whether the endpoint is a loopback address, so an emulator."""
        if self.endpoint is None:
            return False
        host = _host(self.endpoint)
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    @property
    def host(self) -> str:
        """The host name that is asked, as Google's library chooses it where nobody names one."""
        if self.endpoint is not None:
            return _host(self.endpoint)
        return f"cloudkms.{os.environ.get(_UNIVERSE, _GOOGLE[1:])}"

    @property
    def is_google(self) -> bool:
        """Whether TLS makes sure that Google answers."""
        return self.host.lower().endswith(_GOOGLE)


def _choice(uri: KeyURI, table: Mapping[str, object], name: str, allowed: tuple[str, ...]) -> str:
    given = uri.query.get(name)
    value = table.get(name, allowed[0]) if given is None else given
    if isinstance(value, str) and value in allowed:
        return value
    hint = f"Write {' or '.join(allowed)}."
    if given is not None:
        uri.fault(name, f"{name} is {given!r}.", hint=hint)
    raise ConfigurationError(f"{_TABLE} {name} is {value!r}.", hint=hint)


def _endpoint(uri: KeyURI, table: Mapping[str, object]) -> str | None:
    given = uri.query.get("endpoint")
    value = table.get("endpoint") if given is None else given
    if value is None:
        return None
    found = _ENDPOINT.match(value) if isinstance(value, str) else None
    if isinstance(value, str) and found and 0 < int(found["port"] or 443) < 1 << 16:
        return value
    hint = "Write HOST or HOST:PORT, without https:// and without a path."
    if given is not None:
        uri.fault("endpoint", f"endpoint is {given!r}.", hint=hint)
    raise ConfigurationError(f"{_TABLE} endpoint is {value!r}.", hint=hint)


def _path(table: Mapping[str, object], name: str) -> str | None:
    value = table.get(name)
    if value is None or (isinstance(value, str) and value):
        return value
    raise ConfigurationError(
        f"{_TABLE} {name} is {value!r}.", hint=f'Write {name} = "/etc/keystay/hsm-roots.pem".'
    )


def _host(endpoint: str) -> str:
    found = _ENDPOINT.match(endpoint)
    return found["host"].strip("[]") if found else ""
