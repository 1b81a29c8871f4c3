"""The grammar of SMART system scopes, and what each one lets a client do.

SMART App Launch 2.2.0, "Scopes for requesting FHIR Resources": version 2 is
`system/Resource.cruds?param=value`, version 1 `system/Resource.(read|write|*)`. Narrowing by a
query is understood in the grammar; the small FHIR server here does not filter by it.

The grammar is this module's own, so that it checks what keystay sends. What a scope covers is
`keystay.smart`'s to say.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from keystay.smart.system_scope import SystemScope
from keystay.testing.refusals import ScopeRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable

# RFC 6749 section 3.3: scope = scope-token *( SP scope-token ).
_SCOPE_LIST = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+(?: [\x21\x23-\x5b\x5d-\x7e]+)*")
_FHIR_SCOPE = re.compile(
    r"(?P<context>system|patient|user)/(?P<resource>\*|[A-Z][A-Za-z]*)"
    r"\.(?:(?P<v1>read|write|\*)|(?P<v2>(?=[cruds])c?r?u?d?s?)(?:\?(?P<query>[^?=&]+=[^?&]*(?:&[^?=&]+=[^?&]*)*))?)"
)
_V1_PERMISSIONS = {"read": "rs", "write": "cud", "*": "cruds"}


def parse_system_scope(token: str) -> SystemScope:
    """Parse one scope of version 1 or 2.

    Raises:
        ScopeRefusedError: The scope is malformed, or has another context than `system`.
    """
    found = _FHIR_SCOPE.fullmatch(token)
    if found is None:
        raise ScopeRefusedError(
            "scope-syntax",
            f"the scope '{token}' is not of the form system/Resource.cruds or system/Resource.read",
        )
    if found["context"] != "system":
        raise ScopeRefusedError(
            "scope-context",
            f"the scope '{token}' needs a user; client credentials have system/ scopes only",
        )
    permissions = found["v2"] or _V1_PERMISSIONS[found["v1"]]
    parameters = tuple(found["query"].split("&")) if found["query"] else ()
    return SystemScope(found["resource"], permissions, parameters)


def grant_scope(requested: str, *, allowed: str | None, extra: Iterable[str]) -> str:
    """Decide which of the requested scopes to grant.

    Args:
        requested: The `scope` parameter.
        allowed: What the client is registered for, space separated; None allows every scope.
        extra: Scopes outside the grammar that the server knows, matched as they are.

    Returns:
        The granted scopes, space separated, in the order requested.

    Raises:
        ScopeRefusedError: A scope is malformed, or none of them is allowed.
    """
    if not _SCOPE_LIST.fullmatch(requested):
        raise ScopeRefusedError(
            "scope-syntax", "scope is not a list of scope tokens with one space between two of them"
        )
    known = frozenset(extra)
    permitted = None if allowed is None else allowed.split(" ")
    granted = [token for token in requested.split(" ") if _is_allowed(token, permitted, known)]
    if not granted:
        raise ScopeRefusedError(
            "scope-not-allowed", f"the client is registered for '{allowed}', not for '{requested}'"
        )
    return " ".join(granted)


def permits(granted: str, resource: str, permission: str) -> bool:
    """Tell whether granted scopes allow one letter of `cruds` on a resource type."""
    needed = SystemScope(resource, permission)
    return any(
        SystemScope(scope.resource, scope.permissions).covers(needed)
        for scope in map(_system_scope_or_none, granted.split(" "))
        if scope is not None
    )


def _is_allowed(token: str, permitted: list[str] | None, known: frozenset[str]) -> bool:
    if token in known:
        return permitted is None or token in permitted
    scope = parse_system_scope(token)
    if permitted is None or token in permitted:
        return True
    candidates = map(_system_scope_or_none, permitted)
    return any(candidate.covers(scope) for candidate in candidates if candidate is not None)


def _system_scope_or_none(token: str) -> SystemScope | None:
    try:
        return parse_system_scope(token)
    except ScopeRefusedError:
        return None
