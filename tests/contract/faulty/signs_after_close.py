"""Signs after it was closed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.contract.faulty.honest import HonestKey, plugin

if TYPE_CHECKING:
    from keystay.backends import BackendSignature, SignRequest


FAILS = {"test_closed"}


class SignsAfterCloseKey(HonestKey):
    def sign(self, request: SignRequest) -> BackendSignature:
        self.closed, closed = False, self.closed
        try:
            return super().sign(request)
        finally:
            self.closed = closed


BACKEND = plugin(SignsAfterCloseKey)
