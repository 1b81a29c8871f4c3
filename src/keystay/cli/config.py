"""The command `keystay config`."""

from __future__ import annotations

import json

import click

from keystay.cli.options import client_argument, json_option
from keystay.cli.output import print_data, print_json

__all__ = ["config"]


@click.group()
def config() -> None:
    """Show the configuration."""


@config.command()
@client_argument
@json_option
def show(client: str | None, as_json: bool) -> None:
    """Print every setting that holds for CLIENT, its value, and where that came from.

    No key is opened and no server asked. Secrets stand in no setting, only references to them.
    """
    from keystay.backends.registry import default_registry
    from keystay.config import load_config
    from keystay.config.origins import origins
    from keystay.observers.registry import ObserverRegistry

    found = list(
        origins(
            load_config(), client, default_registry().settings_of, ObserverRegistry().settings_of
        )
    )
    if as_json:
        print_json(
            [
                {"table": each.table, "key": each.key, "value": each.value, "origin": each.origin}
                for each in found
            ]
        )
        return
    width = max(len(each.key) for each in found)
    lines: list[str] = []
    table = None
    for each in found:
        if each.table != table:
            table = each.table
            lines += [*([""] if lines else []), f"[{table}]" if table else "(top)"]
        value = "-" if each.value is None else json.dumps(each.value, ensure_ascii=False)
        unit = f" {each.unit}" if each.unit and each.value is not None else ""
        lines.append(f"{each.key:<{width}}  {value}{unit}  ({each.origin})")
    print_data("\n".join(lines))
