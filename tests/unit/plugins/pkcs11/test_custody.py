"""The weaker claim wins: hardware is never inferred, software never promoted."""

from __future__ import annotations

import pytest

from keystay_pkcs11.custody import Evidence, assess_custody

PERFECT = {
    "sensitive": True, "extractable": False, "always_sensitive": True, "never_extractable": True,
    "local": True,
}  # fmt: skip
CLIENT = "/usr/lib/pkcs11/p11-kit-client.so"
VENDOR = "/opt/acme/libacme.so"
SOFTHSM = "softhsm project\nmodel=softhsm v2"

RULES = {
    "SoftHSM": ("/usr/lib/libsofthsm2.so", SOFTHSM, False, False, "in-process"),
    "SoftHSM lying": ("/usr/lib/libsofthsm2.so", SOFTHSM, True, True, "in-process"),
    "SoftHSM renamed": (VENDOR, SOFTHSM, True, True, "in-process"),
    "SoftHSM remoted": (CLIENT, SOFTHSM, False, False, "other-process"),
    "SoftHSM lying remoted": (CLIENT, SOFTHSM, True, True, "other-process"),
    "NSS": ("/usr/lib/libsoftokn3.so", "mozilla foundation", False, False, "in-process"),
    "openCryptoki": ("/usr/lib/libopencryptoki.so", "model=soft\n", True, True, "in-process"),
    "openCryptoki accelerated": (VENDOR, "model=ica\n", True, True, "in-process"),
    "Kryoptic": (VENDOR, "kryoptic pkcs11 module", True, True, "in-process"),
    "software TPM": (VENDOR, "model=sw   tpm", True, True, "in-process"),
    "model that only begins alike": (VENDOR, "model=icarus 9\n", True, True, "hardware"),
    "proxy": ("/usr/lib/p11-kit-proxy.so", "pkcs#11 kit", False, False, "in-process"),
    "unknown remoted": (CLIENT, "acme", False, False, "other-process"),
    "HSM": (VENDOR, "acme", True, True, "hardware"),
    "HSM remoted": (CLIENT, "acme", True, True, "hardware"),
    "slot only": (VENDOR, "acme", True, False, "in-process"),
    "mechanism only": (VENDOR, "acme", False, True, "in-process"),
    "unknown": (VENDOR, "acme", False, False, "in-process"),
}


@pytest.mark.parametrize(
    ("module", "words", "slot", "mechanism", "expected"), RULES.values(), ids=RULES
)
def test_rules(module: str, words: str, slot: bool, mechanism: bool, expected: str) -> None:
    """Whatever the attributes say, the location follows the rules."""
    facts: dict[str, str | bool] = {
        "module": module,
        "hardware_slot": slot,
        "hardware_mechanism": mechanism,
    }
    found = assess_custody(Evidence(module, words, facts), PERFECT)

    assert (expected, "reported") == (found.location, found.evidence)
    assert found.reason
    assert {*facts, *PERFECT} == set(found.facts)
    assert {"reported"} == {fact.evidence for fact in found.facts.values()}
