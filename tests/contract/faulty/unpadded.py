"""Leaves out leading zeros of r and s, once in 256 signatures, when they are due."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystay.signatures import der_to_raw
from tests.contract.faulty.honest import HonestKey, plugin

if TYPE_CHECKING:
    from keystay.backends import BackendSignature, SignRequest


FAILS = {"test_many_ecdsa_signatures"}


class UnpaddedKey(HonestKey):
    def sign(self, request: SignRequest) -> BackendSignature:
        result = super().sign(request)
        if request.algorithm.kty != "EC":
            return result
        raw = der_to_raw(result.value, request.algorithm)
        while self.signed < 300 and 0 in (raw[0], raw[48]):  # not before the count is high
            raw = der_to_raw(super().sign(request).value, request.algorithm)
        value = raw[:48].lstrip(b"\0") + raw[48:].lstrip(b"\0")
        return result._replace(value=value, encoding="raw")


BACKEND = plugin(UnpaddedKey)

SETTINGS = {"ecdsa_signatures": 500}
