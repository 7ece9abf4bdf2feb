"""The writing half of a connection on an event loop: bytes are gathered, and leave once a turn of the loop."""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from threading import get_ident
from time import monotonic
from typing import Final, final

from typedrpc.common.outbox import CUT_FROM, STALL_TIME, Outbox
from typedrpc.errors import ConnectionLost
from typedrpc.protocol import Outgoing
from typedrpc.transport import LONGEST_WAIT
from typedrpc.wire import copied

logger = logging.getLogger("typedrpc")

HIGH_WATER: Final = 256 * 1024
"""Bytes in the transport from which on it is given no more: what waits longer stays where small frames may pass."""

PASSING: Final = 64
"""Small frames that may wait beside large messages before nothing more is begun."""


def pipe_of(transport: asyncio.WriteTransport) -> asyncio.WriteTransport:
    """The transport below that of TLS, or itself: asyncio's TLS does not say that what is below it is closing."""
    pipe = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    return transport if pipe is None else pipe


@final
class Outlet:
    """Writes to a transport, in the loop's thread.

    Attributes:
        outbox: What waits.
        gathering: Whoever reads now will call :meth:`flush`: what is queued meanwhile waits for that.
        paused: The transport takes no more now.
        sealed: The connection has ended: nothing is queued any more, what was queued before is still written.
        ended: Nothing is written any more.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, end: Callable[[ConnectionLost], None], resumed: Callable[[], None]
    ) -> None:
        """
        Args:
            loop: The loop, in whose thread this is made.
            end: Ends the connection.
            resumed: Called when there is room again.
        """
        self.outbox: Final = Outbox()
        self.gathering = False
        self.paused = False
        self.sealed = False
        self.ended = False
        self._loop = loop
        self._thread = get_ident()
        self._end = end
        self._resumed = resumed
        self._transport: asyncio.WriteTransport | None = None
        self._is_gone: Callable[[], bool] = lambda: False
        """Whether the peer has gone, before the loop says so: asyncio warns of whatever is written then."""
        self._due = False
        self._room = threading.Condition()
        self._crowd = 0  # threads that wait for room
        self._drained: list[asyncio.Future[None]] = []
        self._put_off: list[Callable[[], None]] = []
        self._stall: asyncio.TimerHandle | None = None

    def open(self, transport: asyncio.WriteTransport) -> None:
        """There is where to write."""
        transport.set_write_buffer_limits(HIGH_WATER)
        self._transport = transport
        self._is_gone = pipe_of(transport).is_closing
        self.flush()

    def add(self, data: Outgoing) -> None:
        """Queue a frame, whose buffers may change once this returns. May be called from any thread."""
        if self.sealed:
            return
        self.outbox.queue.append(data if isinstance(data, bytes) else copied(data))
        if not (self._due or self.gathering):
            self.stir()

    def write(self, data: bytes) -> None:
        """Write a frame at once if nothing waits, and it is none that leaves in pieces; otherwise as :meth:`add`."""
        transport, outbox = self._transport, self.outbox
        lanes = outbox.lanes
        if len(data) > CUT_FROM or transport is None or self.paused or outbox.queue or lanes.turns or lanes.free:
            self.add(data)
        else:
            transport.write(data)

    def stir(self) -> None:
        """Something was queued: see to it that it is written. May be called from any thread."""
        # Queued first, looked at then; who writes does it the other way round.
        if self._due or self.gathering:
            return
        self._due = True
        if get_ident() == self._thread:
            self._loop.call_soon(self.flush)
        else:
            with suppress(RuntimeError):  # the loop is closed, and the connection with it
                self._loop.call_soon_threadsafe(self.flush)

    def flush(self) -> None:
        """Give the transport what waits, as long as it takes it."""
        self._due = False
        transport, outbox = self._transport, self.outbox
        if transport is None or self.ended:
            return
        queue, lanes = outbox.queue, outbox.lanes
        while (queue or lanes.turns or lanes.free) and not self.paused:
            alone = queue[0] if len(queue) == 1 and not (lanes.turns or lanes.free) else None
            if type(alone) is bytes and len(alone) <= CUT_FROM:  # nothing to join or to cut
                queue.popleft()
                transport.write(alone)
            elif self._is_gone():
                break
            elif buffers := outbox.take():
                transport.write(buffers[0] if len(buffers) == 1 else b"".join(buffers))
        if self._crowd and not outbox.full:
            self._tell()

    def pause(self) -> None:
        """The transport has enough."""
        self.paused = True
        self._watch_stall()

    def resume(self) -> None:
        """The transport takes more."""
        self.paused = False
        self._forget_stall()
        self.flush()
        if not self.stuck:
            for future in self._drained:
                if not future.done():
                    future.set_result(None)
            self._drained.clear()
            self._resumed()

    @property
    def stuck(self) -> bool:
        """Nothing more is to be begun: the transport takes no more, and what waits is not only what may be passed.

        A large message keeps the transport full for as long as it takes; small frames are to pass it meanwhile.
        """
        if not self.paused:
            return False
        outbox = self.outbox
        return not (outbox.lanes.turns and outbox.frames <= PASSING and outbox.size() <= HIGH_WATER)

    async def drained(self) -> None:
        """Wait, in a task of the loop, until something may be sent, see :attr:`stuck`."""
        while self.stuck and not self.ended:
            future = self._loop.create_future()
            self._drained.append(future)
            await future

    def await_room(self, deadline: float | None) -> None:
        """Wait, in another thread, until no more than a fair amount waits, or the deadline has passed."""
        if not self.outbox.full:
            return
        with self._room:
            self._crowd += 1
            try:
                self._room.wait_for(
                    lambda: self.ended or not self.outbox.full,
                    LONGEST_WAIT if deadline is None else max(0.0, min(deadline - monotonic(), LONGEST_WAIT)),
                )
            finally:
                self._crowd -= 1

    def puts_off(self, job: Callable[[], None]) -> bool:
        """Whether too much waits for more to be added: then a function is called, on the loop, once that is over.

        For the threads that all connections share: what they do for a peer that does not read is not to hold up others.
        """
        if not self.outbox.full or self.ended:
            return False
        with self._room:
            self._put_off.append(job)
            self._crowd += 1
        self.stir()  # somebody may just have made room, and looked whether anybody waits for it
        return True

    def close(self) -> None:
        """Nothing is written any more."""
        self.ended = True
        self._forget_stall()
        self.outbox.clear()
        self._tell()
        for future in self._drained:
            if not future.done():
                future.set_result(None)

    @property
    def idle(self) -> bool:
        """Everything has been handed to the system."""
        transport = self._transport
        return self.ended or not (
            self.outbox.queue or self.outbox.lanes.busy or (transport and transport.get_write_buffer_size())
        )

    def _tell(self) -> None:
        with self._room:
            self._room.notify_all()
            jobs, self._put_off = self._put_off, []
            self._crowd -= len(jobs)
        for job in jobs:
            job()

    def _watch_stall(self) -> None:
        transport = self._transport
        size = transport.get_write_buffer_size() if transport is not None else 0
        # asyncio keeps a timer that was cancelled until it would be due, and with it the context: not a handler's.
        self._stall = self._loop.call_later(STALL_TIME, self._look_for_stall, size, context=Context())

    def _forget_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _look_for_stall(self, size: int) -> None:
        if self._transport is not None and self._transport.get_write_buffer_size() < size:
            self._watch_stall()
            return
        logger.warning("a peer that read nothing for %g s was cut off", STALL_TIME)
        self._end(ConnectionLost(f"the peer read nothing for {STALL_TIME:g} s"))
