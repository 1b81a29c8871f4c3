"""`[clients.<name>]`: the settings of a client.

What `ClientSettings` holds is also what `TokenClient` takes as keyword arguments.
"""

# No annotations as text: msgspec would compile each of them at every start.

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from functools import partial
from typing import Annotated, ClassVar, Literal

import msgspec

from keystay import algorithms, key_uri
from keystay.config.policy import PolicyConfig
from keystay.custody import Fact
from keystay.errors import ConfigurationError, KeystayError
from keystay.settings import SecretReference, setting
from keystay.smart import scopes, urls, vendors
from keystay.smart.scopes import ScopeStyle

__all__ = ["ClientConfig", "ClientSettings", "parse_rate"]

_RATE = re.compile(r"([0-9]{1,6})/([0-9]{1,5}(?:\.[0-9]{1,3})?)")
_LONGEST_PERIOD = 86400

Fault = tuple[str, KeystayError]


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a file, the environment and keyword arguments say alike."""

    RENAMED: ClassVar = {"lifetime": "assertion_lifetime"}

    fhir_base_url: Annotated[
        str,
        setting("The FHIR server's base URL.", example='"https://ehr.example.org/fhir/r4"'),
    ]
    client_id: Annotated[
        str | None,
        setting("Issued at registration; none until then.", example='"nightly-export"'),
    ] = None
    scope: Annotated[str, setting("Scopes separated by blanks.", example='"system/Patient.rs"')] = (
        scopes.DEFAULT_SCOPE
    )
    scope_style: Annotated[
        ScopeStyle,
        setting(
            "How `system/` scopes are sent: `as-written`, in version `v1` or `v2`, or `auto`: the "
            "version that the server advertises, if it is one only."
        ),
    ] = "as-written"
    token_endpoint: Annotated[
        str | None,
        setting(
            "Skips discovery.",
            example='"https://ehr.example.org/oauth2/token"',
            default="discovered",
        ),
    ] = None
    jwks_url: Annotated[
        str | None,
        setting(
            "URL of the registered JWK Set; sent as `jku`.",
            example='"https://keys.example.org/jwks.json"',
            default="not sent",
        ),
    ] = None
    allowed_origins: Annotated[
        Sequence[str],
        setting(
            "Origins besides the FHIR server's that may get the token.",
            example='["https://files.example.org"]',
            default="none",
        ),
    ] = ()
    allow_insecure_loopback: Annotated[
        bool, setting("Allow plain HTTP to this machine, for tests.")
    ] = False
    assertion_lifetime: Annotated[
        int, setting("How long an assertion lives.", unit="seconds", ge=1, le=300)
    ] = 240
    discovery_lifetime: Annotated[
        float, setting("How long a discovered configuration is kept.", unit="seconds", ge=0)
    ] = 3600.0
    renewal_window: Annotated[
        float,
        setting(
            "Share of a token's life, at its end, in which it is renewed; a minute at most.",
            gt=0,
            lt=1,
        ),
    ] = 0.2
    retries: Annotated[
        int,
        setting(
            "How often a call tries again after broken connections, HTTP 429 and 5xx, each time "
            "with a fresh assertion, by one deadline.",
            ge=0,
            le=20,
        ),
    ] = 3
    signer_retries: Annotated[
        int,
        setting("The same after a device or key service that is not there.", ge=0, le=20),
    ] = 1
    rate_limit: Annotated[
        str | None,
        setting(
            "Token requests that this process may send, as requests/seconds.",
            example='"5/60"',
            default="no limit",
        ),
    ] = None
    clock_correction: Annotated[
        Literal["on", "warn"],
        setting(
            "`on`: stamp assertions by the server's clock where this machine's would have them "
            "refused; `warn`: only log it."
        ),
    ] = "on"

    def faults(self) -> Iterator[Fault]:
        """Each setting of the right type that still cannot be used."""
        return _faults(self._checks())

    def _checks(self) -> Iterator[tuple[str, Callable[[], object]]]:
        insecure = self.allow_insecure_loopback
        secure = partial(urls.require_secure, allow_insecure_loopback=insecure)
        base = partial(urls.require_base, allow_insecure_loopback=insecure)
        yield "fhir_base_url", partial(base, self.fhir_base_url)
        if self.token_endpoint is not None:
            yield "token_endpoint", partial(secure, self.token_endpoint, "The token endpoint")
        if self.jwks_url is not None:
            yield "jwks_url", partial(secure, self.jwks_url, "The JWKS URL")
        for origin in self.allowed_origins:
            yield "allowed_origins", partial(secure, origin, "An allowed origin")
        if self.client_id == "":
            yield (
                "client_id",
                partial(
                    _refuse,
                    "The client_id is empty.",
                    "Use the one registration returned; leave it out until then.",
                ),
            )
        yield "scope", partial(scopes.normalise, self.scope)
        discovered = self.token_endpoint is None
        yield "scope_style", partial(scopes.require_style, self.scope_style, discovered=discovered)
        yield "scope_style", partial(scopes.convert, self.scope, self.scope_style)
        if self.rate_limit is not None:
            yield "rate_limit", partial(parse_rate, self.rate_limit)


class ClientConfig(ClientSettings, frozen=True, kw_only=True):
    """What a file and the environment say of a client."""

    key: Annotated[
        str, setting("[Key URI](key-uris.md).", example='"file:client.pem"', is_shown=False)
    ]
    algorithm: Annotated[
        str | None,
        setting(
            "JWS algorithm.",
            example='"ES384"',
            default="by key type: RS384, ES384 for P-384, a curve's own",
        ),
    ] = None
    kid: Annotated[
        str | None,
        setting(
            "Key id in header and JWK Set.", example='"2026-11"', default="RFC 7638 thumbprint"
        ),
    ] = None
    verify: Annotated[
        Literal["always", "first"],
        setting("Check `always`, or only the `first` signature of each backend session."),
    ] = "always"
    store: Annotated[
        str | None,
        setting(
            "Where [processes share the token](../how-to/share-tokens.md): `file:` and a folder.",
            example='"file:/run/keystay"',
            default="each its own",
        ),
    ] = None
    store_key: Annotated[
        SecretReference | None,
        setting(
            "Reference to the key that tokens are encrypted with there.",
            example='"env:STORE_KEY"',
            default="required with `store`",
            is_secret_reference=True,
        ),
    ] = None
    vendor: Annotated[
        str | None,
        setting(
            "`epic` or `other`: how long its servers keep a JWK Set without Cache-Control.",
            example='"epic"',
            default="by URL",
        ),
    ] = None
    key_created: Annotated[
        date | None,
        setting("When the key was made, for a backend that cannot say.", example="2026-01-31"),
    ] = None
    policy: Annotated[
        PolicyConfig | None,
        setting("What its key must be, at least as strict as `[policy]`.", default="`[policy]`"),
    ] = None

    @property
    def created(self) -> Fact | None:
        """When `key` was made, as far as this file says."""
        return None if self.key_created is None else Fact(self.key_created.isoformat(), "asserted")

    def registered_id(self) -> str:
        """The client_id.

        Raises:
            ConfigurationError: There is none yet (`client-unregistered`).
        """
        if self.client_id is None:
            raise ConfigurationError(
                "The client has no client_id.",
                cause="It is not registered yet, or what registration returned is not written "
                "down.",
                hint="Register it (keystay register, or the vendor's portal), then write "
                'client_id = "…" into its table of keystay.toml, or set KEYSTAY_CLIENT_ID.',
                code="client-unregistered",
            )
        return self.client_id

    def _checks(self) -> Iterator[tuple[str, Callable[[], object]]]:
        yield from super()._checks()
        yield "key", partial(key_uri.parse, self.key)
        if self.algorithm is not None:
            yield "algorithm", partial(algorithms.get, self.algorithm)
        if self.kid == "":
            yield (
                "kid",
                partial(
                    _refuse, "The kid is empty.", "Leave it out: the default is the thumbprint."
                ),
            )
        yield "store", self._check_store
        if self.store_key is not None and self.store is None:
            yield (
                "store_key",
                partial(_refuse, "store_key is set and store is not.", "Set store too."),
            )
        yield "vendor", partial(vendors.vendor_of, self.fhir_base_url, self.vendor)

    def _check_store(self) -> None:
        if self.store is None:
            return
        if self.store.removeprefix("file:") in ("", self.store):
            _refuse(
                "The store is not file: and a folder.",
                'Write store = "file:/run/keystay": a folder on this machine.',
            )
        if not self.store_key:
            _refuse(
                "store is set and store_key is not.",
                "Make a key: (umask 077; keystay store key > store.key), and set store_key = "
                '"file:…".',
            )


def parse_rate(text: str) -> tuple[int, float]:
    """How many requests in how many seconds `"5/60"` allows.

    Raises:
        ConfigurationError: It is not such a text.
    """
    found = _RATE.fullmatch(text)
    count, seconds = (int(found[1]), float(found[2])) if found else (0, 0.0)
    if count < 1 or not 0 < seconds <= _LONGEST_PERIOD:
        _refuse(
            "The rate limit is not requests/seconds.",
            'Write "5/60" for five token requests a minute; at most a day.',
        )
    return count, seconds


def _faults(checks: Iterator[tuple[str, Callable[[], object]]]) -> Iterator[Fault]:
    for key, run in checks:
        try:
            run()
        except KeystayError as error:
            yield key, error


def _refuse(message: str, hint: str) -> None:
    raise ConfigurationError(message, hint=hint, code="config-value-invalid")
