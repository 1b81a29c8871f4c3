"""Google Cloud KMS keys sign as JOSE wants it, through the whole of keystay.

Over a real socket with Google's own client: gRPC and REST. A real key runs the contract:
tests/contract/any_key.py.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import pickle
import subprocess
import sys
import textwrap
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

import keystay
from keystay import jwk as keystay_jwk
from keystay.backends.log_filter import no_debug_records
from keystay.errors import AlgorithmError, SignerClosedError
from keystay_gcp_kms.client import LOGGERS
from tests.support.gcp_kms_server import GcpKmsServer, key_for
from tests.support.secrets_watch import WATCH

if TYPE_CHECKING:
    from keystay.signer import Signer
    from keystay.testing import SmartTestServer

ALGORITHMS = {
    "RSA_SIGN_PKCS1_2048_SHA256": ("RS256",),
    "RSA_SIGN_PKCS1_3072_SHA256": ("RS256",),
    "RSA_SIGN_PKCS1_4096_SHA256": ("RS256",),
    "RSA_SIGN_PKCS1_4096_SHA512": ("RS512",),
    "RSA_SIGN_PSS_2048_SHA256": ("PS256",),
    "RSA_SIGN_PSS_3072_SHA256": ("PS256",),
    "RSA_SIGN_PSS_4096_SHA256": ("PS256",),
    "RSA_SIGN_PSS_4096_SHA512": ("PS512",),
    "RSA_SIGN_RAW_PKCS1_2048": ("RS384", "RS256", "RS512"),
    "RSA_SIGN_RAW_PKCS1_3072": ("RS384", "RS256", "RS512"),
    "RSA_SIGN_RAW_PKCS1_4096": ("RS384", "RS256", "RS512"),
    "EC_SIGN_P256_SHA256": ("ES256",),
    "EC_SIGN_P384_SHA384": ("ES384",),
    "EC_SIGN_ED25519": ("EdDSA",),
}


def verify(signer: Signer, algorithm: str) -> None:
    """Have PyJWT and joserfc verify a token of the signer's."""
    header = {"alg": algorithm, "typ": "JWT", "kid": signer.kid}
    parts = [json.dumps(part).encode() for part in (header, {"sub": "nightly-export"})]
    signing_input = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = base64.urlsafe_b64encode(signer.sign(signing_input, algorithm)).rstrip(b"=")
    token = (signing_input + b"." + signature).decode()
    public: dict[str, Any] = keystay_jwk.public_jwk(signer.public_key)
    kinds: dict[str, Any] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
    public_key: Any = signer.public_key
    assert jwt.decode(token, public_key, algorithms=[algorithm]) == {"sub": "nightly-export"}
    # joserfc calls EdDSA what RFC 9864 wants to be called Ed25519.
    key = kinds[public["kty"]].import_key({k: v for k, v in public.items() if k != "key_ops"})
    registry = jws.JWSRegistry(algorithms=[algorithm])
    verified = jws.deserialize_compact(token, key, registry=registry)
    assert json.loads(verified.payload) == {"sub": "nightly-export"}


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm(gcp_kms_both: GcpKmsServer, algorithm: str) -> None:
    """Each of Google's algorithms is the JWS one it should be; two libraries verify."""
    able = ALGORITHMS[algorithm]
    with keystay.open_signer(gcp_kms_both.add("key", algorithm)) as signer:
        assert (able, able[0]) == (signer.algorithms, signer.algorithm)
        for name in able:
            verify(signer, name)


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
@pytest.mark.parametrize(
    ("level", "algorithm"),
    [
        (level, algorithm)
        for level in ("HSM", "HSM_SINGLE_TENANT", "EXTERNAL", "EXTERNAL_VPC")
        for algorithm in ("EC_SIGN_P384_SHA384", "EC_SIGN_ED25519", "RSA_SIGN_RAW_PKCS1_2048")
        # Google has no external RAW keys.
        if "RAW" not in algorithm or "EXTERNAL" not in level
    ],
)
def test_every_protection_level(gcp_kms: GcpKmsServer, algorithm: str, level: str) -> None:
    """External keys get the message, all others a digest where their algorithm takes one."""
    with keystay.open_signer(gcp_kms.add("key", algorithm, level=level)) as signer:
        assert level == signer.custody.facts["protection_level"].value
        verify(signer, signer.algorithm)
    (request,) = gcp_kms.service.called("AsymmetricSign")
    whole = level.startswith("EXTERNAL") or algorithm == "EC_SIGN_ED25519"
    assert whole == (len(request.data) > 67)
    assert (request.data_crc32c is None) == (not request.data)
    assert (request.digest_crc32c is None) == bool(request.data)


def test_many_ecdsa_signatures(gcp_kms: GcpKmsServer) -> None:
    """Short r and s occur, and are padded: 96 bytes each time."""
    with keystay.open_signer(gcp_kms.add("key", "EC_SIGN_P384_SHA384")) as signer:
        assert {96} == {len(signer.sign(str(n).encode())) for n in range(500)}


def test_eight_threads(gcp_kms_both: GcpKmsServer) -> None:
    """All at once through one signer."""
    with (
        keystay.open_signer(gcp_kms_both.add("key", "EC_SIGN_P256_SHA256")) as signer,
        ThreadPoolExecutor(8) as pool,
    ):
        made = list(pool.map(lambda n: signer.sign(b"%d" % n), range(200)))
    assert len(set(made)) == 200


def test_fork(gcp_kms_both: GcpKmsServer) -> None:
    """A child of a fork signs with a client of its own, also amid threads; the parent goes on."""
    script = """
        import os, sys, threading, keystay
        signer = keystay.open_signer(sys.argv[1])
        signer.sign(b"before")
        busy = threading.Event()
        def soak():
            while not busy.is_set():
                signer.sign(b"meanwhile")
        threads = [threading.Thread(target=soak) for _ in range(4)]
        for thread in threads: thread.start()
        children = []
        for _ in range(4):
            child = os.fork()
            if child == 0:
                try:
                    for _ in range(5): signer.sign(b"in the child", timeout=20)
                    signer.close()
                except BaseException as error:
                    print(repr(error), flush=True)
                    os._exit(1)
                os._exit(0)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        busy.set()
        for thread in threads: thread.join()
        signer.sign(b"after")
        signer.close()
        print(codes)
    """
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(script),
            gcp_kms_both.add("k", "EC_SIGN_P256_SHA256"),
        ],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.stdout == "[0, 0, 0, 0]\n", done.stderr
    # gRPC's own word that a child may hang: the fork came amid its calls.
    assert "skipping fork" not in done.stderr


def test_what_the_key_cannot_do_names_what_to_create(gcp_kms: GcpKmsServer) -> None:
    """A SHA-256-only key asked for RS384 says what it can do, and which key to make instead."""
    uri = gcp_kms.add("old", "RSA_SIGN_PKCS1_3072_SHA256")
    with pytest.raises(AlgorithmError) as caught:
        keystay.open_signer(uri, algorithm="RS384")
    text = str(caught.value)
    assert "cannot sign with RS384" in text
    assert "RSA_SIGN_PKCS1_3072_SHA256, which can do RS256 only" in text
    assert "RSA_SIGN_RAW_PKCS1_3072 for RS384" in text
    assert "keystay key generate 'gcpkms://" in text
    with keystay.open_signer(uri) as signer, pytest.raises(AlgorithmError, match="RAW_PKCS1_3072"):
        signer.sign(b"message", "PS384")


@pytest.mark.parametrize("level", ["SOFTWARE", "EXTERNAL"])
def test_a_digest_alone(gcp_kms: GcpKmsServer, level: str) -> None:
    """RAW and native keys sign one; external keys and Ed25519 say that they need the message."""
    import hashlib

    with keystay.open_signer(gcp_kms.add("ec", "EC_SIGN_P256_SHA256", level=level)) as signer:
        digest = hashlib.sha256(b"message").digest()
        if level == "SOFTWARE":
            assert len(signer.sign_digest(digest)) == 64
        else:
            with pytest.raises(AlgorithmError, match="signs messages") as caught:
                signer.sign_digest(digest)
            assert caught.value.code == "message-needed"


def test_nothing_secret_is_shown(gcp_kms: GcpKmsServer) -> None:
    """Not what is signed, nor the signature: in a repr, a pickle or an error with its traceback."""
    message = WATCH.add("the signed message", "header.claims-of-the-gcp-tests")
    signer = keystay.open_signer(gcp_kms.add("key", "EC_SIGN_ED25519"))
    WATCH.check(repr(signer) + repr(signer._key) + str(signer.custody), "a repr")
    with pytest.raises(TypeError):
        pickle.dumps(signer)
    with pytest.raises(TypeError):
        pickle.dumps(signer._key)
    gcp_kms.service.faults.refuse("INVALID_ARGUMENT", message="no good: Bearer ya29.abcdefgh123")
    with pytest.raises(keystay.KeystayError) as caught:
        signer.sign(message.encode())
    assert "ya29" not in str(caught.value)
    WATCH.check("".join(traceback.format_exception(caught.value)), "a traceback")
    signer.close()
    signer.close()
    with pytest.raises(SignerClosedError):
        signer.sign(b"message")


def test_google_s_debug_log_holds_no_payload(
    gcp_kms_both: GcpKmsServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Records carry requests and responses beside their text: not those of keystay's calls."""
    with (
        caplog.at_level(logging.DEBUG),
        keystay.open_signer(gcp_kms_both.add("key", "EC_SIGN_ED25519")) as signer,
    ):
        signature = signer.sign(b"header.claims-of-the-log-test")
    shown = "".join(str(vars(record)) for record in caplog.records)
    for secret in (b"header.claims-of-the-log-test", signature):
        assert base64.b64encode(secret).decode() not in shown
        assert str(secret)[2:-1] not in shown
    # Other people's calls are theirs to log.
    others = logging.getLogger("google.auth.transport.requests")
    record = others.makeRecord(others.name, logging.DEBUG, __file__, 1, "others'", (), None)
    assert others.filter(record)
    with no_debug_records(LOGGERS):
        assert not others.filter(record)


def test_a_token_by_changing_only_the_key(
    gcp_kms_both: GcpKmsServer, smart_server: SmartTestServer
) -> None:
    """ES384 and RS384 to an access token from the strict server."""
    for algorithm, google in (
        ("ES384", "EC_SIGN_P384_SHA384"),
        ("RS384", "RSA_SIGN_RAW_PKCS1_3072"),
    ):
        with keystay.open_signer(gcp_kms_both.add(algorithm, google)) as signer:
            smart_server.register(algorithm, jwks=keystay.JWKSet.from_signers([signer]))
            with keystay.TokenClient(
                fhir_base_url=smart_server.fhir_base_url,
                client_id=algorithm,
                signer=signer,
                scope="system/Patient.rs",
                allow_insecure_loopback=True,
            ) as client:
                assert client.token().value


class TestCommandLine:
    """`keystay key generate|list|show`, as a process."""

    @pytest.fixture
    def environment(self, tmp_path: Path) -> dict[str, str]:
        """Where warnings are errors, and nothing is configured."""
        kept = {n: v for n, v in os.environ.items() if not n.startswith("KEYSTAY_")}
        return {**kept, "HOME": str(tmp_path), "PYTHONWARNINGS": "error"}

    def test_generate_list_show(
        self, gcp_kms_both: GcpKmsServer, environment: dict[str, str], tmp_path: Path
    ) -> None:
        """A key is made, listed, shown, and not made again."""
        program = str(Path(sys.executable).with_name("keystay"))

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [program, "key", *arguments],
                env=environment,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )

        ring = "projects/hospital/locations/europe-west1/keyRings/smart"
        uri = gcp_kms_both.uri(f"{ring}/cryptoKeys/epic", protection="hsm")
        made = run("generate", uri, "--type", "RSA-3072", "--json")
        assert made.returncode == 0, made.stderr
        (record,) = json.loads(made.stdout)
        assert record["uri"].startswith(f"gcpkms://{ring}/cryptoKeys/epic/cryptoKeyVersions/1?")
        assert record["attributes"]["protection_level"] == "HSM"
        again = run("generate", uri, "--type", "RSA-3072")
        assert (3, True) == (again.returncode, "key-exists" in again.stderr), again.stderr
        listed = run("list", gcp_kms_both.uri(ring), "--json")
        assert [record] == json.loads(listed.stdout), listed.stderr
        shown = run("show", record["uri"], "--json")
        document = json.loads(shown.stdout)
        assert ["RS384", "RS256", "RS512"] == document["algorithms"]
        assert "HSM" == document["custody"]["facts"]["protection_level"]["value"]
        bare = run("show", uri)
        assert bare.returncode == 2
        assert "cryptoKeyVersions/1 (RSA_SIGN_RAW_PKCS1_3072)" in " ".join(bare.stderr.split())


def test_emulated_keys_differ() -> None:
    """The emulator's keys of another number are others: what the swap tests stand on."""
    algorithm = "RSA_SIGN_RAW_PKCS1_2048"
    assert key_for(algorithm) is key_for(algorithm)
    assert key_for(algorithm) is not key_for(algorithm, 1)
