"""Shows the PIN in its repr."""

from __future__ import annotations

from tests.contract.faulty.honest import PIN, HonestKey, plugin

FAILS = {"test_no_secret_in_repr"}


class PinInReprKey(HonestKey):
    def __repr__(self) -> str:
        return f"<key with PIN {PIN}>"


BACKEND = plugin(PinInReprKey)
