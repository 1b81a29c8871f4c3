"""What a token client is told: as keyword arguments, or by keystay.toml."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, Required, TypedDict

from keystay.config import Config
from keystay.errors import did_you_mean
from keystay.token_stores.opening import open_store
from keystay.tokens.key_state.client_keys import ClientKeys
from keystay.tokens.key_state.rotating_signer import RotatingSigner

if TYPE_CHECKING:
    from keystay.signer import Signer
    from keystay.smart.scopes import ScopeStyle
    from keystay.token_stores.port import TokenStore
    from keystay.tokens.key_state.signers import SignerSource

__all__ = ["ClientSettings", "configured", "refuse_unknown"]


class ClientSettings(TypedDict, total=False):
    """What both clients take; `TokenClient` says what each means."""

    fhir_base_url: Required[str]
    client_id: Required[str]
    signer: Required[Signer | SignerSource]
    scope: str
    scope_style: ScopeStyle
    token_endpoint: str | None
    jwks_url: str | None
    lifetime: int
    allowed_origins: Iterable[str]
    allow_insecure_loopback: bool
    extra_headers: Mapping[str, object] | None
    extra_claims: Mapping[str, object] | None
    discovery_lifetime: float
    store: TokenStore | None
    own_signer: bool
    renewal_window: float
    retries: int
    signer_retries: int
    rate_limit: str | None
    clock_correction: Literal["on", "warn"]


def refuse_unknown(settings: Mapping[str, object]) -> None:
    """As Python does where the arguments are spelt out: a misspelt scope must not go unnoticed."""
    for name in settings.keys() - ClientSettings.__annotations__.keys():
        known = sorted(ClientSettings.__annotations__)
        raise TypeError(f"unexpected keyword argument {name!r}. {did_you_mean(name, known)}")
    for name in sorted({"fhir_base_url", "client_id", "signer"} - settings.keys()):
        raise TypeError(f"missing keyword argument {name!r}")


@contextmanager
def configured(config: Config, name: str | None) -> Iterator[ClientSettings]:
    """A configured client's settings; its signer is closed again if no client comes of it."""
    client = config.client(name)
    store = open_store(client.store, client.store_key, config.base_dir_of(client))
    settings: ClientSettings = {
        "fhir_base_url": client.fhir_base_url,
        "client_id": client.registered_id(),
        "scope": client.scope,
        "scope_style": client.scope_style,
        "token_endpoint": client.token_endpoint,
        "jwks_url": client.jwks_url,
        "lifetime": client.assertion_lifetime,
        "allowed_origins": client.allowed_origins,
        "allow_insecure_loopback": client.allow_insecure_loopback,
        "store": store,
        "signer": RotatingSigner(ClientKeys(config, name)),
        "own_signer": True,
        "renewal_window": client.renewal_window,
        "retries": client.retries,
        "signer_retries": client.signer_retries,
        "rate_limit": client.rate_limit,
        "clock_correction": client.clock_correction,
    }
    try:
        yield settings
    except BaseException:
        settings["signer"].close()
        raise
