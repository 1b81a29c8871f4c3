"""Reads keystay.toml, and tells a fault with file, line where it can be found, key and remedy."""

from __future__ import annotations

from pathlib import Path

import msgspec

from keystay.config.checks import faults
from keystay.config.models import ClientConfig, File, PolicyConfig
from keystay.config.policy_table import read_policy
from keystay.config.source import Source
from keystay.http.settings import HttpSettings, http_faults

__all__ = ["read_file"]


def read_file(path: Path) -> File:
    """Read and check the file.

    Raises:
        ConfigurationError: It is missing, unreadable, or something in it cannot be.
    """
    source = Source(path)
    document = source.document
    source.refuse_unknown((), document, File)
    clients = source.table(document, "clients")
    http = source.convert(("http",), source.table(document, "http"), HttpSettings)
    policy = read_policy(source, ("policy",), source.table(document, "policy"))
    file = File(
        clients={name: _client(source, name, table, policy) for name, table in clients.items()},
        http=http,
        policy=policy,
        backends=source.tables(document, "backends"),
        observers=source.tables(document, "observers"),
    )
    for name, client in file.clients.items():
        for key, error in faults(client):
            raise source.fault(
                ("clients", name),
                key,
                error.message,
                cause=error.cause,
                hint=error.hint,
                code=error.code,
            )
    for key, error in http_faults(http):
        raise source.fault(("http",), key, error.message, hint=error.hint, code=error.code)
    return file


def _client(source: Source, name: str, table: object, policy: PolicyConfig) -> ClientConfig:
    where = ("clients", name)
    if not isinstance(table, dict) or "policy" not in table:
        return source.convert(where, table, ClientConfig)
    rest = {key: value for key, value in table.items() if key != "policy"}
    client = source.convert(where, rest, ClientConfig)
    own = read_policy(source, (*where, "policy"), source.table(table, "policy", where), policy)
    return msgspec.structs.replace(client, policy=own)
