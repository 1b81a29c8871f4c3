"""The command `keystay rotate plan|start|promote|finish|abort|status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from keystay.cli.options import client_argument, json_option
from keystay.cli.output import print_data, print_json, print_table, say
from keystay.errors import ConfigurationError, KeystayError

if TYPE_CHECKING:
    from keystay.ops.rotation.rotation import Rotation
    from keystay.tokens.key_state.publication import Publication
    from keystay.tokens.key_state.state import RotationState

__all__ = ["rotate"]

_TYPES = ("P-256", "P-384", "P-521", "RSA-2048", "RSA-3072", "RSA-4096", "Ed25519")
_DRAIN = 300

_url = click.option(
    "--url", metavar="URL", help="Where the set is published; default the client's jwks_url."
)


@click.group()
def rotate() -> None:
    """Replace CLIENT's key without a failed request: start, promote, finish.

    Every command can be interrupted and repeated: it does what is left to do, or says how long to
    wait. None can be run in the wrong order.
    """


@rotate.command()
@client_argument
@_url
@json_option
def plan(client: str | None, url: str | None, as_json: bool) -> None:
    """Show what a rotation would do, and how long it would take. Changes nothing."""
    rotation, url = _rotation(client, url)
    state = rotation.state()
    successor = None if state is None else state.of("next")
    publication, problem = _try_to_look(rotation, url)
    max_age = None if publication is None else publication.max_age
    document: dict[str, Any] = {
        "client": rotation.name,
        "current": rotation.keys.client.key if state is None else state.current.uri,
        "next": rotation.successor_uri() if successor is None else successor.uri,
        "jwks_url": url,
        "jwks_url_problem": problem,
        "cache_seconds": rotation.vendor.cache_seconds(max_age),
        "vendor": rotation.vendor.name,
        "drain_seconds": _DRAIN,
    }
    if as_json:
        print_json(document)
        return
    from keystay.ops.rotation.durations import words

    wait, name = words(document["cache_seconds"]), rotation.name
    print_data(f"client   {name}")
    print_data(f"current  {document['current']}")
    print_data(f"next     {document['next']}")
    print_data(f"set at   {url or 'not known: set jwks_url, or give --url'}")
    print_data(
        f"\n1. keystay rotate start {name}     make the successor, publish both keys\n"
        f"2. keystay rotate promote {name}   {wait} after it was first seen: it signs\n"
        f"3. keystay rotate finish {name}    {words(_DRAIN)} later: the old key leaves the set"
    )
    _tell(problem)


@rotate.command()
@client_argument
@click.option(
    "--key",
    "uri",
    metavar="URI",
    help="The successor, taken if it is there and made if not; relative paths start at "
    "keystay.toml's folder. Default: the current key's name with today's date.",
)
@click.option(
    "--type", "key_type", type=click.Choice(_TYPES), help="What to make; default as the current."
)
@click.option("--algorithm", help="Its JWS algorithm; default by key type.")
@click.option("--kid", help="Its key id; default the thumbprint.")
@_url
@json_option
def start(
    client: str | None,
    uri: str | None,
    key_type: str | None,
    algorithm: str | None,
    kid: str | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Find or make the successor; it goes into the set beside the current key."""
    rotation, url = _rotation(client, url)
    before, problem = _try_to_look(rotation, url)
    state = rotation.start(uri, key_type=key_type, algorithm=algorithm, kid=kid, before=before)
    _print(rotation, state, url, as_json=as_json)
    _tell(problem)


@rotate.command()
@client_argument
@_url
@click.option(
    "--drain",
    type=click.IntRange(0, 86400),
    default=_DRAIN,
    show_default=True,
    help="Seconds that the old key stays published from now on.",
)
@click.option("--force", is_flag=True, help="Whether servers know the successor or not.")
@json_option
def promote(client: str | None, url: str | None, drain: int, force: bool, as_json: bool) -> None:
    """Let the successor sign, once every server can know it.

    Refused until it has been seen at the JWKS URL, and until the time has passed that servers may
    keep an older set: as the URL's Cache-Control says, else what the vendor's servers do (Epic: 29
    hours).

    --force looks at neither. Until a server fetches the set again it refuses every assertion with
    the new kid: no tokens for up to that time. Right when the old key is compromised.
    """
    rotation, url = _rotation(client, url)
    state = rotation.state()
    is_due = state is not None and state.of("next") is not None
    if is_due and not force:
        if url is None:
            raise ConfigurationError(
                "Where the set is published is not known.",
                cause=f"[clients.{rotation.name}] has no jwks_url. With keys registered inline "
                "there is none: register the set with both keys.",
                hint="Give --url URL; or, when the server has both keys, --force.",
                code="rotation-url-missing",
            )
        rotation.see(_look(rotation, url))
    elif is_due:
        say(
            "Forced: a server that has not fetched the set since the successor was published "
            "refuses its assertions until it does."
        )
    state = rotation.promote(drain=drain, force=force)
    _print(rotation, state, url, as_json=as_json)


@rotate.command()
@client_argument
@click.option("--force", is_flag=True, help="Whether the drain time is over or not.")
@_url
@json_option
def finish(client: str | None, force: bool, url: str | None, as_json: bool) -> None:
    """Take the old key out of the set, once its drain time is over.

    --force does it at once: requests under way that the old key has signed are refused. Right when
    it is compromised.
    """
    rotation, url = _rotation(client, url)
    _print(rotation, rotation.finish(force=force), url, as_json=as_json)


@rotate.command()
@client_argument
@_url
@json_option
def abort(client: str | None, url: str | None, as_json: bool) -> None:
    """Give the rotation up.

    Before the promotion the successor leaves the set. After it the old key, published still, signs
    again, and the successor drains. The key itself stays where it is.
    """
    rotation, url = _rotation(client, url)
    _print(rotation, rotation.abort(), url, as_json=as_json)


@rotate.command()
@client_argument
@_url
@json_option
def status(client: str | None, url: str | None, as_json: bool) -> None:
    """Show each key's state, and the time left; notes when the successor is first seen."""
    rotation, url = _rotation(client, url)
    state, problem = rotation.state(), None
    if state is not None and state.of("next") is not None:
        publication, problem = _try_to_look(rotation, url)
        if publication is not None:
            state = rotation.see(publication)
    _print(rotation, state, url, as_json=as_json)
    _tell(problem)


def _rotation(client: str | None, url: str | None) -> tuple[Rotation, str | None]:
    from keystay.config import load_config
    from keystay.ops.rotation.rotation import Rotation

    rotation = Rotation(load_config(), client)
    return rotation, url or rotation.keys.client.jwks_url


def _look(rotation: Rotation, url: str) -> Publication:
    from keystay.cli.publication import look

    return look(rotation.keys.config, rotation.keys.client, url)


def _try_to_look(rotation: Rotation, url: str | None) -> tuple[Publication | None, str | None]:
    """What is published, or why that cannot be told."""
    if url is None:
        return None, None
    try:
        return _look(rotation, url), None
    except ConfigurationError:
        raise
    except KeystayError as error:
        return None, error.message


def _tell(problem: str | None) -> None:
    if problem is not None:
        say(f"What is published could not be seen: {problem}")


def _print(
    rotation: Rotation, state: RotationState | None, url: str | None, *, as_json: bool
) -> None:
    from keystay.cli.rotation_report import next_step, report

    document = report(rotation, state, url)
    if as_json:
        print_json(document)
        return
    print_table(
        [
            {
                "state": key["state"],
                "kid": key["kid"] or ("not made yet" if key["state"] == "next" else "-"),
                "since": key["since"] or "-",
                "key": key["uri"],
            }
            for key in document["keys"]
        ]
    )
    say(next_step(document))
