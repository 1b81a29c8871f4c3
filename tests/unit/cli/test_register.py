"""`keystay register`: where the token goes, what is told, and what is refused before anything."""

from __future__ import annotations

import json
import os
import shlex
import stat
import tomllib
from typing import TYPE_CHECKING, Any

import pytest

from keystay.cli.app import run
from keystay.jwk import JWKSet
from keystay.testing import Reply, SmartTestServer
from tests.support.registration import PATH
from tests.support.secrets_watch import WATCH

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from keystay.signer import Signer


@pytest.fixture
def folder(
    smart_server: SmartTestServer,
    pem_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_environment: None,
) -> Path:
    """A folder with a client that is not registered yet."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keystay.toml").write_text(
        f'[clients.prod]\nfhir_base_url = "{smart_server.fhir_base_url}"\n'
        f'key = "file:{pem_file}"\nallow_insecure_loopback = true\n'
    )
    return tmp_path


@pytest.fixture
def command(folder: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """A function that runs `keystay register`; nothing it prints is a secret."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run(("register", *arguments))
        out, err = capfd.readouterr()
        WATCH.check(out + err, "the output")
        assert "Traceback" not in err
        return code, out, err

    return call


def saved(folder: Path) -> dict[str, Any]:
    """What the file holds."""
    found: dict[str, Any] = json.loads((folder / "r.json").read_bytes())
    return found


def test_told_what_to_write_next(command: Callable[..., Any], folder: Path) -> None:
    """The client_id alone on stdout; the rest, to the line to write, on stderr."""
    code, out, err = command("prod", "--save", "r.json")
    client_id = saved(folder)["client_id"]
    assert (0, f"{client_id}\n") == (code, out)
    assert "The management token is in r.json" in err
    assert f'[clients.prod] of keystay.toml:\n  client_id = "{client_id}"\n' in err
    assert 0o600 == stat.S_IMODE((folder / "r.json").stat().st_mode)
    assert "prod" == saved(folder)["metadata"]["client_name"]


def test_json(command: Callable[..., Any], folder: Path) -> None:
    """For a machine, everything but the token."""
    code, out, _ = command("--save", "r.json", "--json", "--name", "Export")
    found = json.loads(out)
    assert (0, "r.json", [], []) == (
        code, found["saved"], found["differences"], found["warnings"],
    )  # fmt: skip
    assert "Export" == found["metadata"]["client_name"]
    assert saved(folder)["client_id"] == found["client_id"]
    assert "registration_access_token" not in out


def test_environment(
    command: Callable[..., Any],
    folder: Path,
    smart_server: SmartTestServer,
    pem_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client of the environment is told the variable."""
    (folder / "keystay.toml").unlink()
    monkeypatch.setenv("KEYSTAY_FHIR_BASE_URL", smart_server.fhir_base_url)
    monkeypatch.setenv("KEYSTAY_KEY", f"file:{pem_file}")
    monkeypatch.setenv("KEYSTAY_ALLOW_INSECURE_LOOPBACK", "1")
    code, out, err = command("--no-save")
    assert 0 == code
    assert f"export KEYSTAY_CLIENT_ID={out.strip()}\n" in err
    assert "management token was dropped" in err


def test_differences_are_shown(
    command: Callable[..., Any], folder: Path, smart_server: SmartTestServer
) -> None:
    """What the server made of it; without a management token no file is left."""
    smart_server.script(PATH, [Reply.json({"client_id": "c-1", "scope": "system/Patient.r"})])
    code, out, err = command("--save", "r.json")
    assert (0, "c-1\n") == (code, out)
    assert 'scope: asked for "system/*.rs", granted "system/Patient.r"' in err
    assert "client_name: asked for" in err
    assert "gave no management token" in err
    assert not (folder / "r.json").exists()


def test_by_url(
    command: Callable[..., Any], folder: Path, smart_server: SmartTestServer, pem_signer: Signer
) -> None:
    """With --jwks-url the URL is registered, and to be written down too; --inline goes back."""
    url = smart_server.publish("/jwks.json", JWKSet.from_signers([pem_signer]).to_dict())
    code, _, err = command("--save", "r.json", "--jwks-url", url)
    assert 0 == code
    assert f'  jwks_url = "{url}"\n' in err
    assert url == saved(folder)["metadata"]["jwks_uri"]
    assert 0 == command("--update", "r.json", "--inline")[0]
    assert "jwks_uri" not in saved(folder)["metadata"]
    assert [pem_signer.kid] == [k["kid"] for k in saved(folder)["metadata"]["jwks"]["keys"]]


def test_metadata_file(command: Callable[..., Any], folder: Path) -> None:
    """Further members from a file."""
    (folder / "more.json").write_text('{"contacts": ["it@hospital.example"]}')
    assert 0 == command("--save", "r.json", "--metadata", "more.json")[0]
    assert ["it@hospital.example"] == saved(folder)["metadata"]["contacts"]


def test_update_read_delete(
    command: Callable[..., Any], folder: Path, smart_server: SmartTestServer
) -> None:
    """The new management token is kept each time; what else was registered stays."""
    (folder / "more.json").write_text('{"contacts": ["it@hospital.example"]}')
    command("--save", "r.json", "--metadata", "more.json")
    tokens = {saved(folder)["registration_access_token"]}
    for _ in range(2):
        assert 0 == command("--update", "r.json", "--name", "Other")[0]
        tokens.add(saved(folder)["registration_access_token"])
    assert 3 == len(tokens)
    code, out, _ = command("--read", "r.json")
    assert (0, "Other", ["it@hospital.example"]) == (
        code, json.loads(out)["client_name"], json.loads(out)["contacts"],
    )  # fmt: skip
    assert 0o600 == stat.S_IMODE((folder / "r.json").stat().st_mode)
    code, _, err = command("--delete", "r.json")
    assert (0, False) == (code, (folder / "r.json").exists())
    assert "out of the configuration" in err
    assert "0 clients" in repr(smart_server.authorization_server)


def test_successor(command: Callable[..., Any], folder: Path, pem_file: Path) -> None:
    """While a rotation has a successor, it is registered beside the current key."""
    command("--save", "r.json")
    assert "ES384" == saved(folder)["metadata"]["token_endpoint_auth_signing_alg"]
    start = ("rotate", "start", "prod", "--key", "file:next.pem", "--type", "RSA-2048")
    assert 0 == run(start)
    assert 0 == command("--update", "r.json")[0]
    # One algorithm named would keep the other key from ever being accepted.
    assert "token_endpoint_auth_signing_alg" not in saved(folder)["metadata"]
    kids = [key["kid"] for key in saved(folder)["metadata"]["jwks"]["keys"]]
    assert 2 == len(set(kids))
    assert 0 == command("--delete", "r.json")[0]
    assert 0 == command("--save", "r.json")[0]
    assert kids == [key["kid"] for key in saved(folder)["metadata"]["jwks"]["keys"]]


def test_update_in_the_style_of_the_server(command: Callable[..., Any], folder: Path) -> None:
    """scope_style holds for updates too."""
    command("--save", "r.json")
    with (folder / "keystay.toml").open("a") as file:
        file.write('scope_style = "v1"\n')
    assert 0 == command("--update", "r.json")[0]
    assert "system/*.read" == saved(folder)["metadata"]["scope"]
    text = (folder / "keystay.toml").read_text().replace('"v1"', '"auto"')
    (folder / "keystay.toml").write_text(text)
    assert 0 == command("--update", "r.json")[0]
    assert "system/*.rs" == saved(folder)["metadata"]["scope"]


USAGE = {
    "nothing": ((), "registration-save-missing"),
    "both": (("--save", "r.json", "--no-save"), "usage"),
    "save-and-update": (("--save", "a.json", "--update", "b.json"), "usage"),
    "endpoint-and-read": (("--read", "r.json", "--endpoint", "https://x.example/r"), "usage"),
    "token-and-update": (("--update", "r.json", "--initial-token", "env:X"), "usage"),
    "inline-and-url": (("--no-save", "--inline", "--jwks-url", "https://x.example/j"), "usage"),
    "no-metadata": (("--no-save", "--metadata", "none.json"), "registration-metadata-invalid"),
    "bad-metadata": (("--no-save", "--metadata", "list.json"), "registration-metadata-invalid"),
    "token-in-clear": (
        ("--no-save", "--initial-token", "s3cr3t-in-clear"), "secret-reference-invalid",
    ),
    "no-file": (("--update", "none.json"), "registration-file-unusable"),
    "no-folder": (("--save", "none/r.json"), "registration-file-unusable"),
    "not-one": (("--read", "list.json"), "registration-file-invalid"),
    "open-to-others": (("--delete", "open.json"), "registration-file-unsafe"),
    "unknown-client": (("other", "--no-save"), "client-unknown"),
    "insecure": (("--no-save", "--endpoint", "http://x.example/reg"), "url-insecure"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "code"), USAGE.values(), ids=USAGE)
def test_refused_before_anything_is_sent(
    command: Callable[..., Any],
    folder: Path,
    smart_server: SmartTestServer,
    arguments: tuple[str, ...],
    code: str,
) -> None:
    """Exit code 2 with a remedy, no client at the server, no file left behind."""
    (folder / "list.json").touch(0o600)
    (folder / "list.json").write_text("[]")
    (folder / "open.json").write_text("{}")
    (folder / "open.json").chmod(0o644)
    WATCH.add("a token on the command line", "s3cr3t-in-clear")
    exit_code, out, err = command(*arguments, "--json")
    error = json.loads(err.strip().splitlines()[-1])["error"]
    assert (2, "", code) == (exit_code, out, error["code"])
    assert code == "usage" or error["hint"]
    assert () == smart_server.log.of("registration")
    assert not (folder / "r.json").exists()


def test_never_overwrites(
    command: Callable[..., Any], folder: Path, smart_server: SmartTestServer
) -> None:
    """A file that is there is not touched, nor what a link points to; an empty one is explained."""
    (folder / "r.json").write_text("precious")
    code, _, err = command("--save", "r.json")
    assert 2 == code
    assert "registration-file-exists" in err
    assert "precious" == (folder / "r.json").read_text()
    (folder / "link.json").symlink_to("dangling.json")
    assert 2 == command("--save", "link.json")[0]
    assert not (folder / "dangling.json").exists()
    (folder / "empty.json").touch()
    assert "interrupted" in command("--save", "empty.json")[2]
    assert (folder / "empty.json").exists()
    assert () == smart_server.log.of("registration")


def test_registered_already(
    command: Callable[..., Any], folder: Path, smart_server: SmartTestServer
) -> None:
    """A client with a client_id is not registered twice by mistake; nor is another one touched."""
    command("--save", "r.json")
    with (folder / "keystay.toml").open("a") as file:
        file.write('client_id = "another"\n')
    smart_server.log.clear()
    code, _, err = command("--no-save")
    assert 2 == code
    assert "client-registered" in err
    code, _, err = command("--delete", "r.json")
    assert 2 == code
    assert "registration-client-differs" in err
    assert () == smart_server.log.of("registration")


def test_hostile_client_id(
    command: Callable[..., Any],
    folder: Path,
    smart_server: SmartTestServer,
    pem_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is to be copied into a file or a shell is harmless there, whatever the server sent."""
    hostile = 'a"; $(reboot) \\ é😀'
    smart_server.script(PATH, [Reply.json({"client_id": hostile})] * 2)
    line = next(
        line for line in command("prod", "--no-save")[2].splitlines() if "client_id = " in line
    )
    assert {"client_id": hostile} == tomllib.loads(line)
    (folder / "keystay.toml").unlink()
    monkeypatch.setenv("KEYSTAY_FHIR_BASE_URL", smart_server.fhir_base_url)
    monkeypatch.setenv("KEYSTAY_KEY", f"file:{pem_file}")
    monkeypatch.setenv("KEYSTAY_ALLOW_INSECURE_LOOPBACK", "1")
    line = next(line for line in command("--no-save")[2].splitlines() if "export" in line)
    assert ["Next:", "export", f"KEYSTAY_CLIENT_ID={hostile}"] == shlex.split(line)


def test_token_lost(
    command: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full at the wrong moment: the client_id is told, and what is lost."""

    def full(*arguments: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", full)
    code, out, err = command("--save", "r.json")
    assert (2, "") == (code, out)
    assert "registration-not-saved" in err
    assert "client_id '" in err
    assert "management token it gave is lost" in err
    assert [] == [p.name for p in folder.iterdir() if "r.json" in p.name]


def test_file_in_the_way_of_an_update(command: Callable[..., Any], folder: Path) -> None:
    """A server's refusal leaves the file as it is."""
    command("--save", "r.json")
    before = (folder / "r.json").read_bytes()
    (folder / "more.json").write_text('{"redirect_uris": ["https://x.example"]}')
    code, _, err = command("--update", "r.json", "--metadata", "more.json")
    assert 5 == code
    assert "invalid_redirect_uri (there is no redirect)" in err
    assert json.loads(before)["client_id"] == saved(folder)["client_id"]
    assert 0 == command("--delete", "r.json")[0]
