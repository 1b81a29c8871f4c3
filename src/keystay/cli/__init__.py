"""The command line: data on stdout, everything else on stderr."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Entry point of the `keystay` command."""
    import sys

    # This process runs no trio, and needs no command line of httpx's: both would be imported only
    # because they are installed, for a third of what `keystay token` costs.
    for name in ("trio", "httpx._main"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]

    from keystay.cli.app import run

    raise SystemExit(run())
