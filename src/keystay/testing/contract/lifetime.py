"""The contract's part about time, threads, processes, and the end."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import anyio
import pytest

from keystay import signatures
from keystay.algorithms import ALGORITHMS
from keystay.backends.port import LeasesKey, SignRequest
from keystay.concurrency.clock import Deadline
from keystay.errors import AlgorithmError, BackendTimeoutError, KeystayError, SignerClosedError
from keystay.testing.contract.base import MESSAGE, ContractBase, Slow, port_key
from keystay.testing.contract.fork import in_child

if TYPE_CHECKING:
    from collections.abc import Callable

    from keystay.signer import Signer

__all__ = ["LifetimeTests"]


_THREADS = 8
_GRACE = 2.0
_MOST_LEASES = 256


class LifetimeTests(ContractBase):
    """It keeps its deadline, serves threads, tasks and forked children, and closes."""

    def test_deadline(self, opened: Callable[..., Signer], slow: Slow | None) -> None:
        """A store that is slow, or busy, gives an error when the deadline is due."""
        signer = opened(timeout=self.timeout)
        signer.sign(MESSAGE)
        with ExitStack() as stack:
            key = port_key(signer)
            if slow is not None:
                stack.enter_context(slow(30.0))
            elif isinstance(key, LeasesKey):
                _take_all_leases(key, stack)
            else:
                assert "slow" in self.cannot, (
                    "provide the fixture slow, or say in cannot['slow'] why a test cannot"
                )
                started = time.monotonic()
                with contextlib.suppress(BackendTimeoutError):
                    signer.sign(MESSAGE, timeout=0.001)
                assert time.monotonic() - started < _GRACE, "it can be slow after all"
                return
            assert "slow" not in self.cannot, "in cannot, and possible all the same: slow"
            started = time.monotonic()
            with pytest.raises(BackendTimeoutError):
                signer.sign(MESSAGE, timeout=0.5)
            assert time.monotonic() - started < 0.5 + _GRACE, "the error came too late"
        if not isinstance(key, LeasesKey) or slow is not None:
            return
        signer.sign(MESSAGE)

    def test_threads(self, signer: Signer) -> None:
        """8 threads sign with one signer, each its own messages."""
        start = threading.Barrier(_THREADS)

        def work(thread: int) -> None:
            start.wait(30)
            for number in range(self.soak_signatures):
                name = signer.algorithms[number % len(signer.algorithms)]
                message = f"{thread}.{number}".encode()
                signatures.verify(signer.public_key, name, message, signer.sign(message, name))

        with ThreadPoolExecutor(_THREADS) as pool:
            for done in [pool.submit(work, thread) for thread in range(_THREADS)]:
                done.result()

    def test_async_equals_sync(self, signer: Signer) -> None:
        """`sign_async` gives what `sign` gives, under asyncio and trio, the loop free meanwhile."""

        async def work() -> None:
            for name in signer.algorithms:
                signature = await signer.sign_async(MESSAGE, name)
                signatures.verify(signer.public_key, name, MESSAGE, signature)
                if ALGORITHMS[name].family in ("RSASSA-PKCS1-v1_5", "EdDSA"):
                    assert signature == signer.sign(MESSAGE, name)
            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(signer.sign_async, MESSAGE)
            with pytest.raises(AlgorithmError):
                await signer.sign_async(MESSAGE, "HS256")

        for backend in ("asyncio", "trio"):
            anyio.run(work, backend=backend)

    def test_fork(self, signer: Signer) -> None:
        """After a fork, parent and child both sign; or are told in time that they cannot."""
        message = b"after the fork"

        def parent() -> None:
            signatures.verify(signer.public_key, signer.algorithm, MESSAGE, signer.sign(MESSAGE))

        parent()
        told = None
        try:
            child = in_child(
                lambda: signer.sign(message), seconds=2 * self.timeout + 5, meanwhile=parent
            )
            parent()
        except KeystayError as error:
            told = f"the parent: {error}"
        else:
            if child.signature is None:
                told = f"the child: {child.error}"
                assert child.is_keystay_error, f"not told by a KeystayError: {told}"
            else:
                signatures.verify(signer.public_key, signer.algorithm, message, child.signature)
        if "fork" in self.cannot:
            assert told is not None, "in cannot, and possible all the same: fork"
        else:
            assert told is None, f"could not sign after the fork: {told}"

    def test_health(self, signer: Signer) -> None:
        """A key that can sign is in good health; a closed one is not."""
        signer.health()
        key = port_key(signer)
        signer.close()
        with pytest.raises(SignerClosedError):
            signer.health()
        with pytest.raises(KeystayError):
            key.health(self._deadline())

    def test_closed(self, signer: Signer) -> None:
        """After `close()` neither the signer nor the backend's key signs."""
        key = port_key(signer)
        signer.sign(MESSAGE)
        signer.close()
        with pytest.raises(SignerClosedError):
            signer.sign(MESSAGE)
        with pytest.raises(KeystayError):
            key.sign(SignRequest(ALGORITHMS[signer.algorithm], MESSAGE, self._deadline()))

    def test_close_is_idempotent(self, signer: Signer) -> None:
        """Closing twice is closing once, for the signer and for the backend's key."""
        key = port_key(signer)
        signer.close()
        signer.close()
        key.close()
        assert "closed" in repr(signer)

    def test_others_survive_a_close(self, opened: Callable[..., Signer]) -> None:
        """Closing one signer leaves the others of the same key alone."""
        first, second = opened(), opened()
        first.sign(MESSAGE)
        first.close()
        second.sign(MESSAGE)
        with opened() as third:
            third.sign(MESSAGE)
        second.sign(MESSAGE)


def _take_all_leases(key: LeasesKey, stack: ExitStack) -> None:
    for _ in range(_MOST_LEASES):
        try:
            stack.enter_context(key.lease(Deadline.after(0.2)))
        except BackendTimeoutError:
            return
    pytest.fail(f"the key gave out {_MOST_LEASES} leases; limit them, or provide the fixture slow")
