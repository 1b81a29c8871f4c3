"""What an `awskms:` URI and `[backends.awskms]` say together; the URI wins.

| URI        | `[backends.awskms]` | means                                                       |
|------------|---------------------|-------------------------------------------------------------|
| `region`   | `region`            | AWS region; default the ARN's, else as boto3 finds it       |
| `profile`  | `profile`           | profile in `~/.aws/config`; default as boto3 finds it       |
| `endpoint` | `endpoint`          | URL of KMS, such as a VPC endpoint's                        |
|            | `tags`              | table of tags that `keystay key generate` gives a new key   |

Credentials come from boto3's own chain (environment, profile, web identity, container, instance),
never from here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from keystay.errors import ConfigurationError, KeyURIError, did_you_mean

if TYPE_CHECKING:
    from keystay.key_uri import KeyURI

__all__ = ["Settings", "endpoint_problem", "is_aws", "is_loopback"]

_QUERY = ("region", "profile", "endpoint")
_KNOWN = (*_QUERY, "tags")
_TABLE = "[backends.awskms]"
_REGION = re.compile(r"[a-z]{2,}(?:-[a-z]+)+-[0-9]+")
_AWS = (".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu", ".api.aws",
        ".api.amazonwebservices.com.cn")  # fmt: skip
_CREDENTIALS = re.compile(r"(?i)(?:access|secret|session|credential|token|password)")
_CHAIN = (
    "keystay takes credentials as boto3 finds them: AWS_… variables, a profile, a role. "
    f"Leave them out of the key URI and of {_TABLE}."
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
        cls, uri: KeyURI, table: Mapping[str, object], arn_region: str | None = None
    ) -> Settings:
        """Read both.

        Args:
            uri: The key URI.
            table: `[backends.awskms]`.
            arn_region: The region of the ARN in the URI, if that is what names the key.

        Raises:
            KeyURIError: The URI holds something unknown or unusable.
            ConfigurationError: The table does.
        """
        _refuse_credentials(uri, table)
        uri.require_known(query=_QUERY)
        for name in table:
            if name not in _KNOWN:
                raise ConfigurationError(
                    f"{_TABLE} has no setting called {name!r}.", hint=did_you_mean(name, _KNOWN)
                )
        return cls(
            region=_region(uri, table, arn_region),
            profile=uri.query.get("profile") or _text(table, "profile"),
            endpoint=_endpoint(uri, table),
            tags=_tags(table),
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


def _refuse_credentials(uri: KeyURI, table: Mapping[str, object]) -> None:
    for name in uri.query:
        if name not in _QUERY and _CREDENTIALS.search(name):
            raise KeyURIError(
                f"{name} would put credentials into the key URI.",
                cause="URIs end up in configuration files, process lists and logs.",
                hint=_CHAIN,
                code="key-uri-secret",
            )
    for name in table:
        if name not in _KNOWN and _CREDENTIALS.search(name):
            raise ConfigurationError(
                f"{_TABLE} {name} would put credentials into the configuration.", hint=_CHAIN
            )


def _region(uri: KeyURI, table: Mapping[str, object], arn_region: str | None) -> str | None:
    given = uri.query.get("region")
    if given is not None and not _REGION.fullmatch(given):
        uri.fault("region", f"{given!r} is no AWS region.", hint="Write region=eu-west-1.")
    if given is not None and arn_region is not None and given != arn_region:
        uri.fault(
            "region",
            f"region is {given}, but the ARN is one of {arn_region}.",
            hint="Leave region out: the ARN says it.",
        )
    value = given or arn_region or _text(table, "region")
    if value is not None and not _REGION.fullmatch(value):
        raise ConfigurationError(
            f"{_TABLE} region {value!r} is no AWS region.", hint='Write region = "eu-west-1".'
        )
    return value


def _endpoint(uri: KeyURI, table: Mapping[str, object]) -> str | None:
    given = uri.query.get("endpoint")
    value = given if given is not None else _text(table, "endpoint")
    if value is None or (problem := endpoint_problem(value)) is None:
        return value
    hint = (
        "Write https://kms.REGION.amazonaws.com or your VPC endpoint's URL; "
        "http:// is for emulators on this machine only."
    )
    if given is not None:
        uri.fault("endpoint", f"The KMS endpoint {problem}.", hint=hint)
    raise ConfigurationError(f"The KMS endpoint {problem} ({_TABLE} endpoint).", hint=hint)


def _tags(table: Mapping[str, object]) -> Mapping[str, str]:
    tags = table.get("tags", {})
    if not isinstance(tags, Mapping) or not all(
        isinstance(name, str) and name and isinstance(value, str) for name, value in tags.items()
    ):
        raise ConfigurationError(
            f"{_TABLE} tags is not a table of text values.", hint='Write tags = { app = "epic" }.'
        )
    return dict(tags)


def _text(table: Mapping[str, object], name: str) -> str | None:
    value = table.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise ConfigurationError(
            f"{_TABLE} {name} is not text.", hint=f'Write {name} = "…" with quotes.'
        )
    return value
