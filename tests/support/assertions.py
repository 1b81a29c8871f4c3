"""Client keys and assertions made by PyJWT, so that no code of keystay vouches for itself."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}


@dataclass(frozen=True, repr=False)
class ClientKey:
    """A software key pair of a test client."""

    private_key: PrivateKeyTypes
    algorithm: str
    kid: str

    @classmethod
    def generate(cls, algorithm: str, kid: str = "key-1") -> ClientKey:
        """Generate a key for a JWS algorithm."""
        private_key: PrivateKeyTypes
        if algorithm.startswith(("RS", "PS")):
            private_key = rsa.generate_private_key(65537, 2048)
        elif algorithm == "EdDSA":
            private_key = ed25519.Ed25519PrivateKey.generate()
        else:
            private_key = ec.generate_private_key(_CURVES[algorithm])
        return cls(private_key, algorithm, kid)

    def __repr__(self) -> str:
        """Show the algorithm and key id."""
        return f"<ClientKey {self.algorithm} {self.kid!r}>"

    @property
    def jwk(self) -> dict[str, Any]:
        """The public JWK, made by PyJWT."""
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        members = json.loads(algorithm.to_jwk(self.private_key.public_key()))
        return {**members, "kid": self.kid, "use": "sig", "alg": self.algorithm}

    @property
    def jwks(self) -> dict[str, Any]:
        """The set that holds this key alone."""
        return {"keys": [self.jwk]}

    def sign(
        self,
        claims: dict[str, Any],
        *,
        header: dict[str, Any] | None = None,
        algorithm: str | None = None,
    ) -> str:
        """Make a compact JWT; a header member of None is left out."""
        fields: dict[str, Any] = {"kid": self.kid, **(header or {})}
        kept = {name: value for name, value in fields.items() if value is not None or name == "typ"}
        private_key: Any = self.private_key
        return jwt.encode(claims, private_key, algorithm or self.algorithm, headers=kept)


def good_claims(client_id: str, audience: str) -> dict[str, Any]:
    """Return the claims of an assertion that every server accepts."""
    return {
        "iss": client_id,
        "sub": client_id,
        "aud": audience,
        "exp": int(time.time()) + 240,
        "jti": uuid.uuid4().hex,
    }


def token_form(assertion: str, scope: str = "system/Patient.rs") -> dict[str, str]:
    """Return the form of a token request (SMART App Launch 2.2.0, Backend Services)."""
    return {
        "grant_type": "client_credentials",
        "scope": scope,
        "client_assertion_type": JWT_BEARER,
        "client_assertion": assertion,
    }
