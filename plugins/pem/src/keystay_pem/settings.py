"""`[backends.file]`."""

from __future__ import annotations

from typing import Annotated

import msgspec

from keystay.settings import SecretReference, setting

__all__ = ["Settings"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How PEM files are read."""

    passphrase_source: Annotated[
        SecretReference | None,
        setting(
            "Reference to the passphrase of encrypted files, where the key URI names none.",
            is_secret_reference=True,
        ),
    ] = None
