"""Claims an algorithm that it does not do as it should."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from tests.contract.faulty.honest import HASHES, HonestKey, plugin, sign

if TYPE_CHECKING:
    from keystay.backends import SignRequest


FAILS = {
    "test_every_algorithm_verifies_elsewhere",
    "test_digest_signs_as_message",
    "test_async_equals_sync",
    "test_threads",
}


class UnsupportedClaimedKey(HonestKey):
    def signature(self, request: SignRequest) -> bytes:
        if request.algorithm.name != "RS512":
            return super().signature(request)
        digest = hashlib.sha256(self.digest(request)).digest()
        return sign(self.private_key, request, digest, hashed=HASHES["256"])


BACKEND = plugin(UnsupportedClaimedKey)
