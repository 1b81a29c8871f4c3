"""Names of Google Cloud KMS resources, read strictly.

    projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/N

A signer needs all five parts: Google has no primary version for keys that sign, and a version
chosen by keystay would be a key that nobody registered.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from keystay_gcp_kms.errors import TEXTS

if TYPE_CHECKING:
    from keystay.errors import KeystayError
    from keystay.key_uri import KeyURI

__all__ = ["ResourceName"]


class _Part(NamedTuple):
    collection: str
    what: str
    pattern: re.Pattern[str]
    allowed: str


_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}\Z")
_PARTS = (
    _Part(
        "projects",
        "project",
        # A project id, its number, or domain:id of old projects.
        re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_-]{0,127}\Z"),
        "letters, digits and - . : _",
    ),
    _Part("locations", "location", re.compile(r"[a-z0-9-]{1,63}\Z"), "such as europe-west1"),
    _Part("keyRings", "key ring", _NAME, "1 to 63 letters, digits, - and _"),
    _Part("cryptoKeys", "key", _NAME, "1 to 63 letters, digits, - and _"),
    _Part(
        "cryptoKeyVersions",
        "key version",
        re.compile(r"[1-9][0-9]{0,9}\Z"),
        "a number from 1, never a word such as latest or primary",
    ),
)
_LEAST = 3


@dataclass(frozen=True, slots=True)
class ResourceName:
    """A key ring, a key, or a key version.

    Attributes:
        values: Project, location, key ring, then key and version where the name goes that far.
    """

    values: tuple[str, ...]

    @classmethod
    def read(cls, uri: KeyURI) -> ResourceName:
        """The resource a key URI names.

        Raises:
            KeyURIError: The name is malformed; says which part.
        """
        items = uri.path.split("/")
        values = []
        for part, index in zip(_PARTS, range(0, len(items), 2), strict=False):
            if items[index] != part.collection:
                raise _malformed(
                    f"{items[index]!r} stands where {part.collection!r} is due in the name."
                )
            value = items[index + 1] if index + 1 < len(items) else ""
            if not part.pattern.match(value):
                raise _malformed(
                    f"The {part.what} {value!r} in the name is not {part.allowed}."
                    if value
                    else f"The {part.what} is missing after {part.collection!r} in the name."
                )
            values.append(value)
        if len(items) > 2 * len(_PARTS):
            raise _malformed(f"{items[2 * len(_PARTS)]!r} follows the key version in the name.")
        if len(values) < _LEAST:
            missing = _PARTS[len(values)]
            raise _malformed(f"The {missing.what} ({missing.collection}/…) is missing in the name.")
        return cls(tuple(values))

    @property
    def key_ring(self) -> str:
        """The key ring's name."""
        return self._text(3)

    @property
    def key(self) -> str | None:
        """The key's name, without a version; None for a key ring."""
        return self._text(4) if len(self.values) > 3 else None

    @property
    def key_id(self) -> str | None:
        """The key's last segment; None for a key ring."""
        return self.values[3] if len(self.values) > 3 else None

    @property
    def version(self) -> str | None:
        """The key version's name; None for a key or a key ring."""
        return self._text(5) if len(self.values) > 4 else None

    def __str__(self) -> str:
        return self._text(len(self.values))

    def _text(self, count: int) -> str:
        return "/".join(f"{_PARTS[i].collection}/{self.values[i]}" for i in range(count))


def _malformed(problem: str) -> KeystayError:
    return TEXTS.error("uri", problem=problem)
