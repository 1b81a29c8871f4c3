"""The command `keystay backends`."""

from __future__ import annotations

from dataclasses import asdict

import click

from keystay.cli.options import json_option
from keystay.cli.output import print_json, print_table, say

__all__ = ["backends"]


@click.command()
@json_option
def backends(as_json: bool) -> None:
    """List the installed backends by what their metadata says; imports none of them."""
    from keystay.backends.registry import default_registry

    entries = [asdict(entry) for entry in default_registry().entries()]
    if as_json:
        print_json(entries)
    elif entries:
        print_table(entries)
    else:
        say("No backend is installed. Remedy: pip install 'keystay[pem]' or 'keystay[pkcs11]'")
