"""One connection with threads: who waits, reads; who reads a request, handles it; who writes, holds the pen.

Here the parts are put together, opened and ended; and what was read is handed to who waits for it. The calls of this
side are :mod:`~typedrpc.sync.calling`, the threads that handle those of the peer :mod:`~typedrpc.sync.handling`. Three
things are guarded apart, and none is held while another is waited for: the read role
(:mod:`~typedrpc.common.role`), the pen (:mod:`~typedrpc.sync.writer`), and the state lock, under which nothing blocks.
"""

import contextlib
import logging
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final, final

from typedrpc import transport
from typedrpc.batches import BatchRun
from typedrpc.callbacks import ALL_CALLBACKS, Callbacks
from typedrpc.common.apart import Apart
from typedrpc.common.fork import forsake_after_fork
from typedrpc.common.loop import refuse_on_kept_loop
from typedrpc.common.role import ReadRole
from typedrpc.common.room import Room
from typedrpc.common.router import Router
from typedrpc.common.sending import Streams
from typedrpc.common.tokens import Batch, CallWaiter, Token
from typedrpc.common.workers import Workers
from typedrpc.dispatch import Dispatcher
from typedrpc.errors import ConnectionLost, DeadlineExceeded, RpcError, ServerBusy, UnknownCommand
from typedrpc.failure import pack_protocol_failure, unpack_failure
from typedrpc.messages import NO_EXTRAS, Leave
from typedrpc.peer import Peer
from typedrpc.protocol import BatchRequest, Closed, Event, GivenUp, Outcome, Outgoing, Released, Request, State
from typedrpc.protocol import Protocol as Core
from typedrpc.sync.calling import LeadingCalls
from typedrpc.sync.handling import HandlerThreads
from typedrpc.sync.watcher import QUICK_TICK, Watcher
from typedrpc.sync.writer import Writer
from typedrpc.wire import Frame, Kind

logger = logging.getLogger("typedrpc")

_RESPONSE: Final = int(Kind.RESPONSE)

MAX_UNASKED: Final = 16 * 1024
"""Refusals and pongs that may wait to be written before the peer is taken for one that does not read."""

GOODBYE_TIME: Final = 0.1
"""Seconds that closing waits for what is still being written."""


@final
class Connection:
    """One end of a connection. Every method may be called from any thread."""

    def __init__(
        self,
        sock: socket.socket,
        core: Core[Token],
        *,
        runtime: Callable[[], tuple[Workers, Watcher]],
        dispatcher: Dispatcher,
        peer: Peer,
        attended: bool,
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
            on_end: Called once, when the connection has ended.
            on_forsaken: Called in a forked child, to which the connection does not belong.
        """
        self.core = core
        self.role = ReadRole()
        self.ended = False
        self.forked = False
        self.watched = False
        self._sock = sock
        self._state = threading.Lock()
        self._unasked = 0  # answers of the protocol's own that were queued since the queue was empty
        self._abandoned: deque[Sequence[Batch]] = deque()  # of maps that nobody goes on with
        self._dropped = False  # a callback, which the peer is to be told
        self._failing: list[Token] = []
        self._torn = False
        self._waker: transport.Waker | None = None
        self._left_behind: deque[Callable[[], None]] = deque()
        self.callbacks = Callbacks()
        core.calls.kept = self.callbacks.groups
        self._on_end = on_end
        self._on_forsaken = on_forsaken
        self._writer = Writer(
            sock,
            self.role,
            may_read_ahead=lambda: self.handlers.has_room(),
            read_ahead=self._read_ahead,
            end=self.end,
            stop_leading=self.stop_leading,
            leave=self._dispose,
            helper=lambda body: runtime()[0].start(body),
        )
        self.streams = Streams(self)
        self.handlers: HandlerThreads = HandlerThreads(
            core,
            self.role,
            self._writer,
            read=self._read_and_deliver,
            readable=self._is_readable,
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
        self._room = Room(core, self._state, self.handlers)
        self._router = Router(core, self.role, self.handlers, self.callbacks)
        self._calls = LeadingCalls(
            self,
            sock,
            core,
            self._state,
            writer=self._writer,
            callbacks=self.callbacks,
            room=self._room,
            router=self._router,
        )
        self.call = self._calls.call
        self.submit = self._calls.submit
        self.stand_in_line = self._room.stand_in_line
        self.look_for_room = self._room.look_again
        self.notify = self._calls.notify
        self.abort = self._calls.abort
        self.open_stream = self._calls.open_stream
        self.wait = self._calls.wait
        self.send_batch = self._calls.send_batch
        self.fetch = self._calls.fetch
        self._runtime = runtime
        forsake_after_fork(self)

    # Opening and ending

    def open(self, deadline: float) -> None:
        """Shake hands; a client is let in as well. Called once, before anything else.

        Args:
            deadline: When to give up, on the monotonic clock.

        Raises:
            ConnectionLost: The peer is none, or left.
            TimeoutError: It did not answer in time.
        """
        greeting = (State.GREETING, State.GREETED) if self.core.client else (State.GREETING,)
        if not self.role.try_take():
            raise self.core.lost()  # it has ended before: whoever ended it keeps the role
        try:
            self._post(deadline)
            while self.core.state in greeting and not self.ended:
                if monotonic() >= deadline:
                    raise TimeoutError
                self.deliver(self.read(deadline))
                self._post(deadline)
                self.attend(deadline)
        finally:
            self.stop_leading()
        if self.core.error is not None or self.core.state is State.DRAINING:
            raise self.core.lost()
        self._room.open()

    def welcome(self) -> bool:
        """Let the client in. Returns whether it was not too late for that."""
        with self._state:
            welcome = self.core.welcome()
        if welcome is None:
            return False
        self.post(welcome)
        return True

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

    def set_limit(self, max_message_size: int) -> None:
        """Change the size of the messages that are accepted, and tell the peer.

        Raises:
            ConnectionLost: There is no connection (any more).
            ValueError: It is out of range.
        """
        self.check()
        with self._state:
            data = self.core.set_limit(max_message_size)
        self.post(data)

    def check(self) -> None:
        """Raise ``ConnectionLost`` if calls cannot be made (any more)."""
        with self._state:
            if not self.core.may_call():
                raise self.core.lost()

    def drop_callback(self, origin: int, index: int) -> None:
        """A function of the peer's is not needed any more. May be called anywhere, within the garbage collector too."""
        # Nothing here takes a lock, which the interrupted code may hold.
        if not self.ended:
            self._writer.queue.append(self.core.release(origin, index))
            self._dropped = True
            self._runtime()[1].poke(self)

    def start_thread(self, body: Callable[[], None]) -> None:
        """Run a function in a thread of its own. Raises ``RuntimeError`` where the system has no more."""
        self._runtime()[0].start(body)

    def prepare_watcher(self) -> None:
        """Something may be left to the watcher within a finalizer, which cannot start it."""
        self._runtime()[1].start()

    def later(self, action: Callable[[], None]) -> None:
        """Have something done soon in the watcher's thread. May be called anywhere, as :meth:`drop_callback`."""
        if not self.ended:
            self._left_behind.append(action)
            self._runtime()[1].poke(self)

    def abandon(self, batches: Sequence[Batch]) -> None:
        """A map is given up, after :meth:`HandlerThreads.stand_by`, with what is in flight of it.

        May be called anywhere, within the garbage collector too.
        """
        # As above. The watcher does what has to be done.
        if not self.ended:
            self._abandoned.append(batches)
            self._runtime()[1].poke(self)

    def watch(self) -> None:
        """Have the watcher look: calls have deadlines."""
        if not self.watched:  # otherwise it looks within a tick
            self._runtime()[1].watch(self)

    def why_not_wait(self, what: str) -> RpcError | None:
        """What is wrong with a thread that is about to wait for a call; asked within handlers."""
        return refuse_on_kept_loop(what)

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
        error = ConnectionLost(f"the connection was closed on this side{': ' if reason else ''}{reason}")
        with self._state:
            goodbye = self.core.goodbye(reason, code) if self.core.state in (State.OPEN, State.GREETED) else None
            # Before the peer knows: it may close at once, and who reads here would take that for the cause.
            self.core.close(error)
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

    def drain(self, reason: str) -> None:
        """Tell the peer that no more calls are accepted; those that run are still answered."""
        with self._state:
            goodbye = self.core.drain(reason)
        if goodbye is not None:
            self._writer.queue.append(goodbye)
            self._writer.flush(monotonic())

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
        self._failing.extend(self.core.calls.pop_all())
        if self._torn:
            self._failing.extend(self.core.leaving)
        self.callbacks.end()
        while self._failing:
            # Taken out only then: whoever is interrupted in between has it done again. Another thread may be at it too.
            try:
                token = self._failing[-1]
            except IndexError:
                break
            token.fail(self, self.core.lost())
            with contextlib.suppress(ValueError):
                self._failing.remove(token)
        self.core.end_all_flows()  # only now: who takes from one is to find why
        for handled in tuple(self.core.handled.values()):
            if handled is not None and not handled.why_cancelled:
                handled.cancel("its caller has left")
        self.handlers.end()
        if (on_end := self._on_end) is not None:
            on_end(self)
            self._on_end = None
        self._dispose()

    def _dispose(self) -> None:
        """Close the descriptor, if nobody reads or writes any more; the last who does comes by here."""
        if self.role.try_take():
            if self._writer.try_take_pen():
                self._sock.close()
                if self._waker is not None:
                    self._waker.close()
                self.core.reader.discard()
                self._writer.discard()
            else:
                self.role.token.append(True)

    def forsake(self) -> None:
        """See :mod:`typedrpc.common.fork`: the connection is the parent's."""
        self.forked = True
        self.ended = True
        self._state = threading.Lock()
        self._calls.forsake(self._state)
        self.core.close(ConnectionLost("the connection was made before a fork, and is the parent's"))
        self.role.token.clear()
        self.core.forsake_flows()
        for token in self.core.calls.calls.values():
            if isinstance(token, CallWaiter):  # perhaps the very thread that forked, in what its call called back
                token.error, token.done = self.core.lost(), True
            elif isinstance(token, Batch):
                token.end(self.core.lost())
        for part in (self._writer, self.handlers, self._router, self.callbacks):
            part.forsake()
        self._sock.close()
        if self._waker is not None:
            self._waker.close()
        if self._on_forsaken is not None:
            self._on_forsaken()

    def interrupted(self, error: BaseException) -> None:
        """An exception of a signal handler came where bytes or the role may be lost with it: nothing is certain."""
        self._torn = True
        lost = ConnectionLost("a call was interrupted while it sent or read")
        lost.__cause__ = error
        self.end(lost)
        self._wind_up()  # once more, as it may have ended before, and somebody been about to learn of it

    def fault(self) -> None:
        logger.exception("a fault of typedrpc's own ended a connection")
        self.end(ConnectionLost("a fault of typedrpc's own, see the log"))

    # Reading

    def attend(self, deadline: float | None) -> None:
        """See to what came for others, in a thread that reads for itself."""
        if self._writer.queue:
            self._writer.flush(deadline, leading=True)
        if self.handlers.ready:
            self.handlers.call_for_help()

    def stop_leading(self) -> None:
        """The one exit of whoever holds the role."""
        self.role.release()
        if self.ended:
            self._dispose()
        elif (self.handlers.busy or self.handlers.unattended) and not self.watched:
            # The watcher sleeps while somebody reads. Now it may be that nobody does although somebody has to.
            self._runtime()[1].watch(self)

    def get_waker(self) -> transport.Waker | None:
        """What ends the wait of a thread that reads and may be told to stop; None if there are no descriptors.

        The role is held: who gives it up last closes the waker with the socket.
        """
        if self._waker is None:
            with contextlib.suppress(OSError):
                self._waker = transport.Waker()
        return self._waker

    def wake_reader(self) -> None:
        """A thread that waits for something of its own, and may read meanwhile, is to look at once."""
        if self._waker is not None:  # where it is made only now, its maker looks afterwards
            self._waker.set()

    def read(self, deadline: float | None = None, waker: transport.Waker | None = None) -> list[Event[Token]]:
        """Read once; the role is held. Empty when the deadline passed first, or the waker was set."""
        core, sock = self.core, self._sock
        try:
            if deadline is not None or waker is not None:
                left = None if deadline is None else deadline - monotonic()
                if not transport.wait(sock, read=True, timeout=left, waker=waker):
                    return []
            count = sock.recv_into(core.reader.get_buffer())
        except BlockingIOError:  # pragma: no cover  # where sockets do not block
            transport.wait(sock, read=True)
            return []
        except OSError as error:
            if not transport.is_of_socket(error):
                raise
            lost = ConnectionLost(f"the connection broke: {error.strerror or error}")
            lost.__cause__ = error
            return [core.close(lost)]
        return core.receive(count) if count else core.receive_eof()

    def _read_and_deliver(self) -> None:
        self.deliver(self.read())

    def _read_ahead(self) -> None:
        """Read once, in a thread that waits to write and therefore cannot handle what comes."""
        self.deliver(self.read())
        if self.handlers.ready:
            self.handlers.call_for_help()

    def _is_readable(self) -> bool:
        try:
            return transport.wait(self._sock, read=True, timeout=0)
        except (OSError, ValueError):  # closed meanwhile
            return False

    def deliver(self, events: list[Event[Token]]) -> None:
        """Pass on what was read; the role is held."""
        queue, core = self._writer.queue, self.core
        for event in events:
            if isinstance(event, Outcome):
                if self.callbacks.groups and event.frame.kind != _RESPONSE:
                    self._withdraw_unseen(event.frame)
                event.token.complete(self, event.frame)
            elif isinstance(event, Request):
                if type(event) is BatchRequest:
                    event.progress = BatchRun(core, event)
                if event.extras is not NO_EXTRAS and self._router.deliver(event):
                    continue
                if self.handlers.attended:
                    self.handlers.accept(event)
                elif event.call:
                    queue.append(core.failure(event, pack_protocol_failure(UnknownCommand("", event.command))))
                elif event.origin:
                    queue.append(core.release(event.origin, ALL_CALLBACKS))
            elif isinstance(event, GivenUp):
                self._cancel(event.call)
            elif isinstance(event, Released):
                self.callbacks.release(event.call, event.index)
            elif isinstance(event, Closed):
                # What the protocol has to say about the end goes out before the end does.
                self._post(monotonic())
                self.end(core.error or ConnectionLost("the connection is closed"))
        if self._room.is_counted or self._room.waiting:
            self._room.look_again()
        if core.outgoing:
            self._unasked = self._unasked + len(core.outgoing) if queue else 0
            queue.extend(core.outgoing)
            core.outgoing.clear()
            if self._unasked > MAX_UNASKED:
                logger.warning("a peer that calls without reading the answers was cut off")
                self.end(ConnectionLost("the peer calls without reading the answers"))

    def _cancel(self, call: int) -> None:
        """The peer has given up a call: stop what runs for it."""
        handled = self.core.give_up(call)
        if handled is not None and not handled.why_cancelled:
            handled.cancel("its caller has given it up")
        for inflow in tuple(self.core.inflows.get(call, {}).values()):
            if not inflow.ended:
                inflow.end(lost=True)

    def _withdraw_unseen(self, frame: Frame) -> None:
        """The peer says by these answers that it has not looked at the arguments, and has no callbacks of the call."""
        if frame.call in self.callbacks.groups and isinstance(
            unpack_failure(frame.payload, ""), UnknownCommand | ServerBusy
        ):
            self.callbacks.withdraw(frame.call)

    # In the watcher's thread

    def look(self, now: float) -> float | None:
        """See :class:`typedrpc.sync.watcher.Watched`."""
        while self._abandoned:
            self._calls.give_up_all(self._abandoned.popleft())
            self.handlers.stand_down()
        with self._state:
            expired = self.core.calls.expire(now)
            if expired:
                self._room.give_up(len(expired))
            next_deadline = self.core.calls.next_deadline()
        if self._dropped:
            self._dropped = False
            self._writer.flush(now)
            if self.waiting_frames > MAX_UNASKED:
                logger.warning("a peer that gives callbacks without reading that they are dropped was cut off")
                self.end(ConnectionLost("the peer gives callbacks without reading that they are dropped"))
        for call, token in expired:
            token.fail(self, DeadlineExceeded("no answer in time"))
            self._calls.give_up(call)
        if expired:
            self.handlers.call_for_help()
        while self._left_behind:
            self._left_behind.popleft()()
        due = self.streams.flush()
        pause = self.handlers.look_for_stall()
        if due:
            pause = QUICK_TICK
        if next_deadline is None:
            return pause
        left = max(0.0, next_deadline - now)
        return left if pause is None else min(pause, left)
