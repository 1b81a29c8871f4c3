"""The report as Markdown, for tickets and wikis."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from keystay.ops.report.contents import Block, Digest, Heading, Paragraph, Table, page
from keystay.ops.report.document import Report

__all__ = ["to_markdown"]

# Everything that could begin markup, a link or a cell (CommonMark §2.4, GFM tables).
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~&:@-])")


def to_markdown(report: Report) -> str:
    """The report."""
    return "\n\n".join(_parts(report)) + "\n"


def _parts(report: Report) -> Iterator[str]:
    shown = page(report)
    yield f"# {_text(shown.title)}"
    yield f"**{_text(shown.summary)}**"
    yield from map(_block, shown.blocks)
    for section in (*shown.clients, *shown.notes):
        policy = "" if section.verdict is None else f": policy {_text(section.verdict)}"
        yield f"## {_text(section.title)}{policy}"
        yield from map(_block, section.blocks)


def _block(block: Block) -> str:
    match block:
        case Heading(text, evidence):
            return f"### {_text(text)}" + (f" ({_text(evidence)})" if evidence else "")
        case Paragraph(text, alarm):
            return (f"**{_text(alarm)}** " if alarm else "") + _text(text)
        case Digest(place):
            return f"Digest: `{place}`"
        case Table(_, head, rows):
            return _table(head, rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str | bool]]) -> str:
    lines = [" | ".join(head), "|".join("---" for _ in head)]
    lines += [" | ".join(map(_text, row)) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def _text(value: str | bool) -> str:
    """Text that stays text; a verdict in a word."""
    if isinstance(value, bool):
        return "satisfied" if value else "VIOLATED"
    return _SPECIAL.sub(r"\\\1", " ".join(str(value).split()))
