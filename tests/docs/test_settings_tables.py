"""The tables of settings on the reference page are made from the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from keystay.config.environment import TABLES
from keystay.settings import fields
from tools.settings_tables import on_page_markdown

PAGE = (Path(__file__).parents[2] / "docs/reference/configuration.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made() -> str:
    """The page as the site has it."""
    return on_page_markdown(PAGE)


def test_every_setting_has_a_row(made: str) -> None:
    """With its variable, where it has one."""
    assert "<!-- settings" not in made
    for table, kind in TABLES.items():
        for key, field in fields(kind).items():
            prefix = "" if table in ("", "clients") else f"{table.upper()}_"
            variable = "" if field.is_table else f"`KEYSTAY_{prefix}{key.upper()}`"
            assert re.search(rf"^\| `{key}` \| .* \| {variable} \|$", made, re.MULTILINE), key


def test_plugins(made: str) -> None:
    """Those of backends and observers stand there too."""
    assert "`KEYSTAY_BACKENDS_PKCS11_MAX_SESSIONS`" in made
    assert "`KEYSTAY_OBSERVERS_AUDIT_PATH`" in made
