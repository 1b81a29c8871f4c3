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

from keystay.backends.error_texts import ErrorTexts
from keystay.errors import KeyUnusableError
from keystay.files import doubt
from keystay.jwk import key_kind
from keystay.settings import read_plugin_table
from keystay_pem.settings import Settings

if TYPE_CHECKING:
    from keystay.backends import BackendContext
    from keystay.key_uri import KeyURI

__all__ = ["TEXTS", "PrivateKey", "check_uri", "load", "passphrase_for", "path_of"]

TEXTS = ErrorTexts("keystay_pem")
"""Every error of this plugin."""

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
# How the label of a PEM document ends, what it is then, and the remedy.
_OTHERS = (
    (b"CERTIFICATE REQUEST", "a certificate request",
     "Name the file with the private key it was made from."),
    (b"CERTIFICATE", "a certificate", "Name the file with the private key that belongs to it."),
    (b"PUBLIC KEY", "a public key", "Name the file with the private key that belongs to it."),
    (b"PARAMETERS", "parameters without a key", f"Make a key: {_GENERATE}"),
)  # fmt: skip


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
        raise TEXTS.error("passphrase-missing", path=path, uri=uri)
    try:
        key = load_pem_private_key(data, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        name = "invalid" if passphrase is None else "passphrase-wrong"
        raise TEXTS.error(name, path=path, error=type(error).__name__) from None
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
        raise TEXTS.error("passphrase-too-long", path=path, most=_MAX_PASSPHRASE)
    return passphrase


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise TEXTS.error("not-a-file", path=path, generate=_GENERATE)
            if (found := doubt(status, 0o027)) is not None:
                remedy = f"chmod 0600 {path}; if others could read it, replace the key."
                raise TEXTS.error(
                    "unsafe",
                    path=path,
                    problem=found.what,
                    cause=found.cause,
                    hint=found.hint or remedy,
                )
            return file.read(_MAX_BYTES)
    except FileNotFoundError:
        raise TEXTS.error("missing", path=path, generate=_GENERATE) from None
    except OSError as error:
        raise TEXTS.error("unreadable", path=path, problem=error.strerror) from error


def _open_at_once(path: str, flags: int) -> int:
    # A FIFO must not be waited for: it is refused a moment later.
    return os.open(path, flags | os.O_NONBLOCK)


def _refuse_other(path: Path, data: bytes) -> None:
    """Refuse what is not a private key, each thing by its name."""
    labels = _LABEL.findall(data)
    keys = sum(label in _PRIVATE_LABELS for label in labels)
    if keys > 1:
        raise TEXTS.error("several", path=path, count=keys)
    if not keys:
        found, hint = _what_else(path, labels, data)
        raise TEXTS.error("no-private-key", path=path, found=found, hint=hint)


def _what_else(path: Path, labels: list[bytes], data: bytes) -> tuple[str, str]:
    """What a file holds instead of a private key, and the remedy."""
    if b"OPENSSH PRIVATE KEY" in labels:
        return "an OpenSSH private key", f"Convert a copy: ssh-keygen -p -m PKCS8 -f {path}"
    if labels:
        for ending, found, hint in _OTHERS:
            if labels[0].endswith(ending):
                return found, hint
        found = f"a PEM document of type {labels[0].decode()}"
        return found, "Use an RSA, P-256, P-384, P-521 or Ed25519 key in PKCS#8."
    if data[:1] == b"\x30":
        return "binary DER", f"Convert it: openssl pkey -inform DER -in {path} -out client.pem"
    hint = f"It should begin with -----BEGIN PRIVATE KEY-----: {_GENERATE}"
    return "no PEM document" if data.strip() else "nothing", hint
