"""Key URIs: which key, and where it lives.

    file:client.pem?passphrase-source=env:PEM_PASSPHRASE
    pkcs11:token=prod;object=epic?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/pin
    awskms:///alias/epic?region=eu-west-1
    gcpkms://projects/…/cryptoKeyVersions/1

The scheme names the backend. `pkcs11:` follows RFC 7512; the others are a path and a query,
percent-encoded (RFC 3986). A key URI never holds a secret, only a reference to one: whatever
looks like a secret is refused, and left out of every message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NoReturn
from urllib.parse import quote, unquote

from keystay.errors import KeyURIError, did_you_mean

__all__ = ["KeyURI", "encode_id", "parse", "redact", "successor_name"]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*\Z")
_NAME = re.compile(r"[A-Za-z0-9_-]+\Z")
_ESCAPE = re.compile(r"%(..?|\Z)", re.DOTALL)
# Printable ASCII without space and the delimiters RFC 3986 keeps out of URIs.
_FORBIDDEN = re.compile(r"[^\x21-\x7e]|[\"<>\\^`{|}]")
_MAX_LENGTH = 4096

# RFC 7512 §2.3, path attributes.
_PKCS11_ATTRIBUTES = (
    "token", "manufacturer", "serial", "model", "library-manufacturer", "library-version",
    "library-description", "object", "type", "id", "slot-description", "slot-id",
    "slot-manufacturer",
)  # fmt: skip

# Names whose value is the secret itself. A `…-source` only refers to one.
_SECRET_NAMES = re.compile(
    r"(?i)(?:^|[-_])(?:pin|passphrase|password|passwd|pass|secret|credential|token-value"
    r"|(?:access|api|private)[-_]?key|session[-_]token)(?:[-_]?value)?$"
)
_PAIR = re.compile(r"(?:^|[?&;:])(?P<name>[^?&;:=]*)=(?P<value>[^?&;]*)")
_REFERENCE = re.compile(r"(?:file|env|keyring|prompt):")
_REDACTED = "***"


@dataclass(frozen=True, slots=True, repr=False)
class KeyURI:
    """A parsed key URI.

    Attributes:
        scheme: Lower case; names the backend.
        path: Percent-decoded, a leading `//` (empty authority) or `//` + first segment
            joined as one path. Empty for `pkcs11:`, whose path is `attributes`.
        attributes: RFC 7512 path attributes, percent-decoded bytes (`id` need not be text).
        query: Percent-decoded query attributes.
        text: The URI as written, for error positions; never shown unredacted.
    """

    scheme: str
    path: str = ""
    attributes: Mapping[str, bytes] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    _positions: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return redact(self.text)

    def __repr__(self) -> str:
        return f"KeyURI({redact(self.text)!r})"

    def attribute(self, name: str) -> str | None:
        """A path attribute as text, or None when absent.

        Raises:
            KeyURIError: Its bytes are not UTF-8.
        """
        value = self.attributes.get(name)
        if value is None:
            return None
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise KeyURIError(
                f"The value of {name} is not UTF-8 text.",
                position=self._positions.get(name),
                hint="Percent-encode the UTF-8 bytes; only id may hold arbitrary bytes.",
            ) from None

    def flag(self, name: str) -> bool | None:
        """A query attribute that is `true` or `false`, or None when absent.

        Raises:
            KeyURIError: It is something else.
        """
        value = self.query.get(name)
        if value is None:
            return None
        if value not in ("true", "false"):
            self.fault(name, f"{name} is {value!r}.", hint=f"Write {name}=true or {name}=false.")
        return value == "true"

    def require_known(self, *, attributes: Iterable[str] = (), query: Iterable[str] = ()) -> None:
        """Refuse attributes a backend does not know, naming the nearest it does.

        Raises:
            KeyURIError: With the position of the first unknown name.
        """
        for known, given, kind in (
            (tuple(attributes), self.attributes, "path attribute"),
            (tuple(query), self.query, "query attribute"),
        ):
            for name in given:
                if name not in known:
                    self.fault(
                        name,
                        f"{self.scheme}: URIs have no {kind} called {name!r}.",
                        hint=did_you_mean(name, known),
                    )

    def fault(self, name: str, message: str, *, hint: str | None = None) -> NoReturn:
        """Raise a `KeyURIError` that points at the attribute called `name`."""
        raise KeyURIError(message, position=self._positions.get(name), hint=hint)


def parse(text: str) -> KeyURI:
    """Parse a key URI.

    Args:
        text: The URI; at most 4096 characters.

    Raises:
        KeyURIError: It is malformed or holds a secret; with the position of the fault. The
            message never repeats a secret.
    """
    if not isinstance(text, str) or not text:
        raise KeyURIError("The key URI is empty.", hint=_EXAMPLES)
    if len(text) > _MAX_LENGTH:
        raise KeyURIError(
            f"The key URI has {len(text)} characters, more than {_MAX_LENGTH}.", hint=_EXAMPLES
        )
    scheme, colon, rest = text.partition(":")
    if not colon or not _SCHEME.match(scheme):
        raise KeyURIError(
            "The key URI does not begin with a scheme.",
            position=0,
            cause="A path or a key name was given where a URI is due.",
            hint=_EXAMPLES,
        )
    if len(scheme) == 1 and rest.startswith(("\\", "/")):
        raise KeyURIError(
            "The key URI does not begin with a scheme.",
            position=0,
            cause="It looks like a Windows path.",
            hint="Write file:///C:/keys/client.pem.",
        )
    if "-----BEGIN" in text:
        raise KeyURIError(
            "The key URI holds a PEM document.",
            hint="Write the key to a file that only you can read and name it: file:client.pem.",
            code="key-uri-secret",
        )
    scheme = scheme.lower()
    _refuse_secrets(text)
    if bad := _FORBIDDEN.search(text):
        raise KeyURIError(
            "The key URI holds a character that must be percent-encoded.",
            position=bad.start(),
            hint=f"Write {quote(bad[0], safe='', errors='surrogatepass')} instead.",
        )
    if "#" in rest:
        raise KeyURIError(
            "A key URI has no fragment.", position=text.index("#"), hint="Write %23 for a #."
        )
    body, mark, query_text = rest.partition("?")
    positions: dict[str, int] = {}
    start = len(scheme) + 1
    query_start = start + len(body) + 1
    query = {
        name: _text(value, position)
        for name, value, position in _pairs(query_text, "&", query_start, positions)
    }
    if mark and not query_text:
        raise KeyURIError(
            "Nothing follows the question mark.",
            position=query_start - 1,
            hint="Leave it out, or write name=value after it.",
        )
    path, attributes = "", {}
    if scheme == "pkcs11":
        attributes = {n: _decode(v, p) for n, v, p in _pairs(body, ";", start, positions)}
    else:
        path = _path(scheme, body, start)
    uri = KeyURI(
        scheme,
        path,
        MappingProxyType(attributes),
        MappingProxyType(query),
        text,
        MappingProxyType(positions),
    )
    if scheme == "pkcs11":
        _check_pkcs11(uri)
    return uri


def redact(text: str) -> str:
    """`text` with every value that may be a secret replaced by `***`."""
    text = re.sub(r"(//)[^/?]*@", rf"\1{_REDACTED}@", text)
    for pair in _PAIR.finditer(text):
        name, value = unquote(pair["name"]), unquote(pair["value"])
        misplaced = name.lower().endswith("-source") and not _REFERENCE.match(value)
        if misplaced or _SECRET_NAMES.search(name):
            # Where the secret ends nobody can tell: it may hold any separator.
            return text[: pair.start("value")] + _REDACTED
    return text


def encode_id(key_id: bytes) -> str:
    """A CKA_ID as RFC 7512 writes it: every byte percent-encoded."""
    return "".join(f"%{byte:02x}" for byte in key_id)


def successor_name(name: str, suffix: str) -> str:
    """The name of a key's successor: `epic` and `epic-20260101` both become `epic-20261124`."""
    return f"{_SUFFIX.sub('', name)}-{suffix}"


_SUFFIX = re.compile(r"-\d{8}(?:-\d+)?\Z")

_EXAMPLES = "Examples: file:client.pem, pkcs11:token=prod;object=epic, awskms:///alias/epic."


def _refuse_secrets(text: str) -> None:
    """First of all checks, so that no other fault quotes a part of a secret."""
    for pair in _PAIR.finditer(text):
        if _SECRET_NAMES.search(unquote(pair["name"])):
            raise KeyURIError(
                f"{unquote(pair['name'])} would put a secret into the key URI.",
                position=pair.start("name"),
                cause="URIs end up in configuration files, process lists and logs.",
                hint="Refer to the secret instead: pin-source=file:/run/secrets/pin, "
                "pin-source=env:HSM_PIN or pin-source=prompt: "
                "(passphrase-source=… for a PEM file).",
                code="key-uri-secret",
            )


def _pairs(
    text: str, separator: str, start: int, positions: dict[str, int]
) -> Iterable[tuple[str, str, int]]:
    """`name=value` items, each with the position of its value; names are unique and clean."""
    if not text:
        return
    position = start
    for item in text.split(separator):
        name, equals, value = item.partition("=")
        if not equals or not _NAME.match(name):
            raise KeyURIError(
                "A name=value pair is due here." if not equals else "This is not a valid name.",
                position=position,
                hint="In a shell, quote the whole URI: ; and & mean something there."
                if not item
                else f"Pairs are separated by {separator!r}; percent-encode it inside a value.",
            )
        if name in positions:
            raise KeyURIError(f"{name} is given twice.", position=position, hint="Leave one out.")
        positions[name] = position
        yield name, value, position + len(name) + 1
        position += len(item) + 1


def _decode(value: str, start: int) -> bytes:
    for escape in _ESCAPE.finditer(value):
        if not re.fullmatch(r"[0-9A-Fa-f]{2}", escape[1]):
            raise KeyURIError(
                "A percent sign is not followed by two hexadecimal digits.",
                position=start + escape.start(),
                hint="Write %25 for a percent sign.",
            )
    return re.sub(
        rb"%([0-9A-Fa-f]{2})", lambda m: bytes.fromhex(m[1].decode()), value.encode("ascii")
    )


def _text(value: str, start: int) -> str:
    try:
        text = _decode(value, start).decode()
    except UnicodeDecodeError:
        raise KeyURIError(
            "This value is not UTF-8 text.", position=start, hint="Percent-encode its UTF-8 bytes."
        ) from None
    if "\0" in text:
        raise KeyURIError(
            "This value holds a null character.", position=start, hint="Leave out the %00."
        )
    return text


def _path(scheme: str, body: str, start: int) -> str:
    if "@" in body.removeprefix("//").partition("/")[0] and body.startswith("//"):
        raise KeyURIError(
            "The key URI holds user information before an @.",
            position=start,
            hint="Credentials come from the environment or the configuration, never from the URI.",
            code="key-uri-secret",
        )
    if scheme == "file" and body.startswith("//"):
        host, slash, path = body[2:].partition("/")
        if host not in ("", "localhost"):
            raise KeyURIError(
                "A file: URI names no other machine.",
                position=start + 2,
                hint="Write file:relative.pem or file:///absolute/path.pem.",
            )
        body, start = slash + path, start + 2 + len(host)
    elif body.startswith("//"):
        # awskms:///alias/x and gcpkms://projects/x: one path, whatever stands as authority.
        stripped = body[2:].removeprefix("/")
        body, start = stripped, start + len(body) - len(stripped)
    if not body:
        raise KeyURIError(f"The {scheme}: URI names no key.", position=start, hint=_EXAMPLES)
    return _text(body, start)


def _check_pkcs11(uri: KeyURI) -> None:
    vendor = tuple(n for n in uri.attributes if n.startswith("x-"))
    uri.require_known(attributes=_PKCS11_ATTRIBUTES + vendor, query=tuple(uri.query))
    for name in uri.attributes:
        if name != "id":
            uri.attribute(name)
    if uri.attributes.get("id") == b"":
        uri.fault("id", "The id is empty.", hint="Write its bytes percent-encoded: id=%01%02.")
    kind = uri.attribute("type")
    if kind not in (None, "private"):
        uri.fault("type", f"type is {kind!r}.", hint="Only private keys sign: leave it out.")
    slot = uri.attribute("slot-id")
    if slot is not None and not (slot.isascii() and slot.isdecimal()):
        uri.fault(
            "slot-id",
            f"slot-id is {slot!r}, not a number.",
            hint="Better select the token by its label: token=prod. Slot numbers change.",
        )
