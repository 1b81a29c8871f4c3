"""What a test of a SMART Backend Services client needs, on loopback and without a vendor's sandbox.

The authorization server here refuses whatever the specifications allow it to refuse, and says
precisely why: in its log, and in `error_description` unless it is told to be as terse as a vendor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keystay.testing.authorization_server import AuthorizationServer, ErrorStyle, GrantedToken
from keystay.testing.event_log import Event, EventLog
from keystay.testing.fhir_server import FHIRServer
from keystay.testing.messages import Reply, Request
from keystay.testing.refusals import RequestRefusedError
from keystay.testing.registered_client import RegisteredClient
from keystay.testing.server import SmartTestServer

if TYPE_CHECKING:
    from keystay.testing.signer_contract import SignerContract as SignerContract

__all__ = [
    "AuthorizationServer",
    "ErrorStyle",
    "Event",
    "EventLog",
    "FHIRServer",
    "GrantedToken",
    "RegisteredClient",
    "Reply",
    "Request",
    "RequestRefusedError",
    "SignerContract",
    "SmartTestServer",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # pytest and the verifiers load only for those who test a backend.
        if name != "SignerContract":
            raise AttributeError(f"module 'keystay.testing' has no attribute {name!r}")
        import pytest

        pytest.register_assert_rewrite("keystay.testing.contract")
        from keystay.testing.signer_contract import SignerContract

        return SignerContract
