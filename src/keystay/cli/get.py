"""The command `keystay get`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import click

from keystay.cli.output import print_data
from keystay.errors import ConfigurationError, NetworkError

if TYPE_CHECKING:
    import httpx

    from keystay.http.messages import HttpResponse
    from keystay.token_stores.access_token import AccessToken

__all__ = ["get"]

_MAX_BYTES = 64 * 1024 * 1024


@click.command()
@click.argument("arguments", nargs=-1, required=True, metavar="[CLIENT] PATH")
@click.option("--accept", default="application/fhir+json", show_default=True)
def get(arguments: tuple[str, ...], accept: str) -> None:
    """Read PATH, such as Patient/123, from CLIENT's FHIR server and print the body."""
    from keystay.config import load_config
    from keystay.http.clients import sync_link
    from keystay.tokens.client import TokenClient

    if len(arguments) > 2:
        raise click.UsageError("Give a client and one path.")
    client, path = (arguments[0], arguments[1]) if len(arguments) == 2 else (None, arguments[0])
    _require_relative(path)
    config = load_config()
    settings = config.http
    fhir = sync_link(settings).client
    with TokenClient.from_config(client, config=config) as tokens:
        url = f"{tokens.fhir_base_url}/{path.removeprefix('/')}"
        token = tokens.token()  # beforehand: what keeps it from coming is no fault of the read
        response = _read(fhir, url, accept, token, settings.timeout)
        if response.status == 401:  # revoked, perhaps; a new one is tried once
            tokens.invalidate(token)
            response = _read(fhir, url, accept, tokens.token(), settings.timeout)
    status = response.status
    print_data(_as_text(response.body))
    if status >= 300:
        raise NetworkError(
            f"The FHIR server answered HTTP {status} to {path}.{_outcome(response)}",
            status=status,
            cause="Redirects are not followed: the token stays where it belongs."
            if status < 400
            else {
                401: "The FHIR server does not accept the token.",
                403: "The token's scope does not cover this.",
                404: "There is no such resource.",
            }.get(status),
            hint="Compare the scope granted (keystay token --json) with what the path needs."
            if status in (401, 403)
            else "Check the path; when it is right, ask the server's support.",
            code="fhir-error",
        )


def _read(
    client: httpx.Client, url: str, accept: str, token: AccessToken, timeout: float
) -> HttpResponse:
    from keystay.concurrency.clock import Deadline
    from keystay.http.messages import HttpRequest
    from keystay.http.send import send

    headers = {"Accept": accept, "Authorization": token.authorization}
    request = HttpRequest("GET", url, "the FHIR read", headers, max_bytes=_MAX_BYTES)
    return send(client, request, Deadline.after(timeout))


def _require_relative(path: str) -> None:
    """Refuse what would leave the FHIR base; a query may hold URLs, searches often do."""
    place = unquote(path.partition("?")[0])
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://|//", place):
        raise ConfigurationError(
            "The path is a URL.",
            hint="Give it relative to fhir_base_url: Patient/123.",
            code="path-invalid",
        )
    if ".." in re.split(r"[/\\]", place) or "#" in path or not path.isprintable():
        raise ConfigurationError(
            "The path leads out of the FHIR base URL, or holds what a path may not.",
            hint="Give it relative to fhir_base_url, without .. and #: Patient/123.",
            code="path-invalid",
        )


def _as_text(body: bytes) -> str | bytes:
    """Text where it is text; a Binary resource may be anything."""
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body


def _outcome(response: HttpResponse) -> str:
    """What an OperationOutcome says (https://hl7.org/fhir/operationoutcome.html), if it is one."""
    document: Any = response.json_object() or {}
    try:
        issue = document["issue"][0]
        text = issue["diagnostics"] if "diagnostics" in issue else issue["details"]["text"]
    except (LookupError, TypeError):
        return ""
    return f" It says: {' '.join(str(text)[:300].split())}"
