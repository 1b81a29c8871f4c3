"""Where a token client's signer comes from, if it is not given one that stays."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from keystay.concurrency.clock import Deadline
    from keystay.http.io import IO
    from keystay.signer import Signer

__all__ = ["SignerSource"]


class SignerSource(Protocol):
    """Gives the signer to use now; `RotatingSigner` is the one that rotates."""

    @property
    def signer(self) -> Signer:
        """The signer of new requests, as far as is known."""

    def refresh(self, deadline: Deadline) -> None:
        """Find the signer to use from now on, if that may be another; may block."""

    def lease(self) -> AbstractContextManager[Signer]:
        """The signer for one request; it stays open until the block ends."""

    async def check(self, signer: Signer, io: IO) -> None:
        """Return if the signer may sign now."""

    def close(self) -> None:
        """Close the signer once nobody uses it; idempotent."""
