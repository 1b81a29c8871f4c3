"""Google Cloud KMS that throttles, fails, hangs, or answers what was not asked.

Every answer passes Google's integrity checks or is not used; every wait ends with the deadline.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

import keystay
from keystay.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    KeyChangedError,
    KeystayError,
    LoginError,
    SignatureInvalidError,
)
from tests.support.gcp_kms_server import KEY_RING, GcpKmsServer, key_for
from tests.support.secrets_watch import WATCH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystay.signer import Signer
    from keystay.testing import SmartTestServer

RETRYABLE = ["UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "RESOURCE_EXHAUSTED", "ABORTED"]


@pytest.fixture
def signer(gcp_kms_both: GcpKmsServer) -> Iterator[Signer]:
    """An ES256 key."""
    with keystay.open_signer(gcp_kms_both.add("key", "EC_SIGN_P256_SHA256")) as opened:
        yield opened


def failure(signer: Signer, kind: type[KeystayError], **options: Any) -> KeystayError:
    """The error that signing ends in, with its remedy."""
    with pytest.raises(kind) as caught:
        signer.sign(b"message", **options)
    assert caught.value.hint
    WATCH.check(f"{caught.value} {caught.value.__cause__}", "the error")
    return caught.value


class TestIntegrity:
    """Checksums and names."""

    @pytest.mark.parametrize(
        ("algorithm", "corrupt", "code"),
        [
            ("EC_SIGN_P256_SHA256", "digest", "gcp-crc-digest"),
            ("EC_SIGN_P256_SHA256", "signature", "gcp-crc-signature"),
            ("EC_SIGN_P256_SHA256", "no-signature", "gcp-crc-signature"),
            ("RSA_SIGN_RAW_PKCS1_2048", "data", "gcp-crc-data"),
            ("RSA_SIGN_RAW_PKCS1_2048", "signature", "gcp-crc-signature"),
            ("EC_SIGN_ED25519", "data", "gcp-crc-data"),
        ],
    )
    def test_checksums(
        self, gcp_kms_both: GcpKmsServer, algorithm: str, corrupt: str, code: str
    ) -> None:
        """Each one that fails is an error of its own, and no signature."""
        with keystay.open_signer(gcp_kms_both.add("crc", algorithm)) as signer:
            gcp_kms_both.service.faults.corrupt = {corrupt}
            assert code == failure(signer, BackendUnavailableError).code
            gcp_kms_both.service.faults.corrupt = set()
            signer.sign(b"message")

    @pytest.mark.parametrize("algorithm", ["EC_SIGN_P256_SHA256", "EC_SIGN_ED25519"])
    def test_the_request_is_corrupted(self, gcp_kms_both: GcpKmsServer, algorithm: str) -> None:
        """Google notices by the checksum that was sent along."""
        with keystay.open_signer(gcp_kms_both.add("crc", algorithm)) as signer:
            gcp_kms_both.service.faults.corrupt = {"request"}
            assert "crc32c" in failure(signer, BackendError).message

    @pytest.mark.parametrize(
        "name", [f"{KEY_RING}/cryptoKeys/key/cryptoKeyVersions/2", f"{KEY_RING}/cryptoKeys/key"]
    )
    def test_another_name(self, gcp_kms_both: GcpKmsServer, signer: Signer, name: str) -> None:
        """Another version signed than the one opened."""
        gcp_kms_both.service.faults.name = name
        assert name in failure(signer, KeyChangedError).message

    def test_another_level(self, gcp_kms_both: GcpKmsServer) -> None:
        """An HSM key that signs in software."""
        uri = gcp_kms_both.add("hsm", "EC_SIGN_P256_SHA256", level="HSM")
        with keystay.open_signer(uri) as signer:
            gcp_kms_both.service.faults.level = "SOFTWARE"
            assert "gcp-protection-changed" == failure(signer, KeyChangedError).code

    def test_another_key(self, gcp_kms_both: GcpKmsServer) -> None:
        """Under the right name, with right checksums: the core's verification is the last word."""
        algorithm = "RSA_SIGN_RAW_PKCS1_2048"
        with keystay.open_signer(gcp_kms_both.add("raw", algorithm)) as signer:
            gcp_kms_both.service.faults.signs_as = key_for(algorithm, 1)
            failure(signer, SignatureInvalidError)


class TestRetries:
    """What passes by itself is waited for, within the deadline."""

    @pytest.mark.parametrize("status", RETRYABLE)
    def test_once_more(self, gcp_kms_both: GcpKmsServer, signer: Signer, status: str) -> None:
        """Each status that can pass."""
        gcp_kms_both.service.faults.refuse(status, 2)
        signer.sign(b"message")
        assert 3 == len(gcp_kms_both.service.called("AsymmetricSign"))

    @pytest.mark.parametrize(
        "status", ["INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED", "UNAUTHENTICATED"]
    )
    def test_not_once_more(self, gcp_kms_both: GcpKmsServer, signer: Signer, status: str) -> None:
        """Each status that stays."""
        gcp_kms_both.service.faults.refuse(status)
        kind = LoginError if status == "UNAUTHENTICATED" else BackendError
        assert status in failure(signer, kind).message
        assert 1 == len(gcp_kms_both.service.called("AsymmetricSign"))

    def test_throttled_too_long(self, gcp_kms_both: GcpKmsServer, signer: Signer) -> None:
        """A distinct error with the wait, inside the deadline."""
        gcp_kms_both.service.faults.refuse("RESOURCE_EXHAUSTED", 100, message="Quota exceeded")
        start = time.monotonic()
        error = failure(signer, BackendUnavailableError, timeout=1.5)
        assert time.monotonic() - start < 1.6
        assert "gcp-throttled" == error.code
        assert "Quota exceeded" in error.message
        assert "Wait 60 s" in str(error.hint)
        assert 3 <= len(gcp_kms_both.service.called("AsymmetricSign")) <= 8

    def test_google_says_how_long(self, gcp_kms: GcpKmsServer) -> None:
        """RetryInfo is heeded: not before, and not at all when the deadline is sooner."""
        with keystay.open_signer(gcp_kms.add("key", "EC_SIGN_P256_SHA256")) as signer:
            gcp_kms.service.faults.refuse("RESOURCE_EXHAUSTED", retry_after=0.5)
            start = time.monotonic()
            signer.sign(b"message")
            assert time.monotonic() - start >= 0.5
            gcp_kms.service.faults.refuse("RESOURCE_EXHAUSTED", retry_after=37)
            start = time.monotonic()
            error = failure(signer, BackendUnavailableError)
            assert time.monotonic() - start < 1
            assert "Wait 37 s" in str(error.hint)

    def test_throttled_then_one_token(
        self, gcp_kms_both: GcpKmsServer, signer: Signer, smart_server: SmartTestServer
    ) -> None:
        """Three refusals, one assertion, one token from the strict server."""
        smart_server.register("etl", jwks=keystay.JWKSet.from_signers([signer]))
        with keystay.TokenClient(
            fhir_base_url=smart_server.fhir_base_url,
            client_id="etl",
            signer=signer,
            scope="system/Patient.rs",
            allow_insecure_loopback=True,
        ) as client:
            gcp_kms_both.service.faults.refuse("RESOURCE_EXHAUSTED", 3)
            assert client.token().value
        assert 1 == len(smart_server.log.of("token"))
        assert 4 == len(gcp_kms_both.service.called("AsymmetricSign"))


class TestDeadline:
    """Nothing takes longer than it may."""

    def test_signing_hangs(self, gcp_kms_both: GcpKmsServer, signer: Signer) -> None:
        """An error inside the deadline."""
        gcp_kms_both.service.faults.hang = True
        start = time.monotonic()
        failure(signer, BackendTimeoutError, timeout=1)
        assert 0.9 < time.monotonic() - start < 1.3

    def test_opening_hangs(self, gcp_kms_both: GcpKmsServer) -> None:
        """As well."""
        uri = gcp_kms_both.add("key", "EC_SIGN_P256_SHA256")
        gcp_kms_both.service.faults.hang = True
        start = time.monotonic()
        with pytest.raises(BackendTimeoutError):
            keystay.open_signer(uri, timeout=1)
        assert time.monotonic() - start < 1.5

    def test_slow_is_not_too_slow(self, gcp_kms_both: GcpKmsServer, signer: Signer) -> None:
        """An answer within the deadline is an answer."""
        gcp_kms_both.service.faults.delay = 0.5
        start = time.monotonic()
        signer.sign(b"message", timeout=3)
        assert time.monotonic() - start >= 0.5  # it was slow indeed

    def test_refusals_that_end_in_a_hang(self, gcp_kms: GcpKmsServer) -> None:
        """What explains it is the throttling, not the deadline."""
        with keystay.open_signer(gcp_kms.add("key", "EC_SIGN_P256_SHA256")) as signer:
            gcp_kms.service.faults.refuse("RESOURCE_EXHAUSTED", 2)
            gcp_kms.service.faults.hang = True
            error = failure(signer, BackendUnavailableError, timeout=1)
            assert "gcp-throttled" == error.code


class TestNetwork:
    """Nobody there."""

    @pytest.mark.parametrize("transport", ["grpc", "rest"])
    def test_refused(self, transport: str) -> None:
        """A closed port, until the deadline."""
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        name = f"{KEY_RING}/cryptoKeys/key/cryptoKeyVersions/1"
        uri = f"gcpkms://{name}?endpoint=127.0.0.1:{port}&transport={transport}"
        with pytest.raises(BackendUnavailableError) as caught:
            keystay.open_signer(uri, timeout=1)
        assert "gcp-unreachable" == caught.value.code

    def test_the_server_comes_back(self, gcp_kms: GcpKmsServer) -> None:
        """A connection that was cut is made again."""
        with keystay.open_signer(gcp_kms.add("key", "EC_SIGN_P256_SHA256")) as signer:
            gcp_kms.stop()
            with GcpKmsServer(gcp_kms.service, gcp_kms.port):
                signer.sign(b"message", timeout=20)

    @pytest.mark.parametrize("transport", ["grpc", "rest"])
    def test_no_credentials(
        self, transport: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
    ) -> None:
        """Google's own endpoint without any: said at once, and nothing is sent."""
        for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
        monkeypatch.setenv("NO_GCE_CHECK", "true")
        name = f"{KEY_RING}/cryptoKeys/key/cryptoKeyVersions/1"
        with pytest.raises(LoginError) as caught:
            keystay.open_signer(f"gcpkms://{name}?transport={transport}")
        assert "gcp-credentials-missing" == caught.value.code
        assert "workload identity" in str(caught.value)

    def test_credentials_that_cannot_be_read(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
    ) -> None:
        """A file that is none."""
        path = tmp_path / "credentials.json"
        path.write_text('{"type": "unheard-of", "private_key": "-----not-to-be-shown-----"}')
        WATCH.add("a Google credential", "-----not-to-be-shown-----")
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
        name = f"{KEY_RING}/cryptoKeys/key/cryptoKeyVersions/1"
        with pytest.raises(LoginError) as caught:
            keystay.open_signer(f"gcpkms://{name}")
        WATCH.check(f"{caught.value} {caught.value.__cause__}", "the error")
