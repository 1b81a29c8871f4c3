"""What the formats for people say, in the same words."""

from __future__ import annotations

from typing import Any

from keystay.ops.publishing.comparison import worst
from keystay.ops.report.examination import Examination

__all__ = ["DIGEST_NOTE", "EVIDENCE", "about", "facts", "publication", "summary", "yes_no"]

EVIDENCE = (
    "asserted: the configuration says so. reported: the device or service says so. attested: a "
    "signed statement that was verified says so. measured: keystay looked itself."
)
DIGEST_NOTE = (
    "SHA-256 of this file, computed while the 64 digits are zeros; keystay report --verify FILE "
    "checks it. Note it elsewhere: who changes the file can compute it anew."
)


def summary(satisfied: int, clients: int) -> str:
    """The verdict on all."""
    if satisfied == clients:
        return (
            f"All {clients} keys are what their policy demands."
            if clients > 1
            else ("The key is what its policy demands.")
        )
    return f"{satisfied} of {clients} keys are what their policy demands."


def yes_no(value: object) -> str:
    """A fact's value in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def about(client: Examination) -> dict[str, str]:
    """What there is to say of a client and its key, by name."""
    rows = {
        "FHIR server": client.fhir_base_url,
        "Client id": client.client_id,
        "Key URI": client.uri,
    }
    key = client.key
    if key:
        rows |= {
            "Key": f"{key['key_type']}, {key['key_id']}",
            "Key id (kid)": key["kid"],
            "Thumbprint (RFC 7638)": key["thumbprint"],
            "Signs with": f"{key['algorithm']} (can do {', '.join(key['algorithms'])})",
        }
        rows["Made"] = (
            "not known: the backend does not say"
            if client.created is None
            else f"{client.created['value']}, {client.age_days} days ago "
            f"({client.created['evidence']})"
        )
    return rows


def facts(client: Examination) -> list[tuple[str, str, str]]:
    """Name, value and evidence of each fact."""
    custody: dict[str, Any] = client.key.get("custody", {})
    return [
        (name.replace("_", " "), yes_no(fact["value"]), fact["evidence"])
        for name, fact in custody.get("facts", {}).items()
    ]


def publication(client: Examination) -> str:
    """Where the key is published, in a sentence."""
    if client.published_at is None:
        return "The client has no JWKS URL: its key is registered by hand."
    if client.publication_error is not None:
        return f"{client.published_at}: {client.publication_error.message}"
    if not client.published:
        return f"{client.published_at} was not asked."
    verdict = worst(client.published)
    if verdict == "ok":
        said = f"What {client.published_at} publishes matches the keys where they live."
    elif verdict == "unconfirmed":
        said = (
            f"What {client.published_at} publishes is right as far as it can be told; not every "
            "key could be confirmed where it lives."
        )
    else:
        said = f"What {client.published_at} publishes does not match the keys where they live."
    if others := sum(finding.verdict == "unknown" for finding in client.published):
        what = "a key that is" if others == 1 else f"{others} keys that are"
        said += f" It publishes {what} not this client's as well."
    return said
