"""What KMS says of a key (DescribeKey), and whether such a key can sign assertions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from keystay.custody import Fact
from keystay.errors import KeystayError
from keystay_aws_kms.algorithms import KEY_SPECS, able, refusal
from keystay_aws_kms.errors import TEXTS

__all__ = ["KeyMetadata", "unreadable"]

# A key that is Updating (its primary region) signs.
_USABLE_STATES = ("Enabled", "Updating")


@dataclass(frozen=True, slots=True)
class KeyMetadata:
    """A key, as KMS describes it.

    Attributes:
        arn: The key's ARN, which never changes.
        key_id: The ARN's last part.
        spec: KeySpec.
        usage: KeyUsage.
        state: KeyState.
        signing_algorithms: SigningAlgorithms, empty when it cannot sign.
        facts: The rest, by the names an auditor reads.
        description: As it was created with.
        created: When the key was made, or None.
        deletion: When it will be gone, or None.
    """

    arn: str
    key_id: str
    spec: str
    usage: str
    state: str
    signing_algorithms: tuple[str, ...]
    facts: Mapping[str, str | bool]
    description: str = ""
    created: datetime | None = None
    deletion: datetime | None = None

    @classmethod
    def of(cls, reply: Mapping[str, Any]) -> KeyMetadata:
        """Read the answer of DescribeKey or CreateKey.

        Raises:
            BackendUnavailableError: A part is missing.
        """
        data = reply.get("KeyMetadata")
        if not isinstance(data, Mapping):
            raise unreadable("DescribeKey")
        required = [data.get(n) for n in ("Arn", "KeyId", "KeySpec", "KeyUsage", "KeyState")]
        texts = [value for value in required if isinstance(value, str) and value]
        if len(texts) != len(required):
            raise unreadable("DescribeKey")
        arn, key_id, spec, usage, state = texts
        created, deletion = data.get("CreationDate"), data.get("DeletionDate")
        return cls(
            arn=arn,
            key_id=key_id,
            spec=spec,
            usage=usage,
            state=state,
            signing_algorithms=tuple(map(str, data.get("SigningAlgorithms") or ())),
            facts=_facts(data),
            description=str(data.get("Description") or ""),
            created=created if isinstance(created, datetime) else None,
            deletion=deletion if isinstance(deletion, datetime) else None,
        )

    @property
    def made(self) -> Fact | None:
        """When the key material came to be, as far as KMS knows.

        Material that was imported is older than KMS can say.
        """
        if self.created is None or self.facts.get("origin") == "EXTERNAL":
            return None
        return Fact(self.created.isoformat(), "reported")

    @property
    def signs(self) -> bool:
        """Whether it is a key that could sign assertions, whatever state it is in."""
        return self.usage == "SIGN_VERIFY" and self.spec in KEY_SPECS

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The JWS algorithms that it can do."""
        return able(self.spec, self.signing_algorithms)

    def check(self, name: str) -> None:
        """Refuse a key that cannot sign assertions, or not now.

        Args:
            name: What the user calls the key.

        Raises:
            KeyUnusableError: With what to do.
        """
        what = f"The KMS key {name}" + (f" ({self.arn})" if name != self.arn else "")
        reason = refusal(self.spec)
        if reason is not None:
            raise TEXTS.error("spec", what=what, reason=reason, spec=self.spec)
        if self.usage != "SIGN_VERIFY":
            raise TEXTS.error("usage", what=what, usage=self.usage)
        if self.state not in _USABLE_STATES:
            known = f"state-{self.state}"
            raise TEXTS.error(
                known if known in TEXTS else "state",
                what=what,
                arn=self.arn,
                state=self.state,
                date=f" on {self.deletion:%Y-%m-%d}" if self.deletion else "",
                store=self.facts.get("custom_key_store", "ID"),
            )
        if not self.algorithms:
            reported = ", ".join(self.signing_algorithms) or "none"
            raise TEXTS.error("no-algorithm", what=what, reported=reported)


def unreadable(operation: str) -> KeystayError:
    """The error for an answer that lacks what it must have."""
    return TEXTS.error("answer-incomplete", operation=operation)


def _facts(data: Mapping[str, Any]) -> dict[str, str | bool]:
    facts: dict[str, str | bool] = {}
    for name, key in (
        ("origin", "Origin"),
        ("custom_key_store", "CustomKeyStoreId"),
        ("cloudhsm_cluster", "CloudHsmClusterId"),
        ("key_manager", "KeyManager"),
        ("key_spec", "KeySpec"),
        ("multi_region", "MultiRegion"),
        ("arn", "Arn"),
        ("created", "CreationDate"),
        ("deletion", "DeletionDate"),
        ("material_expires", "ValidTo"),
    ):
        value = data.get(key)
        if isinstance(value, datetime):
            facts[name] = value.isoformat()
        elif isinstance(value, (str, bool)):
            facts[name] = value
    return facts
