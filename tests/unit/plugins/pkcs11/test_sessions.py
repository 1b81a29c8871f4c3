"""The pool lends sessions, waits within the deadline, and makes do with what the token has."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pkcs11.exceptions import DeviceError, SessionCount

from keystay.backends import Deadline
from keystay.errors import BackendTimeoutError
from keystay_pkcs11.errors import Place
from keystay_pkcs11.sessions import Session, SessionPool


class FakeToken:
    """Opens sessions up to a limit."""

    def __init__(self, limit: int = 100) -> None:
        self.limit = limit
        self.open = 0
        self.opened = 0
        self.broken = False

    def open_session(self, deadline: Deadline) -> Session:
        if self.broken:
            raise DeviceError
        if self.open >= self.limit:
            raise SessionCount
        self.open += 1
        self.opened += 1
        return Session(cast(Any, SimpleNamespace(handle=self.opened)))

    def close_session(self, session: Session, deadline: Deadline | None) -> None:
        self.open -= 1

    def pool(self, limit: int) -> SessionPool:
        return SessionPool(self.open_session, self.close_session, limit, Place("/m.so", "prod"))


def soon(seconds: float = 0.05) -> Deadline:
    """A deadline that comes soon."""
    return Deadline.after(seconds)


def test_reuses_the_last() -> None:
    """One user after another opens one session."""
    token = FakeToken()
    pool = token.pool(8)

    for _ in range(5):
        pool.release(pool.acquire(soon()))

    assert 1 == token.opened


def test_exhausted() -> None:
    """The error comes at the deadline and says how many are in use."""
    pool = FakeToken().pool(2)
    pool.acquire(soon()), pool.acquire(soon())
    started = time.monotonic()

    with pytest.raises(BackendTimeoutError, match="2 are in use here, 2 are allowed") as caught:
        pool.acquire(soon(0.1))

    assert 0.1 <= time.monotonic() - started < 1
    assert "session-timeout" == caught.value.code
    assert "token 'prod' of /m.so" in caught.value.message


def test_waits_for_one() -> None:
    """Whoever waits gets the session that comes back."""
    pool = FakeToken().pool(1)
    session = pool.acquire(soon())
    threading.Timer(0.05, pool.release, [session]).start()

    assert session is pool.acquire(soon(5))


def test_token_has_fewer() -> None:
    """CKR_SESSION_COUNT shrinks the pool: it waits for a session instead of failing."""
    token = FakeToken(limit=2)
    pool = token.pool(8)
    first = pool.acquire(soon())
    pool.acquire(soon())
    threading.Timer(0.05, pool.release, [first]).start()

    assert first is pool.acquire(soon(5))
    assert 2 == pool.limit


def test_token_has_none() -> None:
    """Where others use up all sessions, the error comes at the deadline and says so."""
    token = FakeToken(limit=0)

    with pytest.raises(BackendTimeoutError, match="0 are in use") as caught:
        token.pool(8).acquire(soon(0.12))

    assert "CKR_SESSION_COUNT" in (caught.value.cause or "")


def test_token_frees_one() -> None:
    """It tries again while there is time."""
    token = FakeToken(limit=0)
    threading.Timer(0.1, setattr, [token, "limit", 1]).start()

    assert token.pool(8).acquire(soon(5)) is not None


def test_discard() -> None:
    """A session given back as broken is closed, and another may be opened."""
    token = FakeToken()
    pool = token.pool(1)
    pool.discard(pool.acquire(soon()), soon())

    assert 0 == token.open
    pool.acquire(soon())
    assert 2 == token.opened


def test_failure_frees_the_place() -> None:
    """A session that could not be opened does not count."""
    token = FakeToken()
    pool = token.pool(1)
    token.broken = True
    with pytest.raises(DeviceError):
        pool.acquire(soon())

    token.broken = False
    assert pool.acquire(soon()) is not None


def test_flush() -> None:
    """Sessions that may be dead are closed; those lent out stay."""
    token = FakeToken()
    pool = token.pool(8)
    kept, idle = pool.acquire(soon()), pool.acquire(soon())
    pool.release(idle)

    pool.flush(soon())

    assert (1, 1) == (token.open, pool.in_use)
    pool.release(kept)
    assert 0 == pool.in_use


def test_close() -> None:
    """Idle sessions are closed at once, the others when they come back."""
    token = FakeToken()
    pool = token.pool(8)
    lent, idle = pool.acquire(soon()), pool.acquire(soon())
    pool.release(idle)

    pool.close()
    assert 1 == token.open
    pool.release(lent)
    assert 0 == token.open


def test_grow_to() -> None:
    """A later key may let the pool grow."""
    pool = FakeToken().pool(1)
    pool.acquire(soon())
    pool.grow_to(2)

    assert pool.acquire(soon()) is not None


def test_many_threads() -> None:
    """Never more sessions than allowed, however many threads ask."""
    token = FakeToken()
    pool = token.pool(3)
    most = 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal most
        for _ in range(200):
            session = pool.acquire(soon(10))
            with lock:
                most = max(most, pool.in_use)
            pool.release(session)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 0 < most <= 3
    assert token.opened <= 3


def test_numbers() -> None:
    """Every session has a number of its own."""
    pool = FakeToken().pool(8)

    assert len({pool.acquire(soon()).number for _ in range(5)}) == 5
