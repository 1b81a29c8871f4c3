"""Google Cloud KMS on loopback: the library's own protobuf messages, real cryptography inside.

Google has no emulator. This one does what Google's documentation says of the six calls keystay
makes, and can be told to fail in the ways a cloud does. `test_gcp_kms_server.py` holds it to the
documentation: https://cloud.google.com/kms/docs/reference/rpc/google.cloud.kms.v1
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

import google_crc32c
import grpc
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.cloud import kms_v1
from google.protobuf import duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

if TYPE_CHECKING:
    from types import TracebackType

KEY_RING = "projects/hospital/locations/europe-west1/keyRings/smart"
_SERVICE = "google.cloud.kms.v1.KeyManagementService"
_MOST_DATA = 64 * 1024
_HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
State: Any = kms_v1.CryptoKeyVersion.CryptoKeyVersionState
Level = kms_v1.ProtectionLevel

METHODS: dict[str, tuple[Any, Any]] = {
    "GetCryptoKeyVersion": (kms_v1.GetCryptoKeyVersionRequest, kms_v1.CryptoKeyVersion),
    "GetPublicKey": (kms_v1.GetPublicKeyRequest, kms_v1.PublicKey),
    "AsymmetricSign": (kms_v1.AsymmetricSignRequest, kms_v1.AsymmetricSignResponse),
    "ListCryptoKeys": (kms_v1.ListCryptoKeysRequest, kms_v1.ListCryptoKeysResponse),
    "ListCryptoKeyVersions": (
        kms_v1.ListCryptoKeyVersionsRequest,
        kms_v1.ListCryptoKeyVersionsResponse,
    ),
    "CreateCryptoKey": (kms_v1.CreateCryptoKeyRequest, kms_v1.CryptoKey),
}
PERMISSIONS = {
    "GetCryptoKeyVersion": "cloudkms.cryptoKeyVersions.get",
    "GetPublicKey": "cloudkms.cryptoKeyVersions.viewPublicKey",
    "AsymmetricSign": "cloudkms.cryptoKeyVersions.useToSign",
    "ListCryptoKeys": "cloudkms.cryptoKeys.list",
    "ListCryptoKeyVersions": "cloudkms.cryptoKeyVersions.list",
    "CreateCryptoKey": "cloudkms.cryptoKeys.create",
}


class Refused(Exception):  # noqa: N818 - an answer, not an accident
    """An error answer.

    Args:
        status: Google's canonical code, such as `NOT_FOUND`.
        message: For people.
        retry_after: Seconds of google.rpc.RetryInfo, or None for no such detail.
        reason: Of google.rpc.ErrorInfo, or None.
    """

    def __init__(
        self,
        status: str,
        message: str,
        retry_after: float | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.retry_after, self.reason = retry_after, reason

    def proto(self) -> status_pb2.Status:
        """As google.rpc.Status."""
        answer = status_pb2.Status(code=code_pb2.Code.Value(self.status), message=self.message)
        if self.retry_after is not None:
            delay = duration_pb2.Duration(
                seconds=int(self.retry_after), nanos=int(self.retry_after % 1 * 1e9)
            )
            answer.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        if self.reason is not None:
            info = error_details_pb2.ErrorInfo(reason=self.reason, domain="googleapis.com")
            answer.details.add().Pack(info)
        return answer


@dataclass
class Faults:
    """What goes wrong from now on.

    Attributes:
        refusals: Answered one after the other before anything else, as (method or "", error).
        corrupt: Of `signature`, `digest`, `data`, `pem`: the check that fails; `no-signature`
            and `no-pem` leave the checksum out; `request` changes what arrives.
        name: Answered instead of the version's own.
        level: Protection level answered when signing.
        signs_as: Another private key signs.
        denied: Permissions that the caller lacks.
        delay: Seconds before each answer.
        hang: Whether nothing is answered until the server closes.
    """

    refusals: list[tuple[str, Refused]] = field(default_factory=list)
    corrupt: set[str] = field(default_factory=set)
    name: str | None = None
    level: str | None = None
    signs_as: Any = None
    denied: set[str] = field(default_factory=set)
    delay: float = 0.0
    hang: bool = False

    def refuse(self, status: str, times: int = 1, *, method: str = "", **more: Any) -> None:
        """Answer this error the next so many times."""
        message = more.pop("message", f"The test says {status}.")
        self.refusals += [(method, Refused(status, message, **more))] * times


@dataclass
class Version:
    """A key version.

    Attributes:
        answer: As GetCryptoKeyVersion tells it.
        private_key: Signs.
        pending: How often it is still PENDING_GENERATION when asked for.
    """

    answer: kms_v1.CryptoKeyVersion
    private_key: Any
    pending: int = 0

    @property
    def algorithm(self) -> str:
        """Google's name of the algorithm."""
        return str(self.answer.algorithm.name)

    @property
    def external(self) -> bool:
        """Whether somebody else has the key."""
        return self.answer.protection_level in (Level.EXTERNAL, Level.EXTERNAL_VPC)


class KmsService:
    """The service, without a wire."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.versions: dict[str, Version] = {}
        self.keys: dict[str, kms_v1.CryptoKey] = {}
        self.key_rings = {KEY_RING}
        self.calls: list[tuple[str, Any]] = []
        self.pending = 0
        self.page_size = 100
        self._lock = threading.RLock()
        self._closing = threading.Event()

    def add(
        self,
        key_id: str,
        algorithm: str,
        *,
        level: str = "SOFTWARE",
        state: str = "ENABLED",
        private_key: Any = None,
        imported: bool = False,
        purpose: str = "ASYMMETRIC_SIGN",
    ) -> str:
        """Add a version to a key, making the key where it is missing; returns its name."""
        with self._lock:
            key = f"{KEY_RING}/cryptoKeys/{key_id}"
            if key not in self.keys:
                self.keys[key] = kms_v1.CryptoKey(
                    name=key,
                    purpose=purpose,
                    version_template={"algorithm": algorithm, "protection_level": level},
                )
            number = 1 + sum(name.startswith(f"{key}/") for name in self.versions)
            name = f"{key}/cryptoKeyVersions/{number}"
            answer = kms_v1.CryptoKeyVersion(
                name=name, algorithm=algorithm, protection_level=level, state=state
            )
            if imported:
                answer.import_job = f"{KEY_RING}/importJobs/one"
                answer.import_time = datetime(2026, 1, 2, tzinfo=UTC)
            else:
                answer.generate_time = datetime(2026, 1, 1, tzinfo=UTC)
            if level == "HSM":
                answer.attestation = kms_v1.KeyOperationAttestation(
                    format="CAVIUM_V2_COMPRESSED", content=b"a statement"
                )
            self.versions[name] = Version(answer, private_key or key_for(algorithm))
            return name

    def set_state(self, name: str, state: str) -> None:
        """Enable, disable or destroy a version."""
        self.versions[name].answer.state = State[state]

    def called(self, method: str) -> list[Any]:
        """The requests of one method."""
        with self._lock:
            return [request for name, request in self.calls if name == method]

    def close(self) -> None:
        """Let go of whoever hangs."""
        self._closing.set()

    def handle(self, method: str, request: Any) -> Any:
        """Answer a request.

        Raises:
            Refused: With Google's status.
        """
        with self._lock:
            self.calls.append((method, request))
            refusals = self.faults.refusals
            if refusals and refusals[0][0] in ("", method):
                raise refusals.pop(0)[1]
        if self.faults.delay:
            self._closing.wait(self.faults.delay)
        if self.faults.hang:
            self._closing.wait(60)
            raise Refused("UNAVAILABLE", "The server is closing.")
        if (permission := PERMISSIONS[method]) in self.faults.denied:
            resource = getattr(request, "name", "") or request.parent
            raise Refused(
                "PERMISSION_DENIED",
                f"Permission '{permission}' denied on resource '{resource}' (or it may not exist).",
            )
        answer: Callable[[Any], Any] = getattr(self, f"_{method}")
        return answer(request)

    def _GetCryptoKeyVersion(self, request: Any) -> Any:  # noqa: N802
        version = self._find(request.name)
        answer = kms_v1.CryptoKeyVersion(version.answer)
        if version.pending:
            version.pending -= 1
            answer.state = State.PENDING_GENERATION
        answer.name = self.faults.name or answer.name
        return answer

    def _GetPublicKey(self, request: Any) -> Any:  # noqa: N802
        version = self._enabled(request.name)
        pem = version.private_key.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
        answer = kms_v1.PublicKey(
            pem=pem.decode(),
            algorithm=version.answer.algorithm,
            name=self.faults.name or request.name,
            protection_level=version.answer.protection_level,
        )
        self._checksum(answer, "pem", pem)
        return answer

    def _AsymmetricSign(self, request: Any) -> Any:  # noqa: N802
        version = self._enabled(request.name)
        digest_name = kms_v1.Digest.pb(request.digest).WhichOneof("digest")
        digest = bytes(getattr(request.digest, digest_name)) if digest_name else b""
        data = request.data
        if "request" in self.faults.corrupt:
            digest, data = digest[:-1] + b"?" if digest else b"", data[:-1] + b"?" if data else b""
        if bool(digest_name) == bool(data):
            raise Refused("INVALID_ARGUMENT", "Exactly one of digest and data must be supplied.")
        for what, content, checksum in (
            ("digest", digest, request.digest_crc32c),
            ("data", data, request.data_crc32c),
        ):
            if checksum is not None and checksum != google_crc32c.value(content):
                raise Refused("INVALID_ARGUMENT", f"{what}_crc32c does not match the {what}.")
        self._check_fits(version, digest_name, digest, data)
        key = self.faults.signs_as or version.private_key
        signature = sign(version.algorithm, key, digest, data)
        answer = kms_v1.AsymmetricSignResponse(
            signature=signature,
            verified_digest_crc32c=request.digest_crc32c is not None
            and "digest" not in self.faults.corrupt,
            verified_data_crc32c=request.data_crc32c is not None
            and "data" not in self.faults.corrupt,
            name=self.faults.name or request.name,
            protection_level=self.faults.level or version.answer.protection_level,
        )
        self._checksum(answer, "signature", signature)
        return answer

    def _ListCryptoKeys(self, request: Any) -> Any:  # noqa: N802
        if request.parent not in self.key_rings:
            raise Refused("NOT_FOUND", f"KeyRing {request.parent} not found.")
        names = sorted(name for name in self.keys if name.startswith(f"{request.parent}/"))
        page, token = self._page(names, request)
        return kms_v1.ListCryptoKeysResponse(
            crypto_keys=[self.keys[name] for name in page], next_page_token=token
        )

    def _ListCryptoKeyVersions(self, request: Any) -> Any:  # noqa: N802
        if request.parent not in self.keys:
            raise Refused("NOT_FOUND", f"CryptoKey {request.parent} not found.")
        names = [name for name in self.versions if name.startswith(f"{request.parent}/")]
        page, token = self._page(names, request)
        return kms_v1.ListCryptoKeyVersionsResponse(
            crypto_key_versions=[self.versions[name].answer for name in page],
            next_page_token=token,
        )

    def _CreateCryptoKey(self, request: Any) -> Any:  # noqa: N802
        if request.parent not in self.key_rings:
            raise Refused("NOT_FOUND", f"KeyRing {request.parent} not found.")
        with self._lock:
            name = f"{request.parent}/cryptoKeys/{request.crypto_key_id}"
            if name in self.keys:
                raise Refused("ALREADY_EXISTS", f"CryptoKey {name} already exists.")
            template = request.crypto_key.version_template
            algorithm = template.algorithm.name
            # Each new key is another one; but RSA keys take their time, and one will do.
            number = 0 if algorithm.startswith("RSA") else len(self.keys) + 1
            made = self.add(
                request.crypto_key_id,
                algorithm,
                private_key=key_for(algorithm, number),
                level=template.protection_level.name,
                purpose=request.crypto_key.purpose.name,
            )
            self.versions[made].pending = self.pending
            return self.keys[name]

    def _find(self, name: str) -> Version:
        try:
            return self.versions[name]
        except KeyError:
            raise Refused("NOT_FOUND", f"CryptoKeyVersion {name} not found.") from None

    def _enabled(self, name: str) -> Version:
        version = self._find(name)
        if version.answer.state != State.ENABLED:
            raise Refused(
                "FAILED_PRECONDITION",
                f"{name} is not enabled, current state is: {version.answer.state.name}.",
            )
        return version

    def _page(self, names: list[str], request: Any) -> tuple[list[str], str]:
        start = int(request.page_token or 0)
        end = start + min(request.page_size or 100, self.page_size)
        return names[start:end], str(end) if end < len(names) else ""

    def _check_fits(
        self, version: Version, digest_name: str | None, digest: bytes, data: bytes
    ) -> None:
        algorithm = version.algorithm
        if not algorithm.startswith(("RSA_SIGN", "EC_SIGN")):
            raise Refused("INVALID_ARGUMENT", f"{algorithm} cannot be used to sign.")
        if digest_name and (
            "_RAW_" in algorithm or algorithm == "EC_SIGN_ED25519" or version.external
        ):
            raise Refused("INVALID_ARGUMENT", f"{algorithm} requires data, not a digest.")
        if digest_name and not algorithm.endswith(digest_name.upper()):
            raise Refused("INVALID_ARGUMENT", f"{algorithm} does not take a {digest_name} digest.")
        if digest_name and len(digest) != _HASHES[digest_name].digest_size:
            raise Refused("INVALID_ARGUMENT", f"A {digest_name} digest has another length.")
        most = _MOST_DATA
        if "_RAW_" in algorithm:
            # PKCS #1 v1.5: at least 11 bytes of the modulus are padding (RFC 8017 §9.2).
            most = version.private_key.key_size // 8 - 11
        if len(data) > most:
            raise Refused("INVALID_ARGUMENT", f"data is longer than {most} bytes.")

    def _checksum(self, answer: Any, what: str, content: bytes) -> None:
        if f"no-{what}" in self.faults.corrupt:
            return
        wrong = 1 if what in self.faults.corrupt else 0
        setattr(answer, f"{what}_crc32c", google_crc32c.value(content) ^ wrong)


def sign(algorithm: str, key: Any, digest: bytes, data: bytes) -> bytes:
    """A signature as Google makes it: ECDSA as DER, the rest plain."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    if "_RAW_" in algorithm:
        return _pkcs1_without_hash(key, data)
    hashed = _HASHES[algorithm.rpartition("_")[2].lower()]
    if not digest:
        hasher = hashes.Hash(hashed)
        hasher.update(data)
        digest = hasher.finalize()
    prehashed = utils.Prehashed(hashed)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(digest, ec.ECDSA(prehashed))
    if "_PSS_" in algorithm:
        pss = padding.PSS(padding.MGF1(hashed), hashed.digest_size)
        return bytes(key.sign(digest, pss, prehashed))
    return bytes(key.sign(digest, padding.PKCS1v15(), prehashed))


def _pkcs1_without_hash(key: rsa.RSAPrivateKey, data: bytes) -> bytes:
    # RFC 8017 §9.2 from step 4 on, and §5.2.1 by the Chinese remainder theorem.
    size = key.key_size // 8
    message = int.from_bytes(b"\x00\x01" + b"\xff" * (size - len(data) - 3) + b"\x00" + data, "big")
    numbers = key.private_numbers()
    first = pow(message, numbers.dmp1, numbers.p)
    second = pow(message, numbers.dmq1, numbers.q)
    signature = second + (first - second) * numbers.iqmp % numbers.p * numbers.q
    return signature.to_bytes(size, "big")


@functools.cache
def key_for(algorithm: str, number: int = 0) -> Any:
    """A private key that fits an algorithm, made once in a session.

    Args:
        algorithm: Google's name of it.
        number: Another number, another key.
    """
    if algorithm.startswith("RSA"):
        bits = next(word for word in algorithm.split("_") if word in ("2048", "3072", "4096"))
        return _rsa_key(int(bits), number)
    if algorithm == "EC_SIGN_ED25519":
        return ed25519.Ed25519PrivateKey.generate()
    curves: dict[str, ec.EllipticCurve] = {
        "EC_SIGN_P384_SHA384": ec.SECP384R1(),
        "EC_SIGN_SECP256K1_SHA256": ec.SECP256K1(),
    }
    return ec.generate_private_key(curves.get(algorithm, ec.SECP256R1()))


@functools.cache
def _rsa_key(bits: int, number: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


class GcpKmsServer:
    """The service over gRPC on a loopback port of its own.

    Attributes:
        service: What answers.
        transport: How keystay reaches it.
    """

    transport = "grpc"

    def __init__(self, service: KmsService | None = None, port: int = 0) -> None:
        self.service = service or KmsService()
        self._server = grpc.server(ThreadPoolExecutor(16, "gcp-kms"))
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    _SERVICE,
                    {
                        name: grpc.unary_unary_rpc_method_handler(
                            functools.partial(self._answer, name),
                            request_deserializer=request.deserialize,
                            response_serializer=response.serialize,
                        )
                        for name, (request, response) in METHODS.items()
                    },
                ),
            )
        )
        self.port: int = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    @property
    def endpoint(self) -> str:
        """Address and port."""
        return f"127.0.0.1:{self.port}"

    def uri(self, name: str, **query: str) -> str:
        """A key URI that leads here."""
        given = {"endpoint": self.endpoint, **query}
        if self.transport != "grpc":
            given["transport"] = self.transport
        return f"gcpkms://{name}?" + "&".join(f"{n}={v}" for n, v in given.items())

    def add(self, key_id: str, algorithm: str, **more: Any) -> str:
        """As `KmsService.add`, but returns the key URI."""
        return self.uri(self.service.add(key_id, algorithm, **more))

    def stop(self) -> None:
        """Cut every connection; the service is kept for another server."""
        self._server.stop(0).wait()

    def close(self) -> None:
        """Stop."""
        self.service.close()
        self.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _answer(self, method: str, request: Any, context: Any) -> Any:
        try:
            return self.service.handle(method, request)
        except Refused as refused:
            return context.abort_with_status(rpc_status.to_status(refused.proto()))
