"""One connection on an event loop: the loop reads, begins what is to be handled, and writes.

Everything that the protocol does happens in the loop's thread; calls may come from any other, and wait there.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from threading import get_ident
from time import monotonic
from typing import Any, Final, cast, final

from typedrpc.aio.alive import KeepAlive
from typedrpc.aio.apart import LoopApart
from typedrpc.aio.calling import LoopCalls
from typedrpc.aio.handling import LoopHandlers
from typedrpc.aio.outlet import Outlet
from typedrpc.aio.runtime import Runtime
from typedrpc.call import Row
from typedrpc.codec import CallbackCodec
from typedrpc.common.connection import GOODBYE_TIME, KEEP_ALIVE
from typedrpc.common.connection import Connection as AnyConnection
from typedrpc.common.loop import RIGHT_WAY, awaiting, blocking_call, in_loop
from typedrpc.common.role import ReadRole
from typedrpc.common.room import Room
from typedrpc.common.router import Router
from typedrpc.common.silence import Silence
from typedrpc.common.tokens import CallWaiter, Pending, Token
from typedrpc.dispatch import Dispatcher
from typedrpc.errors import ConnectionLost, RpcError, ServerBusy
from typedrpc.messages import Leave
from typedrpc.peer import Peer
from typedrpc.protocol import Outgoing
from typedrpc.protocol import Protocol as Core

QUICK_TICK: Final = 0.001
"""Seconds after which items are sent that their producer has left lying."""

LOOK_TIME: Final = 0.02
"""Seconds between two looks whether there is room to read on, where too much waits to be handled."""


@final
class Connection(AnyConnection[LoopHandlers], asyncio.BufferedProtocol):
    """One end of a connection. Made in the thread of its loop; its methods may be called from any."""

    def __init__(
        self,
        core: Core[Token],
        *,
        runtime: Runtime,
        dispatcher: Dispatcher,
        peer: Peer,
        attended: bool,
        keep_alive: float | None = KEEP_ALIVE,
        on_made: Callable[["Connection", asyncio.Transport], None] | None = None,
        on_end: Callable[["Connection"], None] | None = None,
    ) -> None:
        """
        Args:
            core: The protocol's state.
            runtime: What the connections of one side have in common.
            dispatcher: Leads requests to what this side serves.
            peer: The other end, for handlers.
            attended: Whether the peer may call.
            keep_alive: Seconds after which a peer that says nothing, though it is asked, is taken for dead.
            on_made: Called once, when there is a transport.
            on_end: Called once, on the loop, when the connection has ended.
        """
        self.loop = loop = runtime.loop
        role = ReadRole()
        role.try_take()  # for good: the loop reads
        self.outlet = outlet = Outlet(loop, end=self.end, resumed=self._resumed)
        super().__init__(core, role, outlet.outbox.queue, keep_alive=keep_alive, on_end=on_end, on_forsaken=None)
        self.thread = get_ident()
        self._runtime = runtime
        self._on_made = on_made
        self._transport: asyncio.Transport | None = None
        self._held_up = False  # nothing is read, as too much waits to be handled
        self._timer: asyncio.TimerHandle | None = None
        self._alive = KeepAlive(loop, core, outlet, deliver=self.deliver, held_up=lambda: self._held_up)
        self._greeted: asyncio.Future[None] | None = None
        self._left: list[asyncio.Future[None]] = []
        core.reader.borrow(runtime.buffer, runtime.view)
        self.handlers = LoopHandlers(
            core,
            loop=loop,
            context=runtime.context,
            outlet=outlet,
            pool=lambda: runtime.pool,
            dispatcher=dispatcher,
            peer=peer,
            attended=attended,
            callbacks=self.callbacks,
            apart=LoopApart(
                self,
                dispatcher,
                lambda: runtime.workers,
                loop=loop,
                pool=lambda: runtime.pool,
                starter=runtime.starter,
                outlet=outlet,
            ),
        )

        def make_calls(room: Room, router: Router) -> LoopCalls:
            return LoopCalls(self, core, self._state, loop=loop, callbacks=self.callbacks, room=room, router=router)

        self._assemble(make_calls)

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = made = cast("asyncio.Transport", transport)
        if self._on_made is not None:
            self._on_made(self, made)
        self._queue.extend(self.core.outgoing)
        self.core.outgoing.clear()
        self.outlet.open(made)
        if self.ended:
            made.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.core.reader.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        core, outlet, handlers = self.core, self.outlet, self.handlers
        self._alive.heard = outlet.gathering = True
        try:
            self.deliver(core.receive(nbytes) if nbytes else core.receive_eof())
            if handlers.ready:
                handlers.work()
            if not self._held_up and handlers.is_full and not self._is_waited_for():
                self._hold_up()
        except Exception:
            self.fault()
        finally:
            outlet.gathering = False
        lanes = outlet.outbox.lanes
        if self._queue or lanes.turns or lanes.free:
            outlet.flush()
        if self._greeted is not None:
            self._look_whether_greeted()

    def eof_received(self) -> bool:
        self.buffer_updated(0)
        return False

    def _hold_up(self) -> None:
        """Too much waits to be handled: read no more for a while."""
        if self._transport is not None and not self.ended:
            self._held_up = True
            self._alive.hold_up()
            self._transport.pause_reading()
            self.loop.call_later(LOOK_TIME, self._read_on)

    def _read_on(self) -> None:
        """Read again if there is room, or if a call of this side waits for what would be read."""
        if self._transport is None or self.ended:
            return
        if self.handlers.is_full and not self._is_waited_for():
            self.loop.call_later(LOOK_TIME, self._read_on)
            self._alive.give_sign()
        else:
            self._held_up = False
            self._alive.heard = True
            self._transport.resume_reading()

    def _listen_for_life(self, silence: Silence) -> None:
        if self._transport is not None and not self.ended:
            self._alive.begin(silence, self._transport)

    def _is_waited_for(self) -> bool:
        """Whether somebody waits for what would be read; not who has yet to run callbacks that came before it."""
        for token in list(self.core.calls.calls.values()):
            if isinstance(token, CallWaiter):
                if token in self.role.parked:
                    return True
            elif not (isinstance(token, Pending) and token.series is not None and token.series.running):
                return True
        return False

    def pause_writing(self) -> None:
        self.outlet.pause()

    def resume_writing(self) -> None:
        self.outlet.resume()

    def _resumed(self) -> None:
        # Who wrote last may have been any task, and what is begun now is none of its.
        self.loop.call_soon(self.handlers.work, context=self._runtime.context.copy())

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for future in self._left:
            if not future.done():
                future.set_result(None)
        if isinstance(exc, OSError):
            self.core.receive_error(exc)
        self.end(ConnectionLost("the connection was closed"))  # where nothing else is known

    # Opening and ending

    async def open(self, deadline: float) -> None:
        """Shake hands; a client is let in as well. Called once, before anything else.

        Args:
            deadline: When to give up, on the monotonic clock.

        Raises:
            ConnectionLost: The peer is none, or left.
            TimeoutError: It did not answer in time.
        """
        self._greeted = self.loop.create_future()
        self._look_whether_greeted()
        try:
            async with asyncio.timeout(max(0.0, deadline - monotonic())):
                await self._greeted
        finally:
            self._greeted = None
        self._opened()

    def _look_whether_greeted(self) -> None:
        if self._greeted is not None and not self._greeted.done() and not self._is_greeting():
            self._greeted.set_result(None)

    def close(self, reason: str = "", code: int = Leave.OTHER) -> None:
        error, goodbye = self._take_leave(reason, code)
        if goodbye is not None:
            self._queue.append(goodbye)
        self.end(error)

    def end(self, error: ConnectionLost) -> None:
        with self._state:
            if self.ended:
                return
            self.ended = True
            self.outlet.sealed = True
            self.core.close(error)
            self._room.notify_all()
        if get_ident() == self.thread and not self.loop.is_closed():
            self._wind_up()
        else:
            try:
                self.loop.call_soon_threadsafe(self._wind_up)
            except RuntimeError:  # the loop is closed
                if self._transport is not None:  # which cannot close any more: the peer is to know at least
                    with suppress(OSError):
                        self._transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
                self._tell_of_end()

    def look_at_loop(self) -> None:
        """In another thread: end the connection where its loop has ended without a word."""
        if self.loop.is_closed():
            self.end(ConnectionLost("the event loop of the connection is closed"))

    def _wind_up(self) -> None:
        self.outlet.flush()
        self.outlet.close()
        if self._timer is not None:
            self._timer.cancel()
        self._alive.close()
        if self._transport is not None:
            # TLS sets a timer of half a minute, with the context of who closes: that may be a call, which has all this.
            self._runtime.context.copy().run(self._close_transport, self._transport)
        self._look_whether_greeted()
        self.core.reader.discard()
        self._tell_of_end()

    def _close_transport(self, transport: asyncio.Transport) -> None:
        if not transport.is_closing():  # closed twice, that of TLS could not be asked anything more
            transport.close()  # once what it has is written: the goodbye
        # TLS waits for the other end to say the same.
        if transport.get_write_buffer_size() or transport.get_extra_info("ssl_object") is not None:
            self.loop.call_later(GOODBYE_TIME, transport.abort)

    def cut_off(self) -> None:
        """Close the socket of a connection that has ended, without waiting for anything more."""
        if self._transport is not None:
            self._transport.abort()

    async def wait_until_gone(self) -> None:
        """Wait until the socket is closed, once the connection was: for the goodbye, `GOODBYE_TIME` at most.

        A loop that is stopped before that leaves a transport that nobody closes.
        """
        if self._transport is not None:
            future = self.loop.create_future()
            self._left.append(future)
            await future

    async def wait_until_left(self, timeout: float) -> None:
        """Wait until the socket is closed, so many seconds at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self.wait_until_gone()

    def interrupted(self, error: BaseException) -> None:
        """Nothing is lost: other threads only queue what the loop writes."""

    # Writing

    def post(self, data: Outgoing) -> None:
        self.outlet.add(data)

    def send(self, data: Outgoing) -> None:
        self.write(data, None)

    def write(self, data: Outgoing, deadline: float | None) -> None:
        outlet = self.outlet
        if get_ident() != self.thread:
            self.look_at_loop()
            outlet.add(data)
            outlet.await_room(deadline)
        elif type(data) is bytes and len(self.core.calls.calls) == 1 and not (outlet.gathering or outlet.sealed):
            outlet.write(data)  # the only call: nothing is gained by waiting for others
        else:
            outlet.add(data)

    def write_one_way(self, data: Outgoing, deadline: float | None) -> None:
        if get_ident() == self.thread and self.outlet.outbox.full:
            self.outlet.flush()
            if self.outlet.outbox.full:
                raise ServerBusy("the peer does not read what is sent to it: await a call now and then")
        self.write(data, deadline)

    def _flush_now(self) -> None:
        if get_ident() == self.thread:
            self.outlet.flush()
        else:
            self.outlet.stir()

    @property
    def waiting_frames(self) -> int:
        return self.outlet.outbox.frames

    @property
    def waiting_bytes(self) -> int:
        return self.outlet.outbox.size()

    # Waiting

    def why_not_wait(self, what: str, instead: str = RIGHT_WAY) -> RpcError | None:
        return blocking_call(what, instead) if get_ident() == self.thread else None

    def wake_reader(self) -> None:
        """Nobody who waits reads."""

    def stop_leading(self) -> None:
        """As above."""

    def row_of_callback(self, codec: CallbackCodec, function: Callable[..., Any], loop: Any) -> Row:
        unpack, pack = codec.codec.unpack_arguments, codec.codec.pack_result
        if loop is not None and loop is not self.loop and codec.is_async:  # which goes on meanwhile, in its thread
            return Row(codec.name, in_loop(function, loop), unpack, pack, apart=True)
        if codec.is_async:
            return Row(codec.name, awaiting(function), unpack, pack, is_async=True, apart=True, plain=False)
        return Row(codec.name, function, unpack, pack, apart=get_ident() != self.thread)

    def start_thread(self, body: Callable[[], None]) -> None:
        context = copy_context()  # of the task whose iterator is to be consumed
        self._runtime.workers.start(lambda: context.run(body))

    # What is done soon, or when time has passed

    def call_soon(self, function: Callable[[], object]) -> None:
        """Have a function called on the loop, if that still runs. May be called from any thread."""
        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(function)

    def watch(self) -> None:
        self._poke()

    def prepare_watcher(self) -> None:
        """The loop looks."""

    def _poke(self) -> None:
        if not self.watched:
            self.watched = True
            with suppress(RuntimeError):  # the loop is closed
                self.loop.call_soon_threadsafe(self._look_now)

    def _look_now(self) -> None:
        self.watched = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = monotonic()
        next_deadline, due = self._look(now)
        # Not in the context of a handler that has asked for this: asyncio keeps a timer that was cancelled until it is
        # due, and with the context the handler's call.
        if due:
            self._timer = self.loop.call_later(QUICK_TICK, self._look_now, context=self._runtime.context.copy())
        elif next_deadline is not None and not self.ended:
            pause = max(0.0, next_deadline - now)
            self._timer = self.loop.call_later(pause, self._look_now, context=self._runtime.context.copy())
