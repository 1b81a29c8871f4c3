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
        path: path.read_text() for path in EXAMPLE.rglob("*") if path.suffix in (".py", ".toml")
    }
    shown = [
        block
        for block in blocks.parse(PAGE.read_text())
        if block.not_run and block.not_run.startswith("a file of the plugin")
    ]
    assert len(shown) >= 7
    for block in shown:
        # A method is shown without the indentation of its class.
        ways = (block.text.rstrip(), textwrap.indent(block.text, "    ").rstrip())
        assert any(way in text for way in ways for text in files.values()), (
            f"{PAGE.name}:{block.line} is in no file of the example"
        )
