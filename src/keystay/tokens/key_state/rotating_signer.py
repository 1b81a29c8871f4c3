"""The signer of a client that may be rotated while it runs.

A promotion is noticed by a look at the state file before each token request. The promoted key is
opened, requests under way end with the key they began with, and that is closed after the last.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from keystay.concurrency.clock import Deadline
from keystay.concurrency.forks import reset_after_fork
from keystay.concurrency.locks import DeadlineLock
from keystay.errors import ConfigurationError, KeystayError
from keystay.jwk import public_jwk
from keystay.tokens.key_state.publication import is_same_key
from keystay.tokens.key_state.requirement import PublicationRequirement

if TYPE_CHECKING:
    from keystay.http.io import IO
    from keystay.signer import Signer
    from keystay.tokens.key_state.client_keys import ClientKeys
    from keystay.tokens.key_state.state import RotationState

__all__ = ["RotatingSigner"]

logger = logging.getLogger("keystay.rotation")


class RotatingSigner:
    """Opens the current key of a configured client, and the next one once it is promoted.

    Thread-safe, and usable in a forked child. Nothing but `refresh` opens a key or takes long.

    Args:
        keys: The client's keys.

    Raises:
        KeystayError: The current key cannot be told or opened; or the policy requires that it is
            published, and the client has no JWKS URL.
    """

    def __init__(self, keys: ClientKeys) -> None:
        self._keys = keys
        self._required = PublicationRequirement.of(keys)
        self._stamp = None if keys.file is None else keys.file.stamp()
        self._held = self._open(keys.state())
        self._closed = False
        self._opening = DeadlineLock("opening the key that is current now")
        self.remake_locks()
        reset_after_fork(self.remake_locks)

    def __repr__(self) -> str:
        return repr(self.signer)

    @property
    def signer(self) -> Signer:
        """The signer of new requests, as far as is known."""
        return self._held.signer

    def refresh(self, deadline: Deadline) -> None:
        """Open the key that is current now, if the state has changed; else at one `stat`'s cost.

        When that fails, the key in hand goes on as long as it may be published still.

        Args:
            deadline: When to stop waiting for another thread that does it.

        Raises:
            KeystayError: It fails, and the key in hand has left the set.
        """
        file = self._keys.file
        if file is None or file.stamp() == self._stamp or self._closed:
            return
        with self._opening.held(deadline):
            stamp, state = file.stamp(), None
            if stamp == self._stamp:
                return  # somebody else was faster
            try:
                state = file.read()
                if state is None and not self._held.from_configuration:
                    # The configuration in hand is from before the rotation.
                    raise ConfigurationError(f"The key state {file.path} is gone.")
                if not self._is_current(state):
                    self._replace(self._open(state))
                self._stamp = stamp
            except KeystayError as error:
                if state is not None and not state.publishes(self.signer.kid):
                    raise
                logger.warning(
                    "going on with the key %s, the state of the rotation could not be followed: %s",
                    self.signer.kid,
                    error,
                    extra={"event": "rotation-not-followed"},
                )

    @contextmanager
    def lease(self) -> Iterator[Signer]:
        """The signer for one request; it stays open until the block ends."""
        with self._lock:
            held = self._held
            held.users += 1
        try:
            yield held.signer
        finally:
            with self._lock:
                held.users -= 1
                is_last = held.gone and not held.users
            if is_last:
                _close(held.signer)

    async def check(self, signer: Signer, io: IO) -> None:
        """Return if the signer may sign; asks the JWKS URL where the policy requires it.

        Raises:
            KeyUnusableError: Its key is not published.
            NetworkError, JWKError: That cannot be told.
        """
        if self._required is not None:
            await self._required.check(signer, io)

    def close(self) -> None:
        """Close the key once nobody uses it; idempotent."""
        self._closed = True
        self._drop(self._held)

    def _is_current(self, state: RotationState | None) -> bool:
        if state is None:
            return self._held.from_configuration
        signer = self.signer
        current = state.current
        return (
            (signer.kid, signer.algorithm) == (current.kid, current.algorithm)
            and current.jwk is not None
            and is_same_key(public_jwk(signer.public_key), current.jwk)
        )

    def _open(self, state: RotationState | None) -> _Held:
        if state is None:
            return _Held(self._keys.open(None), from_configuration=True)
        return _Held(self._keys.open(state.current))

    def _replace(self, new: _Held) -> None:
        with self._lock:
            old, self._held = self._held, new
        logger.info(
            "signing with the key %s instead of %s",
            new.signer.kid,
            old.signer.kid,
            extra={"event": "key-rotated"},
        )
        self._drop(old)
        if self._closed:
            self._drop(new)

    def _drop(self, held: _Held) -> None:
        with self._lock:
            held.gone, is_idle = True, not held.users
        if is_idle:
            _close(held.signer)

    def remake_locks(self) -> None:
        """At the beginning, and in a forked child, where nobody else holds a lock."""
        self._lock = threading.RLock()


class _Held:
    """A signer and how many requests use it."""

    def __init__(self, signer: Signer, *, from_configuration: bool = False) -> None:
        self.signer, self.from_configuration = signer, from_configuration
        self.users = 0
        self.gone = False


def _close(signer: Signer) -> None:
    try:
        signer.close()
    except KeystayError as error:
        logger.warning(
            "the key %s could not be closed: %s",
            signer.kid,
            error.message,
            extra={"event": "key-not-closed"},
        )
