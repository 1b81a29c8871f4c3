"""A loaded PKCS#11 module: one for each real path in a process, however many keys use it.

It starts thread-safely, restarts when its device was lost (at most once in 30 s, with no other
call inside), and starts afresh in a forked child. Each start is an *epoch*: handles of another
epoch mean nothing.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from pkcs11 import TokenFlag
from pkcs11.exceptions import PKCS11Error

from keystay.errors import BackendTimeoutError, BackendUnavailableError, ConfigurationError
from keystay_pkcs11.errors import Place, ckr_name, mapped
from keystay_pkcs11.gate import Gate
from keystay_pkcs11.library import Library, load
from keystay_pkcs11.selection import TokenFacts

if TYPE_CHECKING:
    from pkcs11 import Token as NativeToken

    from keystay.backends import Deadline
    from keystay_pkcs11.settings import Settings
    from keystay_pkcs11.token import Token

__all__ = ["RESTART_INTERVAL", "Module", "acquire", "registry_lock"]

logger = logging.getLogger("keystay.backends.pkcs11")

RESTART_INTERVAL = 30.0
"""Seconds between two restarts of a module that runs."""

_RETRY_INTERVAL = 0.5  # between attempts to start one that does not run
_QUIET_SECONDS = 2.0  # that a restart waits for calls under way
_FORK_SECONDS = 0.5  # that a fork waits for them

# Manufacturers whose module neither notices a fork nor gives the child a connection of its own:
# what the child says to the device, C_Finalize included, garbles what the parent says.
# tpm2-pkcs11 keeps one connection to tpm2-abrmd for each C_Initialize.
_SHARES_CONNECTION = ("tpm2-software",)


class Module:
    """One module.

    Attributes:
        place: For messages.
        cryptoki: Our own C calls.
        gate: Every call into the module goes through it.
        epoch: Changes with each start.
        pid: The process it belongs to.
        library: python-pkcs11's library.
        tokens: Those in use, by label and serial.
        refuse_after_fork: Whether a forked child must leave it alone while its parent has it.

    Args:
        path: Real path.
        init_args: What C_Initialize passes in pReserved, or None.

    Raises:
        ConfigurationError: It cannot be loaded, or is no PKCS#11 module.
    """

    def __init__(self, path: str, init_args: str | None) -> None:
        self.path = path
        self.place = Place(path)
        self.library = load(path)
        self.cryptoki = self.library.cryptoki
        self.gate = Gate()
        self.epoch = 0
        self.pid = os.getpid()
        self.tokens: dict[tuple[str, str], Token] = {}
        self.users = 0
        self.init_args = init_args
        self.refuse_after_fork = False
        self._is_parents = False  # in a forked child that must leave it alone
        self._lock = threading.Lock()
        self._ready = False
        self._ours = False  # nobody else in this process had initialised it
        self._stale = False  # finalise before the next start
        self._next_start = 0.0
        self._restarted = -RESTART_INTERVAL
        self._unconfirmed = False

    def __repr__(self) -> str:
        return f"<Module {self.path}>"

    @property
    def running(self) -> bool:
        """Whether it is initialised, as far as we know."""
        return self._ready

    def load_again(self) -> None:
        """Begin anew with a module that nobody uses.

        p11-kit's client reads its server's address when it hands out its functions.
        """
        self.library = load(self.path)
        self.cryptoki = self.library.cryptoki
        self._next_start = 0.0
        self._restarted = -RESTART_INTERVAL
        self._unconfirmed = False

    def start(self, deadline: Deadline) -> int:
        """Start it unless it runs.

        Returns:
            The epoch.

        Raises:
            BackendUnavailableError: It does not start.
            BackendTimeoutError: Another thread was starting it until the deadline.
        """
        if self.pid != os.getpid():
            self.after_fork()
        if self._ready:
            return self.epoch
        if self._is_parents:
            raise BackendUnavailableError(
                f"{self.place} was in use when this process was forked, and cannot be used here.",
                cause="The module shares its connection to the device with the parent process.",
                hint="Open the key after the fork (gunicorn: in post_fork), or start processes "
                "with multiprocessing's spawn.",
                code="fork-unsupported",
            )
        with self.locked(self._lock, deadline):
            if not self._ready:
                wait = self._next_start - time.monotonic()
                if wait > min(deadline.remaining, _RETRY_INTERVAL):
                    raise self._too_soon(wait)
                if wait > 0:
                    time.sleep(wait)
                with self.gate.alone(min(deadline.remaining, _QUIET_SECONDS)):
                    self._start()
            return self.epoch

    def restart(self, epoch: int, error: PKCS11Error, deadline: Deadline) -> None:
        """Finalise and start again, with no other call inside; not more than every 30 s.

        Args:
            epoch: The one in which the caller's calls failed; if it is over, this is done.
            error: How they failed.
            deadline: When to give up.

        Raises:
            BackendUnavailableError: It was restarted a moment ago, or does not start.
            BackendTimeoutError: Calls under way did not return.
        """
        with self.locked(self._lock, deadline):
            if self.epoch != epoch or not self._ready:
                return
            wait = self._restarted + RESTART_INTERVAL - time.monotonic()
            if wait > 0:
                raise self._too_soon(wait) from error
            logger.warning("Restarting %s after %s.", self.place, ckr_name(error))
            with self.gate.alone(min(deadline.remaining, _QUIET_SECONDS)):
                self._end_epoch()
                self._stale = self._unconfirmed = True
                self._start()

    def confirm(self) -> None:
        """A token of this epoch was reached: a restart, if there was one, has succeeded."""
        if self._unconfirmed:
            self._unconfirmed = False
            self._restarted = time.monotonic()

    def look_again(self, epoch: int, deadline: Deadline) -> bool:
        """Start anew because a token is missing, but not while another one is in use.

        SoftHSM does not see a token that another process is just writing to (which it does at
        every login), and p11-kit's client, started without its server, never looks again.

        Returns:
            Whether it makes sense to look again.
        """
        with self.locked(self._lock, deadline):
            if self.epoch != epoch:
                return True
            if any(token.connected_in(epoch) for token in self.tokens.values()):
                return False
            with self.gate.alone(min(deadline.remaining, _QUIET_SECONDS)):
                self._end_epoch()
                self._stale = True
                self._start()
            return True

    def give_up(self, epoch: int) -> None:
        """A token stays missing: start anew at the next attempt, which waits a moment."""
        with self._lock:
            if self.epoch == epoch and not any(
                token.connected_in(epoch) for token in self.tokens.values()
            ):
                self._end_epoch()
                self._stale = True
                self._next_start = time.monotonic() + _RETRY_INTERVAL

    def present_tokens(
        self, deadline: Deadline
    ) -> tuple[list[tuple[TokenFacts, NativeToken]], list[str]]:
        """The tokens there are, and what slots said that could not be read.

        One broken slot does not hide the others.

        Raises:
            PKCS11Error: The slots cannot be listed.
        """
        found, trouble = [], []
        with self.gate.call(deadline):
            for slot in self.library.get_slots(token_present=True):
                try:
                    native = slot.get_token()
                except PKCS11Error as error:
                    trouble.append(f"slot {slot.slot_id}: {ckr_name(error)}")
                else:
                    found.append((_facts(native, self.library), native))
        return found, trouble

    def release(self) -> None:
        """One user less. The last one finalises the module, if nobody else initialised it."""
        with _registry.lock:
            self.users -= 1
            last = not self.users
        if not last or self.pid != os.getpid():
            return
        with self._lock:
            if self.users or not self._ready or not self._ours:
                return
            # A call that hangs keeps the module as it is: finalising under it would be worse.
            if self.gate.shut(_QUIET_SECONDS):
                try:
                    self._end_epoch()
                    with suppress(PKCS11Error):
                        self.cryptoki.finalize()
                finally:
                    self.gate.open()

    def after_fork(self) -> None:
        """In a forked child: nothing of the parent's can be used, locks and sessions included."""
        self.pid = os.getpid()
        self.gate = Gate()
        self._lock = threading.Lock()
        self._stale = self._stale or self._ready
        self._is_parents = self._is_parents or (self._ready and self._shares_connection())
        self._end_epoch()
        self._next_start = 0.0
        self._restarted = -RESTART_INTERVAL
        for token in self.tokens.values():
            token.after_fork()

    @contextmanager
    def locked(self, lock: threading.Lock, deadline: Deadline) -> Iterator[None]:
        """Hold a lock for the block.

        Raises:
            BackendTimeoutError: Another thread held it until the deadline.
        """
        if not lock.acquire(timeout=deadline.remaining):
            raise BackendTimeoutError(
                f"Another thread was still connecting to {self.place} after "
                f"{deadline.seconds:g} s.",
                cause="The device is slow or hangs, or a PIN is being asked for.",
                hint="Check the device; allow more time.",
            )
        try:
            yield
        finally:
            lock.release()

    def _start(self) -> None:
        """Initialise; nobody else is inside."""
        self._next_start = time.monotonic() + _RETRY_INTERVAL
        with mapped("starting the module", self.place):
            self._ours = self.cryptoki.initialize(self.init_args)
            if self._stale and not self._ours:
                # It still holds to what was lost, or what a forked child has from its parent.
                # (p11-kit's client notices a fork by itself, and complains of C_Finalize.)
                with suppress(PKCS11Error):
                    self.cryptoki.finalize()
                self._ours = self.cryptoki.initialize(self.init_args)
            self._stale = False
            try:
                self.library.read_info()
            except PKCS11Error:
                self._stale = True
                raise
        self._ready = True

    def _shares_connection(self) -> bool:
        made_by = self.library.manufacturer_id.lower()
        return self.refuse_after_fork or any(word in made_by for word in _SHARES_CONNECTION)

    def _end_epoch(self) -> None:
        self._ready = False
        self.epoch += 1

    def _too_soon(self, wait: float) -> BackendUnavailableError:
        return BackendUnavailableError(
            f"The device behind {self.place} was lost and does not answer as it should.",
            cause=f"It was restarted a moment ago; the next attempt is in {wait:.1f} s.",
            hint="Check the device, its daemon and its log.",
            code="device-lost",
        )


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
    """The module that the settings name, running; `Module.release` must follow.

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
        module.release()
        raise
    return module


def _facts(token: NativeToken, library: Library) -> TokenFacts:
    slot = token.slot
    return TokenFacts(
        label=token.label,
        serial=token.serial.decode(errors="replace").rstrip("\0 "),
        model=token.model,
        manufacturer=token.manufacturer_id,
        slot_id=str(slot.slot_id),
        slot_description=slot.slot_description,
        slot_manufacturer=slot.manufacturer_id,
        library_description=library.library_description,
        library_manufacturer=library.manufacturer_id,
        library_version="{}.{}".format(*library.library_version),
        initialized=bool(token.flags & TokenFlag.TOKEN_INITIALIZED),
    )
