"""Fails when it is closed again."""

from __future__ import annotations

from keystay.errors import BackendError
from tests.contract.faulty.honest import HonestKey, plugin

FAILS = {"test_close_is_idempotent"}


class ClosedOnceKey(HonestKey):
    def close(self) -> None:
        if self.closed:
            raise BackendError("already closed")
        super().close()


BACKEND = plugin(ClosedOnceKey)
