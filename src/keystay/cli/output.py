"""How commands print: data on stdout as it is, words on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

import click

from keystay.errors import ConfigurationError, KeystayError

__all__ = ["print_data", "print_error", "print_json", "print_table", "say"]


def say(text: str) -> None:
    """Words on stderr, as they are; if nobody can read them, they are lost."""
    with suppress(OSError):
        click.echo(text, err=True, color=False if os.environ.get("NO_COLOR") else None)


def print_data(data: str | bytes) -> None:
    """Data, and nothing else, on stdout; a newline ends text, bytes stay as they are."""
    if sys.stdout is None:
        raise _unwritable("it is closed")
    try:
        click.echo(data, nl=isinstance(data, str) and not data.endswith("\n"))
    except BrokenPipeError:
        raise
    except OSError as error:
        # What could not be written must not be tried again when the process ends.
        sys.stdout = None
        raise _unwritable(error.strerror) from error


def _unwritable(why: str | None) -> ConfigurationError:
    return ConfigurationError(
        f"Standard output cannot be written: {why or 'unknown reason'}.",
        hint="Check where it goes to, and the space left there.",
        code="output-unwritable",
    )


def print_json(document: object) -> None:
    """A JSON document on stdout."""
    print_data(json.dumps(document, indent=2))


def print_table(rows: Sequence[Mapping[str, str]]) -> None:
    """Rows with the same keys, aligned, on stdout."""
    if not rows:
        return
    names = list(rows[0])
    widths = {n: max(len(n), *(len(row[n]) for row in rows)) for n in names}
    for line in ({n: n.upper() for n in names}, *rows):
        print_data("  ".join(line[n].ljust(widths[n]) for n in names).rstrip())


def print_error(error: KeystayError, *, as_json: bool = False) -> None:
    """An error on stderr: what happened, the likely cause, the remedy."""
    if as_json:
        click.echo(json.dumps({"error": error.to_dict()}), err=True)
        return
    lines = [f"{click.style('error', fg='red', bold=True)}[{error.code}] {error.message}"]
    if error.cause:
        lines.append(f"  likely cause: {error.cause}")
    if error.hint:
        lines.append(f"  remedy: {error.hint}")
    say("\n".join(lines))
