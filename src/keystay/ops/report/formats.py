"""The formats of a report, by name."""

from __future__ import annotations

import json
from collections.abc import Callable

from keystay.ops.report.document import Report
from keystay.ops.report.html import to_html
from keystay.ops.report.markdown import to_markdown
from keystay.ops.report.sealing import PLACE

__all__ = ["FORMATS"]


def to_json(report: Report) -> str:
    """JSON, the same at every writing of the same report."""
    document = {**report.to_dict(), "digest": PLACE}
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


FORMATS: dict[str, Callable[[Report], str]] = {
    "html": to_html,
    "json": to_json,
    "md": to_markdown,
}
