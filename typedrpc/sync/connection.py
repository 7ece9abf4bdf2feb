"""One connection with threads: who waits, reads; who reads a request, handles it; who writes, holds the pen.

A thread that waits for a reply takes the read role if it is free, and reads until it has its own; what it reads for
others it hands to them. Three things are guarded apart, and none is held while another is waited for: the read role
(:mod:`~typedrpc.sync.role`), the pen (:mod:`~typedrpc.sync.writer`), and the state lock, under which nothing blocks.
The threads that handle what comes are :mod:`~typedrpc.sync.handling`.

An exception of a signal handler, such as ``KeyboardInterrupt``, may come anywhere. Where it provably lost no byte, only
the call that it interrupted is given up; elsewhere it ends the connection.
"""

import contextlib
import logging
import math
import socket
import threading
from collections.abc import Callable
from time import monotonic
from typing import Final, final

from typedrpc import transport
from typedrpc.callbacks import Callbacks, Group, Offers
from typedrpc.codec import Payload, Segmented
from typedrpc.dispatch import Dispatcher, get_call
from typedrpc.errors import ConnectionLost, DeadlineExceeded, ServerBusy, UnknownCommand
from typedrpc.failure import pack_protocol_failure, unpack_failure
from typedrpc.messages import NO_EXTRAS, Leave
from typedrpc.peer import Peer
from typedrpc.protocol import Closed, Event, Outcome, Outgoing, Released, Request, State
from typedrpc.protocol import Protocol as Core
from typedrpc.sync.fork import forsake_after_fork
from typedrpc.sync.handling import HandlerThreads, Series
from typedrpc.sync.role import ReadRole, Waiter
from typedrpc.sync.tokens import CallWaiter, Failed, NotSent, Pending, Token
from typedrpc.sync.workers import Watcher, Workers
from typedrpc.sync.writer import Writer
from typedrpc.wire import Kind

logger = logging.getLogger("typedrpc")

MAX_UNASKED: Final = 16 * 1024
"""Refusals and pongs that may wait to be written before the peer is taken for one that does not read."""

GOODBYE_TIME: Final = 0.1
"""Seconds that closing waits for what is still being written."""

HANDLERS_PATIENCE: Final = 5.0
"""Seconds that a call which a handler makes waits for room at the peer: in a ring it would wait for itself."""

_RESPONSE: Final = int(Kind.RESPONSE)
_POISON: Final = 0xFF
"""Put where the first byte of a header is read to. No header begins with it: a frame cannot be so long."""


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
        exposes: bool,
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
            exposes: Whether the peer may call, or somebody wants to know at once when it leaves: then somebody reads
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
        self._room = threading.Condition(self._state)
        self._waiting_for_room = 0
        self._given_up = 0  # calls that nobody waits for any more; they are in flight until their late replies come
        self._in_turn = False  # no call may be made that the in-flight table does not count
        self._unasked = 0  # answers of the protocol's own that were queued since the queue was empty
        self._dropped = False  # a callback, which the peer is to be told
        self._failing: list[Token] = []
        self._torn = False
        self.exposes = exposes
        self.callbacks = Callbacks()
        core.calls.kept = self.callbacks.groups
        self._on_end = on_end
        self._on_forsaken = on_forsaken
        self._writer = Writer(
            sock,
            self.role,
            may_read_ahead=lambda: self.threads.has_room(),
            read_ahead=self._read_ahead,
            end=self.end,
            stop_leading=self._stop_leading,
            leave=self._dispose,
            helper=lambda body: runtime()[0].start(body),
        )
        self.threads = HandlerThreads(
            core,
            self.role,
            self._writer,
            read=self._read_and_deliver,
            readable=self._is_readable,
            stop_leading=self._stop_leading,
            fault=self.fault,
            runtime=runtime,
            watched=self,
            dispatcher=dispatcher,
            peer=peer,
            wanted=lambda: self.exposes or bool(self.callbacks.groups),
        )
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
        try:
            taken = self.role.try_take()
            assert taken, "nobody else uses the connection yet"
            self._post(deadline)
            while self.core.state in greeting and not self.ended:
                if monotonic() >= deadline:
                    raise TimeoutError
                self._deliver(self._read(deadline))
                self._post(deadline)
                self._attend(deadline)
        finally:
            self._stop_leading()
        if self.core.error is not None:
            raise self.core.lost()
        self._in_turn = self.core.peer_limits.max_calls == 1

    def welcome(self) -> None:
        """Let the client in."""
        with self._state:
            welcome = self.core.welcome()
        if welcome is not None:
            self.post(welcome)

    def post(self, data: Outgoing) -> None:
        """Send a frame as soon as there is room for it, without waiting for that. It must not change any more."""
        self._writer.queue.append(data)
        self._writer.flush(monotonic())

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
            if self.core.state not in (State.OPEN, State.GREETED):
                raise self.core.lost()

    def drop_callback(self, origin: int, index: int) -> None:
        """A function of the peer's is not needed any more. May be called anywhere, within the garbage collector too."""
        # Nothing here takes a lock, which the interrupted code may hold.
        if not self.ended:
            self._writer.queue.append(self.core.release(origin, index))
            self._dropped = True
            self._runtime()[1].poke(self)

    @property
    def waiting_frames(self) -> int:
        """Frames that wait to be written."""
        return len(self._writer.queue)

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
            self._failing[-1].fail(self, self.core.lost())
            self._failing.pop()
        self.threads.end()
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self)
        self._dispose()

    def _dispose(self) -> None:
        """Close the descriptor, if nobody reads or writes any more; the last who does comes by here."""
        if self.role.try_take():
            if self._writer.try_take_pen():
                self._sock.close()
                self.core.reader.discard()
            else:
                self.role.token.append(True)

    def forsake(self) -> None:
        """See :mod:`typedrpc.sync.fork`: the connection is the parent's."""
        self.forked = True
        self.ended = self._writer.ended = self.threads.ended = True
        self._state = threading.Lock()
        self._room = threading.Condition(self._state)
        self.core.close(ConnectionLost("the connection was made before a fork, and is the parent's"))
        self.role.token.clear()
        self._writer.pen.clear()
        self._writer.queue.clear()
        self._sock.close()
        if self._on_forsaken is not None:
            self._on_forsaken()

    # Calling

    def call(
        self,
        command: int,
        payload: Payload,
        what: str,
        deadline: float | None = None,
        extension: bytes = b"",
        nested: bool = False,
        callbacks: Offers | None = None,
    ) -> Payload:
        """Call the peer and wait for its answer: the packed result.

        Args:
            command: The peer's id of the command.
            payload: The packed arguments.
            what: Names the command in errors.
            deadline: When to stop waiting, on the monotonic clock.
            extension: The packed extension map.
            nested: Whether the call is made by a handler of a call that came on this connection.
            callbacks: The functions that go with the call.

        Raises:
            ConnectionLost: There is no connection (any more).
            DeadlineExceeded: The deadline passed. The handler may have run.
            MessageTooLarge: The peer would not accept the arguments.
            Exception: What the peer answered instead of a result (see :mod:`typedrpc.failure`).
        """
        core = self.core
        with self._state:
            call, data = core.start(command, payload, what, extension)
        waiter: CallWaiter | None = None
        try:
            if nested or callbacks:
                return self._call_with(call, data, what, deadline, nested, callbacks)
            # A thread that reads its own reply needs no entry in the in-flight table.
            if self._in_turn or not self.role.try_take():
                waiter = CallWaiter()
                self._register(call, data, what, deadline, waiter)
                return self._outcome(call, what, waiter, deadline)
            if not self._writer.write_whole(data, deadline, leading=True):
                waiter = self._register_leading(call)
                if isinstance(data, bytes):
                    self._writer.queue.append(data)
                    self._writer.flush(deadline, leading=True)
                else:
                    self._writer.write_parts(data, deadline, leading=True)
            return self._read_reply(call, what, deadline, waiter)
        except Failed as failed:
            error = failed.error
        except BaseException as interrupt:
            self._interrupted(interrupt)
            raise
        if isinstance(payload, Segmented):
            # Who catches the error may want to resize a bytearray that he gave; the traceback keeps what is here.
            payload.release()
        raise error

    def _call_with(
        self, call: int, data: Outgoing, what: str, deadline: float | None, nested: bool, callbacks: Offers | None
    ) -> Payload:
        """A call that is nested, or that functions go with. Raises ``Failed``."""
        waiter = CallWaiter()
        group = self.callbacks.offer(call, callbacks, waiter) if callbacks else None
        aside = nested and self.threads.step_aside()
        try:
            self._register(call, data, what, deadline, waiter, nested=nested)
            return self._outcome(call, what, waiter, deadline)
        except Failed as failed:
            if isinstance(failed, NotSent) or isinstance(failed.error, UnknownCommand | ServerBusy):
                self.callbacks.withdraw(call)  # the peer has not looked at them
            raise
        finally:
            if aside:
                self.threads.step_back()
            if group is not None:
                group.waiter = None
                self._hand_back(waiter)
                self.threads.look_again()

    def _read_reply(self, call: int, what: str, deadline: float | None, waiter: CallWaiter | None) -> Payload:
        """Read the reply to a call; the role is held. Raises ``Failed``."""
        core = self.core
        reader = core.reader
        if waiter is None and deadline is None and reader.idle:
            buffer = reader.buffer
            buffer[0] = _POISON
            try:
                count = self._sock.recv_into(buffer)
            except BaseException as error:
                if not transport.is_of_socket(error):
                    if buffer[0] != _POISON:
                        raise
                    # Nothing was read: the connection is as it was, only this call is given up.
                    self._give_up(1)
                    self._stop_leading()
                    raise Failed(error) from None
                count = -1  # whatever it is, it comes again, and is dealt with below
            if count > 0:
                sole = reader.sole_frame(count)
                if sole is not None and sole[0] == _RESPONSE and sole[2] == call:
                    self._stop_leading()
                    return sole[3]
            waiter = self._register_leading(call)
            if count >= 0:
                self._deliver(core.receive(count) if count else core.receive_eof())
                self._attend(deadline)
        elif waiter is None:
            waiter = self._register_leading(call)
        return self._outcome(call, what, waiter, deadline, leading=True)

    def submit(
        self,
        command: int,
        payload: Payload,
        what: str,
        token: Pending,
        deadline: float | None = None,
        extension: bytes = b"",
        nested: bool = False,
        callbacks: Offers | None = None,
        *,
        at_once: bool = False,
    ) -> None:
        """Call the peer; the outcome goes to the token. Raises as :meth:`call` does, if nothing was sent.

        Past the deadline, the token gets ``DeadlineExceeded``. With ``at_once`` this waits for nothing, and the payload
        must not change any more: a peer without room for the call is one that has not answered in time.
        """
        with self._state:
            call, data = self.core.start(command, payload, what, extension)
        if callbacks:
            self.callbacks.offer(call, callbacks)
        self.threads.expect()
        try:
            self._register(call, data, what, deadline, token, nested=nested, at_once=at_once)
            if deadline is not None:
                self._runtime()[1].watch(self)
            return
        except Failed as failed:
            error = failed.error
            self.callbacks.withdraw(call)
            self.threads.forget()
            self.threads.call_for_help()
        except BaseException as interrupt:
            self._interrupted(interrupt)
            raise
        raise error

    def notify(
        self,
        command: int,
        payload: Payload,
        what: str,
        deadline: float | None = None,
        extension: bytes = b"",
        callbacks: Offers | None = None,
    ) -> None:
        """Call the peer one-way: write the call, or leave it to the thread that is writing.

        Past the deadline the rest is left to a thread of its own: what was begun is sent.

        Raises:
            ConnectionLost: There is no connection (any more).
            MessageTooLarge: The peer would not accept the arguments.
        """
        self.check()
        origin = 0
        if callbacks:
            with self._state:
                origin = self.core.new_call()
        data = self.core.notify(command, payload, what, extension, origin)
        if callbacks:
            self.callbacks.offer(origin, callbacks)
            self.threads.look_again()
        try:
            if isinstance(data, bytes):
                self._writer.queue.append(data)
            else:
                self._writer.write_parts(data, deadline)
            self._writer.make_room(deadline)
        except BaseException as interrupt:
            self._interrupted(interrupt)
            raise

    def _register(
        self,
        call: int,
        data: Outgoing,
        what: str,
        deadline: float | None,
        token: Token,
        *,
        nested: bool = False,
        at_once: bool = False,
    ) -> None:
        """Enter a call into the in-flight table once the peer has room for it, and send it. Raises ``NotSent``.

        A nested call does not wait for room: what it would wait for may wait for it.
        """
        core = self.core
        with self._state:
            # One place is left for the thread that reads its own reply and is not in the table.
            room = max(1, core.peer_limits.max_calls - 1)
            if not nested and len(core.calls) + self._given_up - core.late_replies >= room:
                self._wait_for_room(room, what, monotonic() if at_once else deadline)
            if self.ended:
                raise NotSent(core.lost())
            core.calls.insert(call, token, deadline if isinstance(token, Pending) else None)
        if at_once:
            self.post(data)
        elif isinstance(data, bytes):
            self._writer.queue.append(data)
            self._writer.flush(deadline)
        else:
            self._writer.write_parts(data, deadline)

    def _wait_for_room(self, room: int, what: str, deadline: float | None) -> None:
        """Wait until fewer calls than ``room`` are in flight, or the connection has ended. The state lock is held."""
        core = self.core
        expecting = False
        last_moment = monotonic() + (math.inf if get_call() is None else HANDLERS_PATIENCE)
        self._waiting_for_room += 1
        try:
            while len(core.calls) + self._given_up - core.late_replies >= room and not self.ended:
                now = monotonic()
                left = transport.LONGEST_WAIT if deadline is None else deadline - now
                if left <= 0:
                    raise NotSent(DeadlineExceeded(f"{what}: the peer had no room for another call in time"))
                if now >= last_moment:
                    text = f"{what}: a handler calls it, and the peer had no room within {HANDLERS_PATIENCE:g} s"
                    raise NotSent(ServerBusy(f"{text}; raise max_calls there"))
                left = min(left, last_moment - now)
                if not expecting and self._given_up > core.late_replies:
                    # Those who made the calls have gone. Somebody has to read the late replies.
                    self.threads.expect()
                    expecting = True
                self._room.wait(min(left, transport.LONGEST_WAIT))
        finally:
            self._waiting_for_room -= 1
            if expecting:
                self.threads.forget()

    def _register_leading(self, call: int) -> CallWaiter:
        """Enter the call of a thread that holds the role, which is given up if the connection has ended.

        Raises ``Failed``.
        """
        waiter = CallWaiter()
        with self._state:
            if not self.ended:
                self.core.calls.insert(call, waiter)
                return waiter
        self._stop_leading()
        raise Failed(self.core.lost())

    def _outcome(
        self, call: int, what: str, waiter: CallWaiter, deadline: float | None, *, leading: bool = False
    ) -> Payload:
        """Wait, parked or leading, until the waiter is done or out of time. Raises ``Failed``."""
        interrupt: BaseException | None = None
        while interrupt is None:
            if leading or self.role.try_take():
                leading = False
                interrupt = self._lead(waiter, deadline)
            left = None if deadline is None else deadline - monotonic()
            # What came before the reply is run before it, in the order in which it was sent.
            if waiter.work and interrupt is None and not (left is not None and left <= 0 and not waiter.done):
                interrupt = self.threads.run_nested(waiter.work)
                continue
            if waiter.done or interrupt is not None or (left is not None and left <= 0):
                break
            interrupt = self._park(waiter, left)
            leading, waiter.leads = waiter.leads, False
        if not waiter.done and self.core.calls.pop(call) is not None:
            self._give_up(1)
            self._hand_back(waiter)
            raise Failed(interrupt or DeadlineExceeded(f"{what}: no answer in time"))
        self._hand_back(waiter)
        if interrupt is not None:
            raise Failed(interrupt)
        while not waiter.done:  # whoever removed the call from the table is about to say so
            interrupt = self._park(waiter, None) or interrupt
        if interrupt is not None:
            raise Failed(interrupt)
        if waiter.error is not None:
            raise Failed(waiter.error)
        frame = waiter.frame
        assert frame is not None, "a waiter that is done has a frame or an error"
        if frame.kind != _RESPONSE:
            raise Failed(unpack_failure(frame.payload, what))
        return frame.payload

    def _hand_back(self, waiter: CallWaiter) -> None:
        """What is nested in a call that this thread waits for no more is for others."""
        while waiter.work:
            try:
                request = waiter.work.popleft()
            except IndexError:  # who put it there has taken it back
                return
            if not request.call:
                self.threads.let_go(request)
            self.threads.accept(request, self._series_of(request))
            self.threads.call_for_help()

    def _park(self, waiter: Waiter, timeout: float | None) -> BaseException | None:
        """Park, and return an exception of a signal handler instead of raising it: it did no harm."""
        try:
            self.role.park(waiter, timeout)
        except BaseException as error:
            return error
        return None

    def _give_up(self, calls: int) -> None:
        """So many calls have left the table without an answer; to the peer they are still in flight."""
        with self._state:
            self._given_up += calls
            self._in_turn = True
            self._room.notify_all()  # not that there is room: those who wait have to see to it that somebody reads

    def _make_room(self) -> None:
        """Something was answered."""
        if self._waiting_for_room:
            with self._state:
                self._room.notify_all()
        if self._in_turn and self.core.peer_limits.max_calls > 1:
            with self._state:
                self._in_turn = self._given_up > self.core.late_replies

    def _interrupted(self, error: BaseException) -> None:
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

    def _lead(self, waiter: Waiter, deadline: float | None) -> BaseException | None:
        """Read, holding the role, until the waiter is done or out of time; then give the role up.

        Returns an exception of a signal handler that did no harm, instead of raising it.
        """
        reader = self.core.reader
        idle = False
        try:
            while not (waiter.done or waiter.work or (deadline is not None and monotonic() >= deadline)):
                if idle := reader.idle:
                    reader.buffer[0] = _POISON
                events = self._read(deadline)
                idle = False
                self._deliver(events)
                self._attend(deadline)
        except BaseException as error:
            if not idle or reader.buffer[0] != _POISON:
                raise
            self._stop_leading()
            return error
        self._stop_leading()
        return None

    def _attend(self, deadline: float | None) -> None:
        """See to what came for others, in a thread that reads for itself."""
        if self._writer.queue:
            self._writer.flush(deadline, leading=True)
        if self.threads.ready:
            self.threads.call_for_help()

    def _stop_leading(self) -> None:
        """The one exit of whoever holds the role."""
        self.role.release()
        if self.ended:
            self._dispose()
        elif (self.threads.busy or self.threads.unattended) and not self.watched:
            # The watcher sleeps while somebody reads. Now it may be that nobody does although somebody has to.
            self._runtime()[1].watch(self)

    def _read(self, deadline: float | None = None) -> list[Event[Token]]:
        """Read once; the role is held. Empty when the deadline passed first."""
        core, sock = self.core, self._sock
        try:
            if deadline is not None and not transport.wait(sock, read=True, timeout=deadline - monotonic()):
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
        self._deliver(self._read())

    def _read_ahead(self) -> None:
        """Read once, in a thread that waits to write and therefore cannot handle what comes."""
        self._deliver(self._read())
        if self.threads.ready:
            self.threads.call_for_help()

    def _give_to_waiting(self, request: Request) -> bool:
        """Give a request to the thread that waits for the call which it is nested in. Returns whether there is one."""
        extras, calls = request.extras, self.core.calls
        token = calls.get(extras.parent) if extras.parent else None
        if isinstance(token, CallWaiter):
            return self._give(request, token, lambda: calls.get(extras.parent) is token)
        group = self._group_of(request)
        if group is None or group.waiter is None:
            return False
        waiter = group.waiter
        return self._give(request, waiter, lambda: group.waiter is waiter)

    def _give(self, request: Request, waiter: CallWaiter, still_waits: Callable[[], bool]) -> bool:
        if not request.call:
            self.threads.hold(request)
        waiter.work.append(request)
        # It may have stopped waiting, and looked for the last time.
        if not still_waits():
            try:
                waiter.work.remove(request)
            except ValueError:
                return True
            if not request.call:
                self.threads.let_go(request)
            return False
        self.role.rouse(waiter)
        return True

    def _group_of(self, request: Request) -> Group | None:
        target = request.extras.target
        return None if target is None else self.callbacks.groups.get(target[0])

    def _series_of(self, request: Request) -> Series | None:
        """The callbacks of one call run one after another."""
        group = self._group_of(request)
        if group is None:
            return None
        series: Series = group.series or Series()
        group.series = series
        return series

    def _is_readable(self) -> bool:
        try:
            return transport.wait(self._sock, read=True, timeout=0)
        except (OSError, ValueError):  # closed meanwhile
            return False

    def _deliver(self, events: list[Event[Token]]) -> None:
        """Pass on what was read; the role is held."""
        queue, core = self._writer.queue, self.core
        for event in events:
            if isinstance(event, Outcome):
                event.token.complete(self, event.frame)
            elif isinstance(event, Request):
                if event.extras is not NO_EXTRAS and self._give_to_waiting(event):
                    continue
                if self.exposes or self.callbacks.groups:
                    self.threads.accept(event, self._series_of(event))
                elif event.call:
                    queue.append(core.failure(event, pack_protocol_failure(UnknownCommand("", event.command))))
            elif isinstance(event, Released):
                self.callbacks.release(event.call, event.index)
            elif isinstance(event, Closed):
                # What the protocol has to say about the end goes out before the end does.
                self._post(monotonic())
                self.end(core.error or ConnectionLost("the connection is closed"))
        if self._in_turn or self._waiting_for_room:
            self._make_room()
        if core.outgoing:
            self._unasked = self._unasked + len(core.outgoing) if queue else 0
            queue.extend(core.outgoing)
            core.outgoing.clear()
            if self._unasked > MAX_UNASKED:
                logger.warning("a peer that calls without reading the answers was cut off")
                self.end(ConnectionLost("the peer calls without reading the answers"))

    # In the watcher's thread

    def look(self, now: float) -> float | None:
        """See :class:`typedrpc.sync.workers.Watched`."""
        with self._state:
            expired = self.core.calls.expire(now)
            next_deadline = self.core.calls.next_deadline()
        if self._dropped:
            self._dropped = False
            self._writer.flush(now)
        for token in expired:
            token.fail(self, DeadlineExceeded("no answer in time"))
        if expired:
            self._give_up(len(expired))
            self.threads.call_for_help()
        pause = self.threads.look_for_stall()
        if next_deadline is None:
            return pause
        left = max(0.0, next_deadline - now)
        return left if pause is None else min(pause, left)
