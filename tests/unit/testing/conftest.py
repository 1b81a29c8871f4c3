"""What the tests of the strict server share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """One client, so that connections are reused."""
    with httpx.Client() as client:
        yield client
