"""Says nothing of an algorithm that fits the key."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tests.contract.faulty.honest import HonestKey, plugin

if TYPE_CHECKING:
    from keystay.backends import KeyDescription


FAILS = {"test_table_of_what_cannot_be_done"}


class SupportedUnclaimedKey(HonestKey):
    def describe(self) -> KeyDescription:
        description = super().describe()
        able = tuple(name for name in description.algorithms if name not in ("RS512", "ES384"))
        return replace(description, algorithms=able or description.algorithms)


BACKEND = plugin(SupportedUnclaimedKey)
