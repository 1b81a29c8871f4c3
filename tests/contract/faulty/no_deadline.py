"""Waits for the store as long as it takes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.contract.faulty.honest import HonestKey, Store, plugin

if TYPE_CHECKING:
    from keystay.backends import Deadline


FAILS = {"test_deadline"}


class NoDeadlineKey(HonestKey):
    def wait(self, deadline: Deadline) -> None:
        time.sleep(min(Store.latency, 4.0))


BACKEND = plugin(NoDeadlineKey)
