"""Scopes: enough of their grammar to catch a slip before a server does (RFC 6749 §3.3)."""

from __future__ import annotations

import re

from keystay.errors import ConfigurationError

__all__ = ["DEFAULT_SCOPE", "missing_scopes", "normalise"]

DEFAULT_SCOPE = "system/*.rs"
"""Asked for when none is given."""

_TOKEN = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+\Z")


def normalise(scope: str) -> str:
    """One blank between scopes, no duplicates, the order kept.

    Whether a server knows a scope is the server's to say: lists of supported scopes are not
    exhaustive, and vendors have their own.

    Raises:
        ConfigurationError: There is none, or one holds a character scopes may not.
    """
    scopes = scope.split() if isinstance(scope, str) else []
    if not scopes:
        raise ConfigurationError(
            "The scope is empty.", hint=f'Write scope = "{DEFAULT_SCOPE}" or name resources.'
        )
    for item in scopes:
        if not _TOKEN.match(item):
            raise ConfigurationError(
                f"The scope {item!r} holds a character that scopes may not (RFC 6749 §3.3).",
                hint='Scopes are separated by blanks, without commas or quotes: "system/Patient.rs '
                'system/Observation.rs".',
            )
        if item.endswith(","):
            raise ConfigurationError(
                f"The scope {item!r} ends with a comma.", hint="Separate scopes by blanks."
            )
    return " ".join(dict.fromkeys(scopes))


def missing_scopes(requested: str, granted: str) -> tuple[str, ...]:
    """The requested scopes that were not granted to the letter, in order."""
    have = set(granted.split())
    return tuple(item for item in requested.split() if item not in have)
