"""Throw-away distributions with entry points, for tests of what finds them."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest


class Plugins:
    """Throw-away distributions on sys.path."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        monkeypatch.syspath_prepend(str(folder))
        self._before = set(sys.modules)

    def add(
        self,
        distribution: str,
        source: str | None,
        *,
        group: str = "keystay.backends",
        scheme: str = "demo",
        target: str | None = None,
        folder: Path | None = None,
        version: str = "1.2",
        meta: bool = True,
    ) -> str:
        """Install a distribution; its module's name."""
        folder = folder or self.folder
        module = distribution.replace("-", "_")
        if source is not None:
            (folder / f"{module}.py").write_text(textwrap.dedent(source))
        info = folder / f"{module}-{version}.dist-info"
        info.mkdir()
        if meta:
            (info / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
            )
        (info / "entry_points.txt").write_text(f"[{group}]\n{scheme} = {target or module}\n")
        return module

    def path(self, name: str) -> Path:
        """Another folder on sys.path."""
        folder = self.folder / name
        folder.mkdir()
        self._monkeypatch.syspath_prepend(str(folder))
        return folder

    def forget(self) -> None:
        """Unload what the test imported."""
        for name in set(sys.modules) - self._before:
            if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(self.folder)):
                del sys.modules[name]


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Throw-away distributions."""
    installed = Plugins(tmp_path, monkeypatch)
    yield installed
    installed.forget()
