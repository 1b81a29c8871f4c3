"""pytest fixtures for tests of SMART clients.

Load them with `pytest_plugins = ["keystay.testing.pytest_plugin"]` in a `conftest.py`. They do not
load by themselves: installing keystay changes nothing about anybody's test run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keystay.testing.server import SmartTestServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def keystay_smart_server() -> Iterator[SmartTestServer]:
    """A strict SMART server on loopback, fresh for each test."""
    with SmartTestServer() as server:
        yield server
