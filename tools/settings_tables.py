"""Hook of mkdocs: puts the tables of settings, made from the Structs, where a page asks for one.

<!-- settings: http -->
"""

from __future__ import annotations

import json
import re
from importlib import import_module
from typing import Any

import msgspec

from keystay.backends.registry import default_registry
from keystay.config.environment import TABLES
from keystay.observers.registry import ObserverRegistry
from keystay.settings import Field, environment_name, fields

_MARK = re.compile(r"<!-- settings: ([a-z0-9.]*) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page."""
    return _MARK.sub(lambda found: table(found[1]), markdown)


def table(name: str) -> str:
    """The Markdown table of a table of settings: `http`, `backends.pkcs11`; "top" for the top."""
    place = "" if name == "top" else name
    rows = ["| key | meaning | default | variable |", "|---|---|---|---|"]
    for key, field in fields(_struct(place)).items():
        prefix = "" if place in ("", "clients") else place.replace(".", "_")
        variable = "" if field.is_table else f"`{environment_name(prefix, key)}`"
        unit = f" In {field.extra['unit']}." if field.extra.get("unit") else ""
        rows.append(
            f"| `{key}` | {field.meta.description}{unit} | {_default(field)} | {variable} |"
        )
    return "\n".join(rows)


def _struct(place: str) -> type[msgspec.Struct]:
    kind, _, name = place.partition(".")
    if kind == "backends":
        found = default_registry().settings_of(name)
    elif name == "otel":  # its module needs the extra keystay[otel]
        found = import_module("keystay.observers.otel").keystay_settings()
    elif kind == "observers":
        found = ObserverRegistry().settings_of(name)
    else:
        found = TABLES[place]
    assert found is not None
    return found


def _default(field: Field) -> str:
    if field.default is msgspec.NODEFAULT:
        return "required"
    if said := field.extra.get("default"):
        return str(said)
    return "none" if field.default in (None, (), {}) else f"`{json.dumps(field.default)}`"
