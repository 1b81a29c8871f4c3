"""The places a key can be, with a key that the experiment itself imported into each.

Each yields a `Place`; `holder` finds the processes that do have the key, for a control: the same
search must find it there.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)

from experiments.custody.needles import PrivateKey
from tests.support.p11kit import P11KitServer
from tests.support.softhsm import SoftHSM

__all__ = ["MUST_BE_ABSENT", "PLACES", "Place"]

MUST_BE_ABSENT = ("p11-kit", "container", "aws", "google")
MINISTACK_REGION = "eu-west-1"


@dataclass(frozen=True)
class Place:
    """Where a key is.

    Attributes:
        uri: Key URI.
        env: What the client must have in its environment.
        holder: Process ids of those that have the key, asked for while it signs.
    """

    uri: str
    env: dict[str, str] = field(default_factory=dict)
    holder: Callable[[], list[int]] = list


def private_der(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


@contextmanager
def pem(key: PrivateKey, folder: Path) -> Iterator[Place]:
    path = folder / "client.pem"
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    yield Place(f"file:{path}")


@contextmanager
def softhsm(key: PrivateKey, folder: Path) -> Iterator[Place]:
    token = _token_with(key, folder)
    yield Place(token.key_uri("known"), token.env)


@contextmanager
def p11_kit(key: PrivateKey, folder: Path) -> Iterator[Place]:
    token = _token_with(key, folder)
    with P11KitServer(token) as server:
        # The client's own connection has a child process of the server's.
        yield Place(server.key_uri("known"), server.env, server.children)


@contextmanager
def container(key: PrivateKey, folder: Path) -> Iterator[Place]:
    from tests.compose.project import Project
    from tests.support.softhsm import run_pkcs11_tool

    with Project() as project:
        project.compose("build", "hsm")
        project.start()

        def tool(*arguments: str) -> object:
            return run_pkcs11_tool(
                project.client_module, "keystay", project.pin, project.env, arguments
            )

        _write(tool, key, folder)

        def holder() -> list[int]:
            server = int(project.inspect()["State"]["Pid"])
            children = Path(f"/proc/{server}/task/{server}/children").read_text()
            return [int(pid) for pid in children.split()]

        yield Place(project.key_uri("known"), project.env, holder)


@contextmanager
def aws(key: PrivateKey, folder: Path) -> Iterator[Place]:
    """KMS's own way: a key of origin EXTERNAL, its material wrapped and imported."""
    from tests.support.ministack import MiniStack

    with MiniStack(folder) as emulator:
        rsa = isinstance(key, RSAPrivateKey)
        arn = emulator.make_key(
            Origin="EXTERNAL", KeySpec=f"RSA_{key.key_size}" if rsa else "ECC_NIST_P384"
        )
        with contextlib.closing(emulator.client()) as kms:
            given = kms.get_parameters_for_import(
                KeyId=arn, WrappingAlgorithm="RSA_AES_KEY_WRAP_SHA_256", WrappingKeySpec="RSA_2048"
            )
            kms.import_key_material(
                KeyId=arn,
                ImportToken=given["ImportToken"],
                EncryptedKeyMaterial=_wrapped(private_der(key), given["PublicKey"]),
                ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE",
            )
        env = {**emulator.admin.env, "AWS_EC2_METADATA_DISABLED": "true"}
        uri = f"awskms:///{arn}?region={MINISTACK_REGION}&endpoint={emulator.endpoint}"
        yield Place(uri, env, lambda: [emulator._process.pid])


@contextmanager
def google(key: PrivateKey, _folder: Path) -> Iterator[Place]:
    command = [sys.executable, "-m", "experiments.custody.google_kms"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(private_der(key).hex().encode() + b"\n")
        process.stdin.flush()
        uri = process.stdout.readline().decode().strip()
        yield Place(uri, {}, lambda: [process.pid])
        process.stdin.close()


PLACES: dict[str, tuple[str, Callable[[PrivateKey, Path], AbstractContextManager[Place]]]] = {
    "pem": ("(a) a PEM file", pem),
    "softhsm": ("(b) SoftHSM, loaded directly", softhsm),
    "p11-kit": ("(c) SoftHSM behind p11-kit, in another process", p11_kit),
    "container": ("(c) SoftHSM behind p11-kit, in a container", container),
    "aws": ("(d) AWS KMS, emulated in another process", aws),
    "google": ("(d) Google Cloud KMS, emulated in another process", google),
}


def _token_with(key: PrivateKey, folder: Path) -> SoftHSM:
    token = SoftHSM(folder, label="experiment")
    _write(token.pkcs11_tool, key, folder)
    return token


def _write(tool: Callable[..., object], key: PrivateKey, folder: Path) -> None:
    """Import the key pair, with PKCS#11's own C_CreateObject."""
    private, public = folder / "private.der", folder / "public.der"
    private.touch(mode=0o600)
    # OpenSC takes an EC key in its traditional form only.
    private.write_bytes(
        key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    for path, kind in ((private, "privkey"), (public, "pubkey")):
        tool("--login", "--write-object", str(path), "--type", kind, "--id", "0a",
             "--label", "known", "--usage-sign")  # fmt: skip
        path.unlink()


def _wrapped(material: bytes, public_der: bytes) -> bytes:
    """RSA_AES_KEY_WRAP_SHA_256: an AES key under RSA-OAEP, the material under that (RFC 5649)."""
    import os

    public_key = load_der_public_key(public_der)
    assert isinstance(public_key, RSAPublicKey)
    ephemeral, digest = os.urandom(32), hashes.SHA256()
    head = public_key.encrypt(
        ephemeral, padding.OAEP(padding.MGF1(digest), algorithm=digest, label=None)
    )
    return head + keywrap.aes_key_wrap_with_padding(ephemeral, material)
