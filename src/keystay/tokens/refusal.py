"""A token endpoint's error, told so that somebody can act on it (RFC 6749 §5.2).

Epic answers every failure with a bare `invalid_client`; Oracle Health puts the reason into
`error_uri` and a correlation id. So everything the server said is kept, and what we know
ourselves (the kid, the algorithm, the audience, the clocks) is laid beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystay.errors import TokenRefusedError, TokenServerError
from keystay.http.server_text import correlation_id, readable

if TYPE_CHECKING:
    from keystay.assertion import ClientAssertion
    from keystay.http.messages import HttpResponse

__all__ = ["correlation_id", "refusal"]


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


def refusal(
    response: HttpResponse,
    assertion: ClientAssertion,
    endpoint: str,
    skew: float | None = None,
    correction: float = 0.0,
    *,
    worked_today: bool = False,
) -> TokenRefusedError:
    """The error for a response that refuses.

    Args:
        response: Anything but a success.
        assertion: What was sent, for what it says of client, kid and algorithm.
        endpoint: Where it was sent.
        skew: Seconds by which the server's clock was ahead of the assertion's times, if that
            explains the refusal.
        correction: Seconds that had been added to this machine's time to stamp the assertion.
        worked_today: Whether this client, key and endpoint were granted a token within a day.
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
    cause, hint, code = _explain(response, error, assertion, endpoint, skew)
    kind = TokenServerError if response.status >= 500 else TokenRefusedError
    return kind(
        message,
        status=response.status,
        error=error,
        error_description=description,
        error_uri=uri,
        retry_after=response.retry_after,
        correlation_id=correlation,
        correction=correction,
        worked_today=worked_today,
        cause=cause,
        hint=hint,
        code=code,
    )


def _explain(
    response: HttpResponse,
    error: str,
    assertion: ClientAssertion,
    endpoint: str,
    skew: float | None,
) -> tuple[str, str, str | None]:
    """Likely cause, remedy, and a more specific code."""
    wait = response.retry_after
    if response.status == 429:
        return (
            "More tokens were asked for than this client may have.",
            (f"Wait {wait:.0f} s. " if wait is not None else "Wait. ")
            + "Share one TokenClient: it keeps a token until shortly before it expires.",
            "token-rate-limited",
        )
    if response.status >= 500:
        return (
            (
                "The server or a gateway before it has a problem; some hide a wrong client or "
                "tenant behind HTTP 500."
            ),
            (f"Try again in {wait:.0f} s" if wait is not None else "Try again later")
            + "; when it lasts, send the correlation id to the server's support.",
            None,
        )
    if response.status in (404, 405):
        return ("This is not the token endpoint.", "Check token_endpoint and fhir_base_url.", None)
    if error in _HINTS:
        return (*_HINTS[error], None)
    if error == "invalid_client" or (not error and response.status == 401):
        return (*_explain_invalid_client(assertion, endpoint, skew), None)
    return (
        "The server gives no reason that keystay knows.",
        "Ask the server's support, with the time and the correlation id.",
        None,
    )


def _explain_invalid_client(
    assertion: ClientAssertion, endpoint: str, skew: float | None
) -> tuple[str, str]:
    signer = assertion.signer
    if skew is not None:
        side = "behind" if skew > 0 else "ahead of"
        cause = (
            f"This machine's clock is {abs(skew):.0f} s {side} the server's, so the assertion's "
            "times are wrong."
        )
        hint = 'Set the clock (chrony, ntpd); clock_correction = "on" makes up for a day at most.'
    else:
        cause = "The server could not match the assertion to a registered client and key."
        hint = ""
    return cause, (
        f"{hint} Check, in this order: the published or registered JWK Set holds kid "
        f"{signer.kid} (servers cache it, Epic up to 29 h); client_id {assertion.client_id!r} is "
        f"this server's and active; the server accepts {signer.algorithm}; it expects aud "
        f"{endpoint}. To see what was sent: keystay assertion --decode."
    ).strip()
