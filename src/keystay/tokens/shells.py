"""The two shells: they do what a flow asks for, and hand it the answer or the error."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread

from keystay.http.messages import HttpRequest, HttpResponse
from keystay.http.send import require_open, send, send_async
from keystay.tokens.actions import Action, BuildAssertion, Call, Pause

if TYPE_CHECKING:
    import httpx

    from keystay.concurrency import Deadline
    from keystay.tokens.actions import Flow

__all__ = ["drive", "drive_async", "drive_in_threads"]

T = TypeVar("T")


def drive(flow: Flow[T], client: httpx.Client, deadline: Deadline) -> T:
    """Do what a flow asks for until it returns.

    Args:
        flow: Is thrown what goes wrong, interrupts included, so that it can tidy up or try again.
        client: For its requests.
        deadline: For each of its requests and signatures.
    """
    require_open(client)  # before the signer, which may be closed too, has its say
    try:
        action = next(flow)
        while True:
            try:
                answer = _perform(action, client, deadline)
            except BaseException as error:  # noqa: BLE001 - the flow's to raise again
                action = flow.throw(error)
            else:
                action = flow.send(answer)
    except StopIteration as finished:
        return finished.value  # type: ignore[no-any-return]
    finally:
        flow.close()


async def drive_async(flow: Flow[T], client: httpx.AsyncClient, deadline: Deadline) -> T:
    """As `drive`, awaiting; signing goes where the assertion's signer sends it."""
    require_open(client)
    return await _drive_async(flow, partial(send_async, client), deadline)


async def drive_in_threads(flow: Flow[T], client: httpx.Client, deadline: Deadline) -> T:
    """As `drive_async`, with a synchronous HTTP client: its requests run in worker threads."""

    async def send_there(request: HttpRequest, deadline: Deadline) -> HttpResponse:
        return await _in_thread(partial(send, client, request, deadline))

    require_open(client)
    return await _drive_async(flow, send_there, deadline)


async def _in_thread(function: Callable[[], T], *, is_left: bool = True) -> T:
    # Not anyio's own limiter: threads it counts may be waiting for this very request.
    return await anyio.to_thread.run_sync(
        function, abandon_on_cancel=is_left, limiter=anyio.CapacityLimiter(1)
    )


def _perform(action: Action, client: httpx.Client, deadline: Deadline) -> object:
    if isinstance(action, BuildAssertion):
        return action.assertion.build_traced(action.audience, timeout=deadline.remaining)
    if isinstance(action, HttpRequest):
        return send(client, action, deadline)
    if isinstance(action, Call):
        return action.function()
    if isinstance(action, Pause):
        time.sleep(action.seconds)
        return None
    return action.attempt.wait(action.seconds)


async def _drive_async(
    flow: Flow[T],
    sender: Callable[[HttpRequest, Deadline], Awaitable[HttpResponse]],
    deadline: Deadline,
) -> T:
    try:
        action = next(flow)
        while True:
            try:
                answer = await _perform_async(action, sender, deadline)
            except BaseException as error:  # noqa: BLE001 - the flow's to raise again
                action = flow.throw(error)
            else:
                action = flow.send(answer)
    except StopIteration as finished:
        return finished.value  # type: ignore[no-any-return]
    finally:
        flow.close()


async def _perform_async(
    action: Action,
    sender: Callable[[HttpRequest, Deadline], Awaitable[HttpResponse]],
    deadline: Deadline,
) -> Any:
    if isinstance(action, BuildAssertion):
        return await action.assertion.build_traced_async(
            action.audience, timeout=deadline.remaining
        )
    if isinstance(action, HttpRequest):
        return await sender(action, deadline)
    if isinstance(action, Call):
        return await _in_thread(action.function, is_left=action.is_left)
    if isinstance(action, Pause):
        await anyio.sleep(action.seconds)
        return None
    return await action.attempt.wait_async(action.seconds)
