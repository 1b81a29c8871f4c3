"""Does not work in a forked child."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.contract.faulty.honest import HonestKey, plugin

if TYPE_CHECKING:
    from keystay.backends import SignRequest


FAILS = {"test_fork"}


class BrokenByForkKey(HonestKey):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.pid = os.getpid()

    def signature(self, request: SignRequest) -> bytes:
        if os.getpid() != self.pid:
            raise ConnectionError("somebody else reads from this socket")
        return super().signature(request)


BACKEND = plugin(BrokenByForkKey)
