"""The report's formats and its digest, with a client that tries to break out of them."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from keystay.config import ClientConfig, Config, PolicyConfig
from keystay.errors import ConfigurationError, NetworkError
from keystay.ops.publishing.comparison import Finding
from keystay.ops.report import Report, build, seal, verify
from keystay.ops.report.contents import publication
from keystay.ops.report.examination import Examination
from keystay.ops.report.formats import FORMATS

if TYPE_CHECKING:
    from pathlib import Path

EVIL = '<script>alert(1)</script>" onload="x" | **bold** [a](javascript:x) `c` \n# head'
NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def report(pem_file: Path) -> Report:
    """Three clients: in order, refused by policy, and with a key that is not there."""

    def client(key: str, **more: Any) -> ClientConfig:
        return ClientConfig(
            fhir_base_url="https://ehr.example.org/fhir", client_id="id", key=key, **more
        )

    config = Config(
        clients={
            "good": client(f"file:{pem_file}"),
            EVIL: client(f"file:{pem_file}", policy=PolicyConfig(custody="hardware")),
            "absent": client("file:/no/such/file.pem", jwks_url="https://x.example/jwks"),
        },
        policy=PolicyConfig(algorithms=("ES384",)),
    )

    def look(*_: object) -> object:
        raise NetworkError("It is not there.")

    return build(config, look=look, now=NOW)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMATS)
def test_every_changed_byte_is_found(report: Report, form: str) -> None:
    """Whatever byte is changed, taken or added, the digest does not fit any more."""
    content, digest = seal(FORMATS[form](report))
    assert digest == verify(content) == verify(content, digest.upper())

    for at in range(0, len(content), max(1, len(content) // 400)):
        for changed in (
            content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :],
            content[:at] + content[at + 1 :],
            content[:at] + b" " + content[at:],
        ):
            with pytest.raises(ConfigurationError) as caught:
                verify(changed)
            assert caught.value.code in ("report-changed", "report-unsealed")
    with pytest.raises(ConfigurationError, match="changed"):
        verify(content, "0" * 64)
    with pytest.raises(ConfigurationError, match="not a report"):
        verify(b"nothing")


def test_a_new_digest_is_found_by_the_noted_one(report: Report) -> None:
    """Who edits the report and computes the digest anew is found by the one noted elsewhere."""
    text = FORMATS["json"](report)
    _, noted = seal(text)
    forged, _ = seal(text.replace("in-process", "hardware"))

    verify(forged)
    with pytest.raises(ConfigurationError, match="changed"):
        verify(forged, noted)


def test_no_room_for_a_second_digest(report: Report) -> None:
    """A configuration that holds the marker cannot be sealed."""
    report.clients[0].client_id = "keystay-report-sha256:" + "0" * 64
    for form in ("html", "json"):
        with pytest.raises(ConfigurationError, match="own digest"):
            seal(FORMATS[form](report))
    verify(seal(FORMATS["md"](report))[0])  # where it is escaped


def test_json(report: Report) -> None:
    """Everything the issue asks for, as data."""
    document = json.loads(FORMATS["json"](report))
    good, evil, absent = document["clients"]

    assert "2026-06-01T12:00:00+00:00" == document["made"]
    assert {"keystay", "keystay-pem", "Python", "cryptography"} <= set(document["versions"])
    assert ("in-process", "P-384") == (good["key"]["custody"]["location"], good["key"]["key_type"])
    assert good["policy"]["satisfied"] is True
    assert ["algorithms"] == [rule["rule"] for rule in good["policy"]["rules"]]
    assert evil["policy"]["satisfied"] is False
    assert ({}, False) == (absent["key"], absent["policy"]["satisfied"])
    assert "key-not-found" in absent["error"]["code"] or absent["error"]["code"]
    assert "It is not there." == absent["publication"]["error"]["message"]
    assert 1 == document["satisfied"]


class Outline(HTMLParser):
    """What an accessibility checker looks at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_is_text_and_accessible(report: Report) -> None:
    """Nothing breaks out; headings in order; every table has caption and headers; no network."""
    text = FORMATS["html"](report)
    page = Outline(text)
    names = [tag for tag, _ in page.tags]
    levels = [int(name[1]) for name in names if re.fullmatch(r"h[1-6]", name)]

    assert [] == page.open
    assert EVIL.split("\n", maxsplit=1)[0] in page.text
    assert not {"script", "img", "link", "iframe", "object", "form"} & set(names)
    assert not re.findall(r'(?:src|href)="(?!#)', text)
    assert "url(" not in text
    assert "@import" not in text
    assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on")]
    assert ("html", {"lang": "en"}) in page.tags
    assert 1 == names.count("h1") == names.count("main") == names.count("title")
    assert 1 == levels[0]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert names.count("table") == names.count("caption") > 3
    assert all(attrs.get("scope") in ("row", "col") for tag, attrs in page.tags if tag == "th")
    assert "default-src 'none'" in str(page.tags)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(set(ids)) == len(ids)


def test_contrast() -> None:
    """Every colour of text has at least 4.5:1 on its background (WCAG 2.2, 1.4.3)."""
    for ink, paper in (
        ("1b2430", "ffffff"), ("4a5768", "ffffff"), ("0b5394", "ffffff"),
        ("0b5d2f", "eaf6ee"), ("8f1414", "fdeeee"), ("0b5d2f", "ffffff"), ("8f1414", "ffffff"),
    ):  # fmt: skip
        light, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_markdown_is_text(report: Report) -> None:
    """Nothing of a client's name is markup, and no cell breaks the table."""
    text = FORMATS["md"](report)

    assert "<script>" not in text
    assert "\\<script\\>" in text
    assert "\n# head" not in text
    assert "[a](" not in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")
            assert re.search(r"(?<!\\)\|$", line)


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (["ok"], "matches the keys where they live."),
        (["ok", "unknown"], "live. It publishes a key that is not this client's as well."),
        (["unknown", "ok", "unknown"], "It publishes 2 keys that are not this client's as well."),
        (["unconfirmed", "ok"], "not every key could be confirmed where it lives."),
        (["unconfirmed", "missing"], "does not match the keys where they live."),
        (["retired", "ok"], "does not match the keys where they live."),
    ],
)
def test_what_is_said_of_a_publication(verdicts: list[Any], said: str) -> None:
    """An outage, or another client's key in a shared set, is no mismatch."""
    client = Examination("etl", "id", "https://ehr.example.org", "file:client.pem")
    client.published_at = "https://keys.example.org"
    client.published = [Finding("kid", "current", verdict, "") for verdict in verdicts]
    assert publication(client).endswith(said)


def test_nothing_to_report() -> None:
    """Without a client, a remedy instead of an empty report."""
    with pytest.raises(ConfigurationError) as caught:
        build(Config())
    assert "client-missing" == caught.value.code
