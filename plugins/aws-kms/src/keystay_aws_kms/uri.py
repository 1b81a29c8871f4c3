"""Which key an `awskms:` URI names: an alias, a key id or an ARN."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keystay_aws_kms.errors import TEXTS

if TYPE_CHECKING:
    from keystay.key_uri import KeyURI

__all__ = ["KeyReference"]

# KMS API reference, CreateAlias: AliasName; DescribeKey: KeyId. `mrk-` is a multi-Region key.
_ALIAS = re.compile(r"alias/[A-Za-z0-9/_-]{1,250}")
_KEY_ID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|mrk-[0-9a-f]{32}")
_ARN = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):kms:(?P<region>[a-z0-9-]+):(?P<account>[0-9]{12}):(?P<name>.+)"
)


@dataclass(frozen=True, slots=True)
class KeyReference:
    """A key as the user named it.

    Attributes:
        text: What KMS takes as KeyId: `alias/NAME`, a key id or an ARN.
        region: The ARN's region, or None.
    """

    text: str
    region: str | None = None

    @classmethod
    def of(cls, uri: KeyURI) -> KeyReference:
        """The key that a URI names.

        Raises:
            KeyURIError: Its path is none of the forms.
        """
        path = uri.path
        if _ALIAS.fullmatch(path) or _KEY_ID.fullmatch(path):
            return cls(path)
        if path.startswith("key/") and _KEY_ID.fullmatch(path[4:]):
            return cls(path[4:])
        if found := _ARN.fullmatch(path):
            name = found["name"]
            if _ALIAS.fullmatch(name) or _KEY_ID.fullmatch(name.removeprefix("key/")):
                return cls(path, found["region"])
        raise TEXTS.error("uri", path=path)

    @property
    def alias(self) -> str | None:
        """`alias/NAME`, also of an alias ARN; None for a key id or a key's ARN."""
        _, mark, name = self.text.partition("alias/")
        return mark + name if mark else None
