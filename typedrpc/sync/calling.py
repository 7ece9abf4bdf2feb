"""The calls of a thread that reads for itself: who waits for a reply takes the read role if it is free."""

import threading
from collections.abc import Callable
from time import monotonic
from typing import Final, final
from typing import Protocol as TypingProtocol

from typedrpc import transport
from typedrpc.call import Call
from typedrpc.callbacks import Callbacks
from typedrpc.codec import Payload
from typedrpc.common.calling import Calls, Going, raise_the
from typedrpc.common.calling import Connection as AnyConnection
from typedrpc.common.role import Waiter
from typedrpc.common.room import Room
from typedrpc.common.router import Router
from typedrpc.common.tokens import CallWaiter, Failed, Token
from typedrpc.deadlines import nearest
from typedrpc.protocol import Event
from typedrpc.protocol import Protocol as Core
from typedrpc.sync.alive import KeepAlive
from typedrpc.sync.writer import Writer
from typedrpc.transport import Waker
from typedrpc.wire import Frame, Kind

LOOK_TIME: Final = 0.05
"""Seconds after which a thread that reads looks whether it is to stop, where the system has nothing to tell it with."""

_RESPONSE: Final = int(Kind.RESPONSE)
_POISON: Final = 0xFF
"""Put where the first byte of a header is read to. No header begins with it: a frame cannot be so long."""


class Connection(AnyConnection, TypingProtocol):
    """What they need beside."""

    def read(self, deadline: float | None = None, waker: Waker | None = None) -> list[Event[Token]]: ...
    def get_waker(self) -> Waker | None: ...
    def deliver(self, events: list[Event[Token]]) -> None: ...
    def attend(self, deadline: float | None) -> None: ...


@final
class LeadingCalls(Calls):
    """Makes calls, and reads where nobody else does."""

    _connection: Connection

    def __init__(
        self,
        connection: Connection,
        sock: transport.SocketLike,
        core: Core[Token],
        state: threading.Lock,
        *,
        writer: Writer,
        alive: KeepAlive,
        callbacks: Callbacks,
        room: Room,
        router: Router,
    ) -> None:
        """As for :class:`typedrpc.common.calling.Calls`; and its socket, what writes, and keep-alive."""
        super().__init__(connection, core, state, callbacks=callbacks, room=room, router=router)
        self._sock = sock
        self._writer = writer
        self._alive = alive

    def call(
        self,
        command: int,
        payload: Payload,
        what: str,
        deadline: float | None = None,
        extension: bytes = b"",
        nested: bool = False,
        going: Going | None = None,
        within: Call | None = None,
        on_reply: Callable[[Frame], None] | None = None,
    ) -> Payload:
        # The whole way of a plain call is in this one function: each further one would cost a hundredth of the call.
        core, room, role = self._core, self._room, self._role
        call, data = core.start(command, payload, what, extension, nested)
        try:
            if nested or going is not None or within is not None or on_reply is not None:
                return self._call_with(call, data, what, deadline, nested, going, within, on_reply)
            # A thread that reads its own reply needs no entry in the in-flight table. One that has much to write leaves
            # reading to others meanwhile.
            leads = type(data) is bytes and not room.is_counted
            if leads:
                try:
                    role.token.pop()  # as `ReadRole.try_take` does
                except IndexError:
                    leads = False
                else:
                    if core.calls.calls and room.is_taken:
                        self._connection.stop_leading()
                        leads = False
            if not leads:
                waiter = CallWaiter()
                self._register(call, data, what, deadline, waiter)
                return self._outcome(call, what, waiter, deadline)
            reader = core.reader
            if not self._writer.write_whole(data, deadline, leading=True):
                waiter = self._register_leading(call)
                self._writer.queue.append(data)
                self._writer.flush(deadline, leading=True)
            elif deadline is not None or not reader.idle:
                waiter = self._register_leading(call)
            else:
                buffer = reader.buffer
                buffer[0] = _POISON
                try:
                    count = self._sock.recv_into(buffer)
                except BaseException as error:
                    if not transport.is_of_socket(error):
                        if buffer[0] != _POISON:
                            raise
                        # Nothing was read: the connection is as it was, only this call is given up.
                        with self._state:
                            room.give_up(1)
                        self._connection.stop_leading()
                        self.give_up(call)
                        raise Failed(error) from None
                    count = -1  # silence for a while; or whatever it is, it comes again, and is dealt with below
                if count > 0:
                    sole = reader.sole_frame(count)
                    if sole is not None and sole[0] == _RESPONSE and sole[2] == call:
                        self._connection.stop_leading()
                        return sole[3]
                waiter = self._register_leading(call)
                if count >= 0:
                    self._connection.deliver(core.receive(count) if count else core.receive_eof())
                    self._connection.attend(deadline)
                else:
                    self._connection.deliver(self._alive.read_ended())
            return self._outcome(call, what, waiter, deadline, leading=True)
        except Failed as failed:
            errors = [failed.error]
        except BaseException as interrupt:
            self._connection.interrupted(interrupt)
            raise
        return raise_the(errors, payload)

    def _register_leading(self, call: int) -> CallWaiter:
        """Enter the call of a thread that holds the role, which is given up if the connection has ended.

        Raises ``Failed``.
        """
        waiter = CallWaiter()
        with self._state:
            if not self._connection.ended:
                self._core.calls.insert(call, waiter)
                return waiter
        self._connection.stop_leading()
        raise Failed(self._core.lost_call(call))  # it was written, or some of it

    def _lead(self, waiter: Waiter, deadline: float | None) -> BaseException | None:
        """Read, holding the role, until the waiter is done or out of time; then give the role up.

        Returns an exception of a signal handler that did no harm, instead of raising it.
        """
        reader = self._core.reader
        idle = False
        try:
            waker = self._connection.get_waker() if waiter.abortable else None
            while not (waiter.done or waiter.work or (deadline is not None and monotonic() >= deadline)):
                if idle := reader.idle:
                    reader.buffer[0] = _POISON
                until = deadline
                if waiter.abortable and waker is None:
                    until = nearest(deadline, monotonic() + LOOK_TIME)
                events = self._connection.read(until, waker)
                idle = False
                self._connection.deliver(events)
                self._connection.attend(deadline)
        except BaseException as error:
            if not idle or reader.buffer[0] != _POISON:
                raise
            self._connection.stop_leading()
            return error
        self._connection.stop_leading()
        return None
