"""Registration that goes wrong: every refusal explained, no secret echoed, nothing sent twice."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

import keystay
from keystay.backends.secrets import Secret
from keystay.errors import (
    NetworkError,
    NetworkTimeoutError,
    RegistrationError,
    RegistrationServerError,
)
from keystay.testing import Reply
from tests.support.raw_server import RawServer, answer, read_request, unserved_port
from tests.support.registration import INITIAL, INSECURE, PATH, register
from tests.support.secrets_watch import WATCH

if TYPE_CHECKING:
    from collections.abc import Callable

    from keystay.signer import Signer
    from keystay.testing import SmartTestServer

pytestmark = pytest.mark.usefixtures("no_environment")


def refusal(document: Any, status: int = 400, **headers: str) -> Reply:
    """An error as RFC 7591 §3.2.2 has it."""
    return Reply.json(document, status=status, headers=headers)


def error(code: str, description: str | None = None) -> dict[str, Any]:
    """The body of one."""
    return {"error": code, "error_description": description}


HTML = Reply(403, {"Content-Type": "text/html"}, b"<html>Sign in</html>")
REFUSALS = {
    "redirect-uri": (refusal(error("invalid_redirect_uri", "one is needed")), "redirect", None),
    "metadata": (refusal(error("invalid_client_metadata", "bad scope")), "scope", None),
    "statement": (refusal(error("invalid_software_statement")), "new one", None),
    "unapproved": (refusal(error("unapproved_software_statement")), "approve", None),
    "scope": (refusal(error("invalid_scope")), "other form", None),
    "request": (refusal(error("invalid_request")), "RFC 7591", None),
    "unknown": (refusal(error("out_of_luck", "no")), "support", None),
    "200-with-error": (refusal(error("invalid_scope"), 200), "other form", None),
    "token": (
        refusal(error("invalid_token"), 401, **{"WWW-Authenticate": 'Bearer realm="r"'}),
        "new one", "registration-token-refused",
    ),
    "bare-401": (Reply(401), "new one", "registration-token-refused"),
    "token-400": (refusal(error("invalid_token"), 400), "new one", "registration-token-refused"),
    "html-403": (HTML, "administrators", None),
    "html-400": (Reply(400, {}, b"<html>"), "proxy", None),
    "not-found": (Reply(404, {}, b"nothing"), "portal", None),
    "method": (refusal({}, 405), "portal", None),
    "busy": (refusal({}, 429, **{"Retry-After": "30"}), "Wait 30 s", None),
    "conflict": (refusal({"message": "exists"}, 409), "support", None),
}  # fmt: skip


@pytest.mark.parametrize(("reply", "remedy", "code"), REFUSALS.values(), ids=REFUSALS)
def test_refusal(
    smart_server: SmartTestServer, pem_signer: Signer, reply: Reply, remedy: str, code: str | None
) -> None:
    """Each with its cause and remedy, the server's words kept, exit code 5; asked once."""
    smart_server.script(PATH, [reply])
    with pytest.raises(RegistrationError) as caught:
        register(smart_server, pem_signer)
    found = caught.value
    assert reply.status == found.status
    assert (code or "registration-refused", 5) == (found.code, found.exit_code)
    assert remedy in f"{found.cause} {found.hint}"
    assert found.cause
    assert f"HTTP {reply.status}" in found.message
    for said in (found.error, found.error_description):
        assert (said or "") in found.message
    assert 1 == len(smart_server.log.of("scripted"))
    WATCH.check(f"{found} {found!r} {found.to_dict()}", "an error")


def test_no_token_at_all(smart_server: SmartTestServer, pem_signer: Signer) -> None:
    """A server that wants one, and none was given: another remedy."""
    smart_server.registration_server.initial_access_token = INITIAL
    with pytest.raises(RegistrationError) as caught:
        register(smart_server, pem_signer, secrets=None)
    assert "registration-token-missing" == caught.value.code
    assert "--initial-token" in (caught.value.hint or "")
    assert "WWW-Authenticate" in caught.value.message


def test_kept_to_the_letter_and_harmless(smart_server: SmartTestServer, pem_signer: Signer) -> None:
    """error and description verbatim; the token they repeat, and control characters, are not."""
    description = f"token {INITIAL} is\x1b[2J not “ours”"
    smart_server.script(
        PATH,
        [
            refusal(
                error("invalid_token", description),
                401,
                **{"WWW-Authenticate": 'Bearer realm="r"', "X-Request-Id": "r-9"},
            )
        ],
    )
    with pytest.raises(RegistrationError) as caught:
        register(smart_server, pem_signer)
    found = caught.value
    assert "token [removed] is [2J not “ours”" == found.error_description
    assert 'WWW-Authenticate: Bearer realm="r"' in found.message
    assert {
        "error": "invalid_token",
        "error_description": found.error_description,
        "status": 401,
        "correlation_id": "r-9",
    }.items() <= found.to_dict().items()
    WATCH.check(f"{found} {found.to_dict()}", "an error")


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_server_failed(smart_server: SmartTestServer, pem_signer: Signer, status: int) -> None:
    """The client may be registered all the same: it is not tried again, and the remedy says so."""
    smart_server.script(PATH, [Reply(status, {}, b"<html>")])
    with pytest.raises(RegistrationServerError, match=f"HTTP {status}") as caught:
        register(smart_server, pem_signer)
    assert 4 == caught.value.exit_code
    assert "console" in (caught.value.hint or "")
    assert 1 == len(smart_server.log.of("scripted"))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect(smart_server: SmartTestServer, pem_signer: Signer, status: int) -> None:
    """Neither keys nor the token are sent on to another URL."""
    elsewhere = smart_server.publish("/elsewhere", {"client_id": "c"})
    smart_server.script(PATH, [Reply.redirect(elsewhere, status=status)])
    with pytest.raises(NetworkError, match="redirected") as caught:
        register(smart_server, pem_signer)
    assert "registration-redirect" == caught.value.code
    assert () == smart_server.log.of("document")


MANAGEMENT = {
    "deleted": (401, "registration-token-refused", "register anew"),
    "forbidden": (403, "registration-refused", "portal"),
    "gone": (404, "registration-refused", "portal"),
    "method": (405, "registration-refused", "portal"),
}


@pytest.mark.parametrize("act", ["read", "update", "delete"])
@pytest.mark.parametrize(("status", "code", "remedy"), MANAGEMENT.values(), ids=MANAGEMENT)
def test_management_refused(
    smart_server: SmartTestServer,
    pem_signer: Signer,
    act: str,
    status: int,
    code: str,
    remedy: str,
) -> None:
    """RFC 7592 leaves each part to the server: what it means, and where to go instead."""
    made = register(smart_server, pem_signer)
    smart_server.script(f"{PATH}/{made.client_id}", [refusal({}, status)])
    calls: dict[str, Callable[[], object]] = {
        "read": lambda: keystay.read_client(made, **INSECURE),
        "update": lambda: keystay.update_client(made, {}, **INSECURE),
        "delete": lambda: keystay.delete_client(made, **INSECURE),
    }
    with pytest.raises(RegistrationError) as caught:
        calls[act]()
    assert (code, 5) == (caught.value.code, caught.value.exit_code)
    assert remedy in (caught.value.hint or "")
    WATCH.check(str(caught.value), "an error")


class TestConnection:
    """No answer, half an answer, another answer."""

    def arguments(self, origin: str, signer: Signer) -> dict[str, Any]:
        """With the endpoint given, so that only the registration is on the wire."""
        return {"keys": [signer], "registration_endpoint": f"{origin}/reg", **INSECURE}

    def test_never_answers(
        self, nothing_left: None, raw_server: Callable[..., RawServer], pem_signer: Signer
    ) -> None:
        """Within the deadline, and the remedy knows that it may have been registered."""
        server = raw_server()
        began = time.monotonic()
        with pytest.raises(NetworkTimeoutError, match="registration") as caught:
            keystay.register_client(**self.arguments(server.origin, pem_signer), timeout=0.5)
        assert time.monotonic() - began < 5
        assert "may have registered the client all the same" in (caught.value.hint or "")
        assert 1 == server.connections

    async def test_never_answers_async(
        self, nothing_left: None, raw_server: Callable[..., RawServer], pem_signer: Signer
    ) -> None:
        """The same, asynchronously."""
        server = raw_server()
        with pytest.raises(NetworkTimeoutError) as caught:
            await keystay.register_client_async(
                **self.arguments(server.origin, pem_signer), timeout=0.5
            )
        assert "may have registered the client all the same" in (caught.value.hint or "")

    def test_nobody_there(self, pem_signer: Signer) -> None:
        """Refused by the machine."""
        with unserved_port() as port, pytest.raises(NetworkError) as caught:
            keystay.register_client(**self.arguments(f"http://127.0.0.1:{port}", pem_signer))
        assert "network-refused" == caught.value.code
        assert "may have registered" not in (caught.value.hint or "")

    def test_cut_off(self, raw_server: Callable[..., RawServer], pem_signer: Signer) -> None:
        """The request arrived and the answer did not: nobody knows, and that is said."""
        server = raw_server(lambda server, connection: read_request(server, connection) and None)
        with pytest.raises(NetworkError) as caught:
            keystay.register_client(**self.arguments(server.origin, pem_signer))
        assert "may have registered" in (caught.value.hint or "")
        assert 1 == len(server.requests)

    def test_update_cut_off(self, raw_server: Callable[..., RawServer], pem_signer: Signer) -> None:
        """An update may have replaced the management token: read before anything else."""
        server = raw_server(lambda server, connection: read_request(server, connection) and None)
        made = keystay.Registration(
            "c-1", f"{server.origin}/reg", {}, f"{server.origin}/reg/c-1", Secret("m-12345678")
        )
        with pytest.raises(NetworkError) as caught:
            keystay.update_client(made, {}, **INSECURE)
        assert "replaced the management token: read it" in (caught.value.hint or "")
        assert 1 == len(server.requests)

    def test_too_long(self, raw_server: Callable[..., RawServer], pem_signer: Signer) -> None:
        """An endless answer is cut off."""
        server = raw_server(answer(b" " * 400_000))
        with pytest.raises(NetworkError) as caught:
            keystay.register_client(**self.arguments(server.origin, pem_signer))
        assert "network-too-large" == caught.value.code

    @pytest.mark.parametrize(
        "body", [b"<html>Sign in</html>", b"[]", b"", b"\xff\xfe", b"[" * 9999]
    )
    def test_success_that_is_not_json(
        self, raw_server: Callable[..., RawServer], pem_signer: Signer, body: bytes
    ) -> None:
        """A login page with status 200 registers nobody."""
        server = raw_server(answer(body))
        with pytest.raises(RegistrationError, match="not a JSON object") as caught:
            keystay.register_client(**self.arguments(server.origin, pem_signer))
        assert "registration-response-invalid" == caught.value.code
