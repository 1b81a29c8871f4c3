"""The same client assertion as each library's users write it."""

from __future__ import annotations

import time
import uuid
import warnings
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

CLIENT_ID = "f5a1b6f2-0a3c-4f43-9a63-0a1f37a4a5a1"
AUDIENCE = "https://ehr.example.org/oauth2/token"
KID = "2026-11-epic"


def claims() -> dict[str, Any]:
    """What SMART asks for."""
    return {
        "iss": CLIENT_ID,
        "sub": CLIENT_ID,
        "aud": AUDIENCE,
        "exp": int(time.time()) + 240,
        "jti": str(uuid.uuid4()),
    }


def assertions(key: Any, algorithm: str) -> dict[str, Callable[[], object]]:
    """Each peer's way to an assertion with a key loaded once, as its documentation shows it."""
    import jwt
    from jose import jwt as python_jose
    from joserfc import jwk as joserfc_jwk
    from joserfc import jwt as joserfc_jwt
    from jwskate import Jwk
    from requests_oauth2client import PrivateKeyJwt

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # authlib.jose is deprecated, and still what Authlib uses
        from authlib.jose import JsonWebKey, JsonWebToken

    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    header = {"alg": algorithm, "typ": "JWT", "kid": KID}
    authlib_key, authlib = JsonWebKey.import_key(pem), JsonWebToken([algorithm])
    joserfc_key = joserfc_jwk.import_key(pem, "RSA" if algorithm[0] in "RP" else "EC")
    skate = PrivateKeyJwt(
        client_id=CLIENT_ID,
        private_jwk=Jwk.from_cryptography_key(key, kid=KID, alg=algorithm),
        alg=algorithm,
    )
    return {
        "PyJWT": lambda: jwt.encode(claims(), key, algorithm, {"kid": KID}),
        "Authlib": lambda: authlib.encode(header, claims(), authlib_key),
        "joserfc": lambda: joserfc_jwt.encode(
            header, claims(), joserfc_key, algorithms=[algorithm]
        ),
        # Takes PEM text only, and parses it each time.
        "python-jose": lambda: python_jose.encode(claims(), pem.decode(), algorithm, {"kid": KID}),
        "requests-oauth2client": lambda: skate.client_assertion(AUDIENCE),
    }
