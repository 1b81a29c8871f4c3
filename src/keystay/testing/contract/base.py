"""What a backend's author provides for the contract, and what its tests work with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, ClassVar, Protocol

import pytest

from keystay.algorithms import ALGORITHMS
from keystay.concurrency.clock import Deadline
from keystay.errors import KeystayError

if TYPE_CHECKING:
    from keystay.backends.port import BackendKey
    from keystay.custody import Location
    from keystay.signer import Signer

__all__ = ["LONG_MESSAGE", "MESSAGE", "ContractBase", "OpenSigner", "Slow", "SwapKey", "port_key"]

MESSAGE = b"eyJhbGciOiJFUzM4NCJ9.eyJpc3MiOiJjb250cmFjdCJ9"
LONG_MESSAGE = MESSAGE * 112
"""5152 bytes: more than any cloud takes whole (AWS: 4096)."""


class OpenSigner(Protocol):
    """Opens the key under test anew; the caller closes it."""

    def __call__(self, *args: str, **options: object) -> Signer:
        """Open it.

        Args:
            *args: One of `SignerContract.keys`, if the class names any.
            **options: For `keystay.open_signer`: `algorithm`, `verify`, `timeout`, `custody`.
        """
        ...


Slow = Callable[[float], AbstractContextManager[object]]
"""Makes the store answer so many seconds late, for as long as the block runs."""

SwapKey = Callable[[], object]
"""Puts another key in the place of the one under test."""


class ContractBase:
    """The fixtures and settings that every part of the contract shares."""

    keys: ClassVar[Sequence[str]] = ()
    cannot: ClassVar[Mapping[str, str]] = {}
    expected_location: ClassVar[Location | None] = None
    ecdsa_signatures: ClassVar[int] = 500
    soak_signatures: ClassVar[int] = 25
    timeout: ClassVar[float] = 10.0

    # --- what a subclass provides ------------------------------------------------

    @pytest.fixture
    def open_signer(self) -> OpenSigner:
        """Opens the key under test; a subclass must provide this."""
        raise NotImplementedError(f"{type(self).__name__} has no fixture open_signer")

    @pytest.fixture
    def secrets(self) -> Sequence[str]:
        """Strings that must never show: the PIN, the token, the passphrase, a private number."""
        return ()

    @pytest.fixture
    def slow(self) -> Slow | None:
        """Makes the store slow, or None."""
        return None

    @pytest.fixture
    def swap_key(self) -> SwapKey | None:
        """Puts another key in the place of the one under test, or None."""
        return None

    # --- what the tests use ------------------------------------------------------

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test for each of `keys`."""
        if "contract_key" in metafunc.fixturenames:
            names = list(self.keys) or [""]
            metafunc.parametrize("contract_key", names, ids=[n or "key" for n in names])

    @pytest.fixture
    def opened(self, open_signer: OpenSigner, contract_key: str) -> Iterator[Callable[..., Signer]]:
        """Opens signers for one test and closes them after it."""
        with ExitStack() as stack:

            def open_one(**options: object) -> Signer:
                signer = open_signer(*filter(None, (contract_key,)), **options)
                stack.callback(_close_quietly, signer)
                return signer

            yield open_one

    @pytest.fixture
    def signer(self, opened: Callable[..., Signer]) -> Signer:
        """The key under test, opened with defaults."""
        return opened()

    def _hidden(self, secrets: Sequence[str]) -> Sequence[str]:
        """The secrets to look for: none only where the table says why."""
        if secrets:
            assert all(secrets), "an empty secret shows everywhere"
            assert "secrets" not in self.cannot, "in cannot, and given all the same: secrets"
        else:
            assert "secrets" in self.cannot, (
                "provide the fixture secrets, or say in cannot['secrets'] why a test cannot"
            )
        return secrets

    def _too_long(self, algorithm: str) -> bool:
        return "long" in self.cannot and not ALGORITHMS[algorithm].digest_size

    def _deadline(self) -> Deadline:
        return Deadline.after(self.timeout)


def port_key(signer: Signer) -> BackendKey:
    """What the backend opened: the contract is about it, not about keystay's own part."""
    return signer._key


def _close_quietly(signer: Signer) -> None:
    with contextlib.suppress(KeystayError):
        signer.close()
