"""The public key of a client without a rotation, kept for the day its backend does not answer.

In `keystay-keys/<client>.public-jwk`: an HSM that is down when the publisher starts must not take
the client's key off the net.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from keystay.errors import JWKError
from keystay.files import read_guarded, write_atomically
from keystay.jwk import JWKSet

if TYPE_CHECKING:
    from keystay.tokens.key_state.client_keys import ClientKeys

__all__ = ["KeptKey"]

logger = logging.getLogger("keystay.publishing")


class KeptKey:
    """The file of one client; the client that the environment describes has none.

    Args:
        keys: The client's keys.
    """

    def __init__(self, keys: ClientKeys) -> None:
        folder = keys.config.states
        self._path = (
            None if keys.name is None else folder / f"{quote(keys.name, safe=' ')}.public-jwk"
        )
        client = keys.client
        # What the key was read for; another key, kid or algorithm makes it void.
        self._of = {"key": client.key, "kid": client.kid, "algorithm": client.algorithm}

    def load(self) -> Mapping[str, Any] | None:
        """The key as it was kept; None when there is none, or it is another key's.

        Raises:
            ConfigurationError: The file cannot be read or trusted.
        """
        if self._path is None or (text := read_guarded(self._path, "public key")) is None:
            return None
        try:
            document = msgspec.json.decode(text)
            if document["of"] != self._of:
                return None
            (jwk,) = JWKSet((dict(document["jwk"]),))
        except (msgspec.DecodeError, LookupError, TypeError, ValueError, JWKError):
            logger.warning(
                "%s is not what keystay wrote; reading the key anew",
                self._path,
                extra={"event": "kept-key-discarded"},
            )
            return None
        return jwk

    def note(self, jwk: Mapping[str, Any]) -> None:
        """Keep the key; where that is impossible, say so and go on."""
        if self._path is None or self.load() == jwk:
            return
        text = msgspec.json.format(msgspec.json.encode({"of": self._of, "jwk": jwk}), indent=2)
        try:
            self._path.parent.mkdir(exist_ok=True)
            write_atomically(self._path, text + b"\n")
        except OSError as error:
            logger.warning(
                "the public key cannot be kept in %s (%s): if the backend is down when this "
                "starts again, nothing will be published",
                self._path,
                error.strerror,
                extra={"event": "key-not-kept"},
            )
