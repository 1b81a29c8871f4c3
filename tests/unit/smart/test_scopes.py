"""Scopes: slips that are caught here, and what is left to the server."""

from __future__ import annotations

import pytest

from keystay.errors import ConfigurationError
from keystay.smart.scopes import DEFAULT_SCOPE, missing_scopes, normalise


def test_default() -> None:
    """Asked for when nothing is configured."""
    assert "system/*.rs" == DEFAULT_SCOPE


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        pytest.param("system/Patient.rs", "system/Patient.rs", id="one"),
        pytest.param(" a\tb\n  a ", "a b", id="blanks-and-duplicates"),
        pytest.param("athena/service/Athenanet.MDP.*", "athena/service/Athenanet.MDP.*", id="own"),
        pytest.param(
            "system/Observation.rs?category=x|laboratory",
            "system/Observation.rs?category=x|laboratory",
            id="with-parameter",
        ),
    ],
)
def test_normalise(given: str, sent: str) -> None:
    """One blank between scopes, no duplicates, the order kept; vendors' own scopes pass."""
    assert sent == normalise(given)


@pytest.mark.parametrize(
    "scope",
    ["", "   ", 'system/"Patient".rs', "a\\b", "a, b", "ä", "a\x1b[2J", "a\x7f"],
    ids=["empty", "blank", "quote", "backslash", "comma", "not-ascii", "escape", "delete"],
)
def test_refused(scope: str) -> None:
    """What RFC 6749 §3.3 does not allow is refused with a remedy."""
    with pytest.raises(ConfigurationError) as caught:
        normalise(scope)
    assert caught.value.hint


def test_missing() -> None:
    """What was asked for and not granted to the letter, in order."""
    assert ("a", "c") == missing_scopes("a b c", "b d")
    assert () == missing_scopes("a", "a b")
