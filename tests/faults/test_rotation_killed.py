"""Each command of a rotation, killed at fifty random points and then repeated.

The state file is whole whenever it is looked at, and the outcome is that of a command nobody
killed.
Killed are real processes: children of one that has imported everything, so that fifty take seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.rotating import KEYSTAY, Commands

if TYPE_CHECKING:
    from pathlib import Path

    from keystay.testing import SmartTestServer
    from tests.support.aws_fixtures import KmsUri
    from tests.support.kms_proxy import KmsProxy
    from tests.support.ministack import MiniStack
    from tests.support.p11kit import P11KitServer

TIMES = 50
MEASURED = 3

# Runs a command in a child and kills it after a random part of the time the command takes; then
# runs it again, to its end. Prints what the state was in between, and the exit code of the second.
KILLER = """
import json, os, pathlib, random, shutil, signal, sys, time
import keystay.cli.app, keystay.cli.rotate, keystay.cli.rotation_report, keystay.http.send
import keystay.ops.rotation, keystay_pem.store, keystay.http.clients, filelock
from keystay.tokens.key_state.state_file import StateFile

before, folder, times, measured, seed, *command = sys.argv[1:]
before, folder = pathlib.Path(before), pathlib.Path(folder)
luck = random.Random(int(seed))

def fresh():
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(before, folder)
    os.chdir(folder)

def begin():
    child = os.fork()
    if child == 0:
        # Where a key store stays when the folder is made anew, each time has a key of its own.
        command[:] = [part.replace("NUMBER", str(number)) for part in command]
        sys.stdout = sys.stderr = open(os.devnull, "w")
        os._exit(keystay.cli.app.run(command))
    return child

def end(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

fresh()
if "pkcs11:" not in pathlib.Path("keystay.toml").read_text():
    # Load everything; but a PKCS#11 library is for each child to load.
    with open(os.devnull, "w") as sys.stdout:
        assert keystay.cli.app.run(command) == 0
    sys.stdout = sys.__stdout__
whole = 1e9
for number in range(int(measured)):
    fresh()
    began = time.monotonic()
    assert end(begin()) == 0
    whole = min(whole, time.monotonic() - began)
for number in range(number + 1, number + 1 + int(times)):
    fresh()
    child = begin()
    time.sleep(luck.uniform(0, whole))
    os.kill(child, signal.SIGKILL)
    killed = end(child) == -signal.SIGKILL
    state = StateFile(folder / "keystay-keys", "etl").read()
    between = None if state is None else [(k.state, k.made) for k in state.keys]
    code = end(begin())
    state = StateFile(folder / "keystay-keys", "etl").read()
    print(json.dumps({
        "killed": killed, "between": between, "code": code,
        "after": [k.state for k in state.keys], "keys": [k.kid for k in state.keys],
        "files": sorted(p.name for p in folder.rglob("*") if p.suffix not in (".toml", ".lock")),
    }), flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for the state before the command."""
    before = tmp_path / "before"
    before.mkdir()
    return before


def configure(folder: Path, key: str, url: str = "http://127.0.0.1:9/") -> Commands:
    """One client, with a key that is made."""
    (folder / "keystay.toml").write_text(
        f'[clients.etl]\nfhir_base_url = "http://127.0.0.1:9"\nclient_id = "etl"\nkey = "{key}"\n'
        f'jwks_url = "{url}"\nallow_insecure_loopback = true\n'
    )
    run = Commands(folder)
    run("key", "generate", key)
    return run


def kill(folder: Path, seed: int, *command: str, times: int = TIMES) -> list[dict[str, Any]]:
    """What became of each time."""
    done = subprocess.run(
        [sys.executable, "-c", KILLER, folder, folder.with_name("after"),
         str(times), str(MEASURED), str(seed), "rotate", *command],
        env=Commands(folder).env,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )  # fmt: skip
    assert 0 == done.returncode, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert times == len(found)
    # Not by luck: most of them were at work when they were killed.
    assert sum(each["killed"] for each in found) > times * 0.5
    assert {0} == {each["code"] for each in found}
    return found


def test_start(folder: Path) -> None:
    """One successor, whether it was named, made or noted when the command was killed."""
    configure(folder, "file:client.pem")
    for each in kill(folder, 1, "start"):
        assert ["current", "next"] == each["after"]
        assert 2 == len(set(each["keys"]))
        successor = [name for name in each["files"] if name.startswith("client-")]
        assert 1 == len(successor), each
        assert {"client.pem", "etl.json", *successor} == {
            name for name in each["files"] if not name.startswith((".", "keystay-keys"))
        }


@pytest.mark.parametrize(
    ("command", "before", "after"),
    [
        (["promote", "--drain", "0"], ["current", "next"], ["current", "retiring"]),
        (["abort"], ["current", "next"], ["current", "retired"]),
        (["finish"], ["current", "retiring"], ["current", "retired"]),
    ],
    ids=["promote", "abort", "finish"],
)
def test_step(
    folder: Path, smart_server: SmartTestServer, no_environment: None,
    command: list[str], before: list[str], after: list[str],
) -> None:  # fmt: skip
    """Each leads where it leads when nobody kills it; in between the state is before or after."""
    run = configure(folder, "file:client.pem", f"{smart_server.origin}/jwks.json")
    run("rotate", "start")
    keys = json.loads(run("jwks").stdout)
    smart_server.publish("/jwks.json", keys, headers={"Cache-Control": "max-age=0"})
    run("rotate", "status")
    if "retiring" in before:
        run("rotate", "promote", "--drain", "0")
    for each in kill(folder, len(command[0]), *command):
        assert after == each["after"]
        assert [state for state, _ in each["between"]] in (before, after)


@pytest.mark.long
def test_start_in_a_token(folder: Path, p11kit: P11KitServer, no_environment: None) -> None:
    """A token gets one new key for each rotation, however often start was killed.

    It is in another process, as an HSM is: SoftHSM itself, killed while it writes, loses its token.
    """
    name = f"killed-{folder.parent.name}"
    configure(folder, p11kit.key_uri(name))
    for each in kill(folder, 6, "start", "--key", p11kit.key_uri(f"{name}-NUMBER")):
        assert ["current", "next"] == each["after"]
    run = Commands(folder)
    listed = run.json("key", "list", f"pkcs11:token={p11kit.token.label}?{p11kit.query}")
    labels = [key["label"] for key in listed if key["label"].startswith(f"{name}-")]
    assert sorted(f"{name}-{number}" for number in range(TIMES + MEASURED)) == sorted(labels)


@pytest.mark.parametrize("may_list", [True, False])
def test_key_without_its_name(
    ministack: MiniStack,
    kms_uri: KmsUri,
    kms_proxy: KmsProxy,
    alias: str,
    tmp_path: Path,
    no_environment: None,
    may_list: bool,
) -> None:
    """Killed between AWS KMS's CreateKey and CreateAlias: the same key is the successor after all.

    Who may not list keys gets another one, and is told.
    """
    ministack.point(alias, ministack.key("P-384"))
    (tmp_path / "keystay.toml").write_text(
        '[clients.etl]\nfhir_base_url = "https://ehr.example.org"\nclient_id = "etl"\n'
        f'key = "{kms_uri(alias)}"\n'
    )
    run = Commands(tmp_path)
    kms_proxy.hang("CreateAlias", times=1)
    child = subprocess.Popen(
        [KEYSTAY, "rotate", "start"], cwd=tmp_path, env=run.env, stdout=subprocess.DEVNULL
    )
    until = time.monotonic() + 60
    while not kms_proxy.count("CreateAlias"):
        assert time.monotonic() < until
        time.sleep(0.01)
    child.kill()
    child.wait()
    kms_proxy.clear()
    if not may_list:
        kms_proxy.fail("ListAliases", "AccessDeniedException", message="not allowed")

    done = run("rotate", "start")

    assert ("kms:ListAliases" in done.stderr) is not may_list
    made_anew = 0 if may_list else 1
    assert (made_anew, 1) == (kms_proxy.count("CreateKey"), kms_proxy.count("CreateAlias"))
    successor = run.json("rotate", "status")["keys"][1]
    assert ("next", True) == (successor["state"], bool(successor["kid"]))
