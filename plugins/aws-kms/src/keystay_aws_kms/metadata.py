"""What KMS says of a key (DescribeKey), and whether such a key can sign assertions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from keystay.custody import Fact
from keystay.errors import BackendUnavailableError, KeyUnusableError
from keystay_aws_kms.algorithms import KEY_SPECS, able, refusal

__all__ = ["KeyMetadata", "unreadable"]

# KMS developer guide, "Key states of AWS KMS keys": what does not sign, why, and the remedy.
# A key that is Updating (its primary region) signs.
_STATES = {
    "Disabled": (
        "is disabled",
        "Somebody disabled it.",
        "aws kms enable-key --key-id {arn}",
        "aws-key-disabled",
    ),
    "PendingDeletion": (
        "is scheduled for deletion{date}",
        "Somebody deleted it; until then that can be undone.",
        "aws kms cancel-key-deletion --key-id {arn}; aws kms enable-key --key-id {arn}",
        "aws-key-pending-deletion",
    ),
    "PendingReplicaDeletion": (
        "is scheduled for deletion, and waits for its replicas in other regions to be deleted",
        "Somebody deleted the primary key of a multi-Region key.",
        "aws kms cancel-key-deletion --key-id {arn}; aws kms enable-key --key-id {arn}",
        "aws-key-pending-deletion",
    ),
    "PendingImport": (
        "has no key material",
        "Its material is to be imported, or has expired or been deleted.",
        "Import it (the same as before, if it had any): aws kms import-key-material --key-id {arn}",
        "aws-key-pending-import",
    ),
    "Unavailable": (
        "is unavailable",
        "Its custom key store is disconnected from the CloudHSM cluster or external key manager.",
        "aws kms connect-custom-key-store --custom-key-store-id {store}",
        "aws-key-unavailable",
    ),
    "Creating": (
        "is still being created",
        "A key, or a replica of one, is made in the background.",
        "Wait a minute and try again.",
        "aws-key-creating",
    ),
}
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
            raise KeyUnusableError(
                f"{what} {reason} (KeySpec {self.spec}).",
                hint="Use a key of KeySpec ECC_NIST_P384 or RSA_3072 with KeyUsage SIGN_VERIFY: "
                "keystay key generate 'awskms:///alias/NAME' --type P-384",
                code="aws-key-spec",
            )
        if self.usage != "SIGN_VERIFY":
            raise KeyUnusableError(
                f"{what} is for {self.usage}, not for SIGN_VERIFY.",
                cause="KeyUsage is chosen when a key is created and never changes.",
                hint="Create another one with KeyUsage SIGN_VERIFY: "
                "keystay key generate 'awskms:///alias/NAME'",
                code="aws-key-usage",
            )
        if self.state not in _USABLE_STATES:
            self._refuse_state(what)
        if not self.algorithms:
            raise KeyUnusableError(
                f"{what} offers no signing algorithm that JWS knows.",
                cause=f"KMS reports {', '.join(self.signing_algorithms) or 'none'} for it.",
                hint="Use a key of KeySpec ECC_NIST_P384 or RSA_3072.",
                code="aws-key-spec",
            )

    def _refuse_state(self, what: str) -> None:
        message, cause, hint, code = _STATES.get(
            self.state,
            (f"is in the state {self.state}", "KMS does not let it sign.", "See {arn}.",
             "aws-key-state"),
        )  # fmt: skip
        date = f" on {self.deletion:%Y-%m-%d}" if self.deletion else ""
        store = self.facts.get("custom_key_store", "ID")
        raise KeyUnusableError(
            f"{what} {message.format(date=date)}.",
            cause=cause,
            hint=hint.format(arn=self.arn, store=store),
            code=code,
        )


def unreadable(operation: str) -> BackendUnavailableError:
    """The error for an answer that lacks what it must have."""
    return BackendUnavailableError(
        f"AWS KMS's answer to {operation} lacks what it must have.",
        cause="Something else than KMS answered: a proxy, or a wrong endpoint.",
        hint="Check endpoint= and HTTPS_PROXY.",
        code="aws-answer-invalid",
    )


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
