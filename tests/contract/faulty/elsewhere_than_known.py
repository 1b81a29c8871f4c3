"""Says that the key is in an HSM; the test knows better."""

from __future__ import annotations

from keystay.custody import Custody
from tests.contract.faulty.honest import HonestKey, plugin

FAILS = {"test_custody_is_honest"}


class ElsewhereThanKnownKey(HonestKey):
    def custody(self) -> Custody:
        return Custody("hardware", "asserted", "The configuration says so.")


BACKEND = plugin(ElsewhereThanKnownKey)

SETTINGS = {"expected_location": "remote-service"}
