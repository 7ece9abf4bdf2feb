"""Streams that go out: who produces waits for credit.

They are produced in a thread of their own by a :class:`Sender`, or in a task by an :class:`AsyncSender`. Items that are
ready together leave together: a producer that is quick holds its items back for a moment, and the watcher sends what it
leaves lying, or the event loop does where the connection belongs to one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import suppress
from contextvars import copy_context
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol, final

from typedrpc.codec import CodecError, Payload, Segmented
from typedrpc.common.streams import Connection as AnyConnection
from typedrpc.common.streams import Notice, Waiting
from typedrpc.errors import ArgumentValueError, MessageTooLarge
from typedrpc.failure import pack_handler_failure
from typedrpc.flow import ItemBatch, Outflow, alone
from typedrpc.stream import Stream
from typedrpc.wire import copied

if TYPE_CHECKING:  # imported when used: it takes longer than all the rest
    import asyncio

    from typedrpc.codec import StreamCodec

logger = logging.getLogger("typedrpc")

HOLD_TIME: Final = 0.0005
"""Seconds that items of a quick producer wait for more of them."""

QUICK_TIME: Final = 0.00003
"""Seconds within which a producer has its next item if it is a quick one: one that only computes."""


class Connection(AnyConnection, Protocol):
    """What streams that go out need of their connection."""

    @property
    def streams(self) -> Streams: ...


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
        self._waiting = Waiting(connection, lambda: flow.stopped)
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
        try:
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
        except BaseException:
            # What the watcher has is sent before this goes on; the rest must not come after the answer to the call.
            with self._lock:
                self._batch.take()
            raise

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
        self._notice = Notice(self._future)
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
        except Stopped:
            raise
        except asyncio.CancelledError:
            self._flush_now()  # without waiting; what the peer does not take now comes to nothing
            self._batch.take()
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
