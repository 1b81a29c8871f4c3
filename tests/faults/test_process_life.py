"""Fork, spawn, exit and close, in any order: real processes, with a real server."""

from __future__ import annotations

import copy
import pickle
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import keystay
from keystay.testing import Reply
from tests.support.secrets_watch import WATCH
from tests.support.token_clients import client_settings

if TYPE_CHECKING:
    from pathlib import Path

    from keystay.signer import Signer
    from keystay.testing import SmartTestServer
    from tests.support.client_process import ClientProcess

pytestmark = pytest.mark.usefixtures("no_environment")


class TestFork:
    """A child has the parent's token, and none of its threads."""

    def test_children_use_the_parents_token(
        self, client_process: ClientProcess, registered: SmartTestServer
    ) -> None:
        """Four workers forked from one that asked need no token of their own until it ends."""
        done = client_process.run("""
            client = make()
            token = client.token()
            def work():
                assert client.token() is token
                client.invalidate()
                assert client.token().value != token.value
                client.close()
            for child in [fork(work) for _ in range(4)]:
                ended_well(child)
            assert client.token() is token
            client.close()
        """)
        assert "" == done.stderr
        assert 5 == len(registered.log.of("token"))

    def test_in_the_middle_of_a_renewal(
        self, client_process: ClientProcess, registered: SmartTestServer
    ) -> None:
        """The child does not wait for an attempt whose thread it does not have."""
        registered.script(registered.token_endpoint, [Reply(500, delay=1.3)])
        done = client_process.run("""
            client = make(token_endpoint=sys.argv[2])
            def renew():
                try:
                    client.token()
                except keystay.errors.TokenServerError as error:
                    print(error.code)
            thread = threading.Thread(target=renew)
            thread.start()
            while not client._cache.is_renewing:
                time.sleep(0.01)
            time.sleep(0.2)
            def work():
                began = time.monotonic()
                assert not client.token().expired
                assert time.monotonic() - began < 1
            ended_well(fork(work))
            thread.join()
            client.close()
        """)
        assert ("token-server-error\n", "") == (done.stdout, done.stderr)

    def test_by_the_thread_that_renews(
        self, client_process: ClientProcess, registered: SmartTestServer
    ) -> None:
        """A handler that forks in the middle of a renewal: both processes end well."""
        registered.script(registered.token_endpoint, [Reply(500, delay=0.5)])
        done = client_process.run("""
            client = make(token_endpoint=sys.argv[2])
            children = []
            def handler(*_):
                children.append(fork(lambda: print(client.token().expired, flush=True)))
            signal.signal(signal.SIGUSR1, handler)
            while_renewing(client, lambda: os.kill(os.getpid(), signal.SIGUSR1))
            try:
                client.token()
            except keystay.errors.TokenServerError as error:
                ended_well(children[0])
                print(error.code)
            client.close()
        """)
        assert ("False\ntoken-server-error\n", "") == (done.stdout, done.stderr)

    def test_under_load(self, client_process: ClientProcess) -> None:
        """Threads renew without end while children are forked: none of them hangs."""
        done = client_process.run("""
            client = make()
            client.token()
            stop = threading.Event()
            def load():
                while not stop.is_set():
                    client.invalidate()
                    client.token()
            threads = [threading.Thread(target=load) for _ in range(3)]
            [thread.start() for thread in threads]
            def work():
                client.invalidate()
                assert not client.token().expired
            for _ in range(12):
                ended_well(fork(work))
            stop.set()
            [thread.join() for thread in threads]
            client.close()
        """)
        assert "" == done.stderr

    def test_asynchronous_clients(self, client_process: ClientProcess) -> None:
        """A loop of its own in each child, with the client the parent made."""
        done = client_process.run("""
            import asyncio
            client = make()
            shared = client.as_async()
            assert asyncio.run(shared.token()) is client.token()
            def work():
                client.invalidate()
                assert not asyncio.run(shared.token()).expired
                asyncio.run(shared.aclose())
            for child in [fork(work) for _ in range(3)]:
                ended_well(child)
            asyncio.run(shared.aclose())
            client.close()
        """)
        assert "" == done.stderr


class TestMultiprocessing:
    """The standard library's pools, by either start method."""

    PROGRAM = """
        import multiprocessing, runpy
        path = sys.argv[4]
        def main():
            context = multiprocessing.get_context(sys.argv[5])
            with context.Pool(3) as pool:
                print(sorted(pool.map(worker.ask, range(6))))
        sys.path.insert(0, os.path.dirname(path))
        import worker
        if sys.argv[5] == "fork":
            worker.client = make()
            worker.client.token()
        main()
        """
    WORKER = """
import sys
import keystay
client = None
def ask(number):
    global client
    if client is None:
        client = keystay.TokenClient(
            fhir_base_url=sys.argv[1], client_id="hospital-etl", scope="system/Patient.rs",
            signer=keystay.open_signer("file:" + sys.argv[3]), allow_insecure_loopback=True,
        )
    return client.token().expired
"""

    @pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
    def test_pool(
        self,
        client_process: ClientProcess,
        registered: SmartTestServer,
        tmp_path: Path,
        method: str,
    ) -> None:
        """Forked workers share the parent's token; spawned ones open their own client."""
        worker = tmp_path / "worker.py"
        worker.write_text(self.WORKER)
        done = client_process.run(self.PROGRAM, str(worker), method)
        assert f"{[False] * 6}\n" == done.stdout
        tokens = len(registered.log.of("token"))
        assert tokens == 1 if method == "fork" else 1 <= tokens <= 3


class TestGunicorn:
    """A web server that forks its workers from one process that has loaded the application."""

    APPLICATION = """
import os
import httpx, keystay
client = keystay.TokenClient(
    fhir_base_url={base!r}, client_id="hospital-etl", scope="system/Patient.rs",
    signer=keystay.open_signer("file:" + {key!r}), own_signer=True, allow_insecure_loopback=True,
)
client.token()  # before the fork
def application(environ, start_response):
    if environ["PATH_INFO"] == "/renew":
        client.invalidate()
    with httpx.Client(auth=client.auth(), verify=False) as fhir:
        status = fhir.get({base!r} + "/Patient/123").status_code
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{{os.getpid()}} {{status}}".encode()]
"""

    @pytest.mark.parametrize("worker", ["sync", "gthread"])
    def test_prefork(
        self, registered: SmartTestServer, pem_file: Path, tmp_path: Path, worker: str
    ) -> None:
        """Four workers serve with the parent's token, renew it each for itself, and end quietly."""
        code = self.APPLICATION.format(base=registered.fhir_base_url, key=str(pem_file))
        (tmp_path / "app.py").write_text(code)
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        command = [
            sys.executable, "-m", "gunicorn", "--preload",
            "--workers=4", f"--worker-class={worker}", "--threads=4", "--log-level=error",
            f"--bind=fd://{listener.fileno()}", "--no-control-socket", "app:application",
        ]  # fmt: skip
        with subprocess.Popen(
            command,
            cwd=tmp_path,
            pass_fds=[listener.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as server:
            try:
                with ThreadPoolExecutor(16) as pool:
                    answers = [a.split() for a in pool.map(fetch, [url] * 80)]
                    served = len(registered.log.of("token"))
                    renewed = [a.split() for a in pool.map(fetch, [f"{url}/renew"] * 40)]
            finally:
                server.terminate()
                printed, _ = server.communicate(timeout=30)
                listener.close()
        assert {"200"} == {status for _, status in answers + renewed}
        assert len({pid for pid, _ in answers}) > 1
        assert 1 == served
        assert 0 == server.returncode
        assert "Traceback" not in printed
        WATCH.check(printed, "what gunicorn printed")


def fetch(url: str) -> str:
    """What a worker answers."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        return str(answer.read().decode())


EXITS = {
    "without-close": "client.token()",
    "closed-at-exit": "import atexit; atexit.register(client.close); client.token()",
    "used-at-exit": "import atexit; atexit.register(client.token)",
    "signer-closed-first": "client.token(); client.signer.close(); client.close()",
    "client-closed-first": "client.token(); client.close(); client.signer.close()",
    "forgotten": "client.token(); del client; import gc; gc.collect()",
    "in-a-cycle": "client.token(); cycle = [client]; cycle.append(cycle); del client, cycle",
    "auth-outlives-it": "auth = client.auth(); client.token(); client.close(); del client",
    "kept-by-a-global-del": (
        "class Holder:\n"
        "    def __init__(self, client): self.client = client\n"
        "    def __del__(self): self.client.close()\n"
        "holder = Holder(client); client.token()"
    ),
    "daemon-thread-renewing": (
        "def renew():\n"
        "    while True:\n"
        "        client.invalidate(); client.token()\n"
        "threading.Thread(target=renew, daemon=True).start(); time.sleep(0.3)"
    ),
    "async-not-closed": (
        "import asyncio; shared = client.as_async(); asyncio.run(shared.token()); client.close()"
    ),
    "async-closed-last": (
        "import asyncio; shared = client.as_async(); asyncio.run(shared.token()); client.close()\n"
        "asyncio.run(shared.aclose())"
    ),
}


@pytest.mark.parametrize("program", EXITS.values(), ids=EXITS)
def test_exit(client_process: ClientProcess, program: str) -> None:
    """However a program ends, it ends at once, with 0 and without a word."""
    began = time.monotonic()
    done = client_process.run(f"client = make()\n{program}\n")
    assert ("", "") == (done.stdout, done.stderr)
    assert time.monotonic() - began < 15


def test_closed_in_the_middle_of_a_renewal(client_process: ClientProcess) -> None:
    """close() while threads ask: each gets a token or our own error, and none hangs."""
    done = client_process.run("""
        codes = set()
        def ask(client):
            for _ in range(30):
                client.invalidate()
                try:
                    client.token()
                except keystay.KeystayError as error:
                    codes.add(error.code)
        for pause in (0.0, 0.02, 0.05):
            client = make()
            threads = [threading.Thread(target=ask, args=(client,)) for _ in range(8)]
            [thread.start() for thread in threads]
            time.sleep(pause)
            client.close()
            [thread.join() for thread in threads]
        print(sorted(codes))
    """)
    assert "" == done.stderr
    assert "client-closed" in done.stdout
    assert not set(eval(done.stdout)) - {"client-closed", "signer-closed", "network-failed"}


def test_use_after_close(registered: SmartTestServer, pem_file: Path) -> None:
    """A closed client says so at once, every time; the token it kept is still a token."""
    signer = keystay.open_signer(f"file:{pem_file}")
    client = keystay.TokenClient(**client_settings(signer, registered, own_signer=True))
    kept = client.token()
    client.close()
    assert kept is client.token()
    client.invalidate()
    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(keystay.errors.ConfigurationError) as caught:
            client.token()
        assert "client-closed" == caught.value.code
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_not_pickled(registered: SmartTestServer, pem_signer: Signer, protocol: int) -> None:
    """Neither clients nor what they hand out travel to another process; each says what to do."""
    with keystay.TokenClient(**client_settings(pem_signer, registered)) as client:
        shared = client.as_async()
        for thing in (client, shared, client.token(), client.auth(), pem_signer):
            with pytest.raises(TypeError, match="not pickled"):
                pickle.dumps(thing, protocol)
            with pytest.raises(TypeError, match="not pickled"):
                copy.deepcopy(thing)


def test_fork_in_the_middle_of_loggings_import() -> None:
    """The fork lets the import end, for which its own hook of logging's holds the lock."""
    program = Path(__file__).parents[1] / "programs" / "fork_while_logging_is_imported.py"
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, check=False, timeout=100
    )
    assert "" == done.stderr
    assert "well" == done.stdout.split()[0]
    assert float(done.stdout.split()[1]) < 10  # not only once its patience was over
