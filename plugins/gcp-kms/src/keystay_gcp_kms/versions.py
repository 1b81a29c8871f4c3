"""Key versions as Google lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.cloud import kms_v1

from keystay_gcp_kms.checks import check_name
from keystay_gcp_kms.errors import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from enum import IntEnum

    from keystay.backends import Deadline
    from keystay_gcp_kms.client import Connection, KmsClient

__all__ = ["VIEWER", "enum_name", "get_version", "list_keys", "list_versions"]

VIEWER = "roles/cloudkms.viewer"
_PAGE = 100


def enum_name(value: IntEnum | int) -> str:
    """The name of an enum's value; its number when the library is too old to know it."""
    return str(getattr(value, "name", value))


def get_version(connection: Connection, name: str, deadline: Deadline) -> kms_v1.CryptoKeyVersion:
    """A version, by its name.

    Raises:
        KeyChangedError: Google answers for another.
        BackendError: Google does not say.
    """
    request = kms_v1.GetCryptoKeyVersionRequest(name=name)
    version, _ = connection.call(
        Step("reading the key version", name, "cloudkms.cryptoKeyVersions.get", VIEWER),
        deadline,
        lambda client, timeout: client.get_crypto_key_version(request, retry=None, timeout=timeout),
    )
    check_name(version.name, name, "GetCryptoKeyVersion")
    return version


def list_versions(
    connection: Connection, key: str, deadline: Deadline
) -> Iterator[kms_v1.CryptoKeyVersion]:
    """Every version of a key.

    Raises:
        BackendError: Google does not say.
    """
    step = Step("listing the key versions", key, "cloudkms.cryptoKeyVersions.list", VIEWER)
    request = kms_v1.ListCryptoKeyVersionsRequest(parent=key, page_size=_PAGE)
    for page in _pages(
        connection, step, deadline, request,
        lambda client, timeout: client.list_crypto_key_versions(
            request, retry=None, timeout=timeout
        ),
    ):  # fmt: skip
        yield from page.crypto_key_versions


def list_keys(
    connection: Connection, key_ring: str, deadline: Deadline
) -> Iterator[kms_v1.CryptoKey]:
    """Every key of a key ring that was made to sign.

    Raises:
        BackendError: Google does not say.
    """
    step = Step("listing the keys", key_ring, "cloudkms.cryptoKeys.list", VIEWER)
    request = kms_v1.ListCryptoKeysRequest(parent=key_ring, page_size=_PAGE)
    for page in _pages(
        connection, step, deadline, request,
        lambda client, timeout: client.list_crypto_keys(request, retry=None, timeout=timeout),
    ):  # fmt: skip
        for key in page.crypto_keys:
            if key.purpose == kms_v1.CryptoKey.CryptoKeyPurpose.ASYMMETRIC_SIGN:
                yield key


def _pages(
    connection: Connection,
    step: Step,
    deadline: Deadline,
    request: Any,
    send: Callable[[KmsClient, float], Any],
) -> Iterator[Any]:
    """Every page of a list; a pager of Google's would go on with the deadline of the first."""
    while True:
        page, _ = connection.call(
            step, deadline, lambda client, timeout: next(iter(send(client, timeout).pages))
        )
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
