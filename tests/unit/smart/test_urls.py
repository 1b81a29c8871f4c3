"""Which URLs an assertion or a token may travel to."""

from __future__ import annotations

import pytest

from keystay.errors import ConfigurationError, DiscoveryError
from keystay.smart.urls import origin_of, require_base, require_secure

WHAT = "The token endpoint"


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("https://ehr.example.org/token", id="plain"),
        pytest.param("HTTPS://EHR.example.org/token", id="upper-case"),
        pytest.param("https://ehr.example.org:8443/token?tenant=1", id="port-and-query"),
        pytest.param("https://[2001:db8::1]/token", id="ipv6"),
    ],
)
def test_https_is_accepted_as_written(url: str) -> None:
    """What is sent is what was configured, unchanged: `aud` must equal it."""
    assert url == require_secure(url, WHAT)


REFUSED = {
    "no-scheme": ("ehr.example.org/token", "not an absolute URL"),
    "empty": ("", "not an absolute URL"),
    "path": ("/token", "not an absolute URL"),
    "other-scheme": ("ftp://ehr.example.org", "not an absolute URL"),
    "javascript": ("javascript:alert(1)", "not an absolute URL"),
    "no-host": ("https:///token", "not an absolute URL"),
    "blank": ("https://ehr.example.org/to ken", "not an absolute URL"),
    "newline": ("https://ehr.example.org/\nx", "not an absolute URL"),
    "escape": ("https://ehr.example.org/\x1b[2J", "not an absolute URL"),
    "c1": ("https://ehr.example.org/\x9b2J", "not an absolute URL"),
    "bidi": ("https://ehr.example.org/\u202egpj", "not an absolute URL"),
    "not-ascii": ("https://\uff45hr.example.org/", "not an absolute URL"),
    "port-zero": ("https://ehr.example.org:0/", "not an absolute URL"),
    "port-too-high": ("https://ehr.example.org:99999/", "not an absolute URL"),
    "bad-ipv6": ("https://[::1/token", "not an absolute URL"),
    "user": ("https://user@ehr.example.org/", "user information"),
    "user-and-password": ("https://user:pw@ehr.example.org/", "user information"),
    "backslash-user": ("https://ehr.example.org\\@evil.example/", "user information"),
    "fragment": ("https://ehr.example.org/token#x", "fragment"),
    "http": ("http://ehr.example.org/token", "not HTTPS"),
    "http-private": ("http://10.0.0.1/token", "not HTTPS"),
    "looks-like-loopback": ("http://127.0.0.1.example.org/", "not HTTPS"),
    "localhost-prefix": ("http://localhost.example.org/", "not HTTPS"),
    "all-interfaces": ("http://0.0.0.0/", "not HTTPS"),
    "decimal-loopback": ("http://2130706433/", "not HTTPS"),
}


@pytest.mark.parametrize(("url", "said"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("loopback", [False, True], ids=["strict", "loopback-allowed"])
def test_refused(url: str, said: str, loopback: bool) -> None:
    """Everything else is refused, loopback allowed or not, and the remedy is told."""
    with pytest.raises(ConfigurationError, match=said) as caught:
        require_secure(url, WHAT, allow_insecure_loopback=loopback)
    assert caught.value.message.startswith(WHAT)
    assert caught.value.hint


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8080/x", "http://127.9.9.9/x", "http://[::1]:80/x", "http://LOCALHOST/x"],
)
def test_loopback_only_when_asked_for(url: str) -> None:
    """Plain HTTP to this machine needs the explicit opt-in, which the error names."""
    with pytest.raises(ConfigurationError, match="plain HTTP to this machine") as caught:
        require_secure(url, WHAT)
    assert "url-insecure" == caught.value.code
    assert "KEYSTAY_ALLOW_INSECURE_LOOPBACK=1" in str(caught.value.hint)
    assert url == require_secure(url, WHAT, allow_insecure_loopback=True)


def test_the_caller_says_whose_fault_it_is() -> None:
    """A discovered URL is the server's fault, not the configuration's."""
    with pytest.raises(DiscoveryError):
        require_secure("http://ehr.example.org", WHAT, error=DiscoveryError)


def test_password_is_not_repeated() -> None:
    """User information never shows in the message."""
    with pytest.raises(ConfigurationError) as caught:
        require_secure("https://user:hunter2hunter2@ehr.example.org/", WHAT)
    assert "hunter2" not in str(caught.value)


def test_base_url_takes_paths() -> None:
    """The base loses its trailing slash; with a query nothing could be appended."""
    assert "https://ehr.example.org/fhir" == require_base("https://ehr.example.org/fhir/")
    with pytest.raises(ConfigurationError, match="has a query"):
        require_base("https://ehr.example.org/fhir?tenant=1")


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        pytest.param("https://Ehr.Example.org/x", ("https", "ehr.example.org", 443), id="default"),
        pytest.param("https://ehr.example.org:443", ("https", "ehr.example.org", 443), id="443"),
        pytest.param("http://127.0.0.1/x", ("http", "127.0.0.1", 80), id="http"),
        pytest.param("https://[::1]:8443/", ("https", "::1", 8443), id="ipv6"),
        pytest.param("not a url", None, id="none"),
    ],
)
def test_origin(url: str, origin: tuple[str, str, int] | None) -> None:
    """Scheme, host in lower case, port (RFC 6454 §4)."""
    assert origin == origin_of(url)
