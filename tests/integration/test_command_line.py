"""The installed `keystay` command as a process: pipes, signals, closed streams, the demo."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.raw_server import RawServer, read_request
from tests.support.secrets_watch import WATCH
from tests.support.token_clients import CLIENT_ID, SCOPE

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from keystay.testing import SmartTestServer

KEYSTAY = str(Path(sys.executable).with_name("keystay"))


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A clean environment, where warnings are errors."""
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("KEYSTAY_", "SOFTHSM2_"))}
    proxies = {name: "" for name in kept if name.lower().endswith("_proxy")}
    return {**kept, **proxies, "HOME": str(tmp_path), "PYTHONWARNINGS": "error"}


@pytest.fixture
def client_environment(
    environment: dict[str, str], registered: SmartTestServer, pem_file: Path
) -> dict[str, str]:
    """The same, with a client of the strict server."""
    return {
        **environment,
        "KEYSTAY_FHIR_BASE_URL": registered.fhir_base_url,
        "KEYSTAY_CLIENT_ID": CLIENT_ID,
        "KEYSTAY_KEY": f"file:{pem_file}",
        "KEYSTAY_SCOPE": SCOPE,
        "KEYSTAY_ALLOW_INSECURE_LOOPBACK": "1",
    }


def keystay(
    *arguments: str, env: dict[str, str], cwd: Path, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run the command; stderr never shows a traceback or a secret."""
    settings: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    done = subprocess.run(
        [KEYSTAY, *arguments], env=env, cwd=cwd, text=True, timeout=60, check=False, **settings
    )
    assert "Traceback" not in (done.stderr or "")
    assert "Exception ignored" not in (done.stderr or "")
    WATCH.check(done.stderr or "", "stderr")
    return done


def test_token_opens_the_server(
    client_environment: dict[str, str], registered: SmartTestServer, tmp_path: Path
) -> None:
    """What is on stdout is a token that the server knows, and a newline."""
    done = keystay("token", env=client_environment, cwd=tmp_path)
    assert 0 == done.returncode
    assert re.fullmatch(r"[!-~]+\n", done.stdout)
    assert registered.authorization_server.introspect(done.stdout.strip()) is not None


def test_pipeline(client_environment: dict[str, str], tmp_path: Path) -> None:
    """A shell pipeline: the resource on stdout, parsed by the next program."""
    done = keystay("get", "Patient/123", env=client_environment, cwd=tmp_path)
    assert (0, "123") == (done.returncode, json.loads(done.stdout)["id"])


def test_reader_has_gone(client_environment: dict[str, str], tmp_path: Path) -> None:
    """`keystay … | true` ends quietly."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = keystay("jwks", env=client_environment, cwd=tmp_path, stdout=writer)
    finally:
        os.close(writer)
    assert 0 == done.returncode
    assert "error" not in done.stderr


def test_demo_reader_has_gone(environment: dict[str, str], tmp_path: Path) -> None:
    """The demonstration cut short by `| head` cleans up and is quiet."""
    reader, writer = os.pipe()
    os.close(reader)
    folder = tmp_path / "tmp"
    folder.mkdir()
    try:
        env = {**environment, "PATH": "/nonexistent", "TMPDIR": str(folder)}
        done = keystay("demo", env=env, cwd=tmp_path, stdout=writer)
    finally:
        os.close(writer)
    assert (0, []) == (done.returncode, list(folder.iterdir()))


@pytest.mark.parametrize(
    ("redirection", "said"), [(">&-", "it is closed"), (">/dev/full", "No space left")]
)
def test_stdout_cannot_be_written(
    client_environment: dict[str, str], tmp_path: Path, redirection: str, said: str
) -> None:
    """Data that could not be written is an error, not a success."""
    command = ["sh", "-c", f'exec "$0" jwks {redirection}', KEYSTAY]
    done = subprocess.run(
        command,
        env=client_environment,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (2, True) == (done.returncode, "[output-unwritable]" in done.stderr)
    assert said in done.stderr
    assert "Exception ignored" not in done.stderr


def test_stderr_is_closed(environment: dict[str, str], tmp_path: Path) -> None:
    """Without stderr the exit code still tells."""
    command = ["sh", "-c", 'exec "$0" token nobody 2>&-', KEYSTAY]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (2, "") == (done.returncode, done.stdout)


def test_ctrl_c(
    client_environment: dict[str, str], raw_server: Callable[..., RawServer], tmp_path: Path
) -> None:
    """Ctrl-C while waiting for a server ends at once with 130 and no traceback."""

    def silent(server: RawServer, connection: socket.socket) -> None:
        read_request(server, connection)
        server.closing.wait()

    server = raw_server(silent)
    env = {**client_environment, "KEYSTAY_TOKEN_ENDPOINT": f"{server.origin}/token"}
    with subprocess.Popen(
        [KEYSTAY, "token"], env=env, cwd=tmp_path, stdout=-1, stderr=-1, text=True
    ) as process:
        until = time.monotonic() + 20
        while not server.requests:
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        out, err = process.communicate(timeout=10)
    assert (130, "") == (process.returncode, out)
    assert time.monotonic() - began < 3
    assert ("Interrupted." in err, "Traceback" in err) == (True, False)


def test_ascii_only_terminal(client_environment: dict[str, str], tmp_path: Path) -> None:
    """A terminal that knows ASCII only gets ASCII, not a crash."""
    env = {**client_environment, "PYTHONIOENCODING": "ascii", "KEYSTAY_CLIENT_ID": "klinik-ü"}
    done = keystay("assertion", "--decode", env=env, cwd=tmp_path)
    assert (0, "klinik-ü") == (done.returncode, json.loads(done.stdout)["claims"]["iss"])


def test_backends_imports_none(environment: dict[str, str], tmp_path: Path) -> None:
    """Listing reads metadata: no plugin, no SDK and no HTTP library is imported."""
    program = (
        "import sys\nfrom keystay.cli.app import run\ncode = run(['backends'])\n"
        "print(sorted({m.split('.')[0] for m in sys.modules}), file=sys.stderr)\nsys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "keystay-pem" in done.stdout
    for module in ("keystay_pem", "keystay_pkcs11", "pkcs11", "httpx"):
        assert f"'{module}'" not in done.stderr


def test_lazy(environment: dict[str, str], tmp_path: Path) -> None:
    """`import keystay` and `--help` do without httpx and cryptography."""
    program = (
        "import sys, keystay\nfrom keystay.cli.app import run\nrun(['--help'])\n"
        "print([m for m in ('httpx', 'cryptography', 'anyio', 'msgspec') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "[]" == done.stdout.splitlines()[-1]


def test_demo_with_a_pem_key(environment: dict[str, str], tmp_path: Path) -> None:
    """Without SoftHSM the demonstration says what that costs, and shows all but the secrets."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    env = {**environment, "PATH": "/nonexistent", "TMPDIR": str(folder), "COLUMNS": "80"}
    done = keystay("demo", env=env, cwd=tmp_path)
    assert 0 == done.returncode
    for said in (
        "SoftHSM is not installed",
        "What that costs",
        "in-process",
        '"alg": "ES384"',
        '"aud": "http://127.0.0.1:',
        '"resourceType": "Patient"',
        "Done.",
    ):
        assert said in done.stdout
    # Neither a compact JWS nor a bearer token: nothing as long as the parts of either but
    # thumbprints and coordinates of the public key.
    assert not re.search(r"eyJ[A-Za-z0-9_-]{20,}", done.stdout)
    words = set(re.findall(r"[A-Za-z0-9_-]{40,}", done.stdout))
    public = set(re.findall(r'"(?:x|y|kid|jti)": "([^"]+)"', done.stdout))
    assert set() == {word for word in words if word not in public}
    assert [] == list(folder.iterdir())


def test_demo_leaves_the_folder_alone(environment: dict[str, str], tmp_path: Path) -> None:
    """Nothing stays on the machine, and a keystay.toml that lies around is not used."""
    (tmp_path / "keystay.toml").write_text("[http]\nproxy = 'http://127.0.0.1:9'\n")
    env = {**environment, "PATH": "/nonexistent"}
    done = keystay("demo", env=env, cwd=tmp_path)
    assert (0, ["keystay.toml"]) == (done.returncode, [p.name for p in tmp_path.iterdir()])
