"""The modules of this process: one for each real path, however many keys use it."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from keystay.concurrency.forks import reset_after_fork
from keystay.errors import ConfigurationError
from keystay_pkcs11.module import Module

if TYPE_CHECKING:
    from keystay.backends import Deadline
    from keystay_pkcs11.settings import Settings

__all__ = ["acquire", "registry_lock", "release"]


class _Registry:
    """The modules of this process; they stay loaded, for unloading crashes some."""

    def __init__(self) -> None:
        self.modules: dict[str, Module] = {}
        self._reset()
        reset_after_fork(self._reset)

    def _reset(self) -> None:
        self.lock = threading.Lock()


_registry = _Registry()


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
