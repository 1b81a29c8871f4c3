"""Files of ours."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from keystay.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path


def test_what_is_no_file_stays_what_it_is(tmp_path: Path) -> None:
    """A FIFO, or /dev/null, is written to; it is not replaced by a file."""
    fifo, found = tmp_path / "fifo", list[bytes]()
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: found.append(fifo.read_bytes()), daemon=True)
    reader.start()
    write_atomically(fifo, b"whole")
    reader.join(10)
    assert ([b"whole"], True) == (found, fifo.is_fifo())
