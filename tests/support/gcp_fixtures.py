"""Fixtures for Google Cloud KMS."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.gcp_kms_server import GcpKmsServer


@pytest.fixture
def gcp_kms() -> Iterator[GcpKmsServer]:
    """Our Google Cloud KMS over gRPC."""
    from tests.support.gcp_kms_server import GcpKmsServer

    with GcpKmsServer() as server:
        yield server


@pytest.fixture(params=["grpc", "rest"])
def gcp_kms_both(request: pytest.FixtureRequest) -> Iterator[GcpKmsServer]:
    """Our Google Cloud KMS, over gRPC and over REST."""
    from tests.support.gcp_kms_server import GcpKmsServer
    from tests.support.gcp_kms_server_rest import GcpKmsRestServer

    with GcpKmsServer() if request.param == "grpc" else GcpKmsRestServer() as server:
        yield server
