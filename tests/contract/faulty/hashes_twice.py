"""Sends what is short as a digest, and has what is long hashed once more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.contract.faulty.honest import HonestKey, plugin

if TYPE_CHECKING:
    from keystay.backends import SignRequest


FAILS = {"test_every_algorithm_verifies_elsewhere", "test_assertion"}


class HashesTwiceKey(HonestKey):
    def digest(self, request: SignRequest) -> bytes:
        digest = super().digest(request)
        if request.message is not None and len(request.message) > 4096:
            return request.algorithm.digest(digest) or b""
        return digest


BACKEND = plugin(HashesTwiceKey)
