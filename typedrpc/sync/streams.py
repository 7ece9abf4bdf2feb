"""Streams with threads: who produces waits for credit, who consumes waits for items, and whoever waits may read.

A stream that comes in is consumed through a :class:`Receiver`, in a thread, or an :class:`AsyncReceiver`, on any event
loop. One that goes out is produced in a thread of its own by a :class:`Sender`, or in a task by an
:class:`AsyncSender`. Items that are ready together leave together: a producer that is quick holds its items back for a
moment, and the watcher sends what it leaves lying.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextlib import suppress
from contextvars import copy_context
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol, final

from typedrpc.call import get_call
from typedrpc.codec import CodecError, Payload, Segmented
from typedrpc.errors import (
    ArgumentValueError,
    CallCancelled,
    DeadlineExceeded,
    MessageTooLarge,
    ProtocolError,
    RpcError,
)
from typedrpc.failure import pack_handler_failure
from typedrpc.flow import MAX_GROWING, Inflow, ItemBatch, Outflow, alone, items_of
from typedrpc.protocol import Outgoing
from typedrpc.protocol import Protocol as Core
from typedrpc.stream import AsyncStream, Stream
from typedrpc.sync.role import Waiter
from typedrpc.sync.tokens import Owner, Token
from typedrpc.sync.writer import copied
from typedrpc.wire import Frame

if TYPE_CHECKING:  # imported when used: it takes longer than all the rest
    import asyncio

    from typedrpc.codec import StreamCodec

logger = logging.getLogger("typedrpc")

HOLD_TIME: Final = 0.0005
"""Seconds that items of a quick producer wait for more of them."""

QUICK_TIME: Final = 0.00003
"""Seconds within which a producer has its next item if it is a quick one: one that only computes."""

WAIT_FOR_MORE: Final = object()
"""There is no item now."""

THE_END: Final = object()
"""There will be no item any more."""


class Connection(Owner, Protocol):
    """What streams need of their connection."""

    @property
    def core(self) -> Core[Token]: ...
    @property
    def streams(self) -> Streams: ...
    def wait(self, waiter: Waiter, deadline: float | None) -> None: ...
    def wake_reader(self) -> None: ...
    def post(self, data: Outgoing) -> None: ...
    def send(self, data: Outgoing) -> None: ...
    def later(self, action: Callable[[], None]) -> None: ...
    def watch(self) -> None: ...


@final
class StreamToken:
    """What waits for the end of a call whose result is a stream; see :class:`typedrpc.sync.tokens.Token`.

    Attributes:
        frame: The answer, which comes after the last item.
        error: Why there is none.
    """

    __slots__ = ("_flow", "aborted", "error", "frame", "interrupt")

    def __init__(self, flow: Inflow) -> None:
        self._flow = flow
        self.aborted: RpcError | None = None
        self.frame: Frame | None = None
        self.error: RpcError | None = None
        self.interrupt: Callable[[], None] = flow.notify
        """Rouses who waits for items, from any thread."""

    def complete(self, connection: Owner, frame: Frame) -> None:
        self.frame = frame
        self._flow.end()

    def fail(self, connection: Owner, error: RpcError) -> None:
        if self.frame is None and self.error is None:
            self.error = error
            self._flow.end(lost=True)
            self.interrupt()


@final
class Source:
    """A stream that comes in, without who consumes it: what is left of it when that one is dropped."""

    __slots__ = ("_abandon", "_conclude", "_on_over", "call", "connection", "flow", "number", "over", "unpack", "what")

    def __init__(
        self,
        connection: Connection,
        flow: Inflow,
        call: int,
        number: int,
        unpack: Callable[[Payload], Any],
        what: str,
        *,
        conclude: Callable[[], BaseException | None],
        abandon: Callable[[RpcError], None],
        on_over: Callable[[], None] | None = None,
    ) -> None:
        """
        Args:
            connection: Where it comes from.
            flow: Its state.
            call: The call that it belongs to.
            number: Its number there.
            unpack: Makes an item of its payload.
            what: Names it in errors.
            conclude: Called when no item will come: why, None where it has come to its end.
            abandon: Called with the reason when nobody wants it any more before it has come to its end; must not wait.
            on_over: Called once, when either is so.
        """
        self.connection = connection
        self.flow = flow
        self.call = call
        self.number = number
        self.unpack = unpack
        self.what = what
        self.over = False
        self._conclude = conclude
        self._abandon = abandon
        self._on_over = [] if on_over is None else [on_over]

    def take(self) -> Any:
        """The next packed items, as an iterator; ``WAIT_FOR_MORE`` or ``THE_END`` where there are none.

        Raises:
            Exception: The stream has failed.
        """
        if self.over:
            return THE_END
        payload, ended = self.flow.take()
        if payload is None:
            if not ended:
                return WAIT_FOR_MORE
            self._set_over()
            error = self._conclude()
            if error is not None:
                try:
                    raise error
                finally:
                    del error
            return THE_END
        if more := self.flow.grant(grows=len(self.connection.core.inflows) <= MAX_GROWING):
            self.connection.post(self.connection.core.credit(self.call, self.number, more))
        items = items_of(payload)
        if isinstance(items, str):
            raise self.broken(items)
        return iter(items)

    def _set_over(self) -> None:
        self.over = True
        while self._on_over:
            with suppress(IndexError):  # another thread was quicker
                self._on_over.pop()()

    def broken(self, problem: object) -> ProtocolError:
        """The peer has sent what it must not; the stream is over. Returns the error to raise."""
        error = ProtocolError(f"{self.what}: the peer sent an item that cannot be read: {problem}")
        self.close(error)
        return error

    def close(self, reason: RpcError | None = None) -> None:
        """Nobody wants more of it: the producer is told. May be called again, and from any thread; never waits."""
        if self.over:
            return
        self._set_over()
        ended = self.flow.ended
        self.flow.close()
        if not ended:
            self._abandon(reason or CallCancelled(f"{self.what}: the stream was closed"))
        self.flow.notify()

    def drop(self) -> None:
        """As :meth:`close`, within the garbage collector: it is done soon, by another thread."""
        if not self.over:
            self.connection.later(self.close)


class _Waiting:
    """A thread that waits for something of a flow."""

    __slots__ = ("_is_cut", "connection", "waiter")

    def __init__(self, connection: Connection, is_cut: Callable[[], bool]) -> None:
        """
        Args:
            connection: Of the flow.
            is_cut: Whether the flow has been ended, perhaps by another thread than the one that reads.
        """
        self.connection = connection
        self._is_cut = is_cut
        self.waiter: Waiter | None = None

    def notify(self) -> None:
        """There may be something; called by who reads the connection, which may be the waiting thread itself."""
        waiter = self.waiter
        if waiter is None:
            return
        if self._is_cut():
            self.interrupt()
        else:
            waiter.done = True
            self.connection.role.rouse(waiter)
            self.connection.threads.served_callers += 1

    def interrupt(self) -> None:
        """There is nothing to wait for; called by any other thread."""
        waiter = self.waiter
        if waiter is not None:
            waiter.done = True
            self.connection.role.rouse_for_good(waiter)
            self.connection.wake_reader()

    def wait(self, is_over: Callable[[], bool], deadline: float | None = None) -> None:
        """Wait for a notice, unless there is nothing to wait for."""
        waiter = self.waiter = Waiter(abortable=True)
        try:
            if not is_over():
                self.connection.wait(waiter, deadline)
        finally:
            self.waiter = None


@final
class Receiver(Stream[Any]):
    """A stream that comes in, consumed by threads; one at a time gets the next item."""

    __slots__ = ("__weakref__", "_items", "_lock", "_source", "_unpack", "_waiting")

    def __init__(self, source: Source, token: StreamToken | None = None) -> None:
        self._source = source
        self._unpack = source.unpack
        self._items: Iterator[Any] = iter(())
        self._lock = threading.Lock()
        flow = source.flow
        self._waiting = waiting = _Waiting(source.connection, lambda: flow.lost)
        source.flow.notify = waiting.notify
        if token is not None:
            token.interrupt = waiting.interrupt

    def __next__(self) -> Any:
        for item in self._items:
            try:
                return self._unpack(item)
            except CodecError as error:
                raise self._broken(error) from error
        return self._next_of_more()

    def _broken(self, error: CodecError) -> ProtocolError:
        self._items = iter(())
        return self._source.broken(error)

    def _next_of_more(self) -> Any:
        source = self._source
        with self._lock:
            while True:
                for item in self._items:  # which another thread has fetched
                    try:
                        return self._unpack(item)
                    except CodecError as error:
                        raise self._broken(error) from error
                items = source.take()
                if items is THE_END:
                    raise StopIteration
                if items is not WAIT_FOR_MORE:
                    self._items = items
                    continue
                call = get_call()
                deadline = None if call is None else call.deadline
                if deadline is not None and monotonic() >= deadline:
                    late = DeadlineExceeded(f"{source.what}: no time is left to wait for the next item")
                    source.close(late)
                    raise late
                try:
                    self._waiting.wait(lambda: source.flow.ended or source.flow.held > 0 or source.over, deadline)
                except BaseException:  # of a signal handler: as in a generator, there is no more
                    self.close()
                    raise

    def close(self) -> None:
        """Stop the producer. May be called again, and by any thread: one that waits for an item gets none."""
        self._items = iter(())
        self._source.close()
        self._waiting.interrupt()

    def __del__(self) -> None:
        with suppress(AttributeError):  # it was not made
            self._source.drop()

    def disown(self) -> None:
        """The call was not sent."""
        self._source.flow.ended = True
        self._source.close()

    def __repr__(self) -> str:
        return f"<stream of {self._source.what}>"


@final
class AsyncReceiver(AsyncStream[Any]):
    """A stream that comes in, consumed on an event loop."""

    __slots__ = ("__weakref__", "_future", "_items", "_lock", "_source", "_unpack")

    def __init__(self, source: Source, token: StreamToken | None = None) -> None:
        self._source = source
        self._unpack = source.unpack
        self._items: Iterator[Any] = iter(())
        self._future: list[asyncio.Future[None]] = []
        self._lock: asyncio.Lock | None = None
        source.flow.notify = notify = _Notice(self._future)
        if token is not None:
            token.interrupt = notify

    async def __anext__(self) -> Any:
        import asyncio

        for item in self._items:
            return self._unpacked(item)
        source = self._source
        if self._lock is None:
            self._lock = asyncio.Lock()
        async with self._lock:
            while True:
                for item in self._items:
                    return self._unpacked(item)
                items = source.take()
                if items is THE_END:
                    raise StopAsyncIteration
                if items is not WAIT_FOR_MORE:
                    self._items = items
                    continue
                future = asyncio.get_running_loop().create_future()
                self._future.append(future)
                try:
                    if not (source.flow.ended or source.flow.held > 0 or source.over):
                        await future
                except BaseException:
                    await self.aclose()
                    raise
                finally:
                    self._future.clear()

    def _unpacked(self, item: Any) -> Any:
        try:
            return self._unpack(item)
        except CodecError as error:
            self._items = iter(())
            raise self._source.broken(error) from error

    async def aclose(self) -> None:
        """Stop the producer. May be called again; a task that waits for an item gets none."""
        self._items = iter(())
        self._source.close()

    def __del__(self) -> None:
        with suppress(AttributeError):  # it was not made
            self._source.drop()

    def disown(self) -> None:
        """The call was not sent."""
        self._source.flow.ended = True
        self._source.close()

    def __repr__(self) -> str:
        return f"<stream of {self._source.what}>"


@final
class StreamInLine(AsyncStream[Any]):
    """A stream of a call that waits for room at the peer: it is sent once somebody has asked for the first item."""

    __slots__ = ("__weakref__", "_closed", "_lock", "_opening", "_stream", "_what")

    def __init__(self, opening: Coroutine[Any, Any, AsyncStream[Any]], what: str) -> None:
        """
        Args:
            opening: Starts the call.
            what: Names the command.
        """
        self._opening: Coroutine[Any, Any, AsyncStream[Any]] | None = opening
        self._stream: AsyncStream[Any] | None = None
        self._closed = False
        self._lock: asyncio.Lock | None = None
        self._what = what

    async def __anext__(self) -> Any:
        import asyncio

        if self._stream is None:
            if self._lock is None:
                self._lock = asyncio.Lock()
            async with self._lock:
                opening, self._opening = self._opening, None
                if opening is not None:
                    self._stream = await opening
        if self._stream is None or self._closed:
            raise StopAsyncIteration
        return await anext(self._stream)

    async def aclose(self) -> None:
        """Stop the producer, or do not begin at all."""
        self._closed = True
        if self._opening is not None:
            self._opening.close()
            self._opening = None
        if self._stream is not None:
            await self._stream.aclose()

    def __del__(self) -> None:
        opening: Coroutine[Any, Any, Any] | None = getattr(self, "_opening", None)
        if opening is not None:
            opening.close()

    def __repr__(self) -> str:
        return f"<stream of {self._what}>"


class _Notice:
    """Completes the future that a task waits with, from any thread."""

    __slots__ = ("_future",)

    def __init__(self, future: list[asyncio.Future[None]]) -> None:
        self._future = future

    def __call__(self) -> None:
        for future in tuple(self._future):
            with suppress(RuntimeError):  # its loop is closed
                future.get_loop().call_soon_threadsafe(_complete, future)


def _complete(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


# What goes out


class Stopped(Exception):
    """Nobody wants more of a stream: its producer is stopped."""


class _Outlet:
    """One stream that goes out: its items, until they are sent."""

    def __init__(self, connection: Connection, flow: Outflow, call: int, number: int, codec: StreamCodec) -> None:
        """
        Args:
            connection: Where to.
            flow: Its state.
            call: The call that it belongs to.
            number: Its number there.
            codec: Of its items.
        """
        self.connection = connection
        self.flow = flow
        self.codec = codec
        self.error: BaseException | None = None
        """What the iterator of an argument has failed with."""
        self._call = call
        self._number = number
        self._limit = connection.core.peer_limits.max_message_size
        self._batch = ItemBatch(self._limit)

    def _frame(self, payload: Payload) -> Any:
        data = self.connection.core.item(self._call, self._number, payload, self.codec.name)
        self.flow.sent(payload)
        return data

    def _post(self, payload: Payload) -> None:
        data = self._frame(payload)
        self.connection.post(data if isinstance(data, bytes) else copied(data))

    def _end_argument(self, error: BaseException | None) -> None:
        """The iterator of an argument has come to its end, or has failed: the handler is told."""
        failure = b""
        if error is not None:
            if isinstance(error, CodecError):
                error = ArgumentValueError(str(error))
            self.error = error
            failure = pack_handler_failure(error, error_id="")
        if not self.flow.stopped:
            self.connection.post(self.connection.core.end_of_stream(self._call, self._number, failure))


@final
class Sender(_Outlet):
    """Sends a stream from a thread: of a plain iterator."""

    def __init__(self, connection: Connection, flow: Outflow, call: int, number: int, codec: StreamCodec) -> None:
        super().__init__(connection, flow, call, number, codec)
        self._lock = threading.Lock()  # for the batch, which the watcher may send
        self._sent_at = 0.0
        self._waiting = _Waiting(connection, lambda: flow.stopped)
        self._refused: MessageTooLarge | None = None  # what the watcher could not send
        self.deadline: float | None = None
        """When the call ends at the latest, on the monotonic clock."""
        self.interrupt = self._waiting.interrupt
        flow.notify = self._notify

    def run(self, items: Iterator[Any], is_cancelled: Callable[[], object] = bool) -> None:
        """Send all items, in the thread that makes them.

        Args:
            items: They are not closed.
            is_cancelled: Whether the call is; whoever makes it so calls :meth:`interrupt`.

        Raises:
            Stopped: Nobody wants more of them.
            CodecError: An item is not what the annotation says.
            MessageTooLarge: An item is too large.
            BaseException: What the iterator raised.
        """
        pack, flow = self.codec.pack_item, self.flow
        began = monotonic()
        while not (flow.stopped or is_cancelled()):
            try:
                item = next(items)
            except StopIteration:
                self._flush(is_cancelled)
                if self._refused is not None:
                    raise self._refused from None
                return
            except BaseException:
                self._flush(is_cancelled)
                raise
            if self._refused is not None:
                raise self._refused
            now = monotonic()
            try:
                body = pack(item)
            except BaseException:
                self._flush(is_cancelled)
                raise
            item = None
            if self._add(body, now, now - began < QUICK_TIME, is_cancelled):
                now = monotonic()
            began = now
        raise Stopped

    def _add(self, body: Payload, now: float, is_quick: bool, is_cancelled: Callable[[], object]) -> bool:
        """Add an item to those that wait. Returns whether some were sent."""
        with self._lock:
            batch = self._batch
            if not batch.has_room(body):
                is_quick = False
            else:
                batch.add(body)
                if is_quick and now - self._sent_at < HOLD_TIME and self.flow.may_send:
                    self.connection.streams.hold(self)
                    return False
                body = b""
        self._flush(is_cancelled)
        if body:
            self._await_credit(is_cancelled)
            with self._lock:
                if isinstance(body, Segmented) or not self._batch.has_room(body):
                    self._write(alone(body))
                else:
                    self._batch.add(body)
                    self.connection.streams.hold(self)
        self._sent_at = monotonic()
        return True

    def _flush(self, is_cancelled: Callable[[], object]) -> None:
        """Send what waits, as soon as the peer takes it. Once this returns, all is sent, also what the watcher took."""
        while self._has_items():
            self._await_credit(is_cancelled)
            with self._lock:
                if self._batch and self.flow.may_send:
                    self._write(self._batch.take())

    def _has_items(self) -> bool:
        # With the lock: what the watcher has taken out is sent before it lets go of it.
        with self._lock:
            return bool(self._batch)

    def _write(self, payload: Payload) -> None:
        """Send a frame; the lock is held, which keeps the order."""
        self.connection.send(self._frame(payload))

    def _await_credit(self, is_cancelled: Callable[[], object]) -> None:
        flow = self.flow
        while not flow.may_send:
            if flow.stopped or is_cancelled():
                raise Stopped
            self._waiting.wait(lambda: flow.may_send or flow.stopped or bool(is_cancelled()), self.deadline)
        if flow.stopped or is_cancelled():
            raise Stopped

    def _notify(self) -> None:
        if self._waiting.waiter is None:
            if self._batch:
                self.connection.streams.hold(self)
        else:
            self._waiting.notify()

    def flush_held(self) -> bool:
        """Send what the producer has left lying, in the watcher's thread. Returns whether to come again soon."""
        if not self._lock.acquire(blocking=False):
            return True
        try:
            if self._batch and self.flow.may_send and not self.flow.stopped:
                self._post(self._batch.take())
            return False
        except MessageTooLarge as error:  # the peer accepts less than when they were gathered
            self._refused = error
            return False
        finally:
            self._lock.release()


@final
class AsyncSender(_Outlet):
    """Sends a stream from a task: of an async iterator. What is ready when the loop turns leaves together."""

    def __init__(self, connection: Connection, flow: Outflow, call: int, number: int, codec: StreamCodec) -> None:
        super().__init__(connection, flow, call, number, codec)
        self._future: list[asyncio.Future[None]] = []
        self._is_due = False
        self._notice = _Notice(self._future)
        self.task: asyncio.Task[None] | None = None
        """That of the producer, as long as it is to be cancelled when nobody wants more of it."""
        flow.notify = self._notify

    def _notify(self) -> None:
        self._notice()
        task = self.task
        if task is not None and self.flow.stopped:
            with suppress(RuntimeError):  # its loop is closed
                task.get_loop().call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        """On the loop: stop a producer that waits for whatever it may be."""
        task, self.task = self.task, None
        if task is not None:
            task.cancel()

    async def run(self, items: AsyncIterator[Any]) -> None:
        """Send all items. Raises as :meth:`Sender.run`."""
        import asyncio

        loop = asyncio.get_running_loop()
        pack, flow = self.codec.pack_item, self.flow
        try:
            async for item in items:
                if flow.stopped:
                    raise Stopped
                body = pack(item)
                if not self._batch.has_room(body):
                    await self._flush()
                    # A producer that never waits for anything gives the loop a turn now and then.
                    await asyncio.sleep(0)
                if isinstance(body, Segmented) or not self._batch.has_room(body):
                    await self._await_credit()
                    self._post(alone(body))
                    continue
                self._batch.add(body)
                if not self._is_due:
                    self._is_due = True
                    loop.call_soon(self._flush_now)
                if not flow.may_send:
                    await self._flush()
        except (Stopped, asyncio.CancelledError):
            raise
        except BaseException:
            await self._flush()
            raise
        await self._flush()

    def _flush_now(self) -> None:
        self._is_due = False
        if self._batch and self.flow.may_send and not self.flow.stopped:
            self._post(self._batch.take())

    async def _flush(self) -> None:
        while self._batch:
            await self._await_credit()
            if self._batch:
                self._post(self._batch.take())

    async def _await_credit(self) -> None:
        import asyncio

        flow = self.flow
        while True:
            future = asyncio.get_running_loop().create_future()
            self._future.append(future)
            try:
                if flow.may_send or flow.stopped:
                    break
                await future
            finally:
                self._future.clear()
        if flow.stopped:
            raise Stopped


@final
class Streams:
    """The streams of one connection that the watcher has to look after."""

    __slots__ = ("_connection", "_held")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._held: dict[Sender, None] = {}

    def hold(self, sender: Sender) -> None:
        """Items wait for more of them; if none come, the watcher sends them."""
        if sender not in self._held:
            self._held[sender] = None
            self._connection.watch()

    def flush(self) -> bool:
        """Send what lies about; in the watcher's thread. Returns whether there may be more soon."""
        if not self._held:
            return False
        for sender in tuple(self._held):
            # Taken out first: who adds items looks whether it is in there afterwards.
            del self._held[sender]
            if sender.flush_held():
                self._held[sender] = None
        return True


@final
class Argument:
    """A stream among the arguments of a call, while it is sent."""

    __slots__ = ("_items", "_loop", "_sender", "_start")

    def __init__(
        self,
        sender: Sender | AsyncSender,
        items: Any,
        start: Callable[[Callable[[], None]], None],
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        """
        Args:
            sender: Its sender.
            items: The iterator, plain or async.
            start: Runs a function in a thread of its own.
            loop: Where an async one is iterated.
        """
        self._sender = sender
        self._items = items
        self._start = start
        self._loop = loop

    @property
    def error(self) -> BaseException | None:
        """What the iterator has failed with."""
        return self._sender.error

    def start(self) -> None:
        """The call was sent: its items may follow."""
        context = copy_context()
        try:
            if isinstance(self._sender, Sender):
                self._start(lambda: context.run(self._run))
            else:
                import asyncio

                assert self._loop is not None
                coroutine = self._run_async()
                context.run(asyncio.run_coroutine_threadsafe, coroutine, self._loop)
        except RuntimeError as error:  # there are no threads, or the loop is closed
            self._sender._end_argument(error)

    def _run(self) -> None:
        sender = self._sender
        assert isinstance(sender, Sender)
        try:
            sender.run(self._items)
            sender._end_argument(None)
        except Stopped:
            pass
        except BaseException as error:
            sender._end_argument(error)
        finally:
            close_iterator(self._items)

    async def _run_async(self) -> None:
        import asyncio

        sender = self._sender
        assert isinstance(sender, AsyncSender)
        sender.task = asyncio.current_task()
        try:
            if sender.flow.stopped:  # before there was a task to be cancelled
                raise Stopped
            await sender.run(self._items)
            sender._end_argument(None)
        except Stopped:
            pass
        except BaseException as error:
            if not (sender.flow.stopped and isinstance(error, asyncio.CancelledError)):
                sender._end_argument(error)
        finally:
            sender.task = None
            close = getattr(self._items, "aclose", None)
            if close is not None:
                with suppress(Exception):
                    await close()


def close_iterator(items: Any) -> None:
    """Close a generator, or one of our streams; what else can be closed, such as a file, is its owner's."""
    if isinstance(items, Generator | Stream):
        try:
            items.close()
        except Exception:
            logger.exception("an iterator failed when it was closed")
