"""What the formats for people show: the report as a page of headings, text and tables.

`html` and `markdown` render it; neither adds a word of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC
from typing import Any, NamedTuple

from keystay.ops.publishing.comparison import worst
from keystay.ops.report.document import Report
from keystay.ops.report.examination import Examination
from keystay.ops.report.sealing import PLACE

__all__ = ["Block", "Digest", "Heading", "Page", "Paragraph", "Table", "page", "publication"]

_EVIDENCE = (
    "asserted: the configuration says so. reported: the device or service says so. attested: a "
    "signed statement that was verified says so. measured: keystay looked itself."
)
_DIGEST_NOTE = (
    "SHA-256 of this file, computed while the 64 digits are zeros; keystay report --verify FILE "
    "checks it. Note it elsewhere: who changes the file can compute it anew."
)


class Heading(NamedTuple):
    """A heading within a section; with how it is known, where it states a fact."""

    text: str
    evidence: str = ""


class Paragraph(NamedTuple):
    """Text, with what has to stand out at its beginning."""

    text: str
    alarm: str = ""


class Table(NamedTuple):
    """Rows of text; a bool is a verdict. Where it `links`, each row leads to its client."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | bool]]
    links: bool = False


class Digest(NamedTuple):
    """The place of the report's digest."""

    place: str = PLACE


Block = Heading | Paragraph | Table | Digest


class Section(NamedTuple):
    """A part of the page; with a verdict, where it is about a client."""

    title: str
    blocks: Sequence[Block]
    verdict: bool | None = None


class Page(NamedTuple):
    """The report.

    Attributes:
        title: Its first heading.
        summary: The verdict on all clients, in a sentence.
        verdict: The same as yes or no.
        blocks: What comes first.
        clients: A section each.
        notes: What comes last.
    """

    title: str
    summary: str
    verdict: bool
    blocks: Sequence[Block]
    clients: Sequence[Section]
    notes: Sequence[Section]


def page(report: Report) -> Page:
    """Lay a report out."""
    clients, known = report.clients, report.versions
    made = f"{report.made.astimezone(UTC):%F %T} UTC by keystay {known['keystay']}"
    head = ("Client", "Key", "Where it is", "Evidence", "Age", "Policy")
    versions = Table("Versions of the software", ("Name", "Version"), [*known.items()])
    reading: list[Block] = [Paragraph(_EVIDENCE), Digest(), Paragraph(_DIGEST_NOTE)]
    return Page(
        "Custody report",
        _summary(report.satisfied, len(clients)),
        report.satisfied == len(clients),
        [
            Paragraph(f"Made {made} from {report.configuration or 'the environment'}."),
            Table("The clients", head, [_in_short(client) for client in clients], links=True),
        ],
        [Section(_name(client), [*_client(client)], client.satisfied) for client in clients],
        [Section("Software", [versions]), Section("How to read this", reading)],
    )


def _in_short(client: Examination) -> tuple[str | bool, ...]:
    custody = client.key.get("custody", {})
    return (
        _name(client),
        client.key.get("key_type", "not opened"),
        custody.get("location", "not known"),
        custody.get("evidence", "none"),
        "not known" if client.age_days is None else f"{client.age_days} days",
        client.satisfied,
    )


def _client(client: Examination) -> Iterator[Block]:
    yield Table("The client and its key", ("What", "Is"), [*_about(client)])
    if client.error is not None:
        yield Paragraph(client.error.message, alarm="The key could not be opened.")
    custody: dict[str, Any] = client.key.get("custody", {})
    if custody:
        yield Heading(f"Where the key is: {custody['location']}", custody["evidence"])
        yield Paragraph(custody["reason"])
    if client.findings:
        yield Heading("Policy")
        head: Sequence[str] = ("Rule", "Demanded", "Found", "Evidence", "Verdict")
        rules = [(f.rule, f.demanded, f.found, f.evidence, f.satisfied) for f in client.findings]
        yield Table("Rules of the policy", head, rules)
    if client.rotation:
        yield Heading("Rotation")
        life = [(str(key["kid"]), key["state"], key["since"]) for key in client.rotation]
        yield Table("Keys in rotation", ("Key id", "State", "Since"), life)
    yield Heading("Publication")
    yield Paragraph(publication(client))
    if client.published:
        head = ("Key id", "State", "Verdict", "Detail")
        keys = [(f.kid or "?", f.state or "-", f.verdict, f.detail) for f in client.published]
        yield Table("Published keys", head, keys)
    if custody:
        yield Heading("Facts about the key")
        facts = [
            (name.replace("_", " "), _words(fact["value"]), fact["evidence"])
            for name, fact in custody.get("facts", {}).items()
        ]
        yield Table("What the backend says of it", ("Fact", "Value", "Evidence"), facts)


def _about(client: Examination) -> Iterator[tuple[str, str]]:
    yield "FHIR server", client.fhir_base_url
    yield "Client id", client.client_id
    yield "Key URI", client.uri
    if key := client.key:
        yield "Key", f"{key['key_type']}, {key['key_id']}"
        yield "Key id (kid)", key["kid"]
        yield "Thumbprint (RFC 7638)", key["thumbprint"]
        yield "Signs with", f"{key['algorithm']} (can do {', '.join(key['algorithms'])})"
        made = client.created
        yield (
            "Made",
            "not known: the backend does not say"
            if made is None
            else f"{made['value']}, {client.age_days} days ago ({made['evidence']})",
        )


def _name(client: Examination) -> str:
    return client.name or "The client in the environment"


def _words(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _summary(satisfied: int, clients: int) -> str:
    if satisfied < clients:
        return f"{satisfied} of {clients} keys are what their policy demands."
    if clients == 1:
        return "The key is what its policy demands."
    return f"All {clients} keys are what their policy demands."


def publication(client: Examination) -> str:
    """Where the key is published, in a sentence."""
    if client.published_at is None:
        return "The client has no JWKS URL: its key is registered by hand."
    if client.publication_error is not None:
        return f"{client.published_at}: {client.publication_error.message}"
    if not client.published:
        return f"{client.published_at} was not asked."
    verdict = worst(client.published)
    if verdict == "ok":
        said = f"What {client.published_at} publishes matches the keys where they live."
    elif verdict == "unconfirmed":
        said = (
            f"What {client.published_at} publishes is right as far as it can be told; not every "
            "key could be confirmed where it lives."
        )
    else:
        said = f"What {client.published_at} publishes does not match the keys where they live."
    if others := sum(finding.verdict == "unknown" for finding in client.published):
        what = "a key that is" if others == 1 else f"{others} keys that are"
        said += f" It publishes {what} not this client's as well."
    return said
