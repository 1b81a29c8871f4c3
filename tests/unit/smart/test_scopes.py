"""Scopes: slips that are caught here, and what is left to the server."""

from __future__ import annotations

import pytest

from keystay.errors import ConfigurationError
from keystay.smart.scopes import (
    DEFAULT_SCOPE,
    advertised_style,
    convert,
    missing_scopes,
    normalise,
    require_style,
)


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


MISSING = {
    "to-the-letter": ("a b c", "b d", ("a", "c")),
    "all-there": ("a", "a b", ()),
    "wildcard": ("system/Patient.r system/Observation.s", "system/*.rs", ()),
    "wildcard-asked": ("system/*.rs", "system/Patient.rs", ("system/*.rs",)),
    "v1-granted": ("system/Patient.rs", "system/Patient.read", ()),
    "v2-granted": ("system/*.read", "system/*.cruds", ()),
    "two-make-one": ("system/Patient.rs", "system/Patient.r system/Patient.s", ()),
    "too-few-letters": ("system/Patient.rs", "system/Patient.r", ("system/Patient.rs",)),
    "narrowed": (
        "system/Observation.rs",
        "system/Observation.rs?category=laboratory",
        ("system/Observation.rs",),
    ),
    "wider": (
        "system/Observation.rs?category=laboratory&status=final",
        "system/Observation.rs?status=final",
        (),
    ),
    "other-context": ("patient/Patient.r", "system/*.cruds patient/*.rs", ("patient/Patient.r",)),
    "server-writes-nonsense": ("system/Patient.rs", "system/Patient.sr ,", ("system/Patient.rs",)),
}


@pytest.mark.parametrize(("asked", "granted", "missing"), MISSING.values(), ids=MISSING)
def test_missing(asked: str, granted: str, missing: tuple[str, ...]) -> None:
    """What was asked for and not granted, compared by what it allows."""
    assert missing == missing_scopes(asked, granted)


@pytest.mark.parametrize(
    ("capabilities", "style"),
    [
        pytest.param(["permission-v1"], "v1", id="v1"),
        pytest.param(["launch-ehr", "permission-v2"], "v2", id="v2"),
        pytest.param(["permission-v1", "permission-v2"], "as-written", id="both"),
        pytest.param([], "as-written", id="neither"),
    ],
)
def test_advertised_style(capabilities: list[str], style: str) -> None:
    """A server that says nothing, or takes both, gets what the user wrote."""
    assert style == advertised_style(capabilities)


def test_convert_a_list() -> None:
    """Each system scope in one version, once; the order and all others stay."""
    scope = "system/Patient.read openid system/Patient.rs patient/*.read system/*.*"
    assert "system/Patient.rs openid patient/*.read system/*.cruds" == convert(scope, "v2")
    assert "system/Patient.read openid patient/*.read system/*.*" == convert(scope, "v1")
    assert scope == convert(scope, "as-written") == convert(scope, "auto")


def test_styles_that_cannot_be_followed() -> None:
    """A misspelt style, and `auto` where nothing is discovered."""
    assert "auto" == require_style("auto", discovered=True)
    with pytest.raises(ConfigurationError, match="no scope style 'v3'"):
        require_style("v3", discovered=True)
    with pytest.raises(ConfigurationError, match="not asked for"):
        require_style("auto", discovered=False)
