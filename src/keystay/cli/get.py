"""The command `keystay get`."""

from __future__ import annotations

import json

import click

from keystay.cli.output import print_data
from keystay.errors import ConfigurationError, NetworkError

__all__ = ["get"]

_MAX_BYTES = 64 * 1024 * 1024


@click.command()
@click.argument("arguments", nargs=-1, required=True, metavar="[CLIENT] PATH")
@click.option("--accept", default="application/fhir+json", show_default=True)
def get(arguments: tuple[str, ...], accept: str) -> None:
    """Read PATH, such as Patient/123, from CLIENT's FHIR server and print the body."""
    from keystay.backends.port import Deadline
    from keystay.config import load_config
    from keystay.smart.messages import HttpRequest
    from keystay.tokens.client import TokenClient
    from keystay.tokens.http import new_client, send

    if len(arguments) > 2:
        raise click.UsageError("Give a client and one path.")
    client, path = (arguments[0], arguments[1]) if len(arguments) == 2 else (None, arguments[0])
    if "://" in path or path.startswith("//"):
        raise ConfigurationError(
            "The path is a URL.", hint="Give it relative to fhir_base_url: Patient/123."
        )
    config = load_config()
    settings = config.http
    with TokenClient.from_config(client, config=config) as tokens, new_client(settings) as fhir:
        response = send(
            fhir,
            HttpRequest(
                "GET",
                f"{tokens.fhir_base_url}/{path.removeprefix('/')}",
                "the FHIR read",
                {"Accept": accept},
                max_bytes=_MAX_BYTES,
            ),
            Deadline.after(settings.timeout),
            auth=tokens.auth(),
        )
    status, body = response.status, response.body.decode(errors="replace")
    print_data(body)
    if status >= 400:
        raise NetworkError(
            f"The FHIR server answered HTTP {status} to {path}.{_outcome(body)}",
            status=status,
            cause={
                401: "The FHIR server does not accept the token.",
                403: "The token's scope does not cover this.",
                404: "There is no such resource.",
            }.get(status),
            hint="Compare the scope granted (keystay token --json) with what the path needs."
            if status in (401, 403)
            else None,
            code="fhir-error",
        )


def _outcome(body: str) -> str:
    """What an OperationOutcome says (https://hl7.org/fhir/operationoutcome.html), if it is one."""
    try:
        issue = json.loads(body)["issue"][0]
        text = issue.get("diagnostics") or issue["details"]["text"]
    except (ValueError, LookupError, TypeError):
        return ""
    return f" It says: {str(text)[:300]}"
