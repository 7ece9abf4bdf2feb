"""Streams that come in: who consumes waits for items, and whoever waits may read.

They are consumed through a :class:`Receiver`, in a thread, or an :class:`AsyncReceiver`, on any event loop. For those
that go out see :mod:`~typedrpc.common.sending`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol, final

from typedrpc.call import get_call
from typedrpc.codec import CodecError, Payload
from typedrpc.common.role import Waiter
from typedrpc.common.tokens import Owner, Token
from typedrpc.errors import (
    CallCancelled,
    DeadlineExceeded,
    ProtocolError,
    RpcError,
)
from typedrpc.flow import MAX_GROWING, Inflow, items_of
from typedrpc.protocol import Outgoing
from typedrpc.protocol import Protocol as Core
from typedrpc.stream import AsyncStream, Stream
from typedrpc.wire import Frame

if TYPE_CHECKING:  # imported when used: it takes longer than all the rest
    import asyncio


logger = logging.getLogger("typedrpc")

WAIT_FOR_MORE: Final = object()
"""There is no item now."""

THE_END: Final = object()
"""There will be no item any more."""


_OF_RESULT: Final = "async for item in proxy.{}.aio(...)"
_OF_ARGUMENT: Final = "{}: AsyncIterator[...]"
"""What to write where waiting would block the thread of an event loop."""


class Connection(Owner, Protocol):
    """What streams need of their connection."""

    @property
    def core(self) -> Core[Token]: ...
    def wait(self, waiter: Waiter, deadline: float | None) -> None: ...
    def why_not_wait(self, what: str, instead: str, /) -> RpcError | None: ...
    def wake_reader(self) -> None: ...
    def post(self, data: Outgoing) -> None: ...
    def send(self, data: Outgoing) -> None: ...
    def later(self, action: Callable[[], None]) -> None: ...
    def watch(self) -> None: ...


@final
class StreamToken:
    """What waits for the end of a call whose result is a stream; see :class:`typedrpc.common.tokens.Token`.

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


class Waiting:
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
            self.connection.handlers.served_callers += 1

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


class _Consumed:
    """What a stream that comes in is to whoever consumes it, in a thread or on an event loop."""

    __slots__ = ("_items", "_source", "_unpack")

    def __init__(self, source: Source) -> None:
        self._source = source
        self._unpack = source.unpack
        self._items: Iterator[Any] = iter(())

    def _unpacked(self, item: Any) -> Any:
        try:
            return self._unpack(item)
        except CodecError as error:
            self._items = iter(())
            raise self._source.broken(error) from error

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
class Receiver(_Consumed, Stream[Any]):
    """A stream that comes in, consumed by threads; one at a time gets the next item."""

    __slots__ = ("__weakref__", "_lock", "_waiting")

    def __init__(self, source: Source, token: StreamToken | None = None) -> None:
        super().__init__(source)
        self._lock = threading.Lock()
        flow = source.flow
        self._waiting = waiting = Waiting(source.connection, lambda: flow.lost)
        source.flow.notify = waiting.notify
        if token is not None:
            token.interrupt = waiting.interrupt

    def __next__(self) -> Any:
        for item in self._items:
            return self._unpacked(item)
        return self._next_of_more()

    def _next_of_more(self) -> Any:
        source = self._source
        with self._lock:
            while True:
                for item in self._items:  # which another thread has fetched
                    return self._unpacked(item)
                right_way = _OF_ARGUMENT if source.number else _OF_RESULT
                # Whether items have come already is chance; where waiting is refused, so is asking.
                if (refusal := source.connection.why_not_wait(source.what, right_way)) is not None and not source.over:
                    raise refusal
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


@final
class AsyncReceiver(_Consumed, AsyncStream[Any]):
    """A stream that comes in, consumed on an event loop."""

    __slots__ = ("__weakref__", "_future", "_lock")

    def __init__(self, source: Source, token: StreamToken | None = None) -> None:
        super().__init__(source)
        self._future: list[asyncio.Future[None]] = []
        self._lock: asyncio.Lock | None = None
        source.flow.notify = notify = Notice(self._future)
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

    async def aclose(self) -> None:
        """Stop the producer. May be called again; a task that waits for an item gets none."""
        self._items = iter(())
        self._source.close()


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


class Notice:
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
