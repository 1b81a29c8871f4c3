"""`[clients.NAME.policy]` can only tighten `[policy]`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import keystay
from keystay.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_environment")

CLIENT = """
[clients.a]
fhir_base_url = "https://ehr.example.org/fhir"
client_id = "id"
key = "file:client.pem"
"""
GENERAL = """
[policy]
custody = "out-of-process"
algorithms = ["ES384", "RS384"]
min_rsa_bits = 3072
max_key_age = 400
require_published = true
"""


def load(folder: Path, text: str) -> keystay.Config:
    path = folder / "keystay.toml"
    path.write_text(text)
    return keystay.load_config(path, environ={})


def test_tightened(tmp_path: Path) -> None:
    """What the client's table says holds for it; elsewhere the general rule does."""
    config = load(
        tmp_path,
        f'{CLIENT}\n[clients.a.policy]\ncustody = "hardware"\nalgorithms = ["ES384"]\n{GENERAL}',
    )
    own = config.policy_of(config.client("a"))

    assert ("hardware", ("ES384",), 3072, 400, True) == (
        own.custody, own.algorithms, own.min_rsa_bits, own.max_key_age, own.require_published,
    )  # fmt: skip
    assert "out-of-process" == config.policy.custody


def test_without_a_table_of_its_own(tmp_path: Path) -> None:
    """The general policy, whole."""
    config = load(tmp_path, CLIENT + GENERAL)

    assert config.policy == config.policy_of(config.client("a"))


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ('custody = "any"', "policy-loosened", "'out-of-process'"),
        ('algorithms = ["ES384", "PS384"]', "policy-loosened", "some of"),
        ("min_rsa_bits = 2048", "policy-loosened", "at least 3072"),
        ("max_key_age = 500", "policy-loosened", "at most 400"),
        ("require_published = false", "policy-loosened", "true"),
        ("algorithms = []", "config-value-invalid", "empty"),
        ('algorithms = ["ES385"]', "config-value-invalid", "ES385"),
        ("min_ec_bits = -1", "config-value-invalid", "it is -1; expected"),
        ('custody = "Hardware"', "config-value-invalid", "Hardware"),
        ("max_age = 3", "config-key-unknown", "max_age"),
    ],
)
def test_faults(tmp_path: Path, line: str, code: str, said: str) -> None:
    """A loosening, and a value that cannot be, is told with file, line and key."""
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, f"{CLIENT}\n[clients.a.policy]\n{line}\n{GENERAL}")

    error = caught.value
    assert code == error.code
    assert f"{tmp_path / 'keystay.toml'}:8: [clients.a.policy]" in error.message
    assert said in str(error)
    assert 2 == error.exit_code


def test_policy_is_a_table(tmp_path: Path) -> None:
    """Anything else is told."""
    with pytest.raises(ConfigurationError, match="not a table"):
        load(tmp_path, f'{CLIENT}policy = "hardware"\n')
