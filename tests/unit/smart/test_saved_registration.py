"""A registration as text, for a place that only its owner can read."""

from __future__ import annotations

import json

import pytest

import keystay
from keystay.backends.secrets import Secret
from keystay.errors import ConfigurationError

SAVED = {
    "version": 1,
    "client_id": "c",
    "registration_endpoint": "https://x.example/reg",
    "registration_client_uri": None,
    "registration_access_token": None,
    "metadata": {},
}


def test_saved_form() -> None:
    """What `to_json` writes is read back; the token is a Secret again."""
    assert "c" == keystay.Registration.from_json(json.dumps(SAVED)).client_id
    short = {n: v for n, v in SAVED.items() if v is not None}
    assert keystay.Registration.from_json(json.dumps(short)).registration_access_token is None
    made = keystay.Registration("c", "https://x.example/reg", {}, None, Secret("t-12345678"))
    assert "t-12345678" == json.loads(made.to_json())["registration_access_token"]


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", "null", "\xff", '{"version": 2}', "[" * 100_000,
        json.dumps({**SAVED, "client_id": ""}),
        json.dumps({**SAVED, "client_id": 1}),
        json.dumps({**SAVED, "registration_access_token": 1}),
        json.dumps({**SAVED, "metadata": None}),
        json.dumps({n: v for n, v in SAVED.items() if n != "registration_endpoint"}),
    ],
    ids=[
        "empty", "list", "nothing", "null", "latin-1", "version", "deep", "no-id", "id-number",
        "token-number", "no-metadata", "no-endpoint",
    ],
)  # fmt: skip
def test_not_a_saved_form(text: str) -> None:
    """Anything else is refused with its remedy."""
    with pytest.raises(ConfigurationError, match="not a saved registration") as caught:
        keystay.Registration.from_json(text.encode("latin-1"))
    assert "registration-file-invalid" == caught.value.code
