"""Errors of a plugin whose words are data: its file `errors.toml`, a table for each situation.

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
    """The errors of one plugin, by situation.

    Args:
        package: The plugin's import name; `errors.toml` lies in it.
    """

    def __init__(self, package: str) -> None:
        data = pkgutil.get_data(package, "errors.toml")
        self._rows = msgspec.toml.decode(data or b"", type=dict[str, _Row])

    def __contains__(self, situation: str) -> bool:
        return situation in self._rows

    def error(self, situation: str, **values: object) -> errors.KeystayError:
        """The error for a situation, to be raised.

        Args:
            situation: Name of its table.
            **values: What the names in braces stand for.
        """
        row = self._rows[situation]
        kind: type[errors.KeystayError] = getattr(errors, row.kind)
        cause, hint = (text and text.format_map(values) for text in (row.cause, row.hint))
        return kind(row.message.format_map(values), cause=cause, hint=hint, code=row.code)
