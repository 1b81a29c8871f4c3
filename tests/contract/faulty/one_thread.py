"""Signs only in the thread that opened it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from tests.contract.faulty.honest import HonestKey, plugin

if TYPE_CHECKING:
    from keystay.backends import SignRequest


FAILS = {"test_threads", "test_async_equals_sync"}


class OneThreadKey(HonestKey):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.thread = threading.get_ident()

    def signature(self, request: SignRequest) -> bytes:
        if threading.get_ident() != self.thread:
            raise RuntimeError("used in another thread")
        return super().signature(request)


BACKEND = plugin(OneThreadKey)
