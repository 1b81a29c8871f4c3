"""Goes on under the old id when another key is in the place of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.contract.faulty.honest import HonestKey, Store, plugin, sign

if TYPE_CHECKING:
    from keystay.backends import SignRequest


FAILS = {"test_key_swap"}


class SwappedKeyKey(HonestKey):
    def signature(self, request: SignRequest) -> bytes:
        return sign(Store.keys[self.name], request, self.digest(request))


BACKEND = plugin(SwappedKeyKey)
