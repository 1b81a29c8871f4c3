"""Custody, and what it satisfies."""

from __future__ import annotations

from typing import Any

import pytest

from keystay.custody import Custody, Fact, minimum, satisfies
from keystay.errors import ConfigurationError

SATISFIED = {
    "any": {"in-process", "other-process", "remote-service", "hardware"},
    "out-of-process": {"other-process", "remote-service", "hardware"},
    "hardware": {"hardware"},
}


@pytest.mark.parametrize("demanded", SATISFIED)
@pytest.mark.parametrize(
    "location", ["in-process", "other-process", "remote-service", "hardware", "unknown", ""]
)
def test_satisfies(demanded: Any, location: Any) -> None:
    """A place satisfies a minimum as the table says; an unknown place satisfies none."""
    found = satisfies(Custody(location, "reported", "Because."), demanded)

    assert (location in SATISFIED[demanded]) is found


@pytest.mark.parametrize("name", ["", "Hardware", "out_of_process", "none"])
def test_unknown_minimum(name: str) -> None:
    """A minimum that does not exist is refused, not read as the weakest."""
    with pytest.raises(ConfigurationError, match="any, out-of-process, hardware"):
        minimum(name)


def test_statement_is_kept() -> None:
    """A device's own statement is part of the plain data, where there is one."""
    kept = Custody("hardware", "attested", "x", statement="AAEC")

    assert "AAEC" == kept.to_dict()["statement"]
    assert "statement" not in Custody("hardware", "reported", "x").to_dict()


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
