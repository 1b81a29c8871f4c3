"""Calls a key that can be extracted hardware."""

from __future__ import annotations

from keystay.custody import Custody, Fact
from tests.contract.faulty.honest import HonestKey, plugin

FAILS = {"test_custody_is_honest"}


class ClaimsHardwareKey(HonestKey):
    def custody(self) -> Custody:
        facts = {"extractable": Fact(True, "reported")}
        return Custody("hardware", "reported", "The attributes say so.", facts)


BACKEND = plugin(ClaimsHardwareKey)
