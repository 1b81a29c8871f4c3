"""Keys in AWS KMS: the `awskms:` backend of keystay.

    awskms:///alias/epic?region=eu-west-1
    awskms:///arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab

Importing this does not load boto3; opening a key does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystay.backends import hookimpl

if TYPE_CHECKING:
    from keystay.backends import BackendContext
    from keystay.key_uri import KeyURI
    from keystay_aws_kms.key import KmsKey
    from keystay_aws_kms.settings import Table
    from keystay_aws_kms.store import KmsStore

__all__ = ["api_version", "keystay_open_key", "keystay_open_store", "keystay_settings"]

api_version = 1


@hookimpl
def keystay_open_key(uri: KeyURI, context: BackendContext) -> KmsKey:
    """Open the KMS key an `awskms:` URI names."""
    from keystay_aws_kms.key import KmsKey

    return KmsKey.open(uri, context)


@hookimpl
def keystay_open_store(uri: KeyURI, context: BackendContext) -> KmsStore:
    """Open KMS in the account and region an `awskms:` URI means, to generate keys or list them."""
    from keystay_aws_kms.store import KmsStore

    return KmsStore.open(uri, context)


@hookimpl
def keystay_settings() -> type[Table]:
    """What `[backends.awskms]` may say."""
    from keystay_aws_kms.settings import Table

    return Table
