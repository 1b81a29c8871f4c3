"""The command `keystay jwks`, and `keystay jwks serve|check`."""

from __future__ import annotations

import signal
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keystay.cli.options import client_argument, json_option
from keystay.cli.output import print_data, print_json, print_table, say
from keystay.errors import BackendUnavailableError, ConfigurationError, JWKError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keystay.ops.publishing.comparison import Finding

__all__ = ["jwks"]

# As keystay.ops.publishing has them; that is imported when a command runs.
_PATH = "/.well-known/jwks.json"
_MAX_AGE = 3600


class _Jwks(click.Group):
    """A group that is a command as well: what is no subcommand is a client."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        first = args[0] if args else ""
        if first not in (*self.commands, *ctx.help_option_names):
            args = ["print", *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for usage in ("[CLIENT] [--out FILE]", "serve [CLIENT]...", "check URL [CLIENT]"):
            formatter.write_usage(ctx.command_path, usage)


@click.group(cls=_Jwks)
def jwks() -> None:
    """Print the JWK Set of CLIENT, to publish or to register; serve it; check it.

    The set holds the current key; during a rotation also its successor, or the key that is
    retiring.
    """


@jwks.command("print")
@client_argument
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write it to FILE: readers see the old set or the new, never a part.",
)
def print_(client: str | None, out: Path | None) -> None:
    """Print the JWK Set of CLIENT (also without the word print)."""
    from keystay.config import load_config
    from keystay.files import write_atomically
    from keystay.tokens.key_state.client_keys import published_keys

    text = published_keys(load_config(), client).to_json(indent=2)
    if out is None:
        print_data(text)
        return
    try:
        write_atomically(out, f"{text}\n".encode("ascii"))
    except OSError as error:
        raise ConfigurationError(
            f"{out} cannot be written: {error.strerror}.",
            cause="The folder is missing or read-only, or the disk is full. What was there before "
            "is there still.",
            hint="Check the folder, its permissions and the space left.",
            code="output-unwritable",
        ) from error


@jwks.command()
@click.argument("clients", nargs=-1, metavar="[CLIENT]...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="0 for any that is free.",
)
@click.option("--path", default=_PATH, show_default=True, help="Where the set is.")
@click.option(
    "--max-age",
    type=click.IntRange(0, 86400),
    default=_MAX_AGE,
    show_default=True,
    help="Seconds that servers may keep the set; a promotion waits for as long.",
)
def serve(clients: tuple[str, ...], host: str, port: int, path: str, max_age: int) -> None:
    """Serve the JWK Set of CLIENT over HTTP, until it is stopped.

    Plain HTTP, on loopback by default: put the reverse proxy that has your certificate before it.
    Several clients that share a JWKS URL are served as one set. A rotation shows at once; the keys
    are kept, so that an HSM that is down takes none of them off the net.
    """
    from keystay.config import load_config
    from keystay.ops.publishing.applications import Answers
    from keystay.ops.publishing.server import SetServer
    from keystay.ops.publishing.source import KeySource

    signal.signal(signal.SIGTERM, _stop)
    with suppress(KeyboardInterrupt):
        source = KeySource(load_config(), clients)
        source.keys()  # what is wrong is better said now than to the first server that asks
        with SetServer(Answers(source, path=path, max_age=max_age), host, port) as server:
            print_data(f"{server.origin}{path}")
            say("Serving; stop with Ctrl-C.")
            server.serve_forever()


@jwks.command()
@click.argument("url")
@client_argument
@json_option
def check(url: str, client: str | None, as_json: bool) -> None:
    """Compare what URL publishes with the keys of CLIENT where they live."""
    from keystay.cli.publication import look
    from keystay.config import load_config
    from keystay.ops.publishing.comparison import compare
    from keystay.tokens.key_state.client_keys import ClientKeys

    config = load_config()
    # Also with a key that policy refuses: it is published until another has taken its place.
    keys = ClientKeys(config.unenforced(), client)
    publication = look(config, keys.client, url)
    findings = compare(keys, publication)
    if as_json:
        print_json(
            {
                "url": url,
                "max_age": publication.max_age,
                "keys": [asdict(finding) for finding in findings],
            }
        )
    else:
        print_table(
            [
                {
                    "kid": finding.kid or "?",
                    "state": finding.state or "-",
                    "verdict": finding.verdict,
                    "detail": finding.detail,
                }
                for finding in findings
            ]
        )
    _judge(url, findings)


def _judge(url: str, findings: Sequence[Finding]) -> None:
    """Fail when the set is wrong, or a key could not be confirmed."""
    from keystay.ops.publishing.comparison import worst

    verdict = worst(findings)
    if verdict == "ok":
        return
    kids = ", ".join(f.kid or "the current key" for f in findings if f.verdict == verdict)
    if verdict == "unconfirmed":
        raise BackendUnavailableError(
            f"What is published is right as far as it can be told; not confirmed: {kids}.",
            cause="A backend does not answer. Its keys are compared as they were kept.",
            hint="Repeat when the backend is back; keystay key show URI says what is wrong.",
            code="jwks-unconfirmed",
        )
    raise JWKError(
        f"{url} does not publish what it should; {verdict}: {kids}.",
        cause={
            "missing": "The set was published before the key became the client's, or elsewhere.",
            "differs": "An old set is published, or one made for another algorithm, or a backend "
            "holds another key than it did.",
            "retired": "The set was not published again after keystay rotate finish.",
        }[verdict],
        hint="Publish the set again (keystay jwks CLIENT --out FILE) and purge the caches before "
        "the URL.",
        code="jwks-mismatch",
    )


def _stop(*_: object) -> None:
    raise KeyboardInterrupt
