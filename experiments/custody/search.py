"""Searches a process or a core dump for needles, in a process of its own (search.c)."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.custody.needles import Needle, encode

__all__ = ["Search", "Seen", "Unsearchable"]

_SOURCE = Path(__file__).with_name("search.c")


class Unsearchable(Exception):  # noqa: N818 - a state of this machine
    """A process cannot be read."""


@dataclass(frozen=True)
class Seen:
    """What one search saw.

    Attributes:
        read: Bytes.
        mappings: How many.
        unread: Bytes marked readable that could not be read ([vvar] is the kernel's).
        hits: Needles found, with where.
    """

    read: int
    mappings: int
    unread: int
    hits: tuple[tuple[Needle, str], ...]


class Search:
    """Looks for one key's secrets.

    Args:
        folder: For the compiled program and core dumps.
        wanted: What to look for.
    """

    def __init__(self, folder: Path, wanted: Sequence[Needle]) -> None:
        self._folder, self._wanted = folder, list(wanted)
        self._program = folder / "search"
        if not self._program.exists():
            command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", str(_SOURCE), "-o"]
            subprocess.run([*command, str(self._program)], check=True)
        self._needles = folder / f"needles-{os.urandom(4).hex()}"
        self._needles.touch(mode=0o600)
        self._needles.write_bytes(encode(self._wanted))

    def memory(self, pid: int) -> Seen:
        """Search every readable mapping of a process, which goes on meanwhile."""
        return self._run(f"pid:{pid}")

    def core(self, pid: int) -> Seen:
        """Stop a process, have gdb dump its core with every mapping, and search that."""
        gcore = shutil.which("gcore")
        if gcore is None:
            raise Unsearchable("gcore is not installed: apt-get install gdb")
        target = self._folder / "core"
        done = subprocess.run(
            [gcore, "-a", "-o", str(target), str(pid)], capture_output=True, text=True, check=False
        )
        dump = target.with_name(f"core.{pid}")
        if done.returncode or not dump.exists():
            raise Unsearchable(f"gcore failed: {done.stderr.strip()[-300:]}")
        try:
            return self.file(dump)
        finally:
            dump.unlink()

    def file(self, path: Path) -> Seen:
        """Search a file."""
        return self._run(str(path))

    def _run(self, target: str) -> Seen:
        done = subprocess.run(
            [str(self._program), str(self._needles), target],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            raise Unsearchable(done.stderr.strip())
        hits: list[tuple[Needle, str]] = []
        read = mappings = unread = 0
        for line in done.stdout.splitlines():
            word, _, rest = line.partition(" ")
            first, _, second = rest.partition(" ")
            if word == "hit":
                hits.append((self._wanted[int(first)], second))
            elif word == "read":
                read, mappings = int(first), int(second)
            elif word == "unread":
                unread = int(first)
        return Seen(read, mappings, unread, tuple(hits))
