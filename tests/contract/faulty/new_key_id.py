"""Calls the key something else each time it is opened."""

from __future__ import annotations

import itertools

from tests.contract.faulty.honest import HonestKey, plugin

FAILS = {"test_key_id_is_stable"}


NUMBERS = itertools.count()


class NewKeyIdKey(HonestKey):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.number = next(NUMBERS)

    def key_id(self) -> str:
        return f"key-{self.number}"


BACKEND = plugin(NewKeyIdKey)
