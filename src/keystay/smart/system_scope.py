"""One `system/` scope: what it allows, and how version 1 and version 2 of SMART write it.

SMART App Launch 2.2, "Scopes for requesting FHIR Resources": version 2 is
`system/Patient.rs?param=value` with letters out of `cruds` in that order; version 1 is
`system/Patient.read`, `.write` or `.*`, and has no parameters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from keystay.errors import ConfigurationError

__all__ = ["SystemScope"]

_PREFIX = "system/"
_LETTERS = "cruds"
_V1 = {"read": "rs", "write": "cud", "*": "cruds"}
_V1_OF = {letters: word for word, letters in _V1.items()}
# What is meant to be one; whatever else begins with `system/` is a vendor's own.
_SHAPE = re.compile(
    r"system/(?P<resource>\*|[A-Za-z]+)\.(?P<access>\*|[A-Za-z]*)(?:\?(?P<query>.*))?\Z"
)
_RESOURCE = re.compile(r"(?:\*|[A-Z][A-Za-z]*)\Z")
_PARAMETER = re.compile(r"[^=?&]+=[^&]+\Z")


@dataclass(frozen=True, slots=True)
class SystemScope:
    """What a `system/` scope allows, however it was written.

    Attributes:
        resource: A resource type, or `*`.
        permissions: Letters out of `cruds`, in that order.
        parameters: `name=value` each, as written and in that order; a resource has to match all.
    """

    resource: str
    permissions: str
    parameters: tuple[str, ...] = ()

    @classmethod
    def parse(cls, scope: str) -> SystemScope | None:
        """The scope that a word is, or None when it is not a `system/` scope but somebody's own.

        Raises:
            ConfigurationError: It is meant to be one and is not: letters out of order, say.
        """
        found = _SHAPE.match(scope)
        if found is None:
            return None
        resource, access, query = found["resource"], found["access"], found["query"]
        letters = _V1.get(access, access)
        if access not in _V1 and not _ordered(access):
            if not _meant(access):
                return None
            raise _slip(scope, _corrected(found, _mended(access)), _WHY_LETTERS)
        if not _RESOURCE.match(resource):
            corrected = _corrected(found, access, resource[:1].upper() + resource[1:])
            raise _slip(scope, corrected, "Resource types begin with a capital letter.")
        if query is None:
            return cls(resource, letters)
        if access in _V1:
            raise _slip(
                scope, _corrected(found, letters), "Scopes of version 1 have no parameters."
            )
        parameters = tuple(query.split("&"))
        if not all(map(_PARAMETER.match, parameters)):
            raise _slip(
                scope,
                f"{_PREFIX}{resource}.{access}?category=laboratory",
                "After the ? stand search parameters: name=value, with & between two of them.",
            )
        return cls(resource, letters, parameters)

    def covers(self, other: SystemScope) -> bool:
        """Whether everything the other scope allows is allowed by this one.

        Parameters narrow: a scope with fewer of them allows more.
        """
        return (
            self.resource in ("*", other.resource)
            and set(self.permissions) >= set(other.permissions)
            and set(self.parameters) <= set(other.parameters)
        )

    def v2(self) -> str:
        """The scope as version 2 writes it."""
        query = f"?{'&'.join(self.parameters)}" if self.parameters else ""
        return f"{_PREFIX}{self.resource}.{self.permissions}{query}"

    def v1(self) -> str:
        """The scope as version 1 writes it.

        Raises:
            ConfigurationError: Version 1 has no word for it; a wider scope is never taken instead.
        """
        word = _V1_OF.get(self.permissions)
        if word is None or self.parameters:
            cause = (
                "Version 1 has no parameters."
                if self.parameters
                else "Version 1 has read (rs), write (cud) and * (cruds) only."
            )
            raise ConfigurationError(
                f"The scope {self.v2()!r} cannot be written as version 1.",
                cause=cause,
                hint=f"Ask for {_wider(self)!r} if that is meant, or set scope_style to "
                '"as-written".',
                code="scope-not-expressible",
            )
        return f"{_PREFIX}{self.resource}.{word}"


_WHY_LETTERS = (
    "After the dot stand letters out of c, r, u, d, s, each at most once and in this order, or "
    "read, write or *; all in lower case."
)


def _ordered(access: str) -> bool:
    return bool(access) and access == "".join(c for c in _LETTERS if c in access)


def _meant(access: str) -> bool:
    """Whether it is a slip of the pen rather than a word of somebody's own."""
    return access.lower() in _V1 or set(access.lower()) <= set(_LETTERS)


def _mended(access: str) -> str:
    lower = access.lower()
    return lower if lower in _V1 else "".join(c for c in _LETTERS if c in lower) or "rs"


def _corrected(found: re.Match[str], access: str, resource: str | None = None) -> str:
    query = "" if found["query"] is None else f"?{found['query']}"
    return f"{_PREFIX}{resource or found['resource']}.{access}{query}"


def _slip(scope: str, corrected: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"The scope {scope!r} is not one that SMART knows.",
        cause=why,
        hint=f"Write {corrected!r}. Servers may ignore a scope that is not well-formed, silently.",
        code="scope-invalid",
    )


def _wider(scope: SystemScope) -> str:
    letters = set(scope.permissions)
    word = next(word for word, allowed in _V1.items() if letters <= set(allowed))
    return f"{_PREFIX}{scope.resource}.{word}"
