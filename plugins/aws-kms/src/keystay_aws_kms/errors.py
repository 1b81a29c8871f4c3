"""Translates what boto3 raises, in one place, and tells what is worth another attempt.

What AWS wrote is never quoted: a refused signature comes back with the canonical request, and
that holds the session token. Only ARNs are taken from a message. The words are in `errors.toml`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from botocore import exceptions as sdk

from keystay.backends.error_texts import ErrorTexts
from keystay.errors import BackendUnavailableError, KeystayError

__all__ = ["TEXTS", "Call", "code_of", "is_retryable", "is_throttled", "too_late", "translate"]

TEXTS = ErrorTexts("keystay_aws_kms")
"""Every error of this plugin that is not about a setting."""

# KMS API reference, "Common errors" and those of Sign.
_THROTTLED = frozenset(
    ("ThrottlingException", "Throttling", "ThrottledException", "TooManyRequestsException",
     "RequestLimitExceeded", "RequestThrottled", "RequestThrottledException", "SlowDown",
     "LimitExceededException")
)  # fmt: skip
_TRANSIENT = frozenset(
    ("KeyUnavailableException", "DependencyTimeoutException", "KMSInternalException",
     "InternalFailure", "InternalServiceError", "ServiceUnavailable", "RequestTimeout",
     "RequestTimeoutException")
)  # fmt: skip
_DENIED = frozenset(("AccessDeniedException", "AccessDenied", "NotAuthorized", "OptInRequired"))
_EXPIRED = frozenset(("ExpiredTokenException", "ExpiredToken"))
_CREDENTIALS = _EXPIRED | frozenset(
    ("UnrecognizedClientException", "InvalidSignatureException", "SignatureDoesNotMatch",
     "IncompleteSignature", "IncompleteSignatureException", "InvalidClientTokenId",
     "MissingAuthenticationToken", "MissingAuthenticationTokenException", "RequestExpired",
     "InvalidAccessKeyId", "AuthFailure")
)  # fmt: skip
_LOST = (
    sdk.ConnectTimeoutError, sdk.ReadTimeoutError, sdk.ConnectionClosedError,
    sdk.ResponseStreamingError,
)  # fmt: skip
_NOT_IDEMPOTENT = frozenset(("CreateKey", "CreateAlias", "ScheduleKeyDeletion"))
# What their text may hold is anybody's guess: parameters, a credential process's output.
_NOT_CHAINED = (
    sdk.CredentialRetrievalError, sdk.TokenRetrievalError, sdk.ParamValidationError,
    sdk.PartialCredentialsError,
)  # fmt: skip
# What went wrong before KMS could answer; the first that fits counts.
_LOCAL: tuple[tuple[str, tuple[type[Exception], ...]], ...] = (
    ("region-missing", (sdk.NoRegionError,)),
    ("region-unknown",
     (sdk.InvalidRegionError, sdk.EndpointResolutionError, sdk.UnknownRegionError)),
    ("profile-unusable",
     (sdk.ProfileNotFound, sdk.ConfigNotFound, sdk.ConfigParseError, sdk.InvalidConfigError)),
    ("credentials-missing", (sdk.NoCredentialsError, sdk.NoAuthTokenError)),
    ("credentials-partial", (sdk.PartialCredentialsError,)),
    ("credentials-unavailable",
     (sdk.CredentialRetrievalError, sdk.TokenRetrievalError, sdk.SSOError,
      sdk.InfiniteLoopConfigError, sdk.MetadataRetrievalError)),
    ("tls", (sdk.SSLError,)),
    ("proxy", (sdk.ProxyConnectionError, sdk.InvalidProxiesConfigError)),
    ("unreachable", (sdk.EndpointConnectionError,)),
    ("lost", _LOST),
    ("not-sent", (sdk.BotoCoreError,)),
)  # fmt: skip
_OTHER_SERVICES = {
    "AssumeRole": "sts", "AssumeRoleWithWebIdentity": "sts", "AssumeRoleWithSAML": "sts",
    "GetSessionToken": "sts", "GetRoleCredentials": "sso", "CreateToken": "sso-oauth",
}  # fmt: skip
_RESOURCE = re.compile(r"on resource: (arn:aws[\w:/+=,.@*-]+)")
_PRINCIPAL = re.compile(r"User: (arn:aws[\w:/+=,.@-]+)")
_REQUEST_ID = re.compile(r"[0-9A-Za-z-]{1,64}")
_CODE = re.compile(r"[A-Za-z0-9_.]{1,64}")


@dataclass(frozen=True, slots=True)
class Call:
    """One call of KMS, for messages.

    Attributes:
        operation: As KMS calls it, such as `Sign`.
        key: The key it is about: an ARN, or what the user wrote.
        where: Region and endpoint, in words.
    """

    operation: str
    key: str
    where: str

    def error(self, situation: str, **more: object) -> KeystayError:
        """The error of this plugin for a situation of this call."""
        call: dict[str, Any] = {"operation": self.operation, "key": self.key, "where": self.where}
        return TEXTS.error(situation, **(call | more))


def code_of(error: Exception) -> str:
    """AWS's error code; "" when AWS did not answer."""
    if not isinstance(error, sdk.ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_throttled(error: Exception) -> bool:
    """Whether AWS asks for fewer requests."""
    return code_of(error) in _THROTTLED or _status_of(error) == 429


def is_retryable(error: Exception, operation: str) -> bool:
    """Whether another attempt can help, and cannot do what the first may have done twice."""
    code = code_of(error)
    if is_throttled(error):
        # What runs into a quota on keys or aliases will do so again.
        return not (code == "LimitExceededException" and operation in _NOT_IDEMPOTENT)
    if operation in _NOT_IDEMPOTENT:
        return False
    return code in _TRANSIENT or _status_of(error) >= 500 or isinstance(error, _LOST)


def translate(error: Exception, call: Call) -> KeystayError:
    """The error of ours for one that boto3 raised, to be raised outside any except block.

    It is chained where that shows no secret.
    """
    return error if isinstance(error, KeystayError) else _chained(_translated(error, call), error)


def too_late(error: Exception | None, call: Call, seconds: float, attempts: int) -> KeystayError:
    """The error for a deadline that has passed, to be raised as `translate`'s.

    Args:
        error: What the last attempt that was answered raised, or None.
        call: What was called.
        seconds: The deadline's length.
        attempts: How many there were.
    """
    tries = f"{attempts} attempt{'s' if attempts > 1 else ''}"
    if error is None or isinstance(error, _LOST):
        return _chained(call.error("no-answer", seconds=seconds, tries=tries), error)
    if is_throttled(error):
        request = _request(error)
        ours = call.error("throttled", seconds=seconds, tries=tries, request=request)
    else:
        known = _translated(error, call)
        ours = BackendUnavailableError(
            f"{known.message.removesuffix('.')}, for {seconds:g} s ({tries}).",
            cause=known.cause,
            hint=known.hint,
            code=known.code,
        )
    return _chained(ours, error)


def _chained(ours: KeystayError, error: Exception | None) -> KeystayError:
    if isinstance(error, _NOT_CHAINED) or (error is not None and code_of(error) in _CREDENTIALS):
        error = None
    ours.__cause__ = error
    return ours


def _translated(error: Exception, call: Call) -> KeystayError:
    if isinstance(error, sdk.ClientError):
        return _refusal(error, call)
    for situation, kinds in _LOCAL:
        if isinstance(error, kinds):
            return call.error(situation, error=type(error).__name__)
    return call.error("answer-unreadable", error=type(error).__name__)


def _refusal(error: sdk.ClientError, call: Call) -> KeystayError:
    """What AWS said no to."""
    code, said = code_of(error), str(error.response.get("Error", {}).get("Message", ""))
    request, operation = _request(error), str(error.operation_name or call.operation)
    if code in _DENIED:
        service = _OTHER_SERVICES.get(operation, "kms")
        who = found[1] if (found := _PRINCIPAL.search(said)) else "the caller"
        resource = _resource(said, service, call)
        action = f"{service}:{operation}"
        return call.error("denied", action=action, resource=resource, who=who, request=request)
    if code in _CREDENTIALS:
        is_clock = code == "RequestExpired" or "Signature expired" in said
        situation = (
            "clock" if is_clock or "not yet current" in said
            else "credentials-expired" if code in _EXPIRED
            else "credentials-refused"
        )  # fmt: skip
    elif f"aws-{code}" in TEXTS:
        situation = f"aws-{code}"
    else:
        is_passing = code in _TRANSIENT | _THROTTLED or _status_of(error) >= 500
        situation = "failing" if is_passing else "refused"
    word = code if _CODE.fullmatch(code) else "an unknown error"
    return call.error(situation, operation=operation, word=word, request=request)


def _resource(said: str, service: str, call: Call) -> str:
    """What access was denied to."""
    found = _RESOURCE.search(said)
    resource = found[1] if found else call.key
    if service != "kms" and not found:
        return "the role that the AWS profile assumes"
    # An alias is no resource that a key operation can be granted on.
    return f"the key behind {resource} ({call.where})" if "alias/" in resource else resource


def _request(error: Exception) -> str:
    """AWS's id of the request, for its support; in brackets."""
    if not isinstance(error, sdk.ClientError):
        return ""
    request = str(error.response.get("ResponseMetadata", {}).get("RequestId", ""))
    return f" (request {request})" if _REQUEST_ID.fullmatch(request) else ""


def _status_of(error: Exception) -> int:
    """HTTP status; 0 when AWS did not answer."""
    if not isinstance(error, sdk.ClientError):
        return 0
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status if isinstance(status, int) else 0
