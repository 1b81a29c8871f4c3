"""Errors whose words are data: a package's `errors.toml` has a table for each situation.

    [key-disabled]
    kind = "KeyUnusableError"
    code = "aws-key-disabled"
    message = "The KMS key {key} is disabled."
    cause = "Somebody disabled it."
    hint = "aws kms enable-key --key-id {key}"

`kind` is a class of `keystay.errors`; without `code` the class's own counts. Names in braces are
filled in as by `str.format`; a value with braces in it stays as it is.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from keystay import errors

__all__ = ["ErrorTexts"]


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: str
    message: str
    code: str | None = None
    cause: str | None = None
    hint: str | None = None


class ErrorTexts:
    """The errors of one package, by situation.

    Args:
        package: Its import name.
    """

    def __init__(self, package: str) -> None:
        data = pkgutil.get_data(package, "errors.toml")
        self._rows = msgspec.toml.decode(data or b"", type=dict[str, _Row])

    def __contains__(self, situation: str) -> bool:
        return situation in self._rows

    def error(
        self, situation: str, *, details: Mapping[str, Any] | None = None, **values: object
    ) -> errors.KeystayError:
        """The error for a situation, to be raised.

        Args:
            situation: Name of its table.
            details: What the error's class takes besides, such as an HTTP status.
            **values: What the names in braces stand for.
        """
        row = self._rows[situation]
        kind: Callable[..., errors.KeystayError] = getattr(errors, row.kind)
        message, cause, hint = (
            text and text.format_map(values) for text in (row.message, row.cause, row.hint)
        )
        return kind(message, cause=cause, hint=hint, code=row.code, **(details or {}))
