"""What a `pkcs11:` URI means: which token, and the URIs of keys found or made there. Pure.

A token is never chosen by position: SoftHSM, for one, gives slots new numbers. It is chosen by
label, serial and what else RFC 7512 §2.3 names; without any of these it must be the only one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from keystay.key_uri import encode_id, successor_name
from keystay_pkcs11.errors import TEXTS

if TYPE_CHECKING:
    from keystay.key_uri import KeyURI
    from keystay_pkcs11.errors import Place

__all__ = ["TokenFacts", "TokenQuery", "key_uri", "new_key_label", "select", "successor_uri"]

# Each is a field of TokenFacts, but `token`, which is its label.
_TOKEN_ATTRIBUTES = (
    "token", "serial", "model", "manufacturer", "slot-id", "slot-description", "slot-manufacturer",
    "library-description", "library-manufacturer", "library-version",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """What a token, its slot and its module report of themselves, padding removed."""

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

    @property
    def identity(self) -> tuple[str, str]:
        """Label and serial: what a token is recognised by after a loss."""
        return self.label, self.serial

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
        found = ((name, uri.attribute(name)) for name in _TOKEN_ATTRIBUTES)
        return cls(tuple((name, value) for name, value in found if value is not None))

    def matches(self, token: TokenFacts) -> bool:
        """Whether a token has all of them."""
        for name, value in self.wanted:
            has = getattr(token, "label" if name == "token" else name.replace("-", "_"))
            if name == "library-version":
                # RFC 7512 §2.3: "3" is "3.0".
                has, value = (f"{v}.0" if "." not in v else v for v in (has, value))  # noqa: PLW2901
            if has != value:
                return False
        return True

    def __str__(self) -> str:
        return ", ".join(f"{name} {value!r}" for name, value in self.wanted)


def select(
    tokens: Sequence[TokenFacts], query: TokenQuery, place: Place, unreadable: Sequence[str] = ()
) -> TokenFacts:
    """The one token meant.

    Args:
        tokens: Those present.
        query: What the URI asks for; empty means the only one.
        place: For messages.
        unreadable: Slots that could not be read, and why, for messages.

    Raises:
        KeyNotFoundError: None matches; lists those there are.
        KeyAmbiguousError: Several do; lists them.
    """
    found = [t for t in tokens if t.initialized and query.matches(t)]
    if len(found) == 1:
        return found[0]
    if found:
        situation = "several-tokens" if query.wanted else "token-not-named"
        raise TEXTS.error(situation, place=place, query=query, tokens=", ".join(map(str, found)))
    if not tokens and "p11-kit-client" in place.module:
        raise TEXTS.error("no-server", place=place)
    here = ", ".join(map(str, tokens)) or "none"
    here += f"; unreadable slots: {', '.join(unreadable)}" if unreadable else ""
    wanted = f" with {query}" if query.wanted else ""
    raise TEXTS.error("no-token", place=place, wanted=wanted, present=here)


def key_uri(asked: KeyURI, token: TokenFacts, label: str, key_id: bytes, module: str) -> str:
    """A URI that opens a key found on a token.

    Args:
        asked: The URI that the token was opened with; its query is kept.
        token: The token.
        label: The key's CKA_LABEL, or "".
        key_id: The key's CKA_ID, or empty.
        module: The module's path, as the user wrote it.
    """
    path = [f"token={_quoted(token.label)}"] if token.label else []
    if not token.label or "serial" in asked.attributes:
        path.append(f"serial={_quoted(token.serial)}")
    if label:
        path.append(f"object={_quoted(label)}")
    if key_id:
        path.append(f"id={encode_id(key_id)}")
    query = {"module-path": module, **asked.query}
    return f"pkcs11:{';'.join(path)}?" + "&".join(f"{n}={_quoted(v)}" for n, v in query.items())


def new_key_label(uri: KeyURI) -> str:
    """The label that a URI gives to a key to be made.

    Raises:
        ConfigurationError: It gives none.
    """
    if label := uri.attribute("object"):
        return label
    raise TEXTS.error("no-label")


def successor_uri(uri: KeyURI, suffix: str) -> str:
    """The same token, another label: `object=epic` becomes `object=epic-<suffix>`, without id.

    Raises:
        ConfigurationError: The URI names no label.
    """
    attributes = {
        **{n: quote(v, safe="-._~/:") for n, v in uri.attributes.items() if n != "id"},
        "object": _quoted(successor_name(new_key_label(uri), suffix)),
    }
    _, mark, query = uri.text.partition("?")
    return f"pkcs11:{';'.join(f'{n}={v}' for n, v in attributes.items())}{mark}{query}"


def _quoted(value: str) -> str:
    # RFC 7512 §2.3 and 2.4: these need no escape in either part.
    return quote(value, safe="-._~/:")
