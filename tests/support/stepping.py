"""Time and interleavings as inputs of a test: a clock set by hand, and I/O that a test steps.

A coroutine over `SteppedIO` stops at each thing that it asks of the world. The test sees what that
is, answers it when it likes, and so decides what runs between any two steps of any caller.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from threading import Condition
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from keystay.concurrency.clock import Clock, Deadline
from keystay.token_stores.access_token import AccessToken

if TYPE_CHECKING:
    from keystay.assertion import ClientAssertion
    from keystay.concurrency.threads import SharedEvent
    from keystay.http.messages import HttpRequest, HttpResponse

__all__ = ["Call", "ManualClock", "Step", "SteppedIO"]

T = TypeVar("T")


class ManualClock:
    """Both of a machine's clocks, which go as the test wants.

    Attributes:
        at: What `now()` says.
        wall: What `time()` says.
        slept: Every `sleep`, in seconds; it also lets that time pass.
        on_wait: Called with the seconds when a thread would wait for a condition; by default that
            time passes. What it does, other threads do meanwhile.
    """

    def __init__(self, at: float = 1000.0, wall: float = 1_700_000_000.0) -> None:
        self.at, self.wall = at, wall
        self.slept: list[float] = []
        self.on_wait: Callable[[float], object] = self.passes
        self.clock = Clock(lambda: self.at, self._sleep, lambda: self.wall, self._wait)

    def passes(self, seconds: float) -> None:
        """Let time pass."""
        self.at += seconds
        self.wall += seconds

    def deadline(self, seconds: float = 3600.0) -> Deadline:
        """A deadline by this clock."""
        return Deadline.after(seconds, self.clock)

    def token(self, lifetime: float = 300.0) -> AccessToken:
        """A token that is asked for now."""
        return AccessToken(
            "x",
            expires_in=lifetime,
            scope="s",
            requested_scope="s",
            requested_at=self.at,
            clock=self.clock,
        )

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.passes(seconds)

    def _wait(self, condition: Condition, seconds: float) -> None:
        condition.release()
        try:
            self.on_wait(seconds)
        finally:
            condition.acquire()


class Step:
    """Something that a coroutine asks of the world.

    Attributes:
        kind: What it is.
        seconds: For how long; of `sleep` and `wait`.
        request: What is to be sent; of `send`.
        event: What is waited for; of `wait`.
    """

    def __init__(
        self,
        kind: Literal["ask", "send", "sleep", "wait"],
        seconds: float = 0.0,
        request: HttpRequest | None = None,
        event: SharedEvent | None = None,
    ) -> None:
        self.kind, self.seconds, self.request, self.event = kind, seconds, request, event

    def __await__(self) -> Generator[Step, Any, Any]:
        return (yield self)

    def __repr__(self) -> str:
        return f"<Step {self.kind} {self.seconds:g}>"


class SteppedIO:
    """I/O whose every answer the test gives. Functions are run at once.

    Args:
        deadline: When to give up; by default in an hour.
        blocks: Whether it is a thread's.
    """

    def __init__(self, deadline: Deadline | None = None, *, blocks: bool = False) -> None:
        self.deadline, self.blocks = deadline or Deadline.after(3600), blocks

    async def send(self, request: HttpRequest) -> HttpResponse:
        return await Step("send", request=request)  # type: ignore[no-any-return]

    async def sign(self, assertion: ClientAssertion, audience: str) -> tuple[str, str | None]:
        return assertion.build_traced(audience)

    async def run(
        self,
        function: Callable[[], T],
        seconds: float | None = None,
        *,
        late: Callable[[T | None], object] | None = None,
    ) -> T:
        return function()

    async def sleep(self, seconds: float) -> None:
        await Step("sleep", seconds)

    async def wait(self, event: SharedEvent, seconds: float) -> bool:
        return await Step("wait", seconds, event=event)  # type: ignore[no-any-return]


class Call(Generic[T]):
    """A coroutine that is run step by step; its first step is taken at once.

    Attributes:
        step: What it asks for now; None once it is over.
        result: What it returned.
        error: What it raised.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        self.step: Step | None = None
        self.result: T | None = None
        self.error: BaseException | None = None
        self._take(lambda: coroutine.send(None))

    @property
    def kind(self) -> str | None:
        """The kind of its step; None once it is over."""
        return None if self.step is None else self.step.kind

    def answer(self, value: object = None) -> T | None:
        """Give it what it asked for; return what it returns, if it does."""
        return self._take(lambda: self._coroutine.send(value))

    def fail(self, error: BaseException) -> T | None:
        """Raise an error where it stands; return what it returns, if it does."""
        return self._take(lambda: self._coroutine.throw(error))

    def close(self) -> None:
        """Drop it, as a cancelled task drops its coroutine."""
        self._coroutine.close()
        self.step = None

    def _take(self, call: Callable[[], Step]) -> T | None:
        self.step = None
        try:
            self.step = call()
        except StopIteration as finished:
            self.result = finished.value
        except BaseException as error:  # noqa: BLE001 - the test's to look at
            self.error = error
        return self.result
