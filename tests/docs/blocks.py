"""The fenced code blocks of a Markdown page, and what they ask for."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

RUN = frozenset({"console", "json", "python", "toml"})
PROSE = frozenset({"mermaid", "text"})

_FENCE = re.compile(
    r"^(?P<indent>[ ]*)(?P<marks>`{3,}|~{3,})[ ]*(?P<language>[\w+-]*)(?P<rest>.*)$"
)
_NOT_RUN = re.compile(r"^\s*<!-- not-run: (?P<reason>\S.*?) -->\s*$")
_EXITS = re.compile(r"^\s*<!-- exits: (?P<code>\d+) -->\s*$")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        language: The first word after the fence, or "".
        text: What is inside, without the indentation of the fence.
        line: The line number of the opening fence.
        not_run: Why it is not run, if it says so.
        exits: The exit code expected of the last command.
    """

    language: str
    text: str
    line: int
    not_run: str | None = None
    exits: int = 0


@dataclass(frozen=True)
class Command:
    """One command of a console block, and the output shown below it."""

    line: str
    expected: str


def parse(page: str) -> list[Block]:
    """Find the fenced blocks of a page."""
    blocks = []
    lines = page.splitlines()
    number = 0
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        if fence is None:
            number += 1
            continue
        start = number
        marks = fence["marks"]
        closing = re.compile(rf"^\s*{marks[0]}{{{len(marks)},}}\s*$")
        number += 1
        while number < len(lines) and not closing.match(lines[number]):
            number += 1
        if number == len(lines):
            raise ValueError(f"line {start + 1}: a fence without an end")
        before = lines[start - 1] if start else ""
        not_run = _NOT_RUN.match(before)
        exits = _EXITS.match(before)
        blocks.append(
            Block(
                language=fence["language"],
                text=textwrap.dedent("\n".join(lines[start + 1 : number])) + "\n",
                line=start + 1,
                not_run=not_run["reason"] if not_run else None,
                exits=int(exits["code"]) if exits else 0,
            )
        )
        number += 1
    return blocks


def commands(text: str) -> list[Command]:
    """Split a console block into commands and the output below each."""
    found: list[Command] = []
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("$ "):
            command = line[2:]
            while command.endswith("\\"):
                command += "\n" + next(lines)
            found.append(Command(command, ""))
        elif found:
            found[-1] = Command(found[-1].line, f"{found[-1].expected}{line}\n")
        else:
            raise ValueError(f"a console block starts with '$ ', not with {line!r}")
    return found


def matches(expected: str, actual: str) -> bool:
    """Whether output is as shown, `…` standing for anything; spaces at line ends do not count."""
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "…" else f"{_line_pattern(line)}\n"
        for line in expected.strip().splitlines()
    )
    plain = "".join(f"{line.rstrip()}\n" for line in actual.strip().splitlines())
    return re.fullmatch(pattern, plain) is not None


def _line_pattern(line: str) -> str:
    return ".*".join(re.escape(part) for part in line.rstrip().split("…"))
