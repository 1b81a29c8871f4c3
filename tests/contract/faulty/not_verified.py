"""Has keystay leave out the verification, though the key is elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tests.contract.faulty.honest import HonestKey, plugin

if TYPE_CHECKING:
    from keystay.backends import KeyDescription


FAILS = {"test_custody_is_honest"}


class NotVerifiedKey(HonestKey):
    def describe(self) -> KeyDescription:
        return replace(super().describe(), signs_here=True)


BACKEND = plugin(NotVerifiedKey)
