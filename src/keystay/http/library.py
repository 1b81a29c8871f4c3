"""httpx or its maintained successor httpx2: which of them sends, and what both call the same.

Their public names are nearly equal and their classes unrelated. In types, keystay writes httpx's
where it means either's (docs/adr/0019-httpx-and-httpx2.md).
"""

from __future__ import annotations

import sys
from functools import cache, lru_cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx
    import httpx2

    Client = httpx.Client | httpx2.Client
    AsyncClient = httpx.AsyncClient | httpx2.AsyncClient

__all__ = ["error_classes", "library_of", "loaded_libraries", "own_library"]

_NAMES = ("httpx", "httpx2")


@cache
def own_library() -> ModuleType:
    """The library of clients that keystay makes: httpx2 where it is installed, else httpx.

    It is imported whole, with what it would import when a client is made: a signal handler may ask
    for a token in the middle of that.
    """
    name = "httpx2" if find_spec("httpx2") else "httpx"
    import_module(name.replace("httpx", "httpcore"))
    return import_module(name)


def loaded_libraries() -> list[ModuleType]:
    """Those of the two that this process has imported, whole."""
    found = (sys.modules.get(name) for name in _NAMES)
    return [library for library in found if library and hasattr(library, "AsyncClient")]


@lru_cache
def library_of(kind: type) -> ModuleType | None:
    """The library that has a class of clients, or its base; None for any other class."""
    for library in loaded_libraries():
        if issubclass(kind, library.Client | library.AsyncClient):
            return library
    return None


def error_classes(*names: str) -> tuple[type[Exception], ...]:
    """The exception classes of these names, of each library that is loaded."""
    return tuple(getattr(library, name) for library in loaded_libraries() for name in names)
