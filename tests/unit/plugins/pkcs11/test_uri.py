"""Tokens are chosen by what RFC 7512 names, or by there being one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keystay import key_uri
from keystay.errors import KeyAmbiguousError, KeyNotFoundError
from keystay_pkcs11.errors import Place
from keystay_pkcs11.uri import TokenFacts, TokenQuery, select

PLACE = Place("/usr/lib/hsm.so")
PROD = TokenFacts(
    label="prod", serial="01", model="M1", manufacturer="Acme", slot_id="7",
    slot_description="slot A", slot_manufacturer="Acme slots", library_description="lib",
    library_manufacturer="Acme libs", library_version="3.0",
)  # fmt: skip
TEST = replace(PROD, label="test", serial="02", model="M2", manufacturer="Bcme", slot_id="8",
               slot_description="slot B", slot_manufacturer="B slots")  # fmt: skip
BLANK = TokenFacts(label="", serial="", initialized=False)
TOKENS = [PROD, TEST, BLANK]

CHOICES = [
    "token=prod", "serial=01", "model=M1", "manufacturer=Acme", "slot-id=7",
    "slot-description=slot%20A", "slot-manufacturer=Acme%20slots", "token=prod;serial=01",
    "token=prod;library-version=3", "token=prod;library-version=3.0",
    "token=prod;library-description=lib;library-manufacturer=Acme%20libs",
]  # fmt: skip


def query(path: str) -> TokenQuery:
    """The query of a URI."""
    return TokenQuery.of(key_uri.parse(f"pkcs11:{path}"))


@pytest.mark.parametrize("path", CHOICES)
def test_select(path: str) -> None:
    """Each attribute chooses."""
    assert PROD == select(TOKENS, query(path), PLACE)


def test_the_only_one() -> None:
    """Without an attribute, the only initialised token is meant."""
    assert PROD == select([PROD, BLANK], query("object=epic"), PLACE)


@pytest.mark.parametrize("path", ["token=other", "token=prod;serial=02", "library-version=2"])
def test_none(path: str) -> None:
    """None matches: the tokens are listed by label and serial, broken slots too."""
    with pytest.raises(KeyNotFoundError) as caught:
        select(TOKENS, query(path), PLACE, ["slot 9: CKR_DEVICE_ERROR"])

    text = str(caught.value)
    assert "'prod' (serial 01)" in text
    assert "'test' (serial 02)" in text
    assert "not initialised" in text
    assert "slot 9: CKR_DEVICE_ERROR" in text


@pytest.mark.parametrize("path", ["object=epic", "library-version=3"])
def test_several(path: str) -> None:
    """Several match: they are listed."""
    with pytest.raises(KeyAmbiguousError) as caught:
        select(TOKENS, query(path), PLACE)

    assert "'prod' (serial 01), 'test' (serial 02)" in str(caught.value)
    assert "token-ambiguous" == caught.value.code


def test_no_token() -> None:
    """A module without tokens says so."""
    with pytest.raises(KeyNotFoundError, match="has no token"):
        select([], query("object=x"), PLACE)
