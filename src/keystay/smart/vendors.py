"""What vendors' authorization servers do where the specification leaves it to them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from keystay.errors import ConfigurationError, did_you_mean

__all__ = ["Vendor", "vendor_of"]


@dataclass(frozen=True, slots=True)
class Vendor:
    """One vendor's authorization servers.

    Attributes:
        name: As `vendor` in keystay.toml says it.
        jwks_cache: Seconds that a client's JWK Set is kept when its URL sends no Cache-Control.
        keeps_longer: Whether the set may be kept for longer than `jwks_cache` when Cache-Control
            allows it.
    """

    name: str
    jwks_cache: int
    keeps_longer: bool = True

    def cache_seconds(self, max_age: int | None) -> int:
        """How long a server may go on using a set it has fetched.

        Args:
            max_age: Seconds that the JWKS URL's Cache-Control allows, or None without one.
        """
        if max_age is None:
            return self.jwks_cache
        return max_age if self.keeps_longer else min(max_age, self.jwks_cache)


# Epic: "cached for up to 29 hours unless Cache-Control says less". Nobody else states a time; a
# day is what generic OAuth servers keep at most.
_OTHER = Vendor("other", 24 * 3600)
_VENDORS = {v.name: v for v in (Vendor("epic", 29 * 3600, keeps_longer=False), _OTHER)}

_EPIC_HOSTS = (".epic.com", ".epichosted.com")
_EPIC_PATH = "/api/fhir/"


def vendor_of(fhir_base_url: str, name: str | None = None) -> Vendor:
    """The vendor of a FHIR server.

    Args:
        fhir_base_url: Epic's are recognised by their host, and likely ones by `/api/FHIR/` in the
            path.
        name: What the configuration says; it wins.

    Raises:
        ConfigurationError: No such vendor is known.
    """
    if name is not None:
        if name not in _VENDORS:
            raise ConfigurationError(
                f"There is no vendor {name!r}.",
                hint=did_you_mean(name, sorted(_VENDORS)),
                code="config-value-invalid",
            )
        return _VENDORS[name]
    parts = urlsplit(fhir_base_url)
    if f".{parts.hostname}".endswith(_EPIC_HOSTS):
        return _VENDORS["epic"]
    # Others may have that path as well: what Epic never does is not to be counted on then.
    is_likely = _EPIC_PATH in f"{parts.path}/".lower()
    return replace(_VENDORS["epic"], keeps_longer=True) if is_likely else _OTHER
