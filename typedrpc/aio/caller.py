"""How bound commands reach a peer from an event loop: what is awaited takes no thread, what blocks must have one."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from threading import get_ident
from time import monotonic
from typing import Any, Final, cast, final

from typedrpc.agreement import Agreement, Route
from typedrpc.aio.connection import Connection
from typedrpc.call import Call, get_call
from typedrpc.codec import CodecError, Payload
from typedrpc.command import CallOptions, Command
from typedrpc.common.agreements import AGREE_TIME, Agreements
from typedrpc.common.caller import (
    CallbackCaller,
    CallForms,
    CallFuture,
    PeerLink,
    RemoteCaller,
    bad_result,
    goes_with,
    metadata_to,
    pack,
    plan_call,
    with_limit,
)
from typedrpc.common.calling import cancelled_with
from typedrpc.common.connection import Connection as AnyConnection
from typedrpc.common.handlers import Series
from typedrpc.common.loop import blocking_call, running_loop
from typedrpc.common.redial import outcome_of
from typedrpc.common.retrying import Again, Pursuit, loss_in, own
from typedrpc.common.room import NoRoom
from typedrpc.common.streams import StreamInLine
from typedrpc.common.tokens import Owner
from typedrpc.deadlines import get_limit
from typedrpc.errors import CallCancelled, ConnectionLost, DeadlineExceeded, RpcError, ServerBusy
from typedrpc.failure import DeclaredFailure, unpack_failure
from typedrpc.stream import AsyncStream, Stream
from typedrpc.wire import Frame, Kind

logger = logging.getLogger("typedrpc")

_RESPONSE = int(Kind.RESPONSE)

MAX_UNSENT: Final = 1024
"""One-way calls of an event loop that may wait for a connection that is made anew."""


@final
class Awaited:
    """A call whose outcome a task of the connection's own loop waits for; see :class:`typedrpc.common.tokens.Token`."""

    __slots__ = ("_future", "aborted", "series")

    def __init__(self, future: "asyncio.Future[Frame]") -> None:
        self._future = future
        self.aborted: RpcError | None = None
        self.series: Series | None = None

    def complete(self, connection: Owner, frame: Frame) -> None:
        if self.series is not None:  # of callbacks, which run before it is told
            connection.handlers.settle(partial(self._set, frame), self.series)
        elif not self._future.done():
            self._future.set_result(frame)

    def fail(self, connection: Owner, error: RpcError) -> None:
        # Where the connection ends, or the call is aborted, it may be by another thread.
        future = self._future
        if running_loop() is future.get_loop():
            self._set(error)
        else:
            with suppress(RuntimeError):  # the loop is closed
                future.get_loop().call_soon_threadsafe(self._set, error)

    def _set(self, outcome: Frame | RpcError) -> None:
        future = self._future
        if future.done():
            return
        if isinstance(outcome, RpcError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


class LoopForms(CallForms):
    """The call forms where the connection belongs to an event loop."""

    __slots__ = ()

    @property
    def connection(self) -> Connection:
        """What commands are called on."""
        raise NotImplementedError

    def _route(self, command: Command[Any]) -> Route | None:
        """How a command is called, if that is known without asking the peer."""
        raise NotImplementedError

    async def _ask_for_route(self, command: Command[Any], timeout: float | None) -> Route:
        raise NotImplementedError

    @property
    def _is_on_loop(self) -> bool:
        return get_ident() == self.connection.thread

    def invoker(self, command: Command[Any], options: CallOptions, /) -> Callable[..., Any]:
        if self._is_on_loop:
            raise blocking_call(command.qualified_name)
        return super().invoker(command, options)

    def awaiter(self, command: Command[Any], options: CallOptions, /) -> Callable[..., Coroutine[Any, Any, Any]]:
        again = self.again
        if again is None or again.retry is None:
            return self._awaiter(command, options)
        elsewhere = super().awaiter(command, options)

        async def awaited(*args: Any, **kwargs: Any) -> Any:
            if not self._is_on_loop:
                return await elsewhere(*args, **kwargs)
            payload, things = pack(command, args, kwargs)
            return await self._await_again(self._begin(command, options), (own(payload), things))

        return awaited

    async def _await_again(self, pursuit: Pursuit, packed: tuple[Payload, list[Any]]) -> Any:
        """Call, and call again as long as it is cut short and may be."""
        try:
            while True:
                await self._rest(pursuit)
                try:
                    return await self._awaiter(pursuit.command, pursuit.options, packed, pursuit)()
                except ConnectionLost as error:
                    if not pursuit.goes_on(error):
                        raise
        except RpcError as error:
            if not pursuit.is_in_doubt(error):
                raise
            raise pursuit.doubt(error) from error
        finally:
            pursuit.over()

    async def _rest(self, pursuit: Pursuit) -> None:
        """Wait for the pause, but not past the deadline."""
        seconds = pursuit.pause if pursuit.end is None else min(pursuit.pause, pursuit.end - monotonic())
        if seconds > 0:
            await asyncio.sleep(seconds)

    def _awaiter(
        self,
        command: Command[Any],
        options: CallOptions,
        packed: tuple[Payload, list[Any]] | None = None,
        pursuit: Pursuit | None = None,
    ) -> Callable[..., Coroutine[Any, Any, Any]]:
        """What gives the coroutine of a call.

        Args:
            command: The command.
            options: Of the call.
            packed: The packed arguments, where they are already: then it is to be called without any.
            pursuit: What this is one attempt of, where it is one.
        """
        elsewhere, again = super().awaiter(command, options), self.again
        connection, codec, what, default = self.connection, command.codec, command.qualified_name, self.default_timeout
        loop, thread = connection.loop, connection.thread
        pack_arguments, unpack = codec.pack_arguments, codec.unpack_result
        pack_all = codec.pack_with_callbacks if codec.has_callbacks else None
        timeout = default if options.timeout is None else options.timeout
        is_plain = not options.metadata and timeout != 0 and pursuit is None
        on_reply = metadata_to(options)
        route = self._route(command)
        plain_extension = b"" if route is None else route.extension(timeout)

        async def awaited(*args: Any, **kwargs: Any) -> Any:
            nonlocal connection, route, plain_extension
            if get_ident() != thread:
                return await elsewhere(*args, **kwargs)
            things: list[Any] = []
            if packed is not None:
                payload, things = packed
            elif pack_all is None:
                payload = pack_arguments(*args, **kwargs)
            else:
                payload, things = pack_all(args, kwargs)
            if route is None or (connection.ended and again is not None):
                found = self._route(command) or await self._ask_for_route(command, options.timeout)
                # Together, and with nothing awaited in between: other tasks are here too.
                route, connection, plain_extension = found, self.connection, found.extension(timeout)
            on, way, outlet = connection, route, connection.outlet
            end = None if timeout is None else monotonic() + timeout
            try:
                within: Call | None
                if is_plain and get_call() is None and get_limit() is None:
                    extension, nested, within = plain_extension, False, None
                else:
                    key = None if pursuit is None else pursuit.sent(on)
                    end, extension, nested, within = plan_call(on, way, options, what, default, key)
                if outlet.paused:
                    try:
                        async with asyncio.timeout(None if end is None else end - monotonic()):
                            await outlet.drained()
                    except TimeoutError:
                        raise DeadlineExceeded(f"{what}: the peer did not read in time") from None
                future: asyncio.Future[Frame] = loop.create_future()
                token = Awaited(future)
                call, going = 0, None
                while True:
                    if things:
                        going = goes_with(on, things, of_caller=True)
                    try:
                        call = on.submit(way.id, payload, what, token, end, extension, nested, going, patient=False)
                        break
                    except NoRoom:
                        pass  # which is not to be kept while it waits: it holds what the attempt has made
                    await on.stand_in_line(what, end)
                if within is not None:
                    outer = within
                    outer.on_cancel(future, lambda: on.abort(call, token, cancelled_with(outer, what)))
                try:
                    frame = await future
                except asyncio.CancelledError:
                    on.abort(call, token, CallCancelled(f"{what}: the task was cancelled"))
                    raise
                except DeadlineExceeded as error:
                    raise DeadlineExceeded(f"{what}: {error}") from None
                except RpcError as error:
                    if going is not None and (failed := going.failure_of()) is not None:
                        raise failed from error
                    raise
                finally:
                    if within is not None:
                        within.forget(future)
                if on_reply is not None and not (pursuit is not None and loss_in(frame, what)):
                    on_reply(frame)
                if frame.kind != _RESPONSE:
                    if going is not None and (failed := going.failure_of()) is not None:
                        raise failed
                    raise unpack_failure(frame.payload, what)
                return (way.unpack_adapted or unpack)(frame.payload)
            except CodecError as error:
                raise bad_result(error) from error
            except DeclaredFailure as failure:
                rebuilt = command.errors.rebuild(failure)
                raise rebuilt from rebuilt.__cause__
            except ConnectionLost as error:
                if again is None or pursuit is not None:
                    raise
                once_more = Pursuit(again, command, options, end, tries=1)
                once_more.connection = on
                if not once_more.goes_on(error):
                    raise
                return await self._await_again(once_more, (payload, things))

        return awaited

    def submit(
        self, command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions, /
    ) -> Future[Any]:
        if not self._is_on_loop:
            return super().submit(command, args, kwargs, options)
        connection = self.connection
        packed = pack(command, args, kwargs)
        future = CallFuture(connection, command.qualified_name)
        again = self.again
        if again is None or again.retry is None:
            waiting = self._awaiter(command, options, packed)()
        else:
            waiting = self._await_again(self._begin(command, options), (own(packed[0]), packed[1]))
        task = connection.loop.create_task(waiting)
        future.give_up = partial(connection.call_soon, task.cancel)
        task.add_done_callback(partial(_finish, future))
        return future

    def stream(
        self, command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions, /
    ) -> Stream[Any]:
        if self._is_on_loop:
            raise blocking_call(command.qualified_name, "async for item in proxy.{}.aio(...)")
        return super().stream(command, args, kwargs, options)

    def astream(
        self, command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions, /
    ) -> AsyncStream[Any]:
        if not self._is_on_loop or self._route(command) is not None:
            return super().astream(command, args, kwargs, options)
        packed = pack(command, args, kwargs)

        async def open_stream() -> AsyncStream[Any]:
            await self._ask_for_route(command, options.timeout)
            return self._astream(command, packed, options)

        return StreamInLine(open_stream(), command.qualified_name)

    def _notify(self, command: Command[Any], packed: tuple[Payload, list[Any]], options: CallOptions) -> None:
        if not self._is_on_loop or self._route(command) is not None:
            super()._notify(command, packed, options)
        else:
            self._notify_soon(command, packed, options)

    def _notify_soon(self, command: Command[Any], packed: tuple[Payload, list[Any]], options: CallOptions) -> None:
        """Call one-way once the peer has told its contract."""
        raise NotImplementedError

    def map(
        self,
        command: Command[Any],
        iterables: tuple[Iterable[Any], ...],
        options: CallOptions,
        return_exceptions: bool = False,
        /,
    ) -> Iterator[Any]:
        if self._is_on_loop:
            raise blocking_call(command.qualified_name, "await asyncio.gather(*map(proxy.{}.aio, ...))")
        return super().map(command, iterables, options, return_exceptions)


def _finish(future: CallFuture, task: asyncio.Task[Any]) -> None:
    """Give a future what a task has come to."""
    if task.cancelled():
        future.cancel()
    error = None if task.cancelled() else task.exception()
    if not future.set_running_or_notify_cancel():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())


@final
class LoopCaller(LoopForms, RemoteCaller):
    """The caller behind the proxies of one peer. The peer is asked about a contract when it is first called."""

    __slots__ = ("_known", "_unsent")

    _known: tuple[Agreements, dict[Command[Any], Route]]
    """What was agreed with the peer, and what is known of that without asking; another pair with each connection."""

    def __init__(
        self,
        name: str,
        link: Callable[[float | None], Agreements],
        default_timeout: float | None = None,
        again: Again | None = None,
    ) -> None:
        super().__init__(name, link, default_timeout, again)
        self._unsent = 0  # one-way calls that wait for a connection

    def use(self, agreements: Agreements) -> None:
        """From now on commands are called where this was agreed. To be called before any is, on the loop."""
        self._known = (agreements, {})

    @property
    def connection(self) -> Connection:
        return cast("Connection", self._known[0].connection)

    def make_proxy(self, contract: Any, deadline: float = 0.0) -> Any:
        """A proxy of a contract, or a bound command. Nothing is asked.

        Raises:
            DefinitionError: It is no contract, or one that cannot be carried.
            ConnectionLost: There is no connection any more, and none will be made.
        """
        made = self.bind(contract)
        if self.again is None or not self.again.redial.is_over(self.connection):
            self.connection.check()
        return made

    def _resolve(self, command: Command[Any], timeout: float | None, /) -> tuple[AnyConnection, Route]:
        known = self._known
        route = self._route(command)
        if route is None or known is not self._known:
            return super()._resolve(command, timeout)
        return known[0].connection, route

    def _route(self, command: Command[Any]) -> Route | None:
        agreements, routes = self._known
        if self.again is not None and self.again.redial.is_over(agreements.connection):
            return None
        route = routes.get(command)
        if route is None:
            agreement = agreements.known(self._contracts[command.declaration])
            if agreement is not None:
                route = routes[command] = agreement.route_of(command)
        return route

    async def _ask_for_route(self, command: Command[Any], timeout: float | None) -> Route:
        if self.again is not None:
            await self._await_link(self.again, command, CallOptions(timeout))
        deadline = with_limit(monotonic() + (AGREE_TIME if timeout is None else min(timeout, AGREE_TIME)))
        agreements, _ = self._known
        await agreement_about(agreements, self._contracts[command.declaration], deadline)
        route = self._route(command)
        if route is None:
            raise ConnectionLost("the peer has not told its contract")
        return route

    def _notify_soon(self, command: Command[Any], packed: tuple[Payload, list[Any]], options: CallOptions) -> None:
        def send(agreement: Agreement) -> bool:
            try:
                agreement.route_of(command)
                super(LoopForms, self)._notify(command, packed, options)
            except RpcError as error:
                logger.warning("a one-way call of %s was not sent: %s", command.qualified_name, error)
            return True

        def fail(error: RpcError) -> None:
            logger.warning("a one-way call of %s was not sent: %s", command.qualified_name, error)

        def ask(dialled: "Future[Any] | None" = None) -> None:
            try:
                if dialled is not None:
                    outcome_of(dialled)
                self._known[0].soon(self._contracts[command.declaration], send, fail)
            except RpcError as error:
                fail(error)

        def ask_then(dialled: "Future[Any]") -> None:
            self._unsent -= 1
            ask(dialled)

        connection = self.connection
        needed = None if self.again is None else self.again.redial.needed()
        if needed is None:
            ask()
            return
        if self._unsent >= MAX_UNSENT:
            raise ServerBusy(
                f"{command.qualified_name}: {MAX_UNSENT} one-way calls wait for a connection: await a call"
            )
        self._unsent += 1
        needed.add_done_callback(lambda dialled: connection.call_soon(partial(ask_then, dialled)))


@final
class LoopCallbackCaller(LoopForms, CallbackCaller):
    """The caller behind a function that came with a call."""

    __slots__ = ()

    @property
    def connection(self) -> Connection:
        return cast("Connection", self._connection)

    def _route(self, command: Command[Any]) -> Route:
        return self.route


@final
class LoopLink(PeerLink):
    """What a peer of the asyncio side needs of the connection to it."""

    __slots__ = ()

    def _make_caller(self) -> LoopCaller:
        caller = LoopCaller(repr(self.peer), lambda deadline: self.agreements)
        caller.use(self.agreements)
        return caller

    def _make_callback_caller(self, origin: int, index: int) -> LoopCallbackCaller:
        return LoopCallbackCaller(self.connection, origin, index)


async def agreement_about(agreements: Agreements, commands: Mapping[str, Command[Any]], deadline: float) -> Agreement:
    """What can be called of a service, on the loop of the connection. The peer is asked if it is not known.

    Raises:
        ConnectionLost, DeadlineExceeded, ProtocolError: The peer did not tell.
    """
    known = agreements.known(commands)
    if known is not None:
        return known
    told: asyncio.Future[Agreement] = asyncio.get_running_loop().create_future()

    def tell(agreement: Agreement) -> bool:
        if not told.done():
            told.set_result(agreement)
        return True

    def fail(error: RpcError) -> None:
        if not told.done():
            told.set_exception(error)

    agreements.soon(commands, tell, fail)
    try:
        async with asyncio.timeout(max(0.0, deadline - monotonic())):
            return await told
    except TimeoutError:
        raise DeadlineExceeded("the peer did not tell its contract in time") from None
