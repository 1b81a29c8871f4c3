"""Observers that the configuration names, from real distributions."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

import keystay
from keystay.errors import ConfigurationError, ObserverError
from keystay.observers import NOBODY, MessageSigned, open_observers
from keystay.observers.registry import ObserverRegistry

if TYPE_CHECKING:
    import logging
    from pathlib import Path

    from tests.support.plugins import Plugins

GROUP = "keystay.observers"
GOOD = """
import keystay
api_version = 1
told = []
class Observer:
    @keystay.hookimpl
    def keystay_message_signed(self, event): told.append(event)
@keystay.hookimpl
def keystay_open_observer(context):
    told.append(context)
    return Observer()
"""
EVENT = MessageSigned(backend="x", kid="k", key_id="i", algorithm="ES384", custody="hardware")


class TestGood:
    """One that works."""

    def test_opened(self, plugins: Plugins, tmp_path: Path) -> None:
        """It is given its own table, without `required`, and then told."""
        plugins.add("demo-sink", GOOD, group=GROUP)
        tables = {"demo": {"where": "there", "required": True}}
        observers = open_observers(tables, base_dir=tmp_path)
        observers.emit(EVENT)
        context, event = sys.modules["demo_sink"].told
        assert ("demo", {"where": "there"}, tmp_path) == (
            context.name, context.settings, context.base_dir
        )  # fmt: skip
        assert event is EVENT
        assert "<Observers demo>" == repr(observers)

    def test_only_those_named(self, plugins: Plugins) -> None:
        """An installed observer that no table names is not even imported."""
        plugins.add("demo-sink", GOOD, group=GROUP)
        assert open_observers({}) is NOBODY
        open_observers({"audit": {"path": "audit.jsonl"}})
        assert "demo_sink" not in sys.modules

    def test_from_the_file(
        self, plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pem_file: Path
    ) -> None:
        """A configured client's signer has the file's observers."""
        plugins.add("demo-sink", GOOD, group=GROUP)
        file = tmp_path / "keystay.toml"
        file.write_text(
            '[clients.x]\nfhir_base_url = "https://ehr.example.org/fhir"\nclient_id = "me"\n'
            f'key = "file:{pem_file}"\n[observers.demo]\ntoken = "file:secret"\n'
        )
        with keystay.TokenClient.from_config("x", config=keystay.load_config(file)) as client:
            client.signer.sign(b"x")
        context, event = sys.modules["demo_sink"].told
        assert {"token": f"file:{tmp_path / 'secret'}"} == context.settings
        assert client.signer.kid == event.kid


class TestBroken:
    """One that cannot be used."""

    @pytest.mark.parametrize(
        ("source", "why"),
        [
            pytest.param("import no_such_sdk", "it raised ModuleNotFoundError", id="missing SDK"),
            pytest.param("", "it does not state its api_version", id="empty"),
            pytest.param(GOOD.replace("version = 1", "version = 2"), "version 2", id="newer"),
            pytest.param(
                "api_version = 1", "does not implement keystay_open_observer", id="no hook"
            ),
            pytest.param(
                GOOD.replace("return Observer()", "raise ValueError"), "ValueError", id="raises"
            ),
            pytest.param(
                GOOD.replace("return Observer()", "return None"), "no observer", id="nothing"
            ),
            pytest.param(
                GOOD.replace("keystay_message_signed", "keystay_message_sinned"),
                "do not fit the specification",
                id="hook misspelt",
            ),
        ],
    )
    def test_breaks_nothing_but_itself(
        self, plugins: Plugins, source: str, why: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is left out with a warning; when required, it is an error."""
        plugins.add("demo-sink", source, group=GROUP)
        plugins.add("other-sink", GOOD, group=GROUP, scheme="other")
        open_observers({"demo": {}, "other": {}}).emit(EVENT)
        assert sys.modules["other_sink"].told[-1] is EVENT
        record: logging.LogRecord = caplog.records[0]
        assert ("WARNING", "observer-failed") == (record.levelname, record.__dict__["event"])
        assert why in record.getMessage()
        with pytest.raises(ObserverError, match=why) as caught:
            open_observers({"demo": {"required": True}})
        assert "observer-broken" == caught.value.code

    def test_missing(self) -> None:
        """A name that nobody provides is a slip in the file: an error, required or not."""
        with pytest.raises(ObserverError) as caught:
            open_observers({"adit": {}})
        assert "observer-missing" == caught.value.code
        assert "Installed observers: audit, otel." == caught.value.cause

    def test_conflict(self, plugins: Plugins) -> None:
        """Nobody takes the audit's place by being found first."""
        plugins.add("aaa-sink", GOOD, group=GROUP, scheme="audit")
        with pytest.raises(ObserverError, match="aaa-sink, keystay") as caught:
            open_observers({"audit": {"path": "x"}})
        assert "observer-conflict" == caught.value.code
        assert "aaa_sink" not in sys.modules

    def test_otel_without_its_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The remedy is the command that installs it."""
        for name in [n for n in sys.modules if n.startswith("opentelemetry")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.delitem(sys.modules, "keystay.observers.otel", raising=False)
        monkeypatch.setitem(sys.modules, "opentelemetry", None)
        with pytest.raises(ObserverError) as caught:
            open_observers({"otel": {"required": True}}, registry=ObserverRegistry())
        assert "pip install 'keystay[otel]'" == caught.value.hint


class TestSettings:
    """Wrong settings are errors, required or not."""

    @pytest.mark.parametrize(
        ("table", "said"),
        [
            ({"required": "yes"}, "required: it is 'yes'; expected true or false"),
            ({}, "the required key 'path' is missing"),
            ({"path": 7}, "path: it is 7; expected text"),
            ({"path": "x", "fsinc": True}, "fsinc: there is no such key"),
        ],
    )
    def test_audit(self, table: dict[str, Any], said: str) -> None:
        """With the table's name, and what is known."""
        with pytest.raises(ConfigurationError, match=said) as caught:
            open_observers({"audit": table})
        assert caught.value.hint
