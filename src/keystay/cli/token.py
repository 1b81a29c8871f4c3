"""The command `keystay token`."""

from __future__ import annotations

import click

from keystay.cli.options import client_argument, json_option
from keystay.cli.output import print_data, print_json

__all__ = ["token"]


@click.command()
@client_argument
@click.option("--scope", help="Ask for this scope instead of the configured one.")
@json_option
def token(client: str | None, scope: str | None, as_json: bool) -> None:
    """Print an access token for CLIENT, alone on stdout.

    CLIENT is a name in keystay.toml; leave it out when there is but one, or when the
    environment describes it.
    """
    from keystay.tokens.client import TokenClient

    with TokenClient.from_config(client) as tokens:
        # Of a store, what another process has got; without one there is nothing but a new one.
        granted = tokens.token() if scope is None else tokens.request_token(scope=scope)
    if as_json:
        print_json(
            {
                "access_token": granted.value,
                "token_type": granted.token_type,
                "expires_in": round(granted.expires_in),
                "expires_at": round(granted.expires_at),
                "scope": granted.scope,
            }
        )
    else:
        print_data(granted.value)
