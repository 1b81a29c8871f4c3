"""Tells observers and the log what happened, and keeps their failures from those who sign."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import pluggy

from keystay.errors import KeystayError, ObserverError
from keystay.observers import hookspecs
from keystay.observers.events import EVENTS, Event

__all__ = ["EVENTS_LOG", "NOBODY", "Observers"]

EVENTS_LOG = logging.getLogger("keystay.events")
"""Every event goes there, at its own level."""

logger = EVENTS_LOG
_HOOKS = {kind: f"keystay_{str(kind.__struct_config__.tag).replace('-', '_')}" for kind in EVENTS}
# Seconds between two warnings about the same observer.
_WARN_EVERY = 60.0

E = TypeVar("E", bound=Event)


class _Watcher:
    """One observer."""

    def __init__(self, name: str, observer: object, *, required: bool) -> None:
        self.name, self.required = name, required
        self._failures, self._warned_at = 0, float("-inf")
        manager = pluggy.PluginManager("keystay")
        manager.add_hookspecs(hookspecs)
        try:
            manager.register(observer, name=name)
            manager.check_pending()
        except Exception as error:  # pluggy's, or an attribute of the observer that raises
            raise ObserverError(
                f"The observer {name} cannot be used: its hooks do not fit the specification.",
                cause="A hook is misspelt, or takes something else than `event`.",
                hint="Compare it with keystay.observers.hookspecs.",
                code="observer-broken",
            ) from error
        self.hooks: dict[type[Event], Callable[..., object]] = {
            kind: getattr(manager.hook, hook)
            for kind, hook in _HOOKS.items()
            if getattr(manager.hook, hook).get_hookimpls()
        }
        if not self.hooks:
            raise ObserverError(
                f"The observer {name} observes nothing.",
                hint="Mark its methods with @keystay.hookimpl: keystay_token_issued(self, event).",
                code="observer-broken",
            )

    def tell(self, event: Event) -> None:
        """Call its hook; whatever it raises is an error only where it is required."""
        try:
            self.hooks[type(event)](event=event)
        except Exception as error:
            if self.required and event.is_vital and event.outcome == "ok":
                self._warned_at = time.monotonic()  # the error says it
                raise ObserverError(
                    f"The required observer {self.name} failed at {event.name}: {_why(error)}",
                    cause="What it should have recorded was not used, so that nothing goes "
                    "unrecorded.",
                    hint=getattr(error, "hint", None)
                    or f"Repair it, or set required = false in [observers.{self.name}].",
                ) from error
            self._warn(event, error)

    def _warn(self, event: Event, error: Exception) -> None:
        self._failures += 1
        now = time.monotonic()
        if now < self._warned_at + _WARN_EVERY:
            return
        self._warned_at = now
        logger.warning(
            "The observer %s failed at %s (failures so far: %d): %s",
            self.name,
            event.name,
            self._failures,
            _why(error),
            extra={"event": "observer-failed"},
        )


class Observers:
    """Those who are told what happens to keys and tokens. Thread-safe.

    Each is an object with `keystay_…` methods marked with `keystay.hookimpl`; see
    `keystay.observers.hookspecs`. One that fails is warned about, and nothing else comes of it.

    Args:
        *observers: Whose failures do not matter.
        required: Without whom nothing goes: when one fails, the signature or token it was to be
            told of is not used.

    Raises:
        ObserverError: One cannot be used as an observer; or, later, a required one failed.

    Attributes:
        watched: Who is told of which events; empty where only the log is.
    """

    __slots__ = ("watched",)

    def __init__(self, *observers: object, required: Iterable[object] = ()) -> None:
        self.watched: dict[type[Event], tuple[_Watcher, ...]] = {}
        for observer in observers:
            self._add(type(observer).__name__, observer, required=False)
        for observer in required:
            self._add(type(observer).__name__, observer, required=True)

    def wants(self, kind: type[Event]) -> bool:
        """Whether anybody, or the log, is to be told: an event costs nothing otherwise."""
        return kind in self.watched or EVENTS_LOG.isEnabledFor(kind.level)

    def calls_out(self, kind: type[Event]) -> bool:
        """Whether an observer is to be told, which may wait for a disk; the log does not count."""
        return kind in self.watched

    def emit(self, event: Event) -> None:
        """Tell.

        Raises:
            ObserverError: A required observer failed at something vital that went well.
        """
        kind = type(event)
        if logger.isEnabledFor(kind.level):
            extra = {"event": event.name, "keystay": event.to_dict()}
            logger.log(kind.level, "%s", event, extra=extra)
        refused: ObserverError | None = None
        for watcher in self.watched.get(kind, ()):
            try:
                watcher.tell(event)
            except ObserverError as error:  # the others are told nevertheless
                refused = refused or error
        if refused is not None:
            raise refused

    def _add(self, name: str, observer: object, *, required: bool) -> None:
        watcher = _Watcher(name, observer, required=required)
        for kind in watcher.hooks:
            self.watched[kind] = (*self.watched.get(kind, ()), watcher)

    def __repr__(self) -> str:
        names = {watcher.name: None for watchers in self.watched.values() for watcher in watchers}
        return f"<Observers {', '.join(names) or 'none'}>"


NOBODY = Observers()
"""No observers: events go to the log alone."""


def _why(error: Exception) -> str:
    """What a foreign exception was, without its text, which may quote anything."""
    if isinstance(error, KeystayError):
        return error.message
    if isinstance(error, OSError) and error.errno is not None:
        return f"{os.strerror(error.errno)}."
    return f"{type(error).__name__}."
