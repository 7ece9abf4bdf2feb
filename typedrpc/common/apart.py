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
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, final

from typedrpc.batches import Result
from typedrpc.call import Call, enter_call, leave_call
from typedrpc.codec import CodecError
from typedrpc.common.loop import kept_loop
from typedrpc.common.sending import AsyncSender, Connection, Sender, Stopped, close_iterator
from typedrpc.common.workers import Workers
from typedrpc.dispatch import Dispatcher
from typedrpc.errors import MessageTooLarge, ServerBusy
from typedrpc.failure import pack_protocol_failure
from typedrpc.protocol import Outgoing, Request
from typedrpc.protocol import Protocol as Core
from typedrpc.wire import copied

if TYPE_CHECKING:  # imported when used: it takes longer than all the rest
    import asyncio

logger = logging.getLogger("typedrpc")


class End(Protocol):
    """What becomes of what a handler came to. With ``wait=False`` it must not wait for the peer to read."""

    def finished(self, result: Any, *, wait: bool = True) -> None: ...
    def failed(self, error: BaseException, *, wait: bool = True) -> None: ...
    def refused(self, failure: bytes) -> None: ...


@final
class _CallEnd:
    """The end of a call that is answered."""

    __slots__ = ("_call", "_connection", "_core", "_dispatcher", "_done", "_request")

    def __init__(
        self,
        connection: Connection,
        dispatcher: Dispatcher,
        request: Request,
        call: Call,
        done: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._core = connection.core
        self._dispatcher = dispatcher
        self._request = request
        self._call = call
        self._done = done

    def finished(self, result: Any, *, wait: bool = True) -> None:
        try:
            answer = self._dispatcher.finish(self._core, self._request, self._call, result)
        except BaseException as error:
            self.failed(error, wait=wait)
        else:
            self._answer(answer, wait)

    def failed(self, error: BaseException, *, wait: bool = True) -> None:
        stream = self._call.row.stream
        if stream is not None and (
            isinstance(error, CodecError) or (isinstance(error, MessageTooLarge) and error.what == stream.name)
        ):
            answer: Outgoing | None = self._dispatcher.unfit(self._core, self._request, self._call, error)
        else:
            answer = self._dispatcher.fail(self._core, self._request, self._call, error)
        self._answer(answer, wait)

    def refused(self, failure: bytes) -> None:
        self._answer(self._core.failure(self._request, failure) if self._request.call else None, wait=True)

    def _answer(self, answer: Outgoing | None, wait: bool) -> None:
        try:
            if answer is not None:
                if wait:
                    self._connection.send(answer)
                else:
                    self._connection.post(answer if isinstance(answer, bytes) else copied(answer))
        finally:
            self._done()


@final
class _PartEnd:
    """The end of a call that is one of a batch."""

    def __init__(
        self,
        core: Core[Any],
        dispatcher: Dispatcher,
        call: Call,
        settle: Callable[[Result], None],
        done: Callable[[], None],
    ) -> None:
        self._core = core
        self._dispatcher = dispatcher
        self._call = call
        self._settle = settle
        self._done = done

    def finished(self, result: Any, *, wait: bool = True) -> None:
        try:
            outcome = self._dispatcher.finish_part(self._core, self._call, result)
        except BaseException as error:
            outcome = self._dispatcher.fail_part(self._core, self._call, error)
        self._end(outcome)

    def failed(self, error: BaseException, *, wait: bool = True) -> None:
        self._end(self._dispatcher.fail_part(self._core, self._call, error))

    def refused(self, failure: bytes) -> None:
        self._end((True, failure))

    def _end(self, outcome: Result) -> None:
        try:
            self._settle(outcome)
        finally:
            self._done()


class Apart:
    """Runs such handlers for one connection."""

    def __init__(self, connection: Connection, dispatcher: Dispatcher, workers: Callable[[], Workers]) -> None:
        """
        Args:
            connection: Where the calls came, and where the answers go.
            dispatcher: Has begun the calls, and makes the answers.
            workers: Gives the threads.
        """
        self._connection = connection
        self._core = connection.core
        self._dispatcher = dispatcher
        self._workers = workers

    def run(
        self, request: Request, call: Call, done: Callable[[], None], settle: Callable[[Result], None] | None
    ) -> None:
        """Run a handler; returns at once.

        Args:
            request: What is answered.
            call: What is run.
            done: Called when the answer is on its way.
            settle: Given what the call came to instead, where the request is a batch that it is one of.
        """
        if settle is not None:
            end: End = _PartEnd(self._core, self._dispatcher, call, settle, done)
        else:
            end = _CallEnd(self._connection, self._dispatcher, request, call, done)
        token = enter_call(call)
        try:
            context = copy_context()
        finally:
            leave_call(token)
        try:
            if call.row.is_async:
                self._start_task(call, context, end)
            else:
                self._start_thread(request, call, context, end)
        except (RuntimeError, OSError) as error:  # no thread, or no descriptors for the event loop
            logger.warning("no thread could be started for %s: it was refused", call.command)
            failure = pack_protocol_failure(ServerBusy(f"{call.command}: no thread could be started"))
            self._dispatcher.refused(call, error, failure)
            end.refused(failure)

    def _start_thread(self, request: Request, call: Call, context: Context, end: End) -> None:
        self._workers().start(lambda: context.run(self._run, call, end))

    def _run(self, call: Call, end: End) -> None:
        try:
            result = call.function(*call.args, **call.kwargs)
            if call.row.stream is not None:
                self._send(call, result)
                result = None
        except BaseException as error:  # also what ends a program: the thread is ours
            end.failed(error)
        else:
            end.finished(result)

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

    # On the loop

    def _start_task(self, call: Call, context: Context, end: End) -> None:
        loop = kept_loop()

        workers = self._workers()
        workers.task_began()

        def launch() -> None:
            workers.loop_thread = get_ident()
            task = loop.create_task(self._run_task(call, end), context=context, name=call.command)
            if call.deadline is not None:
                # Not in the handler's context: asyncio keeps a timer that was cancelled until it is due.
                timer = loop.call_later(call.deadline - monotonic(), task.cancel, context=Context())
                task.add_done_callback(lambda task: timer.cancel())
            task.add_done_callback(lambda task: workers.task_ended())
            call.on_cancel(task, partial(_cancel, task))
            # The task knows its call by its context: it would be a cycle, and what a handler was given is to go.
            task.add_done_callback(call.forget)

        try:
            loop.call_soon_threadsafe(launch)
        except RuntimeError:
            workers.task_ended()
            raise

    async def _run_task(self, call: Call, end: End) -> None:
        try:
            if call.why_cancelled:  # meanwhile: it has not begun, and does not
                raise call.cancelled.error()
            result = call.function(*call.args, **call.kwargs)
            if call.row.stream is None:
                result = await result
            else:
                await self._send_async(call, result)
                result = None
        except BaseException as error:  # a task that ends a program would end the loop of all handlers
            end.failed(error, wait=False)
        else:
            end.finished(result, wait=False)

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
