"""Carries the steps of a rotation out: reads the state, takes a step, writes the state.

Under a lock, and in this order: an intent is written before a key is made, the state after it.
Killed at any point, the same command goes on where the last one ended.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from keystay.errors import ConfigurationError, RotationError
from keystay.jwk import key_kind, public_jwk, public_key_from_jwk, thumbprint
from keystay.ops.rotation import steps
from keystay.ops.rotation.successor import Stores, find_or_make, free_uri
from keystay.smart.vendors import Vendor, vendor_of
from keystay.tokens.key_state.client_keys import ClientKeys
from keystay.tokens.key_state.state import RotationKey, RotationState

if TYPE_CHECKING:
    from keystay.config import Config
    from keystay.signer import Signer
    from keystay.tokens.key_state.publication import Publication
    from keystay.tokens.key_state.state_file import StateFile

__all__ = ["Rotation"]


def _now() -> datetime:
    return datetime.now(UTC)


class Rotation:
    """The rotation of one client's key.

    Args:
        config: A loaded configuration.
        name: The client's name; as for `Config.client`.
        clock: The time, with its zone.

    Raises:
        ConfigurationError: There is no such client, or it stands in the environment, beside
            which no state can be kept.
    """

    def __init__(
        self, config: Config, name: str | None = None, *, clock: Callable[[], datetime] = _now
    ) -> None:
        self.keys = ClientKeys(config, name)
        if self.keys.file is None or self.keys.name is None:
            raise ConfigurationError(
                "The client that the environment describes cannot be rotated.",
                cause="The state of a rotation is kept beside keystay.toml.",
                hint="Describe the client there: [clients.NAME].",
                code="rotation-needs-file",
            )
        self.name: str = self.keys.name
        self._file: StateFile = self.keys.file
        self._stores, self._clock = Stores(config), clock

    @property
    def vendor(self) -> Vendor:
        """Whose server it is."""
        return vendor_of(self.keys.client.fhir_base_url, self.keys.client.vendor)

    @property
    def now(self) -> datetime:
        """The time."""
        return self._clock()

    def state(self) -> RotationState | None:
        """The state as it is; None when no rotation was ever begun."""
        return self.keys.state()

    def successor_uri(self) -> str:
        """What the successor would be called, if nobody names it."""
        state = self.state()
        uri = self.keys.client.key if state is None else state.current.uri
        return free_uri(self._stores, uri, self.now)

    def start(
        self,
        uri: str | None = None,
        *,
        key_type: str | None = None,
        algorithm: str | None = None,
        kid: str | None = None,
        before: Publication | None = None,
    ) -> RotationState:
        """Find or make the successor and add it to the set.

        Args:
            uri: Its key URI; default the current key's name with today's date.
            key_type: What to make; default the current key's type.
            algorithm: JWS algorithm; default the current key's if it can do that, else by type.
            kid: Default the thumbprint.
            before: What is published now: servers may keep it for as long as it says.

        Raises:
            RotationError: Another rotation is under way, or the key is the current one.
            KeystayError: The key can neither be found nor made, or does not sign.
        """
        with self._file.locked():
            state = former = self.state()
            if state is None:
                state = self._first()
            state = msgspec.structs.replace(state, configured_key=self.keys.client.key)
            successor = state.of("next")
            if successor is not None and successor.made:
                asked = (
                    (uri, (None, successor.uri, successor.asked)),
                    (algorithm, (None, successor.algorithm)),
                    (kid, (None, successor.kid)),
                )
                if any(option not in fitting for option, fitting in asked):
                    raise self._under_way(successor)
                return state
            steps.refuse_under_way(state)
            if successor is None or uri not in (None, successor.uri):
                successor = RotationKey(
                    state="next",
                    since=steps.moment(self.now),
                    uri=uri or free_uri(self._stores, state.current.uri, self.now),
                    algorithm=algorithm,
                    kid=kid,
                    key_type=key_type or _type_of(state.current),
                )
            else:  # intended by a start that was killed or refused; what is asked for now counts
                successor = msgspec.structs.replace(
                    successor,
                    algorithm=algorithm or successor.algorithm,
                    kid=kid or successor.kid,
                    key_type=key_type or successor.key_type,
                )
            intent = state.with_keys(state.current, successor)
            made, created = self._make(successor, intent, former)
            successor = msgspec.structs.replace(successor, created=created)
            state = steps.start(intent, self._checked(successor, made, state))
            if before is not None:
                state = steps.see(state, before, self.vendor, self.now)
            self._file.write(state)
            return state

    def see(self, publication: Publication) -> RotationState | None:
        """Note what is published; see `steps.see`."""
        with self._file.locked():
            state = self.state()
            return state and self._write(
                state, steps.see(state, publication, self.vendor, self.now)
            )

    def promote(self, *, drain: int = steps.DRAIN, force: bool = False) -> RotationState:
        """Let the successor sign; see `steps.promote`. It has to show that it can.

        Raises:
            RotationError: It is too early.
            KeystayError: The successor does not sign, where `force` does not say it need not.
        """
        with self._file.locked():
            state = self._begun()
            changed = steps.promote(state, self.now, drain=drain, force=force)
            successor = state.of("next")
            if changed is not state and successor is not None and not force:
                with self.keys.open(successor) as signer:
                    _prove(signer, signer.algorithm)
            return self._write(state, changed)

    def finish(self, *, force: bool = False) -> RotationState:
        """Take the retiring key out of the set; see `steps.finish`."""
        with self._file.locked():
            state = self._begun()
            return self._write(state, steps.finish(state, self.now, force=force))

    def abort(self) -> RotationState:
        """Give the rotation up; see `steps.abort`."""
        with self._file.locked():
            state = self._begun()
            return self._write(state, steps.abort(state, self.now))

    def _make(
        self, successor: RotationKey, intent: RotationState, former: RotationState | None
    ) -> tuple[str, datetime | None]:
        """The URI of the key, found or made, and when it was made if that was by keystay.

        What is about to be made is written down first.
        """
        created = successor.created  # by a start that was killed

        def note() -> None:
            nonlocal created
            created = steps.moment(self.now)
            making = msgspec.structs.replace(successor, created=created)
            self._file.write(intent.with_keys(intent.current, making))

        try:
            uri = find_or_make(
                self._stores,
                successor.uri,
                successor.key_type or "P-384",
                was_begun=successor.created is not None,
                before_making=note,
            )
        except ConfigurationError:
            # Refused before anything was made: nothing to remember.
            if former is None:
                self._file.path.unlink(missing_ok=True)
            elif former.of("next") is None:
                self._file.write(former)
            raise
        return uri, created

    def _checked(self, successor: RotationKey, uri: str, state: RotationState) -> RotationKey:
        """The successor with its public key, once it has signed."""
        found = msgspec.structs.replace(
            successor, uri=uri, asked=successor.uri if uri != successor.uri else None, key_type=None
        )
        with self.keys.open(found) as signer:
            algorithm = signer.algorithm
            former = state.current.algorithm
            if successor.algorithm is None and former in signer.permitted:
                algorithm = former
            _prove(signer, algorithm)
            jwk = public_jwk(signer.public_key, kid=signer.kid, algorithm=algorithm)
        for key in (state.current, state.of("retiring")):
            if key is None or key.jwk is None:
                continue
            if thumbprint(key.jwk) == thumbprint(jwk):
                raise RotationError(
                    f"The key {uri} is the {key.state} key itself.",
                    hint="Name another: --key URI. Without it a new key is made.",
                    code="rotation-same-key",
                )
            if key.kid == jwk["kid"]:
                raise RotationError(
                    f"The kid {key.kid!r} is the {key.state} key's.",
                    cause="Servers refuse a set in which a kid matches several keys.",
                    hint="Give the successor its own: --kid. Without it the kid is the thumbprint.",
                    code="jwk-kid-duplicate",
                )
        return msgspec.structs.replace(found, kid=jwk["kid"], algorithm=jwk["alg"], jwk=jwk)

    def _first(self) -> RotationState:
        """The state before the first rotation: the configured key is the current one.

        A key that policy refuses, one that is too old for instance, is one to rotate away from.
        """
        uri = self.keys.client.key
        with ClientKeys(self.keys.config.unenforced(), self.name).open_current() as signer:
            jwk = public_jwk(signer.public_key, kid=signer.kid, algorithm=signer.algorithm)
        current = RotationKey(
            state="current", since=steps.moment(self.now), uri=uri, kid=jwk["kid"],
            algorithm=jwk["alg"], jwk=jwk,
        )  # fmt: skip
        return RotationState(client=self.name, configured_key=uri, keys=(current,))

    def _begun(self) -> RotationState:
        state = self.state()
        if state is None:
            raise RotationError(
                f"No rotation of {self.name}'s key was ever begun.",
                hint=f"keystay rotate start {self.name}",
                code="rotation-not-started",
            )
        return state

    def _write(self, state: RotationState, changed: RotationState) -> RotationState:
        changed = msgspec.structs.replace(changed, configured_key=self.keys.client.key)
        if changed != state:
            self._file.write(changed)
        return changed

    def _under_way(self, successor: RotationKey) -> RotationError:
        return RotationError(
            f"A rotation of {self.name}'s key is under way, to {successor.uri}.",
            hint=f"Go on with it: keystay rotate status {self.name}. Or give it up: keystay rotate "
            f"abort {self.name}.",
            code="rotation-under-way",
        )


def _prove(signer: Signer, algorithm: str) -> None:
    """Have the key sign something that is nothing; the signer checks the signature."""
    signer.sign(b"keystay rotate\0" + os.urandom(16), algorithm)


def _type_of(key: RotationKey) -> str:
    assert key.jwk is not None
    kty, curve, bits = key_kind(public_key_from_jwk(key.jwk))
    return curve or f"{kty}-{bits}"
