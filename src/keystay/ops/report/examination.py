"""Examines one client: opens its key, whatever policy says of it, and writes down what is so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from keystay.config import ClientConfig, Config
from keystay.errors import KeystayError
from keystay.jwk import public_jwk, thumbprint
from keystay.key_uri import redact
from keystay.ops.publishing.comparison import Finding as Published
from keystay.ops.publishing.comparison import compare
from keystay.tokens.key_state.client_keys import ClientKeys
from keystay.tokens.key_state.publication import Publication

if TYPE_CHECKING:
    from keystay.policy import Finding
    from keystay.signer import Signer

__all__ = ["Examination", "Look", "examine"]

Look = Callable[[Config, ClientConfig, str], Publication]
"""Asks a JWKS URL what is published there."""


@dataclass
class Examination:
    """What is so about one client.

    Attributes:
        name: The client's name; empty for the one that the environment describes.
        client_id: Issued at registration.
        fhir_base_url: The FHIR server.
        uri: The key URI, without anything secret.
        key: What the backend says of the key; empty if it could not be opened.
        created: When the key was made, and how that is known; None if nobody says.
        age_days: Since then.
        findings: Each rule of the policy, and how the key stands to it.
        rotation: Each of the client's keys and where it is in its life; empty without rotation.
        published_at: The JWKS URL, or None.
        published: What is published there, compared with the keys where they live.
        error: Why the key could not be opened, or None.
        publication_error: Why the JWKS URL could not be asked, or None.
    """

    name: str
    client_id: str
    fhir_base_url: str
    uri: str
    key: dict[str, Any] = field(default_factory=dict)
    created: dict[str, Any] | None = None
    age_days: int | None = None
    findings: list[Finding] = field(default_factory=list)
    rotation: list[dict[str, Any]] = field(default_factory=list)
    published_at: str | None = None
    published: list[Published] = field(default_factory=list)
    error: KeystayError | None = None
    publication_error: KeystayError | None = None

    @property
    def satisfied(self) -> bool:
        """Whether the key is known, and all that the policy demands."""
        return self.error is None and all(finding.satisfied for finding in self.findings)


def examine(config: Config, name: str | None = None, *, look: Look | None = None) -> Examination:
    """Examine one client.

    Args:
        config: A loaded configuration.
        name: The client; as for `Config.client`.
        look: Asks its JWKS URL; None not to ask. A policy that requires publication cannot be
            satisfied then.

    Raises:
        ConfigurationError: There is no such client.
    """
    client = config.client(name)
    policy = config.policy_of(client)
    keys = ClientKeys(config.unenforced(), config.client_name(name))
    found = Examination(
        keys.name or "",
        client.client_id or "unregistered",
        client.fhir_base_url,
        redact(client.key),
    )
    try:
        state = keys.state()
        if state is not None:
            found.uri = redact(state.current.uri)
            found.rotation = [
                {"kid": k.kid, "state": k.state, "since": k.since.isoformat(), "uri": redact(k.uri)}
                for k in state.keys
            ]
        with keys.open_current() as signer:
            _describe(found, signer)
            found.findings = policy.check(signer.subject)
            jwk = public_jwk(signer.public_key, kid=signer.kid, algorithm=signer.algorithm)
    except KeystayError as error:
        found.error = error
        jwk = None
    found.published_at = client.jwks_url
    publication = None
    if look is not None and client.jwks_url is not None:
        try:
            publication = look(config, client, client.jwks_url)
            found.published = compare(keys, publication)
        except KeystayError as error:
            found.publication_error = error
    if policy.require_published and jwk is not None:
        found.findings.append(_published(found, publication, jwk))
    return found


def _describe(found: Examination, signer: Signer) -> None:
    subject, age = signer.subject, signer.subject.age()
    found.key = {
        "key_id": signer.key_id,
        "key_type": signer.key_type,
        "kid": signer.kid,
        "thumbprint": thumbprint(public_jwk(signer.public_key)),
        "algorithm": signer.algorithm,
        "algorithms": list(signer.algorithms),
        "custody": signer.custody.to_dict(),
    }
    if subject.created is not None:
        found.created = {"value": subject.created.value, "evidence": subject.created.evidence}
    found.age_days = None if age is None else age.days


def _published(found: Examination, publication: Publication | None, jwk: dict[str, Any]) -> Finding:
    from keystay.policy import Finding

    if publication is not None:
        is_there = publication.holds(jwk)
        what = f"it is {'' if is_there else 'not '}published at {publication.url}"
        return Finding("require_published", "true", what, "measured", is_there)
    error = found.publication_error
    why = (
        "there is no jwks_url" if found.published_at is None
        else "it was not asked" if error is None
        else error.message
    )  # fmt: skip
    return Finding("require_published", "true", f"that is not known: {why}", "unknown", False)


def every_name(config: Config) -> Sequence[str | None]:
    """The names of all clients; None stands for the environment's."""
    environment: list[str | None] = [] if config.environment_client is None else [None]
    return [*environment, *config.clients]
