"""What a failure of Google's libraries means to the user.

gRPC, REST, the credentials and the network each raise classes of their own. Here each becomes an
error of keystay's family that names the resource and says what to do; the original is chained.
Nothing else leaves this plugin. What the credentials' library says is never repeated: it may
quote what a token endpoint answered.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import requests
from google.api_core import exceptions as api
from google.auth import exceptions as auth
from google.protobuf.message import Error as ProtobufError

from keystay.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    KeyNotFoundError,
    KeyUnusableError,
    LoginError,
)

__all__ = ["FAILURES", "Step", "is_retryable", "said", "status_of", "translate", "wait_asked"]

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
    if isinstance(error, requests.Timeout | TimeoutError):
        return "DEADLINE_EXCEEDED"
    if isinstance(error, api.RetryError):
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


def translate(error: BaseException, step: Step, *, seconds: float) -> BackendError:
    """The error of keystay's for a failure; to be raised from it.

    Args:
        error: One of `FAILURES`.
        step: What was being done.
        seconds: How long it was tried at most.
    """
    status = status_of(error)
    quote = f": {text}" if (text := said(error)) else "."
    answered = f"{step}: Google answered {status}{quote}"
    if status == _CREDENTIALS:
        return _credentials(error, step)
    if status == "UNAUTHENTICATED":
        return _refused_credentials(answered)
    if status == "PERMISSION_DENIED":
        return _denied(error, step, answered)
    if status == "UNAVAILABLE":
        return _unavailable(error, step, answered, seconds)
    if status == "RESOURCE_EXHAUSTED":
        wait = wait_asked(error) or 60
        return BackendUnavailableError(
            f"{answered} It was tried for {seconds:g} s at most.",
            cause="The project has used up a quota of Cloud KMS; quotas are per minute, and HSM "
            "and external keys have smaller ones.",
            hint=f"Wait {wait:g} s. Cache access tokens (TokenClient does), or ask for more: IAM & "
            "Admin > Quotas, Cloud Key Management Service.",
            code="gcp-throttled",
        )
    if status == "DEADLINE_EXCEEDED":
        return BackendTimeoutError(
            f"{step}: no answer from Google Cloud KMS within {seconds:g} s.",
            cause="The service or the way to it is slow, or something on the way swallows packets.",
            hint="Check the proxy and firewall for cloudkms.googleapis.com:443; where only "
            "HTTP/1.1 gets through, set transport=rest.",
        )
    rule = _RULES.get(status)
    if rule is None:
        return BackendError(
            answered,
            cause="Google Cloud KMS, or something that answers in its place, failed.",
            hint="Try again; see https://status.cloud.google.com.",
            code="gcp-failed",
        )
    return rule.kind(answered, cause=rule.cause, hint=rule.hint, code=rule.code)


class _Rule(NamedTuple):
    kind: type[BackendError]
    code: str
    cause: str
    hint: str


_RULES = {
    "NOT_FOUND": _Rule(
        KeyNotFoundError,
        "key-not-found",
        "A part of the name is wrong, or the key is in another project or location.",
        "See what there is: keystay key list 'gcpkms://projects/…/locations/…/keyRings/…'.",
    ),
    "FAILED_PRECONDITION": _Rule(
        KeyUnusableError,
        "gcp-key-not-enabled",
        "The key version is disabled, destroyed, or not ready yet.",
        "Enable it (gcloud kms keys versions enable), or use another version.",
    ),
    "ALREADY_EXISTS": _Rule(
        KeyUnusableError,
        "key-exists",
        "Replacing a key that a server knows locks the client out.",
        "Choose another name for the new key.",
    ),
    "INVALID_ARGUMENT": _Rule(
        BackendError,
        "gcp-request-refused",
        "The request does not fit the key (its algorithm, the length of what is signed), or was "
        "changed on its way.",
        "Compare with the key's algorithm: keystay key show URI. A checksum error that comes "
        "and goes is the network's.",
    ),
    "INTERNAL": _Rule(
        BackendUnavailableError,
        "gcp-internal",
        "Google Cloud KMS failed.",
        "Try again; see https://status.cloud.google.com.",
    ),
    "ABORTED": _Rule(
        BackendUnavailableError,
        "gcp-aborted",
        "Something else changed the resource at the same moment.",
        "Try again.",
    ),
}


def _denied(error: BaseException, step: Step, answered: str) -> BackendError:
    if getattr(error, "reason", None) == "SERVICE_DISABLED":
        return BackendError(
            answered,
            cause="The Cloud KMS API is not enabled in the project.",
            hint="gcloud services enable cloudkms.googleapis.com",
            code="gcp-api-disabled",
        )
    return BackendError(
        answered,
        cause=f"The caller lacks the permission {step.permission} on {step.resource}.",
        hint=f"Grant {step.roles} on the key or its key ring: gcloud kms keys "
        "add-iam-policy-binding.",
        code="gcp-access-denied",
    )


def _credentials(error: BaseException, step: Step) -> BackendError:
    if isinstance(error, auth.InvalidOperation):
        # What is behind it: an answer 401, and credentials that cannot be renewed.
        return _refused_credentials(f"{step}: Google answered UNAUTHENTICATED.")
    if isinstance(error, auth.DefaultCredentialsError):
        return LoginError(
            f"{step}: there are no Google credentials.",
            cause="Neither GOOGLE_APPLICATION_CREDENTIALS, nor gcloud's file, nor a metadata "
            "server gives any.",
            hint="On Google Cloud attach a service account; elsewhere configure workload identity "
            "federation, or run gcloud auth application-default login.",
            code="gcp-credentials-missing",
        )
    return LoginError(
        f"{step}: Google gave no access token for the credentials ({type(error).__name__}).",
        cause="The credentials are expired or revoked, or what gives out the tokens "
        "(oauth2.googleapis.com, sts.googleapis.com, the metadata server) cannot be reached.",
        hint="Check them: gcloud auth application-default print-access-token.",
        code="gcp-credentials-failed",
    )


def _refused_credentials(answered: str) -> LoginError:
    return LoginError(
        answered,
        cause="The credentials are missing, expired or revoked.",
        hint="Renew them: gcloud auth application-default login, or check the service account.",
        code="gcp-credentials-refused",
    )


def _unavailable(error: BaseException, step: Step, answered: str, seconds: float) -> BackendError:
    text = str(error)
    if _NO_NAME.search(text):
        return BackendUnavailableError(
            f"{step}: the endpoint's name does not resolve.",
            cause="DNS does not answer here, or endpoint is misspelt.",
            hint="Look the name up on this machine (getent hosts cloudkms.googleapis.com).",
            code="gcp-unreachable",
        )
    if _NO_ANSWER.search(text):
        return BackendUnavailableError(
            f"{step}: no connection to the endpoint within {seconds:g} s.",
            cause="A firewall or proxy is in the way, or endpoint is wrong.",
            hint="Try curl -v https://cloudkms.googleapis.com; where only HTTP/1.1 gets through, "
            "set transport=rest.",
            code="gcp-unreachable",
        )
    return BackendUnavailableError(
        answered,
        cause="Google Cloud KMS, or the external key manager behind it, is not available.",
        hint="Try again; see https://status.cloud.google.com.",
        code="gcp-unavailable",
    )


def _status_in(response: requests.Response) -> str | None:
    try:
        status = response.json()["error"]["status"]
    except (ValueError, KeyError, TypeError):
        return None
    return status if isinstance(status, str) else None
