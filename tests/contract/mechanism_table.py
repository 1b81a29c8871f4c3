"""Holds a contract's table of what cannot be done to the PKCS#11 module's own mechanism list."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Self

import pytest
from pkcs11 import Mechanism, MechanismFlag

from keystay.algorithms import ALGORITHMS
from keystay.backends import Deadline
from keystay.key_uri import parse
from keystay_pkcs11.settings import Settings
from keystay_pkcs11.token import acquire, present_tokens
from keystay_pkcs11.uri import TokenQuery

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from keystay_pkcs11.token import Token

RSA = {"sha256": "SHA256_RSA_PKCS", "sha384": "SHA384_RSA_PKCS", "sha512": "SHA512_RSA_PKCS"}
GENERATORS = {"RSA": "RSA_PKCS_KEY_PAIR_GEN", "P": "EC_KEY_PAIR_GEN", "Ed25519": "EDDSA"}


def mechanisms_of(algorithm: str) -> tuple[Mechanism, ...]:
    """What a module must list, one of them, to make a JWS algorithm's signatures."""
    known = ALGORITHMS[algorithm]
    if known.hash_name is None:
        return (Mechanism.EDDSA,)
    names = {
        "ECDSA": ("ECDSA", f"ECDSA_{known.hash_name.upper()}"),
        "RSASSA-PSS": ("RSA_PKCS_PSS", f"{RSA[known.hash_name]}_PSS"),
        "RSASSA-PKCS1-v1_5": ("RSA_PKCS", RSA[known.hash_name]),
    }[known.family]
    return tuple(Mechanism[name] for name in names)


class Listed:
    """A token's mechanisms, as python-pkcs11 reads them."""

    def __init__(self, token: Token) -> None:
        found, _ = present_tokens(token.module, Deadline.after(10))
        self._slot = next(native.slot for facts, native in found if facts == token.facts)

    @classmethod
    @contextmanager
    def of(cls, uri: str, table: Mapping[str, object]) -> Iterator[Self]:
        """Those of the token that a key URI means, with `[backends.pkcs11]`."""
        parsed = parse(uri)
        settings = Settings.read(parsed, table)
        token = acquire(TokenQuery.of(parsed), settings, Deadline.after(10))
        try:
            yield cls(token)
        finally:
            token.release()

    def signs(self, algorithm: str) -> bool:
        """Whether a mechanism for the algorithm is listed, and for signing."""
        listed = self._slot.get_mechanisms()
        return any(
            mechanism in listed
            and bool(self._slot.get_mechanism_info(mechanism).flags & MechanismFlag.SIGN)
            for mechanism in mechanisms_of(algorithm)
        )

    def holds(self, key_type: str) -> bool:
        """Whether keys of the type can be made, of that size, and sign."""
        kind, _, size = key_type.partition("-")
        generator = Mechanism[GENERATORS[kind]]
        if generator not in self._slot.get_mechanisms():
            return False
        most = self._slot.get_mechanism_info(generator).max_key_length
        return kind != "RSA" or most is None or int(size) <= most


class MechanismTable:
    """A test beside a `SignerContract` for a PKCS#11 module."""

    cannot: ClassVar[Mapping[str, str]]

    @pytest.fixture
    def listed(self) -> Listed:
        """The token's mechanisms; a subclass must provide this."""
        raise NotImplementedError

    def test_cannot_is_what_the_module_does_not_list(self, listed: Listed) -> None:
        """An algorithm or key type is excused by the module's own list, or not at all."""
        excused = [
            item
            for item in self.cannot
            if (item in ALGORITHMS and listed.signs(item))
            or (item.partition("-")[0] in GENERATORS and listed.holds(item))
        ]
        assert not excused, f"in cannot, and the module lists it: {', '.join(excused)}"
