"""Finds a private key on a token, and the public key that goes with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

from pkcs11 import Attribute, ObjectClass, _pkcs11
from pkcs11.exceptions import GeneralError, PKCS11Error
from pkcs11.mechanisms import KeyType

from keystay.custody import Fact
from keystay.errors import KeyAmbiguousError, KeyNotFoundError, KeyUnusableError
from keystay_pkcs11 import public_keys
from keystay_pkcs11.attributes import ALLOWED_MECHANISMS, read

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
    from pkcs11 import Object

    from keystay_pkcs11.errors import Place
    from keystay_pkcs11.sessions import Session

__all__ = ["KeyQuery", "PrivateKey", "find", "find_all", "public_key_of"]

_SIGNING_TYPES = (KeyType.RSA, KeyType.EC, KeyType.EC_EDWARDS)
_MOST_LISTED = 20
_SEARCH_BATCH = 10
# What the token says of a key, and how reports call it.
_FLAGS = {
    "sensitive": Attribute.SENSITIVE,
    "extractable": Attribute.EXTRACTABLE,
    "always_sensitive": Attribute.ALWAYS_SENSITIVE,
    "never_extractable": Attribute.NEVER_EXTRACTABLE,
    "local": Attribute.LOCAL,
    "sign": Attribute.SIGN,
    "always_authenticate": Attribute.ALWAYS_AUTHENTICATE,
}


@dataclass(frozen=True, slots=True)
class KeyQuery:
    """Which private key: by CKA_ID, CKA_LABEL, both, or (neither) the only one that signs."""

    key_id: bytes | None = None
    label: str | None = None

    @property
    def template(self) -> dict[Attribute, Any]:
        """The search template for private keys."""
        template: dict[Attribute, Any] = {Attribute.CLASS: ObjectClass.PRIVATE_KEY}
        if self.key_id is not None:
            template[Attribute.ID] = self.key_id
        if self.label is not None:
            template[Attribute.LABEL] = self.label
        return template

    def __str__(self) -> str:
        parts = [] if self.label is None else [f"label {self.label!r}"]
        parts += [] if self.key_id is None else [f"id {self.key_id.hex()}"]
        return " and ".join(parts)


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A private key object.

    Attributes:
        native: python-pkcs11's object, of the session it was found in.
        handle: CK_OBJECT_HANDLE, good in every session of this process with the token.
        key_id: CKA_ID, or empty.
        label: CKA_LABEL, or empty.
        key_type: CKK number.
        flags: `sensitive`, `extractable`, …; those the token gives.
        allowed_mechanisms: CKA_ALLOWED_MECHANISMS; empty for no restriction.
        created: CKA_START_DATE, or None.
    """

    native: Object = field(repr=False)
    handle: int
    key_id: bytes
    label: str
    key_type: int
    flags: dict[str, bool]
    allowed_mechanisms: tuple[int, ...] = ()
    created: Fact | None = None

    @property
    def type_name(self) -> str:
        """The key type's name, such as `RSA`."""
        return getattr(self.key_type, "name", None) or f"{self.key_type:#x}"

    def __str__(self) -> str:
        signs = "" if self.flags.get("sign", True) else ", not for signing"
        return f"label {self.label!r}, id {self.key_id.hex() or 'none'}, {self.type_name}{signs}"


def find_all(session: Session, query: KeyQuery) -> list[PrivateKey]:
    """Every private key that matches.

    Raises:
        PKCS11Error: The token fails.
    """
    return [_describe(native) for native in _objects(session, query.template)]


def find(session: Session, query: KeyQuery, place: Place) -> PrivateKey:
    """The one private key meant.

    Raises:
        KeyNotFoundError: None matches; lists what is there.
        KeyAmbiguousError: Several do; lists them.
        KeyUnusableError: It may not sign.
        PKCS11Error: The token fails.
    """
    named = query.key_id is not None or query.label is not None
    found = find_all(session, query)
    if not named:
        found = [k for k in found if k.flags.get("sign", True) and k.key_type in _SIGNING_TYPES]
    if not found:
        there = find_all(session, KeyQuery())
        raise KeyNotFoundError(
            f"The {place} has no private key with {query}." if named
            else f"The {place} has no private key that signs.",
            cause=f"Private keys there: {_listing(there)}.",
            hint="Correct object= or id= in the key URI, or generate the key: "
            "keystay key generate URI --type P-384.",
        )  # fmt: skip
    if len(found) > 1:
        raise KeyAmbiguousError(
            f"The {place} has {len(found)} private keys with {query}." if named
            else f"The {place} has {len(found)} private keys that sign, and the key URI names "
            "none.",
            cause=f"They are: {_listing(found)}.",
            hint="Add object=LABEL, or id=%.. where labels are the same, to the key URI.",
        )  # fmt: skip
    (key,) = found
    if not key.flags.get("sign", True):
        raise KeyUnusableError(
            f"The private key ({key}) on {place} may not sign: CKA_SIGN is false.",
            hint="Use a key that was generated for signing.",
            code="key-not-for-signing",
        )
    return key


def public_key_of(session: Session, key: PrivateKey, place: Place) -> PublicKeyTypes:
    """The public key that belongs to a private key.

    From the CKO_PUBLIC_KEY object of the same id, else a certificate's, else what the private
    key itself tells. Whether it really belongs, the first signature shows.

    Raises:
        KeyNotFoundError: There is none; says how to add it.
        KeyUnusableError: It is of a kind that JWS cannot use.
        PKCS11Error: The token fails.
    """
    same: dict[Attribute, Any] = (
        {Attribute.ID: key.key_id} if key.key_id else {Attribute.LABEL: key.label}
    )
    if key.key_id or key.label:
        for wanted, convert in _SOURCES:
            for item in _objects(session, {Attribute.CLASS: wanted, **same}):
                public = convert(item)
                if public is not None and public_keys.may_belong(public, key.native, key.key_type):
                    return public
    public = public_keys.from_private_key(key.native, key.key_type)
    if public is not None:
        return public
    raise KeyNotFoundError(
        f"The {place} has no public key for the private key ({key}).",
        cause="Neither a public key object nor a certificate has the same CKA_ID, and the private "
        "key does not tell.",
        hint="Add it: pkcs11-tool --module … --login --write-object public.der --type pubkey "
        f"--id {key.key_id.hex() or 'ID'} --label {key.label or 'LABEL'}.",
        code="public-key-not-found",
    )


_SOURCES: Sequence[tuple[ObjectClass, Callable[[Object], PublicKeyTypes | None]]] = (
    (ObjectClass.PUBLIC_KEY, public_keys.from_public_key),
    (ObjectClass.CERTIFICATE, public_keys.from_certificate),
)


class _Search(_pkcs11.SearchIter):  # type: ignore[name-defined,misc]
    """python-pkcs11's search, without its complaints from `__del__` after the token was lost."""

    def _finalize(self, silent: bool = False) -> None:
        # What was found is known by now, and what was lost the next call tells.
        with suppress(PKCS11Error):
            super()._finalize(silent)


def _objects(session: Session, template: dict[Attribute, Any]) -> Iterator[Object]:
    # A list first: a session has one search at a time, and the caller may start another.
    with _Search(session.native, template, _SEARCH_BATCH) as search:
        return iter([item for batch in search for item in batch])


def _describe(native: Object) -> PrivateKey:
    flags = {name: read(native, attribute) for name, attribute in _FLAGS.items()}
    return PrivateKey(
        native=native,
        handle=native.handle or 0,
        key_id=read(native, Attribute.ID, b""),
        label=read(native, Attribute.LABEL, ""),
        key_type=read(native, Attribute.KEY_TYPE, -1),
        flags={name: value for name, value in flags.items() if value is not None},
        allowed_mechanisms=tuple(read(native, ALLOWED_MECHANISMS, ())),
        created=_created(native),
    )


def _created(native: Object) -> Fact | None:
    """The first day of a key's use, if whoever made it noted one: no later than that it was made.

    It is the token's word for somebody's note, which is no more than asserted.
    """
    try:
        day = read(native, Attribute.START_DATE)
    except GeneralError:  # SoftHSM 2.6 decrypts a date that it stored in the clear
        return None
    return Fact(day.isoformat(), "asserted") if isinstance(day, date) else None


def _listing(keys: Sequence[PrivateKey]) -> str:
    shown = "; ".join(str(key) for key in keys[:_MOST_LISTED]) or "none"
    more = len(keys) - _MOST_LISTED
    return f"{shown}; and {more} more" if more > 0 else shown
