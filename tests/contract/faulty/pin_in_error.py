"""Shows the PIN in what it raises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystay.errors import BackendError
from tests.contract.faulty.honest import PIN, HonestKey, plugin

if TYPE_CHECKING:
    from keystay.backends import SignRequest


FAILS = {"test_no_secret_in_errors"}


class PinInErrorKey(HonestKey):
    def digest(self, request: SignRequest) -> bytes:
        try:
            return super().digest(request)
        except BackendError as error:
            raise BackendError("It did not help.") from ValueError(f"{PIN}: {error}")


BACKEND = plugin(PinInErrorKey)
