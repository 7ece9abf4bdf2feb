"""How bound commands reach a peer from an event loop: what is awaited takes no thread, what blocks must have one."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from threading import get_ident
from time import monotonic
from typing import Any, cast, final

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
from typedrpc.common.room import NoRoom
from typedrpc.common.streams import StreamInLine
from typedrpc.common.tokens import Owner
from typedrpc.deadlines import get_limit
from typedrpc.errors import CallCancelled, ConnectionLost, DeadlineExceeded, RpcError
from typedrpc.failure import DeclaredFailure, unpack_failure
from typedrpc.service import bind, make_proxy, services_of
from typedrpc.stream import AsyncStream, Stream
from typedrpc.wire import Frame, Kind

logger = logging.getLogger("typedrpc")

_RESPONSE = int(Kind.RESPONSE)


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
        return self._awaiter(command, options)

    def _awaiter(
        self, command: Command[Any], options: CallOptions, packed: tuple[Payload, list[Any]] | None = None
    ) -> Callable[..., Coroutine[Any, Any, Any]]:
        """What gives the coroutine of a call.

        Args:
            command: The command.
            options: Of the call.
            packed: The packed arguments, where they are already: then it is to be called without any.
        """
        elsewhere = super().awaiter(command, options)
        connection, codec, what, default = self.connection, command.codec, command.qualified_name, self.default_timeout
        loop, thread, outlet = connection.loop, connection.thread, connection.outlet
        pack_arguments, unpack = codec.pack_arguments, codec.unpack_result
        pack_all = codec.pack_with_callbacks if codec.has_callbacks else None
        timeout = default if options.timeout is None else options.timeout
        is_plain = not options.metadata and timeout != 0
        on_reply = metadata_to(options)
        route = self._route(command)
        plain_extension = b"" if route is None else route.extension(timeout)

        async def awaited(*args: Any, **kwargs: Any) -> Any:
            nonlocal route, plain_extension
            if get_ident() != thread:
                return await elsewhere(*args, **kwargs)
            things: list[Any] = []
            if packed is not None:
                payload, things = packed
            elif pack_all is None:
                payload = pack_arguments(*args, **kwargs)
            else:
                payload, things = pack_all(args, kwargs)
            if route is None:
                route = self._route(command) or await self._ask_for_route(command, options.timeout)
                plain_extension = route.extension(timeout)
            within: Call | None
            if is_plain and get_call() is None and get_limit() is None:
                end = None if timeout is None else monotonic() + timeout
                extension, nested, within = plain_extension, False, None
            else:
                end, extension, nested, within = plan_call(connection, route, options, what, default)
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
                    going = goes_with(connection, things, of_caller=True)
                try:
                    call = connection.submit(
                        route.id, payload, what, token, end, extension, nested, going, patient=False
                    )
                    break
                except NoRoom:
                    pass  # which is not to be kept while it waits: it holds what the attempt has made
                await connection.stand_in_line(what, end)
            if within is not None:
                outer = within
                outer.on_cancel(future, lambda: connection.abort(call, token, cancelled_with(outer, what)))
            try:
                frame = await future
            except asyncio.CancelledError:
                connection.abort(call, token, CallCancelled(f"{what}: the task was cancelled"))
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
            if on_reply is not None:
                on_reply(frame)
            try:
                if frame.kind != _RESPONSE:
                    if going is not None and (failed := going.failure_of()) is not None:
                        raise failed
                    raise unpack_failure(frame.payload, what)
                return (route.unpack_adapted or unpack)(frame.payload)
            except CodecError as error:
                raise bad_result(error) from error
            except DeclaredFailure as failure:
                rebuilt = command.errors.rebuild(failure)
                raise rebuilt from rebuilt.__cause__

        return awaited

    def submit(
        self, command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions, /
    ) -> Future[Any]:
        if not self._is_on_loop:
            return super().submit(command, args, kwargs, options)
        connection = self.connection
        packed = pack(command, args, kwargs)
        future = CallFuture(connection, command.qualified_name)
        task = connection.loop.create_task(self._awaiter(command, options, packed)())
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

    __slots__ = ("_routes", "agreements")

    def __init__(self, name: str, agreements: Agreements, default_timeout: float | None = None) -> None:
        """
        Args:
            name: What it is printed as.
            agreements: What was agreed with the peer.
            default_timeout: Seconds that a call may take where nobody says another number.
        """
        super().__init__(name, lambda deadline: agreements, default_timeout)
        self.agreements = agreements
        self._routes: dict[Command[Any], Route] = {}

    @property
    def connection(self) -> Connection:
        return cast("Connection", self.agreements.connection)

    def make_proxy(self, contract: Any, deadline: float = 0.0) -> Any:
        """A proxy of a contract, or a bound command. Nothing is asked.

        Raises:
            DefinitionError: It is no contract, or one that cannot be carried.
            ConnectionLost: There is no connection any more.
        """
        made = bind(contract, self) if isinstance(contract, Command) else make_proxy(contract, self)
        for commands in services_of(contract).values():
            self._contracts.update(dict.fromkeys(commands.values(), commands))
        self.connection.check()
        return made

    async def agree(self, contract: Any, deadline: float) -> None:
        """Ask the peer about a contract.

        Raises:
            ConnectionLost, DeadlineExceeded, ProtocolError: The peer did not tell.
        """
        for commands in services_of(contract).values():
            await self._agreement(commands, deadline)

    async def _agreement(self, commands: Any, deadline: float) -> Agreement:
        known = self.agreements.known(commands)
        if known is not None:
            return known
        told: asyncio.Future[Agreement] = self.connection.loop.create_future()

        def tell(agreement: Agreement) -> bool:
            if not told.done():
                told.set_result(agreement)
            return True

        def fail(error: RpcError) -> None:
            if not told.done():
                told.set_exception(error)

        self.agreements.soon(commands, tell, fail)
        try:
            async with asyncio.timeout(max(0.0, deadline - monotonic())):
                return await told
        except TimeoutError:
            raise DeadlineExceeded("the peer did not tell its contract in time") from None

    def _resolve(self, command: Command[Any], timeout: float | None, /) -> tuple[AnyConnection, Route]:
        route = self._route(command)
        return super()._resolve(command, timeout) if route is None else (self.connection, route)

    def _route(self, command: Command[Any]) -> Route | None:
        route = self._routes.get(command)
        if route is None:
            agreement = self.agreements.known(self._contracts[command.declaration])
            if agreement is not None:
                route = self._routes[command] = agreement.route_of(command)
        return route

    async def _ask_for_route(self, command: Command[Any], timeout: float | None) -> Route:
        deadline = with_limit(monotonic() + (AGREE_TIME if timeout is None else min(timeout, AGREE_TIME)))
        await self._agreement(self._contracts[command.declaration], deadline)
        route = self._route(command)
        if route is None:
            raise ConnectionLost("the peer has not told its contract")
        return route

    def _notify_soon(self, command: Command[Any], packed: tuple[Payload, list[Any]], options: CallOptions) -> None:
        def send(agreement: Agreement) -> bool:
            try:
                self._routes[command] = agreement.route_of(command)
                super(LoopForms, self)._notify(command, packed, options)
            except RpcError as error:
                logger.warning("a one-way call of %s was not sent: %s", command.qualified_name, error)
            return True

        def fail(error: RpcError) -> None:
            logger.warning("a one-way call of %s was not sent: %s", command.qualified_name, error)

        self.agreements.soon(self._contracts[command.declaration], send, fail)


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
        return LoopCaller(repr(self.peer), self.agreements)

    def _make_callback_caller(self, origin: int, index: int) -> LoopCallbackCaller:
        return LoopCallbackCaller(self.connection, origin, index)
