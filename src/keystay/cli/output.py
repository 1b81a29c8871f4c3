"""How commands print: data on stdout as it is, words on stderr."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import click
from rich.console import Console
from rich.text import Text

from keystay.errors import KeystayError

__all__ = ["print_data", "print_error", "print_json", "print_table", "stderr"]

stderr = Console(stderr=True, soft_wrap=True)


def print_data(text: str) -> None:
    """Data, and nothing else, on stdout."""
    click.echo(text)


def print_json(document: object) -> None:
    """A JSON document on stdout."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_table(rows: Sequence[Mapping[str, str]]) -> None:
    """Rows with the same keys, aligned, on stdout."""
    if not rows:
        return
    names = list(rows[0])
    widths = {n: max(len(n), *(len(row[n]) for row in rows)) for n in names}
    for line in ({n: n.upper() for n in names}, *rows):
        click.echo("  ".join(line[n].ljust(widths[n]) for n in names).rstrip())


def print_error(error: KeystayError, *, as_json: bool = False) -> None:
    """An error on stderr: what happened, the likely cause, the remedy."""
    if as_json:
        click.echo(json.dumps({"error": error.to_dict()}, ensure_ascii=False), err=True)
        return
    text = Text.assemble(("error", "bold red"), f"[{error.code}] {error.message}")
    if error.cause:
        text.append(f"\n  likely cause: {error.cause}")
    if error.hint:
        text.append(f"\n  remedy: {error.hint}")
    stderr.print(text, highlight=False)
