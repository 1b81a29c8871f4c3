"""The report's content: plain data, the same for every format."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from keystay.config import Config
from keystay.errors import ConfigurationError
from keystay.ops.report.examination import Examination, Look, every_name, examine

__all__ = ["Report", "build"]

_LIBRARIES = (
    "keystay", "cryptography", "httpx", "python-pkcs11", "boto3", "google-cloud-kms",
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """What the report says.

    Attributes:
        made: When, in UTC.
        configuration: The file it is about, or None.
        versions: Of the software, by name.
        clients: In the order of the file.
    """

    made: datetime
    configuration: str | None
    versions: dict[str, str]
    clients: Sequence[Examination]

    @property
    def satisfied(self) -> int:
        """How many clients' keys are all that their policy demands."""
        return sum(client.satisfied for client in self.clients)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "format": "keystay-report",
            "format_version": 1,
            "made": self.made.isoformat(timespec="seconds"),
            "configuration": self.configuration,
            "versions": self.versions,
            "satisfied": self.satisfied,
            "clients": [_client(client) for client in self.clients],
        }


def build(
    config: Config,
    names: Sequence[str] = (),
    *,
    look: Look | None = None,
    now: datetime | None = None,
) -> Report:
    """Examine the clients named, or all.

    Args:
        config: A loaded configuration.
        names: Of clients.
        look: As for `examine`.
        now: The time, with its zone.

    Raises:
        ConfigurationError: There is no such client, or none at all.
    """
    wanted = list(dict.fromkeys(names)) or every_name(config)
    if not wanted:
        raise ConfigurationError(
            "No client is configured: there is nothing to report.",
            hint="Write [clients.NAME] into keystay.toml, or name the file with KEYSTAY_CONFIG.",
            code="client-missing",
        )
    clients = [examine(config, name, look=look) for name in wanted]
    return Report(
        now or datetime.now(UTC),
        None if config.path is None else str(config.path),
        _versions(),
        clients,
    )


def _client(found: Examination) -> dict[str, Any]:
    return {
        "name": found.name,
        "client_id": found.client_id,
        "fhir_base_url": found.fhir_base_url,
        "key_uri": found.uri,
        "key": found.key,
        "created": found.created,
        "age_days": found.age_days,
        "policy": {
            "satisfied": found.satisfied,
            "rules": [asdict(finding) for finding in found.findings],
        },
        "rotation": found.rotation,
        "publication": {
            "url": found.published_at,
            "keys": [asdict(finding) for finding in found.published],
            "error": found.publication_error and found.publication_error.to_dict(),
        },
        "error": found.error and found.error.to_dict(),
    }


def _versions() -> dict[str, str]:
    from keystay.backends.registry import default_registry

    names = [*_LIBRARIES, *(e.distribution for e in default_registry().entries())]
    found = {"Python": platform.python_version(), "system": f"{platform.system()} "
             f"{platform.release()} {platform.machine()}"}  # fmt: skip
    for name in dict.fromkeys(names):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
