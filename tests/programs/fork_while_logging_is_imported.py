"""Forks while another thread, in its first call of keystay, is in the middle of importing logging.

Logging has registered its hook for forks by then, and its import ends only with the lock that the
hook takes. Prints how the child ended and how long the fork took, in seconds.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

import keystay

assert "logging" not in sys.modules
registered, real = threading.Event(), os.register_at_fork


def register(
    *,
    before: Callable[[], object] | None = None,
    after_in_child: Callable[[], object] | None = None,
    after_in_parent: Callable[[], object] | None = None,
) -> None:
    """As `os.register_at_fork`; logging's call is held up until the fork has begun."""
    hooks = {"before": before, "after_in_child": after_in_child, "after_in_parent": after_in_parent}
    begun = threading.Event()

    def begin() -> None:
        begun.set()

    is_loggings = sys._getframe(1).f_globals["__name__"] == "logging"
    real(**{name: hook for name, hook in hooks.items() if hook is not None})
    if is_loggings:
        real(before=begin)  # the first to run: hooks before a fork run in reverse order
        registered.set()
        begun.wait(30)
        time.sleep(0.2)  # logging's own hook, and ours, have run or wait


def main() -> None:
    """Fork once."""
    os.register_at_fork = register
    thread = threading.Thread(target=lambda: keystay.open_signer)
    thread.start()
    registered.wait(30)
    os.register_at_fork = real
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        import logging

        logging.getLogger("keystay").debug("%s", keystay.open_signer)
        os._exit(0)
    took = time.monotonic() - began
    until = time.monotonic() + 10
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found or time.monotonic() > until:
            break
        time.sleep(0.01)
    if not found:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    thread.join()
    print("well" if found and status == 0 else "hung", took)


if __name__ == "__main__":
    main()
