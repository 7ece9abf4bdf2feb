"""Handlers that take a thread or a task of their own: those of ``async def`` commands, and those with streams.

A stream may wait for long, and the thread that handles what is read must not wait with it. So its handler runs in a
thread of its own, from the first line to the last item: locks and what else belongs to a thread stay its own. Handlers
that are ``async`` run on one event loop that is kept for them, and take no thread at all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, final

from typedrpc.codec import CodecError
from typedrpc.dispatch import Call, Dispatcher, enter_call, leave_call
from typedrpc.errors import MessageTooLarge, ServerBusy
from typedrpc.failure import pack_protocol_failure
from typedrpc.protocol import Outgoing, Request
from typedrpc.sync.loop import kept_loop
from typedrpc.sync.streams import AsyncSender, Connection, Sender, Stopped, close_iterator

if TYPE_CHECKING:  # imported when used: it takes longer than all the rest
    import asyncio

logger = logging.getLogger("typedrpc")


@final
class Apart:
    """Runs such handlers for one connection."""

    def __init__(
        self, connection: Connection, dispatcher: Dispatcher, start: Callable[[Callable[[], None]], None]
    ) -> None:
        """
        Args:
            connection: Where the calls came, and where the answers go.
            dispatcher: Has begun the calls, and makes the answers.
            start: Runs a function in a thread of its own.
        """
        self._connection = connection
        self._core = connection.core
        self._dispatcher = dispatcher
        self._start = start

    def run(self, request: Request, call: Call, done: Callable[[], None]) -> None:
        """Run a handler; returns at once.

        Args:
            request: What is answered.
            call: What is run.
            done: Called when the answer is on its way.
        """
        token = enter_call(call)
        try:
            context = copy_context()
        finally:
            leave_call(token)
        try:
            if call.row.is_async:
                self._start_task(request, call, context, done)
            else:
                self._start(lambda: context.run(self._run, request, call, done))
        except RuntimeError as error:
            logger.warning("no thread could be started for %s: it was refused", call.command)
            failure = pack_protocol_failure(ServerBusy(f"{call.command}: no thread could be started"))
            self._dispatcher.refused(call, error)
            self._end(self._core.failure(request, failure) if request.call else None, done)

    def _run(self, request: Request, call: Call, done: Callable[[], None]) -> None:
        answer: Outgoing | None
        try:
            result = call.function(*call.args, **call.kwargs)
            if call.row.stream is not None:
                self._send(call, result)
                result = None
        except BaseException as error:  # also what ends a program: the thread is ours
            answer = self._failed(request, call, error)
        else:
            answer = self._finished(request, call, result)
        self._end(answer, done)

    def _send(self, call: Call, items: Any) -> None:
        """Send what a handler yields."""
        assert call.row.stream is not None
        flow = self._core.outflow(call.id, 0)
        sender = Sender(self._connection, flow, call.id, 0, call.row.stream)
        sender.deadline = call.deadline
        call.on_cancel(sender, sender.interrupt)
        try:
            sender.run(iter(items), lambda: call.cancelled)
        except Stopped:
            error = call.cancelled.error()
            throw = getattr(items, "throw", None)
            if throw is not None:
                with suppress(StopIteration):
                    throw(error)
            raise error from None
        finally:
            call.forget(sender)
            close_iterator(items)

    def _finished(self, request: Request, call: Call, result: Any) -> Outgoing | None:
        try:
            return self._dispatcher.finish(self._core, request, call, result)
        except BaseException as error:
            return self._failed(request, call, error)

    def _failed(self, request: Request, call: Call, error: BaseException) -> Outgoing | None:
        if call.row.stream is not None and isinstance(error, CodecError):
            return self._dispatcher.unfit(self._core, request, call, error)
        if call.row.stream is not None and isinstance(error, MessageTooLarge) and error.what == call.row.stream.name:
            return self._dispatcher.unfit(self._core, request, call, error)
        return self._dispatcher.fail(self._core, request, call, error)

    def _end(self, answer: Outgoing | None, done: Callable[[], None], *, wait: bool = True) -> None:
        try:
            if answer is not None:
                if wait:
                    self._connection.send(answer)
                else:
                    self._connection.post(answer if isinstance(answer, bytes) else tuple(map(bytes, answer)))
        finally:
            done()

    # On the loop

    def _start_task(self, request: Request, call: Call, context: Context, done: Callable[[], None]) -> None:
        loop = kept_loop()

        def launch() -> None:
            task = loop.create_task(self._run_task(request, call, done), context=context, name=call.command)
            if call.deadline is not None:
                timer = loop.call_later(call.deadline - monotonic(), task.cancel)
                task.add_done_callback(lambda task: timer.cancel())
            call.on_cancel(task, partial(_cancel, task))

        loop.call_soon_threadsafe(launch)

    async def _run_task(self, request: Request, call: Call, done: Callable[[], None]) -> None:
        answer: Outgoing | None
        try:
            result = call.function(*call.args, **call.kwargs)
            if call.row.stream is None:
                result = await result
            else:
                await self._send_async(call, result)
                result = None
        except BaseException as error:  # a task that ends a program would end the loop of all handlers
            answer = self._failed(request, call, error)
        else:
            answer = self._finished(request, call, result)
        self._end(answer, done, wait=False)

    async def _send_async(self, call: Call, items: Any) -> None:
        assert call.row.stream is not None
        sender = AsyncSender(self._connection, self._core.outflow(call.id, 0), call.id, 0, call.row.stream)
        try:
            await sender.run(items)
        except Stopped:
            raise call.cancelled.error() from None
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()


def _cancel(task: asyncio.Task[None]) -> None:
    task.get_loop().call_soon_threadsafe(task.cancel)
