"""Where a Google key is while it signs, by what Google says of it.

The rules, the first that holds decides. The protection level is Google's word, under TLS.

| what we see                                                        | location, evidence       |
|--------------------------------------------------------------------|--------------------------|
| the endpoint is on this machine: an emulator                       | other-process, asserted  |
| the endpoint is not one of Google's host names                     | remote-service, reported |
| HSM, roots are supplied, and the HSM's attestation verifies        | hardware, attested       |
| HSM, roots are supplied, and there is no attestation that verifies | remote-service, reported |
| HSM or HSM_SINGLE_TENANT                                           | hardware, reported       |
| any other protection level                                         | remote-service, reported |

https://cloud.google.com/kms/docs/reference/rest/v1/ProtectionLevel
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from keystay.custody import Custody, Fact

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystay_gcp_kms.settings import Settings

__all__ = ["Attestation", "judge"]

_HARDWARE = {
    "HSM": "Google reports protection level HSM: it signs in a Cloud HSM.",
    "HSM_SINGLE_TENANT": "Google reports protection level HSM_SINGLE_TENANT: it signs in an HSM "
    "of this tenant's own.",
}
_SERVICE = {
    "SOFTWARE": "Google reports protection level SOFTWARE: it signs in Google's software.",
    "EXTERNAL": "Google reports protection level EXTERNAL: a key manager outside Google signs, "
    "and what that is Google does not say.",
    "EXTERNAL_VPC": "Google reports protection level EXTERNAL_VPC: a key manager in this "
    "customer's network signs, and what that is Google does not say.",
}


@dataclass(frozen=True, slots=True)
class Attestation:
    """What became of an HSM's statement.

    Attributes:
        statement: The statement, Base64; None when Google returned none.
        verified_by: The root that vouches for it; None when it was not verified.
        failure: Why it could not be verified; None when nobody supplied roots.
    """

    statement: str | None = None
    verified_by: str | None = None
    failure: str | None = None


def judge(
    level: str,
    settings: Settings,
    facts: Mapping[str, str | bool],
    attestation: Attestation = Attestation(),
) -> Custody:
    """The custody of a key version.

    Args:
        level: The protection level, as Google names it.
        settings: Who answers.
        facts: What else was reported.
        attestation: What the HSM says.
    """
    found = _judge(level, settings, facts, attestation)
    return replace(found, statement=attestation.statement)


def _judge(
    level: str, settings: Settings, facts: Mapping[str, str | bool], attestation: Attestation
) -> Custody:
    reported = {
        name: Fact(value, "reported")
        for name, value in {"protection_level": level, **facts}.items()
    }
    if settings.loopback:
        return Custody(
            "other-process",
            "asserted",
            f"The endpoint {settings.endpoint} is on this machine and proves nothing of itself: "
            "an emulator, not Google.",
            reported,
        )
    if not settings.is_google:
        return Custody(
            "remote-service",
            "reported",
            f"{settings.host} is not one of Google's own host names: what it says of hardware "
            "is not Google's word.",
            reported,
        )
    if level in _HARDWARE and attestation.verified_by is not None:
        return Custody(
            "hardware",
            "attested",
            "The HSM attests that it holds this key; "
            f"{attestation.verified_by} vouches for the HSM.",
            {**reported, "attestation_root": Fact(attestation.verified_by, "attested")},
        )
    if level in _HARDWARE and attestation.failure is not None:
        return Custody(
            "remote-service",
            "reported",
            f"Google reports protection level {level}, but the HSM's attestation does not verify: "
            f"{attestation.failure}.",
            reported,
        )
    if level in _HARDWARE:
        return Custody("hardware", "reported", _HARDWARE[level], reported)
    reason = _SERVICE.get(level, f"Google reports the protection level {level}.")
    return Custody("remote-service", "reported", reason, reported)
