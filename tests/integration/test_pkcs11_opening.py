"""What is wrong with a key, a token or a module is said by name, and nothing secret is shown."""

from __future__ import annotations

import pickle
import platform
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

import keystay
from keystay.errors import (
    ConfigurationError,
    KeyAmbiguousError,
    KeystayError,
    KeyUnusableError,
    LoginError,
    SignatureInvalidError,
)
from keystay_pkcs11.module import registry
from tests.support.p11kit import find_client_module
from tests.support.secrets_watch import WATCH

if TYPE_CHECKING:
    from tests.support.softhsm import SoftHSM


# OpenSC cannot make a key that may not sign.
_DECRYPT_KEY = """
import sys, pkcs11
module, label, pin_file = sys.argv[1:]
with pkcs11.lib(module).get_token(token_label=label).open(
    rw=True, user_pin=open(pin_file).read().strip()
) as session:
    session.generate_keypair(
        pkcs11.KeyType.RSA, 2048, id=b"\\xa6", label="open-decrypt", store=True,
        capabilities=pkcs11.MechanismFlag.DECRYPT | pkcs11.MechanismFlag.ENCRYPT,
    )
"""


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory, softhsm: SoftHSM) -> SoftHSM:
    """The session's token, with keys that are there twice, weak, or of odd kinds."""
    softhsm.generate_key("EC:secp384r1", "open-good", "a1")
    softhsm.generate_key("EC:secp384r1", "open-twice", "a2")
    softhsm.generate_key("EC:secp384r1", "open-twice", "a3")
    softhsm.generate_key("rsa:1024", "open-weak", "a4")
    softhsm.generate_key("EC:secp256k1", "open-curve", "a5")
    softhsm.run_python(_DECRYPT_KEY, softhsm.module, softhsm.label, str(softhsm.pin_file))
    softhsm.generate_key("EC:secp384r1", "open-lonely", "a7")
    softhsm.pkcs11_tool("--login", "--delete-object", "--type", "pubkey", "--id", "a7")
    return softhsm


def refused(uri: str, **options: object) -> KeystayError:
    """The error that opening a key ends in; it holds no secret and a remedy."""
    with pytest.raises(KeystayError) as caught:
        keystay.open_signer(uri, **options)  # type: ignore[arg-type]
    error = caught.value
    WATCH.check(f"{error} {error!r} {error.__cause__!r}", "the error")
    assert error.hint
    return error


NOT_FOUND = """
import sys, keystay
try:
    keystay.open_signer(sys.argv[1])
except keystay.errors.KeyNotFoundError as error:
    print(error.message)
    print(error.cause)
"""


def test_key_not_found(fresh_softhsm: SoftHSM) -> None:
    """An unknown label lists the keys there are, by label, id and type."""
    fresh_softhsm.generate_key("EC:secp384r1", "good", "a1")
    fresh_softhsm.generate_key("rsa:2048", "other", "b2")

    output = fresh_softhsm.run_python(NOT_FOUND, fresh_softhsm.key_uri("no-such-key")).stdout

    message, cause = output.splitlines()
    assert "label 'no-such-key'" in message
    listed = cause.removeprefix("Private keys there: ").removesuffix(".").split("; ")
    assert ["label 'good', id a1, EC", "label 'other', id b2, RSA"] == sorted(listed)


def test_key_ambiguous(token: SoftHSM) -> None:
    """A label that occurs twice lists both; the id decides."""
    error = refused(token.key_uri("open-twice"))

    assert isinstance(error, KeyAmbiguousError)
    assert "id a2" in (error.cause or "")
    assert "id a3" in (error.cause or "")
    with keystay.open_signer(f"{token.uri};object=open-twice;id=%a3?{token.query}") as signer:
        assert signer.key_id.endswith("/a3")


def test_key_by_id(token: SoftHSM) -> None:
    """The id alone is enough."""
    with keystay.open_signer(f"{token.uri};id=%a1?{token.query}") as signer:
        assert signer.key_id.endswith("/a1")


def test_no_key_named(token: SoftHSM) -> None:
    """With neither, several keys are ambiguous; the one that cannot sign is not among them."""
    error = refused(f"{token.uri}?{token.query}")

    assert isinstance(error, KeyAmbiguousError)
    assert "open-good" in (error.cause or "")
    assert "open-decrypt" not in (error.cause or "")


UNUSABLE = {
    "open-weak": ("key-weak", "1024 bits"),
    "open-curve": ("key-curve-unsupported", "secp256k1"),
    "open-decrypt": ("key-not-for-signing", "CKA_SIGN is false"),
}


@pytest.mark.parametrize("label", UNUSABLE)
def test_key_unusable(token: SoftHSM, label: str) -> None:
    """A key that is weak, on another curve or not for signing is refused."""
    error = refused(token.key_uri(label))

    code, message = UNUSABLE[label]
    assert isinstance(error, KeyUnusableError)
    assert code == error.code
    assert message in error.message


def test_public_key_missing(token: SoftHSM) -> None:
    """Without a public key the error says how to add it."""
    error = refused(token.key_uri("open-lonely"))

    assert ("public-key-not-found", True) == (error.code, "--write-object" in (error.hint or ""))


def test_public_key_from_certificate(token: SoftHSM, tmp_path: Path) -> None:
    """A certificate with the same id does instead of a public key object."""
    key = ec.generate_private_key(ec.SECP384R1())
    write_private_key(token, key, "cert-key", "b1", tmp_path)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    import datetime

    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now)
        .sign(key, hashes.SHA384())
        .public_bytes(Encoding.DER)
    )
    path = tmp_path / "cert.der"
    path.write_bytes(certificate)
    token.pkcs11_tool(
        "--login", "--write-object", str(path), "--type", "cert", "--id", "b1", "--label", "cert"
    )

    with keystay.open_signer(token.key_uri("cert-key")) as signer:
        assert key.public_key() == signer.public_key
        signer.sign(b"message")


def test_public_key_of_another(token: SoftHSM, tmp_path: Path) -> None:
    """A public key that is not the private key's is caught before a signature leaves."""
    write_private_key(token, ec.generate_private_key(ec.SECP384R1()), "mixed", "b2", tmp_path)
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    path = tmp_path / "public.der"
    path.write_bytes(other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    token.pkcs11_tool(
        "--login", "--write-object", str(path), "--type", "pubkey", "--id", "b2",
        "--label", "mixed",
    )  # fmt: skip

    with (
        keystay.open_signer(token.key_uri("mixed")) as signer,
        pytest.raises(SignatureInvalidError, match="does not verify"),
    ):
        signer.sign(b"message")


def write_private_key(
    token: SoftHSM, key: ec.EllipticCurvePrivateKey, label: str, key_id: str, folder: Path
) -> None:
    """Import a private key."""
    path = folder / "private.der"
    path.write_bytes(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
    token.pkcs11_tool(
        "--login", "--write-object", str(path), "--type", "privkey", "--id", key_id,
        "--label", label, "--usage-sign",
    )  # fmt: skip


def test_token_not_found(token: SoftHSM) -> None:
    """An unknown token lists those there are by label and serial."""
    error = refused(f"pkcs11:token=nowhere;object=open-good?{token.query}")

    assert ("token-not-found", True) == (error.code, f"'{token.label}' (serial" in str(error))


def test_the_only_token(token: SoftHSM) -> None:
    """One token present needs no name."""
    with keystay.open_signer(f"pkcs11:object=open-good?{token.query}") as signer:
        assert signer.key_id.endswith("/a1")


def test_server_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """p11-kit's client without its server says what to start."""
    monkeypatch.setenv("P11_KIT_SERVER_ADDRESS", f"unix:path={tmp_path / 'nowhere'}")

    error = refused(f"pkcs11:token=x;object=y?module-path={find_client_module()}")

    assert ("token-not-found", True) == (error.code, "p11-kit server" in (error.hint or ""))


def test_pin_missing(token: SoftHSM) -> None:
    """A token that wants a PIN and gets none says how to give one."""
    error = refused(f"{token.uri};object=open-good?module-path={token.module}")

    assert isinstance(error, LoginError)
    assert ("pin-missing", True) == (error.code, "pin-source=file:" in (error.hint or ""))


def test_settings(token: SoftHSM) -> None:
    """Module and PIN may come from the configuration."""
    table = {"module": token.module, "pin_source": str(token.pin_file), "max_sessions": 2}

    with keystay.open_signer(f"{token.uri};object=open-good", backends={"pkcs11": table}) as signer:
        signer.sign(b"message")


def test_allowed_mechanisms(token: SoftHSM) -> None:
    """A key restricted by CKA_ALLOWED_MECHANISMS claims only what it is allowed."""
    token.pkcs11_tool(
        "--login", "--keypairgen", "--key-type", "rsa:2048", "--label", "pss-only", "--id", "b3",
        "--usage-sign", "--sensitive", "--allowed-mechanisms", "RSA-PKCS-PSS",
    )  # fmt: skip

    with keystay.open_signer(token.key_uri("pss-only")) as signer:
        assert ("PS384", "PS256", "PS512") == signer.algorithms
        signer.sign(b"message")


def test_rw(token: SoftHSM) -> None:
    """Read-write sessions work as well."""
    with keystay.open_signer(f"{token.key_uri('open-good')}&rw=true") as signer:
        signer.sign(b"message")


def test_module_shared_by_real_path(token: SoftHSM, tmp_path: Path) -> None:
    """Two paths to one file are one module, one login and one pool."""
    link = tmp_path / "another-name.so"
    link.symlink_to(token.module)
    uri = token.key_uri("open-good")
    with (
        keystay.open_signer(uri) as one,
        keystay.open_signer(uri.replace(token.module, str(link))) as two,
    ):
        assert one._key._token is two._key._token  # type: ignore[attr-defined]
        one.sign(b"1"), two.sign(b"2")
    real = str(Path(token.module).resolve())
    assert not registry.modules[real].is_running


def module_faults(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that are no PKCS#11 module here."""
    text = folder / "text.so"
    text.write_text("not a library")
    source = Path(shutil.which("true") or "/bin/true").resolve().read_bytes()
    foreign = folder / "foreign.so"
    # The machine field of an ELF header: RISC-V on no machine that runs this.
    foreign.write_bytes(source[:18] + b"\xf3\x00" + source[20:])
    plain = folder / "plain.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", plain], input=b"int x;", check=True
    )
    return {
        "text": (text, "cannot be loaded"),
        "foreign": (foreign, "cannot be loaded"),
        "plain": (plain, "no PKCS#11 module: it has no C_GetFunctionList"),
    }


@pytest.mark.parametrize("kind", ["text", "foreign", "plain"])
def test_module_unloadable(tmp_path: Path, kind: str) -> None:
    """No ELF, another architecture, another library: each is said."""
    assert platform.machine() != "riscv64"
    path, message = module_faults(tmp_path)[kind]

    error = refused(f"pkcs11:token=x;object=y?module-path={path}")

    assert isinstance(error, ConfigurationError)
    assert ("module-unloadable", True) == (error.code, message in error.message)
    assert str(path) in error.message


def test_nothing_secret_is_shown(token: SoftHSM) -> None:
    """Neither the key nor its parts show the PIN, and none is pickled with it."""
    with keystay.open_signer(token.key_uri("open-good")) as signer:
        key = signer._key
        parts = (signer, key, key._access, key._token, key._module, key._access.credentials)  # type: ignore[attr-defined]
        WATCH.check(" ".join(f"{part!r} {part}" for part in parts), "a repr")
        with pytest.raises(TypeError):
            pickle.dumps(key)
