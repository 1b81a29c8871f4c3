"""A small FHIR R4 server behind bearer tokens: enough to show that a token opens what it should.

It reads one Patient and searches a few Observations, describes itself in a CapabilityStatement,
and publishes the SMART configuration that leads a client to the token endpoint. Errors are
OperationOutcomes (FHIR R4 section 3.1.0.1.4) with the challenge of RFC 6750 section 3.
"""

from __future__ import annotations

import copy
import json
import urllib.parse
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from keystay.testing.messages import Reply, Request
from keystay.testing.refusals import RequestRefusedError
from keystay.testing.scope_rules import permits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystay.testing.authorization_server import AuthorizationServer
    from keystay.testing.event_log import EventLog

_FHIR_JSON = "application/fhir+json"
_WELL_KNOWN = "/.well-known/smart-configuration"

_DATA = json.loads(files("keystay.testing").joinpath("fhir_data.json").read_text("utf-8"))
RESOURCES: Mapping[str, Mapping[str, Any]] = _DATA["resources"]
"""The resources served, by type and id."""


class FHIRServer:
    """Answers FHIR requests whose bearer token the authorization server granted.

    Args:
        base_url: The FHIR base URL, without a trailing slash.
        authorization_server: Who knows which tokens are good.
        log: Where each request is recorded; the authorization server's when None.
        resources: What to serve, by type and id.
        registration_endpoint: Advertised when given.
    """

    def __init__(
        self,
        base_url: str,
        authorization_server: AuthorizationServer,
        *,
        log: EventLog | None = None,
        resources: Mapping[str, Mapping[str, Any]] = RESOURCES,
        registration_endpoint: str | None = None,
    ) -> None:
        """Serve the resources given."""
        self.base_url = base_url
        self.resources = resources
        self.log = authorization_server.log if log is None else log
        self._authorization_server = authorization_server
        self._registration_endpoint = registration_endpoint
        self._base_path = urllib.parse.urlsplit(base_url).path

    def __repr__(self) -> str:
        """Show the base URL."""
        return f"<FHIRServer {self.base_url}>"

    @property
    def smart_configuration(self) -> dict[str, Any]:
        """The SMART configuration (SMART App Launch 2.2.0, "FHIR Authorization Endpoint")."""
        endpoint = self._registration_endpoint
        return {
            "token_endpoint": self._authorization_server.token_endpoint,
            **({} if endpoint is None else {"registration_endpoint": endpoint}),
            "token_endpoint_auth_methods_supported": ["private_key_jwt"],
            "token_endpoint_auth_signing_alg_values_supported": list(
                self._authorization_server.algorithm_names
            ),
            "grant_types_supported": ["client_credentials"],
            "scopes_supported": [
                "system/*.rs",
                *(f"system/{name}.rs" for name in self.resources),
                *self._authorization_server.extra_scopes,
            ],
            "capabilities": [
                "client-confidential-asymmetric",
                "permission-v1",
                "permission-v2",
            ],
            "code_challenge_methods_supported": ["S256"],
        }

    def handle(self, request: Request) -> Reply:
        """Answer one request below the base URL, and record it."""
        path = request.path.removeprefix(self._base_path)
        kind = "discovery" if path == _WELL_KNOWN else "fhir"

        def answer(details: dict[str, Any]) -> Reply:
            _check_method(request)
            reply = self._public(path)
            if reply is None:
                client_id, scope = self._authorize(request)
                details |= {"client_id": client_id, "scope": scope}
                reply = self._answer(path, request, scope)
            return reply

        return self.log.answer(kind, request, answer, _operation_outcome)

    def _public(self, path: str) -> Reply | None:
        """Answer what needs no token."""
        if path == _WELL_KNOWN:
            return Reply.json(self.smart_configuration)
        if path == "/metadata":
            return Reply.json(self._capability_statement(), media_type=_FHIR_JSON)
        return None

    def _authorize(self, request: Request) -> tuple[str, str]:
        """Return the client and scope of the bearer token (RFC 6750 sections 2.1 and 3)."""
        if "access_token" in request.query:
            raise RequestRefusedError("token-in-url", "an access token does not belong in a URL")
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _unauthorized("token-missing", "a bearer token is required", "")
        granted = self._authorization_server.introspect(token.strip())
        if granted is None:
            raise _unauthorized(
                "token-invalid",
                "the access token is unknown, revoked or expired",
                ', error="invalid_token"',
            )
        return granted.client_id, granted.scope

    def _answer(self, path: str, request: Request, scope: str) -> Reply:
        """Read one resource or search for some."""
        parts = path.strip("/").split("/")
        if parts[0] not in self.resources or len(parts) > 2:
            raise RequestRefusedError(
                "not-found", f"there is nothing at {path}", error="not-found", status=404
            )
        permission = "r" if len(parts) == 2 else "s"
        if not permits(scope, parts[0], permission):
            raise RequestRefusedError(
                "insufficient-scope",
                f"'{scope}' does not allow system/{parts[0]}.{permission}",
                error="forbidden",
                status=403,
                headers={"WWW-Authenticate": 'Bearer realm="keystay", error="insufficient_scope"'},
            )
        if len(parts) == 1:
            return Reply.json(self._search(parts[0], request), media_type=_FHIR_JSON)
        resource = self.resources[parts[0]].get(parts[1])
        if resource is None:
            raise RequestRefusedError(
                "not-found", f"there is no {path.strip('/')}", error="not-found", status=404
            )
        return Reply.json(resource, media_type=_FHIR_JSON)

    def _search(self, resource_type: str, request: Request) -> dict[str, Any]:
        """Search by `_id`, and by `patient` or `subject`; other parameters are ignored."""
        query = request.query
        wanted = {f"Patient/{value.removeprefix('Patient/')}" for value in query.get("patient", [])}
        wanted |= set(query.get("subject", []))
        identifiers = query.get("_id")
        found = [
            resource
            for identifier, resource in self.resources[resource_type].items()
            if (identifiers is None or identifier in identifiers)
            and (not wanted or resource.get("subject", {}).get("reference") in wanted)
        ]
        return {
            "resourceType": "Bundle",
            "type": "searchset",
            "total": len(found),
            "link": [{"relation": "self", "url": f"{self.base_url}/{resource_type}"}],
            "entry": [
                {
                    "fullUrl": f"{self.base_url}/{resource_type}/{resource['id']}",
                    "resource": resource,
                    "search": {"mode": "match"},
                }
                for resource in found
            ],
        }

    def _capability_statement(self) -> dict[str, Any]:
        statement: dict[str, Any] = copy.deepcopy(_DATA["capability_statement"])
        statement["implementation"]["url"] = self.base_url
        interactions = [{"code": "read"}, {"code": "search-type"}]
        statement["rest"][0]["resource"] = [
            {"type": name, "interaction": interactions} for name in self.resources
        ]
        return statement


def _check_method(request: Request) -> None:
    if request.method != "GET":
        raise RequestRefusedError(
            "method",
            f"{request.method} is not supported here",
            error="not-supported",
            status=405,
            headers={"Allow": "GET"},
        )


def _unauthorized(reason: str, sentence: str, challenge: str) -> RequestRefusedError:
    return RequestRefusedError(
        reason,
        sentence,
        error="login",
        status=401,
        headers={"WWW-Authenticate": f'Bearer realm="keystay"{challenge}'},
    )


def _operation_outcome(refusal: RequestRefusedError) -> Reply:
    code = "invalid" if refusal.error == "invalid_request" else refusal.error
    document = {
        "resourceType": "OperationOutcome",
        "issue": [{"severity": "error", "code": code, "diagnostics": refusal.sentence}],
    }
    return Reply.json(
        document, status=refusal.status, headers=refusal.headers, media_type=_FHIR_JSON
    )
