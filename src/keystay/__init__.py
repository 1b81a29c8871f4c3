"""SMART Backend Services tokens, signed where your keys stay.

Everything public is reachable from here and loads when first used, so that `import keystay`
costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from keystay.concurrency import forks as _forks  # first: it watches over all other imports

if TYPE_CHECKING:
    from keystay import errors as errors
    from keystay import signatures as signatures
    from keystay.assertion import ClientAssertion as ClientAssertion
    from keystay.backends.hookspecs import hookimpl as hookimpl
    from keystay.config import Config as Config
    from keystay.config import load_config as load_config
    from keystay.custody import Custody as Custody
    from keystay.errors import KeystayError as KeystayError
    from keystay.jwk import JWKSet as JWKSet
    from keystay.observers.audit import AuditObserver as AuditObserver
    from keystay.observers.dispatch import Observers as Observers
    from keystay.ops.registration.calls import delete_client as delete_client
    from keystay.ops.registration.calls import delete_client_async as delete_client_async
    from keystay.ops.registration.calls import read_client as read_client
    from keystay.ops.registration.calls import read_client_async as read_client_async
    from keystay.ops.registration.calls import register_client as register_client
    from keystay.ops.registration.calls import register_client_async as register_client_async
    from keystay.ops.registration.calls import update_client as update_client
    from keystay.ops.registration.calls import update_client_async as update_client_async
    from keystay.ops.registration.registration import Registration as Registration
    from keystay.policy import Policy as Policy
    from keystay.signer import Signer as Signer
    from keystay.signer import open_signer as open_signer
    from keystay.smart.discovery import SmartConfiguration as SmartConfiguration
    from keystay.token_stores.access_token import AccessToken as AccessToken
    from keystay.token_stores.file import FileTokenStore as FileTokenStore
    from keystay.tokens.client import AsyncTokenClient as AsyncTokenClient
    from keystay.tokens.client import TokenClient as TokenClient
    from keystay.tokens.client import discover as discover
    from keystay.tokens.key_state.client_keys import published_keys as published_keys

_HOMES = {
    "AccessToken": "keystay.token_stores.access_token",
    "AuditObserver": "keystay.observers.audit",
    "AsyncTokenClient": "keystay.tokens.client",
    "ClientAssertion": "keystay.assertion",
    "Config": "keystay.config",
    "Custody": "keystay.custody",
    "FileTokenStore": "keystay.token_stores.file",
    "JWKSet": "keystay.jwk",
    "KeystayError": "keystay.errors",
    "Observers": "keystay.observers.dispatch",
    "Registration": "keystay.ops.registration.registration",
    "Policy": "keystay.policy",
    "Signer": "keystay.signer",
    "SmartConfiguration": "keystay.smart.discovery",
    "TokenClient": "keystay.tokens.client",
    "delete_client": "keystay.ops.registration.calls",
    "delete_client_async": "keystay.ops.registration.calls",
    "discover": "keystay.tokens.client",
    "errors": "keystay.errors",
    "hookimpl": "keystay.backends.hookspecs",
    "load_config": "keystay.config",
    "open_signer": "keystay.signer",
    "published_keys": "keystay.tokens.key_state.client_keys",
    "read_client": "keystay.ops.registration.calls",
    "read_client_async": "keystay.ops.registration.calls",
    "register_client": "keystay.ops.registration.calls",
    "register_client_async": "keystay.ops.registration.calls",
    "signatures": "keystay.signatures",
    "update_client": "keystay.ops.registration.calls",
    "update_client_async": "keystay.ops.registration.calls",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605


if not TYPE_CHECKING:  # a type checker that saw it would take any misspelt name for Any

    def __getattr__(name: str) -> Any:
        try:
            home = _HOMES[name]
        except KeyError:
            raise AttributeError(f"module 'keystay' has no attribute {name!r}") from None
        _forks.arm()
        module = import_module(home)
        value = module if home == f"keystay.{name}" else getattr(module, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
