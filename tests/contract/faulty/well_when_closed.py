"""Is in good health whatever happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.contract.faulty.honest import HonestKey, plugin

if TYPE_CHECKING:
    from keystay.backends import Deadline


FAILS = {"test_health"}


class WellWhenClosedKey(HonestKey):
    def health(self, deadline: Deadline) -> None:
        return


BACKEND = plugin(WellWhenClosedKey)
