"""Registering a client with a server, synchronously and asynchronously."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Required, TypedDict, Unpack

from keystay.backends.secrets import Secret, SecretResolver
from keystay.errors import ConfigurationError
from keystay.http.io import run_once, run_once_async
from keystay.jwk import JWKSet, PublicSigner
from keystay.ops.registration.client_metadata import backend_services
from keystay.ops.registration.flow import delete, read, register, update
from keystay.ops.registration.registration import Registration
from keystay.smart.discovery import fetch_configuration, registration_endpoint_of
from keystay.smart.scopes import (
    DEFAULT_SCOPE,
    ScopeStyle,
    advertised_style,
    convert,
    normalise,
    require_style,
)
from keystay.smart.urls import require_secure

if TYPE_CHECKING:
    from keystay.http.io import IO
    from keystay.http.library import AsyncClient, Client
    from keystay.http.settings import HttpSettings

__all__ = [
    "delete_client",
    "delete_client_async",
    "read_client",
    "read_client_async",
    "register_client",
    "register_client_async",
    "update_client",
    "update_client_async",
]


class NewClient(TypedDict, total=False):
    """What registering takes; `register_client` says what each means."""

    keys: Required[JWKSet | Iterable[PublicSigner]]
    jwks_uri: str | None
    scope: str
    scope_style: ScopeStyle
    client_name: str | None
    metadata: Mapping[str, Any] | None
    registration_endpoint: str | None
    initial_token: str | None
    secrets: Callable[[str, str], str | None] | None
    allow_insecure_loopback: bool


def register_client(
    fhir_base_url: str | None = None,
    *,
    http: HttpSettings | Client | None = None,
    timeout: float | None = None,
    **settings: Unpack[NewClient],
) -> Registration:
    """Register a Backend Services client (RFC 7591).

    Args:
        fhir_base_url: The FHIR server's base URL, whose SMART configuration names the
            registration endpoint; needed unless that is given.
        http: How to reach the server, or your own client.
        timeout: Seconds for everything; default that of `http`, else 10.
        **settings: `keys`: the client's signer and, where there is one, its successor, or a
            `JWKSet`. `jwks_uri`: where they are published; registered instead of the keys
            themselves. `scope`: default `system/*.rs`. `scope_style`: see `TokenClient`.
            `client_name`: what the server's administrators see. `metadata`: further members.
            `registration_endpoint`: skips discovery. `initial_token`: secret reference to the
            initial access token; `secrets`: a callable that answers instead, as for
            `open_signer`. `allow_insecure_loopback`: allow plain HTTP to this machine.

    Returns:
        The client_id, what was registered otherwise than asked, and the management token, which
        does not show itself: `to_json()` has it, for a place only its owner can read.

    Raises:
        RegistrationError: The server refused; see `keystay.errors`.
        ConfigurationError, DiscoveryError, NetworkError: See `keystay.errors`.
    """
    return run_once(http, timeout, _NewClient(fhir_base_url, settings).register)


async def register_client_async(
    fhir_base_url: str | None = None,
    *,
    http: HttpSettings | AsyncClient | None = None,
    timeout: float | None = None,
    **settings: Unpack[NewClient],
) -> Registration:
    """As `register_client`, for asyncio and trio."""
    return await run_once_async(http, timeout, _NewClient(fhir_base_url, settings).register)


def read_client(
    registration: Registration,
    *,
    allow_insecure_loopback: bool = False,
    http: HttpSettings | Client | None = None,
    timeout: float | None = None,
) -> Registration:
    """Ask the server what is registered now (RFC 7592 §2.1).

    Args:
        registration: As `register_client` returned it, or `Registration.from_json`.
        allow_insecure_loopback: Allow plain HTTP to this machine.
        http: How to reach the server, or your own client.
        timeout: Seconds; default that of `http`, else 10.

    Returns:
        The registration, with the management token to use from now on, and the differences to
        what was known.

    Raises:
        RegistrationError: The server refused.
        ConfigurationError: It gave no way to manage the registration, or one at another origin.
        NetworkError: See `keystay.errors`.
    """
    return run_once(
        http, timeout, read, registration, allow_insecure_loopback=allow_insecure_loopback
    )


async def read_client_async(
    registration: Registration,
    *,
    allow_insecure_loopback: bool = False,
    http: HttpSettings | AsyncClient | None = None,
    timeout: float | None = None,
) -> Registration:
    """As `read_client`, for asyncio and trio."""
    return await run_once_async(
        http, timeout, read, registration, allow_insecure_loopback=allow_insecure_loopback
    )


def update_client(
    registration: Registration,
    changes: Mapping[str, Any],
    *,
    allow_insecure_loopback: bool = False,
    http: HttpSettings | Client | None = None,
    timeout: float | None = None,
) -> Registration:
    """Change what is registered (RFC 7592 §2.2).

    Args:
        registration: As `read_client` returned it: the server drops what is not sent again.
        changes: Metadata members to set; None removes one. `jwks` and `jwks_uri` replace each
            other.
        allow_insecure_loopback: As for `read_client`.
        http: As for `read_client`.
        timeout: As for `read_client`.

    Returns:
        The registration, with the management token to use from now on.

    Raises:
        KeystayError: As `read_client`.
    """
    return run_once(
        http,
        timeout,
        update,
        registration,
        changes,
        allow_insecure_loopback=allow_insecure_loopback,
    )


async def update_client_async(
    registration: Registration,
    changes: Mapping[str, Any],
    *,
    allow_insecure_loopback: bool = False,
    http: HttpSettings | AsyncClient | None = None,
    timeout: float | None = None,
) -> Registration:
    """As `update_client`, for asyncio and trio."""
    return await run_once_async(
        http,
        timeout,
        update,
        registration,
        changes,
        allow_insecure_loopback=allow_insecure_loopback,
    )


def delete_client(
    registration: Registration,
    *,
    allow_insecure_loopback: bool = False,
    http: HttpSettings | Client | None = None,
    timeout: float | None = None,
) -> None:
    """Delete the client at the server (RFC 7592 §2.3).

    Args:
        registration: As for `read_client`.
        allow_insecure_loopback: As for `read_client`.
        http: As for `read_client`.
        timeout: As for `read_client`.

    Raises:
        KeystayError: As `read_client`.
    """
    run_once(http, timeout, delete, registration, allow_insecure_loopback=allow_insecure_loopback)


async def delete_client_async(
    registration: Registration,
    *,
    allow_insecure_loopback: bool = False,
    http: HttpSettings | AsyncClient | None = None,
    timeout: float | None = None,
) -> None:
    """As `delete_client`, for asyncio and trio."""
    await run_once_async(
        http, timeout, delete, registration, allow_insecure_loopback=allow_insecure_loopback
    )


class _NewClient:
    """A registration whose arguments were checked before anything is sent."""

    def __init__(self, fhir_base_url: str | None, settings: NewClient) -> None:
        self._insecure = settings.get("allow_insecure_loopback", False)
        self._base, self._endpoint = fhir_base_url, settings.get("registration_endpoint")
        if self._base is None and self._endpoint is None:
            raise ConfigurationError(
                "Neither the FHIR base URL nor the registration endpoint is given.",
                hint="Give the FHIR base URL: the server's SMART configuration names the endpoint.",
            )
        if self._endpoint is not None:
            self._secure(self._endpoint, "The registration endpoint")
        jwks_uri = settings.get("jwks_uri")
        if jwks_uri is not None:
            self._secure(jwks_uri, "The JWKS URL")
        self._style = require_style(
            settings.get("scope_style", "as-written"), discovered=self._endpoint is None
        )
        self._scope = normalise(settings.get("scope", DEFAULT_SCOPE))
        keys = settings["keys"]
        self._metadata = backend_services(
            keys if isinstance(keys, JWKSet) else JWKSet.from_signers(keys),
            jwks_uri=jwks_uri,
            scope=self._scope,
            client_name=settings.get("client_name"),
            extra=settings.get("metadata"),
        )
        self._token: Secret | None = SecretResolver(settings.get("secrets")).resolve(
            settings.get("initial_token"), "the initial access token"
        )

    async def register(self, io: IO) -> Registration:
        """Find the endpoint and register there."""
        endpoint, style = self._endpoint, self._style
        if endpoint is None:
            found = await fetch_configuration(
                io, self._base or "", allow_insecure_loopback=self._insecure
            )
            endpoint = registration_endpoint_of(found)
            if style == "auto":
                style = advertised_style(found.capabilities)
        metadata = {**self._metadata, "scope": convert(self._metadata["scope"], style)}
        return await register(
            io, endpoint, metadata, self._token, allow_insecure_loopback=self._insecure
        )

    def _secure(self, url: str, what: str) -> None:
        require_secure(url, what, allow_insecure_loopback=self._insecure)
