"""Handlers on an event loop: ``async def`` ones run on it, the others in threads."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from threading import Lock, get_ident
from time import monotonic
from typing import Any, Final, final

from typedrpc.aio.outlet import Outlet
from typedrpc.aio.pool import Pool
from typedrpc.aio.starter import Starter
from typedrpc.call import Call, enter_call
from typedrpc.common.apart import Apart, End
from typedrpc.common.handlers import weight
from typedrpc.common.sending import Connection
from typedrpc.common.workers import Workers
from typedrpc.dispatch import Dispatcher
from typedrpc.errors import ServerBusy
from typedrpc.failure import pack_protocol_failure
from typedrpc.protocol import Outgoing, Request

LOOK_TIME: Final = 0.05
"""Seconds after which it is tried again to have a thread."""


def no_thread() -> ServerBusy:
    """What a nested call is told that waits for a thread in vain: what all of them wait for may wait for it."""
    return ServerBusy("no thread is left for a call that is nested in another one; raise max_workers")


@final
class LoopApart(Apart):
    """Runs the handlers of one connection; from the loop's thread, but for what is nested in another's call."""

    def __init__(
        self,
        connection: Connection,
        dispatcher: Dispatcher,
        workers: Callable[[], Workers],
        *,
        loop: asyncio.AbstractEventLoop,
        pool: Callable[[], Pool],
        starter: Starter,
        outlet: Outlet,
    ) -> None:
        """As for :class:`typedrpc.common.apart.Apart`; and the loop, its threads, what starts its coroutines, and where
        answers wait.
        """
        super().__init__(connection, dispatcher, workers)
        self._outlet = outlet
        self._loop = loop
        self._thread = get_ident()
        self._pool = pool
        self._starter = starter
        self._lock = Lock()
        self.waiting_bytes = 0
        """Of requests whose handlers wait for a thread."""

    def _start_thread(self, request: Request, call: Call, context: Context, end: End) -> None:
        if not call.row.plain:  # a stream may wait for long
            super()._start_thread(request, call, context, end)
            return
        size = weight(request)
        self._add(size)
        try:
            if call.depth and call.id:  # one-way calls are nested in nothing
                run = partial(self._run_in_pool, size, call, context, end)
                self._pool().run_first(run, partial(self._refuse, size, call, end), self._loop)
            else:
                self._pool().run(partial(self._run_in_pool, size, call, context, end))
        except BaseException:
            self._add(-size)
            raise

    def _run_in_pool(self, size: int, call: Call, context: Context, end: End) -> None:
        """In a thread: run a handler, or put it off while the peer does not read what it is answered."""
        if not call.depth and self._outlet.puts_off(partial(self._run_later, size, call, context, end)):
            return
        self._add(-size)
        context.run(self._run_if_wanted, call, end)

    def _run_later(self, size: int, call: Call, context: Context, end: End) -> None:
        """On the loop: there is room for the answer of a handler that was put off."""
        try:
            self._pool().run(partial(self._run_in_pool, size, call, context, end))
        except RuntimeError:  # no thread now
            if self._outlet.ended:
                self._refuse(size, call, end)
            else:
                self._loop.call_later(LOOK_TIME, self._run_later, size, call, context, end)

    def _refuse(self, size: int, call: Call, end: End) -> None:
        self._add(-size)
        error = no_thread()
        failure = pack_protocol_failure(error)
        self._dispatcher.refused(call, error, failure)
        end.refused(failure)

    def _run_if_wanted(self, call: Call, end: End) -> None:
        """In a thread, for which the call may have waited for long."""
        if call.id and (call.why_cancelled or call.deadline is not None) and call.cancelled:
            end.failed(call.cancelled.error(), wait=False)
            return
        try:
            result = call.function(*call.args, **call.kwargs)
        except BaseException as error:  # also what ends a program: the thread is ours
            end.failed(error, wait=False)
        else:
            end.finished(result, wait=False)

    def _add(self, size: int) -> None:
        with self._lock:
            self.waiting_bytes += size

    def _start_task(self, call: Call, context: Context, end: End) -> None:
        if get_ident() != self._thread:
            self._loop.call_soon_threadsafe(self._start_task, call, context, end)
            return
        started = self._starter.start(self._run_task(call, end), context, call.row.name)
        if started is not None:
            self._accompany(call, started)

    def start(self, request: Request, call: Call) -> "asyncio.Task[Outgoing | None] | Outgoing | None":
        """Run an async handler whose result is no stream, on the loop: its answer, or the task that will give it."""
        started = self._starter.start(self._answer_to(request, call), copy_context(), call.row.name)
        if isinstance(started, asyncio.Future):
            self._accompany(call, started)
        return started

    async def _answer_to(self, request: Request, call: Call) -> Outgoing | None:
        enter_call(call)
        try:
            if call.why_cancelled:  # meanwhile: it has not begun, and does not
                raise call.cancelled.error()
            result = await call.function(*call.args, **call.kwargs)
            return self._dispatcher.finish(self._core, request, call, result)
        except BaseException as error:  # a task that ends a program would end the loop of all handlers
            return self._dispatcher.fail(self._core, request, call, error)

    def _accompany(self, call: Call, task: asyncio.Task[Any]) -> None:
        """See to what a handler needs that has become a task."""
        workers = self._workers()
        workers.task_began()
        if call.deadline is not None:
            # Not in the handler's context: asyncio keeps a timer that was cancelled until it is due, and what it has.
            timer = self._loop.call_later(call.deadline - monotonic(), task.cancel, context=Context())
            task.add_done_callback(lambda task: timer.cancel())
        task.add_done_callback(lambda task: workers.task_ended())
        call.on_cancel(task, partial(self._cancel, task))
        # The task knows its call by its context: it would be a cycle, and what a handler was given is to go.
        task.add_done_callback(call.forget)

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        if get_ident() == self._thread:
            task.cancel()
        else:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(task.cancel)
