"""The form in which a token client sends its scopes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from keystay.errors import ConfigurationError
from keystay.testing import Reply

if TYPE_CHECKING:
    from keystay.testing import SmartTestServer
    from tests.support.token_clients import MakeClient

WRITTEN = "system/Patient.rs system/Observation.read"
CASES = {
    "default": ({}, ["permission-v1"], WRITTEN),
    "v1": ({"scope_style": "v1"}, [], "system/Patient.read system/Observation.read"),
    "v2": ({"scope_style": "v2"}, [], "system/Patient.rs system/Observation.rs"),
    "auto-v1": (
        {"scope_style": "auto"}, ["permission-v1"], "system/Patient.read system/Observation.read",
    ),
    "auto-v2": (
        {"scope_style": "auto"}, ["permission-v2"], "system/Patient.rs system/Observation.rs",
    ),
    "auto-both": ({"scope_style": "auto"}, ["permission-v1", "permission-v2"], WRITTEN),
    "auto-neither": ({"scope_style": "auto"}, [], WRITTEN),
}  # fmt: skip


def advertise(server: SmartTestServer, capabilities: list[str]) -> None:
    """Have the server advertise these capabilities once."""
    document = httpx.get(server.smart_configuration_url).json()
    changed = {**document, "capabilities": ["client-confidential-asymmetric", *capabilities]}
    server.script(server.smart_configuration_url, [Reply.json(changed)])


@pytest.mark.parametrize(("settings", "capabilities", "sent"), CASES.values(), ids=CASES)
def test_sent(
    registered: SmartTestServer,
    make_client: MakeClient,
    settings: dict[str, str],
    capabilities: list[str],
    sent: str,
) -> None:
    """As written unless told; `auto` follows a server that advertises one version alone."""
    advertise(registered, capabilities)
    token = make_client(registered, scope=WRITTEN, **settings).request_token()
    assert (sent, sent, ()) == (token.requested_scope, token.scope, token.missing_scopes)
    assert sent == registered.log.events[-1].scope


def test_the_same_in_other_words_is_not_missing(
    registered: SmartTestServer, make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that answers in version 1 granted what was asked for, and no warning is logged."""
    reply = {"access_token": "a" * 20, "token_type": "bearer", "expires_in": 60}
    registered.script(registered.token_endpoint, [Reply.json({**reply, "scope": "system/*.read"})])
    token = make_client(registered, scope="system/Patient.rs").request_token()
    assert ("system/*.read", ()) == (token.scope, token.missing_scopes)
    assert [] == [r for r in caplog.records if r.levelname == "WARNING" and "granted" in r.msg]


def test_not_expressible(registered: SmartTestServer, make_client: MakeClient) -> None:
    """What version 1 cannot say is never widened: an error, before anything is signed."""
    client = make_client(registered, scope_style="v1")
    with pytest.raises(ConfigurationError, match="cannot be written as version 1") as caught:
        client.request_token(scope="system/Patient.r")
    assert "scope-not-expressible" == caught.value.code
    assert "'system/Patient.read'" in (caught.value.hint or "")
    assert [] == [e for e in registered.log.events if e.kind == "token"]


def test_auto_needs_discovery(registered: SmartTestServer, make_client: MakeClient) -> None:
    """With a token endpoint configured there are no capabilities to go by."""
    with pytest.raises(ConfigurationError, match="capabilities"):
        make_client(registered, scope_style="auto", token_endpoint=registered.token_endpoint)
    with pytest.raises(ConfigurationError, match="it is 'v3'; expected one of"):
        make_client(registered, scope_style="v3")
