"""Scopes as servers take them: lists that are checked, compared, and written in either version."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal, cast, get_args

from keystay.errors import ConfigurationError, did_you_mean
from keystay.smart.system_scope import SystemScope

__all__ = [
    "DEFAULT_SCOPE",
    "SCOPE_STYLES",
    "ScopeStyle",
    "advertised_style",
    "convert",
    "missing_scopes",
    "normalise",
    "require_style",
]

DEFAULT_SCOPE = "system/*.rs"
"""Asked for when none is given."""

ScopeStyle = Literal["as-written", "auto", "v1", "v2"]
"""How `system/` scopes are sent: as the user wrote them, as the server advertises, or as told."""

SCOPE_STYLES: Final = get_args(ScopeStyle)

_TOKEN = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+\Z")


def normalise(scope: str) -> str:
    """One blank between scopes, no duplicates, the order kept.

    Whether a server knows a scope is the server's to say: lists of supported scopes are not
    exhaustive, and vendors have their own. Slips in a `system/` scope are found here, because
    servers may ignore them without a word.

    Raises:
        ConfigurationError: There is none, one holds a character scopes may not, or a `system/`
            scope is malformed.
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
        SystemScope.parse(item)
    return " ".join(dict.fromkeys(scopes))


def convert(scope: str, style: ScopeStyle) -> str:
    """Scopes with each `system/` scope written as version 1 or 2; all others as they are.

    Args:
        scope: Scopes, separated by blanks.
        style: `v1` or `v2`; anything else changes nothing.

    Raises:
        ConfigurationError: Version 1 has no word for a scope (`scope-not-expressible`).
    """
    if style not in ("v1", "v2"):
        return scope
    words = []
    for item in scope.split():
        known = SystemScope.parse(item)
        words.append(item if known is None else known.v1() if style == "v1" else known.v2())
    return " ".join(dict.fromkeys(words))


def advertised_style(capabilities: Iterable[str]) -> ScopeStyle:
    """The version to write for a server: the one it advertises alone, else as the user wrote."""
    known = {f"v{n}" for n in (1, 2) if f"permission-v{n}" in set(capabilities)}
    if known == {"v1"}:
        return "v1"
    return "v2" if known == {"v2"} else "as-written"


def require_style(style: str, *, discovered: bool) -> ScopeStyle:
    """Return a scope style if it is one and can be followed.

    Args:
        style: What the user wrote.
        discovered: Whether the server's capabilities are asked for at all.

    Raises:
        ConfigurationError: It is not.
    """
    if style not in SCOPE_STYLES:
        raise ConfigurationError(
            f"There is no scope style {style!r}.",
            hint=did_you_mean(str(style), SCOPE_STYLES),
            code="config-value-invalid",
        )
    if style == "auto" and not discovered:
        raise ConfigurationError(
            'The scope style "auto" goes by the server\'s capabilities, which are not asked for '
            "when the endpoint is given.",
            hint='Set scope_style to "v1" or "v2", or leave the endpoint to discovery.',
            code="config-value-invalid",
        )
    return cast("ScopeStyle", style)


def missing_scopes(requested: str, granted: str) -> tuple[str, ...]:
    """The requested scopes that were not granted, in order.

    `system/` scopes are compared by what they allow: `system/*.rs` covers `system/Patient.r`, and
    `system/Patient.read` is `system/Patient.rs`. All others have to be there to the letter.
    """
    words = frozenset(granted.split())
    known = [scope for scope in map(_lenient, words) if scope is not None]
    return tuple(
        item for item in requested.split() if item not in words and not _covered(item, known)
    )


def _covered(item: str, granted: Iterable[SystemScope]) -> bool:
    """Whether scopes granted allow, together, what one asks for."""
    wanted = _lenient(item)
    return wanted is not None and all(
        any(
            scope.covers(SystemScope(wanted.resource, letter, wanted.parameters))
            for scope in granted
        )
        for letter in wanted.permissions
    )


def _lenient(item: str) -> SystemScope | None:
    """A scope as a server wrote it, which may be anything."""
    try:
        return SystemScope.parse(item)
    except ConfigurationError:
        return None
