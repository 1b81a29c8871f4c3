"""The HSM's daemon dies and comes back under load: nobody has to be paged, and no PIN is spent."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest

import keystay
from keystay.errors import BackendUnavailableError, KeystayError, LoginError
from keystay_pkcs11 import module
from tests.support.p11kit import P11KitServer
from tests.support.token_clients import CLIENT_ID, client_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keystay.testing import SmartTestServer
    from tests.support.p11shim import ShimmedToken

CKR_OK, CKR_PIN_INCORRECT = 0, 0xA0
CUTS = 8


@pytest.fixture
def served(shimmed: ShimmedToken, monkeypatch: pytest.MonkeyPatch) -> Iterator[P11KitServer]:
    """A token in another process, behind the shim that notes every login."""
    shimmed.token.generate_key("EC:secp384r1", "load", "02")
    with P11KitServer(shimmed.token, provider=str(shimmed.module), env=shimmed.env) as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        yield server


class Outcome(NamedTuple):
    """What came of one call, and when."""

    began: float
    ended: float
    error: KeystayError | None


class Load:
    """Threads that do something over and over for as long as a `with` block runs."""

    def __init__(self, work: Callable[[], object], threads: int) -> None:
        self.outcomes: list[Outcome] = []
        self._work, self._stop = work, threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_successes(self, count: int) -> None:
        """Wait until so many calls that begin from now on have succeeded."""
        now, until = time.monotonic(), time.monotonic() + 20
        while sum(o.error is None and o.began >= now for o in list(self.outcomes)) < count:
            assert time.monotonic() < until, self.outcomes[-3:]
            time.sleep(0.01)

    def _run(self) -> None:
        while not self._stop.is_set():
            began, error = time.monotonic(), None
            try:
                self._work()
            except KeystayError as caught:
                error = caught
            self.outcomes.append(Outcome(began, time.monotonic(), error))


def test_server_killed_and_restarted(
    served: P11KitServer, shimmed: ShimmedToken, smart_server: SmartTestServer
) -> None:
    """Threads sign and fetch tokens: errors only while it is down, and one login per life of it."""
    with keystay.open_signer(served.key_uri("load"), timeout=5) as signer:
        smart_server.register(CLIENT_ID, jwks=keystay.JWKSet.from_signers([signer]))
        with (
            keystay.TokenClient(**client_settings(signer, smart_server)) as client,
            Load(client.request_token, 2) as tokens,
            Load(lambda: signer.sign(b"message"), 4) as signatures,
        ):
            for load in (tokens, signatures):
                load.wait_for_successes(5)
            down = time.monotonic()
            served.stop()
            time.sleep(2)
            served.start()
            up = time.monotonic()
            for load in (tokens, signatures):
                load.wait_for_successes(20)

        outcomes = [*tokens.outcomes, *signatures.outcomes]
        errors = [o for o in outcomes if o.error is not None]
        assert errors
        assert not [o for o in errors if o.ended < down or o.began > up]
        assert not [o for o in errors if not isinstance(o.error, BackendUnavailableError)]
        assert all(o.ended - o.began < 5.5 for o in outcomes)

    assert [CKR_OK, CKR_OK] == shimmed.logins()


def test_connections_killed(
    served: P11KitServer, shimmed: ShimmedToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections cut under load cost one login each, and no signature.

    Some leave threads of p11-kit's client waiting for ever: whoever waits for those is let go.
    """
    monkeypatch.setattr(module, "RESTART_INTERVAL", 0.0)
    with (
        keystay.open_signer(served.key_uri("load")) as signer,
        Load(lambda: signer.sign(b"message"), 8) as load,
    ):
        for _ in range(CUTS):
            load.wait_for_successes(20)
            served.kill_children()
        load.wait_for_successes(20)

    assert [] == [outcome.error for outcome in load.outcomes if outcome.error is not None]
    assert [CKR_OK] * (CUTS + 1) == shimmed.logins()


def test_pin_changed_while_down(served: P11KitServer, shimmed: ShimmedToken) -> None:
    """The token comes back with another PIN: one failed login for all threads, then none."""
    with (
        keystay.open_signer(served.key_uri("load"), timeout=5) as signer,
        Load(lambda: signer.sign(b"message"), 6) as load,
    ):
        load.wait_for_successes(10)
        served.stop()
        shimmed.token.change_pin()
        served.start()
        until = time.monotonic() + 20
        while sum(isinstance(o.error, LoginError) for o in list(load.outcomes)) < 60:
            assert time.monotonic() < until
            time.sleep(0.01)

    refused = [o.error for o in load.outcomes if isinstance(o.error, LoginError)]
    assert {"pin-incorrect"} == {error.code for error in refused}
    assert [CKR_OK, CKR_PIN_INCORRECT] == shimmed.logins()
    assert "user PIN count low" in shimmed.token.token_flags()
