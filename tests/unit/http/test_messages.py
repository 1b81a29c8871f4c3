"""What an answer's headers say of time."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystay.http.messages import HttpResponse

MOMENT = 1_700_000_000.0
DATE = formatdate(MOMENT, usegmt=True)


def answer(**headers: str) -> HttpResponse:
    """An answer with these headers; an underscore stands for a hyphen."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpResponse(503, named, b"")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({"date": DATE}, MOMENT, id="date"),
        pytest.param({"date": DATE, "age": "90"}, MOMENT + 90, id="from-a-cache"),
        pytest.param({"date": DATE, "age": "old"}, MOMENT, id="age-is-no-number"),
        pytest.param({"date": "Tuesday, 14-Nov-23 22:13:20 GMT"}, MOMENT, id="rfc-850"),
        pytest.param({"date": "Tue, 14 Nov 2023 22:13:20 -0000"}, MOMENT, id="no-zone"),
        pytest.param({}, None, id="none"),
        pytest.param({"date": "yesterday"}, None, id="no-date"),
        pytest.param({"date": "Tue, 14 Nov 99999999999 22:13:20 GMT"}, None, id="no-year"),
    ],
)
def test_server_time(headers: dict[str, str], expected: float | None) -> None:
    """Unix time; what cannot be read is no time."""
    assert expected == answer(**headers).server_time


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({"retry_after": "120"}, 120.0, id="seconds"),
        pytest.param({"retry_after": " 0 "}, 0.0, id="now"),
        pytest.param({"retry_after": "9" * 400}, 999_999_999.0, id="endless"),
        pytest.param({"retry_after": "-5"}, None, id="negative"),
        pytest.param({"retry_after": "٣"}, None, id="other-digits"),
        pytest.param({"retry_after": "soon"}, None, id="a-word"),
        pytest.param({}, None, id="none"),
        pytest.param(
            {"retry_after": formatdate(MOMENT + 30, usegmt=True), "date": DATE}, 30.0, id="date"
        ),
        pytest.param(
            {"retry_after": formatdate(MOMENT - 30, usegmt=True), "date": DATE}, 0.0, id="past"
        ),
    ],
)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    """Seconds, never negative; a date is read by the server's own clock."""
    assert expected == answer(**headers).retry_after


def test_retry_after_without_date() -> None:
    """Where the server does not say its time, ours has to do."""
    wait = answer(retry_after=formatdate(time.time() + 60, usegmt=True)).retry_after
    assert wait is not None
    assert 57 < wait <= 60


@given(st.text(), st.text(), st.text())
def test_nothing_is_raised(date: str, age: str, wait: str) -> None:
    """Whatever a server sends."""
    found = answer(date=date, age=age, retry_after=wait)
    assert found.server_time is None or isinstance(found.server_time, float)
    assert (found.retry_after or 0.0) >= 0.0
