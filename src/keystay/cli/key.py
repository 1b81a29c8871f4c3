"""The command `keystay key generate|list|show`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from keystay.cli.options import json_option
from keystay.cli.output import print_data, print_json, print_table, say
from keystay.errors import BackendError

if TYPE_CHECKING:
    from keystay.backends.port import KeyRecord, KeyStore

__all__ = ["key"]

_TYPES = ("P-256", "P-384", "P-521", "RSA-2048", "RSA-3072", "RSA-4096", "Ed25519")


@click.group()
def key() -> None:
    """Generate, list and show keys where they live."""


@key.command()
@click.argument("uri")
@click.option(
    "--type",
    "key_type",
    type=click.Choice(_TYPES),
    default="P-384",
    show_default=True,
    help="SMART servers know RS384 (RSA) or ES384 (P-384).",
)
@json_option
def generate(uri: str, key_type: str, as_json: bool) -> None:
    """Generate the key that URI names. An existing key is never replaced."""
    from keystay.backends.port import GeneratesKeys

    with _store(uri) as store:
        if not isinstance(store, GeneratesKeys):
            raise _unable("generate")
        record = store.generate_key(key_type)
    _print([record], as_json=as_json)


@key.command("list")
@click.argument("uri")
@json_option
def list_(uri: str, as_json: bool) -> None:
    """List the private keys that URI matches, with what the store says of them."""
    from keystay.backends.port import ListsKeys

    with _store(uri) as store:
        if not isinstance(store, ListsKeys):
            raise _unable("list")
        records = store.list_keys()
    if not records:
        say("No keys match.")
    _print(records, as_json=as_json)


@key.command()
@click.argument("uri")
@json_option
def show(uri: str, as_json: bool) -> None:
    """Open the key that URI names and show its public key, algorithms and custody."""
    from keystay.config import load_config
    from keystay.jwk import public_jwk
    from keystay.key_uri import redact
    from keystay.signer import open_signer

    config = load_config()
    with open_signer(uri, backends=config.backends) as signer:
        document = {
            "uri": redact(uri),
            "key_type": signer.key_type,
            "key_id": signer.key_id,
            "algorithm": signer.algorithm,
            "algorithms": list(signer.algorithms),
            "custody": signer.custody.to_dict(),
            "public_jwk": public_jwk(signer.public_key, kid=signer.kid, algorithm=signer.algorithm),
        }
    if as_json:
        print_json(document)
        return
    lines = {
        "key type": signer.key_type,
        "key id": signer.key_id,
        "kid": signer.kid,
        "algorithms": ", ".join(signer.algorithms),
        "custody": str(signer.custody),
        **{name: _word(fact.value) for name, fact in signer.custody.facts.items()},
    }
    width = max(map(len, lines))
    for name, value in lines.items():
        print_data(f"{name.ljust(width)}  {value}")


@contextmanager
def _store(uri: str) -> Iterator[KeyStore]:
    from keystay.backends.port import BackendContext
    from keystay.backends.registry import default_registry
    from keystay.config import load_config
    from keystay.key_uri import parse

    parsed = parse(uri)
    settings = load_config().backends.get(parsed.scheme, {})
    store = default_registry().open_store(parsed, BackendContext(settings=settings))
    try:
        yield store
    finally:
        store.close()


def _print(records: Sequence[KeyRecord], *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(record) for record in records])
        return
    rows = [
        {
            "type": record.key_type,
            "label": record.label,
            "id": record.key_id,
            "attributes": " ".join(f"{n}={_word(v)}" for n, v in record.attributes.items()),
            "uri": record.uri,
        }
        for record in records
    ]
    print_table(rows)


def _word(value: str | bool) -> str:
    return value if isinstance(value, str) else "yes" if value else "no"


def _unable(verb: str) -> BackendError:
    return BackendError(
        f"This backend cannot {verb} keys.",
        hint="Use the tools of the key store itself.",
        code="backend-capability-missing",
    )
