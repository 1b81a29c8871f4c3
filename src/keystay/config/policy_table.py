"""`[policy]` and `[clients.<name>.policy]`: the second can only tighten the first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keystay import algorithms
from keystay.config.models import PolicyConfig
from keystay.errors import ConfigurationError, KeystayError

if TYPE_CHECKING:
    from keystay.config.source import Source

__all__ = ["read_policy"]


def read_policy(
    source: Source,
    where: tuple[str, ...],
    table: dict[str, Any],
    general: PolicyConfig | None = None,
) -> PolicyConfig:
    """A policy table, checked.

    Args:
        source: The file.
        where: The table's name.
        table: What it says.
        general: `[policy]`, whose rules hold where a client's table says nothing.

    Raises:
        ConfigurationError: A value cannot be, or demands less than `general`.
    """
    policy = source.convert(where, table, PolicyConfig)
    for key in ("backends", "algorithms"):
        if key in table and not getattr(policy, key):
            raise source.fault(
                where, key, "the list is empty: no key would be allowed.",
                hint="Leave it out to allow all.", code="config-value-invalid",
            )  # fmt: skip
    for name in policy.algorithms:
        try:
            algorithms.get(name)
        except KeystayError as error:
            raise _fault(source, where, "algorithms", error) from None
    for key in ("min_rsa_bits", "min_ec_bits", "max_key_age"):
        if (getattr(policy, key) or 0) < 0:
            raise source.fault(
                where, key, "it is negative.", hint=f"Write {key} = and a positive number.",
                code="config-value-invalid",
            )  # fmt: skip
    if general is None:
        return policy
    # The client's own word where it has one, the general rule elsewhere.
    own = PolicyConfig(
        **{name: getattr(policy if name in table else general, name) for name in _fields()}
    )
    for key, least in general.loosened_by(own):
        raise _loosened(source, where, key, least)
    if general.require_published and not own.require_published:
        raise _loosened(source, where, "require_published", "true")
    return own


def _fields() -> tuple[str, ...]:
    return PolicyConfig.__struct_fields__


def _loosened(source: Source, where: tuple[str, ...], key: str, least: str) -> ConfigurationError:
    return source.fault(
        where,
        key,
        f"it is looser than [policy], which demands {least}.",
        cause="A client's own policy can only tighten the general one.",
        hint=f"Leave {key} out here, or make it stricter. To accept this client's key, loosen "
        "[policy] for all and tighten it for the others.",
        code="policy-loosened",
    )


def _fault(
    source: Source, where: tuple[str, ...], key: str, error: KeystayError
) -> ConfigurationError:
    return source.fault(where, key, error.message, hint=error.hint, code="config-value-invalid")
