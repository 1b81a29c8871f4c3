"""How a rotation stands, as data and in a sentence."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from keystay.ops.rotation.durations import words
from keystay.ops.rotation.steps import waiting

if TYPE_CHECKING:
    from keystay.ops.rotation.rotation import Rotation
    from keystay.tokens.key_state.state import RotationState

__all__ = ["next_step", "report"]


def report(rotation: Rotation, state: RotationState | None, url: str | None) -> dict[str, Any]:
    """A rotation as plain data; without a state file, the configured key alone.

    `phase` is `none`, `making`, `publishing` (the successor is not seen yet), `caching`,
    `promotable`, `draining` or `finishable`; `seconds_left` is to the next of them.
    """
    now = rotation.now
    if state is None:
        key: dict[str, Any] = {
            "state": "current",
            "kid": None,
            "since": None,
            "created": None,
            "uri": rotation.keys.client.key,
        }
        key |= {"algorithm": rotation.keys.client.algorithm, "aborted": False}
        return _document(rotation, url, "none", None, [key])
    successor = state.of("next")
    wait = waiting(state, now)
    left = None if wait is None else wait.seconds
    if successor is not None and not successor.made:
        phase = "making"
    elif successor is not None:
        phase = "publishing" if wait is None else "caching" if left else "promotable"
    elif wait is not None:
        phase = "draining" if left else "finishable"
    else:
        phase = "none"
    keys = [
        {
            "state": key.state,
            "kid": key.kid,
            "since": _text(key.since),
            "created": None if key.created is None else _text(key.created),
            "uri": key.uri,
            "algorithm": key.algorithm,
            "aborted": key.aborted,
        }
        for key in state.keys
    ]
    document = _document(rotation, url, phase, left, keys)
    if successor is not None and successor.made:
        document["successor"] = {
            "seen": None if successor.seen is None else _text(successor.seen),
            "seen_at": successor.seen_at,
            "cache_seconds": successor.cache_seconds,
            "cache_from": successor.cache_from,
        }
    return document


def next_step(document: dict[str, Any]) -> str:
    """What comes next, and when."""
    client, left = document["client"], document["seconds_left"]
    soon = words(left or 0)
    current = next(key["uri"] for key in document["keys"] if key["state"] == "current")
    return {
        "none": f"No rotation is under way. To begin one: keystay rotate start {client}"
        if current == document["configured_key"]
        else f'The rotation is done. Into keystay.toml, when convenient: key = "{current}"',
        "making": f"The successor is not made yet. Next: keystay rotate start {client} (with --key "
        "URI for another)",
        "publishing": "The successor has not been seen at "
        f"{document['jwks_url'] or 'the JWKS URL (set jwks_url, or give --url)'}. Publish the set, "
        f"then: keystay rotate promote {client}",
        "caching": f"Servers may not know the successor for another {soon}. Then: keystay rotate "
        f"promote {client}",
        "promotable": f"Every server can know the successor. Next: keystay rotate promote {client}",
        "draining": f"The old key stays published for another {soon}. Then: keystay rotate finish "
        f"{client}",
        "finishable": f"The drain time is over. Next: keystay rotate finish {client}",
    }[document["phase"]]


def _document(
    rotation: Rotation, url: str | None, phase: str, left: int | None, keys: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "client": rotation.name,
        "configured_key": rotation.keys.client.key,
        "phase": phase,
        "seconds_left": left,
        "jwks_url": url,
        "keys": keys,
    }


def _text(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
