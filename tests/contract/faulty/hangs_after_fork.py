"""Waits for a lock that nobody gives back, in a forked child."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from tests.contract.faulty.honest import HonestKey, plugin

if TYPE_CHECKING:
    from keystay.backends import SignRequest


FAILS = {"test_fork"}


class HangsAfterForkKey(HonestKey):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.pid = os.getpid()

    def signature(self, request: SignRequest) -> bytes:
        if os.getpid() != self.pid:
            time.sleep(600)
        return super().signature(request)


BACKEND = plugin(HangsAfterForkKey)
