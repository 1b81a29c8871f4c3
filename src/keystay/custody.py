"""Custody: where a private key is while it signs, how we know, and what policy makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from keystay.errors import ConfigurationError, PolicyError

__all__ = ["Custody", "Evidence", "Fact", "Location", "Minimum", "enforce"]

Location = Literal["in-process", "other-process", "remote-service", "hardware"]
"""Where the private key is while it signs."""

Evidence = Literal["asserted", "reported", "attested"]
"""How we know: configuration says so, the backend says so, a verified statement says so."""

Minimum = Literal["any", "out-of-process", "hardware"]
"""What a policy can demand."""

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
    """

    location: Location
    evidence: Evidence
    reason: str
    facts: Mapping[str, Fact] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.location} ({self.evidence}): {self.reason}"

    def to_dict(self) -> dict[str, object]:
        """Custody as plain data."""
        return {
            "location": self.location,
            "evidence": self.evidence,
            "reason": self.reason,
            "facts": {
                name: {"value": fact.value, "evidence": fact.evidence}
                for name, fact in self.facts.items()
            },
        }


def enforce(custody: Custody, minimum: str, *, key: str) -> None:
    """Refuse a key whose custody is weaker than `minimum`.

    Args:
        custody: What the backend reports.
        minimum: `any`, `out-of-process` or `hardware`.
        key: Names the key in the error.

    Raises:
        PolicyError: The custody does not satisfy the minimum; doubt counts against the key.
        ConfigurationError: `minimum` is not one of the three.
    """
    if minimum not in _SATISFIED_BY:
        raise ConfigurationError(
            f"The custody policy {minimum!r} does not exist.",
            hint=f"Use one of {', '.join(_SATISFIED_BY)}.",
        )
    if custody.location not in _SATISFIED_BY[minimum]:
        raise PolicyError(
            f"The policy demands custody {minimum!r}; the key {key} is {custody.location}.",
            cause=custody.reason,
            hint="Keep the key in an HSM or KMS, or reach a PKCS#11 token through p11-kit "
            "remoting so that the key lives in another process.",
        )
