"""Which token a URI means. Pure.

Never by position: SoftHSM, for one, gives slots new numbers. By label, serial and what else
RFC 7512 §2.3 names; without any of these, by there being exactly one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystay.errors import KeyAmbiguousError, KeyNotFoundError

if TYPE_CHECKING:
    from keystay.key_uri import KeyURI
    from keystay_pkcs11.errors import Place

__all__ = ["TokenFacts", "TokenQuery", "select"]

# URI attribute -> field of TokenFacts.
_FIELDS = {
    "token": "label",
    "serial": "serial",
    "model": "model",
    "manufacturer": "manufacturer",
    "slot-id": "slot_id",
    "slot-description": "slot_description",
    "slot-manufacturer": "slot_manufacturer",
    "library-description": "library_description",
    "library-manufacturer": "library_manufacturer",
    "library-version": "library_version",
}


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """What a token, its slot and its module say of themselves, padding removed."""

    label: str
    serial: str
    model: str = ""
    manufacturer: str = ""
    slot_id: str = ""
    slot_description: str = ""
    slot_manufacturer: str = ""
    library_description: str = ""
    library_manufacturer: str = ""
    library_version: str = ""
    initialized: bool = True

    def __str__(self) -> str:
        blank = "" if self.initialized else ", not initialised"
        return f"{self.label!r} (serial {self.serial or 'none'}{blank})"


@dataclass(frozen=True, slots=True)
class TokenQuery:
    """The token attributes of a URI."""

    wanted: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, uri: KeyURI) -> TokenQuery:
        """The attributes of `uri` that choose a token."""
        found = ((name, uri.attribute(name)) for name in _FIELDS)
        return cls(tuple((name, value) for name, value in found if value is not None))

    def matches(self, token: TokenFacts) -> bool:
        """Whether a token has all of them."""
        for name, value in self.wanted:
            has = getattr(token, _FIELDS[name])
            if name == "library-version":
                # RFC 7512 §2.3: "3" is "3.0".
                has, value = (f"{v}.0" if "." not in v else v for v in (has, value))  # noqa: PLW2901
            if has != value:
                return False
        return True

    def __str__(self) -> str:
        return ", ".join(f"{name} {value!r}" for name, value in self.wanted)


def select(
    tokens: Sequence[TokenFacts], query: TokenQuery, place: Place, trouble: Sequence[str] = ()
) -> TokenFacts:
    """The one token meant.

    Args:
        tokens: Those present.
        query: What the URI asks for; empty means the only one.
        place: For messages.
        trouble: What slots that could not be read said, for messages.

    Raises:
        KeyNotFoundError: None matches; lists those there are.
        KeyAmbiguousError: Several do; lists them.
    """
    found = [t for t in tokens if t.initialized and query.matches(t)]
    if len(found) == 1:
        return found[0]
    here = ", ".join(map(str, tokens)) or "none"
    here += f"; unreadable slots: {', '.join(trouble)}" if trouble else ""
    if found:
        raise KeyAmbiguousError(
            f"Several tokens of {place} match {query}." if query.wanted
            else f"{place} has several tokens and the key URI names none.",
            cause=f"Tokens that match: {', '.join(map(str, found))}.",
            hint="Add token=LABEL, or serial=SERIAL where labels are the same, to the key URI.",
            code="token-ambiguous",
        )  # fmt: skip
    if not tokens and "p11-kit-client" in place.module:
        raise KeyNotFoundError(
            f"{place} reaches no token.",
            cause="p11-kit's server does not run, or P11_KIT_SERVER_ADDRESS does not name its "
            "socket.",
            hint="Start `p11-kit server` with the token's URI, and set P11_KIT_SERVER_ADDRESS to "
            "the address it prints.",
            code="token-not-found",
        )
    raise KeyNotFoundError(
        f"{place} has no token with {query}." if query.wanted else f"{place} has no token.",
        cause=f"Tokens present: {here}.",
        hint="Correct the key URI's token attributes, or check that the module sees its "
        "configuration and the token is initialised (pkcs11-tool --module … -L).",
        code="token-not-found",
    )
