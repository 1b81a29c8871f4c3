"""Logs the PIN at DEBUG."""

from __future__ import annotations

import logging

from tests.contract.faulty.honest import PIN, HonestKey, plugin

FAILS = {"test_no_secret_in_logs"}


class PinInLogKey(HonestKey):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        logging.getLogger("faulty").debug("logging in with %s", PIN)


BACKEND = plugin(PinInLogKey)
