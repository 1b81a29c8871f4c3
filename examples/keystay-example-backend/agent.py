"""A signing agent: two keys in a process of its own, reached over a Unix socket.

usage: agent.py SOCKET TOKEN-FILE

It stands for the device or service that a backend is written for. One line of JSON asks, one line
answers; every request carries the token.
"""

from __future__ import annotations

import base64
import hmac
import json
import socketserver
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

KEYS = {
    "epic": (ec.generate_private_key(ec.SECP384R1()), "ES384", hashes.SHA384()),
    "lab": (ec.generate_private_key(ec.SECP256R1()), "ES256", hashes.SHA256()),
}


def answer(request: dict[str, Any], token: str) -> dict[str, Any]:
    if not hmac.compare_digest(str(request.get("token")), token):
        return {"error": "denied"}
    if request.get("key") not in KEYS:
        return {"error": "no-such-key"}
    private_key, algorithm, hashed = KEYS[request["key"]]
    public = private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    identity = {"id": key_id(public)}
    if request["do"] == "describe":
        return identity | {
            "public_key": base64.b64encode(public).decode(),
            "algorithms": [algorithm],
        }
    digest = base64.b64decode(request["digest"])
    if request["algorithm"] != algorithm or len(digest) != hashed.digest_size:
        return {"error": "bad-request"}
    signature = private_key.sign(digest, ec.ECDSA(utils.Prehashed(hashed)))
    return identity | {"signature": base64.b64encode(signature).decode()}


def key_id(public: bytes) -> str:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(public)
    return digest.finalize().hex()[:32]


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        line = self.rfile.readline(1 << 16)
        if line:
            reply = answer(json.loads(line), TOKEN)
            self.wfile.write(json.dumps(reply).encode() + b"\n")


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


if __name__ == "__main__":
    TOKEN = Path(sys.argv[2]).read_text().strip()
    with Server(sys.argv[1], Handler) as server:
        server.serve_forever()
