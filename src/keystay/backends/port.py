"""The port: what a backend is given, what it returns, and what it may offer besides.

A backend turns a digest (or a message, where the mechanism demands one) into signature
bytes, and says what it knows about its key. Claims, encodings, hashing, verification,
deadlines and errors towards the user are the core's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

import msgspec

from keystay.backends.secrets import SecretResolver
from keystay.concurrency.clock import Deadline

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

    from keystay.algorithms import Algorithm
    from keystay.custody import Custody, Fact

__all__ = [
    "API_VERSION",
    "BackendContext",
    "BackendKey",
    "BackendSignature",
    "GeneratesKeys",
    "KeyDescription",
    "KeyRecord",
    "KeyStore",
    "LeasesKey",
    "ListsKeys",
    "NamesSuccessors",
    "ResumesKeys",
    "SignRequest",
    "SigningKey",
    "TellsCustody",
]

API_VERSION = 1
"""Version of this port. A plugin module states the one it was written for as `api_version`."""


class SignRequest(msgspec.Struct, frozen=True, gc=False):
    """One signature to make.

    Attributes:
        algorithm: The JWS algorithm.
        message: The bytes to be signed, or None when the caller only has the digest.
        deadline: When to give up.
        given_digest: The digest, where the caller has only that.
    """

    algorithm: Algorithm
    message: bytes | None
    deadline: Deadline
    given_digest: bytes | None = None

    @property
    def digest(self) -> bytes | None:
        """The message's hash by `algorithm`; None for EdDSA, which signs the message itself."""
        if self.message is None:
            return self.given_digest
        hashed = self.algorithm.hash
        return None if hashed is None else hashed(self.message).digest()

    def __repr__(self) -> str:
        return f"<SignRequest {self.algorithm.name}>"


class BackendSignature(NamedTuple):
    """A signature as the backend returns it.

    Attributes:
        value: The signature's bytes.
        encoding: `raw` (RSA octets, ECDSA r‖s, RFC 8032) or `der` (ECDSA, RFC 3279 §2.2.3).
        key_id: The backend's own id of the key that signed, *this* time.
        request_id: The backend's id of the request, for its logs.
        session: Changes whenever the backend has opened a new session or connection, or has
            found its key anew.
    """

    value: bytes
    encoding: Literal["raw", "der"]
    key_id: str
    request_id: str | None = None
    session: int = 0

    def __repr__(self) -> str:
        return f"<BackendSignature of {self.key_id}, {len(self.value)} bytes {self.encoding}>"


@dataclass(frozen=True, slots=True)
class KeyDescription:
    """What a backend knows about an opened key.

    Attributes:
        public_key: A `cryptography` public key.
        algorithms: JWS algorithms the key can do here; the core picks from these.
        key_id: The backend's own, unchanging id of the key (token serial and CKA_ID, an ARN).
        label: What a person calls it.
        custody: Where the private key is while it signs.
        signs_here: The signature is computed by the very library that would verify it, in
            this process (a PEM key). The core then verifies one when it opens the key, not each.
        created: When the key was made, and how that is known; None when the backend cannot say.
        algorithm_hint: What to do when another algorithm is asked for than the key can do here,
            in the backend's own words; None for a general remedy.
        brief: A signature takes less than a hop to another thread and back is worth, 0.3 ms or
            so, and cannot wait for anything: computed here, as a PEM key's on a curve. It is then
            made on the event loop itself, every other in a thread.
    """

    public_key: PublicKeyTypes
    algorithms: Sequence[str]
    key_id: str
    label: str
    custody: Custody
    signs_here: bool = False
    algorithm_hint: str | None = None
    created: Fact | None = None
    brief: bool = False


class SigningKey(Protocol):
    """Something that signs."""

    def sign(self, request: SignRequest) -> BackendSignature:
        """Sign; thread-safe; over when `request.deadline` is.

        Raises:
            BackendError: Mapped from whatever the SDK raised, which is chained.
        """


@runtime_checkable
class BackendKey(SigningKey, Protocol):
    """An opened key."""

    def describe(self) -> KeyDescription:
        """What is known about the key; the same at every call."""

    def health(self, deadline: Deadline) -> None:
        """Raise a `BackendError` unless the key could sign now. Does not sign."""

    def close(self) -> None:
        """Release everything; idempotent."""


@runtime_checkable
class LeasesKey(Protocol):
    """A key whose users may have to wait for a session.

    The core takes the lease first and stamps the claims after, so that time spent in the
    queue is not taken from the assertion's lifetime.
    """

    def lease(self, deadline: Deadline) -> AbstractContextManager[SigningKey]:
        """Wait for a session and hold it for the block."""


@runtime_checkable
class TellsCustody(Protocol):
    """A key that can say anew where it is.

    The core asks after each reconnection, before a signature is used: what answers then may be
    something else than what was opened.
    """

    def custody_now(self, deadline: Deadline) -> Custody:
        """Where the private key is now, as `KeyDescription.custody`.

        Raises:
            BackendError: It cannot be told.
        """


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as a key store lists it.

    Attributes:
        uri: A key URI that opens it.
        key_type: `P-256`, `P-384`, `P-521`, `RSA-<bits>`, `Ed25519`, or the store's own name.
        label: What a person calls it, or "".
        key_id: The store's id.
        attributes: What the store says of it (`sensitive`, `extractable`, …), in its words.
    """

    uri: str
    key_type: str
    label: str
    key_id: str
    attributes: Mapping[str, str | bool] = field(default_factory=dict)


class KeyStore(Protocol):
    """A place that holds keys. What it can do with them is its capabilities' to say."""

    def close(self) -> None:
        """Release everything; idempotent."""


@runtime_checkable
class GeneratesKeys(KeyStore, Protocol):
    """A key store that can make keys."""

    def generate_key(self, key_type: str) -> KeyRecord:
        """Generate the key the store's URI names; never replaces an existing one."""


@runtime_checkable
class ListsKeys(KeyStore, Protocol):
    """A key store that can list its private keys."""

    def list_keys(self) -> Sequence[KeyRecord]:
        """Every private key the URI matches."""


@runtime_checkable
class NamesSuccessors(KeyStore, Protocol):
    """A key store that can name a new key after the one its URI names, for its rotation."""

    def successor_uri(self, suffix: str) -> str:
        """The URI of a new key; see `keystay.key_uri.successor_name`. Nothing is made.

        Raises:
            ConfigurationError: The URI gives the key no name that another could be made of.
        """


@runtime_checkable
class ResumesKeys(GeneratesKeys, Protocol):
    """A key store where a key can be left without its name, if its making is killed."""

    def resume_key(self, key_type: str) -> KeyRecord | None:
        """Name the key that a `generate_key` for this URI has left so; None if there is none.

        Args:
            key_type: As for `generate_key`.

        Raises:
            BackendError: What the store reports.
        """


@dataclass(slots=True, repr=False)
class BackendContext:
    """What the core hands to a backend along with the URI.

    Attributes:
        settings: The `[backends.<scheme>]` table; the backend checks it with its own Struct
            (`keystay.settings.read_plugin_table`).
        secrets: Resolves secret references; asks once.
        timeout: Seconds that opening, or one signature, may take.
        base_dir: Where relative paths start: the configuration file's folder, or the
            working directory.
    """

    settings: Mapping[str, object] = field(default_factory=dict)
    secrets: SecretResolver = field(default_factory=SecretResolver)
    timeout: float = 10.0
    base_dir: Path = field(default_factory=Path)
