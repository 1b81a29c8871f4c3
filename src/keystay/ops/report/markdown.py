"""The report as Markdown, for tickets and wikis."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from keystay.ops.report import sentences
from keystay.ops.report.document import Report
from keystay.ops.report.examination import Examination
from keystay.ops.report.sealing import PLACE

__all__ = ["to_markdown"]

# Everything that could begin markup, a link or a cell (CommonMark §2.4, GFM tables).
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~&:@-])")


def to_markdown(report: Report) -> str:
    """The report."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield "# Custody report"
    yield ""
    yield f"**{_text(sentences.summary(report.satisfied, len(report.clients)))}**"
    yield ""
    yield (
        f"Made {_text(report.made.isoformat(timespec='seconds'))} by keystay "
        + _text(report.versions["keystay"])
        + f" from {_text(report.configuration or 'the environment')}."
    )
    for client in report.clients:
        yield from _client(client)
    yield ""
    yield "## Software"
    yield ""
    yield from _table(("name", "version"), list(report.versions.items()))
    yield ""
    yield "## How to read this"
    yield ""
    yield _text(sentences.EVIDENCE)
    yield ""
    yield f"Digest: `{PLACE}`"
    yield ""
    yield _text(sentences.DIGEST_NOTE)


def _client(client: Examination) -> Iterator[str]:
    yield ""
    verdict = "satisfied" if client.satisfied else "VIOLATED"
    yield f"## {_text(client.name or 'The environment’s client')}: policy {verdict}"
    yield ""
    yield from _table(("what", "is"), list(sentences.about(client).items()))
    if client.error is not None:
        yield ""
        yield f"**The key could not be opened.** {_text(client.error.message)}"
    custody = client.key.get("custody")
    if custody:
        yield ""
        yield f"### Where the key is: {_text(custody['location'])} ({_text(custody['evidence'])})"
        yield ""
        yield _text(custody["reason"])
    if client.findings:
        yield ""
        yield "### Policy"
        yield ""
        yield from _table(
            ("rule", "demanded", "found", "evidence", "verdict"),
            [
                (f.rule, f.demanded, f.found, f.evidence, "ok" if f.satisfied else "VIOLATED")
                for f in client.findings
            ],
        )
    if client.rotation:
        yield ""
        yield "### Rotation"
        yield ""
        yield from _table(
            ("kid", "state", "since"),
            [(str(k["kid"]), k["state"], k["since"]) for k in client.rotation],
        )
    yield ""
    yield "### Publication"
    yield ""
    yield _text(sentences.publication(client))
    if client.published:
        yield ""
        yield from _table(
            ("kid", "state", "verdict", "detail"),
            [(f.kid or "?", f.state or "-", f.verdict, f.detail) for f in client.published],
        )
    if custody:
        yield ""
        yield "### Facts about the key"
        yield ""
        yield from _table(("fact", "value", "evidence"), sentences.facts(client))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(map(_text, row))} |"


def _text(value: str) -> str:
    """Text that stays text."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(value).split()))
