"""The calls that this side makes on one connection: how they are sent, waited for, and given up.

A thread that waits for a reply parks, and runs meanwhile what the peer's handler calls back, as long as it is nested in
its call; how it may read for itself is :mod:`typedrpc.sync.calling`. A call that nobody waits for any more is given up:
the peer is told, and may stop; its answer comes all the same, and makes room for another call.

An exception of a signal handler, such as ``KeyboardInterrupt``, may come anywhere. Where it provably lost no byte, only
the call that it interrupted is given up; elsewhere it ends the connection.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any, Final, Never, Protocol, TypeVar, cast

from typedrpc.call import Call, get_call
from typedrpc.callbacks import Callbacks
from typedrpc.codec import Payload, Segmented
from typedrpc.common.handlers import Handlers, Series
from typedrpc.common.role import ReadRole, Waiter
from typedrpc.common.room import NoRoom, Room
from typedrpc.common.router import Router
from typedrpc.common.tokens import Batch, CallWaiter, Failed, NotSent, Submitted, Token
from typedrpc.errors import CallCancelled, ConnectionLost, DeadlineExceeded, RpcError
from typedrpc.failure import unpack_failure
from typedrpc.flow import Inflow
from typedrpc.parts import pack_array
from typedrpc.protocol import Outgoing
from typedrpc.protocol import Protocol as Core
from typedrpc.wire import Buffer, Frame, Kind

T = TypeVar("T")

_RESPONSE: Final = int(Kind.RESPONSE)


class Connection(Protocol):
    """What calls need of their connection beside its parts."""

    ended: bool
    forked: bool

    @property
    def role(self) -> ReadRole: ...
    @property
    def handlers(self) -> Handlers: ...
    def check(self) -> None: ...
    def why_not_wait(self, what: str) -> RpcError | None: ...
    def wake_reader(self) -> None: ...
    def stop_leading(self) -> None: ...
    def write(self, data: Outgoing, deadline: float | None) -> None: ...
    def write_one_way(self, data: Outgoing, deadline: float | None) -> None: ...
    def post(self, data: Outgoing) -> None: ...
    def prepare_watcher(self) -> None: ...
    def interrupted(self, error: BaseException) -> None: ...
    def end(self, error: ConnectionLost) -> None: ...
    def watch(self) -> None: ...


class Sending(Protocol):
    """An argument that is a stream, while it is sent; see :class:`typedrpc.common.sending.Sender`."""

    @property
    def error(self) -> BaseException | None: ...
    def start(self) -> None: ...


class Going(Protocol):
    """What goes with a call beside its plain arguments: functions that the peer may call back, and streams."""

    @property
    def functions(self) -> list[Any]: ...
    def prepare(self, call: int) -> Sequence[Sending]: ...


def cancelled_with(outer: Call, what: str) -> CallCancelled:
    """The error of a call that a handler made whose own call was cancelled."""
    return CallCancelled(f"{what}: it was called by {outer.command}, which was cancelled: {outer.why_cancelled}")


def raise_the(errors: list[BaseException], payload: Payload) -> Never:
    """Raise the error of a call, which is taken out of its list.

    Its traceback has the frames of its callers, with the callbacks that a handler has there: they are to go when nobody
    needs them, and not when the garbage collector comes by. So no frame may have the error.
    """
    if isinstance(payload, Segmented):
        # Who catches the error may want to resize a bytearray that he gave; the traceback keeps what is here.
        payload.release()
    raise errors.pop()


class Calls:
    """Makes calls. Every public method may be called from any thread."""

    def __init__(
        self,
        connection: Connection,
        core: Core[Token],
        state: threading.Lock,
        *,
        callbacks: Callbacks,
        room: Room,
        router: Router,
    ) -> None:
        """
        Args:
            connection: What they are made on.
            core: The protocol's state.
            state: The lock that guards it.
            callbacks: What goes with calls, and is called back.
            room: For calls at the peer.
            router: Knows which thread runs what is nested.
        """
        self._connection = connection
        self._core = core
        self._state = state
        self._role = connection.role
        self._handlers = connection.handlers
        self._callbacks = callbacks
        self._room = room
        self._router = router

    def forsake(self, state: threading.Lock) -> None:
        """See :mod:`typedrpc.common.fork`: the state lock may be held by a thread that is not here."""
        self._state = state

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
        """Call the peer and wait for its answer: the packed result.

        Args:
            command: The peer's id of the command.
            payload: The packed arguments.
            what: Names the command in errors.
            deadline: When to stop waiting, on the monotonic clock.
            extension: The packed extension map.
            nested: Whether the call is made by a handler of a call that came on this connection.
            going: The functions and streams that go with the call.
            within: The call, of whatever connection, whose handler makes this one: it is cancelled with it.
            on_reply: Called with the answer's frame first.

        Raises:
            CallCancelled: The call that it is made within was cancelled.
            ConnectionLost: There is no connection (any more).
            DeadlineExceeded: The deadline passed. The handler may have run.
            MessageTooLarge: The peer would not accept the arguments.
            Exception: What the peer answered instead of a result (see :mod:`typedrpc.failure`).
        """
        call, data = self._core.start(command, payload, what, extension, nested)
        try:
            if within is None and (refusal := self._connection.why_not_wait(what)) is not None:
                raise NotSent(refusal)
            return self._call_with(call, data, what, deadline, nested, going, within, on_reply)
        except Failed as failed:
            errors = [failed.error]
        except BaseException as interrupt:
            self._connection.interrupted(interrupt)
            raise
        return raise_the(errors, payload)

    def _lead(self, waiter: Waiter, deadline: float | None) -> BaseException | None:
        """Read, holding the role, until the waiter is done or out of time; then give the role up.

        Returns an exception of a signal handler that did no harm, instead of raising it.
        """
        raise NotImplementedError("the role is never free where threads do not read")

    def _wait(self, waiter: Waiter, deadline: float | None) -> None:
        """As `wait`; raises ``Failed`` for an exception of a signal handler that did no harm."""
        leading = False
        while not (waiter.done or self._connection.forked):
            interrupt: BaseException | None = None
            if leading or self._role.try_take():
                leading = False
                interrupt = self._lead(waiter, deadline)
            left = None if deadline is None else deadline - monotonic()
            if interrupt is None and (left is None or left > 0):
                interrupt = self._park(waiter, left)
                leading, waiter.leads = waiter.leads, False
            if interrupt is not None:
                raise Failed(interrupt)
            if left is not None and left <= 0:
                break
        if leading:  # handed over although there is nothing to wait for
            self._connection.stop_leading()

    def _call_with(
        self,
        call: int,
        data: Outgoing,
        what: str,
        deadline: float | None,
        nested: bool,
        going: Going | None,
        within: Call | None,
        on_reply: Callable[[Frame], None] | None,
    ) -> Payload:
        """A call of a handler, one that something goes with, or whose answer's frame counts. Raises ``Failed``."""
        if within is not None and (refusal := self._connection.why_not_wait(what)) is not None:
            raise NotSent(refusal)
        waiter = CallWaiter(abortable=within is not None)
        group = self._callbacks.offer(call, going.functions, waiter) if going is not None and going.functions else None
        senders = going.prepare(call) if going is not None else ()
        aside = False
        try:
            if within is not None:
                within.on_cancel(waiter, lambda: self.abort(call, waiter, cancelled_with(within, what)))
            aside = nested and self._handlers.step_aside()
            self._register(call, data, what, deadline, waiter, nested=nested)
            for sender in senders:
                sender.start()
            payload = self._outcome(call, what, waiter, deadline, on_reply=on_reply)
        except Failed as failed:
            if isinstance(failed, NotSent):
                self._callbacks.withdraw(call)
            for sender in senders:
                if sender.error is not None and not isinstance(failed, NotSent):
                    raise Failed(sender.error) from failed.error
            raise
        finally:
            if within is not None:
                within.forget(waiter)
            if senders:
                self._core.end_flows(call)
            if aside:
                self._handlers.step_back()
            if group is not None:
                group.waiter = None
                self._router.hand_back(waiter)
                self._handlers.look_again()
        return payload

    def abort(self, call: int, token: Token, error: RpcError) -> None:
        """Give up a call, in whatever thread: whoever waits for it gets the error. It never waits for anything.

        If it is not sent yet, it will not be.
        """
        token.aborted = error  # the flag first: who registers the call looks at it afterwards
        if not self._take_out(call):
            if self._room.waiting:
                with self._state:
                    self._room.notify_all()
            return
        self.give_up(call)
        token.fail(self._connection, error)
        self._handlers.call_for_help()
        if isinstance(token, Batch) or (isinstance(token, Waiter) and token.abortable):
            self._connection.wake_reader()

    def _take_out(self, call: int) -> bool:
        """Take a call that was not answered out of the in-flight table. Returns False if it is not there any more."""
        with self._state:
            if self._core.calls.pop(call) is None:
                return False
            self._room.give_up(1)
            return True

    def give_up(self, call: int) -> None:
        """Nobody waits for a call any more, which was taken out of the in-flight table and counted: tell the peer."""
        if self._core.inflows or self._core.outflows:
            self._core.end_flows(call)
        if not self._connection.ended:
            self._connection.post(self._core.cancel(call))

    def wait(self, waiter: Waiter, deadline: float | None) -> None:
        """Wait, parked or reading, until the waiter is done or the deadline has passed.

        An exception of a signal handler comes out of it.
        """
        try:
            self._wait(waiter, deadline)
            return
        except Failed as failed:
            error = failed.error
        except BaseException as interrupt:
            self._connection.interrupted(interrupt)
            raise
        raise error

    def submit(
        self,
        command: int,
        payload: Payload,
        what: str,
        token: Submitted,
        deadline: float | None = None,
        extension: bytes = b"",
        nested: bool = False,
        going: Going | None = None,
        *,
        at_once: bool = False,
        patient: bool = True,
    ) -> int:
        """Call the peer; the outcome goes to the token. Raises as :meth:`call` does, if nothing was sent.

        Returns:
            The id of the call, for :meth:`abort`.

        Past the deadline, the token gets ``DeadlineExceeded``. With ``at_once`` this waits for nothing, and the payload
        must not change any more: a peer without room for the call is one that has not answered in time. Without
        ``patient`` this raises ``NoRoom`` then, for a task that has to wait in its own way.
        """
        with self._state:
            call, data = self._core.start(command, payload, what, extension, nested)
        self._handlers.expect()
        if going is not None and going.functions:
            token.series = self._callbacks.offer(call, going.functions).series = Series()
        senders = going.prepare(call) if going is not None else ()
        try:
            self._register(call, data, what, deadline, token, nested=nested, at_once=at_once, patient=patient)
            if deadline is not None:
                self._connection.watch()
            for sender in senders:
                sender.start()
            return call
        except Failed as failed:
            error = failed.error
            self._callbacks.withdraw(call)
            self._core.end_flows(call)
            self._handlers.forget()
            self._handlers.call_for_help()
        except BaseException as interrupt:
            self._connection.interrupted(interrupt)
            raise
        try:
            raise error
        finally:
            del error  # as above

    def open_stream(
        self,
        command: int,
        payload: Payload,
        what: str,
        make: Callable[[int, Inflow], Token],
        deadline: float | None,
        extension: bytes,
        nested: bool,
        going: Going | None,
        *,
        patient: bool = True,
    ) -> None:
        """Start a call whose result is a stream. Raises as :meth:`call` does, if nothing was sent.

        Args:
            command: The peer's id of the command.
            payload: The packed arguments.
            what: Names the command in errors.
            make: Makes the token, of the call's id and the stream that will come.
            deadline: When the token gets ``DeadlineExceeded``, on the monotonic clock.
            extension: The packed extension map.
            nested: Whether the call is made by a handler of a call that came on this connection.
            going: The functions and streams that go with the call.
            patient: Whether to wait for room at the peer; otherwise ``NoRoom`` is raised where there is none.
        """
        with self._state:
            call, data = self._core.start(command, payload, what, extension, nested)
        self._connection.prepare_watcher()
        try:
            token = make(call, self._core.inflow(call, 0))
        except BaseException:
            self._core.end_flows(call)
            raise
        if going is not None and going.functions:
            self._callbacks.offer(call, going.functions)
        senders = going.prepare(call) if going is not None else ()
        try:
            self._register(call, data, what, deadline, token, nested=nested, patient=patient)
            if deadline is not None:
                self._connection.watch()
            if going is not None and going.functions:
                self._handlers.look_again()
            for sender in senders:
                sender.start()
            return
        except Failed as failed:
            error = failed.error
            self._callbacks.withdraw(call)
            self._core.end_flows(call)
        except BaseException as interrupt:
            self._connection.interrupted(interrupt)
            raise
        try:
            raise error
        finally:
            del error  # as above

    def send_batch(
        self,
        batch: Batch,
        command: int,
        bodies: Sequence[Payload],
        what: str,
        extension: bytes = b"",
        nested: bool = False,
        *,
        wait: bool,
    ) -> bool:
        """Call the peer, once for each of some packed arguments; :meth:`fetch` gives what they come to.

        Args:
            batch: What they are known by here.
            command: The peer's id of the command.
            bodies: Their packed arguments. Only one that goes alone may have segments.
            what: Names the command in errors.
            extension: The packed extension map.
            nested: Whether they are made by a handler of a call that came on this connection.
            wait: Whether to wait for room at the peer.

        Returns:
            Whether there was room.

        Raises:
            ConnectionLost, DeadlineExceeded, MessageTooLarge, ServerBusy: As :meth:`call` does; nothing was sent.
        """
        core = self._core
        with self._state:
            call = core.new_call(nested)
            if not (wait or nested or self._room.has_place()):
                return False
        if len(bodies) == 1:
            data = core.request(call, command, bodies[0], what, extension)
        else:
            data = core.batch(call, command, pack_array(cast("Sequence[Buffer]", bodies)), what, extension)
        batch.call = call
        try:
            self._register(call, data, what, batch.deadline, batch, nested=nested)
            if batch.deadline is not None:
                self._connection.watch()
            return True
        except Failed as failed:
            error = failed.error
        except BaseException as interrupt:
            self._connection.interrupted(interrupt)
            raise
        try:
            raise error
        finally:
            del error  # as above

    def fetch(self, batch: Batch, waiter: Waiter, what: str, *, nested: bool = False) -> Frame | RpcError:
        """Wait until something of a batch has come: the next frame, or what all the rest came to."""
        try:
            return self._fetch(batch, waiter, what, nested=nested)
        except Failed as failed:
            error = failed.error  # of a signal handler, and it did no harm
        except BaseException as interrupt:
            self._connection.interrupted(interrupt)
            raise
        try:
            raise error
        finally:
            del error  # as above

    def _fetch(self, batch: Batch, waiter: Waiter, what: str, *, nested: bool) -> Frame | RpcError:
        within = get_call()
        if within is not None and (refusal := self._connection.why_not_wait(what)) is not None:
            raise Failed(refusal)
        aside = nested and self._handlers.step_aside()
        waiter.abortable = within is not None
        try:
            if within is not None:
                within.on_cancel(waiter, lambda: self.abort(batch.call, batch, cancelled_with(within, what)))
            while True:
                # In this order: what came is told before the end.
                waiter.done = False
                error = batch.error
                if batch.frames:
                    return batch.frames.popleft()
                if error is not None:
                    return error
                self._await_any(batch, waiter)
        finally:
            if within is not None:
                within.forget(waiter)
            if aside:
                self._handlers.step_back()

    def _await_any(self, batch: Batch, waiter: Waiter) -> None:
        """Wait, parked or leading, until something has come for the waiter, or the batch is out of time.

        Raises ``Failed`` for an exception of a signal handler that did no harm.
        """
        self._wait(waiter, batch.deadline)
        if self._connection.forked:
            batch.end(self._core.lost_call(batch.call))
            return
        if not waiter.done and self._take_out(batch.call):
            self.give_up(batch.call)
            batch.end(DeadlineExceeded("no answer in time"))

    def give_up_all(self, batches: Iterable[Batch]) -> None:
        """Nobody wants the outcomes of these any more. They are in flight to the peer, until it has answered."""
        for batch in batches:
            if self._take_out(batch.call):
                self.give_up(batch.call)

    def notify(
        self,
        command: int,
        payload: Payload,
        what: str,
        deadline: float | None = None,
        extension: bytes = b"",
        going: Going | None = None,
    ) -> None:
        """Call the peer one-way: write the call, or leave it to the thread that is writing.

        Past the deadline the rest is left to a thread of its own: what was begun is sent.

        Raises:
            ConnectionLost: There is no connection (any more).
            MessageTooLarge: The peer would not accept the arguments.
        """
        self._connection.check()
        origin = 0
        functions = going.functions if going is not None else []
        if functions:
            with self._state:
                origin = self._core.new_call()
        data = self._core.notify(command, payload, what, extension, origin)
        if functions:
            self._callbacks.offer(origin, functions)
            self._handlers.look_again()
        try:
            self._connection.write_one_way(data, deadline)
        except BaseException as interrupt:
            self._connection.interrupted(interrupt)
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
        patient: bool = True,
    ) -> None:
        """Enter a call into the in-flight table once the peer has room for it, and send it. Raises ``NotSent``.

        A nested call does not wait for room: what it would wait for may wait for it.
        """
        core = self._core
        with self._state:
            if not (nested or self._room.has_place()):
                if not patient:
                    raise NotSent(NoRoom())
                self._room.await_place(what, monotonic() if at_once else deadline, token)
            if self._connection.ended:
                raise NotSent(core.lost())
            core.calls.insert(call, token, None if isinstance(token, CallWaiter) else deadline)
            if nested and core.client:
                core.nested_calls.add(call)
            if isinstance(token, Batch) and token.count > 1:
                core.batches[call] = token.count
        if token.aborted is not None and core.calls.pop(call) is not None:
            core.batches.pop(call, None)
            raise NotSent(token.aborted)
        if at_once:
            self._connection.post(data)
        else:
            self._connection.write(data, deadline)
        if token.aborted is not None:
            # The cancel may have overtaken the call, and have meant nothing to the peer.
            self._connection.post(core.cancel(call))

    def _outcome(
        self,
        call: int,
        what: str,
        waiter: CallWaiter,
        deadline: float | None,
        *,
        leading: bool = False,
        on_reply: Callable[[Frame], None] | None = None,
    ) -> Payload:
        """Wait, parked or leading, until the waiter is done or out of time. Raises ``Failed``."""
        interrupt: BaseException | None = None
        while interrupt is None:
            if leading or self._role.try_take():
                leading = False
                interrupt = self._lead(waiter, deadline)
            left = None if deadline is None else deadline - monotonic()
            # What came before the reply is run before it, in the order in which it was sent.
            if waiter.work and interrupt is None and not (left is not None and left <= 0 and not waiter.done):
                interrupt = self._handlers.run_nested(waiter.work)
                continue
            if waiter.done or interrupt is not None or (left is not None and left <= 0):
                break
            interrupt = self._park(waiter, left)
            leading, waiter.leads = waiter.leads, False
        if not waiter.done and self._take_out(call):
            self.give_up(call)
            self._router.hand_back(waiter)
            raise Failed(interrupt or DeadlineExceeded(f"{what}: no answer in time"))
        self._router.hand_back(waiter)
        if interrupt is not None:
            raise Failed(interrupt)
        while not waiter.done:  # whoever removed the call from the table is about to say so
            interrupt = self._park(waiter, None) or interrupt
            if waiter.leads:  # handed over although there is nothing to wait for
                waiter.leads = False
                self._connection.stop_leading()
        if interrupt is not None:
            raise Failed(interrupt)
        if waiter.error is not None:
            raise Failed(waiter.error)
        frame = waiter.frame
        assert frame is not None, "a waiter that is done has a frame or an error"
        if on_reply is not None:
            try:
                on_reply(frame)
            except BaseException as error:  # of the user's
                raise Failed(error) from None
        if frame.kind != _RESPONSE:
            raise Failed(unpack_failure(frame.payload, what))
        return frame.payload

    def _park(self, waiter: Waiter, timeout: float | None) -> BaseException | None:
        """Park, and return an exception of a signal handler instead of raising it: it did no harm."""
        try:
            self._role.park(waiter, timeout)
        except BaseException as error:
            return error
        return None
