"""Key versions as Google lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.cloud import kms_v1

from keystay_gcp_kms.errors import Step

if TYPE_CHECKING:
    from collections.abc import Iterator
    from enum import IntEnum

    from keystay.backends import Deadline
    from keystay_gcp_kms.client import Connection, KmsClient

__all__ = ["VIEWER", "enum_name", "list_keys", "list_versions"]

VIEWER = "roles/cloudkms.viewer"
_PAGE = 100


def enum_name(value: IntEnum | int) -> str:
    """The name of an enum's value; its number when the library is too old to know it."""
    return str(getattr(value, "name", value))


def list_versions(
    connection: Connection, key: str, deadline: Deadline
) -> Iterator[kms_v1.CryptoKeyVersion]:
    """Every version of a key.

    Raises:
        BackendError: Google does not say.
    """
    step = Step("listing the key versions", key, "cloudkms.cryptoKeyVersions.list", VIEWER)

    def fetch(client: KmsClient, timeout: float) -> kms_v1.ListCryptoKeyVersionsResponse:
        # A pager would go on with the deadline of the first page.
        return next(
            iter(client.list_crypto_key_versions(request, retry=None, timeout=timeout).pages)
        )

    request = kms_v1.ListCryptoKeyVersionsRequest(parent=key, page_size=_PAGE)
    while True:
        page, _ = connection.call(step, deadline, fetch)
        yield from page.crypto_key_versions
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def list_keys(
    connection: Connection, key_ring: str, deadline: Deadline
) -> Iterator[kms_v1.CryptoKey]:
    """Every key of a key ring that was made to sign.

    Raises:
        BackendError: Google does not say.
    """
    step = Step("listing the keys", key_ring, "cloudkms.cryptoKeys.list", VIEWER)

    def fetch(client: KmsClient, timeout: float) -> kms_v1.ListCryptoKeysResponse:
        return next(iter(client.list_crypto_keys(request, retry=None, timeout=timeout).pages))

    request = kms_v1.ListCryptoKeysRequest(parent=key_ring, page_size=_PAGE)
    while True:
        page, _ = connection.call(step, deadline, fetch)
        for key in page.crypto_keys:
            if key.purpose == kms_v1.CryptoKey.CryptoKeyPurpose.ASYMMETRIC_SIGN:
                yield key
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
