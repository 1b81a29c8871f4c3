"""Where a client's keys come from: inline, or its JWKS URL with its caching and failures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from keystay.errors import KeystayError
from keystay.jwk import JWKSet
from keystay.testing import RegisteredClient, Reply, RequestRefusedError, SmartTestServer
from tests.support.assertions import ClientKey, good_claims, token_form

if TYPE_CHECKING:
    import httpx

KEY, SUCCESSOR = ClientKey.generate("ES384", "old"), ClientKey.generate("ES384", "new")
CLIENT = "client"


class TestRegistration:
    """What cannot be registered."""

    def test_inline_set(self) -> None:
        """A `JWKSet` and a plain object are the same."""
        plain = RegisteredClient(CLIENT, jwks=KEY.jwks)

        assert plain.keys() == RegisteredClient(CLIENT, jwks=JWKSet([KEY.jwk])).keys()

    @pytest.mark.parametrize(
        "keys",
        [
            pytest.param({}, id="none"),
            pytest.param({"jwks": {}}, id="no keys"),
            pytest.param({"jwks": KEY.jwks, "jwks_uri": "https://c.example/jwks"}, id="both"),
            pytest.param({"jwks_uri": "http://client.example/jwks"}, id="plain HTTP"),
            pytest.param({"jwks_uri": "file:///etc/hostname"}, id="file"),
            pytest.param({"jwks_uri": "ftp://127.0.0.1/jwks"}, id="ftp"),
        ],
    )
    def test_refused(self, keys: dict[str, Any]) -> None:
        """Keys must come from one place, and over TLS unless it is loopback."""
        with pytest.raises(ValueError, match=r'exactly one|must be https|a list "keys"'):
            RegisteredClient(CLIENT, **keys)

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param({"d": "AAAA"}, id="private"),
            pytest.param({"x": None}, id="incomplete"),
            pytest.param({"crv": "secp256k1"}, id="curve"),
            pytest.param({"x": KEY.jwk["y"], "y": KEY.jwk["x"]}, id="off the curve"),
        ],
    )
    def test_bad_key(self, change: dict[str, Any]) -> None:
        """An unusable key is refused when it is registered, not at the first request."""
        jwk = {name: value for name, value in (KEY.jwk | change).items() if value is not None}
        with pytest.raises(KeystayError):
            RegisteredClient(CLIENT, jwks={"keys": [jwk]})


class TestURL:
    """A set that is fetched (SMART App Launch 2.2.0: kept no longer than `Cache-Control` says)."""

    @pytest.mark.parametrize(
        ("cache_control", "age", "fetches"),
        [
            pytest.param(None, 59.0, 1, id="a minute by default"),
            pytest.param(None, 60.0, 2, id="no longer"),
            pytest.param("max-age=5", 4.0, 1, id="max-age"),
            pytest.param("public, max-age=5", 5.0, 2, id="past max-age"),
            pytest.param("max-age=86400", 60.0, 2, id="long max-age"),
            pytest.param("no-store", 0.0, 2, id="no-store"),
            pytest.param("no-cache", 0.0, 2, id="no-cache"),
            pytest.param("max-age=0", 0.0, 2, id="max-age 0"),
            pytest.param("s-maxage=1", 5.0, 1, id="shared caches only"),
        ],
    )
    def test_cache(
        self, smart_server: SmartTestServer, cache_control: str | None, age: float, fetches: int
    ) -> None:
        """A set is fetched again when its time is over."""
        headers = {} if cache_control is None else {"Cache-Control": cache_control}
        url = smart_server.publish("/jwks.json", KEY.jwks, headers=headers)
        now = 1000.0
        client = RegisteredClient(CLIENT, jwks_uri=url, monotonic=lambda: now)
        client.keys()
        now += age

        assert (KEY.jwk,) == client.keys()
        assert fetches == client.fetches

    def test_settable_age(self, smart_server: SmartTestServer) -> None:
        """The longest age can be set, as some vendors keep a set for a day."""
        url = smart_server.publish("/jwks.json", KEY.jwks)
        now = 1000.0
        client = RegisteredClient(CLIENT, jwks_uri=url, jwks_max_age=86_400, monotonic=lambda: now)
        client.keys()
        now += 86_399
        client.keys()

        assert 1 == client.fetches

    def test_rotation(self, http: httpx.Client, smart_server: SmartTestServer) -> None:
        """A successor is unknown until the set is fetched again."""
        url = smart_server.publish("/jwks.json", KEY.jwks)
        client = smart_server.register(CLIENT, jwks_uri=url)

        def status(key: ClientKey) -> int:
            assertion = key.sign(good_claims(CLIENT, smart_server.token_endpoint))
            return http.post(smart_server.token_endpoint, data=token_form(assertion)).status_code

        assert 200 == status(KEY)
        smart_server.publish("/jwks.json", {"keys": [KEY.jwk, SUCCESSOR.jwk]})
        assert [200, 401] == [status(KEY), status(SUCCESSOR)]
        client.forget_keys()
        assert [200, 200] == [status(KEY), status(SUCCESSOR)]

    def test_jku(self, http: httpx.Client, smart_server: SmartTestServer) -> None:
        """A `jku` passes when it is the registered URL, to the letter."""
        url = smart_server.publish("/jwks.json", KEY.jwks)
        smart_server.register(CLIENT, jwks_uri=url)

        def status(jku: str) -> int:
            claims = good_claims(CLIENT, smart_server.token_endpoint)
            assertion = KEY.sign(claims, header={"jku": jku})
            return http.post(smart_server.token_endpoint, data=token_form(assertion)).status_code

        assert [200, 401] == [status(url), status(f"{url}?")]

    @pytest.mark.parametrize(
        ("reply", "reason"),
        [
            pytest.param(Reply(404), "jwks-unavailable", id="404"),
            pytest.param(Reply(500), "jwks-unavailable", id="500"),
            pytest.param(Reply.redirect("/elsewhere"), "jwks-unavailable", id="redirect"),
            pytest.param(Reply(disconnect=True), "jwks-unavailable", id="disconnect"),
            pytest.param(Reply(200, body=b"<html>"), "jwks-invalid", id="HTML"),
            pytest.param(Reply.json([]), "jwks-invalid", id="list"),
            pytest.param(Reply.json({"keys": ["x"]}), "jwks-invalid", id="list of text"),
            pytest.param(Reply(200, body=b" " * 65_537), "jwks-invalid", id="too large"),
        ],
    )
    def test_unusable(self, smart_server: SmartTestServer, reply: Reply, reason: str) -> None:
        """A set that cannot be had fails the assertion, not the server."""
        smart_server.script("/jwks.json", [reply])
        client = RegisteredClient(CLIENT, jwks_uri=f"{smart_server.origin}/jwks.json")
        with pytest.raises(RequestRefusedError) as refusal:
            client.keys()

        assert reason == refusal.value.reason

    def test_private_key_in_a_set(self, http: httpx.Client, smart_server: SmartTestServer) -> None:
        """A published private key is refused, though its signature would be right."""
        jwk = KEY.jwk | {"d": "AAAA"}
        url = smart_server.publish("/jwks.json", {"keys": [jwk]})
        smart_server.register(CLIENT, jwks_uri=url)
        assertion = KEY.sign(good_claims(CLIENT, smart_server.token_endpoint))
        response = http.post(smart_server.token_endpoint, data=token_form(assertion))

        assert 401 == response.status_code
        refusal = smart_server.log.last_refusal
        assert refusal is not None
        assert "key-invalid" == refusal.reason
        assert "AAAA" not in json.dumps(response.json())

    def test_nobody_listens(self, smart_server: SmartTestServer) -> None:
        """A closed port is an unavailable set."""
        origin = smart_server.origin
        smart_server.close()
        client = RegisteredClient(CLIENT, jwks_uri=f"{origin}/jwks.json")
        with pytest.raises(RequestRefusedError, match="jwks-unavailable"):
            client.keys()
