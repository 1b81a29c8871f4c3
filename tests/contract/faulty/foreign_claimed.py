"""Claims algorithms of another type of key."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tests.contract.faulty.honest import HonestKey, plugin

if TYPE_CHECKING:
    from keystay.backends import KeyDescription


FAILS = {"test_algorithms_fit_the_key"}


class ForeignClaimedKey(HonestKey):
    def describe(self) -> KeyDescription:
        description = super().describe()
        return replace(description, algorithms=(*description.algorithms, "ES256"))


BACKEND = plugin(ForeignClaimedKey)
