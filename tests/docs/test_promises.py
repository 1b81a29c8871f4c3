"""Every promise names tests, and the tests named are there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/explanation/promises.md").read_text()
GUARDS = sorted(set(re.findall(r"`([^`]+\.py::[^`]+)`", PAGE)))


@cache
def names(path: str) -> frozenset[str]:
    """The tests of a file: functions, and `Class::method`; of a contract also the bare methods."""
    found: set[str] = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            methods = [m.name for m in node.body if isinstance(m, ast.FunctionDef)]
            methods += [m.name for m in node.body if isinstance(m, ast.AsyncFunctionDef)]
            found.update(f"{node.name}::{method}" for method in methods)
            if path.startswith("src/"):
                found.update(methods)
    return frozenset(found)


@pytest.mark.parametrize("guard", GUARDS)
def test_guard_exists(guard: str) -> None:
    """A test that is renamed or dropped is missed here."""
    path, _, name = guard.partition("::")
    assert (ROOT / path).is_file()
    assert name in names(path)


def test_each_promise_has_guards() -> None:
    """All nine, and each line of their tables."""
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    assert [str(number) for number in range(1, 10)] == [s.partition(".")[0] for s in sections]
    for section in sections:
        rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
        assert rows
        for row in rows:
            assert re.search(r"`[^`]+\.py::[^`]+`", row), row
