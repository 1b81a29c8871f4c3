"""Tokens to spoil, each with a key `epic`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.p11kit import P11KitServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.p11shim import ShimmedToken
    from tests.support.softhsm import SoftHSM


@pytest.fixture
def shimmed(shimmed: ShimmedToken) -> ShimmedToken:
    """The shimmed token, with a key."""
    shimmed.token.generate_key("EC:secp256r1", "epic")
    return shimmed


@pytest.fixture
def remoted(fresh_softhsm: SoftHSM, monkeypatch: pytest.MonkeyPatch) -> Iterator[P11KitServer]:
    """A token in another process, for one test."""
    fresh_softhsm.generate_key("EC:secp384r1", "epic")
    with P11KitServer(fresh_softhsm) as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        yield server
