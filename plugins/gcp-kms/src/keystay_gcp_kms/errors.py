"""What a failure of Google's libraries means to the user.

gRPC, REST, the credentials and the network each raise classes of their own. Here each becomes an
error of keystay's family that names the resource and says what to do; the original is chained.
Nothing else leaves this plugin. What the credentials' library says is never repeated: it may
quote what a token endpoint answered. The words are in `errors.toml`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import requests
from google.api_core import exceptions as api
from google.auth import exceptions as auth
from google.protobuf.message import Error as ProtobufError

from keystay.backends.error_texts import ErrorTexts
from keystay.errors import KeystayError

__all__ = [
    "FAILURES",
    "TEXTS",
    "Step",
    "is_retryable",
    "said",
    "status_of",
    "translate",
    "wait_asked",
]

TEXTS = ErrorTexts("keystay_gcp_kms")
"""Every error of this plugin that is not about a setting."""

FAILURES = (
    api.GoogleAPIError,
    auth.GoogleAuthError,
    requests.RequestException,
    ProtobufError,
    OSError,
    ValueError,
)
"""Everything Google's libraries raise, by their documentation and as seen."""

_RETRYABLE = frozenset(
    ("UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "RESOURCE_EXHAUSTED", "ABORTED")
)
# https://cloud.google.com/apis/design/errors#handling_errors, for answers that name no status.
_BY_HTTP = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_CREDENTIALS = "CREDENTIALS"
_SITUATIONS = {
    "UNAUTHENTICATED": "credentials-refused",
    "RESOURCE_EXHAUSTED": "throttled",
    "DEADLINE_EXCEEDED": "too-slow",
}
_FROM_PLUGIN = "Getting metadata from plugin failed"
_NO_NAME = re.compile(r"(?i)dns|name resolution|name or service|resolve|nodename")
_NO_ANSWER = re.compile(
    r"(?i)failed to connect|connection (?:refused|reset|aborted|timed out)|socket closed|"
    r"network is unreachable|no route to host|max retries exceeded|handshake|certificate"
)
_REQUEST = re.compile(r"(?:GET|POST) https?://\S+: ")
_TOKEN = re.compile(r"(?i)\bbearer\s+\S+|\bya29\.\S+|\beyJ\S+")
_LONGEST = 300


class Step(NamedTuple):
    """What is being done, for messages.

    Attributes:
        what: Such as `signing`.
        resource: The name of what it is done to.
        permission: The IAM permission it takes.
        roles: Predefined roles that have it, the smallest first.
    """

    what: str
    resource: str
    permission: str
    roles: str

    def __str__(self) -> str:
        return f"{self.what[:1].upper()}{self.what[1:]} failed for {self.resource}"


def status_of(error: BaseException) -> str:
    """Google's canonical status (`NOT_FOUND`), or what comes nearest to it."""
    if isinstance(error, auth.GoogleAuthError):
        return _CREDENTIALS
    if isinstance(error, requests.Timeout | TimeoutError | api.RetryError):
        return "DEADLINE_EXCEEDED"
    if isinstance(error, requests.ConnectionError | OSError) and not isinstance(
        error, requests.HTTPError | requests.exceptions.InvalidURL
    ):
        return "UNAVAILABLE"
    if not isinstance(error, api.GoogleAPICallError):
        return "UNKNOWN"
    if _FROM_PLUGIN in (error.message or ""):
        return _CREDENTIALS
    if isinstance(error.response, requests.Response):
        return _status_in(error.response) or _BY_HTTP.get(error.response.status_code, "UNKNOWN")
    if error.grpc_status_code is not None:
        return str(error.grpc_status_code.name)
    return _BY_HTTP.get(int(error.code or 0), "UNKNOWN")


def is_retryable(error: BaseException) -> bool:
    """Whether the same call can succeed a moment later."""
    status = status_of(error)
    if status == _CREDENTIALS:
        return isinstance(error, auth.GoogleAuthError) and bool(error.retryable)
    return status in _RETRYABLE


def wait_asked(error: BaseException) -> float:
    """Seconds Google asks to wait (google.rpc.RetryInfo), or 0.0."""
    for detail in getattr(error, "details", None) or ():
        delay = getattr(detail, "retry_delay", None)
        if delay is not None:
            return float(delay.seconds) + float(delay.nanos) / 1e9
    return 0.0


def said(error: BaseException) -> str:
    """What Google said, as far as it may be shown: one line, without anything like a token."""
    if not isinstance(error, api.GoogleAPICallError) or status_of(error) == _CREDENTIALS:
        return ""
    lines = str(error.message or "").strip().splitlines()
    # REST errors begin with the request's verb and URL; the step says that already.
    text = _TOKEN.sub("***", _REQUEST.sub("", lines[0])) if lines else ""
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def translate(error: BaseException, step: Step, *, seconds: float) -> KeystayError:
    """The error of keystay's for a failure; to be raised from it.

    Args:
        error: One of `FAILURES`.
        step: What was being done.
        seconds: How long it was tried at most.
    """
    status, quote = status_of(error), f": {text}" if (text := said(error)) else "."
    if isinstance(error, auth.InvalidOperation):
        # What is behind it: an answer 401, and credentials that cannot be renewed.
        status = "UNAUTHENTICATED"
    return TEXTS.error(
        _situation(error, status),
        step=step,
        answered=f"{step}: Google answered {status}{quote}",
        resource=step.resource,
        permission=step.permission,
        roles=step.roles,
        seconds=seconds,
        wait=wait_asked(error) or 60,
        error=type(error).__name__,
    )


def _situation(error: BaseException, status: str) -> str:
    if status == _CREDENTIALS:
        is_missing = isinstance(error, auth.DefaultCredentialsError)
        return "credentials-missing" if is_missing else "credentials-failed"
    if status == "PERMISSION_DENIED":
        is_disabled = getattr(error, "reason", None) == "SERVICE_DISABLED"
        return "api-disabled" if is_disabled else "denied"
    if status == "UNAVAILABLE":
        text = str(error)
        return (
            "no-name" if _NO_NAME.search(text)
            else "no-connection" if _NO_ANSWER.search(text)
            else "unavailable"
        )  # fmt: skip
    if (known := f"google-{status}") in TEXTS:
        return known
    return _SITUATIONS.get(status, "failed")


def _status_in(response: requests.Response) -> str | None:
    try:
        status = response.json()["error"]["status"]
    except (ValueError, KeyError, TypeError):
        return None
    return status if isinstance(status, str) else None
