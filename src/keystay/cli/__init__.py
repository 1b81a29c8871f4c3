"""The command line: data on stdout, everything else on stderr."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Entry point of the `keystay` command."""
    from keystay.cli.app import run

    raise SystemExit(run())
