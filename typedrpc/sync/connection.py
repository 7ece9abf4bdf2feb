"""One connection with threads: who waits, reads; who reads a request, handles it; who writes, holds the pen.

Here the parts are put together, opened and ended; and what was read is handed to who waits for it. The calls of this
side are :mod:`~typedrpc.sync.calling`, the threads that handle those of the peer :mod:`~typedrpc.sync.handling`. Three
things are guarded apart, and none is held while another is waited for: the read role
(:mod:`~typedrpc.common.role`), the pen (:mod:`~typedrpc.sync.writer`), and the state lock, under which nothing blocks.
"""

import contextlib
import socket
from collections.abc import Callable
from time import monotonic
from typing import Any, final

from typedrpc import transport
from typedrpc.call import Row
from typedrpc.codec import CallbackCodec
from typedrpc.common.apart import Apart
from typedrpc.common.connection import GOODBYE_TIME, KEEP_ALIVE
from typedrpc.common.connection import Connection as AnyConnection
from typedrpc.common.loop import RIGHT_WAY, in_loop, refuse_on_kept_loop
from typedrpc.common.role import ReadRole, Waiter
from typedrpc.common.room import Room
from typedrpc.common.router import Router
from typedrpc.common.silence import Silence
from typedrpc.common.tokens import Token
from typedrpc.common.workers import Workers
from typedrpc.dispatch import Dispatcher
from typedrpc.errors import ConnectionLost, RpcError
from typedrpc.messages import Leave
from typedrpc.peer import Peer
from typedrpc.protocol import Event, Outgoing
from typedrpc.protocol import Protocol as Core
from typedrpc.sync.alive import KeepAlive
from typedrpc.sync.calling import LeadingCalls
from typedrpc.sync.handling import HandlerThreads
from typedrpc.sync.reading import Reader
from typedrpc.sync.watcher import QUICK_TICK, Watcher
from typedrpc.sync.writer import Writer


@final
class Connection(AnyConnection[HandlerThreads]):
    """One end of a connection. Every method may be called from any thread."""

    def __init__(
        self,
        sock: transport.SocketLike,
        core: Core[Token],
        *,
        runtime: Callable[[], tuple[Workers, Watcher]],
        dispatcher: Dispatcher,
        peer: Peer,
        attended: bool,
        keep_alive: float | None = KEEP_ALIVE,
        on_end: Callable[["Connection"], None] | None = None,
        on_forsaken: Callable[[], None] | None = None,
    ) -> None:
        """
        Args:
            sock: Connected, and set up by :func:`typedrpc.transport.prepare`. The connection owns it.
            core: The protocol's state.
            runtime: Gives the threads to lend and their watcher; asked when first needed.
            dispatcher: Leads requests to what this side serves.
            peer: The other end, for handlers.
            attended: Whether the peer may call, or somebody wants to know at once when it leaves: then somebody reads
                all the time.
            keep_alive: Seconds after which a peer that says nothing, though it is asked, is taken for dead.
            on_end: Called once, when the connection has ended.
            on_forsaken: Called in a forked child, to which the connection does not belong.
        """
        role = ReadRole()
        self._writer = writer = Writer(
            sock,
            role,
            may_read_ahead=lambda: self.handlers.has_room(),
            read_ahead=self._read_ahead,
            nothing_came=lambda: self._alive.hear_nothing(),
            end=self.end,
            broke=self._broke,
            stop_leading=self.stop_leading,
            leave=self._dispose,
            helper=lambda body: runtime()[0].start(body),
        )
        super().__init__(core, role, writer.queue, keep_alive=keep_alive, on_end=on_end, on_forsaken=on_forsaken)
        self._sock = sock
        self._torn = False
        self._runtime = runtime
        self._alive = alive = KeepAlive(sock, core, role, writer, deliver=self.deliver, stop_leading=self.stop_leading)
        self._reader = reader = Reader(sock, core, alive, self.deliver)
        self.read = reader.read
        self.get_waker = reader.get_waker
        self.handlers = HandlerThreads(
            core,
            role,
            writer,
            read=reader.read_and_deliver,
            read_now=lambda: self.deliver(reader.read_now()),
            readable=alive.is_readable,
            stop_leading=self.stop_leading,
            fault=self.fault,
            runtime=runtime,
            watched=self,
            dispatcher=dispatcher,
            peer=peer,
            attended=attended,
            callbacks=self.callbacks,
            run_apart=Apart(self, dispatcher, lambda: runtime()[0]).run,
        )

        def make_calls(room: Room, router: Router) -> LeadingCalls:
            return LeadingCalls(
                self,
                sock,
                core,
                self._state,
                writer=writer,
                alive=alive,
                callbacks=self.callbacks,
                room=room,
                router=router,
            )

        self._assemble(make_calls)

    # Opening and ending

    def open(self, deadline: float) -> None:
        """Shake hands; a client is let in as well. Called once, before anything else.

        Args:
            deadline: When to give up, on the monotonic clock.

        Raises:
            ConnectionLost: The peer is none, or left.
            TimeoutError: It did not answer in time.
        """
        if not self.role.try_take():
            raise self.core.lost()  # it has ended before: whoever ended it keeps the role
        try:
            self._post(deadline)
            while self._is_greeting() and not self.ended:
                if monotonic() >= deadline:
                    raise TimeoutError
                self.deliver(self.read(deadline))
                self._post(deadline)
                self.attend(deadline)
        finally:
            self.stop_leading()
        self._opened()

    def greet(self, events: list[Event[Token]]) -> bool:
        """Shake hands by what was read: instead of :meth:`open`, for who has the role and reads for many.

        Returns:
            Whether hands are shaken, or it has ended.
        """
        self.deliver(events)
        self._post(monotonic())
        return self.ended or not self._is_greeting()

    def stop_greeting(self) -> None:
        """Hands are shaken, if it has not ended.

        Raises:
            ConnectionLost: The peer is none, or left.
        """
        self.stop_leading()
        self._opened()

    def post(self, data: Outgoing) -> None:
        """Send a frame as soon as there is room for it, without waiting for that. It must not change any more."""
        try:
            self._writer.queue.append(data)
            self._writer.flush(monotonic())
        except BaseException as error:
            if not isinstance(error, Exception):  # of a signal handler, perhaps with the pen in hand
                self.interrupted(error)
            raise

    def send(self, data: Outgoing) -> None:
        """Send a frame, waiting for room in the pipe. Its buffers may change once this returns."""
        try:
            if not isinstance(data, bytes):
                self._writer.write_parts(data)
            elif not self._writer.write_whole(data):
                self._writer.queue.append(data)
                self._writer.flush()
        except BaseException as error:
            if not isinstance(error, Exception):
                self.interrupted(error)
            raise

    def row_of_callback(self, codec: CallbackCodec, function: Callable[..., Any], loop: Any) -> Row:
        run = in_loop(function, loop) if codec.is_async else function
        return Row(codec.name, run, codec.codec.unpack_arguments, codec.codec.pack_result)

    def start_thread(self, body: Callable[[], None]) -> None:
        """Run a function in a thread of its own. Raises ``RuntimeError`` where the system has no more."""
        self._runtime()[0].start(body)

    def prepare_watcher(self) -> None:
        self._runtime()[1].start()

    def _poke(self) -> None:
        self._runtime()[1].poke(self)

    def _flush_now(self) -> None:
        self._writer.flush(monotonic())

    def _say_last(self) -> None:
        self._writer.flush(monotonic(), leading=True, last=True)

    def watch(self) -> None:
        """Have the watcher look: calls have deadlines."""
        if not self.watched:  # otherwise it looks within a tick
            self._runtime()[1].watch(self)

    def why_not_wait(self, what: str, instead: str = RIGHT_WAY) -> RpcError | None:
        """What is wrong with a thread that is about to wait for a call; asked within handlers."""
        return refuse_on_kept_loop(what, instead)

    def write(self, data: Outgoing, deadline: float | None) -> None:
        """Write a frame, or leave it to the thread that is writing; wait for room in the pipe until the deadline.

        Its buffers may change once this returns.
        """
        if not isinstance(data, bytes):
            self._writer.write_parts(data, deadline)
        elif not self._writer.write_whole(data, deadline):
            self._writer.queue.append(data)
            self._writer.flush(deadline, patient=False)

    def write_one_way(self, data: Outgoing, deadline: float | None) -> None:
        """As :meth:`write`, for what the peer does not hold back by waiting: return when not too much waits."""
        if isinstance(data, bytes):
            self._writer.queue.append(data)
        else:
            self._writer.write_parts(data, deadline)
        self._writer.make_room(deadline)

    @property
    def waiting_frames(self) -> int:
        """Frames that wait to be written."""
        return self._writer.frames

    @property
    def waiting_bytes(self) -> int:
        """Their bytes; takes time with their number."""
        return self._writer.size()

    def _post(self, deadline: float) -> None:
        self._writer.queue.extend(self.core.outgoing)
        self.core.outgoing.clear()
        self._writer.flush(deadline, leading=True, last=True)

    def close(self, reason: str = "", code: int = Leave.OTHER) -> None:
        """Say goodbye and end the connection. Calls that wait raise ``ConnectionLost``. May be called again."""
        error, goodbye = self._take_leave(reason, code)
        if goodbye is not None:
            self._writer.queue.append(goodbye)
            self._writer.flush(monotonic(), last=True)
        if not self._writer.idle:
            # Another thread has the pen, perhaps with our goodbye: the peer is to learn the reason if it reads at all.
            self._writer.wait_until_idle(GOODBYE_TIME)
        self.end(error)
        if self._torn:
            # The interrupted thread may have the role and the pen for ever, so nobody else closes the descriptor. Who
            # reads or writes was woken long since.
            self._sock.close()

    def end(self, error: ConnectionLost) -> None:
        """End the connection: whoever waits for anything learns the cause."""
        with self._state:
            if self.ended:
                return
            self.ended = self._writer.ended = True
            self.core.close(error)
            self._room.notify_all()
        try:
            self._wind_up()
        except BaseException:
            # Of a signal handler. Every step may be done again, and nobody may be left waiting.
            self._wind_up()
            raise

    def _wind_up(self) -> None:
        # shutdown, not close: another thread may be in recv or poll, and the descriptor's number must stay ours.
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._writer.wind_up()
        if self._torn:
            self._failing.extend((0, token) for token in self.core.leaving)
        self._tell_of_end()
        self._dispose()

    def _dispose(self) -> None:
        """Close the descriptor, if nobody reads or writes any more; the last who does comes by here."""
        if self.role.try_take():
            if self._writer.try_take_pen():
                self._sock.close()
                self._reader.close()
                self.core.reader.discard()
                self._writer.discard()
            else:
                self.role.token.append(True)

    def forsake(self) -> None:
        super().forsake()
        self._writer.forsake()
        self._sock.close()
        self._reader.close()

    def interrupted(self, error: BaseException) -> None:
        """An exception of a signal handler came where bytes or the role may be lost with it: nothing is certain."""
        self._torn = True
        lost = ConnectionLost("a call was interrupted while it sent or read")
        lost.__cause__ = error
        self.end(lost)
        self._wind_up()  # once more, as it may have ended before, and somebody been about to learn of it

    # Reading

    def attend(self, deadline: float | None) -> None:
        """See to what came for others, in a thread that reads for itself."""
        if self._writer.queue:
            self._writer.flush(deadline, leading=True)
        if self.handlers.ready:
            self.handlers.call_for_help()

    def stop_leading(self) -> None:
        """The one exit of whoever holds the role."""
        role = self.role
        if role.parked:
            role.release()
        else:  # the same, as far as it goes where nobody is parked
            role.progress += 1
            role.token.append(True)
            if role.parked and role.try_take():
                role.release()
        if self.ended:
            self._dispose()
        elif (self.handlers.busy or self.handlers.unattended) and not self.watched:
            # The watcher sleeps while somebody reads. Now it may be that nobody does although somebody has to.
            self._runtime()[1].watch(self)

    def wake_reader(self) -> None:
        """A thread that waits for something of its own, and may read meanwhile, is to look at once."""
        self._reader.wake()

    def _listen_for_life(self, silence: Silence) -> None:
        self._alive.begin(silence)

    def _read_ahead(self) -> None:
        """Read once, in a thread that waits to write and therefore cannot handle what comes."""
        self.deliver(self._reader.read_now())
        if self.handlers.ready:
            self.handlers.call_for_help()

    def _broke(self, error: ConnectionLost, leading: bool) -> None:
        """Nothing can be written any more. What the peer said before it left is why, and which calls it has not run."""
        if leading or self._take_role_soon():
            try:
                self._reader.read_last_words()
            finally:
                if not leading:
                    self.stop_leading()
        self.end(error)

    def _take_role_soon(self) -> bool:
        """Take the role, also from who reads: he comes to the peer's end too, unless something else keeps him."""
        if self.role.try_take():
            return True
        waiter, until = Waiter(), monotonic() + GOODBYE_TIME
        while not self.ended and (left := until - monotonic()) > 0:
            self.role.park(waiter, left)
            if waiter.leads or self.role.try_take():
                return True
        return False

    def look_alive(self) -> None:
        try:
            if self.role.try_take():
                try:
                    self._reader.read_rest()
                    self.attend(monotonic())
                finally:
                    self.stop_leading()
        except BaseException as error:  # of a signal handler: as in a call
            self.interrupted(error)
            raise

    # In the watcher's thread

    def look(self, now: float) -> float | None:
        """See :class:`typedrpc.sync.watcher.Watched`."""
        next_deadline, due = self._look(now)
        pause = self.handlers.look_for_stall()
        if pause is not None:
            self._alive.look(now)
        if due:
            pause = QUICK_TICK
        if next_deadline is None:
            return pause
        left = max(0.0, next_deadline - now)
        return left if pause is None else min(pause, left)
