"""docker-compose.softhsm.yml for real: built, used over its socket, killed, kept, and removed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import keystay
from keystay.errors import BackendUnavailableError, KeystayError
from keystay.testing import SmartTestServer
from tests.compose.project import Project

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.compose, pytest.mark.timeout(300)]

HERE = Path(__file__).parent
RECOVERY = 90.0


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    """The project with `hsm` built and up, in this process's environment."""
    with Project() as made, pytest.MonkeyPatch.context() as patch:
        for name, value in made.env.items():
            patch.setenv(name, value)
        made.compose("build")
        made.start()
        yield made


def test_tokens_through_the_socket(project: Project) -> None:
    """ES384 and RS384 tokens on the host; the key is in the container."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider",
         "-p", "no:keystay", str(HERE / "socket_tests.py")],
        env={**os.environ, "HSM_SOCKET": str(project.socket),
             "HSM_PIN_FILE": str(project.pin_file)},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip

    assert 0 == done.returncode, done.stdout + done.stderr
    assert "6 passed" in done.stdout


def test_tokens_inside(project: Project) -> None:
    """`run --rm check` does the same inside."""
    assert "6 passed" in project.compose("run", "--rm", "check")


def test_confined(project: Project) -> None:
    """Not root, no network, no capability, nothing writable but what it needs; no PIN shown."""
    found = project.inspect()
    host, status = found["HostConfig"], Path(f"/proc/{found['State']['Pid']}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())

    assert "none" == host["NetworkMode"]
    assert host["ReadonlyRootfs"] is True
    assert [str(project.uid)] * 4 == fields["Uid"].split()
    assert project.uid != 0
    assert 0 == int(fields["CapEff"], 16) == int(fields["CapBnd"], 16)
    assert "1" == fields["NoNewPrivs"].strip()
    assert project.pin not in str(found)
    assert project.pin not in project.logs()
    mounts = {m["Destination"]: m["RW"] for m in found["Mounts"]}
    assert mounts["/tokens"] is True
    assert mounts.get("/run/secrets/softhsm_pin", False) is False


def test_killed_under_load(project: Project) -> None:
    """Killed while threads get tokens: clear errors, then tokens again, with the same keys."""
    outcomes: list[tuple[float, str]] = []
    unexpected: list[BaseException] = []
    stop = threading.Event()

    def get_tokens(client: keystay.TokenClient) -> None:
        while not stop.is_set():
            try:
                client.request_token()
            except BackendUnavailableError as error:
                outcomes.append((time.monotonic(), error.code))
                stop.wait(0.2)
            except BaseException as error:  # noqa: BLE001 - what must not be
                unexpected.append(error)
                return
            else:
                outcomes.append((time.monotonic(), "token"))

    with (
        SmartTestServer() as server,
        keystay.open_signer(project.key_uri("es384"), custody="out-of-process") as signer,
    ):
        server.register("hospital-etl", jwks=keystay.JWKSet.from_signers([signer]))
        client = keystay.TokenClient(
            fhir_base_url=server.fhir_base_url,
            client_id="hospital-etl",
            signer=signer,
            allow_insecure_loopback=True,
        )
        threads = [threading.Thread(target=get_tokens, args=(client,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        _wait_for(lambda: len(outcomes) > 20)
        killed = time.monotonic()
        project.kill()
        _wait_for(lambda: any(what != "token" for at, what in outcomes if at > killed))
        project.start()
        started = time.monotonic()
        _wait_for(lambda: sum(w == "token" for at, w in outcomes if at > started) > 20, RECOVERY)
        stop.set()
        for thread in threads:
            thread.join(30)
        client.close()

    back = min(at for at, what in outcomes if at > started and what == "token")
    print(f"back {back - started:.1f} s after the container: {Counter(w for _, w in outcomes)}")
    assert [] == unexpected


def test_keys_survive(project: Project) -> None:
    """`down` and `up`: the same keys."""
    before = _public_keys(project)
    project.compose("down")
    with pytest.raises(KeystayError):
        _public_keys(project)
    project.start()

    assert before == _public_keys(project)


def test_left_alone(project: Project) -> None:
    """Last: `down -v` leaves no container and no volume."""
    assert 2 == len(project.left()), project.left()
    project.compose("down", "-v")

    assert [] == project.left()


def _public_keys(project: Project) -> str:
    # A process of its own: a PKCS#11 library keeps to the connection it has.
    source = (
        "import sys, keystay\n"
        "try:\n"
        "    for uri in sys.argv[1:]:\n"
        "        with keystay.open_signer(uri) as signer: print(signer.kid)\n"
        "except keystay.KeystayError as error: sys.exit(str(error))\n"
    )
    uris = [project.key_uri(label) for label in ("es384", "rs384")]
    done = subprocess.run(
        [sys.executable, "-c", source, *uris], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise KeystayError(done.stderr)
    assert 2 == len(set(done.stdout.split()))
    return done.stdout


def _wait_for(condition: object, timeout: float = 30) -> None:
    assert callable(condition)
    until = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < until, "not in time"
        time.sleep(0.05)
