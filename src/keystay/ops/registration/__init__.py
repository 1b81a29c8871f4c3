"""Registering a client with a server, and managing that (RFC 7591, RFC 7592)."""
