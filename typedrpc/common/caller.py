"""How bound commands reach a peer: the callers behind proxies and behind callbacks."""

import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import lru_cache, partial
from time import monotonic
from typing import Any, Final, TypeVar, final

from typedrpc.agreement import Route
from typedrpc.batches import MIN_WINDOW
from typedrpc.call import Call, Row, get_call
from typedrpc.codec import CallbackCodec, CodecError, Payload, StreamCodec
from typedrpc.command import BoundCommand, CallbackCommand, CallOptions, Command
from typedrpc.common.agreements import AGREE_TIME, Agreements, nesting
from typedrpc.common.calling import cancelled_with
from typedrpc.common.connection import Connection
from typedrpc.common.loop import kept_loop, running_loop
from typedrpc.common.mapping import Plan, mapped
from typedrpc.common.redial import is_done_by, outcome_of
from typedrpc.common.retrying import Again, Pursuit, loss_in, own
from typedrpc.common.room import NoRoom
from typedrpc.common.sending import Argument, AsyncSender, Sender
from typedrpc.common.streams import AsyncReceiver, Receiver, Source, StreamInLine, StreamToken
from typedrpc.common.submission import OnLost, Submission
from typedrpc.common.tokens import Pending
from typedrpc.deadlines import get_limit, nearest, time_left
from typedrpc.errors import (
    CallCancelled,
    ConnectionLost,
    ContractMismatch,
    DeadlineExceeded,
    ProtocolError,
    RpcError,
    UnknownCommand,
)
from typedrpc.failure import DeclaredFailure, unpack_failure
from typedrpc.flow import Inflow
from typedrpc.messages import ProtocolCommand, read_reply_metadata
from typedrpc.peer import Peer
from typedrpc.service import bind, make_proxy, services_of
from typedrpc.stream import AsyncStream, Stream
from typedrpc.wire import Frame, Kind

logger = logging.getLogger("typedrpc")

_ERROR: Final = int(Kind.ERROR)


def plan_call(
    connection: Connection,
    route: Route,
    options: CallOptions,
    what: str,
    default: float | None,
    key: tuple[int, int, int] | None = None,
) -> Plan:
    """
    Raises:
        CallCancelled: The call that is being handled was cancelled.
        DeadlineExceeded: No time is left for the call.
    """
    timeout = default if options.timeout is None else options.timeout
    deadline = nearest(None if timeout is None else monotonic() + timeout, get_limit())
    within = get_call()
    parent = depth = 0
    if within is not None:
        if within.why_cancelled and not connection.ended:
            raise cancelled_with(within, what)
        deadline = nearest(deadline, within.deadline)
        parent, depth = nesting(connection)
    extension = route.extension(time_left(deadline, what), parent, depth, options.metadata, key)
    return Plan(deadline, extension, parent != 0, within)


def with_limit(deadline: float) -> float:
    """The deadline of what is asked before a call: what limits the call limits it."""
    limit, within = get_limit(), get_call()
    if within is not None:
        limit = nearest(limit, within.deadline)
    return deadline if limit is None else min(deadline, limit)


Started = TypeVar("Started")


class CallForms:
    """The call forms, for whoever knows which connection a command is called on, and how."""

    __slots__ = ()

    default_timeout: float | None = None
    """Seconds that a call may take where nobody says another number; streams are not timed by it."""

    again: Again | None = None
    """What is done about calls that a loss cuts short; None where commands are called on one connection only."""

    def _resolve(self, command: Command[Any], timeout: float | None, /) -> tuple[Connection, Route]:
        raise NotImplementedError

    def _resolve_alive(self, command: Command[Any], timeout: float | None) -> tuple[Connection, Route]:
        """As :meth:`_resolve`, for what cannot be sent again: where nobody reads, the end may lie unread."""
        connection, route = self._resolve(command, timeout)
        if self.again is not None:
            connection.look_alive()
            if self.again.redial.is_over(connection):
                return self._resolve(command, timeout)
        return connection, route

    def invoker(self, command: Command[Any], options: CallOptions, /) -> Callable[..., Any]:
        codec, default, again = command.codec, self.default_timeout, self.again
        timeout = default if options.timeout is None else options.timeout
        if again is not None and again.retry is not None:
            return lambda *args, **kwargs: self._pursue(self._begin(command, options), args, kwargs)
        if codec.has_callbacks or options.metadata or options.on_metadata is not None or timeout == 0:
            return lambda *args, **kwargs: self._invoke(command, options, args, kwargs)
        pack, unpack_own = codec.pack_arguments, codec.unpack_result
        what = command.qualified_name

        def reach() -> tuple[Connection, Route, int, Callable[[Payload], Any], bytes]:
            connection, route = self._resolve(command, timeout)
            return connection, route, route.id, route.unpack_adapted or unpack_own, route.extension(timeout)

        reached = reach()

        def invoke(*args: Any, **kwargs: Any) -> Any:
            nonlocal reached
            payload = pack(*args, **kwargs) if kwargs else pack(*args)
            # All of it at once: other threads are here too, and what is of one connection is wrong on another.
            connection, route, id, unpack, extension = reached
            if connection.ended:
                connection, route, id, unpack, extension = reached = reach()
            end = None if timeout is None else monotonic() + timeout
            try:
                if get_call() is None and get_limit() is None:
                    answer = connection.call(id, payload, what, end, extension)
                else:
                    end, within_extension, nested, within = plan_call(connection, route, options, what, default)
                    answer = connection.call(id, payload, what, end, within_extension, nested, None, within)
                return unpack(answer)
            except ConnectionLost as error:
                if again is None:
                    raise
                pursuit = Pursuit(again, command, options, end, tries=1)
                pursuit.connection = connection
                if not pursuit.goes_on(error):
                    raise
                return self._pursue(pursuit, args, kwargs)
            except CodecError as error:
                raise bad_result(error) from error
            except DeclaredFailure as failure:
                rebuilt = command.errors.rebuild(failure)
                raise rebuilt from rebuilt.__cause__

        return invoke

    def _invoke(
        self, command: Command[Any], options: CallOptions, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """A call that takes more than its plain arguments."""
        if self.again is None:
            return self._attempt(command, options, args, kwargs)
        return self._pursue(self._begin(command, options), args, kwargs)

    def _begin(self, command: Command[Any], options: CallOptions) -> Pursuit:
        """A call that may be sent again."""
        assert self.again is not None
        timeout = self.default_timeout if options.timeout is None else options.timeout
        return Pursuit(self.again, command, options, None if timeout is None else monotonic() + timeout)

    def _pursue(self, pursuit: Pursuit, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call, and call again as long as it is cut short and may be."""
        try:
            while True:
                pursuit.wait()
                try:
                    return self._attempt(pursuit.command, pursuit.options, args, kwargs, pursuit)
                except ConnectionLost as error:
                    if not pursuit.goes_on(error):
                        raise
        except RpcError as error:
            if not pursuit.is_in_doubt(error):
                raise
            raise pursuit.doubt(error) from error
        finally:
            pursuit.over()

    def _attempt(
        self,
        command: Command[Any],
        options: CallOptions,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        pursuit: Pursuit | None = None,
    ) -> Any:
        payload, things = pack(command, args, kwargs)
        timeout = self.default_timeout if options.timeout is None else options.timeout
        connection, route = (self._resolve_alive if things else self._resolve)(command, timeout)
        what, unpack = command.qualified_name, route.unpack_adapted or command.codec.unpack_result
        key = None if pursuit is None else pursuit.sent(connection)
        end, extension, nested, within = plan_call(connection, route, options, what, self.default_timeout, key)
        going = goes_with(connection, things)
        on_reply = metadata_to(options)
        try:
            return unpack(connection.call(route.id, payload, what, end, extension, nested, going, within, on_reply))
        except CodecError as error:
            raise bad_result(error) from error
        except DeclaredFailure as failure:
            rebuilt = command.errors.rebuild(failure)
            raise rebuilt from rebuilt.__cause__

    def submit(
        self, command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions, /
    ) -> Future[Any]:
        return self._submit(command, args, kwargs, options)

    def _submit(
        self,
        command: Command[Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
        *,
        patient: bool = True,
    ) -> Future[Any]:
        packed = pack(command, args, kwargs)
        again = self.again
        if again is not None and again.retry is not None:
            return self._submit_keyed(again, command, (own(packed[0]), packed[1]), options, patient=patient)
        timeout = self.default_timeout if options.timeout is None else options.timeout
        connection, route = self._resolve(command, timeout)
        future = CallFuture(connection, command.qualified_name)
        on_lost: OnLost | None = None
        if again is not None and type(packed[0]) is bytes:  # other buffers are not kept: whose they are may change them
            on_lost = partial(self._resubmit, future, connection, command, packed, options)
        try:
            self._start(future, connection, route, command, packed, options, on_lost, patient=patient)
        except ConnectionLost:  # it may just have ended
            if again is None or again.closed.is_set():
                raise
            connection, route = self._resolve(command, timeout)
            self._start(future, connection, route, command, packed, options, None, patient=patient)
        return future

    def _submit_keyed(
        self,
        again: Again,
        command: Command[Any],
        packed: tuple[Payload, list[Any]],
        options: CallOptions,
        *,
        patient: bool,
    ) -> Future[Any]:
        """A call that the server may know by a key."""
        pursuit = self._begin(command, options)
        try:
            connection, route = self._resolve(command, pursuit.options.timeout)
        except BaseException:
            pursuit.over()
            raise
        future = CallFuture(connection, command.qualified_name)
        self._submission(again, pursuit, future, packed).begin(connection, route, patient=patient)
        return future

    def _resubmit(
        self,
        future: "CallFuture",
        connection: Connection,
        command: Command[Any],
        packed: tuple[Payload, list[Any]],
        options: CallOptions,
        outcome: Frame | RpcError,
        end: float | None,
    ) -> bool:
        """The call of a client that gives no keys has no result: whether it is sent once again."""
        again = self.again
        if again is None or loss_in(outcome, command.qualified_name) is None:
            return False
        pursuit = Pursuit(again, command, options, end, tries=1)
        pursuit.connection = connection
        return self._submission(again, pursuit, future, packed).lost(outcome)

    def _submission(
        self, again: Again, pursuit: Pursuit, future: "CallFuture", packed: tuple[Payload, list[Any]]
    ) -> Submission:
        command = pursuit.command

        def start(
            connection: Connection,
            route: Route,
            options: CallOptions,
            on_lost: OnLost,
            key: tuple[int, int, int] | None,
            patient: bool,
        ) -> None:
            self._start(future, connection, route, command, packed, options, on_lost, key, patient=patient)

        return Submission(again, pursuit, future, lambda timeout: self._resolve(command, timeout), start)

    def _start(
        self,
        future: "CallFuture",
        connection: Connection,
        route: Route,
        command: Command[Any],
        packed: tuple[Payload, list[Any]],
        options: CallOptions,
        on_lost: OnLost | None,
        key: tuple[int, int, int] | None = None,
        *,
        patient: bool = True,
    ) -> None:
        """Send a call whose outcome goes to a future; ``on_lost`` is asked first whether it takes that."""
        payload, things = packed
        what = command.qualified_name
        end, extension, nested, within = plan_call(connection, route, options, what, self.default_timeout, key)
        going = goes_with(connection, things, of_caller=True)
        on_reply = metadata_to(options)
        finish = completion(future, command, route, on_reply, None if going is None else going.failure_of, on_lost, end)
        if within is not None:
            finish = _forgetting(finish, within, future)
        token = Pending(finish)
        call = connection.submit(route.id, payload, what, token, end, extension, nested, going, patient=patient)
        future.give_up = lambda: connection.abort(call, token, CallCancelled(f"{what}: the future was cancelled"))
        if within is not None:
            within.on_cancel(future, lambda: connection.abort(call, token, cancelled_with(within, what)))
            if future.done():  # before it could be forgotten
                within.forget(future)

    def awaiter(self, command: Command[Any], options: CallOptions, /) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            import asyncio  # whoever awaits has it

            future: Future[Any] | None = None
            if self.again is not None:
                await self._await_link(self.again, command, options)
            with suppress(NoRoom):  # which is not to be kept while it waits: it holds what the attempt has made
                future = self._submit(command, args, kwargs, options, patient=False)
            if future is None:
                start = partial(self._submit, command, args, kwargs, patient=False)
                future = await self._in_line(command, options, self.default_timeout, lambda rest: start(options=rest))
            return await asyncio.wrap_future(future)

        return awaited

    async def _await_link(self, again: Again, command: Command[Any], options: CallOptions) -> None:
        """Wait for a connection, where there is none, as a task does; what fails is told where it is asked for."""
        dialled = again.redial.needed()
        if dialled is not None:
            timeout = self.default_timeout if options.timeout is None else options.timeout
            end = nearest(None if timeout is None else monotonic() + timeout, get_limit())
            if not await is_done_by(dialled, end):
                raise DeadlineExceeded(f"{command.qualified_name}: there was no connection in time")
            outcome_of(dialled)

    async def _in_line(
        self,
        command: Command[Any],
        options: CallOptions,
        default: float | None,
        start: Callable[[CallOptions], Started],
    ) -> Started:
        """Wait for room as a task does: its loop goes on, which others may wait for that take the room.

        Args:
            command: What is to be called.
            options: Of the call; its time counts from now.
            default: Seconds that it may take where they do not say.
            start: Starts the call with the time that is left; raises ``NoRoom`` where somebody was quicker.
        """
        connection, route = self._resolve(command, options.timeout)
        what = command.qualified_name
        end = plan_call(connection, route, options, what, default).deadline
        while True:
            await connection.stand_in_line(what, end)
            try:
                return start(options if end is None else options._replace(timeout=max(0.0, end - monotonic())))
            except NoRoom:
                continue
            except BaseException:
                connection.look_for_room()
                raise

    def stream(
        self, command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions, /
    ) -> Stream[Any]:
        packed = pack(command, args, kwargs)
        stream: Stream[Any] = self._unless_lost(lambda: self._open(command, packed, options, Receiver))
        return stream

    def _unless_lost(self, send: Callable[[], Started]) -> Started:
        """What sends something, and raises ``ConnectionLost`` where it did not: twice, as a connection may just end."""
        try:
            return send()
        except ConnectionLost:
            if self.again is None or self.again.closed.is_set():
                raise
        return send()

    def astream(
        self, command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions, /
    ) -> AsyncStream[Any]:
        return self._astream(command, pack(command, args, kwargs), options)

    def _astream(
        self, command: Command[Any], packed: tuple[Payload, list[Any]], options: CallOptions
    ) -> AsyncStream[Any]:
        try:
            stream: AsyncStream[Any] = self._unless_lost(lambda: self._open(command, packed, options, AsyncReceiver))
        except NoRoom:
            start = partial(self._open, command, packed, receiver=AsyncReceiver)
            opening = self._in_line(command, options, None, lambda rest: start(options=rest))
            return StreamInLine(opening, command.qualified_name)
        return stream

    def _open(
        self,
        command: Command[Any],
        packed: tuple[Payload, list[Any]],
        options: CallOptions,
        receiver: type[Receiver] | type[AsyncReceiver],
    ) -> Any:
        """Start a call whose result is a stream. Raises ``NoRoom`` where one for a task would have to wait."""
        payload, things = packed
        connection, route = self._resolve_alive(command, options.timeout)
        what = command.qualified_name
        end, extension, nested, within = plan_call(connection, route, options, what, None)
        on_loop = receiver is AsyncReceiver
        going = goes_with(connection, things, of_caller=on_loop)
        failure_of = None if going is None else going.failure_of
        stream = command.codec.result_stream
        assert stream is not None
        unpack = route.unpack_adapted or stream.unpack_item
        on_reply = metadata_to(options)
        made: list[Any] = []

        def make(call: int, flow: Inflow) -> StreamToken:
            token = StreamToken(flow)

            def conclude() -> BaseException | None:
                return _why_ended(command, token, failure_of, on_reply)

            def abandon(reason: RpcError) -> None:
                connection.abort(call, token, reason)

            def on_over() -> None:
                if within is not None:
                    within.forget(token)
                if on_loop:
                    connection.handlers.forget()

            if on_loop:
                connection.handlers.expect()
            source = Source(
                connection, flow, call, 0, unpack, what, conclude=conclude, abandon=abandon, on_over=on_over
            )
            made.append(receiver(source, token))
            if (outer := within) is not None:
                outer.on_cancel(token, lambda: connection.abort(call, token, cancelled_with(outer, what)))
            return token

        try:
            connection.open_stream(route.id, payload, what, make, end, extension, nested, going, patient=not on_loop)
        except BaseException:
            for one in made:
                one.disown()
            raise
        return made.pop()

    def notify(
        self, command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions, /
    ) -> None:
        packed = pack(command, args, kwargs)
        if command.schema.has_streams:
            raise TypeError(f"{command.qualified_name} takes a stream and cannot be called one-way")
        try:
            self._notify(command, packed, options)
        except ConnectionLost:  # it may just have ended
            if self.again is None or self.again.closed.is_set():
                raise
            self._notify(command, packed, options)

    def _notify(self, command: Command[Any], packed: tuple[Payload, list[Any]], options: CallOptions) -> None:
        payload, things = packed
        what = command.qualified_name
        connection, route = self._resolve(command, options.timeout)
        parent, depth = nesting(connection)
        timeout = self.default_timeout if options.timeout is None else options.timeout
        deadline = nearest(None if timeout is None else monotonic() + timeout, get_limit())
        time_left(deadline, what)
        extension = route.extension(None, parent if route.target else 0, depth, options.metadata)
        connection.notify(route.id, payload, what, deadline, extension, goes_with(connection, things))

    def map(
        self,
        command: Command[Any],
        iterables: tuple[Iterable[Any], ...],
        options: CallOptions,
        return_exceptions: bool = False,
        /,
    ) -> Iterator[Any]:
        is_timed = options.timeout is not None or self.default_timeout is not None  # each call by itself
        is_keyed = self.again is not None and self.again.retry is not None
        if is_timed or is_keyed or command.codec.has_callbacks or command.is_async or options.on_metadata is not None:
            return self._map_singly(command, iterables, options, return_exceptions)
        resolve = partial(self._resolve_alive, command, options.timeout)
        what = command.qualified_name

        def plan(connection: Connection, route: Route) -> Plan:
            return plan_call(connection, route, options, what, self.default_timeout)

        return mapped(resolve, command, iterables, plan, return_exceptions)

    def _map_singly(
        self,
        command: Command[Any],
        iterables: tuple[Iterable[Any], ...],
        options: CallOptions,
        return_exceptions: bool,
    ) -> Iterator[Any]:
        """Each call is a request of its own, as what goes with it is known by it, or it takes its time anyway."""
        connection, _ = self._resolve(command, options.timeout)
        refusal = connection.why_not_wait(command.qualified_name)
        if refusal is not None:  # here, and not where the first result is not there yet
            raise refusal
        connection.prepare_watcher()
        futures: deque[Future[Any]] = deque()
        inputs = zip(*iterables, strict=False)
        failed: Exception | None = None
        ended = False
        try:
            while True:
                sent = False
                while not (ended or len(futures) >= MIN_WINDOW or (sent and futures[0].done())):
                    sent = True
                    try:
                        args = next(inputs)
                    except StopIteration:
                        ended = True
                        break
                    except Exception as error:  # of the inputs: told after the results before it
                        failed, ended = error, True
                        break
                    try:
                        futures.append(self._submit_in_order(command, args, options))
                    except ConnectionLost as error:  # there will be no other, however many inputs there are
                        failed, ended = error, True
                if not futures:
                    break
                try:
                    result = futures.popleft().result()
                except Exception as error:
                    if not return_exceptions:
                        raise
                    result = error
                yield result
            if failed is not None:
                raise failed
        finally:
            failed = None
            if futures:  # which may be in the garbage collector
                connection.later(partial(_cancel_all, futures))

    def _submit_in_order(self, command: Command[Any], args: tuple[Any, ...], options: CallOptions) -> Future[Any]:
        """As ``submit``; what cannot be sent fails in its turn, after the results before it.

        Raises:
            ConnectionLost: There is no connection any more.
        """
        try:
            return self.submit(command, args, {}, options)
        except ConnectionLost:
            raise
        except RpcError as error:
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed


class RemoteCaller(CallForms):
    """The caller behind the proxies of one peer."""

    __slots__ = ("_contracts", "_link", "_name", "again", "default_timeout")

    def __init__(
        self,
        name: str,
        link: Callable[[float | None], Agreements],
        default_timeout: float | None = None,
        again: Again | None = None,
    ) -> None:
        """
        Args:
            name: What it is printed as.
            link: Gives the connection to use, with what is agreed there; asked for each new bound command, and again
                where a connection has ended. May block until the deadline that it is given.
            default_timeout: Seconds that a call may take where nobody says another number.
            again: What is done about calls that a loss cuts short.
        """
        self.default_timeout = default_timeout
        self.again = again
        self._name = name
        self._link = link
        # Declared command to the commands, by name, with which it is agreed about: those of its service.
        self._contracts: dict[Command[Any], Mapping[str, Command[Any]]] = {}

    def bind(self, contract: Any) -> Any:
        """A proxy of a contract, or a bound command. Nothing is asked.

        Raises:
            DefinitionError: It is no contract, or one that cannot be carried.
        """
        made = bind(contract, self) if isinstance(contract, Command) else make_proxy(contract, self)
        for commands in services_of(contract).values():
            self._contracts.update(dict.fromkeys(commands.values(), commands))
        return made

    def make_proxy(self, contract: Any, deadline: float) -> Any:
        """A proxy of a contract, or a bound command; the peer is asked about it.

        Args:
            contract: The contract, or a command.
            deadline: When to stop waiting; that of a ``with deadline`` block counts too.

        Raises:
            DefinitionError: It is no contract, or one that cannot be carried.
            ConnectionLost, DeadlineExceeded, ProtocolError: The peer did not tell.
        """
        deadline = with_limit(deadline)
        made = self.bind(contract)
        for commands in services_of(contract).values():
            link = self._link(deadline)
            link.about(commands, deadline)
            link.connection.check()
        return made

    def agree_anew(self, agreements: Agreements, deadline: float) -> None:
        """Ask the peer of a new connection about all contracts that there are proxies of. Raises as `make_proxy`."""
        for commands in self.contracts():
            agreements.about(commands, deadline)

    def contracts(self) -> list[Mapping[str, Command[Any]]]:
        """The commands of each service that there is a proxy of."""
        return list({id(commands): commands for commands in list(self._contracts.values())}.values())

    def _resolve(self, command: Command[Any], timeout: float | None, /) -> tuple[Connection, Route]:
        now = 0.0 if timeout is None else monotonic()
        try:
            link = self._link(None if timeout is None else now + timeout)
        except DeadlineExceeded as error:
            raise DeadlineExceeded(f"{command.qualified_name}: {error}") from None
        if timeout is None or timeout > AGREE_TIME:
            now, timeout = monotonic(), AGREE_TIME
        deadline = with_limit(now + timeout)
        try:
            return link.connection, link.about(self._contracts[command.declaration], deadline).route_of(command)
        except (ContractMismatch, UnknownCommand):
            # Perhaps this server has gone, and another version is up.
            link.connection.look_alive()
            if self.again is None or not self.again.redial.is_over(link.connection):
                raise
        link = self._link(deadline)
        return link.connection, link.about(self._contracts[command.declaration], deadline).route_of(command)

    def __repr__(self) -> str:
        return self._name


class CallbackCaller(CallForms):
    """The caller behind a function that came with a call. When nobody has it any more, the peer is told."""

    __slots__ = ("_connection", "route")

    def __init__(self, connection: Connection, origin: int, index: int) -> None:
        self._connection = connection
        self.route = Route(ProtocolCommand.CALLBACK, target=(origin, index))

    def _resolve(self, command: Command[Any], timeout: float | None, /) -> tuple[Connection, Route]:
        return self._connection, self.route

    def __del__(self) -> None:
        target = self.route.target
        assert target is not None
        self._connection.drop_callback(*target)

    def __repr__(self) -> str:
        return "a function of the caller"


class PeerLink:
    """What a peer of the threads side needs of the connection to it; see :class:`typedrpc.peer.Link`."""

    __slots__ = ("_caller", "_happened", "_proxies", "agreements", "connection", "peer")

    def __init__(self) -> None:
        self.connection: Connection
        self.peer: Peer
        self.agreements: Agreements
        self._caller: RemoteCaller
        self._proxies: dict[Any, Any] = {}  # handlers ask for the same ones again and again
        self._happened: dict[object, object] = {}

    def attach(self, connection: Connection, peer: Peer) -> None:
        """Called once, before the peer is seen by anybody."""
        self.connection = connection
        self.peer = peer
        self.agreements = Agreements(connection, peer)
        self._caller = self._make_caller()

    def _make_caller(self) -> RemoteCaller:
        return RemoteCaller(repr(self.peer), lambda deadline: self.agreements)

    def _make_callback_caller(self, origin: int, index: int) -> CallbackCaller:
        return CallbackCaller(self.connection, origin, index)

    def proxy(self, contract: Any, /) -> Any:
        proxy = self._proxies.get(contract)
        if proxy is None:
            proxy = self._caller.make_proxy(contract, monotonic() + AGREE_TIME)
            self._proxies[contract] = proxy
        return proxy

    def is_first_time(self, event: object) -> bool:
        """Whether it is the first time that this happens on the connection; for what is logged once."""
        mark = object()
        return self._happened.setdefault(event, mark) is mark

    def close(self, reason: str, /) -> None:
        self.connection.close(reason)

    def set_limit(self, max_message_size: int, /) -> None:
        self.connection.set_limit(max_message_size)

    def services(self) -> Mapping[str, bytes]:
        return self.connection.core.peer_hello.services

    def receive_callback(self, origin: int, index: int, callback: Any, /) -> Any:
        if callback is None:  # which this side's version of the command does not have
            self.connection.drop_callback(origin, index)
            self.connection.post(self.connection.core.cancel(origin, index + 1))  # in case that it is a stream
            return None
        if isinstance(callback, StreamCodec):
            return self._receive_stream(origin, index + 1, callback)
        return BoundCommand(_command_of(callback), self._make_callback_caller(origin, index))

    def _receive_stream(self, call: int, number: int, codec: StreamCodec) -> Any:
        """What the handler of a call gets for an argument that is a stream."""
        connection, core = self.connection, self.connection.core
        flow = core.inflow(call, number)

        def conclude() -> BaseException | None:
            if flow.failure is not None:
                return unpack_failure(flow.failure, codec.name)
            if flow.lost:
                return core.lost() if connection.ended else CallCancelled(f"{codec.name}: the call is over")
            return None

        def abandon(reason: RpcError) -> None:
            if not connection.ended:
                connection.post(core.cancel(call, number))

        source = Source(
            connection, flow, call, number, codec.unpack_item, codec.name, conclude=conclude, abandon=abandon
        )
        return AsyncReceiver(source) if codec.is_async else Receiver(source)


@lru_cache(maxsize=1024)
def _command_of(callback: CallbackCodec) -> CallbackCommand[Any]:
    """One for all that come for the same parameter: a call may bring 65535 of them."""
    return CallbackCommand(callback.name, callback.codec, is_async=callback.is_async)


@final
class CallFuture(Future[Any]):
    """The future of a call, which can be cancelled until its outcome is there: then the peer is told.

    Attributes:
        give_up: Tells it.
    """

    def __init__(self, connection: Connection, what: str) -> None:
        """
        Args:
            connection: What the call is made on.
            what: Names the command in errors.
        """
        super().__init__()
        self.give_up: Callable[[], None] | None = None
        self._connection = connection
        self._what = what

    def result(self, timeout: float | None = None) -> Any:
        """As of every future; in the thread of the event loop that the outcome comes from it must be there already.

        Raises:
            BlockingCall: It is not.
        """
        self._check_wait(timeout)
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As :meth:`result`."""
        self._check_wait(timeout)
        return super().exception(timeout)

    def _check_wait(self, timeout: float | None) -> None:
        if timeout == 0 or self.done():
            return
        refusal = self._connection.why_not_wait(self._what, "await asyncio.wrap_future(proxy.{}.submit(...))")
        if refusal is not None:
            raise refusal

    def cancel(self) -> bool:
        """Cancel the call, also while it runs. Returns False when its outcome is there already."""
        if not super().cancel():
            return False
        give_up, self.give_up = self.give_up, None
        if give_up is not None:
            give_up()
        return True


def completion(
    future: Future[Any],
    command: Command[Any],
    route: Route,
    on_reply: Callable[[Frame], None] | None = None,
    failure_of: Callable[[], BaseException | None] | None = None,
    on_lost: OnLost | None = None,
    end: float | None = None,
) -> Callable[[Frame | RpcError], None]:
    """What gives a future the outcome of a call.

    Args:
        future: The future.
        command: What is called.
        route: How.
        on_reply: Called with the answer's frame first.
        failure_of: What an iterator among the arguments has failed with.
        on_lost: Asked about what is no result: whether the call goes on.
        end: The deadline of the call.
    """
    unpack, what = route.unpack_adapted or command.codec.unpack_result, command.qualified_name

    def finish(outcome: Frame | RpcError) -> None:
        nonlocal on_lost
        # It has what went with the call, which its outcome is not to keep: neither by this, nor by a traceback.
        ask, on_lost = on_lost, None
        goes_on = ask is not None and (type(outcome) is not Frame or outcome.kind == _ERROR) and ask(outcome, end)
        ask = None
        if goes_on:
            return
        if not future.set_running_or_notify_cancel():
            return
        try:
            if failure_of is not None and is_failure(outcome) and (failed := failure_of()) is not None:
                raise failed
            if isinstance(outcome, DeadlineExceeded):
                raise DeadlineExceeded(f"{what}: {outcome}")
            if isinstance(outcome, Exception):
                raise outcome
            if on_reply is not None:
                on_reply(outcome)
            if outcome.kind != Kind.RESPONSE:
                raise unpack_failure(outcome.payload, what)
            result = unpack(outcome.payload)
        except CodecError as error:
            future.set_exception(bad_result(error))
        except DeclaredFailure as failure:
            future.set_exception(command.errors.rebuild(failure))
        except BaseException as error:  # an iterator of the caller's may have failed with anything
            future.set_exception(error)
        else:
            future.set_result(result)

    return finish


def _cancel_all(futures: Iterable[Future[Any]]) -> None:
    for future in futures:
        future.cancel()


def is_failure(outcome: Frame | RpcError) -> bool:
    return isinstance(outcome, Exception) or outcome.kind != Kind.RESPONSE


def _forgetting(
    finish: Callable[[Frame | RpcError], None], within: Call, future: Future[Any]
) -> Callable[[Frame | RpcError], None]:
    """As ``finish``; then the call that is being handled has nothing to do with the future any more."""

    def finish_and_forget(outcome: Frame | RpcError) -> None:
        try:
            finish(outcome)
        finally:  # in this order: who enters it looks afterwards whether the future is done
            within.forget(future)

    return finish_and_forget


def _why_ended(
    command: Command[Any],
    token: StreamToken,
    failure_of: Callable[[], BaseException | None] | None,
    on_reply: Callable[[Frame], None] | None,
) -> BaseException | None:
    """What a stream has ended with; None where it has come to its end."""
    what = command.qualified_name
    outcome = token.frame or token.error
    if outcome is None:
        return ConnectionLost(f"{what}: the connection has ended")
    if failure_of is not None and is_failure(outcome) and (failed := failure_of()) is not None:
        return failed
    if isinstance(outcome, DeadlineExceeded):
        return DeadlineExceeded(f"{what}: {outcome}")
    if isinstance(outcome, Exception):
        return outcome
    if on_reply is not None:
        on_reply(outcome)
    if outcome.kind == Kind.RESPONSE:
        return None
    error = unpack_failure(outcome.payload, what)
    return command.errors.rebuild(error) if isinstance(error, DeclaredFailure) else error


def metadata_to(options: CallOptions) -> Callable[[Frame], None] | None:
    """What gives the metadata of an answer to who asked for it."""
    on_metadata = options.on_metadata
    return None if on_metadata is None else lambda frame: _tell(on_metadata, frame)


def _tell(on_metadata: Callable[[Any], object], frame: Frame) -> None:
    on_metadata(read_reply_metadata(frame.extension))


def pack(command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Payload, list[Any]]:
    if command.codec.has_callbacks:
        return command.codec.pack_with_callbacks(args, kwargs)
    return command.codec.pack_arguments(*args, **kwargs), []


@final
class _Going:
    """The functions and streams that go with one call; see :class:`typedrpc.common.calling.Going`."""

    __slots__ = ("_arguments", "_connection", "_loop", "_streams", "failure_of", "functions")

    def __init__(self, connection: Connection, things: list[Any], loop: Any) -> None:
        """
        Args:
            connection: Where to.
            things: Pairs of codec and function or iterator, in the order of their indices.
            loop: The event loop of the caller, who is not blocked by the call; None for none.
        """
        self._connection = connection
        self._loop = loop
        self._streams: list[tuple[int, StreamCodec, Any]] = []
        arguments: list[Argument] = []
        self._arguments = arguments
        # It lives as long as the call's outcome, which is not to keep the functions.
        self.failure_of: Callable[[], BaseException | None] = lambda: next(
            (each.error for each in arguments if each.error is not None), None
        )
        rows: list[Row | None] = []
        for index, (codec, thing) in enumerate(things):
            if isinstance(codec, StreamCodec):
                if codec.is_async and self._loop is None:
                    self._loop = kept_loop()  # here, before anything of the call has begun: there may be no threads
                self._streams.append((index + 1, codec, thing))
                rows.append(None)
            else:
                rows.append(connection.row_of_callback(codec, thing, loop))
        self.functions: list[Any] = rows if any(row is not None for row in rows) else []

    def prepare(self, call: int) -> list[Argument]:
        """What sends the streams, once the call was sent."""
        for number, codec, items in self._streams:
            flow = self._connection.core.outflow(call, number)
            sender: Sender | AsyncSender
            if codec.is_async:
                sender = AsyncSender(self._connection, flow, call, number, codec)
            else:
                sender = Sender(self._connection, flow, call, number, codec)
            loop = self._loop if codec.is_async else None
            self._arguments.append(Argument(sender, items, self._connection.start_thread, loop))
        return self._arguments


def goes_with(connection: Connection, things: list[Any], *, of_caller: bool = False) -> _Going | None:
    """
    Args:
        connection: Where to.
        things: What goes with the call, see :class:`_Going`.
        of_caller: Whether coroutines run on the loop that runs in this thread, if one does: it is not blocked by the
            call.
    """
    return _Going(connection, things, running_loop() if of_caller else None) if things else None


def bad_result(error: CodecError) -> ProtocolError:
    return ProtocolError(f"the peer answered with what the contract does not allow: {error}")
