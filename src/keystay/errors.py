"""Every error keystay raises, and what to do about each.

A `KeystayError` carries four things: a stable `code` for programs and search engines,
what happened, the likely cause and the remedy. The exception of the library underneath,
if there was one, is chained as `__cause__`. No message holds a PIN, key, token or
assertion.

The hierarchy:

    KeystayError
    ├─ ConfigurationError            keystay.toml, environment, arguments
    │  ├─ KeyURIError                a key URI, with the position of the fault
    │  ├─ SecretError                a secret reference that cannot be resolved
    │  ├─ PolicyError                the key is not what the policy demands
    │  └─ ObserverError              an observer that cannot be used, or a required one that failed
    ├─ JWKError                      a JWK or JWK Set that cannot be used
    ├─ BackendError                  between keystay and the key
    │  ├─ BackendMissingError        no installed plugin claims the scheme
    │  ├─ BackendConflictError       two plugins claim the scheme
    │  ├─ BackendLoadError           the plugin is broken or speaks another API version
    │  ├─ KeyNotFoundError           no key, token or file answers to the URI
    │  ├─ KeyAmbiguousError          several do
    │  ├─ KeyUnusableError           it is there, but weak, of a wrong kind or forbidden to sign
    │  ├─ AlgorithmError             the key cannot do this algorithm
    │  ├─ LoginError                 the PIN or passphrase was refused, or will not be tried
    │  ├─ BackendUnavailableError    the device or service does not answer as it should
    │  │  └─ BackendTimeoutError     not within the deadline
    │  ├─ SignatureInvalidError      a signature that does not verify
    │  ├─ KeyChangedError            another key signed than the one opened
    │  └─ SignerClosedError          used after close()
    ├─ RotationError                 a step of a key's rotation that is not due, or out of order
    ├─ DiscoveryError                the SMART configuration is missing or unusable
    ├─ NetworkError                  no usable HTTP answer
    │  └─ NetworkTimeoutError        not within the deadline
    ├─ RateBudgetError               the client's own limit on token requests
    ├─ RegistrationError             the server refused to register, or to change, a client
    │  ├─ RegistrationServerError    it failed (HTTP 5xx)
    │  └─ RegistrationResponseError  it said yes, in a way that cannot be used
    └─ TokenError                    about the token exchange
       ├─ TokenRefusedError          the authorization server said no
       │  └─ TokenServerError        it failed (HTTP 5xx)
       └─ TokenResponseError         it said yes, in a way that cannot be used
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, TypedDict, Unpack

__all__ = [
    "AlgorithmError",
    "BackendConflictError",
    "BackendError",
    "BackendLoadError",
    "BackendMissingError",
    "BackendTimeoutError",
    "BackendUnavailableError",
    "ConfigurationError",
    "DiscoveryError",
    "JWKError",
    "KeyAmbiguousError",
    "KeyChangedError",
    "KeyNotFoundError",
    "KeyURIError",
    "KeyUnusableError",
    "KeystayError",
    "LoginError",
    "NetworkError",
    "NetworkTimeoutError",
    "ObserverError",
    "PolicyError",
    "RateBudgetError",
    "RegistrationError",
    "RegistrationResponseError",
    "RegistrationServerError",
    "RotationError",
    "SecretError",
    "SignatureInvalidError",
    "SignerClosedError",
    "TokenError",
    "TokenRefusedError",
    "TokenResponseError",
    "TokenServerError",
    "did_you_mean",
]


class Explanation(TypedDict, total=False):
    """What every error takes besides its message; see `KeystayError`."""

    cause: str | None
    hint: str | None
    code: str | None


class KeystayError(Exception):
    """The base of everything keystay raises on purpose.

    Args:
        message: What happened, in one sentence, without anything secret.
        cause: The likely cause, in one sentence.
        hint: The remedy: what the reader can do now.
        code: A more specific code than the class's own.

    Attributes:
        code: Stable, lower-case words joined by hyphens; safe to match on.
        message: What happened.
        cause: The likely cause, or None.
        hint: The remedy, or None.
    """

    code: str = "keystay-error"
    exit_code: ClassVar[int] = 3
    _details: ClassVar[tuple[str, ...]] = ()  # attributes that `to_dict` has as well

    def __init__(
        self,
        message: str,
        *,
        cause: str | None = None,
        hint: str | None = None,
        code: str | None = None,
    ) -> None:
        message = _printable(message)
        super().__init__(message)
        self.message = message
        self.cause = _printable(cause) if cause else None
        self.hint = _printable(hint) if hint else None
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        parts = [f"{self.message} [{self.code}]"]
        if self.cause:
            parts.append(f"Likely cause: {self.cause}")
        if self.hint:
            parts.append(f"Remedy: {self.hint}")
        return "\n".join(parts)

    def __reduce__(self) -> tuple[object, ...]:
        # Subclasses need keywords to be made, which Exception's own way does not know; an error
        # that cannot be unpickled breaks the process pool it comes out of.
        return _restore, (type(self), self.args, self.__dict__)

    def to_dict(self) -> dict[str, object]:
        """The error as plain data, for `--json` and for logs; absent parts are left out."""
        names = ("code", "message", "cause", "hint", *self._details)
        items = {name: getattr(self, name) for name in names}
        return {name: value for name, value in items.items() if value not in (None, "")}


class ConfigurationError(KeystayError):
    """Something the user wrote (file, environment, argument) cannot be used as it is."""

    code = "configuration-invalid"
    exit_code = 2


class KeyURIError(ConfigurationError):
    """A key URI that cannot be parsed or holds what it may not.

    Attributes:
        position: Offset of the fault in the URI, in characters from 0, or None.
    """

    code = "key-uri-invalid"

    def __init__(
        self,
        message: str,
        *,
        position: int | None = None,
        **explanation: Unpack[Explanation],
    ) -> None:
        if position is not None:
            message = f"{message.removesuffix('.')}, at character {position + 1} of the key URI."
        super().__init__(message, **explanation)
        self.position = position


class SecretError(ConfigurationError):
    """A secret reference names something that is missing, unsafe or unreadable."""

    code = "secret-unavailable"


class PolicyError(ConfigurationError):
    """The key is not what the policy demands; nothing it signed was used.

    Attributes:
        violations: Each violated rule: `rule`, `demanded`, `found` and `evidence`.
    """

    code = "policy-violated"
    exit_code = 3

    def __init__(
        self,
        message: str,
        *,
        violations: Sequence[Mapping[str, str]] = (),
        **explanation: Unpack[Explanation],
    ) -> None:
        super().__init__(message, **explanation)
        self.violations = tuple(violations)

    def to_dict(self) -> dict[str, object]:
        """As `KeystayError.to_dict`, with the violated rules."""
        return super().to_dict() | {"violations": [dict(v) for v in self.violations]}


class ObserverError(ConfigurationError):
    """An observer cannot be used, or one that is required has failed: nothing was handed out."""

    code = "observer-failed"


class JWKError(KeystayError):
    """A JWK or JWK Set that is malformed, private where public is due, or ambiguous."""

    code = "jwk-invalid"


class BackendError(KeystayError):
    """Something went wrong between keystay and the key."""

    code = "backend-failed"


class BackendMissingError(BackendError):
    """No installed distribution claims the URI's scheme."""

    code = "backend-missing"


class BackendConflictError(BackendError):
    """Two installed distributions claim the same scheme."""

    code = "backend-conflict"


class BackendLoadError(BackendError):
    """The plugin failed to import or speaks another version of the plugin interface."""

    code = "backend-broken"


class KeyNotFoundError(BackendError):
    """Nothing answers to the key URI."""

    code = "key-not-found"


class KeyAmbiguousError(BackendError):
    """Several keys answer to the key URI."""

    code = "key-ambiguous"


class KeyUnusableError(BackendError):
    """The key is there but must not or cannot sign assertions."""

    code = "key-unusable"


class AlgorithmError(BackendError):
    """The key, or the server, cannot do the algorithm asked for."""

    code = "algorithm-unsupported"


class LoginError(BackendError):
    """The PIN or passphrase was refused, or is not tried because that could lock the token."""

    code = "login-failed"


class BackendUnavailableError(BackendError):
    """The device or service does not answer as it should."""

    code = "backend-unavailable"


class BackendTimeoutError(BackendUnavailableError):
    """The device or service did not answer within the deadline."""

    code = "backend-timeout"


class SignatureInvalidError(BackendError):
    """A signature does not verify with the public key it should belong to."""

    code = "signature-invalid"


class KeyChangedError(BackendError):
    """Another key signed than the one that was opened."""

    code = "key-changed"


class SignerClosedError(BackendError):
    """The signer was used after `close()`."""

    code = "signer-closed"


class RotationError(KeystayError):
    """A step of a key's rotation was refused: it is out of order, or its time has not come."""

    code = "rotation-refused"


class DiscoveryError(KeystayError):
    """The server's SMART configuration is missing or cannot be used.

    Attributes:
        status: HTTP status, when it was that which said so.
        retry_after: Seconds the server asked to wait, or None.
    """

    code = "discovery-failed"
    exit_code = 4

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        **explanation: Unpack[Explanation],
    ) -> None:
        super().__init__(message, **explanation)
        self.status = status
        self.retry_after = retry_after


class NetworkError(KeystayError):
    """No usable HTTP answer came back.

    Attributes:
        status: HTTP status, when there was an answer at all.
    """

    code = "network-failed"
    exit_code = 4

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        **explanation: Unpack[Explanation],
    ) -> None:
        super().__init__(message, **explanation)
        self.status = status


class NetworkTimeoutError(NetworkError):
    """No complete answer within the deadline."""

    code = "network-timeout"


class RateBudgetError(KeystayError):
    """The client's own limit on token requests is reached; none was sent.

    Attributes:
        retry_after: Seconds until one can be.
    """

    code = "rate-budget-spent"
    exit_code = 4

    def __init__(
        self,
        message: str,
        *,
        retry_after: float,
        **explanation: Unpack[Explanation],
    ) -> None:
        super().__init__(message, **explanation)
        self.retry_after = retry_after


class RegistrationError(KeystayError):
    """The registration endpoint refused (RFC 7591 §3.2.2, RFC 7592 §2).

    Attributes:
        status: HTTP status.
        error: The server's `error` code, such as `invalid_client_metadata`; empty when it sent
            none.
        error_description: As sent, or None.
        correlation_id: The server's own id of this exchange, for its support desk.
    """

    code = "registration-refused"
    exit_code = 5
    _details = ("status", "error", "error_description", "correlation_id")

    def __init__(
        self,
        message: str,
        *,
        status: int,
        error: str = "",
        error_description: str | None = None,
        correlation_id: str | None = None,
        **explanation: Unpack[Explanation],
    ) -> None:
        super().__init__(message, **explanation)
        self.status = status
        self.error = error
        self.error_description = error_description
        self.correlation_id = correlation_id


class RegistrationServerError(RegistrationError):
    """The registration endpoint, or a gateway before it, failed (HTTP 5xx)."""

    code = "registration-server-error"
    exit_code = 4


class RegistrationResponseError(RegistrationError):
    """The registration response is not one that can be used."""

    code = "registration-response-invalid"
    exit_code = 4


class TokenError(KeystayError):
    """The token endpoint answered, and no usable token came of it.

    Attributes:
        status: HTTP status.
        correlation_id: The server's own id of this exchange, for its support desk.
    """

    code = "token-failed"
    exit_code = 5
    _details: ClassVar[tuple[str, ...]] = ("status", "correlation_id")

    def __init__(
        self,
        message: str,
        *,
        status: int,
        correlation_id: str | None = None,
        **explanation: Unpack[Explanation],
    ) -> None:
        super().__init__(message, **explanation)
        self.status = status
        self.correlation_id = correlation_id


class TokenRefusedError(TokenError):
    """The authorization server refused (RFC 6749 §5.2).

    Attributes:
        error: The server's `error` code, such as `invalid_client`; empty when it sent none.
        error_description: As sent, or None.
        error_uri: As sent, or None.
        retry_after: Seconds the server asked to wait, or None.
        correction: Seconds that were added to this machine's time to stamp the assertion.
        worked_today: Whether this client, key and endpoint were granted a token within a day.
    """

    code = "token-refused"
    _details = (
        *TokenError._details, "error", "error_description", "error_uri", "retry_after"
    )  # fmt: skip

    def __init__(
        self,
        message: str,
        *,
        status: int,
        error: str = "",
        error_description: str | None = None,
        error_uri: str | None = None,
        retry_after: float | None = None,
        correlation_id: str | None = None,
        correction: float = 0.0,
        worked_today: bool = False,
        **explanation: Unpack[Explanation],
    ) -> None:
        super().__init__(message, status=status, correlation_id=correlation_id, **explanation)
        self.error = error
        self.error_description = error_description
        self.error_uri = error_uri
        self.retry_after = retry_after
        self.correction = correction
        self.worked_today = worked_today


class TokenServerError(TokenRefusedError):
    """The authorization server, or a gateway before it, failed (HTTP 5xx)."""

    code = "token-server-error"
    exit_code = 4


class TokenResponseError(TokenError):
    """The token response is not one that can be used."""

    code = "token-response-invalid"
    exit_code = 4


def _printable(text: str) -> str:
    """What a server or a file wrote must not steer the reader's terminal."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def _restore(
    kind: type[KeystayError], args: tuple[object, ...], state: dict[str, object]
) -> KeystayError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the nearest known one, if any is near, and what is known."""
    names = tuple(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    nearest = f"Did you mean {close[0]!r}? " if close else ""
    return f"{nearest}Known: {', '.join(names) or 'none'}."
