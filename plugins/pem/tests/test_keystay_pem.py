"""keystay-pem as a user meets it: files of every kind, good and bad, and keys made by it."""

from __future__ import annotations

import functools
import logging
import os
import pickle
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

import keystay
from keystay import key_uri, open_signer, signatures
from keystay.backends import BackendContext, GeneratesKeys, ListsKeys, SecretResolver
from keystay.backends.registry import Registry
from keystay.errors import (
    BackendError,
    ConfigurationError,
    KeyAmbiguousError,
    KeyNotFoundError,
    KeystayError,
    KeyUnusableError,
    KeyURIError,
    LoginError,
    PolicyError,
    SecretError,
    SignerClosedError,
)
from tests.support.secrets_watch import WATCH

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

PASSPHRASE = WATCH.add("the passphrase of the PEM tests", "correct horse båttery 5127")
ALGORITHMS = {
    "RSA-2048": ("RS384", "RS256", "RS512", "PS384", "PS256", "PS512"),
    "P-256": ("ES256",),
    "P-384": ("ES384",),
    "P-521": ("ES512",),
    "Ed25519": ("EdDSA",),
}
CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
KEY_TYPES = ["P-256", "P-384", "P-521", "RSA-2048", "RSA-3072", "RSA-4096", "Ed25519"]
PKCS8 = serialization.PrivateFormat.PKCS8
TRADITIONAL = serialization.PrivateFormat.TraditionalOpenSSL


@functools.cache
def private_key(kind: str) -> Any:
    """A key of a kind."""
    if kind == "RSA-2048":
        return rsa.generate_private_key(65537, 2048)
    if kind == "Ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(CURVES[kind])


def pem(
    key: PrivateKeyTypes,
    form: serialization.PrivateFormat = PKCS8,
    passphrase: str | None = None,
) -> bytes:
    """A private key as PEM."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase.encode())
    return key.private_bytes(serialization.Encoding.PEM, form, encryption)


def openssl(*arguments: str, data: bytes | None = None) -> bytes:
    """What openssl writes."""
    return subprocess.run(
        ["openssl", *arguments], input=data, capture_output=True, check=True
    ).stdout


def write(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    """A key file."""
    path = folder / "client.pem"
    path.touch(mode=0o600)
    path.write_bytes(content)
    path.chmod(mode)
    return path


def store(path: Path, query: str = "", **context: Any) -> Any:
    """The store of a file."""
    uri = key_uri.parse(f"file:{path}{query}")
    return Registry().open_store(uri, BackendContext(**context))


def refusal(path: Path, kind: type[KeystayError] = KeyUnusableError, query: str = "") -> Any:
    """The error that opening a file ends in: it names the file, and shows nothing of the key."""
    with pytest.raises(kind) as caught:
        open_signer(f"file:{path}{query}")
    assert str(path) in str(caught.value)
    assert caught.value.hint
    WATCH.check(f"{caught.value} {caught.value!r}", "the error")
    return caught.value


class TestFormats:
    """What is read."""

    @pytest.mark.parametrize("kind", ALGORITHMS)
    @pytest.mark.parametrize("passphrase", [None, PASSPHRASE], ids=["plain", "encrypted"])
    def test_pkcs8(self, tmp_path: Path, kind: str, passphrase: str | None) -> None:
        """PKCS#8, encrypted or not; the algorithms are those of the key type."""
        path = write(tmp_path, pem(private_key(kind), PKCS8, passphrase))
        with open_signer(f"file:{path}", secrets=lambda *_: passphrase) as signer:
            assert (kind, ALGORITHMS[kind]) == (signer.key_type, signer.algorithms)
            signature = signer.sign(b"message")
        public_key = private_key(kind).public_key()
        signatures.verify(public_key, ALGORITHMS[kind][0], b"message", signature)

    @pytest.mark.parametrize("kind", ["RSA-2048", *CURVES])
    @pytest.mark.parametrize("passphrase", [None, PASSPHRASE], ids=["plain", "encrypted"])
    def test_traditional(self, tmp_path: Path, kind: str, passphrase: str | None) -> None:
        """PKCS#1 and SEC1, plain or with the legacy Proc-Type encryption."""
        content = pem(private_key(kind), TRADITIONAL, passphrase)
        assert (passphrase is not None) == (b"Proc-Type: 4,ENCRYPTED" in content)
        path = write(tmp_path, content)
        with open_signer(f"file:{path}", secrets=lambda *_: passphrase) as signer:
            assert kind == signer.key_type

    @pytest.mark.parametrize(
        "arguments",
        [
            pytest.param("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048", id="RSA"),
            pytest.param("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2056", id="RSA-2056"),
            pytest.param("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384", id="P-384"),
            pytest.param("genpkey -algorithm ED25519", id="Ed25519"),
            pytest.param("ecparam -name secp521r1 -genkey -noout", id="SEC1"),
            pytest.param("ecparam -name prime256v1 -genkey", id="EC PARAMETERS before the key"),
            pytest.param("genrsa -traditional 2048", id="PKCS#1"),
        ],
    )
    def test_made_by_openssl(self, tmp_path: Path, arguments: str) -> None:
        """What openssl makes is read, and its signature verifies with openssl's public key."""
        content = openssl(*arguments.split())
        path = write(tmp_path, content)
        public = serialization.load_pem_public_key(openssl("pkey", "-pubout", data=content))
        with open_signer(f"file:{path}") as signer:
            signature = signer.sign(b"message")
            signatures.verify(public, signer.algorithm, b"message", signature)

    @pytest.mark.parametrize("cipher", ["aes-128-cbc", "aes-256-cbc", "des-ede3-cbc"])
    def test_encrypted_by_openssl(self, tmp_path: Path, cipher: str) -> None:
        """PKCS#8 encrypted by openssl."""
        passphrase = "pass:" + PASSPHRASE
        content = openssl(
            "pkcs8", "-topk8", "-v2", cipher, "-passout", passphrase, data=pem(private_key("P-256"))
        )
        path = write(tmp_path, content)
        with open_signer(f"file:{path}", secrets=lambda *_: PASSPHRASE) as signer:
            assert "P-256" == signer.key_type

    @pytest.mark.parametrize("first", ["certificate", "key"])
    def test_certificate_and_key_in_one_file(self, tmp_path: Path, first: str) -> None:
        """The key is found on either side of its certificate."""
        content = pem(private_key("P-384"))
        certificate = openssl(
            "req", "-x509", "-new", "-key", "/dev/stdin", "-subj", "/CN=x", data=content
        )
        both = (certificate, content) if first == "certificate" else (content, certificate)
        path = write(tmp_path, b"".join(both))
        with open_signer(f"file:{path}") as signer:
            assert "P-384" == signer.key_type

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda c: c.replace(b"\n", b"\r\n"), id="Windows newlines"),
            pytest.param(lambda c: b"Bag Attributes\n  friendlyName: x\n" + c, id="text before"),
            pytest.param(lambda c: c + b"\nthe end\n", id="text behind"),
        ],
    )
    def test_surroundings(self, tmp_path: Path, change: Any) -> None:
        """Newlines and explanatory text do not matter (RFC 7468)."""
        path = write(tmp_path, change(pem(private_key("P-256"))))
        with open_signer(f"file:{path}") as signer:
            assert "P-256" == signer.key_type


class TestPassphrase:
    """By reference, never in the URI."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """An encrypted key."""
        return write(tmp_path, pem(private_key("P-384"), PKCS8, PASSPHRASE))

    def test_by_file(self, path: Path) -> None:
        """In a file beside it, relative to the base directory."""
        secret = path.with_name("passphrase")
        secret.touch(mode=0o600)
        secret.write_text(f"{PASSPHRASE}\n")
        for reference in (f"file:{secret}", "file:passphrase"):
            with open_signer(
                f"file:client.pem?passphrase-source={reference}", base_dir=path.parent
            ) as signer:
                assert "P-384" == signer.key_type

    def test_by_environment(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """In an environment variable; from the URI or the settings, the URI first."""
        monkeypatch.setenv("KEYSTAY_TEST_PASSPHRASE", PASSPHRASE)
        settings = {"file": {"passphrase_source": "env:KEYSTAY_TEST_PASSPHRASE"}}
        open_signer(f"file:{path}", backends=settings).close()
        settings["file"]["passphrase_source"] = "env:KEYSTAY_TEST_NO_SUCH"
        open_signer(
            f"file:{path}?passphrase-source=env:KEYSTAY_TEST_PASSPHRASE", backends=settings
        ).close()
        with pytest.raises(SecretError, match="KEYSTAY_TEST_NO_SUCH"):
            open_signer(f"file:{path}", backends=settings)

    def test_by_callable(self, path: Path) -> None:
        """The callable hears which file it is for."""
        asked: list[tuple[str, str]] = []

        def answer(reference: str, purpose: str) -> str:
            asked.append((reference, purpose))
            return PASSPHRASE

        open_signer(f"file:{path}", secrets=answer).close()
        assert [("", f"the passphrase of {path}")] == asked

    def test_not_asked_for_a_plain_key(self, tmp_path: Path) -> None:
        """A key that is not encrypted needs none, whatever the settings say."""
        path = write(tmp_path, pem(private_key("P-256")))
        asked: list[str] = []
        open_signer(f"file:{path}", secrets=lambda *a: asked.extend(a)).close()
        assert [] == asked

    def test_missing(self, path: Path) -> None:
        """The remedy is the reference to write."""
        error = refusal(path, LoginError)
        assert "passphrase-missing" == error.code
        assert f"file:{path}?passphrase-source=file:" in error.hint

    @pytest.mark.parametrize("form", [PKCS8, TRADITIONAL], ids=["PKCS#8", "SEC1"])
    def test_wrong(self, tmp_path: Path, form: Any) -> None:
        """A wrong one is said so, and not repeated."""
        path = write(tmp_path, pem(private_key("P-256"), form, "right"))
        with pytest.raises(LoginError) as caught:
            open_signer(f"file:{path}", secrets=lambda *_: PASSPHRASE)
        assert "passphrase-wrong" == caught.value.code
        WATCH.check(str(caught.value), "the error")

    def test_longer_than_openssl_takes(self, path: Path) -> None:
        """Too long a passphrase is told before OpenSSL chokes on it."""
        for use in (
            lambda answer: open_signer(f"file:{path}", secrets=answer),
            lambda answer: store(
                path.with_name("new.pem"), secrets=SecretResolver(answer)
            ).generate_key("P-256"),
        ):
            with pytest.raises(SecretError) as caught:
                use(lambda *_: "x" * 1024)
            assert "secret-too-long" == caught.value.code

    @pytest.mark.parametrize("value", [7, True, ["env:X"]])
    def test_setting_of_a_wrong_type(self, path: Path, value: object) -> None:
        """A setting that is no string is a fault of the configuration."""
        with pytest.raises(ConfigurationError, match="passphrase_source: it is "):
            open_signer(f"file:{path}", backends={"file": {"passphrase_source": value}})

    def test_unknown_names(self, path: Path) -> None:
        """Unknown attributes and settings are refused with what is known."""
        with pytest.raises(KeyURIError, match="Did you mean 'passphrase-source'"):
            open_signer(f"file:{path}?passphrase-sorce=env:X")
        with pytest.raises(ConfigurationError, match="a secret does not belong"):
            open_signer(f"file:{path}", backends={"file": {"passphrase": PASSPHRASE}})
        with pytest.raises(KeyURIError, match="put a secret"):
            open_signer(f"file:{path}?passphrase=x")


def public_pem(kind: str, form: serialization.PublicFormat) -> bytes:
    """A public key as PEM."""
    encoded: bytes = private_key(kind).public_key().public_bytes(serialization.Encoding.PEM, form)
    return encoded


def other_form(encoding: serialization.Encoding, form: serialization.PrivateFormat) -> bytes:
    """The P-384 key in a form that is not read."""
    encoded: bytes = private_key("P-384").private_bytes(
        encoding, form, serialization.NoEncryption()
    )
    return encoded


def request(*arguments: str) -> bytes:
    """A certificate or a request for one."""
    key = pem(private_key("P-384"))
    return openssl("req", *arguments, "-new", "-key", "/dev/stdin", "-subj", "/CN=x", data=key)


# Files that hold something else.
STRANGE: dict[str, Callable[[], bytes]] = {
    "RSA-1024": lambda: pem(rsa.generate_private_key(65537, 1024)),
    "secp256k1": lambda: pem(ec.generate_private_key(ec.SECP256K1())),
    "secp224r1": lambda: pem(ec.generate_private_key(ec.SECP224R1())),
    "Ed448": lambda: pem(ed448.Ed448PrivateKey.generate()),
    "X25519": lambda: pem(x25519.X25519PrivateKey.generate()),
    "DSA": lambda: pem(dsa.generate_private_key(2048)),
    "public key": lambda: public_pem("P-384", serialization.PublicFormat.SubjectPublicKeyInfo),
    "PKCS#1 public key": lambda: public_pem("RSA-2048", serialization.PublicFormat.PKCS1),
    "certificate": lambda: request("-x509"),
    "request": request,
    "OpenSSH": lambda: other_form(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH),
    "DER": lambda: other_form(serialization.Encoding.DER, PKCS8),
    "parameters": lambda: openssl("ecparam", "-name", "secp384r1"),
}


class TestRefused:
    """What is not a usable private key, each thing by its name."""

    @pytest.mark.parametrize(
        ("name", "says", "code"),
        [
            pytest.param("RSA-1024", "1024 bits", "key-weak", id="RSA-1024"),
            pytest.param("secp256k1", "secp256k1", "key-curve-unsupported", id="secp256k1"),
            pytest.param("secp224r1", "secp224r1", "key-curve-unsupported", id="P-224"),
            pytest.param("Ed448", "Ed448", "key-curve-unsupported", id="Ed448"),
            pytest.param("X25519", "X25519", "key-curve-unsupported", id="X25519"),
            pytest.param("DSA", "DSA", "key-curve-unsupported", id="DSA"),
            pytest.param("public key", "holds a public key", "pem-not-private-key", id="public"),
            pytest.param(
                "PKCS#1 public key", "holds a public key", "pem-not-private-key", id="RSA public"
            ),
            pytest.param(
                "certificate", "holds a certificate,", "pem-not-private-key", id="certificate"
            ),
            pytest.param("request", "holds a certificate request", "pem-not-private-key", id="CSR"),
            pytest.param("OpenSSH", "an OpenSSH private key", "pem-not-private-key", id="OpenSSH"),
            pytest.param("DER", "holds binary DER", "pem-not-private-key", id="DER"),
            pytest.param("parameters", "without a key", "pem-not-private-key", id="parameters"),
        ],
    )
    def test_something_else(self, tmp_path: Path, name: str, says: str, code: str) -> None:
        """The error says what the file holds and what to do."""
        error = refusal(write(tmp_path, STRANGE[name]()))
        assert (code, True) == (error.code, says in error.message), error.message

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            pytest.param(b"", "holds nothing", id="empty"),
            pytest.param(b"\n \n", "holds nothing", id="blank"),
            pytest.param(b"hunter2", "holds no PEM document", id="text"),
            pytest.param(b"\xff" * 100, "holds no PEM document", id="binary"),
            pytest.param(
                b"-----BEGIN PGP MESSAGE-----\n-----END PGP MESSAGE-----\n",
                "of type PGP MESSAGE",
                id="another PEM",
            ),
            pytest.param(
                b"-----BEGIN PRIVATE KEY-----\n", "cannot be read (ValueError)", id="begin only"
            ),
            pytest.param(
                b"-----BEGIN PRIVATE KEY-----\n!!!\n-----END PRIVATE KEY-----\n",
                "cannot be read",
                id="no base64",
            ),
            pytest.param(
                b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                "cannot be read",
                id="no key inside",
            ),
        ],
    )
    def test_garbage(self, tmp_path: Path, content: bytes, says: str) -> None:
        """Garbage is refused, and not repeated."""
        error = refusal(write(tmp_path, content))
        assert says in error.message, error.message
        assert "hunter2" not in str(error)

    def test_truncated_anywhere(self, tmp_path: Path) -> None:
        """No beginning of a key file is a key file."""
        content = pem(private_key("P-384"))
        for length in range(0, len(content) - 2, 7):
            refusal(write(tmp_path, content[:length]))

    def test_body_cut(self, tmp_path: Path) -> None:
        """Neither is one that lost its middle."""
        lines = pem(private_key("RSA-2048")).splitlines(keepends=True)
        for cut in range(1, len(lines) - 1, 5):
            refusal(write(tmp_path, b"".join(lines[:cut] + lines[cut + 1 :])))

    def test_damaged_encrypted(self, tmp_path: Path) -> None:
        """An encrypted file that is damaged looks like a wrong passphrase, and says both."""
        lines = pem(private_key("P-384"), PKCS8, PASSPHRASE).splitlines(keepends=True)
        path = write(tmp_path, b"".join(lines[:2] + lines[3:]))
        with pytest.raises(LoginError, match="or the file is damaged"):
            open_signer(f"file:{path}", secrets=lambda *_: PASSPHRASE)

    def test_two_keys(self, tmp_path: Path) -> None:
        """Two keys in one file: which would sign is not left to chance."""
        path = write(tmp_path, pem(private_key("P-256")) + pem(private_key("P-384")))
        assert "holds 2 private keys" in refusal(path, KeyAmbiguousError).message

    @pytest.mark.parametrize("mode", [0o644, 0o604, 0o622, 0o660, 0o666, 0o777, 0o601])
    def test_unsafe_modes(self, tmp_path: Path, mode: int) -> None:
        """Others may not read it, the group may not change it."""
        path = write(tmp_path, pem(private_key("P-256")), mode)
        error = refusal(path)
        assert ("key-file-unsafe", True) == (error.code, f"{mode:04o}" in error.message)
        assert f"chmod 0600 {path}" in error.hint

    @pytest.mark.parametrize("mode", [0o400, 0o600, 0o640, 0o440])
    def test_safe_modes(self, tmp_path: Path, mode: int) -> None:
        """The group may read it, as container secrets have it."""
        path = write(tmp_path, pem(private_key("P-256")), mode)
        open_signer(f"file:{path}").close()

    @pytest.mark.parametrize(
        ("name", "code"),
        [
            pytest.param("missing.pem", "key-not-found", id="missing"),
            pytest.param(".", "key-file-unreadable", id="a folder"),
            pytest.param("client.pem/x", "key-file-unreadable", id="a file as a folder"),
            pytest.param("x" * 300, "key-file-unreadable", id="name too long"),
            pytest.param("fifo", "key-file-unreadable", id="a FIFO"),
        ],
    )
    def test_not_a_file(self, tmp_path: Path, name: str, code: str) -> None:
        """What is no file is refused at once; a FIFO is not waited for."""
        write(tmp_path, pem(private_key("P-256")))
        os.mkfifo(tmp_path / "fifo", 0o600)
        assert code == refusal(tmp_path / name, KeyNotFoundError).code


class TestKey:
    """An opened key."""

    @pytest.mark.parametrize(
        ("kind", "name"), [(kind, name) for kind, names in ALGORITHMS.items() for name in names]
    )
    @pytest.mark.filterwarnings("ignore:EdDSA is deprecated via RFC 9864")
    def test_verified_by_others(self, tmp_path: Path, kind: str, name: str) -> None:
        """PyJWT and joserfc verify an assertion by every algorithm."""
        path = write(tmp_path, pem(private_key(kind)))
        with open_signer(f"file:{path}", algorithm=name) as signer:
            token = keystay.ClientAssertion(client_id="me", signer=signer).build(
                audience="https://as.example.org/token"
            )
        public_key = private_key(kind).public_key()
        claims = jwt.decode(
            token, public_key, algorithms=[name], audience="https://as.example.org/token"
        )
        assert "me" == claims["iss"] == claims["sub"]
        theirs: Any = {"R": RSAKey, "P": ECKey, "E": OKPKey}[kind[0]]
        verified = jws.deserialize_compact(token, theirs.import_key(public_key), algorithms=[name])
        assert {"alg": name, "typ": "JWT"}.items() <= verified.headers().items()

    def test_five_hundred_signatures(self, tmp_path: Path) -> None:
        """500 signatures, all of 64 bytes, all good."""
        path = write(tmp_path, pem(private_key("P-256")))
        with open_signer(f"file:{path}") as signer:
            for number in range(500):
                signature = signer.sign(b"%d" % number)
                assert 64 == len(signature)
                signatures.verify(signer.public_key, "ES256", b"%d" % number, signature)

    def test_short_coordinates(self, tmp_path: Path) -> None:
        """Signing goes on until a short r and a short s have occurred: both are padded."""
        path = write(tmp_path, pem(private_key("P-256")))
        seen = {"r": False, "s": False}
        with open_signer(f"file:{path}") as signer:
            for number in range(20_000):
                signature = signer.sign(b"%d" % number)
                seen["r"] |= signature[0] == 0
                seen["s"] |= signature[32] == 0
                if 0 in (signature[0], signature[32]):
                    signatures.verify(signer.public_key, "ES256", b"%d" % number, signature)
                if all(seen.values()):
                    break
        assert {"r": True, "s": True} == seen

    def test_custody(self, tmp_path: Path) -> None:
        """The key is in this process, and says so; policy refuses it."""
        path = write(tmp_path, pem(private_key("P-384")))
        with open_signer(f"file:{path}") as signer:
            assert ("in-process", "reported") == (signer.custody.location, signer.custody.evidence)
            assert str(path) in signer.custody.reason
            assert True is signer.custody.facts["extractable"].value
        with pytest.raises(PolicyError):
            open_signer(f"file:{path}", custody="out-of-process")

    @pytest.mark.parametrize(("kind", "brief"), [("P-384", True), ("RSA-2048", False)])
    def test_brief(self, tmp_path: Path, kind: str, brief: bool) -> None:
        """A signature on a curve is sooner made than handed to another thread; RSA's is not."""
        path = write(tmp_path, pem(private_key(kind)))
        key = Registry().open_key(key_uri.parse(f"file:{path}"), BackendContext())

        assert brief is key.describe().brief

    def test_warns_once_for_each_file(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Opening it again does not warn again; another file does."""
        (tmp_path / "other").mkdir()
        first = write(tmp_path, pem(private_key("P-384")))
        second = write(tmp_path / "other", pem(private_key("P-384")))
        with caplog.at_level(logging.WARNING, "keystay.backends.pem"):
            for path in (first, first, second, first):
                open_signer(f"file:{path}").close()
        assert [str(first), str(second)] == [
            path
            for record in caplog.records
            for path in (str(first), str(second))
            if f" {path} is in this process's memory" in record.getMessage()
        ]

    def test_relative_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Relative to the base directory, else to the working directory."""
        write(tmp_path, pem(private_key("P-384")))
        open_signer("file:client.pem", base_dir=tmp_path).close()
        monkeypatch.chdir(tmp_path)
        open_signer("file:client.pem").close()
        open_signer("file:./client.pem").close()

    def test_closed(self, tmp_path: Path) -> None:
        """After closing nothing signs."""
        path = write(tmp_path, pem(private_key("P-384")))
        key = Registry().open_key(key_uri.parse(f"file:{path}"), BackendContext())
        signer = keystay.Signer(key)
        signer.health()
        key.close()
        key.close()
        for use in (lambda: signer.sign(b"message"), signer.health):
            with pytest.raises(SignerClosedError):
                use()

    def test_shown_and_pickled(self, tmp_path: Path) -> None:
        """repr names the file; the key does not leave in a pickle."""
        path = write(tmp_path, pem(private_key("P-384")))
        key = Registry().open_key(key_uri.parse(f"file:{path}"), BackendContext())
        assert "<PemKey client.pem>" == repr(key)
        with pytest.raises(TypeError):
            pickle.dumps(key)

    def test_threads(self, tmp_path: Path) -> None:
        """Eight threads sign with one key."""
        path = write(tmp_path, pem(private_key("P-384")))
        barrier = threading.Barrier(8)
        with open_signer(f"file:{path}") as signer:

            def work(number: int) -> None:
                barrier.wait()
                for turn in range(20):
                    message = f"{number}/{turn}".encode()
                    signatures.verify(signer.public_key, "ES384", message, signer.sign(message))

            with ThreadPoolExecutor(8) as pool:
                assert [None] * 8 == list(pool.map(work, range(8)))


class TestGenerate:
    """Keys made by us."""

    @pytest.mark.parametrize("key_type", KEY_TYPES)
    def test_each_type(self, tmp_path: Path, key_type: str) -> None:
        """The file is PKCS#8 with mode 0600, and opens; the record names it."""
        path = tmp_path / "new.pem"
        made = store(path)
        assert isinstance(made, GeneratesKeys)
        record = made.generate_key(key_type)
        made.close()
        assert (0o600, b"-----BEGIN PRIVATE KEY-----\n") == (
            stat.S_IMODE(path.stat().st_mode),
            path.read_bytes()[:28],
        )
        assert ["new.pem"] == [entry.name for entry in tmp_path.iterdir()]
        with open_signer(record.uri) as signer:
            assert (record.key_type, record.key_id) == (signer.key_type, signer.kid)
        assert (key_type, "new.pem") == (record.key_type, record.label)
        assert b"Key is valid" in openssl("pkey", "-in", str(path), "-noout", "-check")

    def test_listed(self, tmp_path: Path) -> None:
        """What was made is what is listed."""
        made = store(tmp_path / "new.pem")
        record = made.generate_key("P-256")
        assert isinstance(made, ListsKeys)
        assert [record] == list(made.list_keys())

    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277, 0o777])
    def test_mode_under_any_umask(self, tmp_path: Path, umask: int) -> None:
        """0600, neither more nor less."""
        path = tmp_path / "new.pem"
        before = os.umask(umask)
        try:
            store(path).generate_key("P-256")
        finally:
            os.umask(before)
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)

    def test_encrypted(self, tmp_path: Path) -> None:
        """With a passphrase it is encrypted, and the record's URI knows where that is."""
        secret = tmp_path / "passphrase"
        secret.touch(mode=0o600)
        secret.write_text(PASSPHRASE)
        path = tmp_path / "new.pem"
        record = store(path, f"?passphrase-source=file:{secret}").generate_key("P-384")
        assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
        open_signer(record.uri).close()
        openssl("pkey", "-in", str(path), "-noout", "-passin", f"file:{secret}")

    @pytest.mark.parametrize("key_type", ["", "RSA", "RSA-1024", "p-256", "Ed448", "P-224"])
    def test_unknown_type(self, tmp_path: Path, key_type: str) -> None:
        """Refused before a passphrase is asked for, with what there is."""
        asked: list[str] = []
        with pytest.raises(ConfigurationError, match="P-256, P-384, P-521, RSA-2048") as caught:
            store(
                tmp_path / "new.pem", secrets=SecretResolver(lambda *a: asked.extend(a))
            ).generate_key(key_type)
        assert ([], []) == (asked, list(tmp_path.iterdir()))
        assert repr(key_type) in caught.value.message

    @pytest.mark.parametrize("what", ["file", "folder", "link", "dangling link", "FIFO"])
    def test_never_overwrites(self, tmp_path: Path, what: str) -> None:
        """Whatever stands there stays."""
        path = tmp_path / "new.pem"
        if what == "file":
            path.write_bytes(b"precious")
        elif what == "folder":
            path.mkdir()
        elif what == "FIFO":
            os.mkfifo(path)
        else:
            (tmp_path / "target").touch()
            path.symlink_to(tmp_path / ("target" if what == "link" else "nowhere"))
        before = {entry: entry.lstat() for entry in tmp_path.iterdir()}
        with pytest.raises(KeyUnusableError) as caught:
            store(path).generate_key("P-256")
        assert "key-exists" == caught.value.code
        assert before.keys() == set(tmp_path.iterdir())
        assert [s.st_ino for s in before.values()] == [e.lstat().st_ino for e in before]

    def test_race(self, tmp_path: Path) -> None:
        """Of several processes that want the same name exactly one gets it, whole."""
        program = (
            "import sys\nfrom keystay import key_uri\nfrom keystay.backends import BackendContext\n"
            "from keystay.backends.registry import Registry\n"
            "from keystay.errors import KeyUnusableError\n"
            "store = Registry().open_store(key_uri.parse(sys.argv[1]), BackendContext())\n"
            "print('ready', flush=True)\nsys.stdin.readline()\n"
            "try:\n    print(store.generate_key('P-256').key_id)\n"
            "except KeyUnusableError as error:\n    print(error.code)\n"
        )
        path = tmp_path / "new.pem"
        racers = [
            subprocess.Popen(
                [sys.executable, "-c", program, f"file:{path}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        for racer in racers:
            assert racer.stdout
            assert "ready\n" == racer.stdout.readline()
        for racer in racers:
            assert racer.stdin
            racer.stdin.write("\n")
            racer.stdin.flush()
        results = [racer.communicate(timeout=30)[0].strip() for racer in racers]
        assert 2 == results.count("key-exists")
        (winner,) = set(results) - {"key-exists"}
        with open_signer(f"file:{path}") as signer:
            assert winner == signer.kid
        assert [path] == list(tmp_path.iterdir())

    def test_race_of_threads(self, tmp_path: Path) -> None:
        """Threads of one process do not stumble over each other's unfinished file."""
        made, barrier = store(tmp_path / "new.pem"), threading.Barrier(8)

        def work(_: int) -> str:
            barrier.wait()
            try:
                return str(made.generate_key("P-256").key_id)
            except KeyUnusableError as error:
                return error.code

        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(work, range(8)))
        assert 7 == results.count("key-exists")
        assert [tmp_path / "new.pem"] == list(tmp_path.iterdir())

    @pytest.mark.parametrize("call", ["fsync", "link", "fchmod"])
    def test_nothing_left_behind(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        """When writing fails there is neither the file nor a part of it."""

        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, call, fail)
        with pytest.raises(BackendError, match="No space left on device") as caught:
            store(tmp_path / "new.pem").generate_key("P-256")
        assert ("key-file-unwritable", []) == (caught.value.code, list(tmp_path.iterdir()))

    def test_full_disk(self) -> None:
        """A file system that is really full: nothing is left behind."""
        program = (
            "import resource, signal, sys\nfrom keystay import key_uri\n"
            "from keystay.backends import BackendContext\n"
            "from keystay.backends.registry import Registry\n"
            "from keystay.errors import BackendError\n"
            "store = Registry().open_store(key_uri.parse('file:new.pem'), BackendContext())\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))\n"
            "try:\n    store.generate_key('P-256')\nexcept BackendError as e:\n    print(e.code)\n"
        )
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, "-B", "-c", program],
                capture_output=True,
                text=True,
                check=True,
                cwd=folder,
            )
            assert ("key-file-unwritable\n", []) == (done.stdout, list(Path(folder).iterdir()))

    def test_folder_without_permission(self, tmp_path: Path) -> None:
        """In a folder that is closed to the user (root becomes another): an error of ours."""
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o000)
        program = (
            "import os, sys\nfrom keystay import key_uri\n"
            "from keystay.backends import BackendContext\n"
            "from keystay.backends.registry import Registry\n"
            "from keystay.errors import BackendError, KeystayError\n"
            "uri = key_uri.parse(sys.argv[1])\n"
            "store = Registry().open_store(uri, BackendContext())\n"
            "import keystay_pem.store, keystay_pem.key\n"
            "if os.getuid() == 0:\n    os.setgid(65534); os.setuid(65534)\n"
            "for use in (lambda: store.generate_key('P-256'), store.list_keys):\n"
            "    try:\n        use()\n    except KeystayError as e:\n        print(e.code)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, f"file:{closed}/new.pem"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "key-file-unwritable\nkey-file-unreadable\n" == done.stdout

    def test_missing_folder(self, tmp_path: Path) -> None:
        """A folder that is not there is not made."""
        with pytest.raises(BackendError, match="No such file or directory"):
            store(tmp_path / "no" / "new.pem").generate_key("P-256")
        assert [] == list(tmp_path.iterdir())
