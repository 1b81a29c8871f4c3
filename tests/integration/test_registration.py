"""A client's whole life at npm's oidc-provider: registered, given a token, changed, deleted."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Any

import pytest

import keystay
from keystay.cli.app import run
from keystay.errors import RegistrationError, TokenRefusedError
from tests.support.assertions import ClientKey
from tests.support.registration import INITIAL, INSECURE
from tests.support.secrets_watch import WATCH

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from keystay.signer import Signer
    from keystay.testing import SmartTestServer
    from tests.support.fixtures import StartOIDCProvider
    from tests.support.oidc_provider import OIDCProvider

pytestmark = pytest.mark.usefixtures("no_environment")


@pytest.fixture
def provider(oidc_provider: StartOIDCProvider) -> OIDCProvider:
    """An oidc-provider that knows no client, and registers who has the initial access token."""
    return oidc_provider(initial_access_token=INITIAL)


def settings(signer: Signer, **changes: Any) -> dict[str, Any]:
    """Arguments for `register_client`."""
    return {
        "keys": [signer],
        "client_name": "nightly export",
        "secrets": lambda reference, purpose: INITIAL,
        **INSECURE,
        **changes,
    }


def client_for(provider: OIDCProvider, signer: Signer, client_id: str) -> keystay.TokenClient:
    """A token client for a client just registered."""
    return keystay.TokenClient(
        fhir_base_url=provider.fhir_base_url, client_id=client_id, signer=signer, **INSECURE
    )


def test_whole_life(provider: OIDCProvider, pem_signer: Signer) -> None:
    """Registered, read, changed, deleted; a token is had in between and not after."""
    made = keystay.register_client(provider.fhir_base_url, **settings(pem_signer))
    token = made.registration_access_token
    assert token is not None
    WATCH.add("the management token", token.reveal())
    WATCH.check(f"{made!r} {made}", "a repr")
    assert ((), ()) == (made.differences, made.warnings)
    assert "system/*.rs" == made.metadata["scope"]
    assert [] == made.metadata["response_types"]
    assert "ES384" == made.metadata["token_endpoint_auth_signing_alg"]

    with client_for(provider, pem_signer, made.client_id) as client:
        assert "system/*.rs" == client.request_token().scope
        kept = keystay.Registration.from_json(made.to_json())
        read = keystay.read_client(kept, **INSECURE)
        assert (made.client_id, ()) == (read.client_id, read.differences)
        changed = keystay.update_client(read, {"scope": "system/Patient.rs"}, **INSECURE)
        assert ("system/Patient.rs", ()) == (changed.metadata["scope"], changed.differences)
        with pytest.raises(TokenRefusedError, match="invalid_scope"):
            client.request_token()
        assert "system/Patient.rs" == client.request_token(scope="system/Patient.rs").scope

        keystay.delete_client(changed, **INSECURE)
        with pytest.raises(TokenRefusedError) as refused:
            client.request_token()
        assert "invalid_client" == refused.value.error
    with pytest.raises(RegistrationError) as gone:
        keystay.read_client(changed, **INSECURE)
    assert "registration-token-refused" == gone.value.code
    assert "deleted" in (gone.value.cause or "")


async def test_whole_life_asynchronously(provider: OIDCProvider, pem_signer: Signer) -> None:
    """The same names with _async."""
    made = await keystay.register_client_async(provider.fhir_base_url, **settings(pem_signer))
    read = await keystay.read_client_async(made, **INSECURE)
    changed = await keystay.update_client_async(read, {"client_name": "other"}, **INSECURE)
    assert "other" == changed.metadata["client_name"]
    with client_for(provider, pem_signer, made.client_id) as client:
        assert client.request_token().value
    await keystay.delete_client_async(changed, **INSECURE)
    with pytest.raises(RegistrationError):
        await keystay.read_client_async(changed, **INSECURE)


@pytest.mark.parametrize(
    ("token", "code", "description"),
    [
        pytest.param(
            "wrong-token-0123456789", "token-refused", "invalid token provided", id="wrong"
        ),
        pytest.param(None, "token-missing", "no access token provided", id="none"),
    ],
)
def test_wrong_initial_token(
    provider: OIDCProvider, pem_signer: Signer, token: str | None, code: str, description: str
) -> None:
    """The server's error to the letter, and what it means; nothing is registered."""
    if token:
        WATCH.add("a wrong initial access token", token)
    with pytest.raises(RegistrationError) as caught:
        keystay.register_client(
            provider.fhir_base_url, **settings(pem_signer, secrets=lambda *_: token)
        )
    error = caught.value
    assert (401, "invalid_token", description) == (
        error.status,
        error.error,
        error.error_description,
    )
    assert (f"registration-{code}", 5) == (error.code, error.exit_code)
    assert description in error.message
    assert 'Bearer realm="' in error.message
    assert "initial access token" in (error.cause or "")
    assert error.hint
    WATCH.check(f"{error} {error!r} {error.to_dict()}", "an error")
    assert "registration_refused" == provider.next_event("registration_refused", timeout=5)["event"]


def test_metadata_refused(provider: OIDCProvider, pem_signer: Signer) -> None:
    """A scope the server does not know: its words are kept, and the remedy names the other form."""
    with pytest.raises(RegistrationError) as caught:
        keystay.register_client(
            provider.fhir_base_url, **settings(pem_signer, scope="system/Encounter.rs")
        )
    assert "invalid_client_metadata" == caught.value.error
    said = "scope must only contain Authorization Server supported scope values"
    assert said == caught.value.error_description
    assert "system/Patient.read" in (caught.value.hint or "")


def test_successor_is_registered_as_well(provider: OIDCProvider, pem_signer: Signer) -> None:
    """With two keys of different types registered inline, either gets a token."""
    other = ClientKey.generate("RS384")
    keys = keystay.JWKSet((*keystay.JWKSet.from_signers([pem_signer]), *other.jwks["keys"]))
    made = keystay.register_client(provider.fhir_base_url, **settings(pem_signer, keys=keys))
    assert "token_endpoint_auth_signing_alg" not in made.metadata
    assert () == made.differences
    with client_for(provider, pem_signer, made.client_id) as client:
        assert client.request_token().value


def test_keys_by_url(
    provider: OIDCProvider, pem_signer: Signer, smart_server: SmartTestServer
) -> None:
    """With `jwks_uri` the server fetches the set; an update to inline keys replaces the URL."""
    keys = keystay.JWKSet.from_signers([pem_signer])
    url = smart_server.publish("/jwks.json", keys.to_dict())
    made = keystay.register_client(provider.fhir_base_url, **settings(pem_signer, jwks_uri=url))
    assert (url, None) == (made.metadata["jwks_uri"], made.metadata.get("jwks"))
    with client_for(provider, pem_signer, made.client_id) as client:
        assert client.request_token().value
    assert ["/jwks.json"] == [event.path for event in smart_server.log.events]
    changed = keystay.update_client(made, {"jwks": keys.to_dict()}, **INSECURE)
    assert "jwks_uri" not in changed.metadata
    assert () == changed.differences


class TestCommand:
    """`keystay register`, from a configuration without client_id to a token and to the end."""

    @pytest.fixture
    def command(
        self,
        provider: OIDCProvider,
        pem_file: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> Callable[..., tuple[int, str, str]]:
        """A function that runs `keystay` in a folder with keystay.toml and initial tokens."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "keystay.toml").write_text(
            f'[clients.prod]\nfhir_base_url = "{provider.fhir_base_url}"\n'
            f'key = "file:{pem_file}"\nscope = "system/Patient.rs"\n'
            "allow_insecure_loopback = true\n"
        )
        for name, text in (("initial", INITIAL), ("wrong", "wrong-token-0123456789")):
            (tmp_path / name).touch(0o600)
            (tmp_path / name).write_text(text)

        def call(*arguments: str) -> tuple[int, str, str]:
            capfd.readouterr()
            code = run(arguments)
            out, err = capfd.readouterr()
            if (tmp_path / "saved.json").is_file():
                document = json.loads((tmp_path / "saved.json").read_bytes() or b"{}")
                if token := document.get("registration_access_token"):
                    WATCH.add("the management token", token)
            if arguments[0] != "token":
                WATCH.check(out, "stdout")
            WATCH.check(err, "stderr")
            return code, out, err

        return call

    def test_whole_life(self, command: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
        """The client_id alone on stdout, the token in a file only its owner reads."""
        saved = tmp_path / "saved.json"
        code, out, err = command(
            "register", "prod", "--initial-token", "file:initial", "--save", "saved.json"
        )
        assert 0 == code, err
        client_id = out.strip()
        assert f'client_id = "{client_id}"' in err
        assert "[clients.prod] of keystay.toml" in err
        assert 0o600 == stat.S_IMODE(saved.stat().st_mode)

        with (tmp_path / "keystay.toml").open("a") as file:
            file.write(f'client_id = "{client_id}"\n')
        assert 0 == command("token", "prod")[0]
        code, out, _ = command("register", "prod", "--read", "saved.json")
        assert (0, "prod") == (code, json.loads(out)["client_name"])

        text = (tmp_path / "keystay.toml").read_text().replace("Patient.rs", "Observation.rs")
        (tmp_path / "keystay.toml").write_text(text)
        code, out, _ = command("register", "prod", "--update", "saved.json", "--json")
        assert (0, "system/Observation.rs") == (code, json.loads(out)["metadata"]["scope"])
        assert 0 == command("token", "prod")[0]

        code, _, err = command("register", "prod", "--delete", "saved.json")
        assert (0, False) == (code, saved.exists())
        assert 5 == command("token", "prod")[0]

    def test_wrong_initial_token(
        self, command: Callable[..., tuple[int, str, str]], tmp_path: Path
    ) -> None:
        """Exit code 5, the server's words, and no file left behind."""
        code, out, err = command(
            "register", "prod", "--initial-token", "file:wrong", "--save", "saved.json", "--json"
        )
        assert (5, "") == (code, out)
        error = json.loads(err.strip().splitlines()[-1])["error"]
        assert ("invalid_token", "invalid token provided") == (
            error["error"],
            error["error_description"],
        )
        assert not (tmp_path / "saved.json").exists()
