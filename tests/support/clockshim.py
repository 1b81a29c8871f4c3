"""Moves the clocks of one process: a wrong wall clock, one that is set, a machine that sleeps."""

from __future__ import annotations

import mmap
import struct
import subprocess
from pathlib import Path

from tests.support.missing import require_program

__all__ = ["ClockShim", "compile_clock_shim"]

_SOURCE = Path(__file__).with_suffix(".c")


def compile_clock_shim(directory: Path) -> Path:
    """Compile the library for LD_PRELOAD."""
    target = directory / "clockshim.so"
    gcc = require_program("gcc", "gcc")
    options = ["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([gcc, *options, _SOURCE, "-o", target, "-ldl", "-lm"], check=True)
    return target


class ClockShim:
    """The clocks of the processes that run with `env`.

    Args:
        library: The compiled shim.
        path: The file that holds the offsets.

    Attributes:
        env: What a process needs in its environment.
    """

    def __init__(self, library: Path, path: Path) -> None:
        path.write_bytes(struct.pack("dd", 0.0, 0.0))
        self._path = path
        self.env = {"LD_PRELOAD": str(library), "KEYSTAY_TEST_CLOCK_OFFSETS": str(path)}

    def set_wall_clock(self, seconds: float) -> None:
        """Move the wall clock, as a person or NTP does."""
        self._move(seconds, 0.0)

    def sleep(self, seconds: float) -> None:
        """Let the machine sleep: the wall clock and the one that counts sleep go on."""
        self._move(seconds, seconds)

    @property
    def slept(self) -> float:
        """Seconds the machine has slept: what a clock elsewhere has gone on by."""
        return float(struct.unpack("dd", self._path.read_bytes())[1])

    def _move(self, wall: float, counting: float) -> None:
        with self._path.open("r+b") as file, mmap.mmap(file.fileno(), 16) as offsets:
            known = struct.unpack("dd", offsets[:16])
            offsets[:16] = struct.pack("dd", known[0] + wall, known[1] + counting)
