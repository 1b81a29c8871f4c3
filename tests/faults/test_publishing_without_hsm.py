"""An HSM that is down: its keys stay published, also by a publisher that starts meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.p11kit import P11KitServer
from tests.support.rotating import Commands

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.softhsm import SoftHSM


@pytest.fixture
def hsm(softhsm: SoftHSM) -> Iterator[P11KitServer]:
    """A token in another process, which can be stopped."""
    with P11KitServer(softhsm) as server:
        yield server


@pytest.fixture
def run(hsm: P11KitServer, tmp_path: Path, no_environment: None) -> Commands:
    """The commands, with a client whose key is in the token; and a name for others."""
    found = Commands(tmp_path, hsm.env)
    key = hsm.key_uri(f"hsm-{tmp_path.name}")
    (tmp_path / "keystay.toml").write_text(
        '[clients.etl]\nfhir_base_url = "https://ehr.example.org"\nclient_id = "etl"\n'
        f'key = "{key}"\nallow_insecure_loopback = true\n'
    )
    found("key", "generate", key)
    return found


@pytest.mark.parametrize("rotating", [False, True], ids=["one-key", "rotating"])
def test_outage(run: Commands, hsm: P11KitServer, rotating: bool) -> None:
    """The same set before the outage, during it, and from a publisher started in it."""
    if rotating:
        run("rotate", "start")
    with run.serve() as publisher:
        before = httpx.get(publisher.url)
        checked = run.json("jwks", "check", publisher.url)
        assert {"ok"} == {key["verdict"] for key in checked["keys"]}
        hsm.stop()
        assert before.content == httpx.get(publisher.url).content
    with run.serve() as publisher:
        during = httpx.get(publisher.url)
        assert (200, before.content) == (during.status_code, during.content)
        assert before.headers["etag"] == during.headers["etag"]
        checked = run.json("jwks", "check", publisher.url, exits=3)
        assert [(key["kid"], "unconfirmed") for key in before.json()["keys"]] == [
            (key["kid"], key["verdict"]) for key in checked["keys"]
        ]
        error = run.error("jwks", "check", publisher.url)
        assert "jwks-unconfirmed" == error["code"]
        assert all(key["kid"] in error["message"] for key in before.json()["keys"])
        hsm.start()
        run("jwks", "check", publisher.url)


def test_nothing_kept(run: Commands, hsm: P11KitServer) -> None:
    """A publisher that never saw the key says so and does not begin."""
    hsm.stop()
    done = run("jwks", "serve", "--port", "0", exits=3)
    assert "" == done.stdout
    assert "remedy:" in done.stderr


def test_kept_for_another_key(run: Commands, hsm: P11KitServer) -> None:
    """What was kept is not taken for a key that is configured since."""
    with run.serve():
        pass
    hsm.stop()
    path = run.folder / "keystay.toml"
    path.write_text(path.read_text().replace("object=hsm-", "object=other-"))
    run("jwks", "serve", "--port", "0", exits=3)
