"""What a token client is told: as keyword arguments, or by keystay.toml."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar, cast

import msgspec

from keystay.concurrency.clock import SYSTEM_CLOCK, Clock
from keystay.config.client import ClientSettings
from keystay.errors import did_you_mean
from keystay.settings import as_keyword, make, read_table
from keystay.token_stores.opening import open_store
from keystay.tokens.key_state.client_keys import ClientKeys
from keystay.tokens.key_state.rotating_signer import RotatingSigner

if TYPE_CHECKING:
    from keystay.config import Config
    from keystay.http.library import AsyncClient, Client
    from keystay.http.settings import HttpSettings
    from keystay.signer import Signer
    from keystay.token_stores.port import TokenStore
    from keystay.tokens.key_state.signers import SignerSource

__all__ = ["Arguments", "AsyncTokenClientArguments", "TokenClientArguments", "configured", "takes"]

P = ParamSpec("P")
Self = TypeVar("Self")
A = TypeVar("A", bound="Arguments")


class Arguments(ClientSettings, frozen=True, kw_only=True):
    """What both clients take besides the settings of a client."""

    client_id: str
    signer: Signer | SignerSource
    own_signer: bool = False
    store: TokenStore | None = None
    extra_headers: Mapping[str, object] | None = None
    extra_claims: Mapping[str, object] | None = None
    timeout: float | None = None
    clock: Clock = SYSTEM_CLOCK


class TokenClientArguments(Arguments, frozen=True, kw_only=True):
    """What `TokenClient` takes."""

    http: HttpSettings | Client | None = None


class AsyncTokenClientArguments(Arguments, frozen=True, kw_only=True):
    """What `AsyncTokenClient` takes."""

    http: HttpSettings | AsyncClient | None = None


def takes(
    arguments: Callable[P, A],
) -> Callable[[Callable[[Self, A], None]], Callable[Concatenate[Self, P], None]]:
    """Have a method take what makes the arguments, as keywords; settings among them are checked.

    Raises:
        TypeError: As Python does: a keyword is not known, or missing.
        ConfigurationError: A setting cannot be used.
    """
    kind = cast("type[A]", arguments)

    def decorate(method: Callable[[Self, A], None]) -> Callable[Concatenate[Self, P], None]:
        @wraps(method)
        def taking(self: Self, /, *args: P.args, **kwargs: P.kwargs) -> None:
            if args:
                raise TypeError(f"{type(self).__name__} takes keyword arguments only")
            method(self, _checked(kind, kwargs))

        taking.__signature__ = _signature(kind)  # type: ignore[attr-defined]
        return cast("Callable[Concatenate[Self, P], None]", taking)

    return decorate


def _checked(kind: type[A], given: Mapping[str, object]) -> A:
    """The arguments, their settings checked as those of a file are."""
    known = kind.__struct_fields__
    settings: dict[str, object] = {}
    others: dict[str, object] = {}
    shared = ClientSettings.__struct_fields__
    for name, value in given.items():
        if name in shared:
            settings[name] = value
        elif name in known:
            others[name] = value
        elif renamed := ClientSettings.RENAMED.get(name):
            raise TypeError(f"the keyword argument {name!r} is called {renamed!r} now")
        else:
            raise TypeError(
                f"unexpected keyword argument {name!r}. {did_you_mean(name, sorted(known))}"
            )
    for name in ("client_id", "fhir_base_url", "signer"):
        if name not in given:
            raise TypeError(f"missing keyword argument {name!r}")
    origins = settings.get("allowed_origins")
    if isinstance(origins, Iterable) and not isinstance(origins, str):
        settings["allowed_origins"] = tuple(origins)
    checked = read_table(ClientSettings, settings, as_keyword)
    return make(kind, {name: getattr(checked, name) for name in shared} | others)


def _signature(kind: type[msgspec.Struct]) -> Signature:
    """The signature that `help()` and notebooks show."""
    fields_ = kind.__struct_fields__
    required = len(fields_) - len(kind.__struct_defaults__)
    defaults = (*(msgspec.NODEFAULT,) * required, *kind.__struct_defaults__)
    parameters = (
        Parameter(name, Parameter.KEYWORD_ONLY, default=Parameter.empty)
        if default is msgspec.NODEFAULT
        else Parameter(name, Parameter.KEYWORD_ONLY, default=default)
        for name, default in zip(fields_, defaults, strict=True)
    )
    return Signature([Parameter("self", Parameter.POSITIONAL_OR_KEYWORD), *parameters])


@contextmanager
def configured(config: Config, name: str | None, kind: type[A]) -> Iterator[A]:
    """A configured client's arguments; its signer is closed again if no client comes of it."""
    client = config.client(name)
    settings = {name: getattr(client, name) for name in ClientSettings.__struct_fields__}
    settings["client_id"] = client.registered_id()
    store = open_store(client.store, client.store_key, config.base_dir)
    signer = RotatingSigner(ClientKeys(config, name))
    more = {"http": config.http, "store": store, "own_signer": True, "signer": signer}
    try:
        yield make(kind, settings | more)
    except BaseException:
        signer.close()
        raise
