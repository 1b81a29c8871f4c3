"""A fork waits for those who are inside, bounded, and the child starts afresh."""

from __future__ import annotations

import gc
import importlib
import os
import sys
import threading
import weakref
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

import pytest

from keystay.backends.registry import GROUP, Registry
from keystay.concurrency import forks
from keystay.concurrency.clock import Deadline
from keystay.concurrency.forks import hold_off_forks, reset_after_fork
from keystay.concurrency.locks import DeadlineLock
from keystay.concurrency.threads import WorkerThreads
from keystay.errors import BackendLoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TIME = Deadline.after(86400)


def in_child(work: Callable[[], object]) -> object:
    """Whether a forked child's work is done and true."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class Holder:
    """Counts how often it was reset."""

    def __init__(self) -> None:
        self.resets = 0
        reset_after_fork(self.reset)

    def reset(self) -> None:
        self.resets += 1


@pytest.fixture
def other() -> Iterator[Callable[[Callable[[threading.Event], None]], threading.Event]]:
    """Runs something in another thread until the event it returns is set."""
    threads: list[tuple[threading.Thread, threading.Event]] = []

    def run(work: Callable[[threading.Event], None]) -> threading.Event:
        end = threading.Event()
        thread = threading.Thread(target=work, args=(end,))
        threads.append((thread, end))
        thread.start()
        return end

    yield run
    for thread, end in threads:
        end.set()
        thread.join()


def test_reset_in_the_child_alone() -> None:
    """What registered is called there, once for each fork, and not kept alive by that."""
    holders = [Holder()]
    assert in_child(lambda: holders[0].resets == 1 and in_child(lambda: holders[0].resets == 2))
    assert 0 == holders[0].resets
    known = weakref.ref(holders.pop())
    gc.collect()
    assert known() is None


def test_fork_where_no_hook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork made by C code is noticed when something of ours is next used."""
    holder = Holder()
    forks.detect_fork()
    assert 0 == holder.resets
    monkeypatch.setattr(forks, "_pid", -1)
    forks.detect_fork()
    forks.detect_fork()
    assert 1 == holder.resets


def test_held_lock_is_free_in_the_child(
    other: Callable[[Callable[[threading.Event], None]], threading.Event],
) -> None:
    """The thread that holds it does not exist there."""
    lock, held = DeadlineLock("working"), threading.Event()

    def hold(end: threading.Event) -> None:
        with lock.held(TIME):
            held.set()
            end.wait(10)

    other(hold)
    held.wait(10)

    def take() -> bool:
        with lock.held(Deadline.after(0.1)):
            return True

    assert in_child(take)


def test_fork_waits_for_a_block(
    other: Callable[[Callable[[threading.Event], None]], threading.Event],
) -> None:
    """It is over, in the child as well, when the fork goes on; new ones wait meanwhile."""
    inside, after, events = threading.Event(), threading.Event(), list[str]()

    def work(end: threading.Event) -> None:
        with hold_off_forks(TIME):
            with hold_off_forks(TIME):
                inside.set()
                while not forks._sections._forking:
                    pass
            events.append("left")
        with hold_off_forks(TIME):
            events.append("in again")
        after.set()

    other(work)
    inside.wait(10)
    assert in_child(lambda: events == ["left"])
    after.wait(10)
    assert ["left", "in again"] == events


@pytest.mark.parametrize("may_hang", [True, False])
def test_fork_does_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch,
    other: Callable[[Callable[[threading.Event], None]], threading.Event],
    may_hang: bool,
) -> None:
    """A call that hangs, or a fork made in the block itself, holds nobody up."""
    monkeypatch.setattr(forks, "_PATIENCE", 0.01)
    monkeypatch.setattr(forks, "_COMPUTING_PATIENCE", 1000.0 if may_hang else 0.01)
    inside = threading.Event()

    def hang(end: threading.Event) -> None:
        with hold_off_forks(TIME, may_hang=may_hang):
            inside.set()
            end.wait(10)

    other(hang)
    inside.wait(10)

    def enter() -> bool:
        with hold_off_forks(TIME):
            return True

    with hold_off_forks(TIME), hold_off_forks(TIME, may_hang=True):
        assert in_child(enter)
    assert enter()


SLOW = """
import threading
begun.set()
release.wait(10)
answer = 42
"""


@pytest.mark.parametrize("whose", ["keystay_slow", "slow_one"])
def test_fork_waits_for_imports(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    other: Callable[[Callable[[threading.Event], None]], threading.Event],
    whose: str,
) -> None:
    """Of ours, and of what a call of ours imports: the child finds the module whole."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{whose}.py").write_text("from gates import begun, release\n" + SLOW)
    (tmp_path / "gates.py").write_text(
        "import threading\nbegun, release = threading.Event(), threading.Event()\n"
    )
    gates = importlib.import_module("gates")

    def load(end: threading.Event) -> None:
        if whose == "slow_one":
            registry = Registry(lambda: [EntryPoint("slow", whose, GROUP)])
            with pytest.raises(BackendLoadError, match="does not state its api_version"):
                registry.hooks("slow")
        else:
            importlib.import_module(whose)

    other(load)
    assert gates.begun.wait(10)
    threading.Timer(0.2, gates.release.set).start()
    assert in_child(lambda: importlib.import_module(whose).answer == 42)
    del sys.modules[whose], sys.modules["gates"]


def test_fork_does_not_wait_for_the_users_imports(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    other: Callable[[Callable[[threading.Event], None]], threading.Event],
) -> None:
    """A program that runs inside an import for as long as it lives may fork at any time."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(forks, "_COMPUTING_PATIENCE", 1000.0)
    (tmp_path / "program.py").write_text("import program_end\nprogram_end.wait()\n")
    (tmp_path / "program_end.py").write_text(
        "import threading\nbegun, end = threading.Event(), threading.Event()\n"
        "def wait():\n    begun.set()\n    end.wait(10)\n"
    )
    end = importlib.import_module("program_end")

    def run(_: threading.Event) -> None:
        importlib.import_module("program")

    other(run)
    assert end.begun.wait(10)
    assert in_child(lambda: True)
    end.end.set()


def test_worker_threads_of_the_parent(
    other: Callable[[Callable[[threading.Event], None]], threading.Event],
) -> None:
    """A child has none of them, abandoned ones included, and makes its own."""
    threads, begun = WorkerThreads("the device", most=1), threading.Event()

    def busy(end: threading.Event) -> None:
        threads.call_with_deadline(lambda: begun.set() or end.wait(10), TIME)  # type: ignore[func-returns-value]

    other(busy)
    begun.wait(10)
    assert in_child(lambda: threads.call_with_deadline(lambda: 7, Deadline.after(5)) == 7)
