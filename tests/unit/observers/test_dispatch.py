"""Telling observers and the log: who is told what, and whose failure matters."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import keystay
from keystay.errors import LoginError, ObserverError
from keystay.observers import NOBODY, AssertionSigned, MessageSigned, Observers, TokenInvalidated
from keystay.signer import Signer
from tests.support.secrets_watch import WATCH
from tests.unit.fakes import FakeKey, RaisingKey

SECRET = WATCH.add("what an observer's exception quotes", "observer-secret-7718")


class Recorder:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    @keystay.hookimpl
    def keystay_signer_opened(self, event: Any) -> None:
        """Keep."""
        self.events.append(event)

    @keystay.hookimpl
    def keystay_assertion_signed(self, event: Any) -> None:
        """Keep."""
        self.events.append(event)

    @keystay.hookimpl
    def keystay_message_signed(self, event: Any) -> None:
        """Keep."""
        self.events.append(event)

    @keystay.hookimpl
    def keystay_token_invalidated(self, event: Any) -> None:
        """Keep."""
        self.events.append(event)


class Failing:
    """Fails at everything."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error or RuntimeError(SECRET)

    @keystay.hookimpl
    def keystay_message_signed(self, event: Any) -> None:
        """Fail."""
        raise self.error

    @keystay.hookimpl
    def keystay_token_invalidated(self, event: Any) -> None:
        """Fail."""
        raise self.error


def signed(outcome: str = "ok") -> MessageSigned:
    """An event."""
    return MessageSigned(
        backend="x", kid="k", key_id="i", algorithm="ES384", custody="hardware", outcome=outcome
    )


class TestSignatures:
    """What a signer and an assertion tell."""

    def test_message(self) -> None:
        """`sign` and `sign_digest` each tell once, with the key and how long it took."""
        recorder = Recorder()
        signer = Signer(FakeKey(), backend="demo", observers=Observers(recorder))
        signer.sign(b"message")
        signer.sign_digest(bytes(32), "ES256") if "ES256" in signer.algorithms else None
        signer.sign_digest(bytes(48))
        first, second = recorder.events
        assert isinstance(first, MessageSigned)
        assert ("demo", signer.kid, "key-1", "ES384", "hardware", "ok") == (
            first.backend, first.kid, first.key_id, first.algorithm, first.custody, first.outcome
        )  # fmt: skip
        assert 0 <= first.duration < 60
        assert "message-signed" == second.name

    def test_assertion(self) -> None:
        """An assertion tells client, audience and jti, and is not told as a message as well."""
        recorder = Recorder()
        signer = Signer(FakeKey(), observers=Observers(recorder))
        jwt = keystay.ClientAssertion(client_id="me", signer=signer).build("https://as/token")
        (event,) = recorder.events
        assert isinstance(event, AssertionSigned)
        from keystay.assertion import decode_unverified

        claims = decode_unverified(jwt)[1]
        assert ("me", "https://as/token", claims["jti"]) == (event.client_id, event.aud, event.jti)
        assert jwt.split(".")[2] not in event.to_json().decode()

    async def test_assertion_of_a_task(self, anyio_backend: str) -> None:
        """The same from asyncio and trio: told once, as an assertion; `sign_async` as well."""
        recorder = Recorder()
        signer = Signer(FakeKey(), observers=Observers(recorder))
        assertion = keystay.ClientAssertion(client_id="me", signer=signer)
        await assertion.build_async("https://as/token")
        await signer.sign_async(b"x")
        first, second = recorder.events
        assert ("assertion-signed", "me", "message-signed") == (
            first.name, first.client_id, second.name
        )  # fmt: skip
        assert first.jti

    def test_request_id(self) -> None:
        """The backend's id of the request is passed on."""

        class Kms(FakeKey):
            def sign(self, request: Any) -> Any:
                return super().sign(request)._replace(request_id="req-77")

        recorder = Recorder()
        Signer(Kms(), observers=Observers(recorder)).sign(b"x")
        assert "req-77" == recorder.events[0].request_id

    @pytest.mark.parametrize(
        ("error", "outcome"),
        [(LoginError("No."), "login-failed"), (RuntimeError(SECRET), "backend-unexpected")],
    )
    def test_failure(self, error: Exception, outcome: str) -> None:
        """A signature that failed is told with the code of its error."""
        recorder = Recorder()
        signer = Signer(RaisingKey(error=error), observers=Observers(recorder))
        assertion = keystay.ClientAssertion(client_id="me", signer=signer)
        with pytest.raises(keystay.KeystayError):
            assertion.build("https://as/token")
        (event,) = recorder.events
        assert (outcome, "me", "https://as/token") == (event.outcome, event.client_id, event.aud)
        assert event.jti  # it was stamped, and the signature did not come
        WATCH.check(event.to_json().decode(), "the event")

    def test_no_message(self) -> None:
        """Where no session was to be had, there is no assertion that has a jti."""

        class Busy(FakeKey):
            def lease(self, deadline: Any) -> Any:
                raise LoginError("No.")

        recorder = Recorder()
        assertion = keystay.ClientAssertion(
            client_id="me", signer=Signer(Busy(), observers=Observers(recorder))
        )
        with pytest.raises(LoginError):
            assertion.build("https://as/token")
        (event,) = recorder.events
        assert ("me", "https://as/token", None) == (event.client_id, event.aud, event.jti)

    def test_probe_is_not_told(self) -> None:
        """The signature that checks a PEM key at opening is nobody's."""
        recorder = Recorder()
        Signer(FakeKey(signs_here=True), observers=Observers(recorder))
        assert [] == recorder.events

    def test_opening(self, pem_file: Any) -> None:
        """An opened key is told, and one that policy refused."""
        recorder = Recorder()
        observers = Observers(recorder)
        with keystay.open_signer(f"file:{pem_file}", observers=observers) as signer:
            assert signer.observers is observers
        with pytest.raises(keystay.KeystayError):
            keystay.open_signer(f"file:{pem_file}", custody="hardware", observers=observers)
        good, bad = recorder.events
        assert ("ok", signer.kid, "in-process", "file") == (
            good.outcome, good.kid, good.custody, good.backend
        )  # fmt: skip
        assert ("policy-custody", None, f"file:{pem_file}") == (bad.outcome, bad.kid, bad.key)


class TestFailures:
    """A failing observer."""

    def test_breaks_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        """It is warned about once a minute, by type alone; the others are told."""
        recorder = Recorder()
        observers = Observers(Failing(), recorder)
        signer = Signer(FakeKey(), observers=observers)
        with caplog.at_level(logging.WARNING, "keystay.events"):
            for _ in range(3):
                signer.sign(b"x")
        assert 3 == len(recorder.events)
        (record,) = caplog.records
        assert "observer-failed" == record.__dict__["event"]
        assert (
            "The observer Failing failed at message-signed (failures so far: 1): RuntimeError."
            == (record.getMessage())
        )

    def test_required(self) -> None:
        """A required one fails closed: no signature, one error that says so, the others told."""
        recorder = Recorder()
        observers = Observers(recorder, required=[Failing(OSError(28, "x"))])
        with pytest.raises(ObserverError) as caught:
            Signer(FakeKey(), observers=observers).sign(b"x")
        assert "observer-failed" == caught.value.code
        assert (
            "The required observer Failing failed at message-signed: No space left on device."
            == caught.value.message
        )
        assert isinstance(caught.value.__cause__, OSError)
        assert 1 == len(recorder.events)

    @pytest.mark.parametrize(
        "event",
        [
            signed("login-failed"),
            TokenInvalidated(client_id="me", fhir_base_url="https://x", expires_in=1.0),
        ],
    )
    def test_required_where_nothing_is_withheld(self, event: Any) -> None:
        """At a failure, and at what hands nothing out, even a required one only warns."""
        Observers(required=[Failing()]).emit(event)

    def test_interrupt_passes(self) -> None:
        """An interrupt is no failure of the observer's."""

        class Interrupted:
            @keystay.hookimpl
            def keystay_message_signed(self, event: Any) -> None:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Observers(Interrupted()).emit(signed())

    def test_misspelt_hook(self) -> None:
        """A hook that does not exist is told when the observer is handed in."""

        class Misspelt:
            @keystay.hookimpl
            def keystay_token_isued(self, event: Any) -> None: ...

        with pytest.raises(ObserverError, match="its hooks do not fit the specification"):
            Observers(Misspelt())

    @pytest.mark.parametrize("thing", [object(), print, "audit"])
    def test_no_observer(self, thing: object) -> None:
        """What implements no hook observes nothing, and is not taken."""
        with pytest.raises(ObserverError, match="observes nothing"):
            Observers(thing)


class TestLog:
    """Events in the standard library's logging."""

    def test_record(self, caplog: pytest.LogCaptureFixture) -> None:
        """Logger, level, stable name, and the event as data."""
        with caplog.at_level(logging.DEBUG, "keystay.events"):
            Signer(FakeKey(), backend="demo").sign(b"x")
        (record,) = caplog.records
        assert ("keystay.events", "DEBUG", "message-signed") == (
            record.name, record.levelname, record.__dict__["event"]
        )  # fmt: skip
        assert "demo" == record.__dict__["keystay"]["backend"]
        assert record.getMessage().startswith("message-signed outcome=ok ")

    def test_nobody(self, caplog: pytest.LogCaptureFixture) -> None:
        """Without observers and with the level off, nobody wants an event."""
        caplog.set_level(logging.WARNING, "keystay.events")
        assert not NOBODY.wants(AssertionSigned)
        assert "<Observers none>" == repr(NOBODY)
        assert "<Observers Recorder>" == repr(Observers(Recorder()))
