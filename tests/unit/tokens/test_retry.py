"""The one loop that tries again: stepped, with a clock set by hand."""

from __future__ import annotations

import json
from email.utils import formatdate
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import keystay
from keystay.assertion import decode_unverified
from keystay.errors import (
    BackendUnavailableError,
    KeystayError,
    NetworkError,
    RateBudgetError,
    TokenRefusedError,
)
from keystay.http.messages import HttpResponse
from keystay.signer import Signer
from keystay.tokens.retry import RateLimiter
from tests.support.stepping import Call, ManualClock, SteppedIO
from tests.support.token_clients import GRANT
from tests.unit.fakes import FakeKey

if TYPE_CHECKING:
    from keystay.token_stores.access_token import AccessToken

ENDPOINT = "https://as.example.org/token"
BARE = {"error": "invalid_client", "error_description": None}


class Client:
    """A client whose answers the test gives."""

    def __init__(self, clock: ManualClock, key: Any = None, **more: Any) -> None:
        settings: Any = {
            "fhir_base_url": "https://ehr.example.org/fhir",
            "client_id": "etl",
            "signer": Signer(key or FakeKey()),
            "scope": "system/Patient.rs",
            "token_endpoint": ENDPOINT,
            "retries": 3,
            "signer_retries": 1,
            **more,
        }
        self.clock = clock
        self.core = keystay.TokenClient(clock=clock.clock, **settings)._core

    def ask(self, seconds: float = 600.0) -> Call[AccessToken]:
        """A new token, whatever is kept."""
        return Call(self.core.retry.token(SteppedIO(self.clock.deadline(seconds))))

    def answer(
        self,
        call: Call[AccessToken],
        status: int = 200,
        document: Any = GRANT,
        **headers: str,
    ) -> None:
        """Answer the request that a call has sent."""
        assert "send" == call.kind
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        call.answer(HttpResponse(status, fields, json.dumps(document).encode()))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """A clock set by hand; nothing is left to chance."""
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    return ManualClock()


def jti(call: Call[AccessToken]) -> str:
    """The id of the assertion that a call sends."""
    assert call.step
    assert call.step.request
    assert call.step.request.body
    assertion = parse_qs(call.step.request.body.decode())["client_assertion"][0]
    return str(decode_unverified(assertion)[1]["jti"])


def test_pauses_grow_and_each_try_is_fresh(clock: ManualClock) -> None:
    """0.2, 0.4, 0.8 s; another jti each time; then the last error."""
    client = Client(clock)
    call, seen, pauses = client.ask(), set[str](), list[float]()
    for _ in range(3):
        seen.add(jti(call))
        client.answer(call, 503, {})
        assert call.step
        pauses.append(call.step.seconds)
        call.answer()
    seen.add(jti(call))
    client.answer(call, 503, {})
    assert isinstance(call.error, TokenRefusedError)
    assert pytest.approx([0.2, 0.4, 0.8]) == pauses
    assert 4 == len(seen)


def test_pause_beyond_the_deadline_is_not_begun(clock: ManualClock) -> None:
    """The error comes at once."""
    client = Client(clock)
    call = client.ask(seconds=30)
    client.answer(call, 429, {}, retry_after="60")
    assert isinstance(call.error, TokenRefusedError)


class TestDoubtfulRefusal:
    """A bare `invalid_client` for what worked today is tried once more (Epic does this)."""

    def worked(self, clock: ManualClock, ago: float = 3600.0, **more: Any) -> Client:
        """A client that was granted a token a while ago."""
        client = Client(clock, **more)
        client.answer(client.ask())
        clock.passes(ago)
        return client

    def test_tried_once_more(self, clock: ManualClock) -> None:
        """With a fresh assertion, after a moment."""
        client = self.worked(clock)
        call = client.ask()
        first = jti(call)
        client.answer(call, 400, BARE)
        assert "sleep" == call.kind
        call.answer()
        assert first != jti(call)
        client.answer(call)
        assert call.result is not None

    def test_then_final(self, clock: ManualClock) -> None:
        """The second refusal stands."""
        client = self.worked(clock)
        call = client.ask()
        client.answer(call, 401, BARE)
        call.answer()
        client.answer(call, 401, BARE)
        assert isinstance(call.error, TokenRefusedError)
        assert call.error.worked_today

    def test_first_refusal_ever_is_final(self, clock: ManualClock) -> None:
        """Nothing says that it might be a whim."""
        client = Client(clock)
        call = client.ask()
        client.answer(call, 400, BARE)
        assert isinstance(call.error, TokenRefusedError)

    def test_yesterdays_success_does_not_count(self, clock: ManualClock) -> None:
        """Keys may have been exchanged since."""
        client = self.worked(clock, ago=86_401)
        call = client.ask()
        client.answer(call, 400, BARE)
        assert isinstance(call.error, TokenRefusedError)

    @pytest.mark.parametrize(
        "document",
        [
            {"error": "invalid_client", "error_description": "unknown kid"},
            {"error": "invalid_client", "error_uri": "urn:invalid-signature"},
            {"error": "invalid_scope"},
            {},
        ],
    )
    def test_a_reason_is_final(self, clock: ManualClock, document: Any) -> None:
        """What the server says it refuses for, it refuses for again."""
        client = self.worked(clock)
        call = client.ask()
        client.answer(call, 400, document)
        assert isinstance(call.error, TokenRefusedError)

    def test_another_key_is_another_matter(self, clock: ManualClock) -> None:
        """It is this kid that worked, and no other."""
        client = self.worked(clock)
        other = Signer(FakeKey(), kid="another")
        io = SteppedIO(clock.deadline())
        call = Call(client.core.retry.token(io, signer=other))
        client.answer(call, 400, BARE)
        assert isinstance(call.error, TokenRefusedError)


def test_wrong_clock_is_tried_at_once_and_once(clock: ManualClock) -> None:
    """The refusal tells the time; the second assertion is stamped by it."""
    client = Client(clock)
    call = client.ask()
    ahead = formatdate(clock.wall + 900, usegmt=True)
    client.answer(call, 400, BARE, date=ahead)
    assert "send" == call.kind
    client.answer(call, 400, BARE, date=ahead)
    assert isinstance(call.error, TokenRefusedError)
    assert pytest.approx(900, abs=1) == call.error.correction


def test_budgets_are_apart(clock: ManualClock) -> None:
    """A device that is not there does not use up the tries of the network."""

    class Broken(FakeKey):
        failures = 1

        def sign(self, request: Any) -> Any:
            if self.failures:
                self.failures -= 1
                raise BackendUnavailableError("the device is not there")
            return super().sign(request)

    client = Client(clock, Broken())
    call = client.ask()
    for _ in range(4):
        assert "sleep" == call.kind
        call.answer()
        call.fail(NetworkError("reset"))
    assert isinstance(call.error, NetworkError)


class TestRateLimit:
    """`rate_limit`: waited for as long as the deadline allows."""

    def test_waits_and_goes_on(self, clock: ManualClock) -> None:
        """The third of two a minute waits for the first one's minute to be over."""
        client = Client(clock, rate_limit="2/60")
        for _ in range(2):
            client.answer(client.ask())
            clock.passes(10)
        call = client.ask()
        assert call.step
        assert ("sleep", 40.0) == (call.kind, call.step.seconds)
        clock.passes(40)
        call.answer()
        client.answer(call)
        assert call.result is not None

    def test_too_long_a_wait_is_told(self, clock: ManualClock) -> None:
        """At once, with the seconds."""
        client = Client(clock, rate_limit="1/60")
        client.answer(client.ask())
        call = client.ask(seconds=30)
        assert isinstance(call.error, RateBudgetError)
        assert 60.0 == call.error.retry_after

    def test_what_is_not_sent_does_not_count(self, clock: ManualClock) -> None:
        """A signature that fails leaves the place free."""

        class Dead(FakeKey):
            def sign(self, request: Any) -> Any:
                raise BackendUnavailableError("the device is not there")

        client = Client(clock, Dead(), rate_limit="1/60", signer_retries=0)
        for _ in range(3):
            call = client.ask()
            assert isinstance(call.error, BackendUnavailableError)


class Limit(RuleBasedStateMachine):
    """Callers that take places, send, give up, and let time pass."""

    count, seconds = 3, 60.0

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.limiter = RateLimiter(f"{self.count}/{self.seconds:g}", self.clock.clock)
        self.places: list[Any] = []
        self.sent: list[float] = []

    @rule()
    def come(self) -> None:
        """Another caller: there is room, or a time when there will be."""
        recent = [at for at in self.sent if at > self.clock.at - self.seconds]
        if len(recent) + len(self.places) < self.count:
            self.places.append(self.limiter.acquire().__enter__())
        else:
            with pytest.raises(RateBudgetError) as caught:
                self.limiter.acquire()
            wait = caught.value.retry_after
            assert wait is not None
            assert 0 < wait <= self.seconds

    @precondition(lambda self: self.places)
    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        """A request is sent, and its block ends."""
        place = self.places.pop(data.draw(st.integers(0, len(self.places) - 1)))
        place.sent()
        self.sent.append(self.clock.at)
        place.__exit__(None, None, None)

    @precondition(lambda self: self.places)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        """A block ends without a request."""
        self.places.pop(data.draw(st.integers(0, len(self.places) - 1))).__exit__()

    @rule(seconds=st.sampled_from([0.5, 20.0, 60.0]))
    def pass_time(self, seconds: float) -> None:
        """Time passes."""
        self.clock.passes(seconds)

    @invariant()
    def never_more(self) -> None:
        """In any span of so many seconds, so many are sent at most."""
        for at in self.sent:
            inside = [other for other in self.sent if at <= other < at + self.seconds]
            assert len(inside) <= self.count


def test_rate_limit_in_any_order() -> None:
    """No order of callers breaks the limit."""
    run_state_machine_as_test(
        Limit, settings=settings(max_examples=100, stateful_step_count=40, deadline=None)
    )


def test_errors_are_ours(clock: ManualClock) -> None:
    """Whatever is answered, the error is one of ours."""
    client = Client(clock)
    for status in (200, 302, 400, 404, 500):
        call = client.ask(seconds=0.1)
        client.answer(call, status, [])
        assert isinstance(call.error, KeystayError)
