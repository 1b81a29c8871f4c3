"""KMS as a key store: makes signing keys behind an alias, and lists those that are there."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from keystay.backends import Deadline, KeyRecord
from keystay.errors import BackendError, KeyNotFoundError, KeyUnusableError, did_you_mean
from keystay.key_uri import successor_name
from keystay_aws_kms.algorithms import KEY_SPECS
from keystay_aws_kms.client import Connection
from keystay_aws_kms.errors import TEXTS
from keystay_aws_kms.metadata import KeyMetadata, unreadable
from keystay_aws_kms.settings import Settings
from keystay_aws_kms.uri import KeyReference

if TYPE_CHECKING:
    from keystay.backends import BackendContext
    from keystay.key_uri import KeyURI
    from keystay_aws_kms.client import Kms

__all__ = ["KmsStore"]

logger = logging.getLogger("keystay.backends.awskms")

_SPECS = {kind.key_type: spec for spec, kind in KEY_SPECS.items()}
_PAGE = 100
_WINDOW_DAYS = 7  # the shortest that KMS allows


class KmsStore:
    """The keys of one account and region.

    Args:
        connection: The way to KMS; the store closes it.
        uri: What the user wrote: one key, or `*` for all and `alias/…*` for some.
        timeout: Seconds that each call of KMS may take, its retries included.
        tags: For new keys.
    """

    def __init__(
        self,
        connection: Connection,
        uri: KeyURI,
        timeout: float,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self._connection, self._uri, self._timeout = connection, uri, timeout
        self._tags = tags or {}
        self._pattern = uri.path if "*" in uri.path else None
        self._closed = False
        if self._pattern is None:
            self._reference = KeyReference.of(uri)
        elif self._pattern != "*" and not self._pattern.startswith("alias/"):
            raise TEXTS.error("pattern", pattern=self._pattern)

    @classmethod
    def open(cls, uri: KeyURI, context: BackendContext) -> KmsStore:
        """Open the store a URI means.

        Raises:
            KeyURIError, ConfigurationError: The URI or the settings cannot be used.
        """
        region = None if "*" in uri.path else KeyReference.of(uri).region
        settings = Settings.read(uri, context.settings, region)
        return cls(Connection(settings), uri, context.timeout, settings.tags)

    def __repr__(self) -> str:
        return f"<KmsStore {self._uri}>"

    def generate_key(self, key_type: str) -> KeyRecord:
        """Create a key for SIGN_VERIFY with KMS's default key policy, and the URI's alias for it.

        Args:
            key_type: `P-256`, `P-384`, `P-521`, `RSA-2048`, `RSA-3072`, `RSA-4096`, `Ed25519`.

        Raises:
            ConfigurationError: The key type is unknown, or the URI names no alias.
            KeyUnusableError: The alias exists; it and its key are left as they are.
            BackendError: KMS refuses.
        """
        self._check_open()
        if key_type not in _SPECS:
            suggestion = did_you_mean(key_type, _SPECS)
            raise TEXTS.error("key-type", key_type=key_type, suggestion=suggestion)
        alias = self._alias()
        if alias.startswith("alias/aws/"):
            raise TEXTS.error("alias-reserved")
        self._refuse_existing(alias)
        parameters: dict[str, Any] = {
            "KeySpec": _SPECS[key_type],
            "KeyUsage": "SIGN_VERIFY",
            "Description": _description(alias),
        }
        if self._tags:
            parameters["Tags"] = [{"TagKey": n, "TagValue": v} for n, v in self._tags.items()]
        created = self._call("CreateKey", "*", lambda kms: kms.create_key(**parameters))
        metadata = KeyMetadata.of(created)
        try:
            return self._named(metadata, alias)
        except BackendError as error:
            self._discard(metadata, error)
            raise

    def resume_key(self, key_type: str) -> KeyRecord | None:
        """Give the URI's alias to the key that a `generate_key` created before it was killed.

        It is known by its description, and has no alias yet. Looking through the account's keys
        takes kms:ListKeys, kms:ListAliases and kms:DescribeKey; without them it is not found.

        Args:
            key_type: As for `generate_key`.

        Raises:
            BackendError: KMS refuses.
        """
        self._check_open()
        alias = None if self._pattern else self._reference.alias
        if alias is None:
            return None
        try:
            metadata = next(self._left_over(_SPECS.get(key_type), _description(alias)), None)
        except KeyUnusableError as error:
            logger.warning(
                "Whether a key was created before and has no alias yet cannot be seen: %s",
                error.message,
                extra={"event": "keys-not-shown"},
            )
            return None
        return None if metadata is None else self._named(metadata, alias)

    def list_keys(self) -> list[KeyRecord]:
        """The asymmetric signing keys that the URI matches, by alias; one record for each alias.

        Raises:
            BackendError: KMS refuses.
        """
        self._check_open()
        if self._pattern is None:
            metadata = self._describe(self._reference.text)
            return [self._record(metadata, self._reference.alias)] if metadata.signs else []
        aliases = self._aliases()
        if self._pattern == "*":
            wanted = {key: aliases.get(key, [""]) for key in self._keys()}
        else:
            matching = {
                key: [name for name in names if fnmatch.fnmatchcase(name, self._pattern)]
                for key, names in aliases.items()
            }
            wanted = {key: names for key, names in matching.items() if names}
        return sorted(self._records(wanted), key=lambda record: (record.label, record.key_id))

    def successor_uri(self, suffix: str) -> str:
        """Another alias: `alias/epic` becomes `alias/epic-<suffix>`.

        Raises:
            ConfigurationError: The URI names no alias.
        """
        alias = self._alias()
        _, mark, query = self._uri.text.partition("?")
        if not mark and (region := self._reference.region):
            mark, query = "?", f"region={region}"
        return f"awskms:///{successor_name(alias, suffix)}{mark}{query}"

    def close(self) -> None:
        """Close the connection; idempotent."""
        if not self._closed:
            self._closed = True
            self._connection.close()

    def _alias(self) -> str:
        """The alias that the URI gives a new key."""
        alias = None if self._pattern else self._reference.alias
        if alias is None:
            raise TEXTS.error("alias-missing")
        return alias

    def _records(self, wanted: Mapping[str, list[str]]) -> Iterator[KeyRecord]:
        hidden = 0
        for key_id, names in wanted.items():
            try:
                metadata = self._describe(key_id)
            except KeyUnusableError:  # access denied: other teams' keys
                hidden += 1
                continue
            if metadata.signs:
                yield from (self._record(metadata, name or None) for name in names)
        if hidden:
            logger.warning(
                "%d keys are not shown: kms:DescribeKey on them is not granted.",
                hidden,
                extra={"event": "keys-not-shown"},
            )

    def _record(self, metadata: KeyMetadata, alias: str | None) -> KeyRecord:
        _, mark, query = self._uri.text.partition("?")
        return KeyRecord(
            uri=f"awskms:///{quote(alias or metadata.arn, safe='/:')}{mark}{query}",
            key_type=KEY_SPECS[metadata.spec].key_type,
            label=alias or "",
            key_id=metadata.arn,
            attributes={
                "state": metadata.state,
                **{
                    name: metadata.facts[name]
                    for name in ("origin", "custom_key_store", "multi_region")
                    if name in metadata.facts
                },
            },
        )

    def _aliases(self) -> dict[str, list[str]]:
        """The aliases of each key that has one, by key id."""
        found: dict[str, list[str]] = {}
        for item in self._pages("ListAliases", "Aliases", lambda kms, a: kms.list_aliases(**a)):
            if isinstance(target := item.get("TargetKeyId"), str):
                found.setdefault(target, []).append(str(item.get("AliasName", "")))
        return found

    def _keys(self) -> Iterator[str]:
        """The ids of all keys."""
        for item in self._pages("ListKeys", "Keys", lambda kms, a: kms.list_keys(**a)):
            yield str(item["KeyId"])

    def _left_over(self, spec: str | None, description: str) -> Iterator[KeyMetadata]:
        """Keys without an alias that are as `generate_key` makes them, material included."""
        aliases = self._aliases()
        for key_id in self._keys():
            if key_id in aliases:
                continue
            try:
                metadata = self._describe(key_id)
            except KeyUnusableError:  # access denied: another team's
                continue
            if (
                (metadata.description, metadata.spec, metadata.state)
                == (description, spec, "Enabled")
                and metadata.signs
                and metadata.facts.get("origin") == "AWS_KMS"
            ):
                yield metadata

    def _named(self, metadata: KeyMetadata, alias: str) -> KeyRecord:
        """A key's record, once it has the alias."""
        self._call(
            "CreateAlias",
            alias,
            lambda kms: kms.create_alias(AliasName=alias, TargetKeyId=metadata.key_id),
        )
        return self._record(metadata, alias)

    def _refuse_existing(self, alias: str) -> None:
        try:
            existing = self._describe(alias)
        except KeyNotFoundError:
            return
        raise TEXTS.error("alias-taken", alias=alias, arn=existing.arn)

    def _discard(self, metadata: KeyMetadata, error: BackendError) -> None:
        """Delete a key that got no alias; nobody would find it."""
        arn = metadata.arn
        try:
            self._call(
                "ScheduleKeyDeletion",
                arn,
                lambda kms: kms.schedule_key_deletion(KeyId=arn, PendingWindowInDays=_WINDOW_DAYS),
            )
        except BackendError:
            error.add_note(f"The key {arn} was created and remains, without an alias.")
            logger.warning(
                "The key %s was created and remains, without an alias.",
                arn,
                extra={"event": "key-left-over"},
            )
        else:
            logger.warning(
                "The key %s was created, got no alias, and is being deleted.",
                arn,
                extra={"event": "key-deleted"},
            )

    def _describe(self, key: str) -> KeyMetadata:
        return KeyMetadata.of(
            self._call("DescribeKey", key, lambda kms: kms.describe_key(KeyId=key))
        )

    def _pages(
        self,
        operation: str,
        member: str,
        send: Callable[[Kms, dict[str, Any]], Mapping[str, Any]],
    ) -> Iterator[Mapping[str, Any]]:
        """Every item of a list that KMS gives in pages."""
        arguments: dict[str, Any] = {"Limit": _PAGE}
        while True:
            page = self._call(operation, "*", lambda kms: send(kms, dict(arguments)))
            items = page.get(member)
            if not isinstance(items, list):
                raise unreadable(operation)
            yield from items
            marker = page.get("NextMarker")
            if not page.get("Truncated") or not marker or marker == arguments.get("Marker"):
                return
            arguments["Marker"] = marker

    def _call(self, operation: str, key: str, send: Callable[[Kms], Any]) -> Any:
        return self._connection.call(operation, key, send, Deadline.after(self._timeout))[0]

    def _check_open(self) -> None:
        if self._closed:
            raise TEXTS.error("store-closed")


def _description(alias: str) -> str:
    return f"keystay: {alias.removeprefix('alias/')}"
