"""Everything an authorization server can do wrong, in one table: each has an error of its own.

With a retry, inside its deadline, for threads and for tasks; no secret
in any of them. The files beside this one go into each kind.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import keystay
from keystay.errors import KeystayError
from keystay.http.settings import HttpSettings
from tests.faults.test_token_exchange_connections import reset, sends
from tests.faults.test_token_exchange_time import HEAD, drip, endless, silent
from tests.support.certificates import Authority
from tests.support.raw_server import RawServer, answer, unserved_port
from tests.support.secrets_watch import WATCH
from tests.support.token_clients import client_settings, grant

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from keystay.signer import Signer

pytestmark = pytest.mark.usefixtures("no_environment", "nothing_left", "http_library")

TIMEOUT = 1.0
GRACE = 1.0


class Fault(NamedTuple):
    """What the server does, and what the client makes of it."""

    talk: Any
    code: str
    message: str
    exit_code: int = 4


FAULTS = {
    "refuses": Fault(None, "network-refused", "the connection was refused"),
    "resets": Fault(reset, "network-failed", r"failed: (ReadError|RemoteProtocolError)"),
    "hangs": Fault(silent, "network-timeout", "no complete answer within 1 s"),
    "drips": Fault(
        drip(HEAD + b"Content-Length: 500\r\n\r\n" + b" " * 500),
        "network-timeout",
        "no complete answer within 1 s",
    ),
    "sends-1-GB": Fault(endless, "network-too-large", "longer than 262144 bytes"),
    "bad-json": Fault(answer(b'{"access_'), "token-response-invalid", "not a JSON object"),
    "html": Fault(answer(b"<!doctype html><p>Hi"), "token-response-invalid", "a web page"),
    "redirects": Fault(
        answer(status="307 Elsewhere", headers={"Location": "https://elsewhere.example.org/"}),
        "token-redirect",
        r"redirects \(HTTP 307\)",
    ),
    "503-retry-after": Fault(
        answer(status="503 Busy", headers={"Retry-After": "30"}),
        "token-server-error",
        "HTTP 503(.|\n)*Try again in 30 s",
    ),
    "429-storm": Fault(
        answer(status="429 Slow Down", headers={"Retry-After": "60"}),
        "token-rate-limited",
        "HTTP 429(.|\n)*Wait 60 s",
        5,
    ),
    "expired-certificate": Fault({"expired": True}, "tls-expired", "not valid now"),
    "wrong-host": Fault({"host": "other.example.org"}, "tls-wrong-host", "for another host"),
    "no-http": Fault(sends(b"SSH-2.0-OpenSSH_9.2\r\n"), "network-failed", "RemoteProtocolError"),
}


def check(error: KeystayError, fault: Fault, began: float) -> None:
    """In time, its own, with a remedy, and without a secret."""
    assert time.monotonic() - began < TIMEOUT + GRACE
    assert (fault.code, fault.exit_code) == (error.code, error.exit_code)
    assert re.search(fault.message, str(error))
    assert error.cause
    assert error.hint
    WATCH.check(f"{error}{error!r}{error.to_dict()}", "the error")


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_fault(
    raw_server: Callable[..., RawServer], pem_signer: Signer, tmp_path: Path, fault: Fault
) -> None:
    """A thread first, then a task of asyncio or trio."""
    http = HttpSettings(timeout=TIMEOUT)
    if isinstance(fault.talk, dict):
        authority = Authority(tmp_path)
        origin = raw_server(answer(grant().body), tls=authority.server_context(**fault.talk)).origin
        http = HttpSettings(timeout=TIMEOUT, ca_bundle=str(authority.bundle))
    elif fault.talk is not None:
        origin = raw_server(fault.talk).origin
    with unserved_port() as port:
        if fault.talk is None:
            origin = f"http://127.0.0.1:{port}"
        settings = client_settings(
            pem_signer, fhir_base_url=origin, token_endpoint=f"{origin}/token", retries=1
        )
        with keystay.TokenClient(http=http, **settings) as client:
            began = time.monotonic()
            with pytest.raises(KeystayError) as caught:
                client.token()
            check(caught.value, fault, began)
        async with keystay.AsyncTokenClient(http=http, **settings) as tasks:
            began = time.monotonic()
            with pytest.raises(KeystayError) as caught:
                await tasks.token()
            check(caught.value, fault, began)
