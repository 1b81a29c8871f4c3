"""Policy: every rule, what is said of a violation, and when it is looked at again."""

from __future__ import annotations

import pickle
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from keystay.backends import Deadline
from keystay.custody import Custody, Fact
from keystay.errors import AlgorithmError, PolicyError
from keystay.policy import Policy, Subject
from keystay.signer import Signer
from tests.unit.fakes import PRIVATE_KEYS, FakeKey

HSM = Custody("hardware", "reported", "The HSM says so.")
HERE = Custody("in-process", "reported", "It is here.")
DAY = datetime.now(UTC).date()
KEY = Subject(
    "pkcs11:token=a", "pkcs11", "ES384", "EC", 384, HSM,
    Fact((DAY - timedelta(days=100)).isoformat(), "reported"),
)  # fmt: skip

RULES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "custody": ({"custody": "hardware"}, {"custody": HERE}),
    "custody unknown": ({"custody": "out-of-process"}, {"custody": Custody("x", "reported", "?")}),  # type: ignore[arg-type]
    "evidence": ({"evidence": "attested"}, {}),
    "evidence asserted": (
        {"evidence": "reported"},
        {"custody": Custody("hardware", "asserted", "x")},
    ),
    "evidence unknown": (
        {"evidence": "reported"},
        {"custody": Custody("hardware", "sworn", "x")},  # type: ignore[arg-type]
    ),
    "backends": ({"backends": ("awskms", "gcpkms")}, {}),
    "backends unknown": ({"backends": ("pkcs11",)}, {"backend": ""}),
    "algorithms": ({"algorithms": ("RS384",)}, {}),
    "min_rsa_bits": ({"min_rsa_bits": 3072}, {"kty": "RSA", "bits": 2048}),
    "min_ec_bits": ({"min_ec_bits": 384}, {"bits": 256}),
    "min_ec_bits Ed25519": ({"min_ec_bits": 384}, {"kty": "OKP", "bits": 256}),
    "max_key_age": ({"max_key_age": 99}, {}),
    "max_key_age unknown": ({"max_key_age": 99}, {"created": None}),
    "max_key_age unreadable": ({"max_key_age": 99}, {"created": Fact("once", "reported")}),
    "max_key_age future": ({"max_key_age": 99}, {"created": Fact("2999-01-01", "reported")}),
    "max_key_age evidence": (
        {"max_key_age": 200, "evidence": "reported"},
        {"created": Fact(DAY.isoformat(), "asserted")},
    ),
}
GOOD: dict[str, Any] = {
    "custody": "hardware", "evidence": "reported", "backends": ("pkcs11",),
    "algorithms": ("ES384",), "min_rsa_bits": 4096, "min_ec_bits": 384, "max_key_age": 110,
}  # fmt: skip


@pytest.mark.parametrize(("rules", "changes"), RULES.values(), ids=RULES)
def test_violated(rules: dict[str, Any], changes: dict[str, Any]) -> None:
    """Each rule refuses what it is there for, names fact and evidence, and fails closed."""
    key = replace(KEY, **changes)
    (violated,) = [f for f in Policy(**rules).check(key) if not f.satisfied]

    with pytest.raises(PolicyError) as caught:
        Policy(**rules).enforce(key)

    error = caught.value
    assert violated.rule in rules
    assert f"policy-{violated.rule.replace('_', '-')}" == error.code
    for text in (key.name, violated.rule, violated.demanded, violated.found, violated.evidence):
        assert text in error.message
    assert error.hint
    assert 3 == error.exit_code


def test_satisfied() -> None:
    """A key that is all that is demanded passes, and every rule is accounted for."""
    Policy(**GOOD).enforce(KEY)

    assert {*GOOD} == {finding.rule for finding in Policy(**GOOD).check(KEY)}
    assert {*GOOD} == {*Policy.__struct_fields__}
    assert [] == Policy().check(KEY)


def test_every_violation_is_listed() -> None:
    """Not only the first: all of them, for people and as data; also after a pickle."""
    policy = Policy(**{**GOOD, "backends": ("awskms",), "max_key_age": 1, "custody": "hardware"})
    with pytest.raises(PolicyError) as caught:
        policy.enforce(replace(KEY, custody=HERE))

    error = pickle.loads(pickle.dumps(caught.value))
    rules = {"custody", "backends", "max_key_age"}
    assert rules == {violation["rule"] for violation in error.violations}
    assert all(rule in error.message for rule in rules)
    assert "policy-violated" == error.code
    assert rules == {v["rule"] for v in error.to_dict()["violations"]}
    assert {"reported", "measured"} == {violation["evidence"] for violation in error.violations}


def test_default_algorithm_is_an_allowed_one() -> None:
    """Without a configured algorithm the first that is allowed is taken."""
    key = FakeKey(PRIVATE_KEYS["RSA-2048"])
    with Signer(key, policy=Policy(algorithms=("PS512",))) as signer:
        assert "PS512" == signer.algorithm
        signer.sign(b"x", "PS512")
        with pytest.raises(PolicyError, match="RS384"):
            signer.sign(b"x", "RS384")
        with pytest.raises(PolicyError):
            signer.sign_digest(b"x" * 48, "RS384")
        with pytest.raises(AlgorithmError):
            signer.sign(b"x", "ES384")
    assert 1 == len(key.calls)


def test_no_allowed_algorithm() -> None:
    """A key that can do none that is allowed is refused."""
    with pytest.raises(PolicyError, match="algorithms"):
        Signer(FakeKey(), policy=Policy(algorithms=("RS384",)))


def test_backend_and_age_reach_the_policy() -> None:
    """The scheme and the configured date are what the rules look at."""
    policy = Policy(backends=("fake",), max_key_age=10)
    Signer(FakeKey(), policy=policy, backend="fake", created=Fact(DAY.isoformat(), "asserted"))
    with pytest.raises(PolicyError, match="nobody says"):
        Signer(FakeKey(), policy=policy, backend="fake")


class TellingKey(FakeKey):
    """A key whose place changes when the connection does, and that says so when asked anew."""

    asked = 0

    def custody_now(self, deadline: Deadline) -> Custody:
        self.asked += 1
        return HERE if self.session else HSM


def test_judged_again_after_a_reconnection() -> None:
    """What answers after a reconnection is looked at before its signature is used."""
    key = TellingKey()
    signer = Signer(key, policy=Policy(custody="hardware"))
    signer.sign(b"x")
    signer.sign(b"x")
    assert 1 == key.asked
    key.session = 1

    for _ in range(2):  # refused again and again, not only at first sight
        with pytest.raises(PolicyError, match="in-process"):
            signer.sign(b"x")

    key.session = 0
    assert signer.sign(b"x")
    assert "hardware" == signer.custody.location


def test_age_is_judged_again_after_a_reconnection() -> None:
    """The one rule that time itself breaks."""
    key = FakeKey()
    born = datetime.now(UTC) - timedelta(days=1) + timedelta(seconds=1)
    created = Fact(born.isoformat(), "asserted")
    signer = Signer(key, policy=Policy(max_key_age=1), created=created)
    signer.sign(b"x")
    time.sleep(1.1)
    signer.sign(b"x")
    key.session = 1
    with pytest.raises(PolicyError, match="max_key_age"):
        signer.sign(b"x")


def test_judged_but_not_enforced() -> None:
    """To look at a refused key: the policy says which algorithm comes first, and no more."""
    key = FakeKey(PRIVATE_KEYS["RSA-2048"])
    policy = Policy(algorithms=("PS512",), min_rsa_bits=4096)
    with Signer(key, policy=policy, enforce=False) as signer:
        assert ("PS512", ("PS512",)) == (signer.algorithm, signer.permitted)
        signer.sign(b"x")
        signer.sign(b"x", "RS384")


def test_failing_to_tell_is_no_signature() -> None:
    """A key that cannot say where it is now does not sign."""

    class Silent(TellingKey):
        def custody_now(self, deadline: Deadline) -> Custody:
            raise OSError("gone")

    signer = Signer(Silent(), policy=Policy(custody="hardware"))
    with pytest.raises(Exception, match="OSError"):
        signer.sign(b"x")


def test_not_asked_without_a_rule() -> None:
    """Where it does not matter where the key is, nobody is asked."""
    key = TellingKey()
    with Signer(key, policy=Policy(min_ec_bits=384)) as signer:
        signer.sign(b"x")

    assert 0 == key.asked


def test_small_curve() -> None:
    """Sizes are those of the key itself."""
    small = FakeKey(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(PolicyError, match="256 bits"):
        Signer(small, policy=Policy(min_ec_bits=384))


@pytest.mark.parametrize(
    ("general", "own", "rule"),
    [
        ({"custody": "hardware"}, {"custody": "out-of-process"}, "custody"),
        ({"evidence": "attested"}, {"evidence": "reported"}, "evidence"),
        ({"backends": ("awskms",)}, {"backends": ("awskms", "file")}, "backends"),
        ({"backends": ("awskms",)}, {}, "backends"),
        ({"algorithms": ("ES384",)}, {"algorithms": ("RS384",)}, "algorithms"),
        ({"min_rsa_bits": 3072}, {"min_rsa_bits": 2048}, "min_rsa_bits"),
        ({"min_ec_bits": 384}, {"min_ec_bits": 256}, "min_ec_bits"),
        ({"max_key_age": 100}, {"max_key_age": 101}, "max_key_age"),
        ({"max_key_age": 100}, {}, "max_key_age"),
    ],
)
def test_loosened(general: dict[str, Any], own: dict[str, Any], rule: str) -> None:
    """A policy knows in what another one demands less; more, or as much, is no loosening."""
    assert [rule] == [name for name, _ in Policy(**general).loosened_by(Policy(**own))]
    assert [] == list(Policy(**general).loosened_by(Policy(**GOOD | general)))
    assert [] == list(Policy().loosened_by(Policy(**own)))
