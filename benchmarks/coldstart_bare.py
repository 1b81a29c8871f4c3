"""A token with httpx and PyJWT, as somebody writes it who has a PEM key and needs nothing else.

python coldstart_bare.py PEM_FILE TOKEN_ENDPOINT [FHIR_BASE_URL]
"""

from __future__ import annotations

import sys
import time
import uuid
from pathlib import Path

import httpx
import jwt


def main() -> None:
    key = Path(sys.argv[1]).read_text()
    endpoint = sys.argv[2]
    if len(sys.argv) > 3:
        found = httpx.get(f"{sys.argv[3]}/.well-known/smart-configuration", timeout=10)
        endpoint = found.raise_for_status().json()["token_endpoint"]
    claims = {
        "iss": "nightly-export",
        "sub": "nightly-export",
        "aud": endpoint,
        "exp": int(time.time()) + 240,
        "jti": str(uuid.uuid4()),
    }
    form = {
        "grant_type": "client_credentials",
        "scope": "system/*.rs",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": jwt.encode(claims, key, "ES384", {"kid": "2026-11"}),
    }
    answer = httpx.post(endpoint, data=form, timeout=10).raise_for_status()
    print(answer.json()["access_token"])


if __name__ == "__main__":
    main()
