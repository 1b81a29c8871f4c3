"""The road of a token: how many of our files it takes, and that a traceback shows it whole."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import keystay
from keystay.http.library import own_library
from tests.support.token_clients import client_settings

if TYPE_CHECKING:
    from keystay.signer import Signer
    from keystay.testing import SmartTestServer
    from tests.support.token_clients import MakeClient

# Most files of ours that a first token may take, with a PEM key and the endpoint configured.
MOST_FILES = 18
# What a traceback names on its way from the caller to the socket, in this order.
CHAIN = ("token", "get", "renew", "with_retries", "request", "send")
OURS = re.compile(r"/(?:src|site-packages)/(keystay\w*/(?!testing/).*\.py)\Z")


class Files:
    """Files of ours in which a function is called, in this thread and in ours.

    The server's threads verify assertions with the same modules.
    """

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __enter__(self) -> Files:
        threading.setprofile(self._look)
        sys.setprofile(self._look)
        return self

    def __exit__(self, *exception: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _look(self, frame: Any, event: str, argument: object) -> None:
        thread = threading.current_thread()
        if thread is not threading.main_thread() and thread.name != "keystay-worker":
            return
        if event == "call" and (found := OURS.search(frame.f_code.co_filename)):
            self.seen.add(found[1])


@pytest.mark.usefixtures("no_environment")
def test_files(
    registered: SmartTestServer, pem_signer: Signer, caplog: pytest.LogCaptureFixture
) -> None:
    """From `token()` on an open signer, once everything is imported, with logging as usual."""
    caplog.set_level(logging.WARNING, "keystay.events")

    def make() -> keystay.TokenClient:
        settings = client_settings(pem_signer, registered)
        return keystay.TokenClient(token_endpoint=registered.token_endpoint, **settings)

    with make() as client:
        client.token()
    with make() as client, Files() as files:
        client.token()
    print(*sorted(files.seen), sep="\n")
    assert len(files.seen) <= MOST_FILES
    assert {"keystay/tokens/cache.py", "keystay/http/send.py"} <= files.seen


def names_in(error: BaseException) -> list[str]:
    """The functions of a traceback, the caller's first."""
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


def assert_whole(names: list[str]) -> None:
    """The chain is there, in its order, whatever stands between."""
    rest = iter(names)
    assert all(any(wanted in name for name in rest) for wanted in CHAIN), names


def break_off(*arguments: object, **named: object) -> None:
    """What a socket raises."""
    raise own_library().ReadError("the connection broke")


def test_traceback(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, http_library: Any
) -> None:
    """Raised while the request is sent, it names every concept on the way."""
    monkeypatch.setattr(http_library.Client, "send", break_off)
    client = make_client(fhir_base_url="https://ehr.invalid", token_endpoint="https://as.invalid/t")
    with pytest.raises(keystay.errors.NetworkError) as caught:
        client.token()
    names = names_in(caught.value)
    print(" > ".join(names))
    assert_whole(names)


async def test_traceback_async(
    pem_signer: Signer,
    no_environment: None,
    monkeypatch: pytest.MonkeyPatch,
    http_library: Any,
) -> None:
    """As in a thread."""
    monkeypatch.setattr(http_library.AsyncClient, "send", break_off)
    settings = client_settings(pem_signer, fhir_base_url="https://ehr.invalid")
    async with keystay.AsyncTokenClient(
        token_endpoint="https://as.invalid/t", **settings
    ) as client:
        with pytest.raises(keystay.errors.NetworkError) as caught:
            await client.token()
    names = names_in(caught.value)
    print(" > ".join(names))
    assert_whole(names)


def test_stack_while_the_key_signs(
    make_client: MakeClient, pem_signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A debugger that stops there sees the whole chain, too."""
    seen: list[str] = []
    sign = type(pem_signer._key).sign

    def look(key: Any, request: Any) -> Any:
        seen.extend(frame.name for frame in traceback.extract_stack())
        return sign(key, request)

    monkeypatch.setattr(type(pem_signer._key), "sign", look)
    client = make_client(fhir_base_url="https://ehr.invalid", token_endpoint="https://as.invalid/t")
    with pytest.raises(keystay.errors.NetworkError):
        client.token()
    rest = iter(seen)
    assert all(name in rest for name in (*CHAIN[:-1], "sign", "sign_stamped", "_sign"))


def test_what_a_client_loads(
    registered: SmartTestServer, pem_file: Path, tmp_path: Path, no_environment: None
) -> None:
    """A production process loads no room of those that people run."""
    config = tmp_path / "keystay.toml"
    config.write_text(
        f'[clients.epic]\nfhir_base_url = "{registered.fhir_base_url}"\n'
        f'client_id = "hospital-etl"\nkey = "file:{pem_file}"\n'
        'scope = "system/Patient.rs"\nallow_insecure_loopback = true\n'
    )
    program = Path(__file__).parents[1] / "programs" / "what_a_client_loads.py"
    done = subprocess.run(
        [sys.executable, program],
        env={**os.environ, "KEYSTAY_CONFIG": str(config)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "[]\n" == done.stdout


def test_uvloop(registered: SmartTestServer, pem_signer: Signer, no_environment: None) -> None:
    """A hundred tasks of the other event loop: one request, and the loop stays free."""

    async def ask() -> None:
        beats = 0
        tokens: list[keystay.AccessToken] = []
        settings = client_settings(pem_signer, registered)
        async with (
            keystay.AsyncTokenClient(**settings) as client,
            anyio.create_task_group() as group,
        ):

            async def one() -> None:
                tokens.append(await client.token())

            for _ in range(100):
                group.start_soon(one)
            while len(tokens) < 100:
                beats += 1
                await anyio.sleep(0.001)
        assert 1 == len(set(map(id, tokens)))
        assert beats > 1

    anyio.run(ask, backend="asyncio", backend_options={"use_uvloop": True})
    assert 1 == len(registered.log.of("token"))


def test_gevent(registered: SmartTestServer, pem_file: Path, no_environment: None) -> None:
    """Twenty greenlets of a program that gevent has patched: one request, and others run."""
    program = Path(__file__).parents[1] / "programs" / "gevent_client.py"
    arguments = (registered.fhir_base_url, "hospital-etl", str(pem_file))
    done = subprocess.run(
        [sys.executable, program, *arguments], capture_output=True, text=True, check=False
    )
    assert (0, "1 True\n") == (done.returncode, done.stdout), done.stderr
    assert 1 == len(registered.log.of("token"))
