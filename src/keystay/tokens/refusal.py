"""A token endpoint's error, told so that somebody can act on it (RFC 6749 §5.2).

Epic answers every failure with a bare `invalid_client`; Oracle Health puts the reason into
`error_uri` and a correlation id. So everything the server said is kept, and what we know
ourselves (the kid, the algorithm, the audience, the clocks) is laid beside it.
"""

from __future__ import annotations

import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from keystay.errors import TokenRefusedError, TokenServerError
from keystay.smart.server_text import correlation_id, readable

if TYPE_CHECKING:
    from keystay.assertion import ClientAssertion
    from keystay.smart.messages import HttpResponse

__all__ = ["clock_offset", "correlation_id", "refusal"]

# Assertions live minutes; a smaller difference between the clocks does no harm.
_SKEW_THAT_MATTERS = 30.0

_HINTS = {
    "invalid_scope": (
        "The scope is not one this client was registered for, or not written as the server does.",
        (
            "Compare scope with the registration; some servers know only the v1 form "
            "(system/Patient.read), some only the v2 form (system/Patient.rs)."
        ),
    ),
    "unauthorized_client": (
        "The client is known but not enabled for the client_credentials grant.",
        "Ask for Backend Services (client_credentials) to be enabled for this client.",
    ),
    "unsupported_grant_type": (
        "This token endpoint does not serve Backend Services.",
        "Check token_endpoint: servers may have one for users and one for systems.",
    ),
    "invalid_request": (
        "The server did not accept the form of the request.",
        "Check that token_endpoint is the token URL and nothing in between changes the body.",
    ),
}


def refusal(response: HttpResponse, assertion: ClientAssertion, endpoint: str) -> TokenRefusedError:
    """The error for a response that refuses.

    Args:
        response: Anything but a success.
        assertion: What was sent, for what it says of client, kid and algorithm.
        endpoint: Where it was sent.
    """
    body = response.json_object() or {}
    error = readable(body.get("error")) or ""
    description = readable(body.get("error_description"))
    uri = readable(body.get("error_uri"))
    correlation = correlation_id(response)
    said = f"{error}" + (f" ({description})" if description else "") if error else "no error code"
    message = f"The authorization server at {endpoint} answered HTTP {response.status}: {said}."
    if uri:
        message += f" error_uri: {uri}."
    if correlation:
        message += f" Correlation id: {correlation}."
    cause, hint, code = _explain(response, error, assertion, endpoint)
    kind = TokenServerError if response.status >= 500 else TokenRefusedError
    return kind(
        message,
        status=response.status,
        error=error,
        error_description=description,
        error_uri=uri,
        retry_after=_retry_after(response),
        correlation_id=correlation,
        cause=cause,
        hint=hint,
        code=code,
    )


def clock_offset(response: HttpResponse) -> float | None:
    """Seconds the server's clock is ahead of this machine's, by its Date header, or None."""
    moment = _http_date(response.headers.get("date"))
    return None if moment is None else moment - time.time()


def _explain(
    response: HttpResponse, error: str, assertion: ClientAssertion, endpoint: str
) -> tuple[str, str, str | None]:
    """Likely cause, remedy, and a more specific code."""
    if response.status == 429:
        wait = _retry_after(response)
        return (
            "More tokens were asked for than this client may have.",
            (f"Wait {wait:g} s. " if wait is not None else "Wait. ")
            + "Share one TokenClient: it keeps a token until shortly before it expires.",
            "token-rate-limited",
        )
    if response.status >= 500:
        return (
            (
                "The server or a gateway before it has a problem; some hide a wrong client or "
                "tenant behind HTTP 500."
            ),
            "Try again later; when it lasts, send the correlation id to the server's support.",
            None,
        )
    if response.status in (404, 405):
        return ("This is not the token endpoint.", "Check token_endpoint and fhir_base_url.", None)
    if error in _HINTS:
        return (*_HINTS[error], None)
    if error == "invalid_client" or (not error and response.status == 401):
        return (*_explain_invalid_client(response, assertion, endpoint), None)
    return (
        "The server gives no reason that keystay knows.",
        "Ask the server's support, with the time and the correlation id.",
        None,
    )


def _explain_invalid_client(
    response: HttpResponse, assertion: ClientAssertion, endpoint: str
) -> tuple[str, str]:
    signer = assertion.signer
    offset = clock_offset(response)
    if offset is not None and abs(offset) > _SKEW_THAT_MATTERS:
        side = "behind" if offset > 0 else "ahead of"
        cause = (
            f"This machine's clock is {abs(offset):.0f} s {side} the server's, so the assertion's "
            "times are wrong."
        )
        hint = "Set the clock (chrony, ntpd), then try again."
    else:
        cause = "The server could not match the assertion to a registered client and key."
        hint = ""
    return cause, (
        f"{hint} Check, in this order: the published or registered JWK Set holds kid "
        f"{signer.kid} (servers cache it, Epic up to 29 h); client_id {assertion.client_id!r} is "
        f"this server's and active; the server accepts {signer.algorithm}; it expects aud "
        f"{endpoint}. To see what was sent: keystay assertion --decode."
    ).strip()


def _retry_after(response: HttpResponse) -> float | None:
    """Retry-After in seconds (RFC 9110 §10.2.3), never negative."""
    value = response.headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value[:9])
    moment = _http_date(value)
    return None if moment is None else max(0.0, moment - time.time())


def _http_date(value: str | None) -> float | None:
    try:
        moment = parsedate_to_datetime(value or "")
    except (ValueError, TypeError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
