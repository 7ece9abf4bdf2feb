"""Handlers on an event loop: ``async def`` ones run on it, the others in threads."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from functools import partial
from threading import Lock, get_ident
from time import monotonic
from typing import final

from typedrpc.aio.pool import Pool
from typedrpc.aio.starter import Starter
from typedrpc.call import Call
from typedrpc.common.apart import Apart, End
from typedrpc.common.handlers import weight
from typedrpc.common.sending import Connection
from typedrpc.common.workers import Workers
from typedrpc.dispatch import Dispatcher
from typedrpc.errors import ServerBusy
from typedrpc.failure import pack_protocol_failure
from typedrpc.protocol import Request


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
    ) -> None:
        """As for :class:`typedrpc.common.apart.Apart`; and the loop, its threads, and what starts its coroutines."""
        super().__init__(connection, dispatcher, workers)
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

        def run() -> None:
            self._add(-size)
            context.run(self._run, call, end)

        self._add(size)
        begun = False
        try:
            begun = self._pool().run(run, may_wait=not call.depth)
        finally:
            if not begun:
                self._add(-size)
        if not begun:
            error = ServerBusy("no thread is left for a call that is nested in another one; raise max_workers")
            self._dispatcher.refused(call, error)
            end.refused(pack_protocol_failure(error))

    def _add(self, size: int) -> None:
        with self._lock:
            self.waiting_bytes += size

    def _start_task(self, call: Call, context: Context, end: End) -> None:
        if get_ident() == self._thread:
            self._launch(call, context, end)
        else:
            self._loop.call_soon_threadsafe(self._launch, call, context, end)

    def _launch(self, call: Call, context: Context, end: End) -> None:
        workers = self._workers()
        workers.task_began()
        task = self._starter.start(self._run_task(call, end), context, call.command)
        if task is None:
            workers.task_ended()
            return
        if call.deadline is not None:
            timer = self._loop.call_later(call.deadline - monotonic(), task.cancel)
            task.add_done_callback(lambda task: timer.cancel())
        task.add_done_callback(lambda task: workers.task_ended())
        call.on_cancel(task, partial(self._cancel, task))
        # The task knows its call by its context: it would be a cycle, and what a handler was given is to go.
        task.add_done_callback(call.forget)

    def _cancel(self, task: asyncio.Task[None]) -> None:
        if get_ident() == self._thread:
            task.cancel()
        else:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(task.cancel)
