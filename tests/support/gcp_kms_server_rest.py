"""The same service over HTTP and JSON, as Google transcodes it, for `transport=rest`.

https://cloud.google.com/kms/docs/reference/rest. Plain HTTP: Google's client is told so for a
loopback address only.
"""

from __future__ import annotations

import http.server
import json
import re
import threading
import urllib.parse
from typing import Any

from google.protobuf import json_format

from tests.support.gcp_kms_server import METHODS, GcpKmsServer, KmsService, Refused

_KEY = r"projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/:]+"
_ROUTES = (
    ("GET", rf"/v1/(?P<name>{_KEY}/cryptoKeyVersions/\d+)", "GetCryptoKeyVersion"),
    ("GET", rf"/v1/(?P<name>{_KEY}/cryptoKeyVersions/\d+)/publicKey", "GetPublicKey"),
    ("POST", rf"/v1/(?P<name>{_KEY}/cryptoKeyVersions/\d+):asymmetricSign", "AsymmetricSign"),
    ("GET", rf"/v1/(?P<parent>{_KEY})/cryptoKeyVersions", "ListCryptoKeyVersions"),
    ("GET", r"/v1/(?P<parent>.*/keyRings/[^/]+)/cryptoKeys", "ListCryptoKeys"),
    ("POST", r"/v1/(?P<parent>.*/keyRings/[^/]+)/cryptoKeys", "CreateCryptoKey"),
)
_HTTP = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


class GcpKmsRestServer(GcpKmsServer):
    """The service over HTTP on a loopback port of its own."""

    transport = "rest"

    def __init__(self, service: KmsService | None = None) -> None:
        self.service = service or KmsService()
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.service = self.service
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop."""
        self.service.close()
        self._http.shutdown()
        self._http.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    service: KmsService

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is nothing to report."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    wbufsize = 1 << 16  # one packet for an answer

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""

    def _answer(self, verb: str) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        try:
            method, request = self._request(verb, body)
            reply = METHODS[method][1].to_json(self.server.service.handle(method, request))
            status = 200
        except Refused as refused:
            status = _HTTP[refused.status]
            proto = json_format.MessageToDict(refused.proto())
            reply = json.dumps({"error": {**proto, "code": status, "status": refused.status}})
        content = reply.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _request(self, verb: str, body: bytes) -> tuple[str, Any]:
        if "Authorization" in self.headers:
            raise Refused("UNAUTHENTICATED", "A credential was sent in the clear.")
        path, _, query_text = self.path.partition("?")
        query = dict(urllib.parse.parse_qsl(query_text))
        for route_verb, pattern, method in _ROUTES:
            found = re.fullmatch(pattern, urllib.parse.unquote(path))
            if route_verb != verb or found is None:
                continue
            kind = METHODS[method][0]
            if method == "CreateCryptoKey":
                request = kind(crypto_key_id=query["cryptoKeyId"])
                crypto_key = type(request.crypto_key).from_json(body.decode())
                request.crypto_key = crypto_key
            elif body:
                request = kind.from_json(body.decode())
            else:
                request = kind()
            for name, value in found.groupdict().items():
                setattr(request, name, value)
            if "pageSize" in query:
                request.page_size = int(query["pageSize"])
            if "pageToken" in query:
                request.page_token = query["pageToken"]
            return method, request
        raise Refused("NOT_FOUND", f"There is no {verb} {path}.")
