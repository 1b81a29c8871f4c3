"""Custody and the policy on it."""

from __future__ import annotations

from typing import Any

import pytest

from keystay.custody import Custody, Fact, enforce
from keystay.errors import ConfigurationError, PolicyError

SATISFIED = {
    "any": {"in-process", "other-process", "remote-service", "hardware"},
    "out-of-process": {"other-process", "remote-service", "hardware"},
    "hardware": {"hardware"},
}


@pytest.mark.parametrize("minimum", SATISFIED)
@pytest.mark.parametrize(
    "location", ["in-process", "other-process", "remote-service", "hardware", "unknown", ""]
)
def test_policy(minimum: str, location: Any) -> None:
    """A place satisfies a policy as the table says; an unknown place satisfies none."""
    custody = Custody(location, "reported", "Because.")
    if location in SATISFIED[minimum]:
        assert None is enforce(custody, minimum, key="k")  # type: ignore[func-returns-value]
        return
    with pytest.raises(PolicyError) as caught:
        enforce(custody, minimum, key="pkcs11:token=a")
    assert ("policy-custody", "Because.") == (caught.value.code, caught.value.cause)
    assert "pkcs11:token=a" in caught.value.message


@pytest.mark.parametrize("minimum", ["", "Hardware", "out_of_process", "none"])
def test_unknown_policy(minimum: str) -> None:
    """A policy that does not exist is refused, not read as the weakest."""
    with pytest.raises(ConfigurationError, match="any, out-of-process, hardware"):
        enforce(Custody("hardware", "attested", "x"), minimum, key="k")


def test_attributes_alone_prove_nothing() -> None:
    """Perfect attribute bits do not lift a key that is in this process."""
    facts = {name: Fact(True, "attested") for name in ("sensitive", "never_extractable", "local")}
    with pytest.raises(PolicyError):
        enforce(Custody("in-process", "attested", "x", facts), "out-of-process", key="k")


def test_shown() -> None:
    """A custody reads as one line, and as plain data."""
    custody = Custody("hardware", "reported", "It says so.", {"local": Fact(True, "reported")})
    assert "hardware (reported): It says so." == str(custody)
    assert {
        "location": "hardware",
        "evidence": "reported",
        "reason": "It says so.",
        "facts": {"local": {"value": True, "evidence": "reported"}},
    } == custody.to_dict()
