"""Policy: what a key must be to sign here, and every way in which it is not.

Fails closed: what is not known does not satisfy a rule that asks for it. A client's own policy can
only tighten the general one, so that a line in the wrong table never loosens what was decided.
"""

# No annotations as text: msgspec would compile each of them at every start.

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec

from keystay.custody import EVIDENCE, MINIMA, Custody, Evidence, Fact, Minimum, satisfies
from keystay.errors import PolicyError
from keystay.settings import setting

__all__ = ["Finding", "Policy", "Subject"]


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Rules for keys. The defaults demand nothing."""

    custody: Annotated[
        Minimum, setting("Where the key is, at the least: `any`, `out-of-process`, `hardware`.")
    ] = "any"
    evidence: Annotated[
        Evidence,
        setting("The least evidence for custody and age: `asserted`, `reported`, `attested`."),
    ] = "asserted"
    backends: Annotated[
        tuple[str, ...],
        setting("One of these URI schemes.", example='["pkcs11"]', default="all"),
    ] = ()
    algorithms: Annotated[
        tuple[str, ...],
        setting("One of these JWS algorithms.", example='["ES384"]', default="all"),
    ] = ()
    min_rsa_bits: Annotated[int, setting("Of an RSA key.", unit="bits", ge=0)] = 0
    min_ec_bits: Annotated[
        int,
        setting("Of a key on a curve: 256, 384, 521; Ed25519 counts as 256.", unit="bits", ge=0),
    ] = 0
    max_key_age: (
        Annotated[
            int,
            setting(
                "Age of the key: AWS's and Google's date for keys made there, `CKA_START_DATE`, "
                "the day `keystay rotate` made it, else the client's `key_created`; an unknown "
                "age is refused.",
                example="400",
                unit="days",
                ge=0,
            ),
        ]
        | None
    ) = None

    def check(self, subject: "Subject") -> "list[Finding]":
        """Each rule that demands something, and how the key stands to it."""
        return [rule(self, subject) for rule in _RULES.values() if rule.demands(self)]

    def enforce(self, subject: "Subject") -> None:
        """Refuse a key that violates a rule.

        Raises:
            PolicyError: Lists every violated rule, with the fact and its evidence.
        """
        violated = [finding for finding in self.check(subject) if not finding.satisfied]
        if violated:
            raise _refusal(subject, violated)

    @property
    def looks_at_custody(self) -> bool:
        """Whether it matters where the key is."""
        return self.custody != "any" or self.evidence != "asserted"

    def allows(self, algorithm: str) -> bool:
        """Whether an algorithm may be used."""
        return not self.algorithms or algorithm in self.algorithms

    def loosened_by(self, other: "Policy") -> Iterator[tuple[str, str]]:
        """The rules in which another policy demands less, and what it may say at the least."""
        for name, (at_least, least) in _TIGHTER.items():
            mine, its = getattr(self, name), getattr(other, name)
            if not at_least(mine, its):
                yield name, least(mine)


@dataclass(frozen=True, slots=True)
class Subject:
    """A key, as far as policy looks at it.

    Attributes:
        name: What messages call it.
        backend: URI scheme; empty when the key was not opened by a URI.
        algorithm: The JWS algorithm it signs with.
        kty: `RSA`, `EC` or `OKP`.
        bits: Size of modulus or curve.
        custody: Where it is, and how we know.
        created: When it was made (ISO 8601), and how we know; None if nobody says.
    """

    name: str
    backend: str
    algorithm: str
    kty: str
    bits: int
    custody: Custody
    created: Fact | None = None

    def age(self, now: datetime | None = None) -> timedelta | None:
        """How old the key is; None when that is not known, negative when it is yet to be made.

        A day into the future is now: a date has no time zone.
        """
        if self.created is None:
            return None
        try:
            made = datetime.fromisoformat(str(self.created.value))
        except ValueError:
            return None
        made = made if made.tzinfo else made.replace(tzinfo=UTC)
        age = (now or datetime.now(UTC)) - made
        return timedelta() if -timedelta(days=1) <= age < timedelta() else age


@dataclass(frozen=True, slots=True)
class Finding:
    """How a key stands to one rule.

    Attributes:
        rule: The key in `[policy]`.
        demanded: What the policy says.
        found: What is so.
        evidence: How that is known: the evidence, or `measured` where it is looked at here.
        satisfied: The verdict.
        reason: Why it is so, where that is not obvious.
    """

    rule: str
    demanded: str
    found: str
    evidence: str
    satisfied: bool
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.rule}: {self.demanded} is demanded, {self.found} ({self.evidence})"


@dataclass(frozen=True, slots=True)
class _Rule:
    demands: Callable[[Policy], Any]
    judge: Callable[[Policy, Subject], Finding]

    def __call__(self, policy: Policy, subject: Subject) -> Finding:
        return self.judge(policy, subject)


def _custody(policy: Policy, key: Subject) -> Finding:
    found = key.custody
    return Finding(
        "custody", repr(policy.custody), f"the key is {found.location}", found.evidence,
        satisfies(found, policy.custody), found.reason,
    )  # fmt: skip


def _evidence(policy: Policy, key: Subject) -> Finding:
    found = key.custody.evidence
    return Finding(
        "evidence", repr(policy.evidence), f"the place of the key is {found}", found,
        _knows(found, policy.evidence), key.custody.reason,
    )  # fmt: skip


def _backend(policy: Policy, key: Subject) -> Finding:
    return Finding(
        "backends", _listed(policy.backends), f"it is {key.backend or 'none of a URI'}",
        "measured", key.backend in policy.backends,
    )  # fmt: skip


def _algorithm(policy: Policy, key: Subject) -> Finding:
    return Finding(
        "algorithms", _listed(policy.algorithms), f"it signs with {key.algorithm}", "measured",
        policy.allows(key.algorithm),
    )  # fmt: skip


def _rsa_bits(policy: Policy, key: Subject) -> Finding:
    return Finding(
        "min_rsa_bits", str(policy.min_rsa_bits), _size(key, key.kty == "RSA"), "measured",
        key.kty != "RSA" or key.bits >= policy.min_rsa_bits,
    )  # fmt: skip


def _ec_bits(policy: Policy, key: Subject) -> Finding:
    return Finding(
        "min_ec_bits", str(policy.min_ec_bits), _size(key, key.kty != "RSA"), "measured",
        key.kty == "RSA" or key.bits >= policy.min_ec_bits,
    )  # fmt: skip


def _size(key: Subject, concerned: bool) -> str:
    return f"it has {key.bits} bits" if concerned else f"it is of another kind ({key.kty})"


def _age(policy: Policy, key: Subject) -> Finding:
    age, days = key.age(), policy.max_key_age or 0
    demanded = f"at most {days} days"
    if key.created is None or age is None:
        return Finding(
            "max_key_age", demanded, "nobody says when it was made", "unknown", False,
            "The backend does not tell; key_created in the client's table can.",
        )  # fmt: skip
    ok = timedelta() <= age <= timedelta(days=days)
    return Finding(
        "max_key_age", demanded, f"it was made {age.days} days ago", key.created.evidence,
        ok and _knows(key.created.evidence, policy.evidence), f"Made {key.created.value}.",
    )  # fmt: skip


_RULES: dict[str, _Rule] = {
    "custody": _Rule(lambda p: p.custody != "any", _custody),
    "evidence": _Rule(lambda p: p.evidence != "asserted", _evidence),
    "backends": _Rule(lambda p: p.backends, _backend),
    "algorithms": _Rule(lambda p: p.algorithms, _algorithm),
    "min_rsa_bits": _Rule(lambda p: p.min_rsa_bits, _rsa_bits),
    "min_ec_bits": _Rule(lambda p: p.min_ec_bits, _ec_bits),
    "max_key_age": _Rule(lambda p: p.max_key_age is not None, _age),
}


def _knows(found: str, demanded: str) -> bool:
    return found in EVIDENCE and EVIDENCE.index(found) >= EVIDENCE.index(demanded)


def _listed(names: Collection[str]) -> str:
    return f"one of {', '.join(names)}"


# For each rule: whether the second value is at least as strict as the first, and what is.
_TIGHTER: dict[str, tuple[Callable[[Any, Any], bool], Callable[[Any], str]]] = {
    "custody": (lambda a, b: MINIMA.index(b) >= MINIMA.index(a), "at least {!r}".format),
    "evidence": (lambda a, b: _knows(b, a), "at least {!r}".format),
    "backends": (lambda a, b: not a or (b and {*b} <= {*a}), "some of {!r}".format),
    "algorithms": (lambda a, b: not a or (b and {*b} <= {*a}), "some of {!r}".format),
    "min_rsa_bits": (lambda a, b: b >= a, "at least {}".format),
    "min_ec_bits": (lambda a, b: b >= a, "at least {}".format),
    "max_key_age": (lambda a, b: a is None or (b is not None and b <= a), "at most {}".format),
}


def _refusal(subject: Subject, violated: list[Finding]) -> PolicyError:
    hints = {finding.rule: _HINTS[finding.rule] for finding in violated}
    reasons = dict.fromkeys(finding.reason for finding in violated if finding.reason)
    code = f"policy-{violated[0].rule.replace('_', '-')}" if len(violated) == 1 else None
    found = "; ".join(map(str, violated))
    return PolicyError(
        f"The policy refuses the key {subject.name}: {found}.",
        cause=" ".join(reasons) or None,
        hint=" ".join(hints.values()),
        code=code,
        violations=tuple(
            {"rule": f.rule, "demanded": f.demanded, "found": f.found, "evidence": f.evidence}
            for f in violated
        ),
    )


_HINTS = {
    "custody": "Keep the key in an HSM or KMS, or reach a PKCS#11 token through p11-kit remoting "
    "so that the key lives in another process.",
    "evidence": "Have the place attest the key (Google's HSM attestation), or demand less evidence "
    "if nothing better can be had.",
    "backends": "Move the key to a backend that is allowed.",
    "algorithms": "Set algorithm to one that is allowed, and register a key that can do it.",
    "min_rsa_bits": "Rotate to a larger key: keystay rotate start CLIENT.",
    "min_ec_bits": "Rotate to a key on a larger curve: keystay rotate start CLIENT.",
    "max_key_age": "Rotate to a new key: keystay rotate start CLIENT.",
}
