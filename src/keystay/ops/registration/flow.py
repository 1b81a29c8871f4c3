"""The requests that register a client and manage that (RFC 7591 and RFC 7592)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from keystay.backends.secrets import Secret
from keystay.errors import (
    ConfigurationError,
    NetworkError,
    RegistrationResponseError,
    SecretError,
)
from keystay.http.messages import HttpRequest, HttpResponse
from keystay.http.server_text import correlation_id
from keystay.ops.registration.client_metadata import (
    changed,
    differences,
    shortcomings,
    without_secrets,
)
from keystay.ops.registration.refusal import refused
from keystay.ops.registration.registration import Registration
from keystay.smart.urls import require_secure

if TYPE_CHECKING:
    from keystay.http.io import IO

__all__ = ["delete", "read", "register", "update"]

# With these there was no connection that the request could have been sent over.
_NEVER_SENT = frozenset(
    (
        "network-dns",
        "network-proxy",
        "network-refused",
        "tls-expired",
        "tls-failed",
        "tls-untrusted",
        "tls-wrong-host",
    )
)
# What may stand in a header; RFC 6750 §2.1 allows less, servers issue more.
_WORD = re.compile(r"[\x21-\x7e]+\Z")


async def register(
    io: IO,
    endpoint: str,
    metadata: Mapping[str, Any],
    initial_token: Secret | None,
    *,
    allow_insecure_loopback: bool = False,
) -> Registration:
    """Register a client; sent once, since a second time would make a second client.

    Args:
        io: Sends the request.
        endpoint: An absolute URL, checked.
        metadata: As `backend_services` makes it.
        initial_token: Authorises the registration, where the server wants that.
        allow_insecure_loopback: Allow plain HTTP to this machine.

    Raises:
        RegistrationError: The server refused.
        RegistrationResponseError: It answered in a form that cannot be used.
        NetworkError: It redirects.
    """
    request = _request("POST", endpoint, "the registration request", initial_token, metadata)
    response = await _sent(
        io,
        request,
        "The server may have registered the client all the same: look in its console.",
    )
    document = _document(request, response, initial_token, managing=False)
    blank = Registration("", endpoint)
    found = _registered(request, response, document, blank, metadata)
    if found.registration_access_token is not None or found.registration_client_uri is not None:
        try:
            found.management(allow_insecure_loopback=allow_insecure_loopback)
        except ConfigurationError as error:
            found = replace(found, warnings=(*found.warnings, error.message))
    return found


async def read(
    io: IO, registration: Registration, *, allow_insecure_loopback: bool = False
) -> Registration:
    """Ask what is registered now; `differences` are those to what was known.

    Raises:
        RegistrationError, RegistrationResponseError, NetworkError: As `register`.
        ConfigurationError: The registration cannot be managed.
    """
    url, token = registration.management(allow_insecure_loopback=allow_insecure_loopback)
    request = _request("GET", url, "the request for the registration", token)
    response = await io.send(request)
    document = _document(request, response, token, managing=True)
    return _registered(request, response, document, registration, registration.metadata)


async def update(
    io: IO,
    registration: Registration,
    changes: Mapping[str, Any],
    *,
    allow_insecure_loopback: bool = False,
) -> Registration:
    """Replace what is registered (RFC 7592 §2.2): the metadata as last known, with changes.

    Args:
        io: Sends the request.
        registration: As last read: a server deletes what is not sent.
        changes: Members to set; None removes one.
        allow_insecure_loopback: Allow plain HTTP to this machine.

    Raises:
        RegistrationError, RegistrationResponseError, NetworkError: As `register`.
        ConfigurationError: The registration cannot be managed, or a change cannot be made.
        JWKError: `jwks` is no set to publish.
    """
    url, token = registration.management(allow_insecure_loopback=allow_insecure_loopback)
    metadata = changed(registration.metadata, changes)
    if (jwks_uri := changes.get("jwks_uri")) is not None:
        require_secure(jwks_uri, "The JWKS URL", allow_insecure_loopback=allow_insecure_loopback)
    body = {**metadata, "client_id": registration.client_id}
    request = _request("PUT", url, "the update request", token, body)
    response = await _sent(
        io,
        request,
        "The server may have made the change, and replaced the management token: read it.",
    )
    document = _document(request, response, token, managing=True)
    return _registered(request, response, document, registration, metadata)


async def delete(
    io: IO, registration: Registration, *, allow_insecure_loopback: bool = False
) -> None:
    """Delete the client at the server (RFC 7592 §2.3); its management token is void after that.

    Raises:
        RegistrationError, NetworkError: As `register`.
        ConfigurationError: The registration cannot be managed.
    """
    url, token = registration.management(allow_insecure_loopback=allow_insecure_loopback)
    request = _request("DELETE", url, "the deletion request", token)
    response = await io.send(request)
    if response.status not in (200, 204):
        raise refused(request, response, token, managing=True)


def _request(
    method: str,
    url: str,
    purpose: str,
    token: Secret | None,
    document: Mapping[str, Any] | None = None,
) -> HttpRequest:
    headers = {"Accept": "application/json"}
    if token is not None:
        if not _WORD.match(token.reveal()):
            raise SecretError(
                f"The token for {purpose} is not one printable word.",
                hint="Check what the reference points to: the token alone, on one line.",
                code="secret-not-a-token",
            )
        headers["Authorization"] = f"Bearer {token.reveal()}"
    if document is None:
        return HttpRequest(method, url, purpose, headers)
    headers["Content-Type"] = "application/json"
    return HttpRequest(method, url, purpose, headers, json.dumps(document).encode())


async def _sent(io: IO, request: HttpRequest, doubt: str) -> HttpResponse:
    """The answer to a request that is not sent twice; without one, what to look at first."""
    try:
        return await io.send(request)
    except NetworkError as error:
        if error.code in _NEVER_SENT:
            raise
        error.hint = f"{doubt} {error.hint or ''}".strip()
        raise


def _document(
    request: HttpRequest, response: HttpResponse, token: Secret | None, *, managing: bool
) -> dict[str, Any]:
    document = response.json_object()
    if response.status not in (200, 201) or (document is not None and document.get("error")):
        raise refused(request, response, token, managing=managing)
    if document is None:
        raise _unusable(request, response, "it is not a JSON object")
    return document


def _registered(
    request: HttpRequest,
    response: HttpResponse,
    document: Mapping[str, Any],
    before: Registration,
    asked: Mapping[str, Any],
) -> Registration:
    client_id = document.get("client_id")
    if not isinstance(client_id, str) or not client_id or not client_id.isprintable():
        raise _unusable(request, response, "client_id is missing or not printable text")
    if before.client_id and client_id != before.client_id:
        raise _unusable(request, response, "it is about another client_id")
    token = document.get("registration_access_token")
    uri = document.get("registration_client_uri")
    granted = without_secrets(document)
    return before.renewed(
        client_id=client_id,
        metadata=granted,
        registration_client_uri=_absolute(before.registration_endpoint, uri),
        registration_access_token=Secret(token) if isinstance(token, str) and token else None,
        differences=differences(asked, granted),
        warnings=tuple(shortcomings(document)),
    )


def _absolute(endpoint: str, uri: object) -> str | None:
    """RFC 7592 §3 wants it fully qualified; a relative one stays at the endpoint's origin."""
    if not isinstance(uri, str) or not uri:
        return None
    try:
        return urljoin(endpoint, uri)
    except ValueError:
        return uri  # kept as it is, and refused when used


def _unusable(request: HttpRequest, response: HttpResponse, why: str) -> RegistrationResponseError:
    return RegistrationResponseError(
        f"The answer of {request.url} to {request.purpose} cannot be used: {why}.",
        status=response.status,
        correlation_id=correlation_id(response),
        cause="The server departs from RFC 7591, or something else answered.",
        hint="Look in the server's console whether it registered a client; report it to the "
        "server's vendor.",
    )
