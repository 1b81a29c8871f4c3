"""Keeps what an SDK writes at DEBUG about keystay's own calls out of the log.

SDKs log requests and responses whole: session tokens, what is signed and the signature, which
together are an assertion. Their other records, and all records about other people's calls, pass.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["no_debug_records"]

_ours: ContextVar[bool] = ContextVar("keystay_sdk_call", default=False)


class _Filter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.DEBUG or not _ours.get()


_filter = _Filter()


@contextmanager
def no_debug_records(loggers: Iterable[str]) -> Iterator[None]:
    """Drop the DEBUG records about what this thread or task does in the block.

    Args:
        loggers: Names of the loggers; a filter does not reach the children of one.
    """
    for name in loggers:  # adding it again does nothing
        logging.getLogger(name).addFilter(_filter)
    token = _ours.set(True)
    try:
        yield
    finally:
        _ours.reset(token)
