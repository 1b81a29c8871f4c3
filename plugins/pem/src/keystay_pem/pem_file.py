"""Reads the private key in a PEM file, and says by name what else it found."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from keystay.errors import (
    KeyAmbiguousError,
    KeyNotFoundError,
    KeyUnusableError,
    LoginError,
    SecretError,
)
from keystay.files import doubt
from keystay.jwk import key_kind
from keystay.settings import read_plugin_table
from keystay_pem.settings import Settings

if TYPE_CHECKING:
    from keystay.backends import BackendContext
    from keystay.key_uri import KeyURI

__all__ = ["PrivateKey", "check_uri", "load", "passphrase_for", "path_of"]

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_QUERY = ("passphrase-source",)
_MAX_BYTES = 1 << 20
_MAX_PASSPHRASE = 1023
_LABEL = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")
_PRIVATE_LABELS = frozenset(
    (b"PRIVATE KEY", b"ENCRYPTED PRIVATE KEY", b"RSA PRIVATE KEY", b"EC PRIVATE KEY")
)
_ENCRYPTED = re.compile(
    rb"-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type: 4,ENCRYPTED", re.MULTILINE
)
_GENERATE = "keystay key generate file:client.pem --type P-384"


def check_uri(uri: KeyURI, context: BackendContext) -> None:
    """Refuse query attributes and settings this backend does not know.

    Raises:
        KeyURIError, ConfigurationError: With what is known.
    """
    uri.require_known(query=_QUERY)
    read_plugin_table(Settings, context.settings, "backends.file")


def path_of(uri: KeyURI, context: BackendContext) -> Path:
    """The file a URI names; a relative path starts at the configuration's folder."""
    return context.base_dir / uri.path


def load(uri: KeyURI, context: BackendContext) -> PrivateKey:
    """The private key in the file.

    PKCS#8 (RFC 5958), PKCS#1 (RFC 8017) and SEC1 (RFC 5915), encrypted or not.

    Raises:
        KeyNotFoundError: No such file, or it cannot be read.
        KeyUnusableError: Something else is in it, or a key that is weak or of a wrong kind.
        LoginError: It is encrypted and the passphrase is missing or wrong.
    """
    check_uri(uri, context)
    path = path_of(uri, context)
    data = _read(path)
    _refuse_other(path, data)
    passphrase = passphrase_for(uri, context, path) if _ENCRYPTED.search(data) else None
    if _ENCRYPTED.search(data) and passphrase is None:
        raise LoginError(
            f"The key in {path} is encrypted and no passphrase is given.",
            hint=f"Refer to it: {uri}?passphrase-source=file:/run/secrets/passphrase "
            "(or env:NAME, or prompt:).",
            code="passphrase-missing",
        )
    try:
        key = load_pem_private_key(data, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if passphrase is not None:
            raise LoginError(
                f"The key in {path} cannot be decrypted.",
                cause="The passphrase is wrong, or the file is damaged.",
                hint=f"Check it: openssl pkey -in {path} -noout",
                code="passphrase-wrong",
            ) from None
        raise KeyUnusableError(
            f"The private key in {path} cannot be read ({type(error).__name__}).",
            cause="The file is damaged or cut short, or its format is not supported.",
            hint=f"Check it: openssl pkey -in {path} -noout -check",
            code="pem-invalid",
        ) from None
    try:
        key_kind(key.public_key())
    except KeyUnusableError as error:  # weak, or of a kind that cannot sign
        raise KeyUnusableError(
            f"{error.message} It is in {path}.",
            cause=error.cause,
            hint=error.hint,
            code=error.code,
        ) from None
    return cast(PrivateKey, key)


def passphrase_for(uri: KeyURI, context: BackendContext, path: Path) -> bytes | None:
    """The passphrase the URI or the settings refer to, as UTF-8, or None."""
    reference = uri.query.get("passphrase-source")
    if reference is None:
        settings = read_plugin_table(Settings, context.settings, "backends.file")
        reference = settings.passphrase_source
    secret = context.secrets.resolve(reference, f"the passphrase of {path}")
    passphrase = None if secret is None else secret.reveal().encode()
    if passphrase is not None and len(passphrase) > _MAX_PASSPHRASE:
        raise SecretError(
            f"The passphrase of {path} has more than {_MAX_PASSPHRASE} bytes.",
            cause="OpenSSL takes no longer one, so no key was encrypted with it.",
            hint="Check what the reference names, or choose a shorter passphrase.",
            code="secret-too-long",
        )
    return passphrase


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise KeyNotFoundError(
                    f"{path} is not a regular file.",
                    hint=f"Name the file with the private key, or make one: {_GENERATE}",
                    code="key-file-unreadable",
                )
            if (found := doubt(status, 0o027)) is not None:
                raise KeyUnusableError(
                    f"The key file {path} {found.what}.",
                    cause=found.cause,
                    hint=found.hint
                    or f"chmod 0600 {path}; if others could read it, replace the key.",
                    code="key-file-unsafe",
                )
            return file.read(_MAX_BYTES)
    except FileNotFoundError:
        raise KeyNotFoundError(
            f"There is no key file {path}.",
            hint=f"Check the path, or make a key: {_GENERATE}",
        ) from None
    except OSError as error:
        raise KeyNotFoundError(
            f"The key file {path} cannot be read: {error.strerror}.",
            hint="Check the path, and that the user running this may read it.",
            code="key-file-unreadable",
        ) from error


def _open_at_once(path: str, flags: int) -> int:
    # A FIFO must not be waited for: it is refused a moment later.
    return os.open(path, flags | os.O_NONBLOCK)


def _refuse_other(path: Path, data: bytes) -> None:
    """Refuse what is not a private key, each thing by its name."""
    labels = _LABEL.findall(data)
    keys = sum(label in _PRIVATE_LABELS for label in labels)
    if keys > 1:
        raise KeyAmbiguousError(
            f"The file {path} holds {keys} private keys.",
            cause="Signing with whichever comes first would be a matter of chance.",
            hint="Give each key a file of its own.",
        )
    if keys:
        return
    found, hint = (
        "no PEM document",
        f"It should begin with -----BEGIN PRIVATE KEY-----: {_GENERATE}",
    )
    if b"OPENSSH PRIVATE KEY" in labels:
        found = "an OpenSSH private key"
        hint = f"Convert a copy: ssh-keygen -p -m PKCS8 -f {path}"
    elif labels and b"CERTIFICATE REQUEST" in labels[0]:
        found, hint = (
            "a certificate request",
            "Name the file with the private key it was made from.",
        )
    elif labels and labels[0].endswith(b"CERTIFICATE"):
        found, hint = "a certificate", "Name the file with the private key that belongs to it."
    elif labels and labels[0].endswith(b"PUBLIC KEY"):
        found, hint = "a public key", "Name the file with the private key that belongs to it."
    elif labels and labels[0].endswith(b"PARAMETERS"):
        found, hint = "parameters without a key", f"Make a key: {_GENERATE}"
    elif labels:
        found = f"a PEM document of type {labels[0].decode()}"
        hint = "Use an RSA, P-256, P-384, P-521 or Ed25519 key in PKCS#8."
    elif data[:1] == b"\x30":
        found = "binary DER"
        hint = f"Convert it: openssl pkey -inform DER -in {path} -out client.pem"
    elif not data.strip():
        found = "nothing"
    raise KeyUnusableError(
        f"The file {path} holds {found}, not a private key.", hint=hint, code="pem-not-private-key"
    )
