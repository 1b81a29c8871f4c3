"""What an observer implements, as pluggy hook specifications.

An observer is an object with any of the `keystay_…(event)` methods below, marked with
`keystay.hookimpl`. A plugin module in the entry-point group `keystay.observers` states
`api_version = 1` and implements `keystay_open_observer`, which returns one.

A hook runs in the caller's thread, amid its signature or token request: it is to be quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystay.backends.hookspecs import hookspec, keystay_settings

if TYPE_CHECKING:
    from keystay.observers.context import ObserverContext
    from keystay.observers.events import (
        AssertionSigned,
        ClockSkewed,
        MessageSigned,
        RequestRetried,
        SignerOpened,
        TokenFailed,
        TokenInvalidated,
        TokenIssued,
        TokenRenewed,
    )


__all__ = ["keystay_settings"]


@hookspec(firstresult=True)
def keystay_open_observer(context: ObserverContext) -> object:
    """Make the observer that an `[observers.NAME]` table describes; of a plugin module."""


@hookspec
def keystay_signer_opened(event: SignerOpened) -> None:
    """A key was opened, or could not be."""


@hookspec
def keystay_assertion_signed(event: AssertionSigned) -> None:
    """A client assertion was signed, or could not be; it has not left yet."""


@hookspec
def keystay_message_signed(event: MessageSigned) -> None:
    """Something else was signed, or could not be."""


@hookspec
def keystay_token_issued(event: TokenIssued) -> None:
    """An access token was issued; nobody has it yet."""


@hookspec
def keystay_token_failed(event: TokenFailed) -> None:
    """A token request brought no token."""


@hookspec
def keystay_token_renewed(event: TokenRenewed) -> None:
    """A token client has a new token to keep, or failed to get one."""


@hookspec
def keystay_request_retried(event: RequestRetried) -> None:
    """A token request failed and will be made once more."""


@hookspec
def keystay_clock_skewed(event: ClockSkewed) -> None:
    """The server's clock differs from this machine's."""


@hookspec
def keystay_token_invalidated(event: TokenInvalidated) -> None:
    """A token was dropped before its time."""
