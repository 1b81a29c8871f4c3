"""A loaded PKCS#11 module: one for each real path in a process, however many keys use it.

It starts thread-safely, restarts when its device was lost (at most once in 30 s, with no other
call inside), and starts afresh in a forked child. Modules that have no device of their own to
disturb (SoftHSM and other software, p11-kit's client) are started anew more often, but only while
the token is missing and no other one is in use. Each start is an *epoch*: handles of another epoch
mean nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from pkcs11.exceptions import PKCS11Error, SessionClosed

from keystay.concurrency.clock import Deadline
from keystay.concurrency.forks import detect_fork, reset_after_fork
from keystay.concurrency.locks import DeadlineLock, ReadWriteGate
from keystay.concurrency.threads import WorkerThreads
from keystay.errors import BackendTimeoutError, BackendUnavailableError
from keystay_pkcs11.custody import computes_here, is_remoted
from keystay_pkcs11.errors import CKR_DEVICE_ERROR, Place, ckr_name, exception_for, mapped
from keystay_pkcs11.library import load
from keystay_pkcs11.login import unanswered
from keystay_pkcs11.slots import present_tokens

if TYPE_CHECKING:
    from pkcs11 import Token as NativeToken

    from keystay_pkcs11.selection import TokenFacts
    from keystay_pkcs11.token import Token

__all__ = ["RESTART_INTERVAL", "Module"]

_T = TypeVar("_T")

logger = logging.getLogger("keystay.backends.pkcs11")

RESTART_INTERVAL = 30.0
"""Seconds between two restarts of a module that runs."""

_RETRY_INTERVAL = 0.5  # between attempts to start one that does not run
_QUIET_SECONDS = 2.0  # that a restart waits for calls under way
_REMOTED_QUIET_SECONDS = 0.5  # the same, where they may be left behind
_PAUSE_WHEN_BUSY = 5  # after one that they did not let through: so many times what it waited

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
        library: python-pkcs11's library.
        tokens: Those in use, by label and serial.
        computes_here: Whether it is software that signs in the calling thread: no call hangs.
        workers: Make the calls of any other.
        refuse_after_fork: Whether a forked child must leave it alone while its parent has it.

    Args:
        path: Real path.
        init_args: What C_Initialize passes in pReserved, or None.

    Raises:
        ConfigurationError: It cannot be loaded, or is no PKCS#11 module.
    """

    _unconfirmed: bool

    def __init__(self, path: str, init_args: str | None) -> None:
        self.path = path
        self.place = Place(path)
        self.library = load(path)
        self.cryptoki = self.library.cryptoki
        self.gate = ReadWriteGate(busy=_busy, closed=_restarting)
        self.epoch = 0
        self.tokens: dict[tuple[str, str], Token] = {}
        self.users = 0
        self.computes_here = False
        self.workers = WorkerThreads(path)
        self._starter = WorkerThreads(path)
        # p11-kit's client may leave threads waiting for ever when its connection is cut (0.24.1,
        # p11-kit/rpc-transport.c: rpc_socket_read wakes nobody when it fails). They wait for
        # nothing that C_Finalize takes away, so it is finalised under them.
        self._remoted = is_remoted(path)
        self._quiet = _REMOTED_QUIET_SECONDS if self._remoted else _QUIET_SECONDS
        self.init_args = init_args
        self.refuse_after_fork = False
        self._is_parents = False  # in a forked child that must leave it alone
        self._lock = DeadlineLock(f"connecting to {self.place}")
        self._ready = False
        self._ours = False  # nobody else in this process had initialised it
        self._stale = False  # finalise before the next start
        self._next_start = 0.0
        self._forget_restarts()
        self._why = "it did not start."
        reset_after_fork(self._reset_after_fork)

    def __repr__(self) -> str:
        return f"<Module {self.path}>"

    @property
    def running(self) -> bool:
        """Whether it is initialised, as far as we know."""
        return self._ready

    @property
    def may_restart(self) -> bool:
        """Whether the last restart is long enough ago."""
        return self._wait <= 0

    def load_again(self) -> None:
        """Begin anew with a module that nobody uses.

        p11-kit's client reads its server's address when it hands out its functions.
        """
        self.library = load(self.path)
        self.cryptoki = self.library.cryptoki
        self._next_start = 0.0
        self._forget_restarts()

    def start(self, deadline: Deadline) -> int:
        """Start it unless it runs.

        Returns:
            The epoch.

        Raises:
            BackendUnavailableError: It does not start.
            BackendTimeoutError: Another thread was starting it until the deadline.
        """
        detect_fork()
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
        with self._lock.held(deadline):
            if not self._ready:
                wait = self._next_start - time.monotonic()
                if wait > min(deadline.remaining, _RETRY_INTERVAL):
                    raise self._too_soon(wait)
                if wait > 0:
                    time.sleep(wait)
                self._start_alone(deadline, again=False)
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
        with self._lock.held(deadline):
            if self.epoch != epoch or not self._ready:
                return
            if not self.may_restart:
                raise self._too_soon(self._wait) from error
            logger.warning(
                "Restarting %s after %s.",
                self.place,
                ckr_name(error),
                extra={"event": "module-restarted"},
            )
            self._why = ckr_name(error)
            self._start_alone(deadline, again=True, counts=True)

    def confirm(self) -> None:
        """A token of this epoch was reached: a restart, if there was one, ends only here."""
        if self._unconfirmed:
            self._unconfirmed = False
            self._restarted = time.monotonic()

    def look_again(self, epoch: int, deadline: Deadline) -> bool:
        """Start anew because a token is missing, but not while another one is in use.

        SoftHSM does not see a token that another process is just writing to (which it does at
        every login), and p11-kit's client, started without its server, never looks again. Of
        other modules a few see a token only then: they are started anew at most every 30 s.

        Returns:
            Whether it makes sense to look again.
        """
        with self._lock.held(deadline):
            if self.epoch != epoch:
                return True
            if any(token.connected_in(epoch) for token in self.tokens.values()):
                return False
            if self._is_light or self.may_restart:
                self._start_alone(deadline, again=True, counts=not self._is_light)
            return True

    def give_up(self, epoch: int) -> None:
        """A token stays missing: start anew at the next attempt, which waits a moment."""
        with suppress(BackendTimeoutError), self._lock.held(Deadline.after(_QUIET_SECONDS)):
            if not self._is_light:
                return  # it is started anew when it may be
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
        return self.call(lambda: present_tokens(self.library), deadline)

    def call(
        self,
        function: Callable[[], _T],
        deadline: Deadline,
        *,
        epoch: int | None = None,
        on_abandon: Callable[[], object] | None = None,
        late: Callable[[_T | None], object] | None = None,
    ) -> _T:
        """What a function returns that is inside the module; every call goes through here.

        A device that hangs does not hold up the caller for longer than the deadline: the
        function is called in a thread of its own. Where the module computes by itself there is
        no device, and the hop is saved.

        Args:
            function: Calls the module.
            deadline: When to give up.
            epoch: The one whose handles it uses; not called in another.
            on_abandon: As for `WorkerThreads.call_with_deadline`.
            late: As for `WorkerThreads.call_with_deadline`.

        Raises:
            BackendTimeoutError: It did not return in time, or the module is being restarted.
            PKCS11Error: Its handles mean nothing any more, or what the function raises.
        """
        if self.computes_here:
            return self._inside(function, deadline, epoch)

        def after(returned: _T | None) -> None:
            try:
                if late is not None:
                    late(returned)
            finally:
                if not self.users:  # it was closed meanwhile, and could not be stopped
                    self.stop()

        return self.workers.call_with_deadline(
            lambda: self._inside(function, deadline, epoch),
            deadline,
            on_abandon=on_abandon,
            late=after,
        )

    def stop(self) -> None:
        """Finalise it, if nobody uses it and nobody else in this process had initialised it."""
        detect_fork()
        with suppress(BackendTimeoutError), self._lock.held(Deadline.after(_QUIET_SECONDS)):
            if self.users or not self._ready or not self._ours:
                return
            # A call that hangs keeps the module as it is: finalising under it would be worse.
            quiet = 0.0 if self.workers.abandoned else self._quiet
            with suppress(PKCS11Error, BackendUnavailableError):
                self._starter.call_with_deadline(
                    lambda: self._finalize(quiet), Deadline.after(_QUIET_SECONDS)
                )

    def _reset_after_fork(self) -> None:
        """In a forked child nothing of the parent's can be used, sessions included."""
        unanswered.clear()
        self._stale = self._stale or self._ready
        self._is_parents = self._is_parents or (self._ready and self._shares_connection())
        self._end_epoch()
        self._next_start = 0.0
        self._forget_restarts()

    def _inside(self, function: Callable[[], _T], deadline: Deadline, epoch: int | None) -> _T:
        gate = self.gate
        generation = gate.enter(deadline)
        try:
            if epoch is not None and epoch != self.epoch:
                raise SessionClosed
            return function()
        finally:
            gate.leave(generation)

    def _start_alone(self, deadline: Deadline, *, again: bool, counts: bool = False) -> None:
        """Initialise with nobody else inside; `again` after finalising.

        One that `counts` is not done for a while after, whether it succeeds or not.

        Raises:
            BackendUnavailableError: It does not start.
            BackendTimeoutError: Calls under way, or this one, did not return.
        """
        epoch = self.epoch
        seconds = min(deadline.remaining, self._quiet)

        def alone() -> None:
            with self.gate.exclusive(seconds, force=self._remoted) as indeed:
                if self.epoch != epoch:
                    return  # somebody else has done it
                if again:
                    if counts:
                        self._restarted = time.monotonic()
                        self._unconfirmed = True
                    self._end_epoch()
                    self._stale = True
                    if not indeed:
                        self._abandon_calls()
                elif self._ready:
                    return
                self._start()

        try:
            self._starter.call_with_deadline(alone, deadline)
        except BackendUnavailableError as error:
            self._why = error.message
            if error.code == "module-busy":  # nobody could call it meanwhile
                self._busy_until = time.monotonic() + _PAUSE_WHEN_BUSY * seconds
            raise

    def _finalize(self, quiet: float) -> None:
        with self.gate.exclusive(quiet):
            self._end_epoch()
            self.cryptoki.finalize()

    def _abandon_calls(self) -> None:
        """Let go of the callers whose calls were inside when the module was started anew."""
        hanging, self.workers = self.workers, WorkerThreads(self.path)
        hanging.abandon_all(lambda: exception_for(CKR_DEVICE_ERROR))
        for token in self.tokens.values():
            token.confirming.reset()
        # What a login of theirs came to will never be known.
        unanswered.difference_update([token for token in unanswered if token[0] == self.path])

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
        self.computes_here = computes_here(self.path, self.library)
        self._ready = True

    def _shares_connection(self) -> bool:
        made_by = self.library.manufacturer_id.lower()
        return self.refuse_after_fork or any(word in made_by for word in _SHARES_CONNECTION)

    @property
    def _wait(self) -> float:
        """Seconds until it may be restarted."""
        return max(self._restarted + RESTART_INTERVAL, self._busy_until) - time.monotonic()

    @property
    def _is_light(self) -> bool:
        """Whether starting it anew disturbs no device."""
        return self.computes_here or self._remoted

    def _forget_restarts(self) -> None:
        self._restarted, self._busy_until = -RESTART_INTERVAL, 0.0
        self._unconfirmed = False

    def _end_epoch(self) -> None:
        self._ready = False
        self.epoch += 1

    def _too_soon(self, wait: float) -> BackendUnavailableError:
        return BackendUnavailableError(
            f"The device behind {self.place} was lost and does not answer as it should.",
            cause=f"A restart was tried a moment ago, which is not done again for {wait:.1f} s. "
            f"What went wrong: {self._why}",
            hint="Check the device, its daemon and its log.",
            code="device-lost",
        )


def _busy(inside: int, seconds: float) -> BackendTimeoutError:
    return BackendTimeoutError(
        f"The module could not be restarted: {inside} calls into it did not return within "
        f"{seconds:g} s.",
        cause="The device hangs; a PKCS#11 call cannot be interrupted.",
        hint="Check the device; restart this process if it does not come back.",
        code="module-busy",
    )


def _restarting(deadline: Deadline) -> BackendTimeoutError:
    return BackendTimeoutError(
        f"The module did not finish restarting within {deadline.seconds:g} s.",
        cause="Another thread is bringing the module back after a failure.",
        hint="Check the device and its daemon.",
        code="module-restarting",
    )
