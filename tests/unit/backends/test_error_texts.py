"""Each error text in a file can be filled in where it is used, and each is used."""

from __future__ import annotations

import ast
import string
import tomllib
from pathlib import Path
from typing import Any

import pytest

from keystay import errors
from keystay.backends.error_texts import ErrorTexts

ROOT = Path(__file__).parents[3]
FILES = sorted((*ROOT.glob("plugins/*/src/*/errors.toml"), *ROOT.glob("src/**/errors.toml")))

# What is filled in where the name of the situation is computed.
_CALL = {"operation", "key", "where"}
COMPUTED = {
    "keystay_aws_kms": (_CALL | {"error", "word", "request"}, ("aws-", "state-")),
    "keystay_gcp_kms": (
        {"step", "answered", "resource", "permission", "roles", "seconds", "wait", "error"},
        ("google-", "crc-"),
    ),
    "keystay_pem": ({"path", "error"}, ()),
    "keystay_pkcs11": ({"step", "place", "value"}, ("CKR_",)),
    "registration": ({"said", "wait"}, ("error-", "managing-")),
}


def fields(row: dict[str, str]) -> set[str]:
    """The names in braces."""
    texts = (row.get(part, "") for part in ("message", "cause", "hint"))
    return {name for text in texts for _, name, _, _ in string.Formatter().parse(text) if name}


def constants(node: ast.expr) -> list[str]:
    """What an expression of strings and conditions can be."""
    if isinstance(node, ast.IfExp):
        return constants(node.body) + constants(node.orelse)
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def uses(folder: Path) -> list[tuple[str, set[str]]]:
    """Each `….error("situation", …)` of a package's functions, with what it fills in.

    The situation may be chosen from several in the call, or by an assignment before it.
    """
    found = []
    for file in folder.glob("*.py"):
        for function in ast.walk(ast.parse(file.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                found += _uses_in(function)
    return found


def _uses_in(function: ast.AST) -> list[tuple[str, set[str]]]:
    found = []
    chosen: dict[str, list[str]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            chosen.setdefault(node.targets[0].id, []).extend(constants(node.value))
    for node in ast.walk(function):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "error"
            and node.args
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id in ("TEXTS", "_TEXTS", "call")
        ):
            first = node.args[0]
            names = chosen.get(first.id, []) if isinstance(first, ast.Name) else constants(first)
            given = {str(keyword.arg) for keyword in node.keywords}
            more = _CALL if node.func.value.id == "call" else set()
            found += [(name, given | more) for name in names]
    return found


def words(folder: Path) -> set[str]:
    """Every string constant of a package's source."""
    return {
        node.value
        for file in folder.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


@pytest.mark.parametrize("file", FILES, ids=[file.parent.name for file in FILES])
class TestTexts:
    """One package's file."""

    def test_rows(self, file: Path) -> None:
        """Each has a class of ours, and a sentence."""
        rows: dict[str, dict[str, str]] = tomllib.loads(file.read_text())
        for name, row in rows.items():
            assert issubclass(getattr(errors, row["kind"]), errors.KeystayError), name
            assert row["message"].endswith((".", "}")), name
            fields(row)

    def test_filled_in(self, file: Path) -> None:
        """Whoever uses one fills in all that it needs."""
        rows = tomllib.loads(file.read_text())
        static = uses(file.parent)
        for situation, given in static:
            assert fields(rows[situation]) <= given, situation
        computed, _ = COMPUTED[file.parent.name]
        for situation in rows.keys() - {name for name, _ in static}:
            if not situation.startswith(("state", "crc-")):
                assert fields(rows[situation]) <= computed, situation

    def test_used(self, file: Path) -> None:
        """None is left over."""
        known, (_, prefixes) = words(file.parent), COMPUTED[file.parent.name]
        rows = tomllib.loads(file.read_text())
        assert not [n for n in rows if n not in known and not n.startswith(prefixes)]


def test_values_are_no_format() -> None:
    """Braces in what is filled in stay as they are."""
    error: Any = ErrorTexts("keystay_aws_kms").error("uri", path="{x}{0.__class__}")
    assert "The awskms: URI names no KMS key: '{x}{0.__class__}'." == error.message
    assert isinstance(error, errors.KeyURIError)


def test_unknown_situation() -> None:
    """A slip of the plugin's own."""
    texts = ErrorTexts("keystay_gcp_kms")
    assert "uri" in texts
    assert "nothing" not in texts
    with pytest.raises(KeyError):
        texts.error("nothing")
