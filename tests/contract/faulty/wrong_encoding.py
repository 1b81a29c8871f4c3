"""Declares r‖s and returns DER."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.contract.faulty.honest import HonestKey, plugin

if TYPE_CHECKING:
    from keystay.backends import BackendSignature, SignRequest


# Every test that signs with the P-384 key.
FAILS = {
    "test_assertion",
    "test_async_equals_sync",
    "test_bad_signatures_are_caught",
    "test_closed",
    "test_custody_is_honest",
    "test_deadline",
    "test_description_is_stable",
    "test_digest_signs_as_message",
    "test_encoding_is_as_declared",
    "test_every_algorithm_verifies_elsewhere",
    "test_first_of_each_session_is_verified",
    "test_fork",
    "test_jwk_round_trip",
    "test_key_swap",
    "test_many_ecdsa_signatures",
    "test_no_secret_in_logs",
    "test_others_survive_a_close",
    "test_signature_length",
    "test_threads",
}


class WrongEncodingKey(HonestKey):
    def sign(self, request: SignRequest) -> BackendSignature:
        return super().sign(request)._replace(encoding="raw")


BACKEND = plugin(WrongEncodingKey)
