"""Every record that is logged has a stable name, and the documentation lists them all."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from keystay.errors import ObserverError
from keystay.observers import EVENTS, hookspecs
from keystay.observers.dispatch import _HOOKS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "events.md"
METHODS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
# Logs an event, whose own name it is.
DISPATCH = "src/keystay/observers/dispatch.py"


def calls() -> dict[str, str | None]:
    """Where something is logged, and the name in its `extra`."""
    found: dict[str, str | None] = {}
    for path in (*ROOT.glob("src/keystay/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")):
        if "testing" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in METHODS
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "logger"
            ):
                name = f"{path.relative_to(ROOT)}:{node.lineno}"
                found[name] = next(
                    (_name(k.value) for k in node.keywords if k.arg == "extra"), None
                )
    return found


def _name(extra: ast.expr) -> str | None:
    if not isinstance(extra, ast.Dict):
        return "…"
    values = dict(zip((ast.unparse(k) for k in extra.keys if k), extra.values, strict=True))
    value = values.get("'event'")
    return value.value if isinstance(value, ast.Constant) else None  # type: ignore[return-value]


def test_every_record_has_a_name() -> None:
    """`extra={"event": "…"}` stands at each call; the events' own names come with them."""
    assert [] == [
        where for where, name in calls().items() if name is None and not where.startswith(DISPATCH)
    ]


def test_the_page_lists_them() -> None:
    """The tables of the reference hold these names and no other."""
    listed = set(
        re.findall(r"^\| `([a-z0-9-]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    )
    named = {name for name in calls().values() if name not in (None, "…")}
    events = {str(kind.__struct_config__.tag) for kind in EVENTS}
    assert named | events == listed


def test_each_event_has_a_hook() -> None:
    """One hook for each event, named like it."""
    hooks = {name for name in vars(hookspecs) if name.startswith("keystay_")}
    assert hooks == {*_HOOKS.values(), "keystay_open_observer", "keystay_settings"}
    assert "observer-failed" == ObserverError.code
