"""What AWS's error codes mean, and which errors are worth another attempt."""

from __future__ import annotations

from botocore import exceptions as sdk

__all__ = [
    "CREDENTIALS",
    "DENIED",
    "EXPIRED",
    "LOST",
    "code_of",
    "is_passing",
    "is_retryable",
    "is_throttled",
    "status_of",
]

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
DENIED = frozenset(("AccessDeniedException", "AccessDenied", "NotAuthorized", "OptInRequired"))
EXPIRED = frozenset(("ExpiredTokenException", "ExpiredToken"))
CREDENTIALS = EXPIRED | frozenset(
    ("UnrecognizedClientException", "InvalidSignatureException", "SignatureDoesNotMatch",
     "IncompleteSignature", "IncompleteSignatureException", "InvalidClientTokenId",
     "MissingAuthenticationToken", "MissingAuthenticationTokenException", "RequestExpired",
     "InvalidAccessKeyId", "AuthFailure")
)  # fmt: skip
LOST = (
    sdk.ConnectTimeoutError, sdk.ReadTimeoutError, sdk.ConnectionClosedError,
    sdk.ResponseStreamingError,
)  # fmt: skip
_NOT_IDEMPOTENT = frozenset(("CreateKey", "CreateAlias", "ScheduleKeyDeletion"))


def code_of(error: Exception) -> str:
    """AWS's error code; "" when AWS did not answer."""
    if not isinstance(error, sdk.ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_throttled(error: Exception) -> bool:
    """Whether AWS asks for fewer requests."""
    return code_of(error) in _THROTTLED or status_of(error) == 429


def is_retryable(error: Exception, operation: str) -> bool:
    """Whether another attempt can help, and cannot do what the first may have done twice."""
    code = code_of(error)
    if is_throttled(error):
        # What runs into a quota on keys or aliases will do so again.
        return not (code == "LimitExceededException" and operation in _NOT_IDEMPOTENT)
    if operation in _NOT_IDEMPOTENT:
        return False
    return code in _TRANSIENT or status_of(error) >= 500 or isinstance(error, LOST)


def is_passing(error: Exception) -> bool:
    """Whether AWS answered that it fails, or is asked too much, right now."""
    return code_of(error) in _TRANSIENT | _THROTTLED or status_of(error) >= 500


def status_of(error: Exception) -> int:
    """HTTP status; 0 when AWS did not answer."""
    if not isinstance(error, sdk.ClientError):
        return 0
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status if isinstance(status, int) else 0
