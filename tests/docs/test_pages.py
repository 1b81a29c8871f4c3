"""Every command and snippet that the documentation shows does what it says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.docs import blocks
from tests.docs.conftest import HERE, Stage

ROOT = HERE.parents[1]
PAGES = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.md", "docs/**/*.md", "plugins/*/README.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
)
RUNNABLE = [
    page
    for page in PAGES
    if any(
        block.language in blocks.RUN and not block.not_run
        for block in blocks.parse((ROOT / page).read_text())
    )
]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    """A fence in another language would be an example nobody checks."""
    for block in blocks.parse((ROOT / page).read_text()):
        known = block.language in blocks.RUN | blocks.PROSE
        assert known or block.not_run, (
            f"{page}:{block.line}: write console, python, toml or json, "
            "or <!-- not-run: reason --> on the line before"
        )


@pytest.mark.parametrize("page", RUNNABLE, ids=str)
def test_page_runs(page: Path, stage: Stage) -> None:
    """The blocks of a page, in order, do what the page shows."""
    done = stage.run(sys.executable, HERE / "run_page.py", ROOT / page, json.dumps(stage.places))

    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
