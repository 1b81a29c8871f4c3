"""Arguments and options that several commands share."""

from __future__ import annotations

import click

__all__ = ["client_argument", "json_option"]

client_argument = click.argument("client", required=False)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
