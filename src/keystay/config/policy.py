"""`[policy]` and `[clients.<name>.policy]`: the second can only tighten the first."""

# No annotations as text: msgspec would compile each of them at every start.

from collections.abc import Iterator, Mapping
from typing import Annotated

import msgspec

from keystay import algorithms
from keystay.errors import ConfigurationError, KeystayError
from keystay.policy import Policy
from keystay.settings import Place, read_table, setting

__all__ = ["PolicyConfig", "require_tightened"]


class PolicyConfig(Policy, frozen=True, kw_only=True):
    """The rules for keys, and one for publication."""

    require_published: Annotated[
        bool,
        setting(
            "A token client only signs with a key that it has seen at its `jwks_url`, in the last "
            "minute at the longest."
        ),
    ] = False

    def faults(self) -> Iterator[tuple[str, KeystayError]]:
        """Each rule that cannot be meant."""
        for key in ("backends", "algorithms"):
            if getattr(self, key) == ("",):
                yield key, ConfigurationError("It names nothing.")
        for name in self.algorithms:
            try:
                algorithms.get(name)
            except KeystayError as error:
                yield (
                    "algorithms",
                    ConfigurationError(error.message, hint=error.hint, code="config-value-invalid"),
                )

    @classmethod
    def read(
        cls, values: Mapping[str, object], place: Place, general: "PolicyConfig | None" = None
    ) -> "PolicyConfig":
        """A policy table, checked.

        Args:
            values: What it says.
            place: Where.
            general: `[policy]`, whose rules hold where a client's table says nothing.

        Raises:
            ConfigurationError: A value cannot be, or demands less than `general`.
        """
        policy = read_table(cls, values, place)
        for key in ("backends", "algorithms"):
            if key in values and not getattr(policy, key):
                raise ConfigurationError(
                    f"{place(key)} the list is empty: no key would be allowed.",
                    hint="Leave it out to allow all.",
                    code="config-value-invalid",
                )
        if general is None:
            return policy
        own = msgspec.structs.replace(general, **{name: getattr(policy, name) for name in values})
        require_tightened(own, general, place)
        return own

    def loosened_by(self, other: Policy) -> Iterator[tuple[str, str]]:
        """See `Policy.loosened_by`."""
        yield from super().loosened_by(other)
        if self.require_published and not getattr(other, "require_published", False):
            yield "require_published", "true"


def require_tightened(own: PolicyConfig, general: PolicyConfig, place: Place) -> None:
    """Refuse a policy that demands less than the general one.

    Raises:
        ConfigurationError: With the rule that is looser (`policy-loosened`).
    """
    for key, least in general.loosened_by(own):
        raise ConfigurationError(
            f"{place(key)} it is looser than [policy], which demands {least}.",
            cause="What a client's own policy or the environment says can only tighten the "
            "general policy.",
            hint=f"Leave {key} out here, or make it stricter. To accept this client's key, loosen "
            "[policy] for all and tighten it for the others.",
            code="policy-loosened",
        )
