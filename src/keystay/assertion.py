"""The client assertion: the JWT that authenticates a client to the token endpoint.

SMART App Launch 2.2, "Client Authentication: Asymmetric", on top of RFC 7523 §3 and RFC 7515.
`typ` stays `JWT` and `aud` stays the token URL, whatever newer OAuth drafts say: SMART
servers require it.
"""

from __future__ import annotations

import base64
import json
import os
import time
from binascii import b2a_base64
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from keystay.errors import ConfigurationError

if TYPE_CHECKING:
    from keystay.signer import Signer

__all__ = ["DEFAULT_LIFETIME", "MAX_LIFETIME", "ClientAssertion", "decode_unverified"]

DEFAULT_LIFETIME = 240
"""Seconds an assertion lives: below the limit by enough for clocks that differ."""

MAX_LIFETIME = 300
"""SMART's limit, in seconds."""

# How far iat, when asked for, lies in the past: servers with slow clocks refuse the future.
_IAT_BACKDATED = 10

_OWN_HEADERS = frozenset(("alg", "kid", "typ", "jku", "crit", "b64"))
_OWN_CLAIMS = frozenset(("iss", "sub", "aud", "exp", "jti", "iat", "nbf"))
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


class ClientAssertion:
    """Builds client assertions, each fresh.

    Args:
        client_id: Issued at registration; becomes `iss` and `sub`.
        signer: Signs, and gives `alg` and `kid`.
        lifetime: Seconds from stamping to `exp`; 1 to 300.
        jku: URL of the registered JWK Set, sent in the header when given. It must equal what
            was registered.
        issued_at: Whether to send `iat`, 10 s in the past (less when `exp` would be more than
            300 s after it: Epic refuses that). `nbf` is never sent.
        extra_headers: Further header members; those keystay sets are refused.
        extra_claims: Further claims; those keystay sets are refused.
        clock: The time to stamp, as Unix time in seconds; default this machine's.

    Raises:
        ConfigurationError: An argument is out of range or would replace what keystay sets.
    """

    def __init__(
        self,
        *,
        client_id: str,
        signer: Signer,
        lifetime: int = DEFAULT_LIFETIME,
        jku: str | None = None,
        issued_at: bool = False,
        extra_headers: Mapping[str, Any] | None = None,
        extra_claims: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not isinstance(client_id, str) or not client_id:
            raise ConfigurationError(
                "The client_id is empty.", hint="Use the one that registration returned."
            )
        if isinstance(lifetime, bool) or not isinstance(lifetime, int):
            raise ConfigurationError(f"The assertion lifetime {lifetime!r} is not whole seconds.")
        if not 1 <= lifetime <= MAX_LIFETIME:
            raise ConfigurationError(
                f"An assertion lifetime of {lifetime} s is not allowed.",
                cause=f"SMART servers refuse more than {MAX_LIFETIME} s.",
                hint=f"Leave it at {DEFAULT_LIFETIME}: that leaves room for clocks that differ.",
            )
        _refuse(extra_headers, _OWN_HEADERS, "header member")
        _refuse(extra_claims, _OWN_CLAIMS, "claim")
        self.client_id = client_id
        self.signer = signer
        self._lifetime = lifetime
        self._clock = clock
        self._issued_at = issued_at
        self._backdated = min(_IAT_BACKDATED, MAX_LIFETIME - lifetime)
        header = {"alg": signer.algorithm, "typ": "JWT", "kid": signer.kid}
        if jku is not None:
            header["jku"] = jku
        self._header = _encode(_json({**header, **(extra_headers or {})})) + b"."
        self._claims = dict(extra_claims or {})
        self._template: tuple[str, bytes, bytes] | None = None

    def __repr__(self) -> str:
        return f"<ClientAssertion client_id={self.client_id!r} signer={self.signer!r}>"

    def build(self, audience: str, *, timeout: float | None = None) -> str:
        """A new assertion.

        Args:
            audience: The token endpoint's URL, exactly as the request is posted to.
            timeout: Seconds for the signature; default the signer's.

        Returns:
            A compact JWS. It is a credential: do not log it.

        Raises:
            KeystayError: As `Signer.sign`.
        """
        return self.build_traced(audience, timeout=timeout)[0]

    async def build_async(self, audience: str, *, timeout: float | None = None) -> str:
        """As `build`, with the event loop free meanwhile; see `Signer.sign_stamped_async`."""
        return (await self.build_traced_async(audience, timeout=timeout))[0]

    def build_traced(
        self, audience: str, *, timeout: float | None = None
    ) -> tuple[str, str | None]:
        """As `build`, and the backend's id of the request that signed it, or None."""
        message, signature, request_id = self.signer.sign_stamped(
            partial(self._signing_input, audience), timeout=timeout, about=_about
        )
        return _compact(message, signature), request_id

    async def build_traced_async(
        self, audience: str, *, timeout: float | None = None
    ) -> tuple[str, str | None]:
        """As `build_traced` and `build_async`."""
        message, signature, request_id = await self.signer.sign_stamped_async(
            partial(self._signing_input, audience), timeout=timeout, about=_about
        )
        return _compact(message, signature), request_id

    def _signing_input(self, audience: str) -> bytes:
        """Header and claims, stamped now. Only the last few members change between calls."""
        template = self._template
        if template is None or template[0] != audience:
            self._template = template = (audience, *self._render(audience))
        now = int(self._clock())
        moment = b"%d" % (now + self._lifetime)
        if self._issued_at:
            moment += b',"iat":%d' % (now - self._backdated)
        # 24 random bytes: 192 bits as 32 characters.
        jti = b2a_base64(os.urandom(24), newline=False).translate(_URL_SAFE)
        return template[1] + _encode(template[2] + moment + b',"jti":"' + jti + b'"}')

    def _render(self, audience: str) -> tuple[bytes, bytes]:
        """What comes before the time: encoded as far as whole groups go, and what is left."""
        if not isinstance(audience, str) or not audience:
            raise ConfigurationError(
                "The audience is not a URL.", hint="It is the token endpoint's, as one string."
            )
        claims = {"iss": self.client_id, "sub": self.client_id, "aud": audience, **self._claims}
        text = _json(claims)[:-1] + b',"exp":'
        whole = len(text) - len(text) % 3  # three bytes are four characters of base64
        return self._header + _encode(text[:whole]), text[whole:]


def decode_unverified(assertion: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a compact JWS, for people to read; nothing is verified.

    Raises:
        ConfigurationError: It is not a compact JWS.
    """
    try:
        first, second, _ = assertion.split(".")
        header, claims = (
            json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
            for part in (first, second)
        )
    except (ValueError, RecursionError):
        header = claims = None
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise ConfigurationError("This is not a compact JWS.")
    return header, claims


def _about(message: bytes) -> dict[str, Any]:
    """What observers are told of an assertion: as `AssertionSigned` has it."""
    claims = decode_unverified(f"{message.decode()}.")[1]
    return {"client_id": claims["iss"], "aud": claims["aud"], "jti": claims["jti"]}


def _compact(message: bytes, signature: bytes) -> str:
    return (message + b"." + _encode(signature)).decode("ascii")


def _encode(data: bytes) -> bytes:
    return b2a_base64(data, newline=False).rstrip(b"=").translate(_URL_SAFE)


def _json(value: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(
            value, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        ).encode()
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            "An extra header member or claim cannot be written as JSON.",
            hint="Use strings, numbers, booleans, lists and dictionaries.",
        ) from error


def _refuse(extra: Mapping[str, Any] | None, own: frozenset[str], what: str) -> None:
    if taken := sorted(own & (extra or {}).keys()):
        raise ConfigurationError(
            f"The {what} {taken[0]!r} is keystay's to set.",
            hint="Use the argument made for it (client_id, lifetime, jku, issued_at, "
            "the signer's kid), or leave it out.",
            code="assertion-member-reserved",
        )
