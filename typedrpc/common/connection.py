"""A connection of either colour: what does not depend on how bytes are read and written.

Here the parts are put together, what was read is handed to who waits for it, and what has to be done at the end, or
when time has passed, is done. How bytes travel is :mod:`typedrpc.sync.connection` and :mod:`typedrpc.aio.connection`.
"""

import contextlib
import logging
import sys
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, Generic

from typing_extensions import TypeVar

from typedrpc.batches import BatchRun
from typedrpc.call import Row
from typedrpc.callbacks import ALL_CALLBACKS, Callbacks
from typedrpc.codec import CallbackCodec
from typedrpc.common.calling import Calls
from typedrpc.common.fork import forsake_after_fork
from typedrpc.common.handlers import Handlers
from typedrpc.common.loop import RIGHT_WAY
from typedrpc.common.role import ReadRole
from typedrpc.common.room import Room
from typedrpc.common.router import Router
from typedrpc.common.sending import Streams
from typedrpc.common.silence import Silence
from typedrpc.common.tokens import Batch, CallWaiter, Token
from typedrpc.errors import ConnectionLost, DeadlineExceeded, PermissionDenied, RpcError, ServerBusy, UnknownCommand
from typedrpc.failure import pack_protocol_failure, unpack_failure
from typedrpc.identity import Identity
from typedrpc.messages import NO_EXTRAS, Leave
from typedrpc.protocol import BatchRequest, Closed, Event, GivenUp, Outcome, Outgoing, Released, Request, State
from typedrpc.protocol import Protocol as Core
from typedrpc.transport import LONGEST_WAIT
from typedrpc.wire import Frame, Kind

logger = logging.getLogger("typedrpc")

_RESPONSE: Final = int(Kind.RESPONSE)

MAX_UNASKED: Final = 16 * 1024
"""Refusals and pongs that may wait to be written before the peer is taken for one that does not read."""

KEEP_ALIVE: Final = 60.0
"""Seconds after which a peer that says nothing is taken for dead, unless a side is told another number."""

GOODBYE_TIME: Final = 0.1
"""Seconds that closing waits for what is still being written."""


HandlersT_co = TypeVar("HandlersT_co", bound=Handlers, default=Handlers, covariant=True)


def check_keep_alive(keep_alive: float | None) -> None:
    """
    Raises:
        ValueError: It is neither None nor a number of seconds.
    """
    if keep_alive is not None and not 0 < keep_alive <= LONGEST_WAIT:
        raise ValueError(f"keep_alive must be None or a number of seconds above 0, up to a day, not {keep_alive!r}")


class Connection(ABC, Generic[HandlersT_co]):
    """One end of a connection. Every method may be called from any thread, but for what says otherwise."""

    handlers: HandlersT_co

    def __init__(
        self,
        core: Core[Token],
        role: ReadRole,
        queue: deque[Outgoing],
        *,
        keep_alive: float | None,
        on_end: Callable[[Any], None] | None,
        on_forsaken: Callable[[], None] | None,
    ) -> None:
        """
        Args:
            core: The protocol's state.
            role: The right to read.
            queue: What waits to be written, in order.
            keep_alive: Seconds after which a peer that says nothing, though it is asked, is taken for dead.
            on_end: Called once with it, when the connection has ended.
            on_forsaken: Called in a forked child, to which the connection does not belong.
        """
        self.core = core
        self.role = role
        self.ended = False
        self.forked = False
        self.left = False
        """This side has closed it: that is no loss."""
        self.watched = False
        self.callbacks = Callbacks()
        self.streams = Streams(self)
        core.calls.kept = self.callbacks.groups
        self._state = threading.Lock()
        self._queue = queue
        self._unasked = 0  # answers of the protocol's own that were queued since the queue was empty
        self._dropped = False  # a callback, which the peer is to be told
        self._failing: list[tuple[int, Token]] = []
        self._left_behind: deque[Callable[[], None]] = deque()
        self._on_end = on_end
        self._on_forsaken = on_forsaken
        self._keep_alive = keep_alive
        self._silence: Silence | None = None  # from the end of the handshake on

    def _assemble(self, make_calls: Callable[[Room, Router], Calls]) -> None:
        """The rest of what it consists of, once there is who handles calls."""
        self._room = Room(self.core, self._state, self.handlers)
        self._router = Router(self.core, self.role, self.handlers, self.callbacks)
        self._calls = calls = make_calls(self._room, self._router)
        self.call = calls.call
        self.submit = calls.submit
        self.stand_in_line = self._room.stand_in_line
        self.look_for_room = self._room.look_again
        self.notify = calls.notify
        self.abort = calls.abort
        self.open_stream = calls.open_stream
        self.wait = calls.wait
        self.send_batch = calls.send_batch
        self.fetch = calls.fetch
        if self.core.rate is not None:
            self.core.rate.on_first_drop = self._tell_of_drop
        forsake_after_fork(self)

    # What differs

    @abstractmethod
    def post(self, data: Outgoing) -> None:
        """Send a frame as soon as there is room for it, without waiting for that. It must not change any more."""

    @abstractmethod
    def send(self, data: Outgoing) -> None:
        """Send a frame; a thread that may wait waits for room. Its buffers may change once this returns."""

    @abstractmethod
    def write(self, data: Outgoing, deadline: float | None) -> None:
        """As :meth:`send`, for a call of this side, until the deadline: then the rest is left to others."""

    @abstractmethod
    def write_one_way(self, data: Outgoing, deadline: float | None) -> None:
        """As :meth:`write`, for what the peer does not hold back by waiting: return when not too much waits."""

    @abstractmethod
    def why_not_wait(self, what: str, instead: str = RIGHT_WAY) -> RpcError | None:
        """What is wrong with a thread that is about to wait for a call."""

    @abstractmethod
    def wake_reader(self) -> None:
        """A thread that waits for something of its own, and may read meanwhile, is to look at once."""

    @abstractmethod
    def stop_leading(self) -> None:
        """The one exit of whoever holds the read role."""

    @abstractmethod
    def interrupted(self, error: BaseException) -> None:
        """An exception of a signal handler came where bytes or the role may be lost with it: nothing is certain."""

    @abstractmethod
    def watch(self) -> None:
        """Have somebody :meth:`_look`: calls have deadlines, or something waits to be sent."""

    @abstractmethod
    def prepare_watcher(self) -> None:
        """Something may be left to whoever looks within a finalizer, which cannot start him."""

    @abstractmethod
    def _listen_for_life(self, silence: Silence) -> None:
        """The handshake is over: from now on a silence that lasts is to be noticed."""

    @abstractmethod
    def _poke(self) -> None:
        """As :meth:`watch`, from anywhere: within the garbage collector too. Takes no lock."""

    @abstractmethod
    def _flush_now(self) -> None:
        """Write what waits, without waiting for room."""

    @abstractmethod
    def row_of_callback(self, codec: CallbackCodec, function: Callable[..., Any], loop: Any) -> Row:
        """What the dispatcher needs of a function that goes with a call.

        Args:
            codec: Its codec.
            function: The function; of an async one, one that gives an awaitable.
            loop: The event loop of the caller, who is not blocked by the call; None for none.
        """

    @abstractmethod
    def start_thread(self, body: Callable[[], None]) -> None:
        """Run a function in a thread of its own. Raises ``RuntimeError`` where the system has no more."""

    @abstractmethod
    def close(self, reason: str = "", code: int = Leave.OTHER) -> None:
        """Say goodbye and end the connection. Calls that wait raise ``ConnectionLost``. May be called again."""

    @abstractmethod
    def end(self, error: ConnectionLost) -> None:
        """End the connection: whoever waits for anything learns the cause."""

    @property
    @abstractmethod
    def waiting_frames(self) -> int:
        """Frames that wait to be written."""

    @property
    @abstractmethod
    def waiting_bytes(self) -> int:
        """Their bytes; takes time with their number."""

    # Opening and closing

    def welcome(self) -> bool:
        """Let the client in. Returns whether it was not too late for that."""
        with self._state:
            welcome = self.core.welcome()
        if welcome is None:
            return False
        self.post(welcome)
        return True

    def accept(self, identity: Identity, proof: bytes | None = None) -> bool:
        """The client is who it says. Returns whether it still is there.

        Args:
            identity: Who it is.
            proof: What it is told, to know the same of this side.
        """
        peer = self.handlers.peer
        if peer.identity is not None and identity.certificate is None:
            identity = replace(identity, certificate=peer.identity.certificate)
        peer.identity = identity
        with self._state:
            answer = self.core.accept(proof)
            there = self.core.state is State.GREETED
        if answer is not None:
            self.post(answer)
        return there

    def turn_away(self) -> None:
        """Greet a client that is not heard; :meth:`close` tells it that it may not come in."""
        with self._state:
            self.core.turn_away()
        self._queue.extend(self.core.outgoing)
        self.core.outgoing.clear()
        self._flush_now()

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

    def look_alive(self) -> None:
        """Read what has come, without waiting, where nobody else does: it may be the end. A loop always reads."""

    def drain(self, reason: str) -> None:
        """Tell the peer that no more calls are accepted; those that run are still answered."""
        with self._state:
            goodbye = self.core.drain(reason)
        if goodbye is not None:
            self._queue.append(goodbye)
            self._flush_now()

    def answer(self, make: Callable[[], Outgoing]) -> None:
        """Answer a call of the peer's, from whatever thread, unless the connection has ended.

        Args:
            make: Makes the answer. For :meth:`finish`, that and the queueing are one step: the peer must not hear that
                all was answered before it has the answer.
        """
        with self._state:
            if self.core.state is State.CLOSED:
                return
            self._queue.append(make())
        self._flush_now()

    def finish(self, reason: str) -> bool:
        """Tell the peer, if everything was answered since :meth:`drain`, that nothing else of what it sent has run.

        Returns:
            Whether that was so, and it was not too late.
        """
        with self._state:
            goodbye = self.core.finish(reason)
        if goodbye is None:
            return False
        self._queue.append(goodbye)
        self._flush_now()
        return True

    def fault(self) -> None:
        """End it because of an exception that should not be; called in its handler."""
        if isinstance(sys.exception(), MemoryError):
            logger.warning("%s was cut off: there is no memory for what it has sent", self.handlers.peer)
            self.close("there is no memory for a message")
            return
        logger.exception("a fault of typedrpc's own ended a connection")
        self.end(ConnectionLost("a fault of typedrpc's own, see the log"))

    def _tell_of_drop(self) -> None:
        logger.warning("%s makes more one-way calls than max_rate lets it: these are dropped", self.handlers.peer)

    def _is_greeting(self) -> bool:
        """The handshake goes on: a client's until it is let in, a server's until it knows who is to be let in."""
        state = self.core.state
        if state is State.GREETING or state is State.AUTHENTICATING:
            return True
        return self.core.client and state is State.GREETED

    def _opened(self) -> None:
        """The handshake is over.

        Raises:
            ConnectionLost: The peer is none, or left.
        """
        if self.core.error is not None or self.core.state is State.DRAINING:
            raise self.core.lost()
        self._room.open()
        if self._keep_alive is not None and self._silence is None:
            self._silence = Silence(self._keep_alive)
            self._listen_for_life(self._silence)

    def _take_leave(self, reason: str, code: int) -> tuple[ConnectionLost, Outgoing | None]:
        """This side closes: with which error, and what the peer is told."""
        error = ConnectionLost(f"the connection was closed on this side{': ' if reason else ''}{reason}")
        with self._state:
            self.left = self.left or not self.ended
            is_known = self.core.state in (State.OPEN, State.GREETED, State.AUTHENTICATING, State.CLAIMED)
            # Before the peer knows: it may close at once, and who reads here would take that for the cause. And before
            # it is said which call was the last: one that comes now does not run.
            self.core.close(error)
            goodbye = self.core.goodbye(reason, code) if is_known else None
        return error, goodbye

    def _tell_of_end(self) -> None:
        """Everybody who waits for something, or works for the peer, learns that it has ended. May be done again."""
        self._failing.extend(self.core.calls.pop_all())
        self.callbacks.end()
        while self._failing:
            # Taken out only then: whoever is interrupted in between has it done again. Another thread may be at it too.
            try:
                failing = call, token = self._failing[-1]
            except IndexError:
                break
            token.fail(self, self.core.lost_call(call))
            with contextlib.suppress(ValueError):
                self._failing.remove(failing)
        for handled in tuple(self.core.handled.values()):
            if handled is not None and not handled.why_cancelled:
                handled.caller_left()
        self.core.end_all_flows()  # only now: who takes from one, or yields to one, is to find why
        self.handlers.end()
        if (on_end := self._on_end) is not None:
            on_end(self)
            self._on_end = None

    def forsake(self) -> None:
        """See :mod:`typedrpc.common.fork`: the connection is the parent's."""
        self.forked = True
        self.ended = True
        self._state = threading.Lock()
        self._calls.forsake(self._state)
        self.core.close(ConnectionLost("the connection was made before a fork, and is the parent's"))
        self.role.token.clear()
        self.core.forsake_flows()
        for call, token in self.core.calls.calls.items():
            if isinstance(token, CallWaiter):  # perhaps the very thread that forked, in what its call called back
                token.error, token.done = self.core.lost_call(call), True
            elif isinstance(token, Batch):
                token.end(self.core.lost_call(call))
        for part in (self.handlers, self._router, self.callbacks):
            part.forsake()
        if self._on_forsaken is not None:
            self._on_forsaken()

    # What came

    def deliver(self, events: list[Event[Token]]) -> None:
        """Pass on what was read; the role is held."""
        queue, core, handlers = self._queue, self.core, self.handlers
        for event in events:
            if type(event) is Request and event.extras is NO_EXTRAS and handlers.attended:
                if event.call and handlers.begins_at_once:
                    handlers.served_callers = 0
                    handlers.ready.append(event)
                else:
                    handlers.accept(event)
            elif isinstance(event, Outcome):
                if self.callbacks.groups and event.frame.kind != _RESPONSE:
                    self._withdraw_unseen(event.frame)
                event.token.complete(self, event.frame)
            elif isinstance(event, Request):
                if type(event) is BatchRequest:
                    event.progress = BatchRun(core, event)
                if event.extras is not NO_EXTRAS and self._router.deliver(event):
                    continue
                if handlers.attended:
                    handlers.accept(event)
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
                queue.extend(core.outgoing)
                core.outgoing.clear()
                self._say_last()
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

    def _say_last(self) -> None:
        """Write what waits, as the end comes next; the role is held."""
        self._flush_now()

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
            unpack_failure(frame.payload, ""), UnknownCommand | ServerBusy | PermissionDenied | ConnectionLost
        ):
            self.callbacks.withdraw(frame.call)

    # What is done soon, or when time has passed

    def drop_callback(self, origin: int, index: int) -> None:
        """A function of the peer's is not needed any more. May be called anywhere, within the garbage collector too."""
        # Nothing here takes a lock, which the interrupted code may hold.
        if not self.ended:
            self._queue.append(self.core.release(origin, index))
            self._dropped = True
            self._poke()

    def later(self, action: Callable[[], None]) -> None:
        """Have something done soon by whoever looks. May be called anywhere, as :meth:`drop_callback`."""
        if not self.ended:
            self._left_behind.append(action)
            self._poke()

    def abandon(self, batches: Sequence[Batch]) -> None:
        """A map is given up, after ``handlers.stand_by``, with what is in flight of it.

        May be called anywhere, within the garbage collector too.
        """
        self.later(partial(self._give_up_map, batches))

    def _give_up_map(self, batches: Sequence[Batch]) -> None:
        self._calls.give_up_all(batches)
        self.handlers.stand_down()

    def _look(self, now: float) -> tuple[float | None, bool]:
        """Do what is due. Returns the next deadline of a call, and whether there is more to send soon."""
        with self._state:
            expired = self.core.calls.expire(now)
            if expired:
                self._room.give_up(len(expired))
            next_deadline = self.core.calls.next_deadline()
        if self._dropped:
            self._dropped = False
            self._flush_now()
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
        return next_deadline, self.streams.flush()
