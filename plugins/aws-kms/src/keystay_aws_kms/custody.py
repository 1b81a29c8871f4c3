"""Where a KMS key is while it signs, as far as KMS says.

| what we see                      | location       | source                                 |
|----------------------------------|----------------|----------------------------------------|
| an endpoint on this machine      | other-process  | nobody vouches for it: an emulator     |
| a host name that is not AWS's    | remote-service | whoever runs it, not AWS               |
| KMS answers, whatever the origin | remote-service | KMS API reference, KeyMetadata: Origin |

That a key is in an HSM is what AWS says of its service; no answer shows it of this key, so the
location is never `hardware`. The origin, the custom key store and its CloudHSM cluster or external
key manager are facts beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystay.custody import Custody, Fact
from keystay_aws_kms.settings import is_aws, is_loopback

if TYPE_CHECKING:
    from keystay_aws_kms.metadata import KeyMetadata

__all__ = ["custody_of"]

# KMS API reference, KeyMetadata: Origin.
_ORIGINS = {
    "AWS_KMS": "it was generated in AWS KMS",
    "EXTERNAL": "it was generated elsewhere and imported, so copies may exist",
    "AWS_CLOUDHSM": "it is in the CloudHSM cluster of a custom key store",
    "EXTERNAL_KEY_STORE": "it is in a key manager outside AWS, reached by an external key store",
}


def custody_of(metadata: KeyMetadata, endpoint: str | None) -> Custody:
    """The custody of a key.

    Args:
        metadata: What KMS says of it.
        endpoint: The endpoint that somebody named, or None.
    """
    origin = str(metadata.facts.get("origin", ""))
    what = _ORIGINS.get(origin, f"its origin is {origin or 'not reported'}")
    reason = f"The private key signs in AWS KMS and does not leave it; {what}."
    facts = dict(metadata.facts)
    if endpoint is not None and is_loopback(endpoint):
        facts["endpoint"] = endpoint
        return Custody(
            "other-process",
            "asserted",
            f"The endpoint {endpoint} is on this machine and proves nothing of itself: an "
            f"emulator, not AWS. By what it says, {what}.",
            {name: Fact(value, "reported") for name, value in facts.items()},
        )
    if endpoint is not None:
        facts["endpoint"] = endpoint
        reason = (
            f"{reason} KMS was reached at {endpoint}, which the configuration names."
            if is_aws(endpoint)
            else f"{endpoint} is not one of AWS's own host names: what it says of the key is not "
            f"AWS's word. By what it says, {what}."
        )
    return Custody(
        "remote-service",
        "reported",
        reason,
        {name: Fact(value, "reported") for name, value in facts.items()},
    )
