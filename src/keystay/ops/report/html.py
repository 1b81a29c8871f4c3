"""The report as one HTML file: no network, no script, good on paper.

Everything that is shown goes through `_text`. The page's own policy forbids it to load anything.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from importlib.resources import files

from keystay.ops.report.contents import Block, Digest, Heading, Paragraph, Table, page
from keystay.ops.report.document import Report

__all__ = ["to_html"]

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src &#x27;none&#x27;; style-src &#x27;unsafe-inline&#x27;">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">"""


def to_html(report: Report) -> str:
    """The report."""
    return "\n".join(_page(report)) + "\n"


def _page(report: Report) -> Iterator[str]:
    shown = page(report)
    style = files("keystay.ops.report").joinpath("report.css").read_text(encoding="utf-8")
    title = f"{shown.title}, {report.made:%F}"
    yield f"{_HEAD}\n<title>{_text(title)}</title>\n<style>\n{style}</style>\n</head>"
    yield f"<body>\n<header>\n<h1>{_text(shown.title)}</h1>"
    tone, mark = _tone(shown.verdict)
    yield f'<p class="summary {tone}">{mark} {_text(shown.summary)}</p>'
    yield from map(_block, shown.blocks)
    yield "</header>\n<main>"
    for number, client in enumerate(shown.clients):
        yield f'<article id="client-{number}" aria-labelledby="name-{number}">'
        yield f'<h2 id="name-{number}">{_text(client.title)} {_cell(client.verdict)}</h2>'
        yield from map(_block, client.blocks)
        yield "</article>"
    yield "</main>\n<footer>"
    for note in shown.notes:
        yield f"<section>\n<h2>{_text(note.title)}</h2>"
        yield from map(_block, note.blocks)
        yield "</section>"
    yield "</footer>\n</body>\n</html>"


def _block(block: Block) -> str:
    match block:
        case Heading(text, evidence):
            known = f' <span class="evidence">{_text(evidence)}</span>' if evidence else ""
            return f"<h3>{_text(text)}{known}</h3>"
        case Paragraph(text, ""):
            return f"<p>{_text(text)}</p>"
        case Paragraph(text, alarm):
            return f'<p class="notice bad"><strong>{_text(alarm)}</strong> {_text(text)}</p>'
        case Digest(place):
            return f"<p>Digest: <code>{place}</code></p>"
        case Table():
            return "\n".join(_table(block))


def _table(table: Table) -> Iterator[str]:
    yield f'<div class="wide"><table>\n<caption>{_text(table.caption)}</caption>\n<thead><tr>'
    yield "".join(f'<th scope="col">{_text(name)}</th>' for name in table.head)
    yield "</tr></thead>\n<tbody>"
    for number, (first, *rest) in enumerate(table.rows):
        name = _cell(first)
        if table.links:
            name = f'<a href="#client-{number}">{name}</a>'
        cells = "".join(f"<td>{_cell(cell)}</td>" for cell in rest)
        yield f'<tr><th scope="row">{name}</th>{cells}</tr>'
    yield "</tbody>\n</table></div>"


def _cell(value: str | bool | None) -> str:
    if not isinstance(value, bool):
        return _text(value)
    tone, mark = _tone(value)
    return f'<span class="verdict {tone}">{mark} {"satisfied" if value else "violated"}</span>'


def _tone(good: bool) -> tuple[str, str]:
    """The class and the mark of a verdict."""
    mark = '<span aria-hidden="true">{}</span>'
    return ("good", mark.format("✓")) if good else ("bad", mark.format("✗"))


def _text(value: object) -> str:
    """Text that stays text, also inside an attribute in quotes."""
    return html.escape(str(value), quote=True)
