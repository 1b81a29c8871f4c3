"""The command `keystay jwks`."""

from __future__ import annotations

import click

from keystay.cli.options import client_argument
from keystay.cli.output import print_data

__all__ = ["jwks"]


@click.command()
@client_argument
def jwks(client: str | None) -> None:
    """Print the JWK Set of CLIENT's key, to publish or to register."""
    from keystay.config import load_config, open_client_signer
    from keystay.jwk import JWKSet

    with open_client_signer(load_config(), client) as signer:
        print_data(JWKSet.from_signers([signer]).to_json(indent=2))
