"""The set as an ASGI and a WSGI application, to mount beside what an organisation serves anyway."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from keystay.errors import KeystayError
from keystay.ops.publishing.response import (
    DEFAULT_MAX_AGE,
    PATH,
    Response,
    not_found,
    respond,
    unavailable,
)
from keystay.ops.publishing.source import KeySource

if TYPE_CHECKING:
    from keystay.config import Config

__all__ = ["Answers", "asgi_app", "wsgi_app"]

logger = logging.getLogger("keystay.publishing")

_THREADS = 8

ASGIApp = Callable[
    [
        Mapping[str, Any],
        Callable[[], Awaitable[Mapping[str, Any]]],
        Callable[[dict[str, Any]], Awaitable[None]],
    ],
    Awaitable[None],
]
WSGIApp = Callable[[Mapping[str, Any], Callable[..., Any]], Iterable[bytes]]


class Answers:
    """Answers requests for a set from its source.

    Args:
        source: Where the keys come from.
        path: Where the set is.
        max_age: Seconds that anybody may keep it.
    """

    def __init__(
        self, source: KeySource, *, path: str = PATH, max_age: int = DEFAULT_MAX_AGE
    ) -> None:
        self._source, self._path, self._max_age = source, path, max_age

    def __call__(self, method: str, path: str, *, if_none_match: str | None = None) -> Response:
        """The answer; blocks as `KeySource.keys`."""
        if path not in (self._path, "", "/"):
            return not_found(method)
        try:
            keys = self._source.keys()
        except KeystayError as error:
            logger.error("no keys to publish: %s", error, extra={"event": "nothing-to-publish"})
            return unavailable(method, error)
        return respond(method, keys, if_none_match=if_none_match, max_age=self._max_age)


def asgi_app(
    *clients: str, config: Config | None = None, path: str = PATH, max_age: int = DEFAULT_MAX_AGE
) -> ASGIApp:
    """An ASGI application (3.0) that serves the JWK Set of configured clients.

    It answers at `path`, and at the root of where it is mounted; anything else is a 404.

    Args:
        *clients: Their names; as for `TokenClient.from_config` when there is none.
        config: A loaded configuration; default `keystay.load_config()`.
        path: Where the set is.
        max_age: Seconds that anybody may keep it: a promotion waits for as long.

    Raises:
        ConfigurationError: There is no such client.
    """
    import anyio.to_thread

    answers = _answers(clients, config, path, max_age)
    # Its own: while a key is waited for, the threads of whatever it is mounted in stay free.
    limiter = anyio.CapacityLimiter(_THREADS)

    async def app(
        scope: Mapping[str, Any],
        receive: Callable[[], Awaitable[Mapping[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"a JWK Set is not served over {scope['type']}")
        headers = {name.lower(): value for name, value in scope["headers"]}
        tag = headers.get(b"if-none-match")
        below = scope["path"].removeprefix(scope.get("root_path", ""))
        response = await anyio.to_thread.run_sync(
            lambda: answers(
                scope["method"], below, if_none_match=None if tag is None else tag.decode("latin-1")
            ),
            limiter=limiter,
        )
        fields = [(n.lower().encode(), v.encode()) for n, v in response.headers.items()]
        await send(
            {"type": "http.response.start", "status": int(response.status), "headers": fields}
        )
        await send({"type": "http.response.body", "body": response.body})

    return app


def wsgi_app(
    *clients: str, config: Config | None = None, path: str = PATH, max_age: int = DEFAULT_MAX_AGE
) -> WSGIApp:
    """As `asgi_app`, for WSGI (PEP 3333)."""
    answers = _answers(clients, config, path, max_age)

    def app(environ: Mapping[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        response = answers(
            environ["REQUEST_METHOD"],
            environ.get("PATH_INFO", ""),
            if_none_match=environ.get("HTTP_IF_NONE_MATCH"),
        )
        status = f"{int(response.status)} {response.status.phrase}"
        start_response(status, list(response.headers.items()))
        return [response.body] if response.body else []

    return app


def _answers(clients: tuple[str, ...], config: Config | None, path: str, max_age: int) -> Answers:
    if config is None:
        from keystay.config import load_config

        config = load_config()
    return Answers(KeySource(config, clients), path=path, max_age=max_age)


async def _live(
    receive: Callable[[], Awaitable[Mapping[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
