"""Writes docs/explanation/experiment.md from page.md and the figures."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from experiments.custody.places import PLACES
from experiments.custody.trial import Outcome

__all__ = ["write"]

_TEXT = Path(__file__).with_suffix(".md")


def write(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write the page."""
    path.write_text(_TEXT.read_text().format(figures="\n".join(_figures(outcomes))))


def _figures(outcomes: Sequence[Outcome]) -> list[str]:
    lines = [
        (
            "| place | key | custody | in the client's memory | in the holder's "
            "| searches | read | tokens |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    for o in outcomes:
        found = sum(o.found.values())
        client = f"**found** in {found} ({', '.join(sorted(o.forms))})" if found else "absent"
        holder = "the client" if o.control is None else "found" if o.control else "not found"
        lines.append(
            f"| {PLACES[o.place][0]} | {o.key_type} | `{o.custody}` | {client} | {holder} | "
            f"{o.searches} | {o.bytes / 1e9:.1f} GB | {o.tokens} |"
        )
    return [*lines, "", f"{_machine()}."]


def _machine() -> str:
    softhsm = subprocess.run(
        ["softhsm2-util", "--version"], capture_output=True, text=True, check=False
    ).stdout.strip()
    # p11-kit does not tell its version; Debian does, and adds a revision of its own.
    p11_kit = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", "p11-kit"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.partition("-")[0]
    return (
        f"Linux {platform.machine()}, Python {platform.python_version()}, SoftHSM {softhsm}, "
        f"p11-kit {p11_kit or 'of some version'}, cryptography {version('cryptography')}"
    )
