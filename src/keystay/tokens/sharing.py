"""One client's token, shared with other processes through a store.

One process renews; the others go on with the old token while it lives, and wait when there is
none. As all flows, those here do no input or output themselves.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from keystay.errors import NetworkTimeoutError
from keystay.tokens.actions import Call, Flow, Pause

if TYPE_CHECKING:
    from keystay.concurrency import Deadline
    from keystay.token_stores.access_token import AccessToken
    from keystay.token_stores.port import Claim, TokenOwner, TokenStore
    from keystay.tokens.renewal import Renewal

__all__ = ["SharedToken"]

# Seconds between two looks at a store whose token another process is renewing.
_LOOK_EVERY = 0.02
# Seconds past its deadline after which a process that renews counts as gone.
_GRACE = 2.0


class SharedToken:
    """What one client does with a store.

    Args:
        store: Where its token is shared.
        owner: Whose token it is.
        renewal: Keeps the token within this process.

    Attributes:
        taken: The last token that another process had got.
    """

    def __init__(self, store: TokenStore, owner: TokenOwner, renewal: Renewal) -> None:
        self._store, self._owner, self._renewal = store, owner, renewal
        self.taken: AccessToken | None = None
        self._rejected: bytes | None = None
        # Threads whose flow has the claim, or may be about to.
        self._claimants: set[int] = set()

    def obtain(self, ask: Callable[[], Flow[AccessToken]], deadline: Deadline) -> Flow[AccessToken]:
        """The token that another process has got, or a new one for all.

        Args:
            ask: Makes the flow that gets a new token.
            deadline: When to give up.

        Raises:
            KeystayError: As `ask`.
            NetworkTimeoutError: Another process had the right to renew for too long.
        """
        thread = threading.get_ident()
        if thread in self._claimants:
            # A signal handler, or a call from a coroutine, has interrupted its own renewal.
            return (yield from self._got(ask))
        claim: Claim | None = None
        try:
            while True:
                found = yield from self._load()
                if found is not None and self._renewal.is_fresh(found):
                    return found
                seconds = deadline.remaining + _GRACE
                claim = yield Call(partial(self._claim, seconds, thread))
                if claim is not None:
                    break
                held = found or self._renewal.token
                if held is not None and not held.expired:  # good enough while somebody renews it
                    return held
                if not deadline.remaining:
                    raise NetworkTimeoutError(
                        "The process that renews the shared token brought none "
                        f"within {deadline.seconds:g} s.",
                        cause="The server or the key is slow there, or that process hangs.",
                        hint="Try again; raise [http] timeout only if they are slow by nature.",
                    )
                yield Pause(min(_LOOK_EVERY, deadline.remaining))
            found = yield from self._load()
            if found is not None and self._renewal.is_fresh(found):  # got while we waited
                return found
            return (yield from self._got(ask))
        finally:
            if claim is not None:
                claim.release()
            self._claimants.discard(thread)

    def reject(self, token: AccessToken) -> None:
        """Never take this token again, and drop it from the store; never another."""
        self._rejected = _digest(token)
        self._store.discard(self._owner, token)

    def _claim(self, seconds: float, thread: int) -> Claim | None:
        # Noted first, for a signal handler may come between any two instructions.
        self._claimants.add(thread)
        claim = None
        try:
            claim = self._store.claim(self._owner, seconds)
        finally:
            if claim is None:
                self._claimants.discard(thread)
        return claim

    def _got(self, ask: Callable[[], Flow[AccessToken]]) -> Flow[AccessToken]:
        """A new token, and kept for all."""
        token = yield from ask()
        yield Call(partial(self._store.save, self._owner, token))
        return token

    def _load(self) -> Flow[AccessToken | None]:
        found: AccessToken | None = yield Call(partial(self._store.load, self._owner))
        if found is None or _digest(found) == self._rejected:
            return None
        kept = self._renewal.token
        if kept is not None and kept.value == found.value:
            return kept  # the very object, by which a rejection knows it
        self.taken = found
        return found


def _digest(token: AccessToken) -> bytes:
    return hashlib.sha256(token.value.encode()).digest()
