"""Whose server it is, and how long it keeps a JWK Set."""

from __future__ import annotations

import pytest

from keystay.errors import ConfigurationError
from keystay.smart.vendors import vendor_of

DAY, EPIC = 24 * 3600, 29 * 3600


@pytest.mark.parametrize(
    ("url", "name", "seconds"),
    [
        ("https://fhir.epic.com/interconnect-fhir-oauth/api/FHIR/R4", None, (EPIC, EPIC)),
        ("https://x.et1.epichosted.com/FHIRProxy/R4", None, (EPIC, EPIC)),
        ("https://notepic.com/fhir", None, (DAY, 7 * DAY)),
        # Likely Epic's, on a hospital's own host; perhaps not: the longer of both counts.
        ("https://epicproxy.hospital.example/api/FHIR/R4", None, (EPIC, 7 * DAY)),
        ("https://hospital.example/r4", "epic", (EPIC, EPIC)),
        ("https://fhir.epic.com/api/FHIR/R4", "other", (DAY, 7 * DAY)),
    ],
)
def test_recognised(url: str, name: str | None, seconds: tuple[int, int]) -> None:
    """Without Cache-Control, and with one that allows a week."""
    vendor = vendor_of(url, name)
    assert seconds == (vendor.cache_seconds(None), vendor.cache_seconds(7 * DAY))


def test_unknown() -> None:
    """With the nearest that is known."""
    with pytest.raises(ConfigurationError, match="'epci'") as caught:
        vendor_of("https://x.example", "epci")
    assert "'epic'" in (caught.value.hint or "")
