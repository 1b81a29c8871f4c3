"""System scopes in both versions: parsed, written, compared; properties against another parser."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystay.errors import ConfigurationError
from keystay.smart.scopes import convert, missing_scopes, normalise
from keystay.smart.system_scope import SystemScope
from keystay.testing.refusals import ScopeRefusedError
from keystay.testing.scope_rules import parse_system_scope as parse_strictly

RESOURCES = st.sampled_from(["*", "Patient", "Observation", "MedicationRequest"])
LETTERS = st.sets(st.sampled_from("cruds"), min_size=1).map(
    lambda found: "".join(c for c in "cruds" if c in found)
)
PARAMETERS = st.lists(
    st.tuples(
        st.sampled_from(["category", "_tag:not", "code"]),
        st.text("abcXYZ019|:/=.-_~", min_size=1, max_size=8),
    ).map("=".join),
    max_size=3,
).map(tuple)
SCOPES = st.builds(SystemScope, RESOURCES, LETTERS, PARAMETERS)
V1 = st.builds("system/{}.{}".format, RESOURCES, st.sampled_from(["read", "write", "*"]))


@pytest.mark.parametrize(
    ("written", "resource", "letters", "parameters"),
    [
        ("system/Patient.rs", "Patient", "rs", ()),
        ("system/*.cruds", "*", "cruds", ()),
        ("system/Patient.read", "Patient", "rs", ()),
        ("system/Patient.write", "Patient", "cud", ()),
        ("system/*.*", "*", "cruds", ()),
        (
            "system/Observation.rs?category=http://terminology.hl7.org/x|laboratory&status=final",
            "Observation",
            "rs",
            ("category=http://terminology.hl7.org/x|laboratory", "status=final"),
        ),
    ],
    ids=["v2", "v2-all", "v1-read", "v1-write", "v1-all", "granular"],
)
def test_parsed(written: str, resource: str, letters: str, parameters: tuple[str, ...]) -> None:
    """Both versions of SMART App Launch 2.2, and its parameters."""
    assert SystemScope(resource, letters, parameters) == SystemScope.parse(written)


OTHERS = {
    "vendor": "athena/service/Athenanet.MDP.*",
    "patient": "patient/Patient.sr",
    "user": "user/*.Read",
    "launch": "launch/patient",
    "openid": "openid",
    "operation": "system/Group.$export",
    "word": "system/Patient.export",
    "without-dot": "system/bulk-export",
    "upper": "SYSTEM/Patient.rs",
}


@pytest.mark.parametrize("written", OTHERS.values(), ids=OTHERS)
def test_others_pass_untouched(written: str) -> None:
    """What is not a system scope is the server's business, in every style."""
    assert SystemScope.parse(written) is None
    assert [written] * 3 == [normalise(written), convert(written, "v1"), convert(written, "v2")]


SLIPS = {
    "order": ("system/Patient.sr", "system/Patient.rs"),
    "twice": ("system/Patient.rr", "system/Patient.r"),
    "capitals": ("system/Patient.RS", "system/Patient.rs"),
    "v1-capital": ("system/Patient.Read", "system/Patient.read"),
    "nothing": ("system/Patient.", "system/Patient.rs"),
    "lower-resource": ("system/patient.rs", "system/Patient.rs"),
    "v1-parameter": ("system/Patient.read?a=b", "system/Patient.rs?a=b"),
    "order-parameter": ("system/Patient.sr?a=b", "system/Patient.rs?a=b"),
    "empty-query": ("system/Patient.rs?", "system/Patient.rs?category=laboratory"),
    "no-value": ("system/Patient.rs?a=", "system/Patient.rs?category=laboratory"),
    "no-name": ("system/Patient.rs?a=b&=c", "system/Patient.rs?category=laboratory"),
    "comma-list": ("system/Patient.rs?a", "system/Patient.rs?category=laboratory"),
}


@pytest.mark.parametrize(("written", "remedy"), SLIPS.values(), ids=SLIPS)
def test_slips(written: str, remedy: str) -> None:
    """A server may ignore a malformed scope without a word, so it is refused here, corrected."""
    with pytest.raises(ConfigurationError, match="scope") as caught:
        normalise(f"system/*.rs {written}")
    assert "scope-invalid" == caught.value.code
    assert repr(remedy) in (caught.value.hint or "")
    assert caught.value.cause


@given(SCOPES)
def test_version_2_round_trip(scope: SystemScope) -> None:
    """What is written as version 2 is read as the same."""
    assert scope == SystemScope.parse(scope.v2())
    assert scope.v2() == normalise(scope.v2()) == convert(scope.v2(), "v2")


@given(V1)
def test_version_1_is_exact(written: str) -> None:
    """Version 1 to 2 and back loses nothing, and either grants the other."""
    newer = convert(written, "v2")
    assert written == convert(newer, "v1") == convert(written, "v1")
    assert () == missing_scopes(written, newer) == missing_scopes(newer, written)


@given(SCOPES)
def test_version_1_only_where_it_says_the_same(scope: SystemScope) -> None:
    """Version 1 is exact or refused with a cause, never wider than what was meant."""
    exact = scope.permissions in ("rs", "cud", "cruds") and not scope.parameters
    if exact:
        assert scope == SystemScope.parse(scope.v1())
        return
    with pytest.raises(ConfigurationError) as caught:
        scope.v1()
    assert "scope-not-expressible" == caught.value.code
    assert caught.value.cause
    # What the remedy names covers what was meant.
    wider = (caught.value.hint or "").split("'")[1]
    assert () == missing_scopes(scope.v2(), wider)


@given(st.text("systemPainobrcud/.*?=&|-,;:%RS", max_size=30).map("system/".__add__))
def test_anything(written: str) -> None:
    """Whatever is written: parsed as the strict parser does, left alone, or refused as ours."""
    try:
        strict: SystemScope | None = parse_strictly(written)
    except ScopeRefusedError:
        strict = None
    try:
        found = SystemScope.parse(written)
    except ConfigurationError:
        found = None
    if strict is not None:
        assert strict == found
    if found is not None:
        assert found == SystemScope.parse(found.v2())


@given(st.lists(SCOPES, min_size=1, max_size=4), st.lists(SCOPES, max_size=4))
def test_missing_is_what_no_granted_letter_covers(
    asked: list[SystemScope], granted: list[SystemScope]
) -> None:
    """Letter by letter: a scope is missing if one of its letters is covered by nothing granted."""
    requested = " ".join(scope.v2() for scope in asked)
    missing = missing_scopes(requested, " ".join(scope.v2() for scope in granted))
    for scope in asked:
        letters = [SystemScope(scope.resource, c, scope.parameters) for c in scope.permissions]
        whole = all(any(have.covers(letter) for have in granted) for letter in letters)
        assert whole != (scope.v2() in missing)
    assert () == missing_scopes(requested, requested)
