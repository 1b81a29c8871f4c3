"""What a `gcpkms:` URI and `[backends.gcpkms]` say together; the URI wins.

In the URI: `transport`, `endpoint`, `protection`.

An endpoint that is a loopback *address* is an emulator: it is spoken to in the clear and without
credentials. Every other gets TLS and Google's Application Default Credentials.
"""

from __future__ import annotations

import ipaddress
import os
import re
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from keystay.errors import ConfigurationError, KeystayError
from keystay.settings import read_plugin_table, setting

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from keystay.key_uri import KeyURI

__all__ = ["Settings"]

_QUERY = ("transport", "endpoint", "protection")
_ENDPOINT_HINT = "Write HOST or HOST:PORT, without https:// and without a path."
_ENDPOINT = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::(?P<port>\d{1,5}))?\Z"
)
_GOOGLE = ".googleapis.com"
_UNIVERSE = "GOOGLE_CLOUD_UNIVERSE_DOMAIN"  # of partners who run Google's software themselves


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach Google Cloud KMS: `[backends.gcpkms]`, and what the URI says instead."""

    transport: Annotated[
        Literal["grpc", "rest"],
        setting("`rest` is for networks that let only HTTP/1.1 through."),
    ] = "grpc"
    endpoint: Annotated[
        str | None,
        setting(
            "`HOST` or `HOST:PORT` instead of cloudkms.googleapis.com.",
            example='"cloudkms-eu.example.org"',
        ),
    ] = None
    protection: Annotated[
        Literal["software", "hsm"], setting("Protection level of keys that are generated.")
    ] = "software"
    attestation_roots: Annotated[
        str | None,
        setting(
            "PEM file of the certificates that are trusted to vouch for HSMs (the manufacturer's "
            "root, Google's), so that an HSM's attestation can be verified.",
            example='"/etc/keystay/hsm-roots.pem"',
        ),
    ] = None

    @classmethod
    def read(cls, uri: KeyURI, values: Mapping[str, object]) -> Settings:
        """Read both.

        Raises:
            KeyURIError: The URI holds something unknown or unusable.
            ConfigurationError: The table does.
        """
        uri.require_known(query=_QUERY)
        table = read_plugin_table(cls, values, "backends.gcpkms", without=uri.query)
        for name, allowed in (("transport", ("grpc", "rest")), ("protection", ("software", "hsm"))):
            if (given := uri.query.get(name)) is not None and given not in allowed:
                uri.fault(name, f"{name} is {given!r}.", hint=f"Write {' or '.join(allowed)}.")
        endpoint = uri.query.get("endpoint")
        if endpoint is not None and not _is_endpoint(endpoint):
            uri.fault("endpoint", f"endpoint is {endpoint!r}.", hint=_ENDPOINT_HINT)
        return msgspec.structs.replace(table, **uri.query)

    def faults(self) -> Iterator[tuple[str, KeystayError]]:
        """Each setting of the right type that still cannot be used."""
        if self.endpoint is not None and not _is_endpoint(self.endpoint):
            yield "endpoint", ConfigurationError("It is no endpoint.", hint=_ENDPOINT_HINT)
        if self.attestation_roots == "":
            yield "attestation_roots", ConfigurationError("It is empty.", hint="Leave it out.")

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


def _is_endpoint(value: str) -> bool:
    found = _ENDPOINT.match(value)
    return bool(found and 0 < int(found["port"] or 443) < 1 << 16)


def _host(endpoint: str) -> str:
    found = _ENDPOINT.match(endpoint)
    return found["host"].strip("[]") if found else ""
