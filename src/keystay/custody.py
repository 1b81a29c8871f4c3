"""Custody: where a private key is while it signs, and how we know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from keystay.errors import ConfigurationError

__all__ = [
    "EVIDENCE",
    "MINIMA",
    "Custody",
    "Evidence",
    "Fact",
    "Location",
    "Minimum",
    "minimum",
    "satisfies",
]

Location = Literal["in-process", "other-process", "remote-service", "hardware"]
"""Where the private key is while it signs."""

Evidence = Literal["asserted", "reported", "attested"]
"""How we know: configuration says so, the backend says so, a verified statement says so."""

Minimum = Literal["any", "out-of-process", "hardware"]
"""What a policy can demand."""

EVIDENCE: tuple[Evidence, ...] = get_args(Evidence)
"""The weakest first."""

MINIMA: tuple[Minimum, ...] = get_args(Minimum)
"""The weakest first."""

_SATISFIED_BY: dict[str, frozenset[str]] = {
    "any": frozenset(get_args(Location)),
    "out-of-process": frozenset(("other-process", "remote-service", "hardware")),
    "hardware": frozenset(("hardware",)),
}


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing known about a key, and the evidence for it."""

    value: str | bool
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Custody:
    """Where a key is, and how we know.

    Attributes:
        location: The weakest place that the evidence does not exclude.
        evidence: The evidence for `location`.
        reason: One sentence an auditor can read: why this location.
        facts: What else the backend says of the key (`sensitive`, `extractable`, …). Facts
            never raise `location`: SoftHSM reports perfect attributes for keys it decrypts here.
        statement: The device's own signed statement, Base64, as it was fetched; None without one.
    """

    location: Location
    evidence: Evidence
    reason: str
    facts: Mapping[str, Fact] = field(default_factory=dict)
    statement: str | None = None

    def __str__(self) -> str:
        return f"{self.location} ({self.evidence}): {self.reason}"

    def to_dict(self) -> dict[str, object]:
        """Custody as plain data."""
        document: dict[str, object] = {
            "location": self.location,
            "evidence": self.evidence,
            "reason": self.reason,
            "facts": {
                name: {"value": fact.value, "evidence": fact.evidence}
                for name, fact in self.facts.items()
            },
        }
        return document if self.statement is None else document | {"statement": self.statement}


def satisfies(custody: Custody, demanded: Minimum) -> bool:
    """Whether a custody is at least what is demanded; an unknown place satisfies nothing."""
    return custody.location in _SATISFIED_BY[demanded]


def minimum(name: str) -> Minimum:
    """A minimum by its name.

    Raises:
        ConfigurationError: There is none of that name.
    """
    for known in MINIMA:
        if name == known:
            return known
    raise ConfigurationError(
        f"The custody policy {name!r} does not exist.", hint=f"Use one of {', '.join(MINIMA)}."
    )
