"""The steps of a rotation, as functions from state to state: no file, no clock, no network.

Each may be repeated: done already, it returns the state as it is. Out of order it refuses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec

from keystay.errors import RotationError
from keystay.ops.rotation.durations import words
from keystay.smart.vendors import Vendor
from keystay.tokens.key_state.publication import Publication
from keystay.tokens.key_state.state import RotationKey, RotationState

__all__ = ["Waiting", "abort", "finish", "promote", "see", "start", "waiting"]

DRAIN = 300
"""Seconds that a key stays published after its last use: the longest life of an assertion."""

# Clocks are set back by a little all the time; times are kept in whole seconds, rounded up.
_TOLERANCE = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Waiting:
    """How long something still has to wait.

    Attributes:
        seconds: From now, 0 when it is over.
        total: The whole wait.
        why: What is waited for.
    """

    seconds: int
    total: int
    why: str


def moment(now: datetime) -> datetime:
    """A time as the state keeps it: UTC, whole seconds, never before `now`."""
    whole = now.astimezone(UTC).replace(microsecond=0)
    return whole if whole == now else whole + timedelta(seconds=1)


def start(state: RotationState, successor: RotationKey) -> RotationState:
    """Give the client a successor, to be published beside the current key.

    Raises:
        RotationError: Another rotation is under way.
    """
    refuse_under_way(state)
    return state.with_keys(state.current, successor, state.of("retiring"))


def refuse_under_way(state: RotationState) -> None:
    """Raise `RotationError` when no rotation can begin now."""
    if retiring := state.of("retiring"):
        raise RotationError(
            f"The key {retiring.kid} of {state.client} is still retiring.",
            cause="The last rotation is not finished.",
            hint=f"keystay rotate finish {state.client}",
            code="rotation-unfinished",
        )


def see(
    state: RotationState, publication: Publication, vendor: Vendor, now: datetime
) -> RotationState:
    """Note whether the successor is published, since when, and for how long caches may not know.

    A successor that is gone again starts anew. So does one whose time lies in the future: the
    clock was set back, and nobody knows how much time has passed.
    """
    successor = state.of("next")
    if successor is None or successor.jwk is None:
        return state
    seconds = vendor.cache_seconds(publication.max_age)
    source = (
        f"the longest that {vendor.name} servers keep a set without Cache-Control"
        if publication.max_age is None
        else f"Cache-Control at {publication.url}"
    )
    changes: dict[str, object] = {}
    if successor.cache_seconds is None or seconds > successor.cache_seconds:
        # The longest ever seen counts: the set from before the successor may be kept that long.
        changes = {"cache_seconds": seconds, "cache_from": source}
    if not publication.holds(successor.jwk):
        changes |= {"seen": None, "seen_at": None}
    elif (
        successor.seen is None
        or successor.seen_at != publication.url
        or now < successor.seen - _TOLERANCE
    ):
        changes |= {"seen": moment(now), "seen_at": publication.url}
    changed = msgspec.structs.replace(successor, **changes)
    return state.with_keys(state.current, changed, state.of("retiring"))


def promote(
    state: RotationState, now: datetime, *, drain: int = DRAIN, force: bool = False
) -> RotationState:
    """Let the successor sign, and the current key retire.

    Args:
        state: With what `see` has noted.
        now: The time.
        drain: Seconds that the current key stays published from now on, at least.
        force: Neither look at the URL's state nor at the time.

    Raises:
        RotationError: There is no successor, it is not published, or caches may not have it yet.
    """
    client, successor = state.client, state.of("next")
    if successor is None:
        retiring = state.of("retiring")
        if retiring is not None and not retiring.aborted:
            return state
        raise _not_started(client)
    if not successor.made:
        raise RotationError(
            f"The successor of {client}'s key is not made yet.",
            cause="keystay rotate start was interrupted.",
            hint=f"Repeat it: keystay rotate start {client}",
            code="rotation-not-started",
        )
    if not force:
        _refuse_early(state, successor, now)
    since = moment(now)
    return state.with_keys(
        RotationKey(
            state="current", since=since, uri=successor.uri, kid=successor.kid,
            created=successor.created,
            algorithm=successor.algorithm, jwk=successor.jwk,
        ),
        msgspec.structs.replace(
            state.current, state="retiring", since=since, drain_seconds=drain
        ),
    )  # fmt: skip


def finish(state: RotationState, now: datetime, *, force: bool = False) -> RotationState:
    """Take the retiring key out of the set.

    Raises:
        RotationError: The successor is not promoted, or the drain time is not over.
    """
    if state.of("next") is not None:
        raise RotationError(
            f"The successor of {state.client}'s key is not promoted.",
            hint=f"First keystay rotate promote {state.client}; keystay rotate abort "
            f"{state.client} gives the rotation up.",
            code="rotation-not-promoted",
        )
    retiring = state.of("retiring")
    if retiring is None:
        return state
    drain = retiring.drain_seconds
    left = _left(retiring.since, drain, now)
    if left and not force:
        raise RotationError(
            f"The key {retiring.kid} has to stay published for another {words(left)}.",
            cause=f"What it has signed may be under way for {words(drain)} after the promotion, "
            "and servers look its kid up.",
            hint=f"Repeat keystay rotate finish {state.client} then. If the key is compromised: "
            "--force.",
            code="rotation-draining",
        )
    return state.with_keys(state.current, _retired(retiring, now))


def abort(state: RotationState, now: datetime) -> RotationState:
    """Give the rotation up.

    Before the promotion the successor leaves the set: it has signed nothing. After it, the old
    key, which is still published, signs again, and the successor drains like any other.
    """
    successor, retiring = state.of("next"), state.of("retiring")
    if successor is not None:
        gone = msgspec.structs.replace(_retired(successor, now), aborted=True)
        return state.with_keys(state.current, retiring, gone)
    if retiring is None or retiring.aborted:
        return state
    since = moment(now)
    return state.with_keys(
        msgspec.structs.replace(retiring, state="current", since=since, drain_seconds=0),
        msgspec.structs.replace(
            state.current,
            state="retiring",
            since=since,
            drain_seconds=retiring.drain_seconds,
            aborted=True,
        ),
    )


def waiting(state: RotationState, now: datetime) -> Waiting | None:
    """What the rotation waits for; None when the next step is somebody's to take."""
    successor, retiring = state.of("next"), state.of("retiring")
    if successor is not None and successor.seen is not None:
        total = successor.cache_seconds or 0
        return Waiting(_left(successor.seen, total, now), total, successor.cache_from or "")
    if successor is None and retiring is not None:
        drain = retiring.drain_seconds
        return Waiting(_left(retiring.since, drain, now), drain, "the drain time")
    return None


def _refuse_early(state: RotationState, successor: RotationKey, now: datetime) -> None:
    client = state.client
    if successor.seen is None:
        raise RotationError(
            f"The successor {successor.kid} of {client}'s key is not published.",
            cause="A server that cannot find its kid refuses every assertion it signs.",
            hint="Publish the set as it is now (keystay jwks serve does it by itself; else keystay "
            f"jwks {client} --out FILE), then repeat keystay rotate promote {client}.",
            code="rotation-not-published",
        )
    total = successor.cache_seconds or 0
    if left := _left(successor.seen, total, now):
        raise RotationError(
            f"Servers may not know the successor {successor.kid} for another {words(left)}.",
            cause=f"It was first seen at {successor.seen_at} on {successor.seen:%F %T} UTC; a set "
            f"from before may be kept for {words(total)} ({successor.cache_from}).",
            hint=f"Repeat keystay rotate promote {client} then.",
            code="rotation-too-early",
        )


def _left(since: datetime, total: int, now: datetime) -> int:
    """Seconds left of a time; a clock that was set back shortens nothing."""
    return max(0, math.ceil(total - max((now - since).total_seconds(), 0)))


def _retired(key: RotationKey, now: datetime) -> RotationKey:
    return RotationKey(
        state="retired", since=moment(now), uri=key.uri, kid=key.kid, algorithm=key.algorithm,
        aborted=key.aborted,
    )  # fmt: skip


def _not_started(client: str) -> RotationError:
    return RotationError(
        f"No rotation of {client}'s key is under way.",
        hint=f"keystay rotate start {client}",
        code="rotation-not-started",
    )
