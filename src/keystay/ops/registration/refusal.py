"""A registration endpoint's error, told so that somebody can act on it (RFC 7591 §3.2.2).

The words are in `errors.toml`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystay.backends.error_texts import ErrorTexts
from keystay.http.server_text import correlation_id, readable

if TYPE_CHECKING:
    from keystay.backends.secrets import Secret
    from keystay.errors import KeystayError
    from keystay.http.messages import HttpRequest, HttpResponse

__all__ = ["refused"]

_TEXTS = ErrorTexts("keystay.ops.registration")


def refused(
    request: HttpRequest, response: HttpResponse, token: Secret | None, *, managing: bool
) -> KeystayError:
    """The error for a response that is not a success: a `RegistrationError` or `NetworkError`.

    Args:
        request: What was asked.
        response: Anything but a success.
        token: What was sent as bearer token, in case the server repeats it.
        managing: Whether a registration was read, changed or deleted, not made.
    """
    status = response.status
    what = f"{request.purpose[:1].upper()}{request.purpose[1:]} to {request.url}"
    if 300 <= status < 400:
        return _TEXTS.error("redirect", details={"status": status}, what=what, status=status)
    secret = None if token is None else token.reveal()
    document = response.json_object()
    body = document or {}
    error = readable(body.get("error"), without=secret) or ""
    description = readable(body.get("error_description"), without=secret)
    correlation = correlation_id(response)
    reason = error + (f" ({description})" if description else "") if error else "no error code"
    said = f"{what} was answered with HTTP {status}: {reason}."
    challenge = readable(response.headers.get("www-authenticate"), without=secret)
    if challenge and status in (401, 403):
        said += f" WWW-Authenticate: {challenge}."
    if correlation:
        said += f" Correlation id: {correlation}."
    situation = f"managing-{status}"
    if not managing or situation not in _TEXTS:
        situation = _situation(status, error, is_json=document is not None, token=token)
    wait = response.retry_after
    return _TEXTS.error(
        situation,
        details={
            "status": status,
            "error": error,
            "error_description": description,
            "correlation_id": correlation,
        },
        said=said,
        wait="" if wait is None else f" {wait:g} s",
    )


def _situation(status: int, error: str, *, is_json: bool, token: Secret | None) -> str:
    if status >= 500:
        return "failing"
    if status == 401 or error == "invalid_token":
        return "token-missing" if token is None else "token-refused"
    if status == 429:
        return "too-many"
    if (known := f"error-{error}") in _TEXTS:
        return known
    if status == 403:
        return "forbidden"
    if status in (404, 405, 410):
        return "no-endpoint"
    return "unexplained" if is_json else "no-json"
