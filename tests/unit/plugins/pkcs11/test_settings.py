"""The URI over the table, and a clear fault for each thing that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keystay import key_uri
from keystay.errors import ConfigurationError, KeystayError, KeyURIError
from keystay_pkcs11.settings import Settings

MODULE = __file__  # any file does: settings do not load it


def read(query: str = "", **table: Any) -> Settings:
    """The settings of a URI with this query, the module given."""
    path = "" if "module-path" in query else f"module-path={MODULE}"
    text = "&".join(filter(None, (path, query)))
    return Settings.read(key_uri.parse(f"pkcs11:token=t?{text}"), table)


def test_defaults() -> None:
    """Eight sessions, read-only, the user's login."""
    assert Settings(MODULE, None, 8, False, 1, None) == read()


def test_table() -> None:
    """Everything can come from the table."""
    uri = key_uri.parse("pkcs11:token=t")
    table = {
        "module": MODULE, "pin_source": "env:PIN", "max_sessions": 3, "rw": True,
        "user_type": 0x80000001, "init_args": "configdir='x'",
        "after_fork": "refuse",
    }  # fmt: skip

    expected = Settings(MODULE, "env:PIN", 3, True, 0x80000001, "configdir='x'", "refuse")

    assert expected == Settings.read(uri, table)


def test_uri_wins() -> None:
    """The URI overrides the table."""
    found = read(
        "pin-source=env:A&max-sessions=2&rw=false&user-type=user",
        module="/nowhere", pin_source="env:B", max_sessions=9, rw=True, user_type="so",
    )  # fmt: skip

    assert Settings(MODULE, "env:A", 2, False, 1) == found


PIN_SOURCES = {
    "file:/run/pin": "file:/run/pin",
    "/run/secrets/pin": "file:/run/secrets/pin",
    "env:HSM_PIN": "env:HSM_PIN",
    "prompt:": "prompt:",
}


@pytest.mark.parametrize(("given", "expected"), PIN_SOURCES.items(), ids=PIN_SOURCES)
def test_pin_source(given: str, expected: str) -> None:
    """A bare absolute path is a file (RFC 7512 §2.4)."""
    assert expected == read(f"pin-source={given}").pin_source
    assert expected == read(pin_source=given).pin_source


def test_security_officer() -> None:
    """The security officer's sessions are read-write: others cannot stand beside that login."""
    found = read("user-type=so")

    assert (0, True) == (found.user_type, found.rw)


FAULTS = {
    "relative module": ("module-path=libsofthsm2.so", {}, "not an absolute path", "p11-kit list"),
    "missing module": ("module-path=/nowhere.so", {}, "no PKCS#11 module /nowhere", "SoftHSM is"),
    "folder as module": ("module-path=/usr/lib", {}, "is not a file", "p11-kit list-modules"),
    "module by name": ("module-name=softhsm2", {}, "by path", "module-path=/absolute"),
    "command for PIN": ("pin-source=%7Ccat%20pin", {}, "not read from a command", "file:/run"),
    "sessions zero": ("max-sessions=0", {}, "max-sessions is '0'", "from 1 to 1024"),
    "sessions text": ("max-sessions=many", {}, "max-sessions is 'many'", "from 1 to 1024"),
    "rw yes": ("rw=yes", {}, "rw is 'yes'", "rw=true"),
    "user type": ("user-type=admin", {}, "user-type is 'admin'", '"user", "so"'),
    "context": ("user-type=2", {}, "user-type is '2'", '"user", "so"'),
    "unknown query": ("pinsource=x", {}, "no query attribute called 'pinsource'", "'pin-source'"),
    "unknown setting": ("", {"modul": "x"}, "modul: there is no such key", "'module'"),
    "setting command": (
        "",
        {"pin_source": "|cat pin"},
        "pin_source: A PIN is not read from a command",
        "file:/run",
    ),
    "setting sessions": (
        "",
        {"max_sessions": True},
        "it is True; expected a whole number from 1 to 1024",
        "max_sessions = 8",
    ),
    "setting rw": ("", {"rw": "true"}, "rw: it is 'true'; expected true or false", "rw = false"),
    "setting user": ("", {"user_type": 2.5}, "user_type: it is 2.5", 'user_type = "user"'),
    "setting fork": (
        "",
        {"after_fork": "no"},
        "it is 'no'; expected one of",
        'after_fork = "reset"',
    ),
    "setting init": ("", {"init_args": 3}, "init_args: it is 3; expected text", "init_args ="),
}


@pytest.mark.parametrize(("query", "table", "message", "hint"), FAULTS.values(), ids=FAULTS)
def test_faults(query: str, table: dict[str, Any], message: str, hint: str) -> None:
    """Each fault names itself and the remedy, and points into the URI when it is there."""
    with pytest.raises(ConfigurationError) as caught:
        read(query, **table)

    assert message in caught.value.message
    assert hint in (caught.value.hint or "")
    assert bool(query) == isinstance(caught.value, KeyURIError)


TABLE_MODULES = {
    "none": ({}, "No PKCS#11 module is named"),
    "relative": (
        {"module": "x.so"},
        "[backends.pkcs11] module: The PKCS#11 module 'x.so' is not an absolute path",
    ),
    "missing": ({"module": "/nowhere.so"}, "There is no PKCS#11 module /nowhere.so"),
    "number": ({"module": 1}, "module: it is 1; expected text"),
}


@pytest.mark.parametrize(("table", "message"), TABLE_MODULES.values(), ids=TABLE_MODULES)
def test_module_of_table(table: dict[str, Any], message: str) -> None:
    """A module from the table is checked as strictly."""
    with pytest.raises(KeystayError) as caught:
        Settings.read(key_uri.parse("pkcs11:token=t"), table)

    assert message in caught.value.message
    assert caught.value.hint


def test_module_stays_as_written(tmp_path: Path) -> None:
    """The path is kept as the user wrote it; only loading resolves links."""
    link = tmp_path / "link.so"
    link.symlink_to(MODULE)

    assert str(link) == read(f"module-path={link}").module
