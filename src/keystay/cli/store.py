"""The command `keystay store key`."""

from __future__ import annotations

import click

from keystay.cli.output import print_data

__all__ = ["store"]


@click.group()
def store() -> None:
    """Make keys for token stores."""


@store.command()
def key() -> None:
    """Print a new key that a token store encrypts with.

    Write it where its owner alone can read it:

    (umask 077; keystay store key > /run/secrets/store-key)
    """
    from cryptography.fernet import Fernet

    print_data(Fernet.generate_key().decode())
