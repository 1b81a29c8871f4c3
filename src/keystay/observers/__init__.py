"""Observers: audit and telemetry sinks, told what happens to keys and tokens.

Observer authors import from here.
"""

from keystay.backends.hookspecs import hookimpl
from keystay.observers.context import ObserverContext
from keystay.observers.dispatch import NOBODY, Observers
from keystay.observers.events import (
    EVENTS,
    AssertionSigned,
    ClockSkewed,
    Event,
    MessageSigned,
    RequestRetried,
    SignerOpened,
    TokenFailed,
    TokenInvalidated,
    TokenIssued,
    TokenRenewed,
)
from keystay.observers.registry import API_VERSION, open_observers

__all__ = [
    "API_VERSION",
    "EVENTS",
    "NOBODY",
    "AssertionSigned",
    "ClockSkewed",
    "Event",
    "MessageSigned",
    "ObserverContext",
    "Observers",
    "RequestRetried",
    "SignerOpened",
    "TokenFailed",
    "TokenInvalidated",
    "TokenIssued",
    "TokenRenewed",
    "hookimpl",
    "open_observers",
]
