"""Registering at the strict server, for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keystay
from keystay.testing import Reply
from tests.support.secrets_watch import WATCH

if TYPE_CHECKING:
    from keystay.signer import Signer
    from keystay.testing import SmartTestServer

INSECURE: Any = {"allow_insecure_loopback": True}
INITIAL = WATCH.add("the initial access token", "initial-access-token-0123456789")
PATH = "/oauth2/register"


def register(server: SmartTestServer, signer: Signer, **changes: Any) -> keystay.Registration:
    """Register with an initial access token, unless changed; `base` is the FHIR base URL."""
    settings: dict[str, Any] = {
        "keys": [signer],
        "secrets": lambda reference, purpose: INITIAL,
        **INSECURE,
        **changes,
    }
    return keystay.register_client(settings.pop("base", server.fhir_base_url), **settings)


def answer(server: SmartTestServer, document: Any, status: int = 201, **more: Any) -> None:
    """Have the endpoint answer this once."""
    server.script(PATH, [Reply.json(document, status=status, **more)])
