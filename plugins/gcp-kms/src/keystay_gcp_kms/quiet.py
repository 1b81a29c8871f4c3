"""Keeps what Google's libraries write at DEBUG about keystay's own calls out of the log.

They attach requests and responses whole to their records, and print them as JSON when
GOOGLE_SDK_PYTHON_LOGGING_SCOPE says so: what is signed and the signature, which together are an
assertion. Their other records, and all records about other people's calls, pass.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["quiet"]

# A filter does not reach the children of a logger, so each that writes payloads is named.
_KMS = "google.cloud.kms_v1.services.key_management_service"
_LOGGERS = (
    f"{_KMS}.client",
    f"{_KMS}.transports.grpc",
    f"{_KMS}.transports.rest",
    "google.auth.transport.requests",
)

_ours: ContextVar[bool] = ContextVar("keystay_gcp_kms_call", default=False)


class _Filter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.DEBUG or not _ours.get()


_filter = _Filter()


@contextmanager
def quiet() -> Iterator[None]:
    """Drop the DEBUG records of Google's libraries about what is done in the block."""
    for name in _LOGGERS:  # adding it again does nothing
        logging.getLogger(name).addFilter(_filter)
    token = _ours.set(True)
    try:
        yield
    finally:
        _ours.reset(token)
