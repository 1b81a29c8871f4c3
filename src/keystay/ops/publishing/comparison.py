"""Compares what is published with what the backends hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from keystay.errors import ConfigurationError, KeyChangedError, KeystayError
from keystay.jwk import public_jwk
from keystay.ops.publishing.kept_key import KeptKey

if TYPE_CHECKING:
    from keystay.signer import Signer
    from keystay.tokens.key_state.client_keys import ClientKeys
    from keystay.tokens.key_state.publication import Publication

__all__ = ["Finding", "compare", "worst"]

Verdict = Literal["ok", "missing", "differs", "unconfirmed", "retired", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What is to be said of one key.

    Attributes:
        kid: Its key id; None where even that is not known.
        state: Where it is in its life; None for a published key that is not this client's.
        verdict: `ok`; `missing` from what is published; `differs`: published or held under this
            kid is another key, or one for another use; `unconfirmed`: its backend does not answer;
            `retired`: published though it should be gone; `unknown`: published, and not this
            client's.
        detail: In words.
        code: Of the error that kept the key from being confirmed, or None.
    """

    kid: str | None
    state: str | None
    verdict: Verdict
    detail: str
    code: str | None = None


def compare(keys: ClientKeys, publication: Publication) -> list[Finding]:
    """A finding for each key that should be published, and for each that is.

    Each key is opened where it lives. One that cannot be opened is still looked for in what is
    published, by its public part if that was kept.

    Raises:
        ConfigurationError: The client's keys cannot be told.
    """
    findings = list(_findings(keys, publication))
    known = {finding.kid for finding in findings}
    state = keys.state()
    retired = {key.kid for key in state.keys if key.state == "retired"} if state else set()
    for jwk in publication.keys:
        kid = jwk["kid"]
        if kid in known:
            continue
        if kid in retired:
            detail = "retired, and published all the same"
            findings.append(Finding(kid, "retired", "retired", detail))
        else:
            findings.append(Finding(kid, None, "unknown", "published, and not this client's"))
    return findings


def _findings(keys: ClientKeys, publication: Publication) -> Iterator[Finding]:
    published = keys.published()
    if published is None:
        yield _look(publication, "current", KeptKey(keys).load(), keys.open_current)
        return
    for key in published:
        yield _look(publication, key.state, key.jwk, partial(keys.open, key))


def _look(
    publication: Publication,
    state: str,
    kept: Mapping[str, Any] | None,
    open_key: Callable[[], Signer],
) -> Finding:
    held, error = _held(open_key)
    jwk = held or kept
    kid = None if jwk is None else str(jwk["kid"])
    if isinstance(error, KeyChangedError):
        return Finding(kid, state, "differs", "its backend holds another key", error.code)
    if jwk is not None and (fault := publication.fault(jwk)) is not None:
        is_there = publication.find(str(kid)) is not None
        return Finding(kid, state, "differs" if is_there else "missing", fault)
    if error is not None:
        where = "published; " if jwk is not None else ""
        detail = f"{where}its backend does not confirm it: {error.message}"
        return Finding(kid, state, "unconfirmed", detail, error.code)
    return Finding(kid, state, "ok", "published, and held by its backend")


def _held(open_key: Callable[[], Signer]) -> tuple[Mapping[str, Any] | None, KeystayError | None]:
    try:
        with open_key() as signer:
            return public_jwk(signer.public_key, kid=signer.kid, algorithm=signer.algorithm), None
    except ConfigurationError:
        raise  # that is nobody's outage
    except KeystayError as error:
        return None, error


def worst(findings: Sequence[Finding]) -> Verdict:
    """The verdict that counts: a wrong set before one that is not confirmed."""
    order: tuple[Verdict, ...] = ("differs", "missing", "retired", "unconfirmed")
    found = {finding.verdict for finding in findings}
    return next((verdict for verdict in order if verdict in found), "ok")
