"""What observers are told: facts for an audit, and never an assertion, token, PIN or key.

Names and fields are stable. A later version may add to them.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

import msgspec

__all__ = [
    "EVENTS",
    "AssertionSigned",
    "ClockSkewed",
    "Event",
    "MessageSigned",
    "RequestRetried",
    "SignerOpened",
    "TokenFailed",
    "TokenInvalidated",
    "TokenIssued",
    "TokenRenewed",
]


def _now() -> datetime:
    return datetime.now(UTC)


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", gc=False):
    """What all events have in common.

    Attributes:
        time: When it was over, in UTC.
        outcome: `ok`, or the code of the error it ended with; see `keystay.errors`.
        duration: Seconds it took; 0.0 for what takes no time.
        level: The level it is logged at.
        is_vital: Whether what it tells of is withheld when a required observer of it fails.
    """

    level: ClassVar[int] = logging.INFO
    is_vital: ClassVar[bool] = False

    time: datetime = msgspec.field(default_factory=_now)
    outcome: str = "ok"
    duration: float = 0.0

    @property
    def name(self) -> str:
        """Its stable name, such as `token-issued`."""
        return str(self.__struct_config__.tag)

    def to_dict(self) -> dict[str, Any]:
        """The event as plain data; `time` as RFC 3339 text."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found

    def to_json(self) -> bytes:
        """The event as one line of JSON, in UTF-8, without the line's end."""
        return msgspec.json.encode(self)

    def __str__(self) -> str:
        """The event as one line for people."""
        told = self.to_dict()
        del told["event"], told["time"]
        return f"{self.name} " + " ".join(f"{k}={v}" for k, v in told.items() if v is not None)


class SignerOpened(Event, frozen=True, kw_only=True, tag="signer-opened"):
    """A key was opened, or could not be.

    Attributes:
        key: The key URI, without what may be secret in it.
        backend: The URI's scheme.
        kid: Key id in headers and JWK Sets; this and the rest only when it was opened.
        key_id: The backend's own id of the key.
        algorithm: The JWS algorithm.
        custody: Where the key is: `in-process`, `other-process`, `remote-service`, `hardware`.
        evidence: How we know: `asserted`, `reported`, `attested`.
    """

    key: str
    backend: str
    kid: str | None = None
    key_id: str | None = None
    algorithm: str | None = None
    custody: str | None = None
    evidence: str | None = None


class _Signature(Event, frozen=True, kw_only=True):
    level = logging.DEBUG
    is_vital = True

    backend: str
    kid: str
    key_id: str
    algorithm: str
    custody: str
    request_id: str | None = None


class AssertionSigned(_Signature, frozen=True, kw_only=True, tag="assertion-signed"):
    """A client assertion was signed, or could not be.

    Attributes:
        client_id: Its `iss` and `sub`.
        aud: Its audience: the token endpoint.
        jti: Its id; None when it came to none.
        backend: Scheme of the key URI, or "" for a key that was opened without one.
        kid: Key id in the header.
        key_id: The backend's own id of the key.
        algorithm: The JWS algorithm.
        custody: Where the key is.
        request_id: The backend's id of the request, for its logs, or None.
    """

    client_id: str
    aud: str
    jti: str | None = None


class MessageSigned(_Signature, frozen=True, kw_only=True, tag="message-signed"):
    """Something other than one of our assertions was signed: by `Signer.sign`, `as_private_key()`.

    Attributes: As for `AssertionSigned`, less those of the assertion.
    """


class _OfClient(Event, frozen=True, kw_only=True):
    client_id: str
    fhir_base_url: str


class _Token(_OfClient, frozen=True, kw_only=True):
    backend: str
    kid: str
    algorithm: str
    custody: str
    aud: str | None = None
    jti: str | None = None
    request_id: str | None = None
    status: int | None = None
    correlation_id: str | None = None


class TokenIssued(_Token, frozen=True, kw_only=True, tag="token-issued"):
    """The authorization server issued an access token.

    Attributes:
        client_id: To whom.
        fhir_base_url: For which server.
        scope: The scope granted.
        expires_in: Seconds it lives.
        aud: The token endpoint.
        jti: The id of the assertion it was given for; `AssertionSigned` has the same.
        kid: Key id of that assertion, and `backend`, `algorithm`, `custody` of its key.
        request_id: The backend's id of the request that signed it, or None.
        status: HTTP status.
        correlation_id: The server's own id of the exchange, or None.
    """

    is_vital = True

    scope: str
    expires_in: float


class TokenFailed(_Token, frozen=True, kw_only=True, tag="token-failed"):
    """A token request brought no token. `outcome` is the error's code.

    Attributes: As for `TokenIssued`, as far as it came; and
        error: The server's OAuth error, such as `invalid_client`, or None.
    """

    error: str | None = None


class TokenRenewed(_OfClient, frozen=True, kw_only=True, tag="token-renewed"):
    """A token client got a token to keep, or failed to.

    Attributes:
        client_id: Whose.
        fhir_base_url: At which server.
        source: `server`, or `store` when another process had got it.
        expires_in: Seconds it lives from now; None when there is none.
        held: Seconds the token kept before still lives; 0.0 when there was none.
    """

    source: Literal["server", "store"] = "server"
    expires_in: float | None = None
    held: float = 0.0


class RequestRetried(_OfClient, frozen=True, kw_only=True, tag="request-retried"):
    """A token request failed and will be made once more. `outcome` is the failure's code.

    Attributes:
        client_id: Whose.
        fhir_base_url: At which server.
        attempt: Which attempt failed, from 1.
        pause: Seconds until the next.
    """

    attempt: int
    pause: float


class ClockSkewed(_OfClient, frozen=True, kw_only=True, tag="clock-skewed"):
    """The server's clock and this machine's differ by so much that assertions may be refused.

    Attributes:
        client_id: Whose.
        fhir_base_url: At which server.
        offset: Seconds the server is ahead; negative when it is behind.
        corrected: Whether assertions are stamped with the server's time from now on.
    """

    offset: float
    corrected: bool


class TokenInvalidated(_OfClient, frozen=True, kw_only=True, tag="token-invalidated"):
    """A token was dropped before its time: a FHIR server answered 401, or the caller said so.

    Attributes:
        client_id: Whose.
        fhir_base_url: At which server.
        expires_in: Seconds it would still have lived.
    """

    expires_in: float


EVENTS: tuple[type[Event], ...] = (
    SignerOpened,
    AssertionSigned,
    MessageSigned,
    TokenIssued,
    TokenFailed,
    TokenRenewed,
    RequestRetried,
    ClockSkewed,
    TokenInvalidated,
)
"""Every event."""
