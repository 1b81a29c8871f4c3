"""The `agent:` backend keeps what every backend promises."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import keystay
from keystay.testing import SignerContract

AGENT = Path(__file__).parents[1] / "agent.py"
TOKEN = "agent-token-8d1f6c30"


class RunningAgent:
    """An agent for the tests; started again it has other keys."""

    def __init__(self, directory):
        self.socket, self.token = directory / "agent", directory / "token"
        self.token.touch(mode=0o600)
        self.token.write_text(TOKEN)
        self.start()

    def start(self):
        command = [sys.executable, AGENT, self.socket, self.token]
        self.process = subprocess.Popen(command)
        while not self.listens():
            assert self.process.poll() is None, "the agent did not start"
            time.sleep(0.01)

    def listens(self):
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.socket.unlink()

    def restart(self):
        self.stop()
        self.start()

    @contextlib.contextmanager
    def slow(self, seconds):
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)


@pytest.fixture
def agent(tmp_path):
    running = RunningAgent(tmp_path)
    yield running
    running.stop()


class TestAgent(SignerContract):
    keys = ("epic", "lab")
    expected_location = "other-process"

    @pytest.fixture
    def open_signer(self, agent):
        def open_signer(name, **options):
            uri = f"agent:{agent.socket}?key={name}&token-source=file:{agent.token}"
            return keystay.open_signer(uri, **options)

        return open_signer

    @pytest.fixture
    def secrets(self):
        return [TOKEN]

    @pytest.fixture
    def slow(self, agent):
        return agent.slow

    @pytest.fixture
    def swap_key(self, agent):
        return agent.restart
