"""Keeps what botocore writes at DEBUG about keystay's own calls out of the log.

botocore logs requests and responses whole: session tokens, the canonical request that holds them,
what is signed and the signature, which together are an assertion. Its other records, and all
records about other people's calls, pass.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["quiet"]

# Those of botocore's loggers that show requests, responses or credentials. A filter does not
# reach the children of a logger, so each is named.
_LOGGERS = (
    "auth", "awsrequest", "client", "credentials", "endpoint", "hooks", "httpsession",
    "parsers", "retryhandler", "tokens", "utils",
)  # fmt: skip

_ours: ContextVar[bool] = ContextVar("keystay_aws_kms_call", default=False)


class _Filter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.DEBUG or not _ours.get()


_filter = _Filter()


@contextmanager
def quiet() -> Iterator[None]:
    """Drop botocore's DEBUG records about what this thread does in the block."""
    for name in _LOGGERS:  # adding it again does nothing
        logging.getLogger(f"botocore.{name}").addFilter(_filter)
    token = _ours.set(True)
    try:
        yield
    finally:
        _ours.reset(token)
