"""Every setting, wherever it is written: one name, one check, one message."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

import keystay
from keystay.config.client import ClientSettings
from keystay.config.environment import TABLES
from keystay.errors import ConfigurationError
from keystay.settings import as_keyword, environment_name, fields, read_table

if TYPE_CHECKING:
    from pathlib import Path

    from keystay.signer import Signer

pytestmark = pytest.mark.usefixtures("no_environment")

CLIENT = {
    "fhir_base_url": "https://ehr.example.org/fhir", "client_id": "id", "key": "file:client.pem",
}  # fmt: skip
SETTINGS = {
    f"{table}.{key}": (table, field)
    for table, kind in TABLES.items()
    for key, field in fields(kind).items()
    if not field.is_table
}


def wrong(field: Any) -> object:
    """A value that the setting cannot have, of no type that any setting has."""
    return {"a-key": 1} if "a whole" in field.expectation or "table" in field.expectation else 7


def toml(table: str, key: str, value: str) -> str:
    """A file with one more setting."""
    lines = [
        f'{name} = "{text}"' for name, text in CLIENT.items() if (table, name) != ("clients", key)
    ]
    client = "\n".join(["[clients.a]", *lines])
    if table == "clients":
        return f"{client}\n{key} = {value}\n"
    return (
        f"{key} = {value}\n{client}\n" if not table else f"{client}\n[{table}]\n{key} = {value}\n"
    )


@pytest.mark.parametrize(("table", "field"), SETTINGS.values(), ids=SETTINGS)
def test_wrong_in_the_file(tmp_path: Path, table: str, field: Any) -> None:
    """File, line, key; the value unless it may be secret; what was expected; how to write it."""
    value = "{ a = 1 }" if "number" in field.expectation else "7"
    path = tmp_path / "keystay.toml"
    path.write_text(toml(table, field.name, value))
    with pytest.raises(ConfigurationError) as caught:
        keystay.load_config(path, environ={})
    error = caught.value
    assert error.message.startswith(f"{path}:")
    assert f"{field.name}: it is " in error.message
    assert f"expected {field.expectation}." in error.message
    assert error.hint
    assert "config-value-invalid" == error.code
    shown = "not repeated" in error.message
    assert shown == (not field.extra.get("is_shown", True))


BAD_TEXT = {"true or false": "maybe", "number": "three", "one of": "none-of-them", "date": "soon"}


@pytest.mark.parametrize(("table", "field"), SETTINGS.values(), ids=SETTINGS)
def test_wrong_in_the_environment(tmp_path: Path, table: str, field: Any) -> None:
    """The variable, the value, what was expected."""
    text = next((bad for kind, bad in BAD_TEXT.items() if kind in field.expectation), None)
    if text is None:  # any text is text: what it says is checked like the file's
        return
    path = tmp_path / "keystay.toml"
    path.write_text("".join(toml("", "state_dir", "'x'")))
    variable = environment_name("" if table == "clients" else table, field.name)
    with pytest.raises(ConfigurationError) as caught:
        keystay.load_config(path, environ={variable: text})
    assert caught.value.message.startswith(f"{variable}: it is {text!r}; expected ")
    assert variable in (caught.value.hint or "")


@pytest.mark.parametrize("name", ClientSettings.__struct_fields__)
def test_wrong_as_keyword(pem_signer: Signer, name: str) -> None:
    """The keyword, the value, what was expected."""
    field = fields(ClientSettings)[name]
    given: dict[str, Any] = {**CLIENT, "signer": pem_signer, name: object()}
    del given["key"]
    with pytest.raises(ConfigurationError) as caught:
        keystay.TokenClient(**given)
    assert caught.value.message.startswith(f"{name}: it is <object object")
    assert f"expected {field.expectation}." in caught.value.message


def test_no_two_share_a_variable() -> None:
    """All derived names differ, those of backends and observers included."""
    names = [
        environment_name("" if table == "clients" else table, field.name)
        for table, field in SETTINGS.values()
    ]
    assert len(set(names)) == len(names)
    assert "KEYSTAY_CONFIG" not in names
    assert not [n for n in names if n.startswith(("KEYSTAY_BACKENDS_", "KEYSTAY_OBSERVERS_"))]


def test_renamed() -> None:
    """A former name is refused with the new one."""
    values = {"fhir_base_url": CLIENT["fhir_base_url"], "lifetime": 60}
    with pytest.raises(ConfigurationError, match="assertion_lifetime") as caught:
        read_table(ClientSettings, values, as_keyword)
    assert "config-key-renamed" == caught.value.code


def test_everything_is_described() -> None:
    """Each has a meaning, and an example where its default is none."""
    for _, field in SETTINGS.values():
        assert field.meta.description
        assert field.extra.get("example") or field.default is not None
    assert all(a != b for a, b in itertools.pairwise(sorted(SETTINGS)))
