"""Where a Google key is while it signs, by what Google says of it.

The protection level is Google's word, under TLS: `reported`. It counts for nothing more than a
service elsewhere when somebody else than Google answers, and not even that for an emulator.
https://cloud.google.com/kms/docs/reference/rest/v1/ProtectionLevel
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystay.custody import Custody, Fact

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystay_gcp_kms.settings import Settings

__all__ = ["judge"]

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


def judge(level: str, settings: Settings, facts: Mapping[str, str | bool]) -> Custody:
    """The custody of a key version.

    Args:
        level: The protection level, as Google names it.
        settings: Who answers.
        facts: What else was reported.
    """
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
            f"{settings.endpoint} is not one of Google's own host names: what it says of hardware "
            "is not Google's word.",
            reported,
        )
    if level in _HARDWARE:
        return Custody("hardware", "reported", _HARDWARE[level], reported)
    reason = _SERVICE.get(level, f"Google reports the protection level {level}.")
    return Custody("remote-service", "reported", reason, reported)
