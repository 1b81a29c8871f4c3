"""What an `awskms:` URI and `[backends.awskms]` say together; the URI wins.

In the URI: `region`, `profile`, `endpoint`.

Credentials come from boto3's own chain (environment, profile, web identity, container, instance),
never from here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import msgspec

from keystay.errors import ConfigurationError, KeystayError, KeyURIError
from keystay.settings import read_plugin_table, setting

if TYPE_CHECKING:
    from keystay.key_uri import KeyURI

__all__ = ["Settings", "Table", "endpoint_problem", "is_aws", "is_loopback"]

_QUERY = ("region", "profile", "endpoint")
_TABLE = "[backends.awskms]"
_REGION = re.compile(r"[a-z]{2,}(?:-[a-z]+)+-[0-9]+")
_AWS = (".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu", ".api.aws",
        ".api.amazonwebservices.com.cn")  # fmt: skip
_CREDENTIALS = re.compile(r"(?i)(?:access|secret|session|credential|token|password)")
_CHAIN = (
    "keystay takes credentials as boto3 finds them: AWS_… variables, a profile, a role. "
    f"Leave them out of the key URI and of {_TABLE}."
)
_ENDPOINT = (
    "Write https://kms.REGION.amazonaws.com or your VPC endpoint's URL; http:// is for emulators "
    "on this machine only."
)


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """`[backends.awskms]`."""

    region: Annotated[
        str | None,
        setting("AWS region.", example='"eu-west-1"', default="the ARN's, else as boto3 finds it"),
    ] = None
    profile: Annotated[
        str | None,
        setting("Profile in `~/.aws/config`.", example='"prod"', default="as boto3 finds it"),
    ] = None
    endpoint: Annotated[
        str | None,
        setting(
            "URL of KMS, such as a VPC endpoint's.",
            example='"https://kms.eu-west-1.amazonaws.com"',
            default="AWS's own",
        ),
    ] = None
    tags: Annotated[
        dict[str, str],
        setting("Tags that `keystay key generate` gives a new key.", example='{ app = "epic" }'),
    ] = {}

    def faults(self) -> Iterator[tuple[str, KeystayError]]:
        """Each setting of the right type that still cannot be used."""
        if self.region is not None and not _REGION.fullmatch(self.region):
            yield (
                "region",
                ConfigurationError(
                    f"{self.region!r} is no AWS region.", hint='Write region = "eu-west-1".'
                ),
            )
        if self.profile == "":
            yield "profile", ConfigurationError("The profile is empty.", hint="Leave it out.")
        if self.endpoint is not None and (problem := endpoint_problem(self.endpoint)):
            yield "endpoint", ConfigurationError(f"The KMS endpoint {problem}.", hint=_ENDPOINT)
        if "" in self.tags:
            yield (
                "tags",
                ConfigurationError("A tag has no name.", hint='Write tags = { app = "epic" }.'),
            )


@dataclass(frozen=True, slots=True)
class Settings:
    """How to reach KMS.

    Attributes:
        region: AWS region, or None to have boto3 find it.
        profile: Profile name, or None.
        endpoint: URL of KMS: HTTPS, or HTTP to this machine; None for AWS's own.
        tags: For new keys.
    """

    region: str | None = None
    profile: str | None = None
    endpoint: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(
        cls, uri: KeyURI, values: Mapping[str, object], arn_region: str | None = None
    ) -> Settings:
        """Read both.

        Args:
            uri: The key URI.
            values: `[backends.awskms]`.
            arn_region: The region of the ARN in the URI, if that is what names the key.

        Raises:
            KeyURIError: The URI holds something unknown or unusable.
            ConfigurationError: The table does.
        """
        _refuse_credentials(uri, values)
        uri.require_known(query=_QUERY)
        table = read_plugin_table(Table, values, "backends.awskms", without=uri.query)
        endpoint = uri.query.get("endpoint")
        if endpoint is not None and (problem := endpoint_problem(endpoint)):
            uri.fault("endpoint", f"The KMS endpoint {problem}.", hint=_ENDPOINT)
        return cls(
            region=_region(uri, arn_region) or table.region,
            profile=uri.query.get("profile") or table.profile,
            endpoint=endpoint or table.endpoint,
            tags=table.tags,
        )


def endpoint_problem(url: str) -> str | None:
    """Why a URL cannot be that of KMS, without repeating a secret it may hold; None if it can."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme not in ("https", "http") or not host or port == 0:
        return "is not an absolute URL"
    if parts.username is not None or parts.password is not None:
        return "holds user information before an @"
    if parts.query or parts.fragment or parts.path not in ("", "/"):
        return "has a path, a query or a fragment"
    if parts.scheme == "http" and not is_loopback(url):
        return f"is plain HTTP to another machine ({host})"
    return None


def is_loopback(url: str) -> bool:
    """Whether a URL is that of this machine: 127.0.0.0/8, ::1 or localhost."""
    host = urlsplit(url).hostname or ""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_aws(url: str) -> bool:
    """Whether a URL's host name is one of AWS's, so that TLS makes sure who answers."""
    return (urlsplit(url).hostname or "").endswith(_AWS)


def _refuse_credentials(uri: KeyURI, values: Mapping[str, object]) -> None:
    for name in uri.query:
        if name not in _QUERY and _CREDENTIALS.search(name):
            raise KeyURIError(
                f"{name} would put credentials into the key URI.",
                cause="URIs end up in configuration files, process lists and logs.",
                hint=_CHAIN,
                code="key-uri-secret",
            )
    for name in values:
        if name not in Table.__struct_fields__ and _CREDENTIALS.search(name):
            raise ConfigurationError(
                f"{_TABLE} {name} would put credentials into the configuration.", hint=_CHAIN
            )


def _region(uri: KeyURI, arn_region: str | None) -> str | None:
    given = uri.query.get("region")
    if given is not None and not _REGION.fullmatch(given):
        uri.fault("region", f"{given!r} is no AWS region.", hint="Write region=eu-west-1.")
    if given is not None and arn_region is not None and given != arn_region:
        uri.fault(
            "region",
            f"region is {given}, but the ARN is one of {arn_region}.",
            hint="Leave region out: the ARN says it.",
        )
    return given or arn_region
