"""Every algorithm of every kind of AWS KMS key, through the real SDK, for two other libraries.

A real key runs the contract: tests/contract/any_key.py.
"""

from __future__ import annotations

import base64
import json
import os
import threading
from typing import TYPE_CHECKING

import joserfc.jwk
import joserfc.jwt
import jwt
import pytest

import keystay
from keystay.algorithms import get
from keystay.jwk import public_jwk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystay.signer import Signer
    from tests.support.aws_fixtures import KmsUri
    from tests.support.ministack import MiniStack

RSA = ("RS384", "RS256", "RS512", "PS384", "PS256", "PS512")
KINDS = {
    "P-256": ("ES256",),
    "P-384": ("ES384",),
    "P-521": ("ES512",),
    "RSA-2048": RSA,
    "RSA-3072": RSA,
    "RSA-4096": RSA,
    "Ed25519": ("EdDSA",),
}
AUDIENCE = "https://ehr.example.org/token"


@pytest.fixture(params=KINDS)
def signer(
    request: pytest.FixtureRequest, ministack: MiniStack, kms_uri: KmsUri
) -> Iterator[Signer]:
    """A signer for each kind of key."""
    with keystay.open_signer(kms_uri(ministack.key(request.param))) as opened:
        assert (request.param, KINDS[request.param]) == (opened.key_type, opened.algorithms)
        yield opened


def compact(signer: Signer, algorithm: str, claims: dict[str, str]) -> str:
    """A JWT of these claims."""
    parts = (json.dumps(part).encode() for part in ({"alg": algorithm, "typ": "JWT"}, claims))
    signing_input = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = base64.urlsafe_b64encode(signer.sign(signing_input, algorithm)).rstrip(b"=")
    return b".".join((signing_input, signature)).decode()


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated via RFC 9864")
def test_every_algorithm(signer: Signer) -> None:
    """PyJWT and joserfc accept an assertion with each algorithm that the key claims."""
    assert set(signer.algorithms) <= set(KINDS[signer.key_type])
    jwk = public_jwk(signer.public_key, kid=signer.kid)
    for algorithm in signer.algorithms:
        token = compact(signer, algorithm, {"iss": "me", "sub": "me", "aud": AUDIENCE})
        claims = jwt.decode(token, jwt.PyJWK(jwk, algorithm), [algorithm], audience=AUDIENCE)
        assert "me" == claims["sub"]
        key = joserfc.jwk.import_key(jwk)
        assert "me" == joserfc.jwt.decode(token, key, algorithms=[algorithm]).claims["iss"]


def test_description(signer: Signer) -> None:
    """The key is held to its ARN; it is in a remote service, as KMS reports."""
    assert signer.key_id.startswith("arn:aws")
    assert ("other-process", "asserted") == (signer.custody.location, signer.custody.evidence)
    facts = signer.custody.facts
    assert {"origin", "key_spec", "key_manager", "multi_region", "arn", "created"} <= set(facts)
    assert signer.key_id == facts["arn"].value
    signer.health()


def test_threads(signer: Signer) -> None:
    """Eight threads sign with one signer."""
    failures: list[Exception] = []

    def work() -> None:
        try:
            for _ in range(5):
                signer.sign(os.urandom(100))
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == failures


def test_fork(signer: Signer) -> None:
    """A forked child signs with a connection of its own, and the parent goes on."""
    signer.sign(b"before")
    child = os.fork()
    if child == 0:
        try:
            signer.sign(b"in the child")
            os._exit(0)
        except BaseException:  # noqa: BLE001
            os._exit(1)
    assert 0 == os.waitpid(child, 0)[1]
    signer.sign(b"after")


def test_long_message(signer: Signer) -> None:
    """A message beyond the 4096 bytes of RAW is no problem where KMS is given the hash."""
    if get(signer.algorithm).hash_name is None:
        with pytest.raises(keystay.errors.AlgorithmError, match="at most 4096 with EdDSA"):
            signer.sign(bytes(4097))
        signer.sign(bytes(4096))
    else:
        signer.sign(bytes(100_000))
