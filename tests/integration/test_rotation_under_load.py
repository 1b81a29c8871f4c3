"""A key is replaced while four threads ask for tokens: no request fails, no kid is unknown.

Nothing is simulated: the commands and the publisher are processes, the server fetches the set over
HTTP and keeps it as long as Cache-Control says, the keys are in a file, in SoftHSM and in AWS KMS.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import httpx
import pytest

import keystay
from tests.support.rotating import Commands, Load

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from keystay.testing import SmartTestServer
    from tests.support.aws_fixtures import KmsUri
    from tests.support.fixtures import StartOIDCProvider
    from tests.support.softhsm import SoftHSM

MakeUri = "Callable[[str], str]"


def write_config(folder: Path, fhir_base_url: str, clients: Iterable[tuple[str, str, str]]) -> None:
    """A keystay.toml with a client for each name, key URI and JWKS URL."""
    (folder / "keystay.toml").write_text(
        "".join(
            f'[clients.{name}]\nfhir_base_url = "{fhir_base_url}"\nclient_id = "{name}"\n'
            f'key = "{uri}"\nscope = "system/Patient.rs"\njwks_url = "{url}"\n'
            "allow_insecure_loopback = true\n"
            for name, uri, url in clients
        )
        + "[http]\ntimeout = 30\n"
    )


def configured(folder: Path, name: str) -> keystay.TokenClient:
    """The client as a program of the user's opens it."""
    config = keystay.load_config(folder / "keystay.toml")
    return keystay.TokenClient.from_config(name, config=config)


def kids(url: str) -> list[str]:
    """What is published now."""
    return [key["kid"] for key in httpx.get(url).json()["keys"]]


def when(phase: str, run: Commands, command: str, name: str, *options: str) -> None:
    """Take a step as soon as that is allowed."""
    until = time.monotonic() + 90
    while (status := run.json("rotate", "status", name))["phase"] != phase:
        assert time.monotonic() < until, status
        time.sleep(0.2)
    run("rotate", command, name, *options)


class TestStrictServer:
    """keystay's strict server, which fetches the set from the publisher."""

    @pytest.fixture(params=["file", pytest.param("softhsm", marks=pytest.mark.long)])
    def key(self, request: pytest.FixtureRequest, tmp_path: Path) -> str:
        """A key URI, of a key that is not there yet."""
        if request.param == "file":
            return "file:client.pem"
        softhsm: SoftHSM = request.getfixturevalue("softhsm")
        return softhsm.key_uri(f"load-{tmp_path.name}")

    def test_nothing_fails(
        self, smart_server: SmartTestServer, no_environment: None, tmp_path: Path, key: str
    ) -> None:
        """Start, promote, finish: every assertion is accepted, and the old key is gone."""
        run = Commands(tmp_path)
        write_config(tmp_path, smart_server.fhir_base_url, [("etl", key, "http://127.0.0.1:9/")])
        run("key", "generate", key)
        with run.serve("--max-age", "1") as publisher:
            write_config(tmp_path, smart_server.fhir_base_url, [("etl", key, publisher.url)])
            smart_server.register("etl", jwks_uri=publisher.url)
            with configured(tmp_path, "etl") as client, Load(client) as load:
                load.go_on(2)
                (old,) = kids(publisher.url)
                run("rotate", "start")
                load.go_on(2)
                when("promotable", run, "promote", "etl", "--drain", "1")
                load.go_on(2)
                _, new_at = kids(publisher.url)[::-1], len(smart_server.log.of("token"))
                when("finishable", run, "finish", "etl")
                load.go_on(2)
                left = kids(publisher.url)
        assert [] == load.errors
        assert [] == [event.sentence for event in smart_server.log.refusals]
        assert 1 == len(left)
        assert old not in left
        used = [event.header["kid"] for event in smart_server.log.of("token") if event.header]
        assert {old, left[0]} == set(used)
        # Once the new key signs, the old one ends what it began, at most one request a thread.
        assert used[used.index(left[0]) :].count(old) <= 4
        assert old not in used[new_at:]


@pytest.mark.long
class TestOIDCProvider:
    """npm's oidc-provider, which keeps a set for a minute whatever Cache-Control says."""

    @pytest.mark.timeout(240)
    def test_three_backends(
        self,
        oidc_provider: StartOIDCProvider,
        softhsm: SoftHSM,
        kms_uri: KmsUri,
        alias: str,
        no_environment: None,
        tmp_path: Path,
    ) -> None:
        """A file, SoftHSM and AWS KMS at once: no failure, no unknown kid, the old keys gone."""
        uris = {
            "in-file": "file:client.pem",
            "in-hsm": softhsm.key_uri(f"provider-{tmp_path.name}"),
            "in-kms": kms_uri(alias),
        }
        run = Commands(tmp_path)
        write_config(
            tmp_path, "http://127.0.0.1:9", [(n, u, "http://127.0.0.1:9") for n, u in uris.items()]
        )
        for uri in uris.values():
            run("key", "generate", uri)
        with contextlib.ExitStack() as stack:
            urls = {n: stack.enter_context(run.serve(n, "--max-age", "60")).url for n in uris}
            provider = oidc_provider(
                [{"client_id": name, "jwks_uri": url} for name, url in urls.items()],
                report_assertions=True,
            )
            write_config(
                tmp_path, provider.fhir_base_url, [(n, u, urls[n]) for n, u in uris.items()]
            )
            clients = {n: stack.enter_context(configured(tmp_path, n)) for n in uris}
            loads = {n: stack.enter_context(Load(c)) for n, c in clients.items()}
            for load in loads.values():
                load.go_on(2)
            old = {n: kids(url)[0] for n, url in urls.items()}
            for name in uris:
                run("rotate", "start", name)
                assert "rotation-too-early" == run.error("rotate", "promote", name)["code"]
            new = {n: kids(url)[1] for n, url in urls.items()}
            for name in uris:
                when("promotable", run, "promote", name, "--drain", "5")
            for load in loads.values():
                load.go_on(2)
            for name in uris:
                when("finishable", run, "finish", name)
            finished = time.time()
            # Past another minute would the server notice that a key it still used is gone.
            for load in loads.values():
                load.go_on(4)
            left = {n: kids(url) for n, url in urls.items()}
        for load in loads.values():
            assert [] == load.errors
        assert {n: [kid] for n, kid in new.items()} == left
        events = provider.events()
        assert [] == [event for event in events if event["event"] != "assertion"]
        for name in uris:
            used = [event for event in events if event["client_id"] == name]
            assert {old[name], new[name]} == {event["kid"] for event in used}
            first = next(event["at"] for event in used if event["kid"] == new[name])
            late = [e for e in used if e["kid"] == old[name] and e["at"] > first]
            assert len(late) <= 4
            assert not [e for e in late if e["at"] > finished]
            assert loads[name].requests <= len(used)
