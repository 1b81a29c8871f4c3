"""Publishes a client's JWK Set: one pure answer, and the ways to serve it."""

from keystay.ops.publishing.applications import asgi_app, wsgi_app
from keystay.ops.publishing.response import DEFAULT_MAX_AGE, PATH
from keystay.ops.publishing.source import KeySource

__all__ = ["DEFAULT_MAX_AGE", "PATH", "KeySource", "asgi_app", "wsgi_app"]
