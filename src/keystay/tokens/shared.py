"""One client's token, shared with other processes through a store.

One process renews; the others go on with the old token while it lives, and wait when there is
none. A store that does not answer in time is as good as none.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from keystay.errors import BackendUnavailableError, NetworkTimeoutError

if TYPE_CHECKING:
    from keystay.http.io import IO
    from keystay.token_stores.access_token import AccessToken
    from keystay.token_stores.port import Claim, TokenOwner, TokenStore
    from keystay.tokens.retry import Retry

__all__ = ["Kept", "SharedToken"]

logger = logging.getLogger("keystay.tokens.store")

# Seconds between two looks at a store whose token another process is renewing.
_LOOK_EVERY = 0.02
# Seconds past its deadline after which a process that renews counts as gone.
_GRACE = 2.0
# Seconds that a store may take for an answer.
_LONGEST = 5.0


class Kept(Protocol):
    """The token kept in this process."""

    token: AccessToken | None

    def is_fresh(self, token: AccessToken) -> bool:
        """Whether a token is not to be renewed yet."""


class _Look(NamedTuple):
    """What a store was found to hold, and the right to renew it, if that was free."""

    found: AccessToken | None
    claim: Claim | None


class SharedToken:
    """What one client does with a store.

    Args:
        store: Where its token is shared.
        owner: Whose token it is.
        retry: Gets a new one.

    Attributes:
        kept: The token kept in this process; set before `renew` is called.
        taken: The last token that another process had got.
    """

    kept: Kept

    def __init__(self, store: TokenStore, owner: TokenOwner, retry: Retry) -> None:
        self._store, self._owner, self._retry = store, owner, retry
        self.taken: AccessToken | None = None
        self._rejected: bytes | None = None

    async def renew(self, io: IO, may_retry: Callable[[], bool]) -> AccessToken:
        """The token that another process has got, or a new one for all.

        Args:
            io: Runs the store's functions, and does the requests.
            may_retry: As for `Retry.token`.

        Raises:
            KeystayError: As `Retry.token`.
            NetworkTimeoutError: Another process had the right to renew for too long.
        """
        while True:
            try:
                look_now = partial(self._look, io.deadline.remaining + _GRACE)
                look = await io.run(look_now, _LONGEST, late=_release)
            except BackendUnavailableError as error:
                logger.warning(
                    "The token store does not answer, this process gets its own token: %s",
                    error.message,
                    extra={"event": "store-failed"},
                )
                return await self._retry.token(io, may_retry)
            try:
                if look.found is not None and self.kept.is_fresh(look.found):
                    return look.found
                if look.claim is not None:
                    return await self._renew_for_all(io, may_retry)
            finally:
                _release(look)
            held = look.found or self.kept.token
            if held is not None and not held.expired:  # good enough while another process renews it
                return held
            if io.deadline.expired:
                raise NetworkTimeoutError(
                    "The process that renews the shared token brought none "
                    f"within {io.deadline.seconds:g} s.",
                    cause="The server or the key is slow there, or that process hangs.",
                    hint="Try again; raise [http] timeout only if they are slow by nature.",
                )
            await io.sleep(min(_LOOK_EVERY, io.deadline.remaining))

    def reject(self, token: AccessToken) -> None:
        """Never take this token again, and drop it from the store; never another."""
        self._rejected = _digest(token)
        self._store.discard(self._owner, token)

    async def _renew_for_all(self, io: IO, may_retry: Callable[[], bool]) -> AccessToken:
        token = await self._retry.token(io, may_retry)
        with suppress(BackendUnavailableError):
            await io.run(partial(self._store.save, self._owner, token), _LONGEST)
        return token

    def _look(self, seconds: float) -> _Look:
        """Load the token, and claim the right to renew it unless it is fresh."""
        found = self._load()
        if found is not None and self.kept.is_fresh(found):
            return _Look(found, None)
        claim = self._store.claim(self._owner, seconds)
        if claim is None:
            return _Look(found, None)
        return _Look(self._load(), claim)  # another may have got one while we waited

    def _load(self) -> AccessToken | None:
        found = self._store.load(self._owner)
        if found is None or _digest(found) == self._rejected:
            return None
        kept = self.kept.token
        if kept is not None and kept.value == found.value:
            return kept  # the very object, by which a rejection knows it
        self.taken = found
        return found


def _release(look: _Look | None) -> None:
    if look is not None and look.claim is not None:
        look.claim.release()


def _digest(token: AccessToken) -> bytes:
    return hashlib.sha256(token.value.encode()).digest()
