"""The keys to publish: asked of their backends once, and kept, so that an outage hides nothing.

A client with a state file has its public keys there. For another the key is read from its backend
and kept (`kept_key`).
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keystay.concurrency.clock import Deadline
from keystay.concurrency.locks import DeadlineLock
from keystay.errors import ConfigurationError, KeystayError
from keystay.jwk import JWKSet, public_jwk
from keystay.ops.publishing.kept_key import KeptKey
from keystay.tokens.key_state.client_keys import ClientKeys

if TYPE_CHECKING:
    from keystay.config import Config
    from keystay.tokens.key_state.state_file import Stamp

__all__ = ["KeySource"]

logger = logging.getLogger("keystay.publishing")

RETRY_SECONDS = 30.0
"""Between attempts to read a key whose backend was down."""

_LONGEST_READING = 60.0  # seconds that a request waits for another one to read the key


class KeySource:
    """The set of one client, or of several that share a JWKS URL. Thread-safe.

    Args:
        config: A loaded configuration.
        names: The clients; without one, the environment's or the only one in the file.

    Raises:
        ConfigurationError: There is no such client.
    """

    def __init__(self, config: Config, names: Sequence[str] = ()) -> None:
        self._clients = [_Client(ClientKeys(config, name)) for name in names or (None,)]

    def __repr__(self) -> str:
        return f"<KeySource of {len(self._clients)} clients>"

    def keys(self) -> JWKSet:
        """The set as it has to be published now.

        Blocks only while a key is read whose public part was never kept.

        Raises:
            KeystayError: A key is not known, and cannot be read.
        """
        found: dict[str, Mapping[str, Any]] = {}
        for client in self._clients:
            for jwk in client.published():
                if found.setdefault(jwk["kid"], jwk) != jwk:
                    JWKSet((found[jwk["kid"]], jwk))  # which says what is wrong with that
        return JWKSet(tuple(found.values()))


class _Client:
    """The keys of one client."""

    def __init__(self, keys: ClientKeys) -> None:
        keys.state()  # which says what does not fit together
        self._keys, self._keeper = keys, KeptKey(keys)
        self._lock = DeadlineLock("reading the key to publish")
        self._stamp: Stamp = None
        self._from_state: Sequence[Mapping[str, Any]] | None = None
        self._kept: Mapping[str, Any] | None = None
        self._fresh = False
        self._tried = float("-inf")
        self._error: KeystayError | None = None
        self._said: tuple[Stamp, str] | None = None

    def published(self) -> Sequence[Mapping[str, Any]]:
        with self._lock.held(Deadline.after(_LONGEST_READING)):
            self._look_at_state()
            if self._from_state is not None:
                return self._from_state
            if self._kept is None:
                self._kept = self._keeper.load()
            is_due = time.monotonic() - self._tried > RETRY_SECONDS
            if self._kept is None:
                self._kept, self._fresh = self._read_unless_down(is_due), True
            elif not self._fresh and is_due:
                self._tried = time.monotonic()
                threading.Thread(target=self._refresh, name="keystay-jwks", daemon=True).start()
            return (self._kept,)

    def _look_at_state(self) -> None:
        """Read the state file when it has changed; one that is broken or gone changes nothing."""
        file = self._keys.file
        if file is None or ((stamp := file.stamp()) == self._stamp and self._from_state):
            return
        try:
            # What the configuration says is not compared with it: that was loaded long ago.
            state = file.read()
            if state is None and self._from_state is not None:
                raise ConfigurationError(f"The key state {file.path} is gone.")
        except KeystayError as error:
            if self._from_state is None:
                raise
            if self._said != (said := (stamp, error.message)):
                self._said = said
                logger.error(
                    "publishing the keys as they were: %s",
                    error,
                    extra={"event": "keys-not-followed"},
                )
        else:
            self._from_state = None if state is None else state.published().keys
            self._stamp = stamp

    def _refresh(self) -> None:
        try:
            jwk = self._read()
        except KeystayError as error:
            logger.warning(
                "publishing the key as it was kept: %s", error, extra={"event": "key-unavailable"}
            )
            return
        with self._lock.held(Deadline.after(_LONGEST_READING)):
            self._kept, self._fresh = jwk, True

    def _read_unless_down(self, is_due: bool) -> Mapping[str, Any]:
        """As `_read`; after a failure not at once again, for everybody waits meanwhile."""
        if self._error is not None and not is_due:
            raise copy.copy(self._error)
        self._tried = time.monotonic()
        try:
            return self._read()
        except KeystayError as error:
            self._error = error
            raise

    def _read(self) -> Mapping[str, Any]:
        """The key as its backend has it; noted for the day it does not answer."""
        with self._keys.open_current() as signer:
            jwk = public_jwk(signer.public_key, kid=signer.kid, algorithm=signer.algorithm)
        self._keeper.note(jwk)
        return jwk
