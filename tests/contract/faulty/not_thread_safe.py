"""Keeps what is being signed in the key."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.contract.faulty.honest import HonestKey, plugin, sign

if TYPE_CHECKING:
    from keystay.backends import SignRequest


FAILS = {"test_threads"}


class NotThreadSafeKey(HonestKey):
    def signature(self, request: SignRequest) -> bytes:
        self.request = request
        time.sleep(0.001)
        return sign(self.private_key, self.request, self.digest(self.request))


BACKEND = plugin(NotThreadSafeKey)
