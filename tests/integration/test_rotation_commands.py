"""`keystay rotate` and `keystay jwks` as a person or a job runs them, against a real publisher."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.rotating import KEYSTAY, Commands, CommandsHere

if TYPE_CHECKING:
    from keystay.testing import SmartTestServer


@pytest.fixture
def run(
    tmp_path: Path, smart_server: SmartTestServer, no_environment: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Commands:  # fmt: skip
    """The commands, with a client of the strict server and a key in a file."""
    (tmp_path / "keystay.toml").write_text(
        f'[clients.etl]\nfhir_base_url = "{smart_server.fhir_base_url}"\nclient_id = "etl"\n'
        'key = "file:client.pem"\nallow_insecure_loopback = true\n'
        f'jwks_url = "{smart_server.origin}/jwks.json"\n'
    )
    monkeypatch.chdir(tmp_path)
    found = CommandsHere(tmp_path)
    found("key", "generate", "file:client.pem")
    return found


@pytest.fixture
def publish(run: Commands, smart_server: SmartTestServer) -> Any:
    """A function that publishes the set as it is, or another, with this Cache-Control."""

    def put(cache: str = "max-age=0", document: Any = None) -> str:
        keys = json.loads(run("jwks").stdout) if document is None else document
        return smart_server.publish("/jwks.json", keys, headers={"Cache-Control": cache})

    return put


def edit(run: Commands, old: str, new: str) -> None:
    """Change keystay.toml."""
    path = run.folder / "keystay.toml"
    path.write_text(path.read_text().replace(old, new))


def jwks_url(run: Commands) -> str:
    """The client's JWKS URL."""
    found = re.search(r'jwks_url = "(.*)"', (run.folder / "keystay.toml").read_text())
    assert found
    return found[1]


class TestPromote:
    """Not before the successor is visible, and not before the cache time."""

    def test_not_visible(self, run: Commands, publish: Any) -> None:
        """The old set is still there: refused, nothing changes."""
        publish()
        run("rotate", "start")
        assert "rotation-not-published" == run.error("rotate", "promote")["code"]
        status = run.json("rotate", "status")
        assert ("publishing", None, ["current", "next"]) == (
            status["phase"], status["seconds_left"], [key["state"] for key in status["keys"]],
        )  # fmt: skip

    def test_nothing_answers(self, run: Commands) -> None:
        """Nothing at the URL: exit code 4, as for every network fault."""
        run("rotate", "start")
        assert "jwks-unavailable" == run.error("rotate", "promote", exits=4)["code"]
        assert "publishing" == run.json("rotate", "status")["phase"]

    def test_cache_time(self, run: Commands, publish: Any) -> None:
        """With the time left, in words for people and in seconds for machines."""
        publish("public, max-age=7200")
        run("rotate", "start")
        publish("max-age=60")
        error = run.error("rotate", "promote")
        assert "rotation-too-early" == error["code"]
        assert "for another 1 h 59 min" in error["message"] or "2 h" in error["message"]
        status = run.json("rotate", "status")
        assert "caching" == status["phase"]
        assert 7100 < status["seconds_left"] <= 7201
        assert (7200, True) == (
            status["successor"]["cache_seconds"],
            "Cache-Control" in status["successor"]["cache_from"],
        )

    @pytest.mark.parametrize(("vendor", "seconds"), [("epic", 29 * 3600), ("other", 24 * 3600)])
    def test_without_cache_control(
        self, run: Commands, publish: Any, vendor: str, seconds: int
    ) -> None:
        """What the vendor's servers do."""
        edit(run, "client_id", f'vendor = "{vendor}"\nclient_id')
        publish("public")
        run("rotate", "start")
        publish("public")
        left = run.json("rotate", "status")["seconds_left"]
        assert seconds - 60 < left <= seconds + 1
        assert "rotation-too-early" == run.error("rotate", "promote")["code"]

    def test_forced(self, run: Commands, publish: Any) -> None:
        """Looks at nothing, and says what that risks."""
        run("rotate", "start")
        done = run("rotate", "promote", "--force")
        assert "refuses its assertions" in done.stderr
        assert "draining" == run.json("rotate", "status")["phase"]

    def test_no_url(self, run: Commands) -> None:
        """Where to look is not known."""
        edit(run, "jwks_url", "# jwks_url")
        run("rotate", "start")
        assert "rotation-url-missing" == run.error("rotate", "promote", exits=2)["code"]

    def test_key_is_gone(self, run: Commands, publish: Any) -> None:
        """A successor that does not sign is found before it has to."""
        run("rotate", "start", "--key", "file:new.pem")
        publish()
        (run.folder / "new.pem").unlink()
        assert "key-not-found" == run.error("rotate", "promote")["code"]
        assert "promotable" == run.json("rotate", "status")["phase"]

    def test_key_was_replaced(self, run: Commands, publish: Any) -> None:
        """Nor does one sign that is not the one that was published."""
        run("rotate", "start", "--key", "file:new.pem")
        publish()
        (run.folder / "new.pem").unlink()
        run("key", "generate", "file:new.pem")
        assert "rotation-key-changed" == run.error("rotate", "promote")["code"]


class TestWhole:
    """From the first command to the last."""

    def test_by_hand(self, run: Commands, publish: Any, smart_server: SmartTestServer) -> None:
        """A static file as the set; each command twice; tokens at every step."""
        url = publish()
        smart_server.register("etl", jwks_uri=url, jwks_max_age=0)
        plan = run.json("rotate", "plan")
        assert ("file:client.pem", 300) == (plan["current"], plan["drain_seconds"])
        assert not (run.folder / plan["next"].removeprefix("file:")).exists()
        for _ in range(2):
            started = run.json("rotate", "start")
            publish()
            run("token")
        assert plan["next"] == started["keys"][1]["uri"]
        assert {"client.pem", plan["next"].removeprefix("file:")} == {
            path.name for path in run.folder.glob("*.pem")
        }
        for _ in range(2):
            promoted = run.json("rotate", "promote", "--drain", "0")
            run("token")
        assert "finishable" == promoted["phase"]
        for _ in range(2):
            finished = run.json("rotate", "finish")
            publish()
            run("token")
        assert ["current", "retired"] == [key["state"] for key in finished["keys"]]
        header = smart_server.log.of("token")[-1].header
        assert header is not None
        assert started["keys"][1]["kid"] == header["kid"]
        assert [started["keys"][1]["kid"]] == [
            k["kid"] for k in json.loads(run("jwks").stdout)["keys"]
        ]
        assert (
            started["keys"][1]["kid"]
            == json.loads(run("assertion", "--decode").stdout)["header"]["kid"]
        )
        assert not smart_server.log.refusals

    def test_again_with_the_key_edited(self, run: Commands) -> None:
        """After a rotation keystay.toml may name the new key; the next rotation goes on from it."""
        for number, last in ((1, "client"), (2, "k1"), (3, "k2")):
            run("rotate", "start", "--key", f"file:k{number}.pem")
            run("rotate", "promote", "--force", "--drain", "0")
            run("rotate", "finish")
            edit(run, f'"file:{last}.pem"', f'"file:k{number}.pem"')
        assert "file:k3.pem" == run.json("rotate", "status")["keys"][0]["uri"]

    def test_away_from_a_key_that_is_too_old(self, run: Commands, publish: Any) -> None:
        """Policy refuses the old key, not to rotate away from it; the new one's age is known."""
        published = json.loads(run("jwks").stdout)
        edit(run, "client_id", "key_created = 2020-01-31\nclient_id")
        with (run.folder / "keystay.toml").open("a") as file:
            file.write("[policy]\nmax_key_age = 365\n")
        assert "policy-max-key-age" == run.error("token")["code"]
        publish(document=published)
        assert "ok" == run.json("jwks", "check", jwks_url(run))["keys"][0]["verdict"]
        started = run.json("rotate", "start")
        assert [None, True] == [key["created"] and True for key in started["keys"]]
        run("rotate", "promote", "--force", "--drain", "0")
        run("assertion")
        verdict = run.json("policy", "check")
        assert verdict["satisfied"], verdict
        assert "it was made 0 days ago" == verdict["rules"][0]["found"]
        # One that was there already is of unknown age, and refused as such.
        run("rotate", "finish")
        run("key", "generate", "file:found.pem")
        error = run.error("rotate", "start", "--key", "file:found.pem")
        assert "max_key_age" in error["message"]

    def test_algorithm_that_the_policy_allows(self, run: Commands, publish: Any) -> None:
        """Where none is configured, the policy decides before, during and after a rotation."""
        run("key", "generate", "file:rsa.pem", "--type", "RSA-2048")
        edit(run, "client.pem", "rsa.pem")
        with (run.folder / "keystay.toml").open("a") as file:
            file.write('[policy]\nalgorithms = ["PS384"]\n')
        assert run.json("policy", "check")["satisfied"]
        started = run.json("rotate", "start")
        assert ["PS384", "PS384"] == [key["algorithm"] for key in started["keys"]]
        publish()
        run("jwks", "check", jwks_url(run))
        run("rotate", "promote", "--force", "--drain", "0")
        header = json.loads(run("assertion", "--decode").stdout)["header"]
        assert ("PS384", started["keys"][1]["kid"]) == (header["alg"], header["kid"])

    def test_refused_algorithm(self, run: Commands) -> None:
        """Start may be repeated with what helps; a successor that stands is not changed."""
        with (run.folder / "keystay.toml").open("a") as file:
            file.write('[policy]\nalgorithms = ["ES384", "PS384"]\n')
        start = ("rotate", "start", "--key", "file:rsa.pem", "--type", "RSA-2048")
        assert "policy-algorithms" == run.error(*start, "--algorithm", "RS384")["code"]
        made = run.json(*start, "--algorithm", "PS384")["keys"][1]
        assert made == run.json(*start)["keys"][1]
        for other in (["--algorithm", "RS384"], ["--kid", "other"]):
            assert "rotation-under-way" == run.error(*start, *other)["code"]

    def test_taken_key_of_another_type(self, run: Commands) -> None:
        """A key that is there is taken; its algorithm goes by its type."""
        run("key", "generate", "file:rsa.pem", "--type", "RSA-2048")
        run("rotate", "start", "--key", "file:rsa.pem", "--kid", "rsa-1")
        keys = json.loads(run("jwks").stdout)["keys"]
        assert [("ES384", "EC"), ("RS384", "RSA")] == [(k["alg"], k["kty"]) for k in keys]
        assert "rsa-1" == keys[1]["kid"]

    def test_made_of_another_type(self, run: Commands) -> None:
        """What --type says is made."""
        run("rotate", "start", "--type", "P-256")
        assert "ES256" == json.loads(run("jwks").stdout)["keys"][1]["alg"]


class TestRefused:
    """What cannot be, told with a code."""

    @pytest.mark.parametrize("command", ["promote", "finish", "abort"])
    def test_never_begun(self, run: Commands, command: str) -> None:
        """Nothing to go on with, and nothing is written."""
        assert "rotation-not-started" == run.error("rotate", command)["code"]
        assert not list((run.folder / "keystay-keys").glob("*.json"))

    def test_the_same_key(self, run: Commands) -> None:
        """The current key is no successor of its own; nothing is kept of the attempt."""
        (run.folder / "copy.pem").write_bytes((run.folder / "client.pem").read_bytes())
        (run.folder / "copy.pem").chmod(0o600)
        for uri in ("file:client.pem", "file:copy.pem"):
            assert "rotation-same-key" == run.error("rotate", "start", "--key", uri)["code"]
        assert not list((run.folder / "keystay-keys").glob("*.json"))

    def test_the_same_kid(self, run: Commands) -> None:
        """Nor are two keys of one name published."""
        edit(run, "client_id", 'kid = "k"\nclient_id')
        assert "jwk-kid-duplicate" == run.error("rotate", "start", "--kid", "k")["code"]

    def test_two_at_once(self, run: Commands) -> None:
        """Another successor than the one that is there."""
        run("rotate", "start", "--key", "file:a.pem")
        assert "rotation-under-way" == run.error("rotate", "start", "--key", "file:b.pem")["code"]
        assert not (run.folder / "b.pem").exists()
        assert "rotation-not-promoted" == run.error("rotate", "finish", "--force")["code"]

    def test_key_edited(self, run: Commands) -> None:
        """keystay.toml names a third key while the state knows two."""
        run("rotate", "start")
        run("key", "generate", "file:third.pem")
        edit(run, "client.pem", "third.pem")
        for command in (["token"], ["jwks"], ["rotate", "status"], ["jwks", "serve"]):
            error = run.error(*command, exits=2) if command[0] == "rotate" else None
            done = run(*command, exits=2)
            assert "rotation-key-edited" in done.stderr
            assert error is None or "file:client.pem" in error["hint"]

    def test_environment(self, run: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
        """A client that the environment alone describes has no name for a state; but a set."""
        described = {
            "KEYSTAY_FHIR_BASE_URL": "https://ehr.example.org", "KEYSTAY_CLIENT_ID": "x",
            "KEYSTAY_KEY": "file:client.pem",
        }  # fmt: skip
        run.env |= described
        (run.folder / "keystay.toml").write_text("")
        for name, value in described.items():
            monkeypatch.setenv(name, value)
        for command in ("plan", "start", "status", "promote"):
            assert "rotation-needs-file" == run.error("rotate", command, exits=2)["code"]
        assert 1 == len(json.loads(run("jwks").stdout)["keys"])
        with run.serve() as publisher:
            assert 1 == len(httpx.get(publisher.url).json()["keys"])
        assert not (run.folder / "keystay-keys").exists()

    def test_wrong_type(self, run: Commands) -> None:
        """A type that its store does not make leaves no intent behind."""
        edit(run, "file:client.pem", "file:client.pem?passphrase-source=file:missing")
        run.error("rotate", "start", exits=2)
        assert not list((run.folder / "keystay-keys").glob("*.json"))

    def test_folder_is_read_only(self, run: Commands, tmp_path: Path) -> None:
        """The state cannot be written: said before a key is made."""
        (run.folder / "keystay-keys").write_text("a file where the folder is due")
        assert "rotation-state-unwritable" == run.error("rotate", "start", exits=2)["code"]
        assert ["client.pem"] == [path.name for path in run.folder.glob("*.pem")]


class TestAbort:
    """Giving up, before the promotion and after."""

    def test_before(self, run: Commands) -> None:
        """One key again; another rotation may begin, with the very same key too."""
        run("rotate", "start", "--key", "file:new.pem")
        for _ in range(2):
            assert "none" == run.json("rotate", "abort")["phase"]
        assert 1 == len(json.loads(run("jwks").stdout)["keys"])
        run("rotate", "start", "--key", "file:new.pem")

    def test_after(self, run: Commands) -> None:
        """The old key signs again while the successor drains."""
        run("rotate", "start")
        run("rotate", "promote", "--force", "--drain", "0")
        for _ in range(2):
            aborted = run.json("rotate", "abort")
        assert [("current", "file:client.pem"), ("retiring", True)] == [
            (aborted["keys"][0]["state"], aborted["keys"][0]["uri"]),
            (aborted["keys"][1]["state"], aborted["keys"][1]["aborted"]),
        ]
        assert "none" == run.json("rotate", "finish")["phase"]


class TestJwks:
    """`keystay jwks`, with a file, and with a URL to compare."""

    def test_out(self, run: Commands) -> None:
        """The file is what is printed, readable by the web server, whole."""
        run("jwks", "--out", "jwks.json")
        path = run.folder / "jwks.json"
        assert (run("jwks", "etl").stdout, 0o644) == (path.read_text(), path.stat().st_mode & 0o777)
        assert "output-unwritable" in run("jwks", "--out", "no/such.json", exits=2).stderr
        run("jwks", "print", "etl", "--out", "jwks.json")

    def test_check(self, run: Commands, publish: Any) -> None:
        """Each way in which what is published can be wrong has its verdict and exit code 3."""
        url = publish()
        run("jwks", "check", url)
        run("rotate", "start")
        assert "jwks-mismatch" == run.error("jwks", "check", url)["code"]
        publish()
        run("jwks", "check", url)
        run("rotate", "promote", "--drain", "0")
        run("rotate", "finish")
        findings = run.json("jwks", "check", url, exits=3)["keys"]
        assert ["ok", "retired"] == [finding["verdict"] for finding in findings]
        keys = json.loads(run("jwks").stdout)["keys"]
        publish(document={"keys": [*keys, {**keys[0], "kid": "a neighbour's"}]})
        findings = run.json("jwks", "check", url)["keys"]
        assert ["ok", "unknown"] == [finding["verdict"] for finding in findings]
        other = {**keys[0], "x": keys[0]["y"], "y": keys[0]["x"]}
        publish(document={"keys": [other]})
        findings = run.json("jwks", "check", url, exits=3)["keys"]
        assert ["differs"] == [finding["verdict"] for finding in findings]

    def test_check_without_network(self, run: Commands) -> None:
        """Exit code 4."""
        run.error("jwks", "check", "http://127.0.0.1:9/jwks.json", exits=4)

    def test_several_clients(self, run: Commands) -> None:
        """Clients that share a URL, and a key, are one set."""
        path = run.folder / "keystay.toml"
        text = path.read_text()
        path.write_text(
            text + text.replace("clients.etl", "clients.two")
            + text.replace("clients.etl", "clients.three").replace("client.pem", "three.pem")
        )  # fmt: skip
        run("key", "generate", "file:three.pem")
        with run.serve("etl", "two", "three") as publisher:
            assert 2 == len(httpx.get(publisher.url).json()["keys"])
            run("rotate", "start", "etl", "--key", "file:new.pem")
            run("rotate", "start", "two", "--key", "file:new.pem")
            assert 3 == len(httpx.get(publisher.url).json()["keys"])

    def test_serve_address_in_use(self, run: Commands) -> None:
        """Said with a remedy."""
        with run.serve() as publisher:
            port = publisher.url.split(":")[2].split("/")[0]
            assert "address-unusable" in run("jwks", "serve", "--port", port, exits=2).stderr
        assert "address-unusable" in run("jwks", "serve", "--host", "..", exits=2).stderr

    def test_serve_http(self, run: Commands) -> None:
        """The same answers as the applications, over a socket; a body is not read."""
        with run.serve("--path", "/keys", "--max-age", "60") as publisher, httpx.Client() as http:
            get = http.get(publisher.url)
            assert (200, "public, max-age=60") == (get.status_code, get.headers["cache-control"])
            again = http.get(publisher.url, headers={"If-None-Match": get.headers["etag"]})
            assert (304, b"") == (again.status_code, again.content)
            assert b"" == http.head(publisher.url).content
            assert 405 == http.post(publisher.url, content=b"x" * 100).status_code
            assert 404 == http.get(publisher.url + "/other").status_code

    def test_broken_state_changes_nothing(self, run: Commands) -> None:
        """A publisher that runs goes on with what it knows."""
        run("rotate", "start")
        with run.serve() as publisher:
            before = httpx.get(publisher.url).content
            state = run.folder / "keystay-keys" / "etl.json"
            whole = state.read_text()
            state.write_text("{")
            assert before == httpx.get(publisher.url).content
            state.write_text(whole)
            run("rotate", "abort")
            assert before != httpx.get(publisher.url).content


def test_two_start_at_once(run: Commands) -> None:
    """Two processes make one successor: the second finds what the first has made."""
    command = [KEYSTAY, "rotate", "start"]
    both = [
        subprocess.Popen(
            command, cwd=run.folder, env=run.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        for _ in range(2)
    ]
    outputs = {process.communicate(timeout=60)[0] for process in both}
    assert [0, 0] == [process.returncode for process in both]
    assert 1 == len(outputs)
    assert 2 == len(list(run.folder.glob("*.pem")))
