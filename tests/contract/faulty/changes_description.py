"""Describes the key anew at every call."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tests.contract.faulty.honest import HonestKey, plugin

if TYPE_CHECKING:
    from keystay.backends import KeyDescription


FAILS = {"test_description_is_stable"}


class ChangesDescriptionKey(HonestKey):
    def describe(self) -> KeyDescription:
        return replace(super().describe(), label=f"{self.name}, {self.signed} signatures")


BACKEND = plugin(ChangesDescriptionKey)
