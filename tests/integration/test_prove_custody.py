"""The experiment of `make prove-custody`, in short: the key is where it is said to be."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

import pytest

from experiments.custody.needles import needles, secrets_of
from experiments.custody.search import Search
from experiments.custody.trial import Repetitions, examine, make_key

if TYPE_CHECKING:
    from pathlib import Path

ONCE = Repetitions(during=4, after=1, cores=1)


def test_pem_is_found() -> None:
    """In-process: found in memory and core dump, so the search works."""
    outcome = examine("pem", "P-384", ONCE)

    assert "in-process" == outcome.custody
    assert {"d"} == outcome.secrets
    assert {"memory, during", "memory, after", "core dump, during", "core dump, after"} == set(
        outcome.found
    )


@pytest.mark.parametrize("key_type", ["RSA-3072", "P-384"])
def test_remoted_is_absent(key_type: str) -> None:
    """Behind p11-kit: not in the client, and the same search finds it in the holder."""
    outcome = examine("p11-kit", key_type, ONCE)

    assert "other-process" == outcome.custody
    assert set() == outcome.secrets
    assert outcome.control
    assert outcome.tokens > 0


@pytest.mark.long
@pytest.mark.parametrize("place", ["aws", "google"])
@pytest.mark.parametrize("key_type", ["RSA-3072", "P-384"])
def test_cloud_is_absent(place: str, key_type: str) -> None:
    """A cloud KMS: not in the client, and the same search finds it in the emulator."""
    outcome = examine(place, key_type, ONCE)

    assert "in-process" != outcome.custody
    assert set() == outcome.secrets
    assert outcome.control


@pytest.mark.parametrize("key_type", ["RSA-3072", "P-384"])
def test_every_form_is_found(tmp_path: Path, key_type: str) -> None:
    """Each form is found in a dump, also across the border of what is read at once."""
    wanted = needles(make_key(key_type))
    search = Search(tmp_path, wanted)
    chunk = 1 << 22
    dump = tmp_path / "dump"

    for border in range(0, 64, 9):
        planted = bytearray(2 * chunk)
        for number, needle in enumerate(wanted):
            at = chunk - border if number == border else 1024 + 512 * number
            planted[at : at + len(needle.value)] = needle.value
        dump.write_bytes(planted)
        assert {n.value for n in wanted} == {n.value for n, _ in search.file(dump).hits}


def test_search_sees_another_process(tmp_path: Path) -> None:
    """A needle in anonymous memory of a process is found there."""
    (needle, *_) = needles(make_key("P-384"))
    search = Search(tmp_path, [needle])

    with mmap.mmap(-1, 1 << 16) as planted:
        planted[100 : 100 + len(needle.value)] = needle.value
        assert search.memory(os.getpid()).hits


def test_search_reads_all(tmp_path: Path) -> None:
    """What a search cannot read of a process is the kernel's own pages at most."""
    seen = Search(tmp_path, needles(make_key("P-384"))).memory(os.getpid())

    assert seen.read > 10_000_000
    assert seen.mappings > 20
    assert seen.unread < 1_000_000


def test_needles_cover_every_number() -> None:
    """Every secret of an RSA key is looked for, each in every form."""
    key = make_key("RSA-3072")
    found = needles(key)

    for name in secrets_of(key):
        forms = {n.form.partition(",")[0] for n in found if n.secret == name}
        assert {"big-endian", "little-endian", "Python's 30-bit digits", "hexadecimal", "base64",
                "base64url"} <= forms  # fmt: skip
        assert any(n.form.startswith("DER") for n in found if n.secret == name)
    assert {"PKCS#8 PEM", "traditional PEM"} <= {n.form for n in found if n.secret == "file"}
