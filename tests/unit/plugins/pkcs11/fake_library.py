"""A PKCS#11 module without C: it knows whether it is initialised, and who is inside."""

from __future__ import annotations

from typing import Any, cast

from pkcs11.exceptions import DeviceError

from keystay_pkcs11.cryptoki import Library

__all__ = ["FakeLibrary", "as_library"]


class FakeLibrary:
    """What `Module` asks of a library, and its `cryptoki` in one.

    Attributes:
        initialized: Whether C_Initialize was called after the last C_Finalize.
        finalized: How often C_Finalize was called.
        inside: Calls under way.
        fails: Whether C_Initialize fails.
    """

    library_description = "fake"
    manufacturer_id = "Acme"
    library_version = (1, 0)

    def __init__(self, manufacturer: str = "Acme") -> None:
        self.manufacturer_id = manufacturer
        self.initialized = False
        self.finalized = 0
        self.inside = 0
        self.fails = False
        self.may_be_finalized_under_calls = False

    @property
    def cryptoki(self) -> FakeLibrary:
        """Itself."""
        return self

    def initialize(self, arguments: str | None) -> bool:
        """C_Initialize."""
        if self.fails:
            raise DeviceError
        if self.initialized:
            return False
        self.initialized = True
        return True

    def finalize(self) -> None:
        """C_Finalize; undefined while a call is inside."""
        assert not self.inside or self.may_be_finalized_under_calls, "finalised under a call"
        self.initialized = False
        self.finalized += 1

    def read_info(self) -> None:
        """C_GetInfo."""
        assert self.initialized


def as_library(fake: FakeLibrary) -> Library:
    """The fake where a library is due."""
    return cast(Library, cast(Any, fake))
