"""The algorithm map, against boto3's own model of the service."""

from __future__ import annotations

import boto3
import pytest

from keystay.algorithms import ALGORITHMS
from keystay_aws_kms.algorithms import KEY_SPECS, SIGNING, able, refusal


def test_map_is_complete() -> None:
    """Every JWS algorithm has its own SigningAlgorithm, by the rule of its name."""
    assert set(ALGORITHMS) == set(SIGNING)
    families = {"RS": "RSASSA_PKCS1_V1_5_SHA_", "PS": "RSASSA_PSS_SHA_", "ES": "ECDSA_SHA_"}
    for name, signing in SIGNING.items():
        if name == "EdDSA":
            assert ("ED25519_SHA_512", "RAW") == (signing.name, signing.message_type)
        else:
            assert families[name[:2]] + name[2:] == signing.name
            assert "DIGEST" == signing.message_type
        assert ("der" if name.startswith("ES") else "raw") == signing.encoding


def test_names_are_the_service_s() -> None:
    """boto3's model knows each name; each KeySpec it knows is taken or refused for a reason."""
    client = boto3.client(
        "kms", region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    model = client.meta.service_model
    client.close()
    assert {s.name for s in SIGNING.values()} <= set(model.shape_for("SigningAlgorithmSpec").enum)
    specs = set(model.shape_for("KeySpec").enum)
    # Ed25519 came to KMS after the oldest boto3 that is supported.
    assert set(KEY_SPECS) - {"ECC_NIST_EDWARDS25519"} <= specs
    for spec in specs:
        assert (refusal(spec) is None) == (spec in KEY_SPECS)
        assert "does not know" not in (refusal(spec) or "")


@pytest.mark.parametrize(
    ("spec", "reported", "expected"),
    [
        ("ECC_NIST_P384", ["ECDSA_SHA_384"], ("ES384",)),
        ("ECC_NIST_EDWARDS25519", ["ED25519_PH_SHA_512", "ED25519_SHA_512"], ("EdDSA",)),
        ("ECC_NIST_EDWARDS25519", ["ED25519_PH_SHA_512"], ()),
        ("RSA_2048", ["RSASSA_PSS_SHA_256", "RSASSA_PKCS1_V1_5_SHA_384"], ("RS384", "PS256")),
        ("RSA_2048", [], ()),
    ],
)
def test_able(spec: str, reported: list[str], expected: tuple[str, ...]) -> None:
    """What a key can do is what KMS reports, never more."""
    assert expected == able(spec, reported)
