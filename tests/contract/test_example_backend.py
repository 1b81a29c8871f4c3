"""The tutorial about writing a backend shows what the example has in its files.

That the plugin installs and passes the contract is shown by running the page (tests/docs).
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from tests.docs import blocks

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "keystay-example-backend"
PAGE = ROOT / "docs" / "tutorials" / "write-a-backend.md"


def test_the_page_shows_the_files() -> None:
    files = {
        path: _single_spaced(path.read_text())
        for path in EXAMPLE.rglob("*")
        if path.suffix in (".py", ".toml")
    }
    shown = [
        block
        for block in blocks.parse(PAGE.read_text())
        if block.not_run and block.not_run.startswith("a file of the plugin")
    ]
    assert len(shown) >= 7
    for block in shown:
        # A method is shown without the indentation of its class.
        text = _single_spaced(block.text).rstrip()
        ways = (text, textwrap.indent(text, "    "))
        assert any(way in file for way in ways for file in files.values()), (
            f"{PAGE.name}:{block.line} is in no file of the example"
        )


def _single_spaced(text: str) -> str:
    # Top-level on the page, methods in the file: the formatter spaces them differently.
    return text.replace("\n\n\n", "\n\n")
