"""Ends the session that all its users share."""

from __future__ import annotations

from tests.contract.faulty.honest import HonestKey, plugin

FAILS = {"test_others_survive_a_close"}


SESSIONS: list[HonestKey] = []


class LogsOthersOutKey(HonestKey):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        SESSIONS.append(self)

    def close(self) -> None:
        for key in SESSIONS:
            key.closed = True
        SESSIONS.clear()


BACKEND = plugin(LogsOthersOutKey)
