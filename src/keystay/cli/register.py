"""The command `keystay register`."""

from __future__ import annotations

import json
import shlex
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keystay.cli import registration_file
from keystay.cli.options import client_argument, json_option
from keystay.cli.output import print_data, print_json, say
from keystay.errors import ConfigurationError

if TYPE_CHECKING:
    from keystay.config import ClientConfig, Config
    from keystay.ops.registration.registration import Registration

__all__ = ["register"]

_FILE = click.Path(path_type=Path, dir_okay=False)

# Options that would be ignored.
_UNFIT: dict[str, tuple[str, ...]] = {
    "save": (),
    "no_save": (),
    "read": ("endpoint", "initial_token", "jwks_url", "inline", "name", "metadata"),
    "update": ("endpoint", "initial_token"),
    "delete": ("endpoint", "initial_token", "jwks_url", "inline", "name", "metadata"),
}


@click.command()
@client_argument
@click.option("--endpoint", metavar="URL", help="The registration endpoint; default discovered.")
@click.option(
    "--initial-token", metavar="REF", help="Reference to the initial access token: file:PATH, env:…"
)
@click.option("--jwks-url", metavar="URL", help="Register this URL instead of the keys.")
@click.option("--inline", is_flag=True, help="Register the keys, even if jwks_url is configured.")
@click.option("--name", help="What the server's administrators see; default CLIENT.")
@click.option("--metadata", metavar="FILE", type=_FILE, help="JSON object with further members.")
@click.option("--save", metavar="FILE", type=_FILE, help="Where the management token is kept.")
@click.option("--no-save", is_flag=True, help="Drop the management token, if one is issued.")
@click.option("--read", metavar="FILE", type=_FILE, help="Show what is registered now.")
@click.option("--update", metavar="FILE", type=_FILE, help="Register keys, scope and name anew.")
@click.option("--delete", metavar="FILE", type=_FILE, help="Delete the client at the server.")
@json_option
def register(client: str | None, as_json: bool, **options: Any) -> None:
    """Register CLIENT with its server, and print the client_id.

    CLIENT is described in keystay.toml as ever, without a client_id. --save FILE keeps what the
    server gives for later changes; with that file --read, --update and --delete work, if the
    server has them. The file holds a token: who has it can replace the client's keys.
    """
    from keystay.config import load_config

    chosen = [name for name in ("save", "no_save", "read", "update", "delete") if options[name]]
    if len(chosen) > 1:
        raise ConfigurationError(
            "--save, --no-save, --read, --update and --delete exclude each other.",
            hint="Give one of them.",
            code="usage",
        )
    if not chosen:
        raise ConfigurationError(
            "One of --save FILE, --no-save, --read FILE, --update FILE and --delete FILE is "
            "needed.",
            cause="The server may issue a management token, once: it has to go somewhere.",
            hint="keystay register CLIENT --save client.registration.json",
            code="registration-save-missing",
        )
    for name in _UNFIT[chosen[0]]:
        if options[name]:
            raise ConfigurationError(
                f"--{name.replace('_', '-')} means nothing beside --{chosen[0]}.",
                hint="Leave it out.",
                code="usage",
            )
    if options["inline"] and options["jwks_url"]:
        raise ConfigurationError("--inline and --jwks-url exclude each other.", code="usage")
    config = load_config()
    job = _Job(config, client, options, as_json=as_json)
    if chosen[0] in ("save", "no_save"):
        job.create(options["save"])
    else:
        getattr(job, chosen[0])(options[chosen[0]])


class _Job:
    """One client, and what is to be done with its registration."""

    def __init__(
        self, config: Config, name: str | None, options: dict[str, Any], *, as_json: bool
    ) -> None:
        self._config, self._name, self._options, self._json = config, name, options, as_json
        self._client: ClientConfig = config.client(name)
        self._title = config.client_name(name)
        self._insecure = self._client.allow_insecure_loopback

    def create(self, path: Path | None) -> None:
        """Register; the file is there before the server is asked."""
        from keystay.ops.registration.calls import register_client
        from keystay.tokens.key_state.client_keys import published_keys

        client = self._client
        if client.client_id is not None:
            raise ConfigurationError(
                f"The client has the client_id {client.client_id!r}: it is registered.",
                hint="Use --update FILE to change that; leave client_id out to register another.",
                code="client-registered",
            )
        keys = published_keys(self._config, self._name)
        with nullcontext() if path is None else registration_file.claimed(path):
            found = register_client(
                client.fhir_base_url,
                keys=keys,
                jwks_uri=self._jwks_uri,
                scope=client.scope,
                scope_style=client.scope_style,
                client_name=self._options["name"] or self._title,
                metadata=self._metadata,
                registration_endpoint=self._options["endpoint"],
                initial_token=self._options["initial_token"],
                allow_insecure_loopback=self._insecure,
                http=self._config.http,
            )
            managed = found.registration_access_token is not None
            if path is not None and managed:
                registration_file.replace(path, found)
        if not self._json:
            self._tell_token(path, managed=managed)
            self._tell_next(found)
        self._print(found, saved=path if managed else None)

    def read(self, path: Path) -> None:
        """Show what is registered, and what changed since."""
        found = self._read(path)
        self._print(found, saved=path, whole=True)

    def update(self, path: Path) -> None:
        """Register keys, scope and what else was given anew."""
        from keystay.ops.registration.calls import update_client

        changes = self._changes()
        before = self._read(path)
        found = update_client(
            before, changes, allow_insecure_loopback=self._insecure, http=self._config.http
        )
        registration_file.replace(path, found)
        self._print(found, saved=path)

    def delete(self, path: Path) -> None:
        """Delete the client at the server, and the file with the token that is void now."""
        from keystay.ops.registration.calls import delete_client

        found = self._load(path)
        delete_client(found, allow_insecure_loopback=self._insecure, http=self._config.http)
        registration_file.remove(path)
        if not self._json:
            say(f"Deleted at {found.registration_endpoint}; {path} is removed.")
            say("Take its client_id out of the configuration.")
        self._print(replace(found, metadata={}), saved=None)

    @property
    def _jwks_uri(self) -> str | None:
        if self._options["inline"]:
            return None
        url: str | None = self._options["jwks_url"] or self._client.jwks_url
        return url

    @property
    def _metadata(self) -> dict[str, Any]:
        path = self._options["metadata"]
        if path is None:
            return {}
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ConfigurationError(
                f"{path} cannot be read as a JSON object.",
                hint='Write client metadata (RFC 7591 §2): {"contacts": ["it@hospital.example"]}.',
                code="registration-metadata-invalid",
            )
        return found

    def _changes(self) -> dict[str, Any]:
        from keystay.ops.registration.client_metadata import backend_services
        from keystay.smart.scopes import advertised_style, convert, normalise
        from keystay.tokens.client import discover
        from keystay.tokens.key_state.client_keys import published_keys

        client, style = self._client, self._client.scope_style
        if style == "auto":
            found = discover(
                client.fhir_base_url,
                allow_insecure_loopback=self._insecure,
                http=self._config.http,
            )
            style = advertised_style(found.capabilities)
        metadata = backend_services(
            published_keys(self._config, self._name),
            jwks_uri=self._jwks_uri,
            scope=convert(normalise(client.scope), style),
            client_name=self._options["name"],
            extra=self._metadata,
        )
        # Not named when the keys differ in it, so it must not stay from before.
        return {"token_endpoint_auth_signing_alg": None, **metadata}

    def _load(self, path: Path) -> Registration:
        found = registration_file.load(path)
        if self._client.client_id not in (None, found.client_id):
            raise ConfigurationError(
                f"{path} is about client_id {found.client_id!r}, and the client has "
                f"{self._client.client_id!r}.",
                hint="Name the other client, or the other file.",
                code="registration-client-differs",
            )
        return found

    def _read(self, path: Path) -> Registration:
        """What the server says, its token kept at once: reading may have replaced it."""
        from keystay.ops.registration.calls import read_client

        before = self._load(path)
        found = read_client(before, allow_insecure_loopback=self._insecure, http=self._config.http)
        registration_file.replace(path, found)
        return found

    def _print(self, found: Registration, *, saved: Path | None, whole: bool = False) -> None:
        if self._json:
            print_json(
                {
                    "client_id": found.client_id,
                    "registration_endpoint": found.registration_endpoint,
                    "registration_client_uri": found.registration_client_uri,
                    "saved": None if saved is None else str(saved),
                    "differences": [asdict(difference) for difference in found.differences],
                    "warnings": list(found.warnings),
                    "metadata": dict(found.metadata),
                }
            )
            return
        for warning in found.warnings:
            say(f"Warning: {warning}")
        if found.differences:
            say("Registered otherwise than " + ("known:" if whole else "asked:"))
        for difference in found.differences:
            say(f"  {difference}")
        if whole:
            print_json({"client_id": found.client_id, **found.metadata})
        else:
            print_data(found.client_id)

    def _tell_token(self, path: Path | None, *, managed: bool) -> None:
        if not managed:
            say("The server gave no management token: change the client in its portal.")
        elif path is None:
            say("The management token was dropped: change the client in the server's portal.")
        else:
            say(f"The management token is in {path}: keep it as you keep keys.")

    def _tell_next(self, found: Registration) -> None:
        url = self._jwks_uri
        # A printable string in JSON is one in TOML as well.
        lines = [f"client_id = {json.dumps(found.client_id, ensure_ascii=False)}"]
        if url is not None and url != self._client.jwks_url:
            lines.append(f"jwks_url = {json.dumps(url)}")
        if self._title is None:
            say(f"Next: export KEYSTAY_CLIENT_ID={shlex.quote(found.client_id)}")
            return
        say(f"Next: write into [clients.{self._title}] of {self._config.path}:")
        for line in lines:
            say(f"  {line}")
