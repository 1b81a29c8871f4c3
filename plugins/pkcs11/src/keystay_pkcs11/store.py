"""A token as a key store: makes keys that cannot leave it, and lists those that are there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pkcs11 import Attribute, MechanismFlag
from pkcs11.exceptions import AttributeValueInvalid, DomainParamsInvalid, PKCS11Error
from pkcs11.mechanisms import KeyType, Mechanism

from keystay.backends import Deadline, KeyRecord
from keystay.errors import KeyNotFoundError, KeyUnusableError, did_you_mean
from keystay_pkcs11 import objects
from keystay_pkcs11.errors import TEXTS, translated
from keystay_pkcs11.objects import KeyQuery, key_type_name
from keystay_pkcs11.recovery import Recovery, TokenAccess
from keystay_pkcs11.uri import key_uri, new_key_label, successor_uri

if TYPE_CHECKING:
    from pkcs11 import Object

    from keystay.backends import BackendContext
    from keystay.key_uri import KeyURI
    from keystay_pkcs11.objects import PrivateKey
    from keystay_pkcs11.sessions import Session
    from keystay_pkcs11.token import Connection

__all__ = ["Pkcs11Store"]

_RSA_BITS = {"RSA-2048": 2048, "RSA-3072": 3072, "RSA-4096": 4096}
# CKA_EC_PARAMS: a DER object identifier (RFC 5480 §2.1.1.1), or the curve's name.
_CURVES = {
    "P-256": (bytes.fromhex("06082a8648ce3d030107"),),
    "P-384": (bytes.fromhex("06052b81040022"),),
    "P-521": (bytes.fromhex("06052b81040023"),),
    "Ed25519": (bytes.fromhex("06032b6570"), b"\x13\x0cedwards25519"),
}
_KEY_TYPES = (*_CURVES, *_RSA_BITS)
_WRONG_CURVE = (DomainParamsInvalid, AttributeValueInvalid)
# What a generated key must be: name as reported, and value.
_REQUIRED = {"sensitive": True, "extractable": False}
_ID_BYTES = 8
# Generating RSA-4096 in a slow token takes its time.
_GENERATE_SECONDS = 120.0


class Pkcs11Store:
    """The token a `pkcs11:` URI means.

    Args:
        access: The token; the store closes it.
        uri: What the user wrote.
        timeout: Seconds each operation may wait.
    """

    def __init__(self, access: TokenAccess, uri: KeyURI, timeout: float) -> None:
        self._access, self._uri, self._timeout = access, uri, timeout
        self._place = access.token.place

    @classmethod
    def open(cls, uri: KeyURI, context: BackendContext) -> Pkcs11Store:
        """Open the token a URI means, logged in.

        Raises:
            KeystayError: As for opening a key, but for the key itself.
        """
        deadline = Deadline.after(context.timeout)
        access = TokenAccess.open(uri, context, deadline)
        try:
            Recovery(access, deadline).connect()
            return cls(access, uri, context.timeout)
        except BaseException:
            access.close()
            raise

    def __repr__(self) -> str:
        return f"<Pkcs11Store {self._place}>"

    def generate_key(self, key_type: str) -> KeyRecord:
        """Generate a key pair in the token: sensitive, not extractable, for signing only.

        Args:
            key_type: `P-256`, `P-384`, `P-521`, `RSA-2048`, `RSA-3072`, `RSA-4096`, and, where
                the token has the mechanism, `Ed25519`.

        Returns:
            The private key. Its label is the URI's `object`, its CKA_ID the URI's `id` or 8
            random bytes; the public key has the same.

        Raises:
            ConfigurationError: The key type is unknown, or the URI names no label.
            KeyUnusableError: A key of that label or id exists (it is left as it is), or the
                token made one that can leave it (it is destroyed).
            BackendError: The token refuses.
        """
        self._check_open()
        if key_type not in _KEY_TYPES:
            hint = did_you_mean(key_type, _KEY_TYPES)
            raise TEXTS.error("key-type", key_type=key_type, hint=hint)
        label = new_key_label(self._uri)
        deadline = Deadline.after(self._timeout)
        # The first use recovers a connection that was lost; generating is not repeated.
        self._access.run("looking for keys", deadline, self._find)
        connection = Recovery(self._access, deadline).connect()
        with translated("generating the key", self._place):
            session = connection.open_session(deadline, rw=True)

        def generate() -> KeyRecord:
            try:
                return self._generate(session, key_type, label)
            finally:
                session.native.close()

        with translated("generating the key", self._place):
            return connection.module.call(
                generate, Deadline.after(_GENERATE_SECONDS), generation=connection.generation
            )

    def list_keys(self) -> list[KeyRecord]:
        """Every private key that the URI's `object` and `id` match, by label.

        Raises:
            BackendError: The token fails.
        """
        self._check_open()
        found = self._access.run("listing the keys", Deadline.after(self._timeout), self._find)
        return sorted(found, key=lambda record: (record.label, record.key_id))

    def successor_uri(self, suffix: str) -> str:
        """The same token, another label: `object=epic` becomes `object=epic-<suffix>`.

        Raises:
            ConfigurationError: The URI names no label.
        """
        return successor_uri(self._uri, suffix)

    def close(self) -> None:
        """Release the token; its last user logs out. Idempotent."""
        self._access.close()

    def _check_open(self) -> None:
        if self._access.is_closed:
            raise TEXTS.error("store-closed", place=self._place)

    def _find(self, connection: Connection, session: Session) -> list[KeyRecord]:
        query = KeyQuery(self._uri.attributes.get("id"), self._uri.attribute("object"))
        return [self._record(session, key) for key in objects.find_all(session, query)]

    def _generate(self, session: Session, key_type: str, label: str) -> KeyRecord:
        self._refuse_existing(session, KeyQuery(label=label))
        key_id = self._uri.attributes.get("id")
        if key_id is not None:
            self._refuse_existing(session, KeyQuery(key_id=key_id))
        else:
            key_id = os.urandom(_ID_BYTES)
        public, private = _generate_pair(session, key_type, key_id, label)
        try:
            (made,) = (k for k in objects.find_all(session, KeyQuery(key_id, label))
                       if k.handle == private.handle)  # fmt: skip
            self._check_made(made)
            return self._record(session, made)
        except BaseException:
            for item in (private, public):
                _destroy(item)
            raise

    def _refuse_existing(self, session: Session, query: KeyQuery) -> None:
        if found := objects.find_all(session, query):
            raise TEXTS.error("key-exists", place=self._place, query=query, key=found[0])

    def _check_made(self, key: PrivateKey) -> None:
        wrong = [name for name, value in _REQUIRED.items() if key.flags.get(name) is not value]
        if wrong:
            has = ", ".join(f"{name} is {key.flags.get(name)}" for name in wrong)
            raise TEXTS.error("attributes-ignored", place=self._place, has=has)

    def _record(self, session: Session, key: PrivateKey) -> KeyRecord:
        facts, asked = self._access.token.facts, self._uri
        return KeyRecord(
            uri=key_uri(asked, facts, key.label, key.key_id, self._access.module_path),
            key_type=self._type_of(session, key),
            label=key.label,
            key_id=f"{facts.serial}/{key.key_id.hex() or key.label}",
            attributes={**key.flags, "id": key.key_id.hex()},
        )

    def _type_of(self, session: Session, key: PrivateKey) -> str:
        try:
            return key_type_name(objects.public_key_of(session, key, self._place))
        except (KeyNotFoundError, KeyUnusableError):
            return key.type_name


def _generate_pair(
    session: Session, key_type: str, key_id: bytes, label: str
) -> tuple[Object, Object]:
    """Public and private key.

    Raises:
        PKCS11Error: The token refuses.
    """
    common: dict[str, Any] = {
        "id": key_id,
        "label": label,
        "store": True,
        "capabilities": MechanismFlag.SIGN | MechanismFlag.VERIFY,
        "public_template": {Attribute.PRIVATE: False, Attribute.VERIFY_RECOVER: False},
        "private_template": {
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.SIGN_RECOVER: False,
        },
    }
    native = session.native
    if key_type in _RSA_BITS:
        return native.generate_keypair(
            KeyType.RSA,
            _RSA_BITS[key_type],
            mechanism=Mechanism.RSA_PKCS_KEY_PAIR_GEN,
            **common,
        )
    kind, mechanism = KeyType.EC, Mechanism.EC_KEY_PAIR_GEN
    if key_type == "Ed25519":
        kind, mechanism = KeyType.EC_EDWARDS, Mechanism.EC_EDWARDS_KEY_PAIR_GEN
    *others, last = _CURVES[key_type]

    def generate(parameters: bytes) -> tuple[Object, Object]:
        domain = native.create_domain_parameters(
            kind, {Attribute.EC_PARAMS: parameters}, local=True
        )
        return domain.generate_keypair(mechanism=mechanism, **common)

    for parameters in others:
        try:
            return generate(parameters)
        except _WRONG_CURVE:
            continue
    return generate(last)


def _destroy(item: Object) -> None:
    try:
        item.destroy()
    except PKCS11Error:
        return
