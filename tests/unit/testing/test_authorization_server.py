"""The token endpoint around the assertion: the form, scopes, errors and what is remembered."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from keystay.testing import AuthorizationServer, ErrorStyle, Request, SmartTestServer
from tests.support.assertions import ClientKey, good_claims, token_form

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

CLIENT = "client"
KEY = ClientKey.generate("ES384")
Form = dict[str, Any]


@pytest.fixture
def server(smart_server: SmartTestServer) -> SmartTestServer:
    """The strict server, which knows one client."""
    smart_server.register(CLIENT, jwks=KEY.jwks)
    return smart_server


def form(server: SmartTestServer, scope: str = "system/Patient.rs") -> Form:
    """A form that is granted."""
    return token_form(KEY.sign(good_claims(CLIENT, server.token_endpoint)), scope)


def last_reason(server: SmartTestServer) -> str | None:
    """The reason of the last refusal."""
    refusal = server.log.last_refusal
    return refusal.reason if refusal else None


class TestForm:
    """RFC 6749 section 3.2, RFC 7521 section 4.2."""

    @pytest.mark.parametrize(
        ("change", "status", "error", "reason"),
        [
            pytest.param(
                lambda f: f.pop("grant_type"), 400, "invalid_request", "grant-type-missing",
                id="no grant_type",
            ),
            pytest.param(
                lambda f: f.update(grant_type=""), 400, "invalid_request", "grant-type-missing",
                id="empty grant_type",
            ),
            pytest.param(
                lambda f: f.update(grant_type="authorization_code"), 400, "unsupported_grant_type",
                "grant-type", id="other grant_type",
            ),
            pytest.param(
                lambda f: f.update(grant_type=["client_credentials"] * 2), 400, "invalid_request",
                "parameter-repeated", id="grant_type twice",
            ),
            pytest.param(
                lambda f: f.update(client_assertion=[f["client_assertion"]] * 2), 400,
                "invalid_request", "parameter-repeated", id="assertion twice",
            ),
            pytest.param(
                lambda f: f.update(scope=[f["scope"]] * 2), 400, "invalid_request",
                "parameter-repeated", id="scope twice",
            ),
            pytest.param(
                lambda f: f.pop("client_assertion"), 401, "invalid_client", "assertion-missing",
                id="no assertion",
            ),
            pytest.param(
                lambda f: f.pop("client_assertion_type"), 401, "invalid_client", "assertion-type",
                id="no assertion type",
            ),
            pytest.param(
                lambda f: f.update(client_assertion_type="jwt-bearer"), 401, "invalid_client",
                "assertion-type", id="other assertion type",
            ),
            pytest.param(
                lambda f: f.update(client_secret="x" * 8), 400, "invalid_request",
                "several-authentications", id="client_secret",
            ),
            pytest.param(
                lambda f: f.update(client_id="other"), 401, "invalid_client", "client-id-differs",
                id="other client_id",
            ),
            pytest.param(
                lambda f: f.pop("scope"), 400, "invalid_scope", "scope-missing", id="no scope"
            ),
        ],
    )  # fmt: skip
    def test_refused(
        self,
        http: httpx.Client,
        server: SmartTestServer,
        change: Callable[[Form], object],
        status: int,
        error: str,
        reason: str,
    ) -> None:
        """One wrong parameter is refused as RFC 6749 section 5.2 says."""
        fields = form(server)
        change(fields)
        response = http.post(server.token_endpoint, data=fields)

        assert (status, error) == (response.status_code, response.json()["error"])
        assert reason == last_reason(server)
        assert "no-store" == response.headers["cache-control"]

    @pytest.mark.parametrize(
        "extra",
        [
            pytest.param({"client_id": CLIENT}, id="same client_id"),
            pytest.param({"unknown": "x"}, id="unknown parameter"),
            pytest.param({"client_secret": ""}, id="empty parameter"),
        ],
    )
    def test_accepted(self, http: httpx.Client, server: SmartTestServer, extra: Form) -> None:
        """What the RFCs tell servers to accept or ignore."""
        response = http.post(server.token_endpoint, data=form(server) | extra)

        assert 200 == response.status_code

    @pytest.mark.parametrize(
        ("request_arguments", "status", "reason"),
        [
            pytest.param({"method": "GET"}, 405, "method", id="GET"),
            pytest.param({"method": "PUT"}, 405, "method", id="PUT"),
            pytest.param({"method": "DELETE"}, 405, "method", id="DELETE"),
            pytest.param({"json": {"grant_type": "x"}}, 400, "content-type", id="JSON"),
            pytest.param({"content": b"grant_type=x"}, 400, "content-type", id="no content type"),
            pytest.param({"params": {"scope": "x"}}, 400, "query", id="query"),
            pytest.param({"headers": {"Authorization": "Basic eA=="}}, 401,
                         "authorization-header", id="Basic"),
            pytest.param({"data": {"scope": "x" * 65_536}}, 413, "body-too-large", id="64 KiB"),
            pytest.param({"data": {f"p{n}": "x" for n in range(21)}}, 400, "form-malformed",
                         id="21 parameters"),
            pytest.param(
                {
                    "content": b"grant_type",
                    "headers": {"Content-Type": "application/x-www-form-urlencoded"},
                },
                400, "form-malformed", id="no form",
            ),
            pytest.param(
                {
                    "content": b"scope=%ff",
                    "headers": {"Content-Type": "application/x-www-form-urlencoded"},
                },
                400, "form-malformed", id="no UTF-8",
            ),
        ],
    )  # fmt: skip
    def test_request_refused(
        self,
        http: httpx.Client,
        server: SmartTestServer,
        request_arguments: dict[str, Any],
        status: int,
        reason: str,
    ) -> None:
        """What comes before the form is checked too."""
        response = http.request(
            **{"method": "POST", "url": server.token_endpoint} | request_arguments
        )

        assert (status, reason) == (response.status_code, last_reason(server))

    def test_challenge(self, http: httpx.Client, server: SmartTestServer) -> None:
        """Whoever tries an Authorization header is challenged with its scheme."""
        response = http.post(
            server.token_endpoint, data=form(server), headers={"Authorization": "Basic eA=="}
        )

        assert 'Basic realm="keystay"' == response.headers["www-authenticate"]

    def test_charset(self, http: httpx.Client, server: SmartTestServer) -> None:
        """A charset parameter of the content type is no fault."""
        content_type = "application/x-www-form-urlencoded; charset=UTF-8"
        response = http.post(
            server.token_endpoint, data=form(server), headers={"Content-Type": content_type}
        )

        assert 200 == response.status_code


class TestScope:
    """What is asked for, allowed and granted."""

    @pytest.mark.parametrize(
        "scope",
        [
            "system/*.rs",
            "system/Patient.rs system/Observation.rs",
            "system/Patient.read",
            "system/*.*",
            "system/*.cruds",
            "system/Observation.rs?category=laboratory",
            "system/Observation.rs?category=laboratory&status=final",
            "athena/service/Athenanet.MDP.*",
        ],
    )
    def test_granted(self, http: httpx.Client, server: SmartTestServer, scope: str) -> None:
        """Scopes of both versions, and known foreign ones, are granted as asked for."""
        server.authorization_server.extra_scopes = ("athena/service/Athenanet.MDP.*",)
        response = http.post(server.token_endpoint, data=form(server, scope))

        assert (200, scope) == (response.status_code, response.json().get("scope"))

    @pytest.mark.parametrize(
        ("scope", "reason"),
        [
            ("system/Patient.sr", "scope-syntax"),
            ("system/Patient.rr", "scope-syntax"),
            ("system/Patient.", "scope-syntax"),
            ("system/Patient", "scope-syntax"),
            ("system/patient.rs", "scope-syntax"),
            ("system/Patient.x", "scope-syntax"),
            ("system/Patient.read?x=1", "scope-syntax"),
            ("system/Patient.rs?", "scope-syntax"),
            ("system/Patient.rs  system/Observation.rs", "scope-syntax"),
            (" system/Patient.rs", "scope-syntax"),
            ("system/Patient.rs,system/Observation.rs", "scope-syntax"),
            ('system/Patient.rs"', "scope-syntax"),
            ("openid", "scope-syntax"),
            ("patient/Patient.rs", "scope-context"),
            ("user/*.rs", "scope-context"),
            ("system/Patient.rs patient/Patient.rs", "scope-context"),
        ],
    )
    def test_malformed(
        self, http: httpx.Client, server: SmartTestServer, scope: str, reason: str
    ) -> None:
        """A malformed scope fails the whole request."""
        response = http.post(server.token_endpoint, data=form(server, scope))

        assert (400, "invalid_scope") == (response.status_code, response.json()["error"])
        assert reason == last_reason(server)

    @pytest.mark.parametrize(
        ("allowed", "asked", "granted"),
        [
            ("system/*.rs", "system/Patient.rs", "system/Patient.rs"),
            ("system/*.rs", "system/Patient.read", "system/Patient.read"),
            ("system/*.read", "system/Patient.r", "system/Patient.r"),
            ("system/Patient.rs", "system/Patient.rs system/Observation.rs", "system/Patient.rs"),
            ("system/*.rs", "system/Patient.cruds", None),
            ("system/Patient.rs", "system/*.rs", None),
            ("system/Observation.rs?category=x", "system/Observation.rs", None),
            (
                "system/Observation.rs",
                "system/Observation.rs?category=x",
                "system/Observation.rs?category=x",
            ),
        ],
    )
    def test_allowed(
        self,
        http: httpx.Client,
        server: SmartTestServer,
        allowed: str,
        asked: str,
        granted: str | None,
    ) -> None:
        """A client gets what it is registered for, and an error when that is nothing."""
        server.register(CLIENT, jwks=KEY.jwks, scope=allowed)
        response = http.post(server.token_endpoint, data=form(server, asked))

        assert granted == response.json().get("scope")
        assert (granted is None) == (last_reason(server) == "scope-not-allowed")


class TestErrors:
    """How much a client is told."""

    @pytest.mark.parametrize(
        ("style", "expected"),
        [
            pytest.param(
                ErrorStyle.DESCRIBED,
                {"error_description": "no client is registered as 'nobody'"},
                id="described",
            ),
            pytest.param(ErrorStyle.BARE, {"error_description": None}, id="bare"),
            pytest.param(
                ErrorStyle.LINKED,
                {"error_uri": "urn:keystay:testing:error:client-unknown"},
                id="linked",
            ),
        ],
    )
    def test_styles(
        self,
        http: httpx.Client,
        server: SmartTestServer,
        style: ErrorStyle,
        expected: dict[str, str | None],
    ) -> None:
        """Vendors' ways of saying no; the log knows the reason all the same."""
        server.authorization_server.error_style = style
        assertion = KEY.sign(good_claims("nobody", server.token_endpoint))
        response = http.post(server.token_endpoint, data=token_form(assertion))

        assert {"error": "invalid_client", **expected} == response.json()
        refusal = server.log.last_refusal
        assert refusal is not None
        assert "client-unknown" == refusal.reason
        assert refusal.correlation_id == response.headers.get("x-correlation-id")
        assert (refusal.correlation_id is not None) == (style is ErrorStyle.LINKED)

    def test_correlation_header(self, http: httpx.Client) -> None:
        """A correlation header has the name that was asked for, on success too."""
        with SmartTestServer(correlation_header="X-Request-Id") as server:
            server.register(CLIENT, jwks=KEY.jwks)
            response = http.post(server.token_endpoint, data=form(server))

            assert server.log.events[-1].correlation_id == response.headers["x-request-id"]

    def test_description_is_printable(self, http: httpx.Client, server: SmartTestServer) -> None:
        """What a client claims cannot break out of the description (RFC 6749 section 5.2)."""
        name = 'a"b\\c\r\nd\u00e9' + "x" * 1000
        assertion = KEY.sign(good_claims(name, server.token_endpoint))
        response = http.post(server.token_endpoint, data=token_form(assertion))
        description = response.json()["error_description"]

        assert "no client is registered as 'a'b?c??d?xxx" == description[:40]
        assert 500 == len(description)


class TestTokens:
    """What the server remembers of a token."""

    def test_introspect(self, http: httpx.Client, server: SmartTestServer) -> None:
        """A token is known with its client and scope until it is revoked."""
        token = http.post(server.token_endpoint, data=form(server)).json()["access_token"]
        granted = server.authorization_server.introspect(token)

        assert granted is not None
        assert (CLIENT, "system/Patient.rs") == (granted.client_id, granted.scope)
        server.revoke_tokens()
        assert server.authorization_server.introspect(token) is None

    def test_expires(self, http: httpx.Client) -> None:
        """A token ends with its lifetime, by the server's clock."""
        ahead = 0.0
        with SmartTestServer(clock=lambda: time.time() + ahead, token_lifetime=60) as server:
            server.register(CLIENT, jwks=KEY.jwks)
            grant = http.post(server.token_endpoint, data=form(server)).json()

            assert 60 == grant["expires_in"]
            assert server.authorization_server.introspect(grant["access_token"])
            ahead = 61.0
            assert server.authorization_server.introspect(grant["access_token"]) is None

    def test_clock_that_is_behind(self, http: httpx.Client) -> None:
        """A server whose clock is slow finds an assertion of five minutes too long."""
        with SmartTestServer(clock=lambda: time.time() - 90) as server:
            server.register(CLIENT, jwks=KEY.jwks)
            response = http.post(server.token_endpoint, data=form(server))

            assert (401, "exp-too-far") == (response.status_code, last_reason(server))


class TestSecrecy:
    """Nothing secret is shown."""

    def test_log(self, http: httpx.Client, server: SmartTestServer) -> None:
        """The log has claims and names of parameters; no assertion, token or credential."""
        fields = form(server)
        token = http.post(server.token_endpoint, data=fields).json()["access_token"]
        http.get(
            f"{server.fhir_base_url}/Patient/123", headers={"Authorization": f"Bearer {token}"}
        )
        shown = repr(server.log.events)

        assert token not in shown
        assert fields["client_assertion"] not in shown
        assert fields["client_assertion"].rpartition(".")[2] not in shown
        granted, read = server.log.events
        assert tuple(fields) == granted.parameters
        assert granted.claims is not None
        assert CLIENT == granted.claims["iss"]
        assert "Bearer [redacted]" == read.headers["authorization"]

    def test_reprs(self) -> None:
        """Servers, requests and replies show no content."""
        server = AuthorizationServer("https://127.0.0.1/token")
        request = Request("POST", "/token?secret", {"authorization": "secret"}, b"secret")
        client = server.register(CLIENT, jwks=KEY.jwks)
        reply = server.handle(request)

        for shown in (server, request, client, reply):
            assert "secret" not in repr(shown)
        assert "<AuthorizationServer https://127.0.0.1/token, 1 clients>" == repr(server)
        assert "<Request POST /token, 6 bytes>" == repr(request)
        assert "<RegisteredClient 'client', keys inline>" == repr(client)
