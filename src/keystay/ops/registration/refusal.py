"""A registration endpoint's error, told so that somebody can act on it (RFC 7591 §3.2.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystay.errors import NetworkError, RegistrationError, RegistrationServerError
from keystay.http.server_text import correlation_id, readable

if TYPE_CHECKING:
    from keystay.backends.secrets import Secret
    from keystay.http.messages import HttpRequest, HttpResponse

__all__ = ["refused"]

_BY_ERROR = {
    "invalid_redirect_uri": (
        "The server wants redirect_uris, which a client without users has none of.",
        (
            "Ask the vendor whether it registers Backend Services (client_credentials) "
            'dynamically; some take "redirect_uris": [] as further metadata.'
        ),
    ),
    "invalid_client_metadata": (
        "The server does not accept a member, or a value, of the metadata.",
        (
            "Its description, if there is one, names it. Often it is scope: ask for fewer, or in "
            "the other form (system/Patient.read for system/Patient.rs)."
        ),
    ),
    "invalid_software_statement": (
        "The software statement is malformed, expired, or not signed by who has to.",
        "Get a new one from whoever issued it.",
    ),
    "unapproved_software_statement": (
        "The server does not know the software statement as an approved one.",
        "Ask the server's administrators to approve it.",
    ),
    "invalid_request": (
        "The server did not accept the form of the request.",
        "Check that the endpoint is for registration (RFC 7591), and for Backend Services.",
    ),
    "invalid_scope": (
        "The server does not let clients register for this scope.",
        "Ask for fewer scopes, or in the other form (system/Patient.read for system/Patient.rs).",
    ),
}


def refused(
    request: HttpRequest, response: HttpResponse, token: Secret | None, *, managing: bool
) -> RegistrationError | NetworkError:
    """The error for a response that is not a success.

    Args:
        request: What was asked.
        response: Anything but a success.
        token: What was sent as bearer token, in case the server repeats it.
        managing: Whether a registration was read, changed or deleted, not made.
    """
    status = response.status
    if 300 <= status < 400:
        return NetworkError(
            f"{_capital(request.purpose)} to {request.url} is redirected (HTTP {status}).",
            status=status,
            cause="The endpoint is not the server's own URL, or a proxy wants a login.",
            hint="Use the URL the vendor documents. Keys and tokens are never sent on to another.",
            code="registration-redirect",
        )
    secret = None if token is None else token.reveal()
    document = response.json_object()
    body = document or {}
    error = readable(body.get("error"), without=secret) or ""
    description = readable(body.get("error_description"), without=secret)
    correlation = correlation_id(response)
    said = error + (f" ({description})" if description else "") if error else "no error code"
    what = f"{_capital(request.purpose)} to {request.url}"
    message = f"{what} was answered with HTTP {status}: {said}."
    challenge = readable(response.headers.get("www-authenticate"), without=secret)
    if challenge and status in (401, 403):
        message += f" WWW-Authenticate: {challenge}."
    if correlation:
        message += f" Correlation id: {correlation}."
    cause, hint, code = _explain(response, error, is_json=document is not None, token=token)
    if managing and status in (401, 403, 404, 405):
        cause, hint, code = _explain_management(status)
    kind = RegistrationServerError if status >= 500 else RegistrationError
    return kind(
        message,
        status=status,
        error=error,
        error_description=description,
        correlation_id=correlation,
        cause=cause,
        hint=hint,
        code=code,
    )


def _explain(
    response: HttpResponse, error: str, *, is_json: bool, token: Secret | None
) -> tuple[str, str, str | None]:
    """Likely cause, remedy, and a more specific code."""
    status = response.status
    if status >= 500:
        return (
            "The server or a gateway before it has a problem.",
            (
                "Look in the server's console whether it registered the client all the same, then "
                "try again; when it lasts, send the correlation id to the server's support."
            ),
            None,
        )
    if status == 401 or error == "invalid_token":
        if token is None:
            return (
                "The server registers only who has an initial access token, and none was sent.",
                (
                    "Get one from the server's administrators and refer to it: --initial-token "
                    "file:/run/secrets/initial-token."
                ),
                "registration-token-missing",
            )
        return (
            "The initial access token is wrong, expired or used up: many are good for one client.",
            "Get a new one from the server's administrators; check what the reference points to.",
            "registration-token-refused",
        )
    if status == 429:
        wait = response.retry_after
        return (
            "More registrations were asked for than the server takes.",
            (f"Wait {wait:g} s" if wait is not None else "Wait")
            + ", and register once: a client_id is for keeps.",
            None,
        )
    if error in _BY_ERROR:
        return (*_BY_ERROR[error], None)
    if status == 403:
        return (
            "The server does not let this token, or anybody, register such a client.",
            "Ask its administrators whether dynamic registration is open to Backend Services.",
            None,
        )
    if status in (404, 405, 410):
        return (
            "This is not a registration endpoint.",
            (
                "Check the URL that was given or discovered; register in the vendor's portal if "
                "the server offers no dynamic registration."
            ),
            None,
        )
    if not is_json:
        return (
            "A login page or a proxy answered instead of the server.",
            "Open the URL with curl and compare; behind a proxy check [http] proxy.",
            None,
        )
    return (
        "The server gives no reason that keystay knows.",
        "Ask the server's support, with the time and the correlation id.",
        None,
    )


def _explain_management(status: int) -> tuple[str, str, str | None]:
    if status == 401:
        return (
            "The client was deleted, or its management token was replaced or withdrawn.",
            "Look in the server's console; if the client is gone, register anew.",
            "registration-token-refused",
        )
    return (
        "The server does not let clients do this by themselves (RFC 7592 makes each part optional)."
        if status in (403, 405)
        else "The registration is gone, or its URI is another one by now.",
        "Change it in the vendor's portal, or ask the server's administrators.",
        None,
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
