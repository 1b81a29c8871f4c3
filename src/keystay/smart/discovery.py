"""Discovery: what a FHIR server says of its authorization server (SMART App Launch 2.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from keystay.errors import DiscoveryError
from keystay.http.messages import HttpRequest, HttpResponse
from keystay.smart.urls import require_base, require_secure

if TYPE_CHECKING:
    from keystay.http.io import IO

__all__ = ["SmartConfiguration", "fetch_configuration", "registration_endpoint_of"]

_PATH = "/.well-known/smart-configuration"
_REGISTRATION = "The discovered registration endpoint"


@dataclass(frozen=True, slots=True)
class SmartConfiguration:
    """A server's SMART configuration.

    Attributes:
        fhir_base_url: Whose it is.
        token_endpoint: Absolute; HTTPS, or loopback where allowed.
        registration_endpoint: Absolute, or None.
        signing_algorithms: `token_endpoint_auth_signing_alg_values_supported`, possibly empty.
        capabilities: As advertised.
        scopes_supported: As advertised; never exhaustive.
        document: The whole document.
        warnings: What the server ought to advertise and does not. Servers are known to forget.
    """

    fhir_base_url: str
    token_endpoint: str
    registration_endpoint: str | None = None
    signing_algorithms: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    scopes_supported: tuple[str, ...] = ()
    document: Mapping[str, object] = field(default_factory=dict, repr=False)
    warnings: tuple[str, ...] = ()


async def fetch_configuration(
    io: IO,
    fhir_base_url: str,
    *,
    allow_insecure_loopback: bool = False,
    heard: Callable[[HttpResponse], object] | None = None,
) -> SmartConfiguration:
    """Ask `{fhir_base_url}/.well-known/smart-configuration`.

    Args:
        io: Sends the request.
        fhir_base_url: The FHIR server's base URL.
        allow_insecure_loopback: Allow plain HTTP to this machine, for the endpoints too.
        heard: Given the answer, whatever it is.

    Raises:
        DiscoveryError: There is no such document, or no usable token endpoint in it.
        ConfigurationError: `fhir_base_url` is not a secure URL.
        NetworkError: No answer came back.
    """
    base = require_base(fhir_base_url, allow_insecure_loopback=allow_insecure_loopback)
    url = base + _PATH
    accept = {"Accept": "application/json"}
    request = HttpRequest("GET", url, "discovery", accept, is_followed=True)
    response = await io.send(request)
    if heard is not None:
        heard(response)
    return _configuration(base, url, response, allow_insecure_loopback)


def _configuration(
    base: str, url: str, response: HttpResponse, allow_insecure_loopback: bool
) -> SmartConfiguration:
    if response.status != 200:
        raise _no_document(url, response)
    document = response.json_object()
    if document is None:
        raise DiscoveryError(
            f"The SMART configuration at {url} is not a JSON object.",
            cause="A login page or a proxy answered instead of the FHIR server.",
            hint="Open the URL with curl and compare; set token_endpoint to go without discovery.",
        )
    endpoint = document.get("token_endpoint")
    if not isinstance(endpoint, str) or not endpoint:
        raise DiscoveryError(
            f"The SMART configuration at {url} names no token_endpoint.",
            cause="The server does not support SMART authorization, or is misconfigured.",
            hint="Ask the vendor for the token URL and set token_endpoint.",
        )
    registration, unusable = _registration(base, document, allow_insecure_loopback)
    return SmartConfiguration(
        fhir_base_url=base,
        token_endpoint=_endpoint(
            base, endpoint, "The discovered token endpoint", allow_insecure_loopback
        ),
        registration_endpoint=registration,
        signing_algorithms=_strings(document, "token_endpoint_auth_signing_alg_values_supported"),
        capabilities=_strings(document, "capabilities"),
        scopes_supported=_strings(document, "scopes_supported"),
        document=document,
        warnings=(*_warnings(document), *unusable),
    )


def _endpoint(base: str, url: str, what: str, allow_insecure_loopback: bool) -> str:
    try:
        absolute = urljoin(base + "/", url)  # relative URLs are relative to the FHIR base
    except ValueError:
        absolute = ""
    return require_secure(
        absolute,
        what,
        allow_insecure_loopback=allow_insecure_loopback,
        error=DiscoveryError,
    )


def _registration(
    base: str, document: Mapping[str, object], allow_insecure_loopback: bool
) -> tuple[str | None, tuple[str, ...]]:
    """The registration endpoint; no reason to refuse tokens when it cannot be used."""
    url = document.get("registration_endpoint")
    if not isinstance(url, str) or not url:
        return None, ()
    try:
        return _endpoint(base, url, _REGISTRATION, allow_insecure_loopback), ()
    except DiscoveryError as error:
        return None, (error.message,)


def registration_endpoint_of(configuration: SmartConfiguration) -> str:
    """The registration endpoint a server advertises.

    Raises:
        DiscoveryError: It advertises none, or one that cannot be used (`registration-not-offered`).
    """
    if configuration.registration_endpoint is not None:
        return configuration.registration_endpoint
    base = configuration.fhir_base_url
    unusable = configuration.document.get("registration_endpoint")
    raise DiscoveryError(
        f"The SMART configuration of {base} names no registration_endpoint that can be used.",
        cause=next((w for w in configuration.warnings if w.startswith(_REGISTRATION)), None)
        if unusable
        else "The server does not offer dynamic registration, or does not advertise it.",
        hint="Register in the vendor's portal with the output of keystay jwks; or ask the vendor "
        "for the registration endpoint and name it.",
        code="registration-not-offered",
    )


def _no_document(url: str, response: HttpResponse) -> DiscoveryError:
    if 300 <= response.status < 400:
        return DiscoveryError(
            f"Discovery at {url} was redirected (HTTP {response.status}).",
            cause="The FHIR base URL is not the server's own.",
            hint="Use the base URL the vendor documents; redirects are not followed.",
            code="discovery-redirect",
        )
    wait = response.retry_after
    later = "" if wait is None else f"Try again in {wait:.0f} s. "
    return DiscoveryError(
        f"Discovery at {url} failed with HTTP {response.status}.",
        status=response.status,
        retry_after=wait,
        cause="The FHIR base URL is wrong, or the server does not publish a SMART configuration."
        if response.status < 500
        else "The server has a problem.",
        hint=f"{later}Check fhir_base_url; set token_endpoint to go without discovery.",
    )


def _strings(document: Mapping[str, object], name: str) -> tuple[str, ...]:
    values = document.get(name)
    return tuple(v for v in values if isinstance(v, str)) if isinstance(values, list) else ()


def _warnings(document: Mapping[str, object]) -> Iterator[str]:
    if "client-confidential-asymmetric" not in _strings(document, "capabilities"):
        yield "the capability client-confidential-asymmetric is not advertised"
    methods = _strings(document, "token_endpoint_auth_methods_supported")
    if methods and "private_key_jwt" not in methods:
        yield "token_endpoint_auth_methods_supported lacks private_key_jwt"
    grants = _strings(document, "grant_types_supported")
    if grants and "client_credentials" not in grants:
        yield "grant_types_supported lacks client_credentials"
