"""Every key type and algorithm on a real token, directly and remoted, checked independently."""

from __future__ import annotations

import hashlib
import re
import sys
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import load_der_public_key

import keystay
from keystay.algorithms import get
from keystay.backends import BackendContext, Deadline, SecretResolver, SignRequest
from keystay.errors import AlgorithmError, SignatureInvalidError, SignerClosedError
from keystay_pkcs11.key import Pkcs11Key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

    from tests.support.p11kit import P11KitServer
    from tests.support.softhsm import SoftHSM

KINDS = {
    "RSA-2048": ("rsa:2048", ("RS384", "RS256", "RS512", "PS384", "PS256", "PS512")),
    "RSA-3072": ("rsa:3072", ("RS384", "RS256", "RS512", "PS384", "PS256", "PS512")),
    "RSA-4096": ("rsa:4096", ("RS384", "RS256", "RS512", "PS384", "PS256", "PS512")),
    "P-256": ("EC:secp256r1", ("ES256",)),
    "P-384": ("EC:secp384r1", ("ES384",)),
    "P-521": ("EC:secp521r1", ("ES512",)),
    "Ed25519": ("EC:edwards25519", ("EdDSA",)),
}
# p11-kit 0.24.1 of Debian 12 does not pass EdDSA on.
REMOTED = [kind for kind in KINDS if kind != "Ed25519"]
HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}


@pytest.fixture(scope="module")
def keys(softhsm: SoftHSM) -> dict[str, PublicKeyTypes]:
    """A key of every kind, made and read by OpenSC."""
    found = {}
    for number, (name, (kind, _)) in enumerate(KINDS.items(), start=0x40):
        key_id = f"{number:02x}"
        softhsm.generate_key(kind, f"kind-{name}", key_id)
        found[name] = read_public_key(softhsm, key_id, name)
    return found


def read_public_key(token: SoftHSM, key_id: str, name: str) -> PublicKeyTypes:
    """The public key as OpenSC sees it."""
    if name.startswith("RSA"):
        target = token.conf.parent / f"{key_id}.der"
        token.pkcs11_tool(
            "--read-object", "--type", "pubkey", "--id", key_id, "--output-file", str(target)
        )
        return load_der_public_key(target.read_bytes())
    # OpenSC 0.23 exports no P-384, but prints CKA_EC_POINT: a DER OCTET STRING.
    # It lists every public key, whatever --id says, and in any order.
    listing = token.pkcs11_tool("--list-objects", "--type", "pubkey")
    entry = next(
        e for e in listing.split("Public Key Object") if re.search(rf"ID:\s+{key_id}\n", e)
    )
    found = re.search(r"EC_POINT:\s+([0-9a-f]+)", entry)
    assert found, listing
    der = bytes.fromhex(found[1])
    point = der[3 if der[1] == 0x81 else 2 :]
    if name == "Ed25519":
        return ed25519.Ed25519PublicKey.from_public_bytes(point)
    curves = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
    return ec.EllipticCurvePublicKey.from_encoded_point(curves[name], point)


def check(public: PublicKeyTypes, algorithm: str, message: bytes, signature: bytes) -> None:
    """Verify with cryptography, by this test's own reading of RFC 7518 and 8037."""
    if isinstance(public, ed25519.Ed25519PublicKey):
        public.verify(signature, message)
        return
    hashed = HASHES[algorithm[2:]]
    if isinstance(public, ec.EllipticCurvePublicKey):
        half = len(signature) // 2
        assert half == (public.key_size + 7) // 8
        r, s = (int.from_bytes(part, "big") for part in (signature[:half], signature[half:]))
        public.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(hashed))
        return
    assert isinstance(public, rsa.RSAPublicKey)
    pad: padding.AsymmetricPadding = padding.PKCS1v15()
    if algorithm.startswith("PS"):
        pad = padding.PSS(padding.MGF1(hashed), hashed.digest_size)
    public.verify(signature, message, pad, hashed)


@pytest.mark.parametrize("name", KINDS)
def test_direct(softhsm: SoftHSM, keys: dict[str, PublicKeyTypes], name: str) -> None:
    """SoftHSM loaded into this process signs with each algorithm, and says where the key is."""
    with keystay.open_signer(softhsm.key_uri(f"kind-{name}")) as signer:
        assert KINDS[name][1] == signer.algorithms
        assert keys[name] == signer.public_key
        assert (name, "in-process") == (signer.key_type, signer.custody.location)
        for algorithm in signer.algorithms:
            check(keys[name], algorithm, b"message", signer.sign(b"message", algorithm))


@pytest.mark.parametrize("name", REMOTED)
def test_remoted(
    softhsm: SoftHSM, p11kit: P11KitServer, keys: dict[str, PublicKeyTypes], name: str
) -> None:
    """The same token in another process signs with each algorithm."""
    with keystay.open_signer(p11kit.key_uri(f"kind-{name}")) as signer:
        assert KINDS[name][1] == signer.algorithms
        assert "other-process" == signer.custody.location
        for algorithm in signer.algorithms:
            check(keys[name], algorithm, b"message", signer.sign(b"message", algorithm))


@pytest.mark.parametrize("name", ["RSA-3072", "P-384"])
def test_assertion(softhsm: SoftHSM, keys: dict[str, PublicKeyTypes], name: str) -> None:
    """An assertion is good for PyJWT."""
    with keystay.open_signer(softhsm.key_uri(f"kind-{name}")) as signer:
        token = keystay.ClientAssertion(client_id="me", signer=signer).build(audience="https://a/t")
        claims = jwt.decode(token, keys[name], [signer.algorithm], audience="https://a/t")  # type: ignore[arg-type]

    assert "me" == claims["sub"]


@pytest.mark.parametrize("name", ["RSA-2048", "P-521"])
def test_digest_only(softhsm: SoftHSM, keys: dict[str, PublicKeyTypes], name: str) -> None:
    """A caller who has only the digest is served; a wrong length is not."""
    algorithm = get(KINDS[name][1][0])
    key = open_key(softhsm, f"kind-{name}")
    try:
        digest = algorithm.digest(b"message")
        deadline = Deadline.after(5)
        made = key.sign(SignRequest(algorithm, None, deadline, digest))
        check(keys[name], algorithm.name, b"message", made.value)
        assert ("raw", key.describe().key_id) == (made.encoding, made.key_id)
        with pytest.raises(SignatureInvalidError, match="1000 bytes"):
            key.sign(SignRequest(algorithm, None, deadline, bytes(1000)))
        with pytest.raises(AlgorithmError, match="cannot sign with EdDSA"):
            key.sign(SignRequest(get("EdDSA"), b"message", deadline))
    finally:
        key.close()


def open_key(token: SoftHSM, label: str) -> Pkcs11Key:
    """The key, without the core around it."""
    context = BackendContext(secrets=SecretResolver())
    return Pkcs11Key.open(keystay.key_uri.parse(token.key_uri(label)), context)


def test_lease(softhsm: SoftHSM, keys: dict[str, PublicKeyTypes]) -> None:
    """A lease holds one session; another lease meanwhile holds another."""
    key = open_key(softhsm, "kind-P-384")
    try:
        request = SignRequest(get("ES384"), b"message", Deadline.after(5))
        with key.lease(request.deadline) as one, key.lease(request.deadline) as two:
            first, second, third = one.sign(request), two.sign(request), one.sign(request)
        assert first.session == third.session != second.session
        with pytest.raises(SignerClosedError, match="lease on the key is over"):
            one.sign(request)
        assert first.value != third.value
        check(keys["P-384"], "ES384", b"message", third.value)
    finally:
        key.close()


def test_description(softhsm: SoftHSM, keys: dict[str, PublicKeyTypes]) -> None:
    """The key's id is the token's serial and the CKA_ID; facts say what the token says."""
    key = open_key(softhsm, "kind-P-384")
    try:
        described = key.describe()
        assert described is key.describe()
        assert described.key_id.endswith("/44")
        assert "kind-P-384" == described.label
        facts = described.custody.facts
        assert (True, False) == (facts["sensitive"].value, facts["extractable"].value)
        assert {"reported"} == {fact.evidence for fact in facts.values()}
        assert "SoftHSM" in str(facts["token_manufacturer"].value)
        key.health(Deadline.after(5))
    finally:
        key.close()
        key.close()
    with pytest.raises(SignerClosedError):
        key.health(Deadline.after(5))
    with pytest.raises(SignerClosedError), key.lease(Deadline.after(5)):
        pass


def functions_of_the_plugin() -> list[str]:
    """Those that the calling function was called through in this thread, inside a test."""
    found, frame = [], sys._getframe(1)
    while frame.f_back is not None and not frame.f_code.co_name.startswith("test_"):
        if frame.f_globals["__name__"].startswith("keystay_pkcs11."):
            found.append(frame.f_code.co_name)
        frame = frame.f_back
    return found


@pytest.mark.parametrize("in_process", [True, False], ids=["directly", "in a thread of its own"])
def test_depth(
    softhsm: SoftHSM,
    keys: dict[str, PublicKeyTypes],
    monkeypatch: pytest.MonkeyPatch,
    in_process: bool,
) -> None:
    """From `sign` to the C call a signature passes six functions of the plugin at most."""
    key = open_key(softhsm, "kind-P-384")
    module, passed = key._module, ["sign"]  # the last one, which makes the C call
    sign, call = module.cryptoki.sign, module.workers.call_with_deadline

    def note_sign(*arguments: Any) -> bytes:
        passed.extend(functions_of_the_plugin())
        return sign(*arguments)

    def note_hop(*arguments: Any, **options: Any) -> object:
        passed.extend(functions_of_the_plugin())
        return call(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(module.cryptoki, "sign", note_sign)
        patched.setattr(module, "computes_here", in_process)
        patched.setattr(module.workers, "call_with_deadline", note_hop)
        key.sign(SignRequest(get("ES384"), b"message", Deadline.after(5)))
    key.close()

    assert "_inside" in passed
    assert len(passed) <= 6, passed


def test_short_ecdsa_integers(softhsm: SoftHSM, keys: dict[str, PublicKeyTypes]) -> None:
    """500 signatures with P-521, whose r and s are often short, all have 132 bytes and verify."""
    with keystay.open_signer(softhsm.key_uri("kind-P-521"), verify="first") as signer:
        for number in range(500):
            message = hashlib.sha256(number.to_bytes(2, "big")).digest()
            check(keys["P-521"], "ES512", message, signer.sign(message))
