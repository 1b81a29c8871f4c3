"""The command `keystay assertion`."""

from __future__ import annotations

import click

from keystay.cli.options import client_argument
from keystay.cli.output import print_data, print_json

__all__ = ["assertion"]


@click.command()
@client_argument
@click.option("--audience", metavar="URL", help="The aud claim; default the token endpoint.")
@click.option("--decode", is_flag=True, help="Print header and claims as JSON, not the assertion.")
def assertion(client: str | None, audience: str | None, decode: bool) -> None:
    """Print a client assertion for CLIENT, for debugging.

    It is a credential until it expires: show it to the server's support, to nobody else.
    With --decode only its header and claims are shown.
    """
    from keystay.assertion import ClientAssertion, decode_unverified
    from keystay.config import load_config
    from keystay.tokens.client import discover
    from keystay.tokens.key_state.client_keys import ClientKeys

    config = load_config()
    settings = config.client(client)
    with ClientKeys(config, client).open_current() as signer:
        url = audience or settings.token_endpoint
        if url is None:
            url = discover(
                settings.fhir_base_url,
                allow_insecure_loopback=settings.allow_insecure_loopback,
                http=config.http,
            ).token_endpoint
        jwt = ClientAssertion(
            client_id=settings.registered_id(),
            signer=signer,
            lifetime=settings.assertion_lifetime,
            jku=settings.jwks_url,
        ).build(url)
    if decode:
        header, claims = decode_unverified(jwt)
        print_json({"header": header, "claims": claims})
    else:
        print_data(jwt)
