"""Signs whatever it is given as a digest, as SoftHSM does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.contract.faulty.honest import HonestKey, plugin, sign

if TYPE_CHECKING:
    from keystay.backends import SignRequest


FAILS = {"test_wrong_digest_length"}


class AnyDigestKey(HonestKey):
    def signature(self, request: SignRequest) -> bytes:
        digest = (request.digest or b"").ljust(request.algorithm.digest_size, b"\0")
        return sign(self.private_key, request, digest[: request.algorithm.digest_size])


BACKEND = plugin(AnyDigestKey)
