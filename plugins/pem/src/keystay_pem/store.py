"""Makes software keys, and shows the one a URI names."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from keystay.backends import KeyRecord
from keystay.jwk import key_kind, public_jwk, thumbprint
from keystay.key_uri import successor_name
from keystay_pem.pem_file import TEXTS, PrivateKey, check_uri, load, passphrase_for, path_of

if TYPE_CHECKING:
    from keystay.backends import BackendContext
    from keystay.key_uri import KeyURI

__all__ = ["PemStore"]

_CURVES: dict[str, ec.EllipticCurve] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
}
_RSA = {"RSA-2048": 2048, "RSA-3072": 3072, "RSA-4096": 4096}
_KEY_TYPES = (*_CURVES, *_RSA, "Ed25519")


class PemStore:
    """The file a `file:` URI names, as a store of one key."""

    def __init__(self, uri: KeyURI, context: BackendContext) -> None:
        check_uri(uri, context)
        self._uri, self._context = uri, context

    def generate_key(self, key_type: str) -> KeyRecord:
        """Generate a key and write it as PKCS#8, mode 0600.

        Encrypted when the URI or the settings refer to a passphrase.

        Args:
            key_type: `P-256`, `P-384`, `P-521`, `RSA-2048`, `RSA-3072`, `RSA-4096`, `Ed25519`.

        Raises:
            KeyUnusableError: A file of that name exists; it is left as it is.
            ConfigurationError: The key type is unknown.
            BackendError: The file cannot be written.
        """
        if key_type not in _KEY_TYPES:  # before anybody types a passphrase
            raise TEXTS.error("key-type", key_type=key_type, known=", ".join(_KEY_TYPES))
        path = path_of(self._uri, self._context)
        if os.path.lexists(path):
            raise TEXTS.error("exists", path=path)
        passphrase = passphrase_for(self._uri, self._context, path)
        encryption: KeySerializationEncryption = (
            BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        )
        key = _generate(key_type)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
        try:
            # A name nobody else has, mode 0600; a crash long ago must not stand in the way.
            descriptor, name = tempfile.mkstemp(prefix=".keystay-", dir=path.parent)
            temporary = Path(name)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    os.fchmod(descriptor, 0o600)  # whatever the umask took away
                    file.write(pem)
                    file.flush()
                    os.fsync(file.fileno())
                # A hard link appears whole or not at all, and never replaces a file.
                os.link(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        except FileExistsError:
            raise TEXTS.error("exists", path=path) from None
        except OSError as error:
            raise TEXTS.error("unwritable", path=path, problem=error.strerror) from error
        return self._record(key)

    def list_keys(self) -> list[KeyRecord]:
        """The one key in the file."""
        return [self._record(load(self._uri, self._context))]

    def successor_uri(self, suffix: str) -> str:
        """A file beside this one: `client.pem` becomes `client-<suffix>.pem`."""
        path = PurePosixPath(self._uri.path)
        name = f"{successor_name(path.stem, suffix)}{path.suffix}"
        _, mark, query = self._uri.text.partition("?")
        place = quote(str(path.with_name(name)), safe="/")
        return f"file:{'//' if place.startswith('/') else ''}{place}{mark}{query}"

    def close(self) -> None:
        """Nothing to release."""

    def _record(self, key: PrivateKey) -> KeyRecord:
        kty, curve, bits = key_kind(key.public_key())
        return KeyRecord(
            uri=str(self._uri),
            key_type=curve or f"{kty}-{bits}",
            label=path_of(self._uri, self._context).name,
            key_id=thumbprint(public_jwk(key.public_key())),
            attributes={"extractable": True, "sensitive": False, "custody": "in-process"},
        )


def _generate(key_type: str) -> PrivateKey:
    if key_type in _CURVES:
        return ec.generate_private_key(_CURVES[key_type])
    if key_type in _RSA:
        return rsa.generate_private_key(public_exponent=65537, key_size=_RSA[key_type])
    return ed25519.Ed25519PrivateKey.generate()
