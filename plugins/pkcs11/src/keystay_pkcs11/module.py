"""The life of a loaded PKCS#11 module: one for each real path in a process, shared by all keys.

Each start begins a *generation*; handles of another generation are invalid. What a module becomes:

| event                              | `stopped`  | `running`           | `lost`     | `foreign` |
|------------------------------------|------------|---------------------|------------|-----------|
| `start`                            | running[1] | running             | running[2] | refused   |
| `restart`                          | stopped    | running[2], or lost | lost       | foreign   |
| `reinitialise_if_idle`             | running[1] | running[2], or lost | running[2] | refused   |
| `mark_missing`, of a light module  | lost       | lost                | lost       | foreign   |
| `stop`, by its last user           | stopped    | stopped             | lost       | foreign   |
| fork, in the child                 | stopped    | lost, or foreign    | lost       | foreign   |

[1] C_Initialize. [2] C_Finalize and C_Initialize. Where these fail, it stays or becomes `lost`.

- A start waits until 0.5 s after the last one. A restart runs with no other call inside, at most
  once in 30 s; if calls under way do not return within 2 s it fails with `module-busy`, and none is
  tried for 10 s.
- A module is *light* if it has no device of its own to disturb: SoftHSM and other software, and
  p11-kit's client. It is reinitialised more often, but only while no token of it is in use.
- `stop` leaves a module alone that something else in this process had initialised.
- `foreign`: a child leaves a module to its parent that would disturb the parent's connection.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

from pkcs11.exceptions import DeviceError, PKCS11Error, SessionClosed

from keystay.concurrency.clock import SYSTEM_CLOCK, Clock, Deadline
from keystay.concurrency.forks import detect_fork, reset_after_fork
from keystay.concurrency.locks import DeadlineLock, ReadWriteGate
from keystay.concurrency.threads import WorkerThreads
from keystay.errors import BackendTimeoutError, BackendUnavailableError, KeystayError
from keystay_pkcs11.cryptoki import Library, load
from keystay_pkcs11.custody import computes_here, is_remoted
from keystay_pkcs11.errors import TEXTS, Place, ckr_name, translated

if TYPE_CHECKING:
    from keystay_pkcs11.settings import Settings

__all__ = ["RESTART_INTERVAL", "Module", "acquire", "registry", "release"]

_T = TypeVar("_T")
State = Literal["stopped", "running", "lost", "foreign"]

logger = logging.getLogger("keystay.backends.pkcs11")

RESTART_INTERVAL = 30.0
"""Seconds between two restarts of a module that runs."""

_RETRY_INTERVAL = 0.5  # between two attempts to start one that does not run
_QUIET_SECONDS = 2.0  # that a restart waits for calls under way
_REMOTED_QUIET_SECONDS = 0.5  # the same, where they may be left behind
_PAUSE_WHEN_BUSY = 5  # times the seconds waited in vain, until the next restart is tried

# Manufacturers whose module neither notices a fork nor gives the child a connection of its own:
# what the child sends to the device, C_Finalize included, garbles what the parent sends.
# tpm2-pkcs11 keeps one connection to tpm2-abrmd for each C_Initialize.
_SHARES_CONNECTION = ("tpm2-software",)


class Module:
    """One module.

    Attributes:
        path: Real path.
        place: For messages.
        init_args: What C_Initialize passes in pReserved, or None.
        library: python-pkcs11's library.
        cryptoki: Our own C calls.
        gate: Every call into the module goes through it.
        state: See above.
        generation: Number of the start that handles belong to.
        users: Keys and stores that have it open.
        computes_here: Whether it is software that signs in the calling thread: no call hangs.
        workers: Make the calls of any other.
        clock: The machine's, or a test's.
        refuse_after_fork: Whether a forked child must leave it alone while its parent has it.

    Args:
        path: Real path.
        init_args: What C_Initialize passes in pReserved, or None.
        loader: Loads it.
        clock: The machine's, or a test's.

    Raises:
        ConfigurationError: It cannot be loaded, or is no PKCS#11 module.
    """

    _is_unconfirmed: bool  # whether no token was reached since the last restart

    def __init__(
        self,
        path: str,
        init_args: str | None = None,
        *,
        loader: Callable[[str], Library] = load,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.path, self.init_args = path, init_args
        self.place = Place(path)
        self._loader, self.clock = loader, clock
        self.library = loader(path)
        self.cryptoki = self.library.cryptoki
        self.gate = ReadWriteGate(busy=_busy, closed=_restarting)
        self.state: State = "stopped"
        self.generation = self.users = 0
        self.computes_here = self.refuse_after_fork = False
        self.workers, self._starter = WorkerThreads(path), WorkerThreads(path)
        # p11-kit's client may leave threads waiting for ever when its connection is cut (0.24.1,
        # p11-kit/rpc-transport.c: rpc_socket_read wakes no other thread when it fails). They wait
        # for nothing that C_Finalize takes away, so it is finalised under them.
        self._remoted = is_remoted(path)
        self._quiet = _REMOTED_QUIET_SECONDS if self._remoted else _QUIET_SECONDS
        self._is_ours = False  # whether nothing else in this process had initialised it
        self._in_use: dict[object, int] = {}
        self._lock = DeadlineLock(f"connecting to {self.place}")
        self._cause = "it did not start."
        self._forget_attempts()
        reset_after_fork(self._reset_after_fork)

    def __repr__(self) -> str:
        return f"<Module {self.path}, {self.state}>"

    @property
    def is_running(self) -> bool:
        """Whether it is initialised, as far as we know."""
        return self.state == "running"

    @property
    def may_restart(self) -> bool:
        """Whether the last restart is long enough ago."""
        return self._restart_wait <= 0

    def load_again(self) -> None:
        """Load a module again that has no users: it starts as the first time.

        p11-kit's client reads its server's address when it hands out its functions.
        """
        self.library = self._loader(self.path)
        self.cryptoki = self.library.cryptoki
        self._forget_attempts()

    def start(self, deadline: Deadline) -> int:
        """Start it unless it runs.

        Returns:
            The generation.

        Raises:
            BackendUnavailableError: It does not start.
            BackendTimeoutError: Another thread was starting it until the deadline.
        """
        detect_fork()
        if self.is_running:
            return self.generation
        if self.state == "foreign":
            raise TEXTS.error("forked", place=self.place)
        with self._lock.held(deadline):
            if not self.is_running:
                wait = self._next_start - self.clock.now()
                if wait > deadline.remaining:
                    raise self._too_soon(wait)
                if wait > 0:
                    self.clock.sleep(wait)
                self._initialize(deadline)
            return self.generation

    def restart(self, generation: int, error: PKCS11Error, deadline: Deadline) -> None:
        """Finalise and start again.

        Args:
            generation: The one in which the caller's calls failed; if it is over, this is done.
            error: How they failed.
            deadline: When to give up.

        Raises:
            BackendUnavailableError: It was restarted a moment ago, or does not start.
            BackendTimeoutError: Calls under way did not return.
        """
        with self._lock.held(deadline):
            if self.generation != generation or not self.is_running:
                return
            if not self.may_restart:
                raise self._too_soon(self._restart_wait) from error
            logger.warning(
                "Restarting %s after %s.",
                self.place,
                ckr_name(error),
                extra={"event": "module-restarted"},
            )
            self._cause = ckr_name(error)
            self._initialize(deadline, again=True, counts=True)

    def reinitialise_if_idle(self, generation: int, deadline: Deadline) -> bool:
        """Start again because a token is missing, but not while another one is in use.

        SoftHSM does not see a token that another process is just writing to (which it does at
        every login), and p11-kit's client, started without its server, never looks again. Some
        others see a token only after a start: they are started again at most every 30 s.

        Returns:
            Whether the token may be there now.

        Raises:
            BackendUnavailableError, BackendTimeoutError: As `restart`.
        """
        with self._lock.held(deadline):
            if self.generation != generation:
                return True
            if self.is_in_use:
                return False
            if self._is_light or self.may_restart:
                self._initialize(deadline, again=True, counts=not self._is_light)
            return True

    def mark_missing(self, generation: int) -> None:
        """A token stays missing: where that disturbs no device, start again at the next call."""
        with suppress(BackendTimeoutError), self._lock.held(Deadline.after(_QUIET_SECONDS)):
            if self._is_light and self.generation == generation and not self.is_in_use:
                self._end_generation("lost")
                self._next_start = self.clock.now() + _RETRY_INTERVAL

    def mark_in_use(self, owner: object, generation: int) -> None:
        """`owner` reached its token: a restart, if there was one, ends only here."""
        self._in_use[owner] = generation
        if self._is_unconfirmed:
            self._is_unconfirmed = False
            self._restarted_at = self.clock.now()

    def mark_unused(self, owner: object) -> None:
        """`owner` let go of its token."""
        self._in_use.pop(owner, None)

    @property
    def is_in_use(self) -> bool:
        """Whether a token was reached in this generation, and is still in use."""
        return self.generation in list(self._in_use.values())

    def call(
        self,
        function: Callable[[], _T],
        deadline: Deadline,
        *,
        generation: int | None = None,
        on_abandon: Callable[[], object] | None = None,
        late: Callable[[_T | None], object] | None = None,
    ) -> _T:
        """What a function returns that calls the module; every call goes through here.

        A device that hangs does not hold up the caller for longer than the deadline: the
        function is called in a thread of its own. Where the module computes by itself there is
        no device, and the hop is saved.

        Args:
            function: Calls the module.
            deadline: When to give up.
            generation: The one whose handles it uses; not called in another.
            on_abandon: As for `WorkerThreads.call_with_deadline`.
            late: As for `WorkerThreads.call_with_deadline`.

        Raises:
            BackendTimeoutError: It did not return in time, or the module is being restarted.
            PKCS11Error: Its handles are of another generation, or what the function raises.
        """
        if self.computes_here:
            return self._inside(function, deadline, generation)

        def after(returned: _T | None) -> None:
            try:
                if late is not None:
                    late(returned)
            finally:
                if not self.users:  # it was closed meanwhile, and could not be stopped
                    self.stop()

        return self.workers.call_with_deadline(
            partial(self._inside, function, deadline, generation),
            deadline,
            on_abandon=on_abandon,
            late=after,
        )

    def stop(self) -> None:
        """Finalise it, if it has no users and nothing else in this process had initialised it."""
        detect_fork()
        with suppress(BackendTimeoutError), self._lock.held(Deadline.after(_QUIET_SECONDS)):
            if self.users or not self.is_running or not self._is_ours:
                return
            # A call that hangs keeps the module as it is: finalising under it would be worse.
            quiet = 0.0 if self.workers.abandoned else self._quiet
            with suppress(PKCS11Error, BackendUnavailableError):
                self._starter.call_with_deadline(
                    partial(self._finalize, quiet), Deadline.after(_QUIET_SECONDS)
                )

    def _reset_after_fork(self) -> None:
        """In a forked child nothing of the parent's can be used, sessions included."""
        state = self.state
        if state == "running":
            state = "foreign" if self._shares_connection() else "lost"
        self._end_generation(state)
        self._forget_attempts()

    def _inside(self, function: Callable[[], _T], deadline: Deadline, generation: int | None) -> _T:
        gate = self.gate
        entered = gate.enter(deadline)
        try:
            if generation is not None and generation != self.generation:
                raise SessionClosed
            return function()
        finally:
            gate.leave(entered)

    def _initialize(self, deadline: Deadline, *, again: bool = False, counts: bool = False) -> None:
        """Start with no other call inside.

        Args:
            deadline: When to give up.
            again: Whether it may run, and is finalised first.
            counts: Whether none is made for a while after this one, if it succeeds or not.

        Raises:
            BackendUnavailableError: It does not start.
            BackendTimeoutError: Calls under way, or this one, did not return.
        """
        generation = self.generation
        seconds = min(deadline.remaining, self._quiet)

        def exclusively() -> None:
            with self.gate.exclusive(seconds, force=self._remoted) as is_empty:
                if self.generation != generation or (self.is_running and not again):
                    return  # this one was late: another has done it
                if counts:
                    self._restarted_at = self.clock.now()
                    self._is_unconfirmed = True
                if again:
                    self._end_generation("lost")
                    if not is_empty:
                        self._abandon_calls()
                self._start()

        try:
            self._starter.call_with_deadline(exclusively, deadline)
        except BackendUnavailableError as error:
            self._cause = error.message
            if error.code == "module-busy":  # no other thread could call it meanwhile
                self._busy_until = self.clock.now() + _PAUSE_WHEN_BUSY * seconds
            raise

    def _start(self) -> None:
        """Initialise; no other call is inside."""
        self._next_start = self.clock.now() + _RETRY_INTERVAL
        with translated("starting the module", self.place):
            self._is_ours = self.cryptoki.initialize(self.init_args)
            if self.state == "lost" and not self._is_ours:
                # It keeps what was lost, or what a forked child has from its parent.
                # (p11-kit's client notices a fork by itself, and complains of C_Finalize.)
                with suppress(PKCS11Error):
                    self.cryptoki.finalize()
                self._is_ours = self.cryptoki.initialize(self.init_args)
            self.state = "lost"  # until it has said what it is
            self.library.read_info()
        self.computes_here = computes_here(self.path, self.library)
        self.state = "running"

    def _finalize(self, quiet: float) -> None:
        with self.gate.exclusive(quiet):
            self._end_generation("stopped")
            self.cryptoki.finalize()

    def _end_generation(self, state: State) -> None:
        self.state = state
        self.generation += 1

    def _abandon_calls(self) -> None:
        """Release the callers whose calls were inside when the module was started again."""
        hanging, self.workers = self.workers, WorkerThreads(self.path)
        hanging.abandon_all(DeviceError)

    def _shares_connection(self) -> bool:
        manufacturer = self.library.manufacturer_id.lower()
        return self.refuse_after_fork or any(word in manufacturer for word in _SHARES_CONNECTION)

    @property
    def _restart_wait(self) -> float:
        """Seconds until it may be restarted."""
        return max(self._restarted_at + RESTART_INTERVAL, self._busy_until) - self.clock.now()

    @property
    def _is_light(self) -> bool:
        """Whether starting it again disturbs no device."""
        return self.computes_here or self._remoted

    def _forget_attempts(self) -> None:
        self._next_start = self._busy_until = self._restarted_at = float("-inf")
        self._is_unconfirmed = False

    def _too_soon(self, wait: float) -> KeystayError:
        return TEXTS.error("restarted-lately", place=self.place, wait=wait, cause=self._cause)


class _Registry:
    """The modules of this process; they stay loaded, for unloading crashes some.

    Attributes:
        modules: By real path.
        lock: Guards it and the counts of users; held for moments only.
    """

    def __init__(self) -> None:
        self.modules: dict[str, Module] = {}
        self._reset()
        reset_after_fork(self._reset)

    def _reset(self) -> None:
        self.lock = threading.Lock()


registry = _Registry()
"""This process's."""


def acquire(settings: Settings, deadline: Deadline) -> Module:
    """The module that the settings name, running; `release` must follow.

    Raises:
        ConfigurationError: It cannot be loaded, or runs with other `init_args`.
        BackendUnavailableError: It does not start.
    """
    real, init_args = os.path.realpath(settings.module), settings.init_args
    with registry.lock:
        module = registry.modules.get(real)
        if module is None:
            module = registry.modules[real] = Module(real, init_args)
        elif init_args is not None and init_args != module.init_args:
            if module.users:
                raise TEXTS.error("init-args", module=settings.module)
            module.init_args = init_args
        module.refuse_after_fork = module.refuse_after_fork or settings.after_fork == "refuse"
        if not module.users and not module.is_running:
            module.load_again()
        module.users += 1
    try:
        module.start(deadline)
    except BaseException:
        release(module)
        raise
    return module


def release(module: Module) -> None:
    """One user less. The last one finalises the module, unless something else initialised it."""
    with registry.lock:
        module.users -= 1
        is_last = not module.users
    if is_last:
        module.stop()


def _busy(inside: int, seconds: float) -> KeystayError:
    return TEXTS.error("restart-blocked", inside=inside, seconds=seconds)


def _restarting(deadline: Deadline) -> KeystayError:
    return TEXTS.error("restarting", seconds=deadline.seconds)
