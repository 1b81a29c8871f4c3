"""The access token, which never shows itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from keystay.concurrency.clock import SYSTEM_CLOCK
from keystay.smart.scopes import missing_scopes

if TYPE_CHECKING:
    from keystay.concurrency.clock import Clock

__all__ = ["AccessToken"]


class AccessToken:
    """A bearer token.

    `repr()` and `str()` leave out the token itself; it cannot be pickled.

    Args:
        value: The token.
        expires_in: Seconds it lives, counted from `requested_at`.
        scope: What was granted.
        requested_scope: What was asked for.
        requested_at: `clock.now()` from before the request was sent, so that time spent
            on the way is never added to the token's life.
        token_type: `Bearer`.
        clock: What its life is measured by.
    """

    __slots__ = (
        "_now",
        "authorization",
        "ends_at",
        "expires_at",
        "lifetime",
        "requested_scope",
        "scope",
        "token_type",
        "value",
    )

    def __init__(
        self,
        value: str,
        *,
        expires_in: float,
        scope: str,
        requested_scope: str,
        requested_at: float,
        token_type: str = "Bearer",  # noqa: S107
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._now = now = clock.now
        self.value = value
        """The token; a credential."""
        self.token_type = token_type
        """`Bearer`."""
        self.lifetime = float(expires_in)
        """Seconds from request to expiry."""
        self.ends_at = requested_at + self.lifetime
        """When it expires, by its clock's `now()`."""
        self.expires_at = clock.time() + self.ends_at - now()
        """When it expires, as Unix time in seconds, by this machine's clock when it was made."""
        self.scope = scope
        """The scope granted."""
        self.requested_scope = requested_scope
        """The scope asked for; compare, servers may grant less."""
        self.authorization = f"{token_type} {value}"
        """The value of an Authorization header."""

    @property
    def expired(self) -> bool:
        """Whether its life is over, by a clock that nobody sets and that counts sleep."""
        return self._now() >= self.ends_at

    @property
    def expires_in(self) -> float:
        """Seconds left; 0.0 once expired."""
        return max(0.0, self.ends_at - self._now())

    @property
    def missing_scopes(self) -> tuple[str, ...]:
        """Requested scopes that were not granted, in whatever words."""
        return missing_scopes(self.requested_scope, self.scope)

    def __repr__(self) -> str:
        return (
            f"<AccessToken {self.token_type} *** scope={self.scope!r} "
            f"expires_in={self.expires_in:.0f}>"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError("an AccessToken is not pickled: hand over .value knowingly, or ask anew")
