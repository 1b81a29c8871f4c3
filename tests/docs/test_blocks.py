"""The harness itself: what it finds in a page, and that it fails when it should."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs import blocks
from tests.docs.blocks import Block, Command
from tests.docs.conftest import HERE


def test_parse_finds_blocks_and_their_marks() -> None:
    """Language, text without indentation, line, and the comment on the line before."""
    page = (
        "# Title\n"
        "```python\n"
        "x = 1\n"
        "```\n"
        "<!-- not-run: needs an HSM -->\n"
        "````console\n"
        "$ echo '```'\n"
        "````\n"
        "1. a list\n"
        "\n"
        "    <!-- exits: 3 -->\n"
        '    ```console title="x"\n'
        "    $ false\n"
        "      more\n"
        "    ```\n"
    )

    assert blocks.parse(page) == [
        Block("python", "x = 1\n", 2),
        Block("console", "$ echo '```'\n", 6, not_run="needs an HSM"),
        Block("console", "$ false\n  more\n", 12, exits=3),
    ]


def test_parse_refuses_an_open_fence() -> None:
    """Half a block would hide the rest of the page."""
    with pytest.raises(ValueError, match="line 2: a fence without an end"):
        blocks.parse("text\n```python\nx = 1\n")


def test_commands_take_continuations_and_output() -> None:
    """A backslash continues a command; other lines are its output."""
    assert blocks.commands("$ echo a \\\n    b\na b\n$ true\n") == [
        Command("echo a \\\n    b", "a b\n"),
        Command("true", ""),
    ]


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        ("a b\n", "a b\n", True),
        ("a b\n", "a b   \n\n", True),
        ("a … c\n", "a any thing c\n", True),
        ("a … c\n", "a\nc\n", False),
        ("a\n…\nz\n", "a\nb\nc\nz\n", True),
        ("a\n…\n", "a\n", True),
        ("a.c\n", "abc\n", False),
        ("a\n", "a\nb\n", False),
    ],
)
def test_matches(expected: str, actual: str, same: bool) -> None:
    """`…` is anything within a line, or any lines when alone on one."""
    assert blocks.matches(expected, actual) is same


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("```python\nx = 1\n```\n```python\nassert x == 1\n```\n", None),
        ("```python\nimport asyncio\nawait asyncio.sleep(0)\n```\n", None),
        ("```console\n$ export A=/run/secrets/pin\n$ echo $A\n/run/secrets/pin\n```\n", None),
        ("```console\n$ mkdir d && cd d\n$ basename $PWD\nd\n```\n", None),
        ("<!-- exits: 3 -->\n```console\n$ false\n```\n", "exit code 1, not 3"),
        ("<!-- exits: 3 -->\n```console\n$ (exit 3)\n```\n", None),
        ("```json\n{}\n```\n", None),
        ("```text\nfree\n```\n<!-- not-run: no C here -->\n```c\nint x;\n```\n", None),
        ("```python\nx = 1 / 0\n```\n", "page.md:1: division by zero"),
        ("```console\n$ false\n```\n", "exit code 1, not 0"),
        ("```console\n$ echo a\nb\n```\n", "--- came:\na"),
        ("```json\n{\n```\n", "page.md:1:"),
        ("```c\nint x;\n```\n", "no way to run c"),
    ],
)
def test_run_page(page: str, message: str | None, tmp_path: Path) -> None:
    """A page that holds passes; one that does not is named with its line."""
    (tmp_path / "page.md").write_text(page)

    done = subprocess.run(
        [
            sys.executable,
            HERE / "run_page.py",
            "page.md",
            json.dumps({"/run/secrets/": f"{tmp_path}/secrets/"}),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (message is None) == (done.returncode == 0), done.stderr
    assert message is None or message in done.stderr
