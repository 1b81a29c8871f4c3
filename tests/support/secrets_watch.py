"""Fails a test in which a PIN, token or assertion turned up where people read.

Watched without being asked: every log record of the process at DEBUG, httpx's and httpcore's
included, and all output that the test left uncollected. Whatever a test collects itself (`capsys`,
a subprocess, a repr) it hands to `WATCH.check`, because only the test knows that `keystay token`
may print a token.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import urllib.parse
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

_SHORTEST = 8


class SecretsWatch:
    """The secrets of this test run, by a name that may be shown."""

    def __init__(self) -> None:
        """Start with none."""
        self._secrets: dict[str, str] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        """Show how many, not which."""
        return f"<SecretsWatch of {len(self._secrets)} secrets>"

    def add(self, name: str, secret: str) -> str:
        """Watch for a secret from now on; return it.

        Args:
            name: What to call it when it leaks.
            secret: At least 8 characters, so that it is not found by chance.
        """
        if len(secret) < _SHORTEST:
            raise ValueError(f"{name} is too short to be watched for")
        with self._lock:
            self._secrets[secret] = name
            self._secrets.setdefault(urllib.parse.quote(secret, safe=""), f"{name}, quoted")
        return secret

    def leaks(self, text: str, *, allowed: Iterable[str] = ()) -> set[str]:
        """Return the names of the secrets in a text, except the allowed secrets."""
        permitted = set(allowed)
        with self._lock:
            watched = list(self._secrets.items())
        return {name for secret, name in watched if secret not in permitted and secret in text}

    def check(self, text: str, where: str, *, allowed: Iterable[str] = ()) -> None:
        """Demand that a text holds no secret.

        Args:
            text: What people could read.
            where: What to call it.
            allowed: Secrets that belong there, such as the token that `keystay token` prints.
        """
        found = self.leaks(text, allowed=allowed)
        if found:
            # Without the text: pytest would show the secret once more.
            pytest.fail(f"{where} shows {', '.join(sorted(found))}", pytrace=False)


WATCH = SecretsWatch()
"""The one watch of this process."""


class _Recorder(logging.Handler):
    """Keeps every record as it would be written, traceback included."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


_RECORDER = pytest.StashKey[_Recorder]()


@contextlib.contextmanager
def _recording(recorder: _Recorder) -> Generator[None]:
    root = logging.getLogger()
    level = root.level
    root.addHandler(recorder)
    root.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.removeHandler(recorder)
        root.setLevel(level)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Record the logs of one test with its setup and teardown."""
    recorder = item.stash[_RECORDER] = _Recorder()
    with _recording(recorder):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """After the teardown, look for the secrets that are known by then."""
    report = yield
    if report.when != "teardown":
        return report
    recorder = item.stash.get(_RECORDER, None)
    places = {title: text for title, text in report.sections if "log" not in title}
    places["a log record"] = "\n".join(recorder.lines) if recorder else ""
    leaks = [
        f"{place} shows {name}"
        for place, text in places.items()
        for name in sorted(WATCH.leaks(text))
    ]
    if leaks and report.passed:
        report.outcome = "failed"
        report.longrepr = "; ".join(leaks)
    return report


@pytest.fixture
def secrets_watch() -> SecretsWatch:
    """The watch for secrets: `add` a secret, `check` a text."""
    return WATCH
