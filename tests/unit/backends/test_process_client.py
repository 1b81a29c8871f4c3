"""The SDK's client: one for each process, made once, closed by its owner."""

from __future__ import annotations

import os
import threading

import pytest

from keystay.backends.process_client import ProcessClient
from keystay.concurrency.clock import Deadline
from keystay.errors import BackendTimeoutError, SignerClosedError


class Fake:
    """A client."""

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def holder() -> ProcessClient[Fake]:
    """Of clients that count how often they are closed."""
    return ProcessClient("the service", lambda _: Fake(), Fake.close)


def test_one_for_all_calls() -> None:
    """Made when first asked for; the number goes with it."""
    clients = holder()
    assert clients.current is None
    first = clients.get(Deadline.after(5))
    assert first == clients.get(Deadline.after(5))
    assert clients.current is first.client


def test_close() -> None:
    """Closed once; nothing is to be had then."""
    clients = holder()
    client = clients.get(Deadline.after(5)).client
    clients.close()
    clients.close()
    assert 1 == client.closed
    with pytest.raises(SignerClosedError, match="the service is closed"):
        clients.get(Deadline.after(5))


def test_child() -> None:
    """A forked child has another, with another number, and leaves the parent's open."""
    clients = holder()
    parent = clients.get(Deadline.after(5))
    child = os.fork()
    if child == 0:
        own = clients.get(Deadline.after(5))
        clients.close()
        good = own.number > parent.number and (parent.client.closed, own.client.closed) == (0, 1)
        os._exit(0 if good else 1)
    assert 0 == os.waitpid(child, 0)[1]
    assert clients.get(Deadline.after(5)) == parent


def test_another_thread_makes_it() -> None:
    """Whoever waits for that waits no longer than the deadline."""
    making, release = threading.Event(), threading.Event()

    def make(_: Deadline) -> Fake:
        making.set()
        release.wait(30)
        return Fake()

    clients = ProcessClient("the service", make, Fake.close)
    thread = threading.Thread(target=clients.get, args=(Deadline.after(30),))
    thread.start()
    assert making.wait(30)
    with pytest.raises(BackendTimeoutError):
        clients.get(Deadline.after(0.05))
    release.set()
    thread.join()
    assert clients.current is not None
