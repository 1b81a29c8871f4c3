"""The token clients: what is kept, for how long, and for whom."""

from __future__ import annotations

import dataclasses
import pickle
import threading
import time
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

import keystay
from keystay.concurrency.clock import SYSTEM_CLOCK
from keystay.errors import ConfigurationError, KeystayError, SignerClosedError, TokenRefusedError
from keystay.http.settings import HttpSettings
from keystay.testing import Reply, SmartTestServer
from tests.support.fixtures import watch_exchanges
from tests.support.secrets_watch import WATCH
from tests.support.token_clients import CLIENT_ID, SCOPE, client_settings

if TYPE_CHECKING:
    from pathlib import Path

    from keystay.signer import Signer
    from tests.support.token_clients import MakeClient

pytestmark = pytest.mark.usefixtures("no_environment")


class TestKeeping:
    """`token()` and `authorization()`."""

    def test_kept(self, registered: SmartTestServer, make_client: MakeClient) -> None:
        """The second call costs no request and gives the same token."""
        client = make_client(registered)
        first = client.token()
        assert client.token() is first
        assert f"Bearer {first.value}" == client.authorization()
        assert 1 == len(registered.log.of("token"))

    def test_authorization_asks_when_nothing_is_kept(
        self, registered: SmartTestServer, make_client: MakeClient
    ) -> None:
        """The header value alone is enough to be used."""
        client = make_client(registered)
        header = client.authorization()
        assert header == client.token().authorization
        assert 1 == len(registered.log.of("token"))

    def test_renewed_before_it_expires(self, make_client: MakeClient, pem_signer: Signer) -> None:
        """With tokens of two seconds, a new one comes after 1.6 s, while the old still lives."""
        with SmartTestServer(token_lifetime=2) as server:
            watch_exchanges(server)
            server.register(CLIENT_ID, jwks=keystay.JWKSet.from_signers([pem_signer]))
            client = make_client(server)
            first = client.token()
            assert client.token() is first
            time.sleep(max(0.0, client._cache.refresh_after - SYSTEM_CLOCK.now()) + 0.01)
            assert not first.expired
            second = client.token()
            assert second is not first
            assert second.authorization == client.authorization()
            assert not second.expired
            assert 2 == len(server.log.of("token"))

    def test_request_token_is_new_and_not_kept(
        self, registered: SmartTestServer, make_client: MakeClient
    ) -> None:
        """`request_token` neither uses nor replaces the token that is kept."""
        client = make_client(registered)
        kept = client.token()
        assert client.request_token().value != kept.value
        assert client.token() is kept

    def test_overriding_the_scope(
        self, registered: SmartTestServer, make_client: MakeClient
    ) -> None:
        """A scope for one call is sent, normalised, and forgotten."""
        client = make_client(registered)
        other = client.request_token(scope=" system/Observation.rs   system/Observation.rs")
        assert "system/Observation.rs" == other.scope
        assert SCOPE == client.token().scope
        with pytest.raises(ConfigurationError, match="scope is empty"):
            client.request_token(scope="")

    def test_overriding_the_signer(
        self,
        registered: SmartTestServer,
        make_client: MakeClient,
        pem_file: Path,
        pem_signer: Signer,
    ) -> None:
        """A signer for one call signs with its own kid, and is forgotten."""
        client = make_client(registered)
        with (
            keystay.open_signer(f"file:{pem_file}", kid="next-year") as successor,
            pytest.raises(TokenRefusedError),
        ):
            client.request_token(signer=successor)
        refused = registered.log.last_refusal
        assert refused is not None
        assert ("kid-unknown", "next-year") == (refused.reason, (refused.header or {})["kid"])
        client.token()
        granted = registered.log.of("token")[-1].header or {}
        assert pem_signer.kid == granted["kid"]

    def test_default_scope(self, registered: SmartTestServer, pem_signer: Signer) -> None:
        """Without a scope, system/*.rs is asked for."""
        settings = client_settings(pem_signer, registered)
        del settings["scope"]
        with keystay.TokenClient(**settings) as client:
            assert "system/*.rs" == client.token().requested_scope

    def test_failure_is_not_kept(
        self, registered: SmartTestServer, make_client: MakeClient
    ) -> None:
        """After a refusal the next call asks again."""
        client = make_client(registered, token_endpoint=registered.token_endpoint)
        registered.script(registered.token_endpoint, [Reply(503), None])
        with pytest.raises(KeystayError):
            client.token()
        assert SCOPE == client.token().scope


class TestInvalidation:
    """`invalidate()`."""

    def test_drops_the_kept_token(
        self, registered: SmartTestServer, make_client: MakeClient
    ) -> None:
        """Without an argument, whatever is kept goes."""
        client = make_client(registered)
        first = client.token()
        client.invalidate()
        assert client.token() is not first
        assert client.authorization() == client.token().authorization

    def test_only_the_one_that_was_rejected(
        self, registered: SmartTestServer, make_client: MakeClient
    ) -> None:
        """A token rejected late does not take its successor with it."""
        client = make_client(registered)
        first = client.token()
        client.invalidate(first)
        second = client.token()
        client.invalidate(first)
        client.invalidate(first)
        assert client.token() is second
        assert 2 == len(registered.log.of("token"))


class TestConcurrency:
    """Many callers at first use."""

    def test_sixteen_threads_one_request(
        self, registered: SmartTestServer, make_client: MakeClient
    ) -> None:
        """However many threads ask, one request is made and all get its token."""
        registered.script(
            registered.smart_configuration_url,
            [Reply.json(httpx.get(registered.smart_configuration_url).json(), delay=0.2)],
        )
        client = make_client(registered)
        barrier = threading.Barrier(16)
        found: list[str] = []

        def ask() -> None:
            barrier.wait()
            found.append(client.authorization())

        threads = [threading.Thread(target=ask) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (16, 1) == (len(found), len(set(found)))
        assert 1 == len(registered.log.of("token"))

    async def test_sixteen_tasks_one_request(
        self, registered: SmartTestServer, pem_signer: Signer
    ) -> None:
        """The same for tasks, under asyncio and trio."""
        found: list[keystay.AccessToken] = []
        async with keystay.AsyncTokenClient(**client_settings(pem_signer, registered)) as client:

            async def ask() -> None:
                found.append(await client.token())

            async with anyio.create_task_group() as tasks:
                for _ in range(16):
                    tasks.start_soon(ask)
        assert (16, 1) == (len(found), len({id(token) for token in found}))
        assert 1 == len(registered.log.of("token"))


class TestAsync:
    """What `AsyncTokenClient` shares with `TokenClient`."""

    async def test_same_names(self, registered: SmartTestServer, pem_signer: Signer) -> None:
        """token, authorization, request_token, invalidate, smart_configuration, aclose."""
        client = keystay.AsyncTokenClient(**client_settings(pem_signer, registered))
        token = await client.token()
        assert await client.token() is token
        assert token.authorization == await client.authorization()
        assert (await client.request_token(scope="system/*.rs")).value != token.value
        assert registered.token_endpoint == (await client.smart_configuration()).token_endpoint
        client.invalidate(token)
        renewed = await client.authorization()
        assert token.authorization != renewed
        await client.aclose()
        await client.aclose()

    async def test_made_outside_the_event_loop(
        self, registered: SmartTestServer, pem_signer: Signer
    ) -> None:
        """A client made where no loop runs works in the loop that comes."""
        made: list[keystay.AsyncTokenClient] = []
        settings = client_settings(pem_signer, registered)
        thread = threading.Thread(target=lambda: made.append(keystay.AsyncTokenClient(**settings)))
        thread.start()
        thread.join()
        async with made[0] as client:
            assert SCOPE == (await client.token()).scope

    async def test_cancelled_caller_strands_nobody(
        self, registered: SmartTestServer, pem_signer: Signer
    ) -> None:
        """When the task that asks is cancelled, the next one asks itself."""
        registered.script(registered.token_endpoint, [Reply(200, delay=60.0), None])
        settings = client_settings(pem_signer, registered, token_endpoint=registered.token_endpoint)
        async with keystay.AsyncTokenClient(timeout=90, **settings) as client:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.token)
                while not registered.log.of("scripted"):  # noqa: ASYNC110 - told by the server
                    await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()
            with anyio.fail_after(30):
                assert SCOPE == (await client.token()).scope


class TestLife:
    """Making and closing."""

    def test_close_is_idempotent_and_leaves_the_signer(
        self, registered: SmartTestServer, pem_signer: Signer
    ) -> None:
        """The signer that was handed in stays open."""
        client = keystay.TokenClient(**client_settings(pem_signer, registered))
        client.close()
        client.close()
        assert pem_signer.sign(b"still open")

    def test_own_signer_is_closed(self, registered: SmartTestServer, pem_file: Path) -> None:
        """With own_signer the client closes it."""
        signer = keystay.open_signer(f"file:{pem_file}")
        settings = client_settings(signer, registered, own_signer=True)
        with keystay.TokenClient(**settings):
            pass
        with pytest.raises(SignerClosedError):
            signer.sign(b"x")

    def test_use_after_close(self, registered: SmartTestServer, pem_signer: Signer) -> None:
        """A closed client says so in our own words."""
        client = keystay.TokenClient(**client_settings(pem_signer, registered))
        client.close()
        with pytest.raises(ConfigurationError, match="closed") as caught:
            client.token()
        assert "client-closed" == caught.value.code

    async def test_use_after_aclose(self, registered: SmartTestServer, pem_signer: Signer) -> None:
        """The same, asynchronous."""
        client = keystay.AsyncTokenClient(**client_settings(pem_signer, registered))
        await client.aclose()
        with pytest.raises(ConfigurationError, match="closed"):
            await client.token()

    async def test_closed_on_the_way(
        self, registered: SmartTestServer, pem_signer: Signer, http_library: Any
    ) -> None:
        """Another thread closes it between our look and httpx's: the same words."""

        class Closed(http_library.Client):  # type: ignore[misc]
            def send(self, *args: Any, **options: Any) -> Any:
                self.close()
                return super().send(*args, **options)

        class AsyncClosed(http_library.AsyncClient):  # type: ignore[misc]
            async def send(self, *args: Any, **options: Any) -> Any:
                await self.aclose()
                return await super().send(*args, **options)

        settings = client_settings(pem_signer, registered)
        with (
            keystay.TokenClient(http=Closed(trust_env=False), **settings) as client,
            pytest.raises(ConfigurationError) as caught,
        ):
            client.token()
        assert "client-closed" == caught.value.code
        async with keystay.AsyncTokenClient(
            http=AsyncClosed(trust_env=False), **settings
        ) as asynchronous:
            with pytest.raises(ConfigurationError) as caught:
                await asynchronous.token()
        assert "client-closed" == caught.value.code

    async def test_closed_stays_closed(
        self,
        registered: SmartTestServer,
        pem_signer: Signer,
        monkeypatch: pytest.MonkeyPatch,
        http_library: Any,
    ) -> None:
        """Also where a request on its way has opened the httpx client again."""

        async def aclose(client: object) -> None:
            """Loses the race."""

        monkeypatch.setattr(http_library.Client, "close", lambda client: None)
        monkeypatch.setattr(http_library.AsyncClient, "aclose", aclose)
        settings = client_settings(pem_signer, registered)
        client, tasks = keystay.TokenClient(**settings), keystay.AsyncTokenClient(**settings)
        client.close()
        await tasks.aclose()
        for _ in range(2):
            with pytest.raises(ConfigurationError) as caught:
                client.token()
            assert "client-closed" == caught.value.code
            with pytest.raises(ConfigurationError) as caught:
                await tasks.token()
            assert "client-closed" == caught.value.code
        assert 0 == len(registered.log)

    def test_shows_no_secret_and_is_not_pickled(
        self, registered: SmartTestServer, make_client: MakeClient
    ) -> None:
        """repr names server and client, not the token."""
        client = make_client(registered)
        client.token()
        WATCH.check(repr(client) + repr(client.auth()), "a repr")
        assert CLIENT_ID in repr(client)
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(client)

    def test_properties(
        self, registered: SmartTestServer, make_client: MakeClient, pem_signer: Signer
    ) -> None:
        """What it was made with can be read."""
        client = make_client(registered, fhir_base_url=registered.fhir_base_url + "/")
        assert (registered.fhir_base_url, CLIENT_ID, pem_signer) == (
            client.fhir_base_url,
            client.client_id,
            client.signer,
        )


BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "insecure": ({"fhir_base_url": "http://ehr.example.org"}, ConfigurationError, "not HTTPS"),
    "query": ({"fhir_base_url": "https://x.example/f?a=1"}, ConfigurationError, "has a query"),
    "endpoint": ({"token_endpoint": "http://x.example/t"}, ConfigurationError, "not HTTPS"),
    "endpoint-user": (
        {"token_endpoint": "https://u:p@x.example/t"},
        ConfigurationError,
        "user information",
    ),
    "jwks-url": ({"jwks_url": "x"}, ConfigurationError, "JWKS URL"),
    "origin": ({"allowed_origins": ["files.example.org"]}, ConfigurationError, "allowed origin"),
    "origin-http": (
        {"allowed_origins": ["http://files.example.org"]},
        ConfigurationError,
        "not HTTPS",
    ),
    "scope": ({"scope": ""}, ConfigurationError, "scope is empty"),
    "client-id": ({"client_id": ""}, ConfigurationError, "client_id is empty"),
    "lifetime": ({"assertion_lifetime": 301}, ConfigurationError, "lifetime: it is 301"),
    "renamed": ({"lifetime": 60}, TypeError, "called 'assertion_lifetime' now"),
    "claims": ({"extra_claims": {"aud": "x"}}, ConfigurationError, "'aud' is keystay's"),
    "headers": ({"extra_headers": {"alg": "none"}}, ConfigurationError, "'alg' is keystay's"),
    "window": ({"renewal_window": 1}, ConfigurationError, "window: it is 1; expected"),
    "window-nan": ({"renewal_window": float("nan")}, ConfigurationError, "it is nan; expected"),
    "retries": (
        {"retries": 1.5},
        ConfigurationError,
        "retries: it is 1.5; expected a whole number",
    ),
    "signer-retries": ({"signer_retries": True}, ConfigurationError, "signer_retries: it is True"),
    "rate": ({"rate_limit": "5/0"}, ConfigurationError, "requests/seconds"),
    "correction": ({"clock_correction": "off"}, ConfigurationError, "'off'"),
    "async-client": (
        {"http": httpx.AsyncClient()},
        ConfigurationError,
        r"class httpx\.AsyncClient",
    ),
    "http-dict": ({"http": {"timeout": 5}}, ConfigurationError, "class dict"),
    "misspelt": ({"scopes": "system/*.rs"}, TypeError, "Did you mean 'scope'"),
}


@pytest.mark.parametrize(("changes", "kind", "said"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_arguments_are_checked_at_once(
    pem_signer: Signer, changes: dict[str, Any], kind: type[Exception], said: str
) -> None:
    """What cannot work is refused when the client is made, not at 3 a.m."""
    base = {"fhir_base_url": "https://ehr.example.org/fhir"}
    settings = client_settings(pem_signer, **{**base, **changes})
    with pytest.raises(kind, match=said):
        keystay.TokenClient(**settings)


@pytest.mark.parametrize("name", ["fhir_base_url", "client_id", "signer"])
def test_required_arguments(pem_signer: Signer, name: str) -> None:
    """A missing argument is told as Python tells it."""
    settings = client_settings(pem_signer, fhir_base_url="https://ehr.example.org/fhir")
    del settings[name]
    with pytest.raises(TypeError, match=f"missing keyword argument '{name}'"):
        keystay.TokenClient(**settings)


def test_sync_client_for_async(pem_signer: Signer, http_library: Any) -> None:
    """A synchronous client cannot serve the asynchronous token client."""
    settings = client_settings(pem_signer, fhir_base_url="https://ehr.example.org/fhir")
    named = rf"class {http_library.__name__}\.Client"
    with http_library.Client() as wrong, pytest.raises(ConfigurationError, match=named) as caught:
        keystay.AsyncTokenClient(http=wrong, **settings)
    assert "an httpx.AsyncClient, an httpx2.AsyncClient or HttpSettings" in str(caught.value.hint)


class TestFromConfig:
    """Clients that keystay.toml describes."""

    def config(self, server: SmartTestServer, pem_file: Path, folder: Path, more: str = "") -> Any:
        """A configuration with one client."""
        path = folder / "keystay.toml"
        path.write_text(
            f'[clients.one]\nfhir_base_url = "{server.fhir_base_url}"\nclient_id = "{CLIENT_ID}"\n'
            f'key = "file:{pem_file}"\nscope = "{SCOPE}"\nallow_insecure_loopback = true\n{more}'
        )
        return keystay.load_config(path)

    def test_whole(self, registered: SmartTestServer, pem_file: Path, tmp_path: Path) -> None:
        """Settings, key and HTTP settings come from the file; the signer is the client's own."""
        more = "assertion_lifetime = 60\n[http]\nuser_agent = 'etl/7'\ntimeout = 5\n"
        config = self.config(registered, pem_file, tmp_path, more)
        with keystay.TokenClient.from_config("one", config=config) as client:
            assert SCOPE == client.token().scope
            signer = client.signer
        event = registered.log.of("token")[0]
        assert "etl/7" == event.headers["user-agent"]
        assert (event.claims or {})["exp"] <= time.time() + 61
        with pytest.raises(SignerClosedError):
            signer.sign(b"x")

    async def test_async(self, registered: SmartTestServer, pem_file: Path, tmp_path: Path) -> None:
        """The asynchronous client takes the same file, without a name when it holds just one."""
        config = self.config(registered, pem_file, tmp_path)
        async with keystay.AsyncTokenClient.from_config(config=config) as client:
            assert SCOPE == (await client.token()).scope

    def test_key_is_closed_when_no_client_comes_of_it(
        self,
        registered: SmartTestServer,
        pem_file: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A session in an HSM does not leak because a setting cannot be used."""
        opened: list[Signer] = []
        real = keystay.open_signer

        def remember(*args: Any, **settings: Any) -> Signer:
            opened.append(real(*args, **settings))
            return opened[-1]

        monkeypatch.setattr("keystay.signer.open_signer", remember)
        config = self.config(registered, pem_file, tmp_path)
        config = dataclasses.replace(config, http=HttpSettings(user_agent=" "))
        with pytest.raises(ConfigurationError, match="user agent"):
            keystay.TokenClient.from_config(config=config)
        with pytest.raises(SignerClosedError):
            opened[0].sign(b"x")


class TestShared:
    """`as_async()`."""

    async def test_closes_what_it_opened(
        self, registered: SmartTestServer, make_client: MakeClient
    ) -> None:
        """The asynchronous half closes its own connections, not the key and not the other half."""
        client = make_client(registered)
        async with client.as_async() as shared:
            assert await shared.token() is client.token()
            assert client.signer is shared.signer
            assert (client.client_id, client.fhir_base_url) == (
                shared.client_id,
                shared.fhir_base_url,
            )
        with pytest.raises(ConfigurationError, match="closed"):
            await shared.request_token()
        assert client.request_token().scope == SCOPE

    async def test_invalidation_is_shared(
        self, registered: SmartTestServer, make_client: MakeClient
    ) -> None:
        """A token that one half rejects is dropped for both."""
        client = make_client(registered)
        async with client.as_async() as shared:
            first = client.token()
            shared.invalidate(first)
            assert await shared.token() is client.token() is not first

    async def test_own_http_client(
        self, registered: SmartTestServer, make_client: MakeClient, http_library: Any
    ) -> None:
        """Beside a caller's own client the asynchronous one has to be handed in too."""
        with http_library.Client() as own:
            client = make_client(registered, http=own)
            with pytest.raises(ConfigurationError, match="your own HTTP client") as caught:
                client.as_async()
            assert "as_async(http=" in str(caught.value.hint)
            async with http_library.AsyncClient() as theirs:
                assert await client.as_async(http=theirs).token() is client.token()


def test_environment_proxy_that_cannot_be_used(
    pem_signer: Signer, monkeypatch: pytest.MonkeyPatch, http_library: Any
) -> None:
    """A proxy variable httpx cannot use is our error, without what the variable holds."""
    settings = client_settings(pem_signer, fhir_base_url="https://ehr.example.org/fhir")
    for value in ("socks5://user:proxy-pass-1@proxy:1080", "ftp://user:proxy-pass-1@proxy"):
        monkeypatch.setenv("HTTPS_PROXY", value)
        with pytest.raises(ConfigurationError, match="the environment names") as caught:
            keystay.TokenClient(**settings).token()
        assert "proxy-pass-1" not in f"{caught.value}{caught.value.__cause__}"


def test_proxy_settings_from_python(pem_signer: Signer) -> None:
    """HttpSettings made by hand are held to what the file is."""
    settings = client_settings(pem_signer, fhir_base_url="https://ehr.example.org/fhir")
    with pytest.raises(ConfigurationError, match="holds credentials") as caught:
        keystay.TokenClient(http=HttpSettings(proxy="http://u:proxy-pass-2@proxy:1"), **settings)
    assert "proxy-pass-2" not in str(caught.value)
