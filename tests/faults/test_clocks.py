"""Clocks that are wrong, that are set, and that stand still while a laptop sleeps: real processes.

The server is strict and its clock is right. The client runs in a process whose clocks are moved.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from typing import TYPE_CHECKING

import httpx
import pytest

import keystay
from keystay.errors import TokenRefusedError
from keystay.testing import Reply, SmartTestServer
from tests.support.client_process import ClientProcess
from tests.support.fixtures import watch_exchanges
from tests.support.token_clients import CLIENT_ID, client_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from keystay.signer import Signer
    from tests.support.clockshim import ClockShim
    from tests.support.token_clients import MakeClient

    MakePair = Callable[[float, float], tuple[SmartTestServer, keystay.TokenClient]]

pytestmark = pytest.mark.usefixtures("no_environment")

TEN_MINUTES = 600.0
SKEW = r"clock is (599|60[01]) s "  # Date has whole seconds
SIDES = pytest.mark.parametrize(
    ("seconds", "side", "reason"),
    [
        pytest.param(TEN_MINUTES, "ahead of", "exp-too-far", id="ahead"),
        pytest.param(-TEN_MINUTES, "behind", "exp-past", id="behind"),
    ],
)


@SIDES
def test_corrected_by_discovery(
    client_process: ClientProcess, registered: SmartTestServer, clocks: ClockShim,
    seconds: float, side: str, reason: str,
) -> None:  # fmt: skip
    """Ten minutes off: discovery tells, the first assertion is right, and the skew is reported."""
    clocks.set_wall_clock(seconds)
    done = client_process.run(
        """
        with make() as client:
            token = client.token()
            print(round(token.expires_in, -1), round(client.clock_offset, -1))
        """,
        env=clocks.env,
    )
    assert f"300.0 {-seconds}" == done.stdout.strip()
    assert re.search(SKEW + f"{side} the server's", done.stderr)
    assert "stamped by the server's" in done.stderr
    assert ([], 1) == ([*registered.log.refusals], len(registered.log.of("token")))


@SIDES
def test_corrected_after_a_refusal(
    client_process: ClientProcess, registered: SmartTestServer, clocks: ClockShim,
    seconds: float, side: str, reason: str,
) -> None:  # fmt: skip
    """Without discovery the refusal tells the time; the one more try is granted."""
    clocks.set_wall_clock(seconds)
    done = client_process.run(
        """
        with make(token_endpoint=sys.argv[2]) as client:
            client.token()
            client.request_token()
        """,
        env=clocks.env,
    )
    assert re.search(SKEW + f"{side} the server's", done.stderr)
    assert [reason, None, None] == [event.reason for event in registered.log.of("token")]


@SIDES
def test_warned_about(
    client_process: ClientProcess, registered: SmartTestServer, clocks: ClockShim,
    seconds: float, side: str, reason: str,
) -> None:  # fmt: skip
    """With correction off: a clear warning, and a refusal that names the clock."""
    clocks.set_wall_clock(seconds)
    done = client_process.run(
        """
        with make(clock_correction="warn") as client:
            try:
                client.token()
            except keystay.errors.TokenRefusedError as error:
                print(error)
        """,
        env=clocks.env,
    )
    assert re.search(f"This machine's {SKEW}{side} the server's", done.stdout)
    assert "Set the clock" in done.stdout
    assert 'set the clock, or clock_correction = "on"' in done.stderr
    assert [reason] == [event.reason for event in registered.log.of("token")]


@pytest.mark.parametrize("seconds", [3600.0, -86000.0])
def test_clock_that_is_set(
    client_process: ClientProcess, registered: SmartTestServer, clocks: ClockShim, seconds: float
) -> None:
    """A step neither ends nor prolongs a token, and the next assertion is right at once."""
    program = """
        import mmap, struct
        client = make(token_endpoint=sys.argv[2])
        token = client.token()
        with open(os.environ["KEYSTAY_TEST_CLOCK_OFFSETS"], "r+b") as file:
            with mmap.mmap(file.fileno(), 16) as offsets:
                offsets[:16] = struct.pack("dd", float(sys.argv[4]), 0.0)
        print(client.token() is token, round(token.expires_in, -1))
        client.invalidate()
        client.token()
        client.close()
        """
    done = client_process.run(program, str(seconds), env=clocks.env)
    assert "True 300.0" == done.stdout.strip()
    assert [None, None] == [event.reason for event in registered.log.of("token")]


@pytest.mark.parametrize(("seconds", "is_kept"), [(200, True), (250, False), (400, False)])
def test_laptop_that_sleeps(
    pem_signer: Signer, pem_file: Path, clocks: ClockShim, seconds: float, is_kept: bool
) -> None:
    """Sleep counts: a token of 300 s is renewed after 250 s of it, and dead after 400."""
    program = """
        import mmap, struct
        client = make()
        token = client.token()
        seconds = float(sys.argv[4])
        with open(os.environ["KEYSTAY_TEST_CLOCK_OFFSETS"], "r+b") as file:
            with mmap.mmap(file.fileno(), 16) as offsets:
                offsets[:16] = struct.pack("dd", seconds, seconds)
        print(token.expired, client.authorization() == token.authorization)
        client.close()
        """
    with SmartTestServer(clock=lambda: time.time() + clocks.slept) as server:  # it stays awake
        watch_exchanges(server)
        server.register(CLIENT_ID, jwks=keystay.JWKSet.from_signers([pem_signer]))
        done = ClientProcess(server, pem_file).run(program, str(seconds), env=clocks.env)
    assert f"{seconds >= 300} {is_kept}" == done.stdout.strip()
    assert [None] * (1 if is_kept else 2) == [event.reason for event in server.log.of("token")]


@pytest.mark.parametrize("seconds", [2 * 86400.0, -2 * 86400.0])
def test_too_far_off_to_be_corrected(
    pem_signer: Signer, caplog: pytest.LogCaptureFixture, seconds: float
) -> None:
    """A clock that is days off is somebody's fault to see, not ours to hide."""
    with SmartTestServer(clock=lambda: time.time() + seconds) as server:
        watch_exchanges(server)
        server.register(CLIENT_ID, jwks=keystay.JWKSet.from_signers([pem_signer]))
        with (
            keystay.TokenClient(**client_settings(pem_signer, server)) as client,
            caplog.at_level(logging.WARNING, "keystay.tokens"),
            pytest.raises(TokenRefusedError, match=r"This machine's clock is 17\d{4} s"),
        ):
            client.token()
    assert "more than is corrected for" in caplog.text


async def test_server_whose_clock_is_off_async(pem_signer: Signer) -> None:
    """The same correction for tasks, under asyncio and trio."""
    with SmartTestServer(clock=lambda: time.time() + 600) as server:
        watch_exchanges(server)
        server.register(CLIENT_ID, jwks=keystay.JWKSet.from_signers([pem_signer]))
        settings = client_settings(pem_signer, server, token_endpoint=server.token_endpoint)
        async with keystay.AsyncTokenClient(**settings) as client:
            await client.token()
            assert 595 < (client.clock_offset or 0) < 605
        assert [True, False] == [event.reason is not None for event in server.log.of("token")]


@pytest.fixture
def make_pair(pem_signer: Signer, make_client: MakeClient) -> Iterator[MakePair]:
    """A function that makes a token server, and its client, who is told of it by another."""
    with contextlib.ExitStack() as stack:

        def serve(seconds: float) -> SmartTestServer:
            server = stack.enter_context(SmartTestServer(clock=lambda: time.time() + seconds))
            watch_exchanges(server)
            return server

        def make(fhir: float, token: float) -> tuple[SmartTestServer, keystay.TokenClient]:
            base, server = serve(fhir), serve(token)
            server.register(CLIENT_ID, jwks=keystay.JWKSet.from_signers([pem_signer]))
            configuration = httpx.get(server.smart_configuration_url, trust_env=False).json()
            base.script(base.smart_configuration_url, [Reply.json(configuration)])
            return server, make_client(base, retries=3)

        yield make


class TestTwoServers:
    """The FHIR server, whose answer comes first, and the token server have clocks of their own."""

    @pytest.mark.parametrize(("fhir", "token"), [(600, 0), (-600, 0), (600, -600), (0, 600)])
    def test_first_hand_corrects(self, make_pair: MakePair, fhir: float, token: float) -> None:
        """Discovery misleads the first assertion; the refusal tells, and the second is granted."""
        server, client = make_pair(fhir, token)
        client.token()
        assert [True, False] == [event.reason is not None for event in server.log.of("token")]

    @pytest.mark.parametrize(("fhir", "token"), [(0, 0), (600, 600)])
    def test_refused_for_another_reason(
        self, make_pair: MakePair, fhir: float, token: float
    ) -> None:
        """An assertion that discovery had stamped right is not sent again: it was not the clock."""
        server, client = make_pair(fhir, token)
        server.authorization_server.unregister(CLIENT_ID)
        with pytest.raises(TokenRefusedError) as caught:
            client.token()
        assert "clock" not in str(caught.value)
        assert 1 == len(server.log.of("token"))
