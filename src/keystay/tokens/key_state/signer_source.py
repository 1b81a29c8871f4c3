"""Where a token client's signer comes from: one that is given, or one that changes with time."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from keystay.concurrency import Deadline
    from keystay.http.messages import HttpRequest, HttpResponse
    from keystay.signer import Signer

__all__ = ["FixedSigner", "SignerSource", "signer_source"]


@runtime_checkable
class SignerSource(Protocol):
    """Gives the signer to use now; `RotatingSigner` is the one that rotates."""

    @property
    def signer(self) -> Signer:
        """The signer of new requests, as far as is known."""

    @property
    def is_stale(self) -> bool:
        """Whether `refresh` has something to do; quick."""

    def refresh(self, deadline: Deadline) -> None:
        """Find the signer to use from now on; may block."""

    def lease(self) -> AbstractContextManager[Signer]:
        """The signer for one request; it stays open until the block ends."""

    def check(self, signer: Signer) -> Generator[HttpRequest, HttpResponse, None]:
        """Return if the signer may sign now."""

    def close(self) -> None:
        """Close the signer once nobody uses it; idempotent."""


class FixedSigner:
    """A signer that stays.

    Args:
        signer: The signer.
    """

    is_stale = False

    def __init__(self, signer: Signer) -> None:
        self.signer = signer

    def refresh(self, deadline: Deadline) -> None:
        """Nothing changes."""

    @contextmanager
    def lease(self) -> Iterator[Signer]:
        """The signer."""
        yield self.signer

    def check(self, signer: Signer) -> Generator[HttpRequest, HttpResponse, None]:
        """It may."""
        yield from ()

    def close(self) -> None:
        """Close the signer."""
        self.signer.close()


def signer_source(given: Signer | SignerSource) -> SignerSource:
    """What a token client was given, as a source."""
    if isinstance(given, SignerSource):
        return given
    return FixedSigner(given)
