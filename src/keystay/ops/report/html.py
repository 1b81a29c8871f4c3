"""The report as one HTML file: no network, no script, good on paper.

Everything that is shown goes through `_text`. The page's own policy forbids it to load anything.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from importlib.resources import files

from keystay.ops.report import sentences
from keystay.ops.report.document import Report
from keystay.ops.report.examination import Examination
from keystay.ops.report.sealing import PLACE

__all__ = ["to_html"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def to_html(report: Report) -> str:
    """The report."""
    return "\n".join(_page(report)) + "\n"


def _page(report: Report) -> Iterator[str]:
    style = files("keystay.ops.report").joinpath("report.css").read_text(encoding="utf-8")
    made = report.made.isoformat(timespec="seconds")
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_text(_POLICY)}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<meta name="referrer" content="no-referrer">'
    yield f"<title>Custody report, {_text(made[:10])}</title>\n<style>\n{style}</style>\n</head>"
    yield "<body>\n<header>\n<h1>Custody report</h1>"
    good = report.satisfied == len(report.clients)
    yield f'<p class="summary {_tone(good)}">{_mark(good)} '
    yield f"{_text(sentences.summary(report.satisfied, len(report.clients)))}</p>"
    where = _text(report.configuration or "the environment")
    yield f'<p>Made <time datetime="{_text(made)}">{_text(_moment(report))}</time> by keystay '
    yield f"{_text(report.versions['keystay'])} from <code>{where}</code>.</p>"
    yield from _overview(report)
    yield "</header>\n<main>"
    for number, client in enumerate(report.clients):
        yield from _client(client, number)
    yield "</main>\n<footer>\n<section>\n<h2>Software</h2>"
    yield from _table("Versions of the software", ("Name", "Version"), [*report.versions.items()])
    yield f"</section>\n<section>\n<h2>How to read this</h2>\n<p>{_text(sentences.EVIDENCE)}</p>"
    yield f"<p>Digest: <code>{PLACE}</code></p>\n<p>{_text(sentences.DIGEST_NOTE)}</p>\n</section>"
    yield "</footer>\n</body>\n</html>"


def _overview(report: Report) -> Iterator[str]:
    yield '<div class="wide"><table>\n<caption>The clients</caption>\n<thead><tr>'
    yield "".join(
        f'<th scope="col">{name}</th>'
        for name in ("Client", "Key", "Where it is", "Evidence", "Age", "Policy")
    )
    yield "</tr></thead>\n<tbody>"
    for number, client in enumerate(report.clients):
        custody = client.key.get("custody", {})
        age = "not known" if client.age_days is None else f"{client.age_days} days"
        cells = (
            client.key.get("key_type", "not opened"),
            custody.get("location", "not known"),
            custody.get("evidence", "none"),
            age,
        )
        yield (
            f'<tr><th scope="row"><a href="#client-{number}">{_text(_name(client))}</a></th>'
            + "".join(f"<td>{_text(cell)}</td>" for cell in cells)
            + f"<td>{_verdict(client.satisfied)}</td></tr>"
        )
    yield "</tbody>\n</table></div>"


def _client(client: Examination, number: int) -> Iterator[str]:
    yield f'<article id="client-{number}" aria-labelledby="name-{number}">'
    yield f'<h2 id="name-{number}">{_text(_name(client))} {_verdict(client.satisfied)}</h2>'
    yield '<dl class="about">'
    for name, value in sentences.about(client).items():
        yield f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>"
    yield "</dl>"
    if client.error is not None:
        yield '<p class="notice bad"><strong>The key could not be opened.</strong> '
        yield f"{_text(client.error.message)}</p>"
    custody = client.key.get("custody")
    if custody:
        yield f"<h3>Where the key is: {_text(custody['location'])} "
        yield f'<span class="evidence">{_text(custody["evidence"])}</span></h3>'
        yield f"<p>{_text(custody['reason'])}</p>"
    if client.findings:
        yield "<h3>Policy</h3>"
        yield from _rules(client)
    if client.rotation:
        yield "<h3>Rotation</h3>"
        yield from _table(
            "Keys in rotation",
            ("Key id", "State", "Since"),
            [(str(k["kid"]), k["state"], k["since"]) for k in client.rotation],
        )
    yield f"<h3>Publication</h3>\n<p>{_text(sentences.publication(client))}</p>"
    if client.published:
        yield from _table(
            "Published keys",
            ("Key id", "State", "Verdict", "Detail"),
            [(f.kid or "?", f.state or "-", f.verdict, f.detail) for f in client.published],
        )
    if custody:
        yield "<h3>Facts about the key</h3>"
        yield from _table(
            "What the backend says of it", ("Fact", "Value", "Evidence"), sentences.facts(client)
        )
    yield "</article>"


def _rules(client: Examination) -> Iterator[str]:
    yield '<div class="wide"><table>\n<caption>Rules of the policy</caption>\n<thead><tr>'
    yield "".join(
        f'<th scope="col">{name}</th>'
        for name in ("Rule", "Demanded", "Found", "Evidence", "Verdict")
    )
    yield "</tr></thead>\n<tbody>"
    for rule in client.findings:
        cells = (rule.demanded, rule.found, rule.evidence)
        yield (
            f'<tr><th scope="row">{_text(rule.rule)}</th>'
            + "".join(f"<td>{_text(cell)}</td>" for cell in cells)
            + f"<td>{_verdict(rule.satisfied)}</td></tr>"
        )
    yield "</tbody>\n</table></div>"


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f'<div class="wide"><table>\n<caption>{_text(caption)}</caption>\n<thead><tr>'
    yield "".join(f'<th scope="col">{_text(name)}</th>' for name in head)
    yield "</tr></thead>\n<tbody>"
    for first, *rest in rows:
        yield (
            f'<tr><th scope="row">{_text(first)}</th>'
            + "".join(f"<td>{_text(cell)}</td>" for cell in rest)
            + "</tr>"
        )
    yield "</tbody>\n</table></div>"


def _verdict(good: bool) -> str:
    word = "satisfied" if good else "violated"
    return f'<span class="verdict {_tone(good)}">{_mark(good)} {word}</span>'


def _mark(good: bool) -> str:
    return f'<span aria-hidden="true">{"✓" if good else "✗"}</span>'


def _tone(good: bool) -> str:
    return "good" if good else "bad"


def _name(client: Examination) -> str:
    return client.name or "The client in the environment"


def _moment(report: Report) -> str:
    return report.made.strftime("%Y-%m-%d %H:%M UTC")


def _text(value: object) -> str:
    """Text that stays text, also inside an attribute in quotes."""
    return html.escape(str(value), quote=True)
