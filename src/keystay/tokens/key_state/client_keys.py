"""The keys of one configured client: the configuration's, or what a rotation made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystay.config import Config, open_client_signer
from keystay.custody import Fact
from keystay.errors import ConfigurationError, KeyChangedError
from keystay.jwk import JWKSet, public_jwk
from keystay.tokens.key_state.publication import is_same_key
from keystay.tokens.key_state.state import PUBLISHED, RotationKey, RotationState
from keystay.tokens.key_state.state_file import StateFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystay.signer import Signer

__all__ = ["ClientKeys", "published_keys"]


class ClientKeys:
    """Which keys a client has, and how to open them.

    Args:
        config: A loaded configuration.
        name: The client's name; as for `Config.client`.

    Attributes:
        client: The client's table.
        name: Its name; None for the client that the environment describes, which has no
            state file and so no rotation.
    """

    def __init__(self, config: Config, name: str | None = None) -> None:
        self.config = config
        self.client = config.client(name)
        self.name = config.client_name(name)
        self.file = None if self.name is None else StateFile(config.states, self.name)

    def state(self) -> RotationState | None:
        """What the state file says; None where the configuration's key is the only one.

        Raises:
            ConfigurationError: The file cannot be used, or contradicts the configuration.
        """
        state = None if self.file is None else self.file.read()
        if state is not None and self.client.key not in (state.configured_key, state.current.uri):
            raise ConfigurationError(
                f"The key of {self.name} in {self.config.path} was edited after a rotation began: "
                "it is neither the key from before nor the current one.",
                cause="Which of the two is meant to sign, nobody can tell.",
                hint=f'Write the current one: key = "{state.current.uri}". To use another, rotate: '
                f"keystay rotate start {self.name} --key URI. To forget the rotation, move "
                f"{self.file and self.file.path} away.",
                code="rotation-key-edited",
            )
        return state

    def open_current(self) -> Signer:
        """Open the key that signs now.

        Raises:
            KeystayError: It cannot be told, or not be opened.
        """
        state = self.state()
        return self.open(None if state is None else state.current)

    def open(self, key: RotationKey | None) -> Signer:
        """Open one of the client's keys, as it was published; None for the configured one.

        Raises:
            KeystayError: It cannot be opened, or is not the key that was published.
        """
        if key is None:
            return open_client_signer(self.config, self.name)
        signer = open_client_signer(
            self.config,
            self.name,
            uri=key.uri,
            algorithm=key.algorithm,
            kid=key.kid,
            created=self._created(key),
        )
        if key.jwk is not None and not is_same_key(public_jwk(signer.public_key), key.jwk):
            uri, kid = key.uri, key.kid
            signer.close()
            raise KeyChangedError(
                f"The key {uri} is not the one that was published as {kid}.",
                cause="An alias was pointed at another key, or the key was replaced.",
                hint="Put the former key back, or rotate to this one under a name of its own.",
                code="rotation-key-changed",
            )
        return signer

    def _created(self, key: RotationKey) -> Fact | None:
        """When a key was made, as this file and the state file have it."""
        if key.created is not None:
            return Fact(key.created.isoformat(), "asserted")
        return self.client.created if key.uri == self.client.key else None

    def published(self) -> tuple[RotationKey, ...] | None:
        """The keys that belong into the set, in its order; None without a state file."""
        state = self.state()
        if state is None:
            return None
        return tuple(_published(state))


def published_keys(config: Config, name: str | None = None) -> JWKSet:
    """The JWK Set of a configured client, as it has to be published now.

    The current key; during a rotation its successor, or the key that is retiring, as well. Only
    without a rotation is the key itself asked.

    Args:
        config: A loaded configuration.
        name: The client; as for `TokenClient.from_config`.

    Raises:
        KeystayError: The keys cannot be told, or the key not be opened.
    """
    keys = ClientKeys(config, name)
    if (state := keys.state()) is not None:
        return state.published()
    with keys.open_current() as signer:
        return JWKSet.from_signers([signer])


def _published(state: RotationState) -> Iterator[RotationKey]:
    for name in PUBLISHED:
        key = state.of(name)
        if key is not None and key.made:
            yield key
