"""How bound commands reach a peer, with threads: the callers behind proxies and behind callbacks."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from functools import lru_cache, partial
from time import monotonic
from typing import Any, final

from typedrpc.agreement import Route
from typedrpc.batches import MIN_WINDOW
from typedrpc.codec import CallbackCodec, CodecError, Payload
from typedrpc.command import BoundCommand, CallbackCommand, CallOptions, Command
from typedrpc.dispatch import Row, get_call
from typedrpc.errors import DeadlineExceeded, ProtocolError, RpcError
from typedrpc.failure import DeclaredFailure, unpack_failure
from typedrpc.messages import ProtocolCommand
from typedrpc.peer import Peer
from typedrpc.service import bind, make_proxy, services_of
from typedrpc.sync.agreements import AGREE_TIME, Agreements, nesting
from typedrpc.sync.connection import Connection
from typedrpc.sync.loop import in_loop, running_loop
from typedrpc.sync.mapping import mapped
from typedrpc.sync.tokens import Pending
from typedrpc.wire import Frame, Kind

logger = logging.getLogger("typedrpc")


class _Calls:
    """The call forms, for whoever knows which connection a command is called on, and how."""

    __slots__ = ()

    def _resolve(self, command: Command[Any], timeout: float | None, /) -> tuple[Connection, Route]:
        raise NotImplementedError

    def invoker(self, command: Command[Any], options: CallOptions, /) -> Callable[..., Any]:
        codec = command.codec
        if codec.has_callbacks:
            return lambda *args, **kwargs: self._invoke_with_callbacks(command, options, args, kwargs)
        pack, unpack_own = codec.pack_arguments, codec.unpack_result
        what = command.qualified_name
        timeout = options.timeout
        connection, route = self._resolve(command, timeout)
        id, unpack, extension = route.id, route.unpack_adapted or unpack_own, route.extension(timeout)

        def invoke(*args: Any, **kwargs: Any) -> Any:
            nonlocal connection, route, id, unpack, extension
            payload = pack(*args, **kwargs)
            if connection.forked:
                connection, route = self._resolve(command, timeout)
                id, unpack, extension = route.id, route.unpack_adapted or unpack_own, route.extension(timeout)
            deadline = None if timeout is None else monotonic() + timeout
            try:
                if get_call() is None:
                    answer = connection.call(id, payload, what, deadline, extension)
                else:
                    parent, depth = nesting(connection)
                    within = route.extension(timeout, parent, depth)
                    answer = connection.call(id, payload, what, deadline, within, parent != 0)
                return unpack(answer)
            except CodecError as error:
                raise _bad_result(error) from error
            except DeclaredFailure as failure:
                rebuilt = command.errors.rebuild(failure)
                raise rebuilt from rebuilt.__cause__

        return invoke

    def _invoke_with_callbacks(
        self, command: Command[Any], options: CallOptions, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        payload, functions = command.codec.pack_with_callbacks(args, kwargs)
        connection, route = self._resolve(command, options.timeout)
        parent, depth = nesting(connection)
        deadline = None if options.timeout is None else monotonic() + options.timeout
        extension = route.extension(options.timeout, parent, depth)
        offers = _offers(functions)
        what, unpack = command.qualified_name, route.unpack_adapted or command.codec.unpack_result
        try:
            return unpack(connection.call(route.id, payload, what, deadline, extension, parent != 0, offers))
        except CodecError as error:
            raise _bad_result(error) from error
        except DeclaredFailure as failure:
            rebuilt = command.errors.rebuild(failure)
            raise rebuilt from rebuilt.__cause__

    def submit(
        self, command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions, /
    ) -> Future[Any]:
        payload, functions = _pack(command, args, kwargs)
        connection, route = self._resolve(command, options.timeout)
        future: Future[Any] = Future()
        token = Pending(completion(future, command, route))
        parent, depth = nesting(connection)
        deadline = None if options.timeout is None else monotonic() + options.timeout
        extension = route.extension(options.timeout, parent, depth)
        offers = _offers(functions, of_caller=True)
        connection.submit(route.id, payload, command.qualified_name, token, deadline, extension, parent != 0, offers)
        return future

    def notify(
        self, command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions, /
    ) -> None:
        payload, functions = _pack(command, args, kwargs)
        connection, route = self._resolve(command, options.timeout)
        parent, depth = nesting(connection)
        deadline = None if options.timeout is None else monotonic() + options.timeout
        extension = route.extension(None, parent if route.target else 0, depth)
        offers = _offers(functions)
        connection.notify(route.id, payload, command.qualified_name, deadline, extension, offers)

    def map(
        self,
        command: Command[Any],
        iterables: tuple[Iterable[Any], ...],
        options: CallOptions,
        return_exceptions: bool = False,
        /,
    ) -> Iterator[Any]:
        if command.codec.has_callbacks:
            return self._map_with_callbacks(command, iterables, options, return_exceptions)
        return mapped(
            partial(self._resolve, command, options.timeout), command, iterables, options.timeout, return_exceptions
        )

    def _map_with_callbacks(
        self,
        command: Command[Any],
        iterables: tuple[Iterable[Any], ...],
        options: CallOptions,
        return_exceptions: bool,
    ) -> Iterator[Any]:
        """Functions that go with a call are known by it: so each is a request of its own."""
        futures: deque[Future[Any]] = deque()
        inputs = zip(*iterables, strict=False)
        args = next(inputs, None)
        while args is not None or futures:
            if args is not None:
                futures.append(self._submit_in_order(command, args, options))
                args = next(inputs, None)
                if args is not None and len(futures) < MIN_WINDOW:
                    continue
            try:
                result = futures.popleft().result()
            except Exception as error:
                if not return_exceptions:
                    raise
                result = error
            yield result

    def _submit_in_order(self, command: Command[Any], args: tuple[Any, ...], options: CallOptions) -> Future[Any]:
        """As ``submit``; what cannot be sent fails in its turn, after the results before it."""
        try:
            return self.submit(command, args, {}, options)
        except RpcError as error:
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed


@final
class RemoteCaller(_Calls):
    """The caller behind the proxies of one peer."""

    __slots__ = ("_contracts", "_link", "_name")

    def __init__(self, name: str, link: Callable[[float], Agreements]) -> None:
        """
        Args:
            name: What it is printed as.
            link: Gives the connection to use, with what is agreed there; asked for each new bound command, and again in
                a forked child. May block until the deadline that it is given.
        """
        self._name = name
        self._link = link
        # Declared command to the commands, by name, with which it is agreed about: those of its service.
        self._contracts: dict[Command[Any], Mapping[str, Command[Any]]] = {}

    def make_proxy(self, contract: Any, deadline: float) -> Any:
        """A proxy of a contract, or a bound command; the peer is asked about it.

        Raises:
            DefinitionError: It is no contract, or one that cannot be carried.
            ConnectionLost, DeadlineExceeded, ProtocolError: The peer did not tell.
        """
        made = bind(contract, self) if isinstance(contract, Command) else make_proxy(contract, self)
        for commands in services_of(contract).values():
            self._contracts.update(dict.fromkeys(commands.values(), commands))
            link = self._link(deadline)
            link.about(commands, deadline)
            link.connection.check()
        return made

    def _resolve(self, command: Command[Any], timeout: float | None, /) -> tuple[Connection, Route]:
        deadline = monotonic() + (AGREE_TIME if timeout is None else min(timeout, AGREE_TIME))
        link = self._link(deadline)
        agreement = link.about(self._contracts[command.declaration], deadline)
        return link.connection, agreement.route_of(command)

    def __repr__(self) -> str:
        return self._name


@final
class CallbackCaller(_Calls):
    """The caller behind a function that came with a call. When nobody has it any more, the peer is told."""

    __slots__ = ("_connection", "_route")

    def __init__(self, connection: Connection, origin: int, index: int) -> None:
        self._connection = connection
        self._route = Route(ProtocolCommand.CALLBACK, target=(origin, index))

    def _resolve(self, command: Command[Any], timeout: float | None, /) -> tuple[Connection, Route]:
        return self._connection, self._route

    def __del__(self) -> None:
        target = self._route.target
        assert target is not None
        self._connection.drop_callback(*target)

    def __repr__(self) -> str:
        return "a function of the caller"


@final
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
        self._caller = RemoteCaller(repr(peer), lambda deadline: self.agreements)

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
        return self.connection.core.peer_services

    def receive_callback(self, origin: int, index: int, callback: Any, /) -> Any:
        if callback is None:  # which this side's version of the command does not have
            self.connection.drop_callback(origin, index)
            return None
        bound: BoundCommand[Any] = BoundCommand(_command_of(callback), CallbackCaller(self.connection, origin, index))
        return bound.aio if callback.is_async else bound


@lru_cache(maxsize=1024)
def _command_of(callback: CallbackCodec) -> CallbackCommand[Any]:
    """One for all that come for the same parameter: a call may bring 65535 of them."""
    return CallbackCommand(callback.name, callback.codec)


def completion(future: Future[Any], command: Command[Any], route: Route) -> Callable[[Frame | RpcError], None]:
    """What gives a future the outcome of a call."""
    unpack, what = route.unpack_adapted or command.codec.unpack_result, command.qualified_name

    def finish(outcome: Frame | RpcError) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            if isinstance(outcome, DeadlineExceeded):
                raise DeadlineExceeded(f"{what}: {outcome}")
            if isinstance(outcome, Exception):
                raise outcome
            if outcome.kind != Kind.RESPONSE:
                raise unpack_failure(outcome.payload, what)
            result = unpack(outcome.payload)
        except CodecError as error:
            future.set_exception(_bad_result(error))
        except DeclaredFailure as failure:
            future.set_exception(command.errors.rebuild(failure))
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    return finish


def _pack(command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Payload, list[Any]]:
    if command.codec.has_callbacks:
        return command.codec.pack_with_callbacks(args, kwargs)
    return command.codec.pack_arguments(*args, **kwargs), []


def _offers(functions: list[Any], *, of_caller: bool = False) -> list[Row]:
    """The functions that go with a call, as the dispatcher runs them.

    Args:
        functions: Pairs of callback and function.
        of_caller: Whether coroutines run on the loop that runs in this thread, if one does: it is not blocked by the
            call.
    """
    rows = []
    for callback, function in functions:
        codec = callback.codec
        if callback.is_async:
            function = in_loop(function, running_loop() if of_caller else None)
        rows.append(Row(callback.name, function, codec.unpack_arguments, codec.pack_result))
    return rows


def _bad_result(error: CodecError) -> ProtocolError:
    return ProtocolError(f"the peer answered with what the contract does not allow: {error}")
