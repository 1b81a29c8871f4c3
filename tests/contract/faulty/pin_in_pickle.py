"""Is pickled with the PIN."""

from __future__ import annotations

from typing import Any

from tests.contract.faulty.honest import PIN, HonestKey, plugin

FAILS = {"test_no_secret_in_pickle"}


class PinInPickleKey(HonestKey):
    def __reduce__(self) -> Any:
        return (str, (PIN,))


BACKEND = plugin(PinInPickleKey)
