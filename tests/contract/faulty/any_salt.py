"""Leaves the length of the PSS salt to the library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import padding

from tests.contract.faulty.honest import HonestKey, plugin, sign

if TYPE_CHECKING:
    from keystay.backends import SignRequest


FAILS = {
    "test_every_algorithm_verifies_elsewhere",
    "test_digest_signs_as_message",
    "test_async_equals_sync",
    "test_threads",
}


class AnySaltKey(HonestKey):
    def signature(self, request: SignRequest) -> bytes:
        return sign(self.private_key, request, self.digest(request), salt=padding.PSS.MAX_LENGTH)


BACKEND = plugin(AnySaltKey)
