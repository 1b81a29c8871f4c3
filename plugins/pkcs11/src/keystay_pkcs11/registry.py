"""The modules of this process: one for each real path, however many keys use it."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from keystay.errors import ConfigurationError
from keystay_pkcs11.module import Module

if TYPE_CHECKING:
    from keystay.backends import Deadline
    from keystay_pkcs11.settings import Settings

__all__ = ["acquire", "registry_lock", "release"]

_FORK_SECONDS = 0.5  # that a fork waits for calls under way


class _Registry:
    """The modules of this process; they stay loaded, for unloading crashes some."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.modules: dict[str, Module] = {}
        self._shut: dict[int, list[Module]] = {}

    def before_fork(self) -> None:
        """Wait, a little, until no other thread is inside: it may hold the module's locks."""
        self._shut[threading.get_ident()] = [
            module for module in list(self.modules.values()) if module.gate.shut(_FORK_SECONDS)
        ]

    def after_fork_in_parent(self) -> None:
        for module in self._shut.pop(threading.get_ident(), ()):
            module.gate.open()

    def after_fork_in_child(self) -> None:
        self.lock = threading.Lock()
        self._shut = {}
        for module in self.modules.values():
            module.after_fork()


_registry = _Registry()
os.register_at_fork(
    before=_registry.before_fork,
    after_in_parent=_registry.after_fork_in_parent,
    after_in_child=_registry.after_fork_in_child,
)


def registry_lock() -> threading.Lock:
    """Guards the counts of users; held for moments only."""
    return _registry.lock


def acquire(settings: Settings, deadline: Deadline) -> Module:
    """The module that the settings name, running; `release` must follow.

    Raises:
        ConfigurationError: It cannot be loaded, or runs with other `init_args`.
        BackendUnavailableError: It does not start.
    """
    real, init_args = os.path.realpath(settings.module), settings.init_args
    with _registry.lock:
        module = _registry.modules.get(real)
        if module is None:
            module = _registry.modules[real] = Module(real, init_args)
        elif init_args is not None and init_args != module.init_args:
            if module.users:
                raise ConfigurationError(
                    f"The module {settings.module} is in use with other init_args.",
                    hint="A module is initialised once in a process: use the same init_args.",
                )
            module.init_args = init_args
        module.refuse_after_fork = module.refuse_after_fork or settings.after_fork == "refuse"
        if not module.users and not module.running:
            module.load_again()
        module.users += 1
    try:
        module.start(deadline)
    except BaseException:
        release(module)
        raise
    return module


def release(module: Module) -> None:
    """One user less. The last one finalises the module, if nobody else initialised it."""
    with _registry.lock:
        module.users -= 1
        last = not module.users
    if last:
        module.stop()
