"""What the JWKS URL answers: the pure function, and the two applications around it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import httpx
import pytest

import keystay
from keystay.errors import KeyNotFoundError
from keystay.jwk import JWKSet
from keystay.ops.publishing import asgi_app, source, wsgi_app
from keystay.ops.publishing.response import respond
from tests.unit.tokens.key_state.keys import JWKS

if TYPE_CHECKING:
    from pathlib import Path

    from keystay.signer import Signer

KEYS = JWKSet(tuple(JWKS))
PATH = "/.well-known/jwks.json"


class TestRespond:
    """RFC 9110, as far as it concerns one document."""

    def test_get(self) -> None:
        """The set, its type, how long to keep it, and its tag."""
        answer = respond("GET", KEYS, max_age=60)
        assert KEYS.to_dict() == json.loads(answer.body)
        assert (200, "application/jwk-set+json", "public, max-age=60") == (
            answer.status, answer.headers["Content-Type"], answer.headers["Cache-Control"],
        )  # fmt: skip
        assert str(len(answer.body)) == answer.headers["Content-Length"]

    def test_head(self) -> None:
        """The same header, no body."""
        get, head = respond("GET", KEYS), respond("HEAD", KEYS)
        assert (get.headers, b"") == (head.headers, head.body)

    @pytest.mark.parametrize("form", ["{}", "W/{}", '"x", {}', "*", ' "y" ,W/{} '])
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_not_modified(self, form: str, method: str) -> None:
        """Nothing is sent twice; the tag and the time come again."""
        tag = respond("GET", KEYS).headers["ETag"]
        answer = respond(method, KEYS, if_none_match=form.format(tag))
        assert (304, b"", {"ETag", "Cache-Control"}) == (
            answer.status, answer.body, set(answer.headers),
        )  # fmt: skip

    def test_modified(self) -> None:
        """Another set has another tag."""
        tag = respond("GET", JWKSet((JWKS[0],))).headers["ETag"]
        assert 200 == respond("GET", KEYS, if_none_match=tag).status

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get"])
    def test_other_methods(self, method: str) -> None:
        """Read only."""
        answer = respond(method, KEYS)
        assert (405, "GET, HEAD") == (answer.status, answer.headers["Allow"])

    def test_no_time(self) -> None:
        """To be asked for each time."""
        assert "no-cache" == respond("GET", KEYS, max_age=0).headers["Cache-Control"]


@pytest.fixture
def config(tmp_path: Path, pem_file: Path) -> keystay.Config:
    """A client with a key in a file."""
    (tmp_path / "keystay.toml").write_text(
        '[clients.etl]\nfhir_base_url = "https://ehr.example.org"\nclient_id = "etl"\n'
        f'key = "file:{pem_file}"\n'
    )
    return keystay.load_config(tmp_path / "keystay.toml", environ={})


class TestApplications:
    """The same answers under ASGI and WSGI, through real clients of each."""

    @pytest.fixture(params=["asgi", "wsgi"])
    def ask(self, request: pytest.FixtureRequest, config: keystay.Config) -> Iterator[Any]:
        """A function that makes a request."""
        if request.param == "wsgi":
            transport = httpx.WSGITransport(app=validator(wsgi_app(config=config, max_age=60)))
            with httpx.Client(transport=transport, base_url="http://keys.example.org") as client:

                async def ask_wsgi(method: str, path: str, **options: Any) -> httpx.Response:
                    return client.request(method, path, **options)  # noqa: ASYNC212

                yield ask_wsgi
            return

        async def ask_asgi(method: str, path: str, **options: Any) -> httpx.Response:
            transport = httpx.ASGITransport(app=asgi_app("etl", config=config, max_age=60))
            async with httpx.AsyncClient(
                transport=transport, base_url="http://keys.example.org"
            ) as client:
                return await client.request(method, path, **options)

        yield ask_asgi

    async def test_served(
        self, ask: Callable[..., Any], pem_signer: Signer, anyio_backend_name: str
    ) -> None:
        """GET, HEAD, 304, 404 and 405."""
        get = await ask("GET", PATH)
        assert JWKSet.from_signers([pem_signer]).to_dict() == get.json()
        assert "public, max-age=60" == get.headers["cache-control"]
        head = await ask("HEAD", PATH)
        assert (200, b"", get.headers["etag"]) == (
            head.status_code, head.content, head.headers["etag"],
        )  # fmt: skip
        again = await ask("GET", PATH, headers={"If-None-Match": get.headers["etag"]})
        assert (304, b"") == (again.status_code, again.content)
        assert 404 == (await ask("GET", "/other")).status_code
        assert 405 == (await ask("DELETE", PATH)).status_code

    async def test_mounted(self, config: keystay.Config, anyio_backend_name: str) -> None:
        """Below a framework's mount point the rest of the path is empty."""
        transport = httpx.ASGITransport(app=asgi_app(config=config), root_path=PATH)
        async with httpx.AsyncClient(transport=transport, base_url="http://x.example") as client:
            assert 200 == (await client.get(PATH)).status_code
        environ: dict[str, Any] = {"SCRIPT_NAME": PATH, "PATH_INFO": ""}
        setup_testing_defaults(environ)
        found: list[str] = []
        wsgi_app(config=config)(environ, lambda status, _: found.append(status))
        assert ["200 OK"] == found

    async def test_lifespan(self, config: keystay.Config, anyio_backend_name: str) -> None:
        """A server that runs it alone is told that it may begin and end."""
        messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
        sent: list[str] = []

        async def receive() -> dict[str, Any]:
            return next(messages)

        async def send(message: dict[str, Any]) -> None:
            sent.append(message["type"])

        await asgi_app(config=config)({"type": "lifespan"}, receive, send)
        assert ["lifespan.startup.complete", "lifespan.shutdown.complete"] == sent

    async def test_no_key(
        self, ask: Callable[..., Any], pem_file: Path, tmp_path: Path, anyio_backend_name: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        """Never an empty set: 503, with no more than the error's code."""
        text = (tmp_path / "keystay.toml").read_text().replace(pem_file.name, "missing.pem")
        (tmp_path / "keystay.toml").write_text(text)
        broken = keystay.load_config(tmp_path / "keystay.toml", environ={})
        found: list[Any] = []
        environ: dict[str, Any] = {"PATH_INFO": PATH}
        setup_testing_defaults(environ)
        body = b"".join(wsgi_app(config=broken)(environ, lambda *answer: found.extend(answer)))
        assert "503 Service Unavailable" == found[0]
        assert ("no-store", "30") == (
            dict(found[1])["Cache-Control"],
            dict(found[1])["Retry-After"],
        )
        assert {"error": "key-not-found"} == json.loads(body)
        assert "missing.pem" in caplog.text

    @pytest.mark.usefixtures("config")
    def test_key_that_is_down(
        self, pem_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is not asked at each request, for that takes a while and all wait; but soon again."""
        monkeypatch.setattr(source, "RETRY_SECONDS", 0.5)
        text = (tmp_path / "keystay.toml").read_text().replace(str(pem_file), "later.pem")
        (tmp_path / "keystay.toml").write_text(text)
        found = source.KeySource(keystay.load_config(tmp_path / "keystay.toml", environ={}))
        for _ in range(2):
            with pytest.raises(KeyNotFoundError):
                found.keys()
            shutil.copy(pem_file, tmp_path / "later.pem")
        time.sleep(0.6)
        assert 1 == len(found.keys())

    def test_kept_key_that_is_none(self, config: keystay.Config, tmp_path: Path) -> None:
        """A file with a null in it is read anew, as any other that is not ours."""
        before = source.KeySource(config).keys()
        (kept,) = (tmp_path / "keystay-keys").glob("*.public-jwk")
        kept.write_text(json.dumps({**json.loads(kept.read_text()), "jwk": None}))
        assert before == source.KeySource(config).keys()
