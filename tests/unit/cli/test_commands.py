"""Every command, run in this process: what is on stdout, what on stderr, and the exit code."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import click
import jwt
import pytest

from keystay.cli.app import run
from keystay.testing import Reply, SmartTestServer
from tests.support.secrets_watch import WATCH
from tests.support.token_clients import CLIENT_ID, SCOPE, TOKEN, grant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from keystay.signer import Signer


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> dict[str, Any]:
        """The error as --json writes it."""
        found: dict[str, Any] = json.loads(self.err.strip().splitlines()[-1])["error"]
        return found


@pytest.fixture
def command(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    no_environment: None,
) -> Callable[..., Ran]:  # fmt: skip
    """A function that runs `keystay` in an empty folder; secrets may be on stdout only if told."""
    monkeypatch.chdir(tmp_path)

    def keystay_(*arguments: str, allowed: Iterable[str] = ()) -> Ran:
        capfd.readouterr()
        code = run(arguments)
        sys.stdout.flush()
        out, err = capfd.readouterr()
        WATCH.check(out, "stdout", allowed=allowed)
        WATCH.check(err, "stderr")
        if "--debug" not in arguments:
            assert "Traceback" not in err
        return Ran(code, out, err)

    return keystay_


@pytest.fixture
def configured(
    registered: SmartTestServer, pem_file: Path, tmp_path: Path
) -> Callable[[str], None]:
    """A function that writes keystay.toml with one client of the strict server, and more."""

    def write(more: str = "") -> None:
        (tmp_path / "keystay.toml").write_text(
            f'[clients.prod]\nfhir_base_url = "{registered.fhir_base_url}"\n'
            f'client_id = "{CLIENT_ID}"\nkey = "file:{pem_file}"\nscope = "{SCOPE}"\n'
            f"allow_insecure_loopback = true\nretries = 0\n{more}"
        )

    write()
    return write


@pytest.fixture
def described(
    registered: SmartTestServer,
    pem_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_environment: None,
) -> None:
    """The same client in the environment."""
    for name, value in {
        "KEYSTAY_FHIR_BASE_URL": registered.fhir_base_url,
        "KEYSTAY_CLIENT_ID": CLIENT_ID,
        "KEYSTAY_KEY": f"file:{pem_file}",
        "KEYSTAY_SCOPE": SCOPE,
        "KEYSTAY_ALLOW_INSECURE_LOOPBACK": "1",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("configured")
class TestToken:
    """`keystay token`."""

    @pytest.mark.parametrize("name", [["prod"], []], ids=["named", "the-only-one"])
    def test_alone_on_stdout(
        self, command: Callable[..., Ran], registered: SmartTestServer, name: list[str]
    ) -> None:
        """The token and a newline, so that $(keystay token) is the token."""
        registered.script(registered.token_endpoint, [grant()])
        ran = command("token", *name, allowed=[TOKEN])
        assert (0, f"{TOKEN}\n") == (ran.code, ran.out)

    def test_json(self, command: Callable[..., Ran], registered: SmartTestServer) -> None:
        """All about it, for a machine."""
        registered.script(registered.token_endpoint, [grant()])
        ran = command("token", "prod", "--json", allowed=[TOKEN])
        document = json.loads(ran.out)
        assert (0, TOKEN, "Bearer", SCOPE) == (
            ran.code,
            document["access_token"],
            document["token_type"],
            document["scope"],
        )
        assert 298 <= document["expires_in"] <= 300

    def test_scope_is_sent(self, command: Callable[..., Ran], registered: SmartTestServer) -> None:
        """What --scope says is what the server is asked for."""
        seen: list[bytes] = []
        handle = registered.authorization_server.handle

        def remember(request: Any) -> Reply:
            seen.append(request.body)
            handle(request)
            return grant(scope="system/Observation.rs")

        setattr(registered.authorization_server, "handle", remember)  # noqa: B010
        ran = command("token", "--scope", "system/Observation.rs", allowed=[TOKEN])
        assert (0, f"{TOKEN}\n") == (ran.code, ran.out)
        assert b"scope=system%2FObservation.rs" in seen[0]

    def test_narrower_scope_is_told_on_stderr(
        self, command: Callable[..., Ran], registered: SmartTestServer,
        caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        """What was not granted is a warning, not data."""
        registered.script(registered.token_endpoint, [grant(scope="system/Observation.rs")])
        with caplog.at_level(logging.WARNING, "keystay"):
            ran = command("token", allowed=[TOKEN])
        assert (0, f"{TOKEN}\n") == (ran.code, ran.out)
        assert any("granted scope" in message for message in caplog.messages)

    def test_hostile_scope(self, command: Callable[..., Ran], registered: SmartTestServer) -> None:
        """A scope that no terminal could print is JSON all the same."""
        body = grant().body.replace(SCOPE.encode(), b"\\ud800\\u009b")
        registered.script(registered.token_endpoint, [Reply(200, {}, body)])
        ran = command("token", "--json", allowed=[TOKEN])
        assert 0 == ran.code
        assert "\ud800\x9b" == json.loads(ran.out)["scope"]
        assert ran.out.isascii()


@pytest.mark.usefixtures("configured")
class TestAssertion:
    """`keystay assertion`."""

    def test_verifies(
        self, command: Callable[..., Ran], registered: SmartTestServer, pem_signer: Signer
    ) -> None:
        """Alone on stdout, and PyJWT verifies it."""
        ran = command("assertion", "prod")
        key: Any = pem_signer.public_key
        claims = jwt.decode(
            ran.out.strip(), key, algorithms=["ES384"], audience=registered.token_endpoint
        )
        assert (0, CLIENT_ID) == (ran.code, claims["iss"])

    def test_decode(
        self, command: Callable[..., Ran], registered: SmartTestServer, pem_signer: Signer
    ) -> None:
        """Header and claims, without what would make it a credential."""
        ran = command("assertion", "--decode")
        document = json.loads(ran.out)
        assert {"header", "claims"} == document.keys()
        assert {"alg": "ES384", "typ": "JWT", "kid": pem_signer.kid} == document["header"]
        assert registered.token_endpoint == document["claims"]["aud"]

    def test_audience(self, command: Callable[..., Ran], registered: SmartTestServer) -> None:
        """--audience saves the discovery."""
        ran = command("assertion", "--decode", "--audience", "https://as.example.org/token")
        assert "https://as.example.org/token" == json.loads(ran.out)["claims"]["aud"]
        assert 0 == len(registered.log)


def test_jwks(
    command: Callable[..., Ran], configured: Callable[[str], None], pem_signer: Signer
) -> None:
    """The public set, and nothing private."""
    ran = command("jwks", "prod")
    (key,) = json.loads(ran.out)["keys"]
    assert (0, pem_signer.kid, "EC", "P-384") == (ran.code, key["kid"], key["kty"], key["crv"])
    assert "d" not in key


@pytest.mark.usefixtures("described")
def test_environment_needs_no_name(
    command: Callable[..., Ran], registered: SmartTestServer
) -> None:
    """Each command that takes a client works without one when the environment describes it."""
    registered.script(registered.token_endpoint, [grant()])
    ran = command("token", allowed=[TOKEN])
    assert (0, f"{TOKEN}\n") == (ran.code, ran.out)
    assert 0 == command("jwks").code
    assert 0 == command("assertion", "--decode").code
    assert "123" == json.loads(command("get", "Patient/123").out)["id"]


@pytest.mark.usefixtures("configured")
class TestGet:
    """`keystay get`."""

    @pytest.mark.parametrize(
        "arguments", [["prod", "Patient/123"], ["Patient/123"], ["/Patient/123"]]
    )
    def test_body_on_stdout(self, command: Callable[..., Ran], arguments: list[str]) -> None:
        """The resource, with a newline."""
        ran = command("get", *arguments)
        assert (0, "123", True) == (ran.code, json.loads(ran.out)["id"], ran.out.endswith("\n"))

    @pytest.mark.parametrize(
        "query",
        ["identifier=http://hospital.example|42", "name=a/../b", "date=2026&x=//y", "n=J%20D"],
    )
    def test_queries_may_hold_urls(
        self, command: Callable[..., Ran], registered: SmartTestServer, query: str
    ) -> None:
        """A search by system is an everyday thing."""
        registered.script("/fhir/Patient", [Reply.json({"resourceType": "Bundle"})])
        ran = command("get", f"Patient?{query}")
        assert (0, "Bundle") == (ran.code, json.loads(ran.out)["resourceType"])

    def test_bytes_stay_bytes(
        self,
        registered: SmartTestServer,
        capfdbinary: pytest.CaptureFixture[bytes],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        no_environment: None,
    ) -> None:
        """A Binary resource is not mangled."""
        monkeypatch.chdir(tmp_path)
        body = bytes(range(256))
        registered.script("/fhir/Binary/1", [Reply(200, {"Content-Type": "image/png"}, body)])
        assert 0 == run(["get", "Binary/1", "--accept", "image/png"])
        assert body == capfdbinary.readouterr().out

    OUTCOME: ClassVar[dict[str, Any]] = {
        "resourceType": "OperationOutcome",
        "issue": [{"diagnostics": "no\n\x1b[2Jroom"}],
    }

    @pytest.mark.parametrize(
        ("reply", "said"),
        [
            pytest.param(Reply.json(OUTCOME, status=403), "scope does not cover", id="403"),
            pytest.param(Reply.json(OUTCOME, status=404), "no such resource", id="404"),
            pytest.param(
                Reply.json({"issue": [{"details": {"text": "gone"}}]}, status=410),
                "It says: gone",
                id="410",
            ),
            pytest.param(Reply.json({"issue": ["text"]}, status=400), "HTTP 400", id="issue-text"),
            pytest.param(Reply.json({"issue": 7}, status=400), "HTTP 400", id="issue-number"),
            pytest.param(Reply(500, {}, b"[" * 60_000), "HTTP 500", id="deep"),
            pytest.param(Reply.redirect("https://x.example"), "not followed", id="redirect"),
            pytest.param(Reply(502, {}, b"<html>"), "HTTP 502", id="html"),
        ],
    )
    def test_refused(
        self, command: Callable[..., Ran], registered: SmartTestServer, reply: Reply, said: str
    ) -> None:
        """Exit code 4, the body on stdout, the OperationOutcome's words on stderr."""
        registered.script("/fhir/Patient/9", [reply])
        ran = command("get", "Patient/9")
        assert 4 == ran.code
        assert said in ran.err
        assert "[fhir-error]" in ran.err
        assert "remedy:" in ran.err
        assert "\x1b" not in ran.err
        assert reply.body.decode().rstrip() == ran.out.rstrip()

    def test_revoked_token_is_renewed(
        self, command: Callable[..., Ran], registered: SmartTestServer
    ) -> None:
        """A 401 renews once here too, each connection within the deadline."""
        registered.script("/fhir/Patient/123", [Reply(401)])
        assert 0 == command("get", "Patient/123").code
        assert 2 == len(registered.log.of("token"))

    def test_refused_again(self, command: Callable[..., Ran], registered: SmartTestServer) -> None:
        """Once only; then the server does not want the token."""
        registered.script("/fhir/Patient/123", [Reply(401), Reply(401), Reply(500)])
        ran = command("get", "Patient/123")
        assert (4, True) == (ran.code, "does not accept the token" in ran.err)

    def test_endless_401(
        self,
        command: Callable[..., Ran],
        registered: SmartTestServer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The body of the first answer is bounded as the second's is."""
        monkeypatch.setattr("keystay.cli.get._MAX_BYTES", 10_000)
        registered.script("/fhir/Patient/123", [Reply(401, {}, b"x" * 20_000)])
        ran = command("get", "Patient/123")
        assert (4, True) == (ran.code, "longer than 10000 bytes" in ran.err)

    def test_token_that_does_not_come(
        self,
        command: Callable[..., Ran],
        configured: Callable[[str], None],
        registered: SmartTestServer,
    ) -> None:
        """A token endpoint that hangs is not taken for a FHIR server that does."""
        configured("[http]\ntimeout = 0.5\n")
        registered.script(registered.token_endpoint, [Reply(500, delay=1.5)])
        ran = command("get", "Patient/123")
        assert (4, True) == (ran.code, "The token request to" in ran.err)

    @pytest.mark.parametrize(
        "path",
        [
            "https://evil.example/x",
            "HTTPS://evil.example/x",
            "//evil.example/x",
            "%2f%2fevil.example/x",
            "../admin",
            "../../admin",
            "Patient/../../admin",
            "Patient/%2e%2e/%2E%2e/admin",
            "..%2fadmin",
            "..\\admin",
            "Patient/..",
            "Patient/1#x",
            "Patient/\x1b[2J",
            "Patient/1\r\nX: y",
        ],
    )
    def test_stays_within_the_base(
        self, command: Callable[..., Ran], registered: SmartTestServer, path: str
    ) -> None:
        """URLs, and paths that lead out of the base, are refused before anything is asked for."""
        ran = command("get", "prod", path)
        assert 2 == ran.code
        assert "[path-invalid]" in ran.err
        assert "remedy:" in ran.err
        assert 0 == len(registered.log)

    def test_usage(self, command: Callable[..., Ran]) -> None:
        """None or three arguments are usage errors."""
        assert 2 == command("get").code
        assert 2 == command("get", "a", "b", "c").code


class TestKey:
    """`keystay key`."""

    TYPES = ("P-256", "P-384", "P-521", "RSA-2048", "Ed25519")

    @pytest.mark.parametrize("kind", TYPES)
    def test_generate_list_show(
        self, command: Callable[..., Ran], tmp_path: Path, kind: str
    ) -> None:
        """A key is made, 0600, listed and shown; nothing private is printed."""
        uri = f"file:{tmp_path}/k.pem"
        ran = command("key", "generate", uri, "--type", kind)
        path = tmp_path / "k.pem"
        assert (0, 0o600) == (ran.code, path.stat().st_mode & 0o777)
        private = "".join(path.read_text().splitlines()[1:3])
        listed = command("key", "list", uri, "--json")
        (record,) = json.loads(listed.out)
        assert (kind, uri) == (record["key_type"], record["uri"])
        shown = command("key", "show", uri, "--json")
        document = json.loads(shown.out)
        assert (kind, "in-process") == (document["key_type"], document["custody"]["location"])
        text = command("key", "show", uri).out + command("key", "list", uri).out
        assert kind in text
        assert private[:40] not in ran.out + listed.out + shown.out + text
        assert "d" not in document["public_jwk"]

    def test_never_replaces(self, command: Callable[..., Ran], tmp_path: Path) -> None:
        """An existing key is left alone."""
        uri = f"file:{tmp_path}/k.pem"
        command("key", "generate", uri)
        before = (tmp_path / "k.pem").read_bytes()
        ran = command("key", "generate", uri)
        assert (3, True) == (ran.code, "[key-exists]" in ran.err)
        assert before == (tmp_path / "k.pem").read_bytes()

    def test_relative_to_the_working_directory(
        self, command: Callable[..., Ran], tmp_path: Path
    ) -> None:
        """On the command line a relative path starts where one is."""
        assert 0 == command("key", "generate", "file:here.pem").code
        assert (tmp_path / "here.pem").is_file()
        assert 0 == command("key", "show", "file:here.pem").code


class TestBackends:
    """`keystay backends`."""

    def test_lists_without_importing(self, command: Callable[..., Ran]) -> None:
        """Schemes, modules, distributions and versions, as metadata says."""
        ran = command("backends", "--json")
        entries = {entry["scheme"]: entry for entry in json.loads(ran.out)}
        assert "keystay-pem" == entries["file"]["distribution"]
        assert "keystay_pem" == entries["file"]["module"]
        text = command("backends").out
        assert "SCHEME" in text.splitlines()[0]
        assert "keystay-pem" in text

    def test_none(self, command: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
        """Without any, the remedy is on stderr and nothing on stdout."""
        monkeypatch.setattr("keystay.backends.registry.Registry.entries", lambda self: [])
        ran = command("backends")
        assert (0, "") == (ran.code, ran.out)
        assert "pip install" in ran.err


class TestErrors:
    """How errors come out."""

    EXITS: ClassVar[dict[str, tuple[list[str], int, str]]] = {
        "2-unknown-client": (["token", "nobody"], 2, "client-unknown"),
        "3-no-key": (["key", "show", "file:none.pem"], 3, "key-not-found"),
        "3-no-backend": (["key", "show", "nosuch:key"], 3, "backend-missing"),
    }

    @pytest.mark.parametrize(("arguments", "code", "name"), EXITS.values(), ids=EXITS)
    def test_exit_codes(
        self, command: Callable[..., Ran], arguments: list[str], code: int, name: str
    ) -> None:
        """Code, message and remedy on stderr; nothing on stdout; the same with --json."""
        ran = command(*arguments)
        assert (code, "", True) == (ran.code, ran.out, f"[{name}]" in ran.err)
        ran = command(*arguments, "--json")
        assert (code, "", name) == (ran.code, ran.out, ran.error["code"])

    @pytest.mark.parametrize(
        ("reply", "code", "name"),
        [
            pytest.param(Reply.json({"error": "invalid_client"}, status=400), 5, "token-refused"),
            pytest.param(Reply(503), 4, "token-server-error"),
            pytest.param(Reply(200, {}, b"<html>"), 4, "token-response-invalid"),
            pytest.param(Reply(disconnect=True), 4, "network-failed"),
            pytest.param(Reply.redirect("/x"), 4, "token-redirect"),
            pytest.param(Reply(429), 5, "token-rate-limited"),
        ],
        ids=["refused", "503", "html", "hang-up", "redirect", "429"],
    )
    @pytest.mark.usefixtures("configured")
    def test_servers(
        self, command: Callable[..., Ran], registered: SmartTestServer,
        reply: Reply, code: int, name: str,
    ) -> None:  # fmt: skip
        """4 for the network, 5 for a refusal."""
        registered.script(registered.token_endpoint, [reply, reply])
        ran = command("token")
        assert (code, "", True) == (ran.code, ran.out, f"[{name}]" in ran.err)
        assert "remedy:" in ran.err
        ran = command("token", "--json", "--debug")
        assert (code, name) == (ran.code, ran.error["code"])
        assert "Traceback" in ran.err

    @pytest.mark.usefixtures("configured")
    def test_server_down(self, command: Callable[..., Ran], registered: SmartTestServer) -> None:
        """A server that is not there."""
        registered.close()
        ran = command("token")
        assert (4, True) == (ran.code, "[network-refused]" in ran.err)

    def test_usage_as_json(self, command: Callable[..., Ran]) -> None:
        """With --json a usage error is JSON too."""
        ran = command("token", "--no-such-option", "--json")
        assert (2, "usage") == (ran.code, ran.error["code"])
        assert "--no-such-option" in ran.error["message"]

    @pytest.mark.parametrize("arguments", [["tokn"], ["key"], [], ["token", "a", "b"]], ids=str)
    def test_usage(self, command: Callable[..., Ran], arguments: list[str]) -> None:
        """Usage errors are on stderr, with exit code 2."""
        ran = command(*arguments)
        assert (2, "") == (ran.code, ran.out)
        assert "Usage: keystay" in ran.err

    def test_bug(self, command: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
        """A bug of ours shows its type, not its text, and no traceback without --debug."""
        secret = WATCH.add("a secret in a foreign error", "foreign-secret-4711")

        def fail(*arguments: object, **settings: object) -> None:
            raise RuntimeError(f"cannot parse {secret}")

        monkeypatch.setattr("keystay.config.load_config", fail)
        ran = command("jwks")
        assert (70, True) == (ran.code, "[internal-error]" in ran.err)
        assert "RuntimeError" in ran.err

    def test_interrupted(
        self, command: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ctrl-C is 130, without a traceback."""

        def interrupt(*arguments: object, **settings: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("keystay.config.load_config", interrupt)
        ran = command("jwks")
        assert (130, "") == (ran.code, ran.out)
        assert "Interrupted." in ran.err


HELP = {
    "": [
        "assertion",
        "backends",
        "config",
        "demo",
        "get",
        "jwks",
        "key",
        "register",
        "rotate",
        "store",
        "token",
        "--debug",
        "--version",
    ],
    "config": ["show"],
    "config show": ["[CLIENT]", "--json"],
    "token": ["[CLIENT]", "--scope", "--json"],
    "assertion": ["[CLIENT]", "--audience", "--decode"],
    "jwks": ["[CLIENT] [--out FILE]", "serve [CLIENT]", "check URL [CLIENT]"],
    "jwks print": ["[CLIENT]", "--out"],
    "jwks serve": ["--host", "--port", "--path", "--max-age", "reverse proxy"],
    "jwks check": ["URL", "[CLIENT]", "--json"],
    "register": ["--save", "--initial-token", "--update", "--delete", "client_id"],
    "rotate": ["plan", "start", "promote", "finish", "abort", "status"],
    "rotate plan": ["--url", "--json"],
    "rotate start": ["--key", "--type", "--algorithm", "--kid", "--json"],
    "rotate promote": ["--force", "--drain", "--url", "29 hours", "--json"],
    "rotate finish": ["--force", "--json"],
    "rotate abort": ["--json"],
    "rotate status": ["--json"],
    "get": ["[CLIENT] PATH", "--accept"],
    "key": ["generate", "list", "show"],
    "key generate": ["URI", "--type", "P-384", "RSA-3072", "Ed25519", "--json"],
    "key list": ["URI", "--json"],
    "key show": ["URI", "--json"],
    "store": ["key"],
    "store key": ["umask 077"],
    "backends": ["--json"],
    "demo": ["SoftHSM"],
    "policy": ["check"],
    "policy check": ["[CLIENT]", "--json"],
    "report": ["[CLIENT]...", "--format", "--out", "--offline", "--verify", "--digest"],
}


@pytest.mark.parametrize("name", HELP)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(command: Callable[..., Ran], name: str, flag: str) -> None:
    """--help of every command names what it takes, on stdout, with exit code 0."""
    ran = command(*name.split(), flag)
    assert (0, "") == (ran.code, ran.err)
    assert f"Usage: keystay {name}".strip() in ran.out
    assert [] == [word for word in HELP[name] if word not in ran.out]


def test_help_knows_every_command(command: Callable[..., Ran]) -> None:
    """A command that is added is added to the table above."""
    from keystay.cli.app import app

    context = click.Context(app)
    assert set(app.list_commands(context)) == {name.split()[0] for name in HELP if name}


def test_version(command: Callable[..., Ran]) -> None:
    """--version tells the distribution's."""
    from importlib.metadata import version

    ran = command("--version")
    assert (0, True) == (ran.code, version("keystay") in ran.out)


def test_config_show(
    command: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every setting with its value and origin; no key is opened, and no secret is in it."""
    (tmp_path / "keystay.toml").write_text(
        '[clients.a]\nfhir_base_url = "https://ehr.example.org"\nkey = "file:none.pem"\n'
        '[backends.file]\npassphrase_source = "env:X"\n[observers.audit]\npath = "a"\n'
        "[clients.a.policy]\nmin_ec_bits = 384\n"
    )
    monkeypatch.setenv("KEYSTAY_SCOPE", "system/Patient.rs")
    monkeypatch.setenv("KEYSTAY_POLICY_CUSTODY", "any")
    ran = command("config", "show")
    assert (0, "") == (ran.code, ran.err)
    lines = [" ".join(line.split()) for line in ran.out.splitlines()]
    for line in (
        'fhir_base_url "https://ehr.example.org" (keystay.toml:2)',
        'scope "system/Patient.rs" (KEYSTAY_SCOPE)',
        "timeout 10.0 seconds (default)",
        "min_ec_bits 384 bits (keystay.toml:9)",
        'custody "any" (KEYSTAY_POLICY_CUSTODY)',
        'passphrase_source "env:X" (keystay.toml:5)',
        'path "a" (keystay.toml:7)',
        "fsync false (default)",
    ):
        assert line in lines
    rows = json.loads(command("config", "show", "a", "--json").out)
    assert {"table": "http", "key": "timeout", "value": 10.0, "origin": "default"} in rows
