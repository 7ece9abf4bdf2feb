"""Connect, and call: the client of the threads side."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Final, Generic, TypeVar, cast, final, overload

from typedrpc import transport
from typedrpc.agreement import Agreement, Route, agree
from typedrpc.codec import CodecError
from typedrpc.command import BoundCommand, CallOptions, Command
from typedrpc.errors import (
    ConnectFailed,
    DeadlineExceeded,
    DefinitionError,
    MessageTooLarge,
    ProtocolError,
    RpcError,
)
from typedrpc.failure import DeclaredFailure, unpack_failure
from typedrpc.messages import MAX_CALLS, MAX_MESSAGE_SIZE, Limits
from typedrpc.peer import Peer, next_peer_id
from typedrpc.protocol import Protocol
from typedrpc.service import Service, bind, make_proxy, services_of
from typedrpc.sync.connection import Connection
from typedrpc.sync.tokens import Pending, Token
from typedrpc.sync.workers import Watcher, Workers
from typedrpc.wire import Frame, Kind

ServiceT = TypeVar("ServiceT", bound=Service)
EnteredT_co = TypeVar("EnteredT_co", covariant=True)
CallableT = TypeVar("CallableT", bound=Callable[..., Any])

CONNECT_TIME: Final = 10.0
"""Seconds that one attempt to connect and shake hands may take when ``connect`` is given no time-out."""

FIRST_PAUSE: Final = 0.01
LONGEST_PAUSE: Final = 0.25
"""Seconds between two attempts to reach a server that is not up yet: doubled from the first to the longest."""

LEAST_ATTEMPT: Final = 0.05
"""Seconds that an attempt is worth making in; what a hurried one says of the server would mislead."""

MAP_WINDOW: Final = 64
"""Calls of one ``map`` that are in flight at a time."""

MAX_LENT: Final = 16
"""Threads that a client lends its connection when callbacks of futures block."""


@final
class _Link:
    """One connection, and what was agreed with its peer."""

    __slots__ = ("agreements", "connection")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.agreements: dict[int, Agreement] = {}  # by the id() of the commands they are about


@final
class Client(Generic[EnteredT_co]):
    """A connection to a server, made by :func:`connect`.

    As a context manager it yields the proxy of the contract that it was made with, or itself where there was none, and
    closes at the end. It may be used from any thread. After a fork the child's first call dials a connection of its
    own; the parent's is not touched.
    """

    def __init__(self, url: str, contract: Callable[..., Any] | None, limits: Limits, timeout: float | None) -> None:
        self._url = url
        self._limits = limits
        self._lock = threading.Lock()
        self._runtime: tuple[Workers, Watcher] | None = None
        # Declared command to the commands, by name, with which it is agreed about: those of its service.
        self._contracts: dict[Command[Any], Mapping[str, Command[Any]]] = {}
        self._closed = False
        self._peer = Peer(next_peer_id(), str(transport.resolve(url)), None, self._close_connection)
        self._entered: Any = self
        deadline = monotonic() + (CONNECT_TIME if timeout is None else timeout)
        self._link = self._dial(deadline, again=timeout is not None)
        if contract is not None:
            try:
                self._entered = self._make_proxy(contract, deadline)
            except BaseException as error:
                self.close()
                if isinstance(error, DeadlineExceeded):
                    raise ConnectFailed(url, "the server did not tell its contract in time") from None
                if isinstance(error, RpcError) and not isinstance(error, DefinitionError):
                    raise ConnectFailed(url, str(error)) from error
                raise

    # What users see

    @property
    def peer(self) -> Peer:
        """The other end."""
        return self._peer

    @overload
    def proxy(self, contract: Command[CallableT], /) -> BoundCommand[CallableT]: ...
    @overload
    def proxy(self, contract: Callable[..., ServiceT], /) -> ServiceT: ...
    def proxy(self, contract: Any, /) -> Any:
        """The proxy of a contract, or of a single command, on this connection.

        Args:
            contract: A subclass of ``Service``, abstract or not, or a command, such as a function of a
                ``FunctionService``.

        Raises:
            DefinitionError: It is no contract, or one that cannot be carried.
            ConnectionLost: There is no connection any more.
            DeadlineExceeded: The peer did not tell its contract within 10 s.
        """
        return self._make_proxy(contract, monotonic() + CONNECT_TIME)

    def close(self) -> None:
        """End the connection. Calls that wait, in any thread, raise ``ConnectionLost``. May be called again."""
        self._closed = True
        self._close_connection("")
        # It stays, closed: a thread that is still at work may ask for it, and must not be given another one.
        runtime = self._runtime
        if runtime is not None:
            runtime[1].close()
            runtime[0].close(1.0)

    def __enter__(self) -> EnteredT_co:
        return cast(EnteredT_co, self._entered)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<client of {self._url}>"

    # What bound commands see: the Caller protocol

    def invoker(self, command: Command[Any], options: CallOptions, /) -> Callable[..., Any]:
        codec = command.codec
        pack, unpack_own = codec.pack_arguments, codec.unpack_result
        what = command.qualified_name
        timeout = options.timeout
        linked, route = self._resolve(command, timeout)
        id, unpack, extension = route.id, route.unpack_adapted or unpack_own, route.extension(timeout)

        def invoke(*args: Any, **kwargs: Any) -> Any:
            nonlocal linked, id, unpack, extension
            payload = pack(*args, **kwargs)
            if linked.connection.forked:
                linked, route = self._resolve(command, timeout)
                id, unpack, extension = route.id, route.unpack_adapted or unpack_own, route.extension(timeout)
            deadline = None if timeout is None else monotonic() + timeout
            try:
                answer = linked.connection.call(id, payload, what, deadline, extension)
            except DeclaredFailure as failure:
                rebuilt = command.errors.rebuild(failure)
                raise rebuilt from rebuilt.__cause__
            try:
                return unpack(answer)
            except CodecError as error:
                raise _bad_result(error) from error

        return invoke

    def submit(
        self, command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions, /
    ) -> Future[Any]:
        payload = command.codec.pack_arguments(*args, **kwargs)
        link, route = self._resolve(command, options.timeout)
        future: Future[Any] = Future()
        unpack, what = route.unpack_adapted or command.codec.unpack_result, command.qualified_name

        def finish(outcome: Frame | Exception) -> None:
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

        deadline = None if options.timeout is None else monotonic() + options.timeout
        extension = route.extension(options.timeout)
        link.connection.submit(route.id, payload, what, Pending(finish), deadline, extension)
        return future

    def notify(
        self, command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions, /
    ) -> None:
        payload = command.codec.pack_arguments(*args, **kwargs)
        link, route = self._resolve(command, options.timeout)
        deadline = None if options.timeout is None else monotonic() + options.timeout
        link.connection.notify(route.id, payload, command.qualified_name, deadline, route.extension(None))

    def map(
        self, command: Command[Any], iterables: tuple[Iterable[Any], ...], options: CallOptions, /
    ) -> Iterator[Any]:
        futures: deque[Future[Any]] = deque()
        for args in zip(*iterables, strict=False):  # as map does, it ends with the shortest
            futures.append(self._submit_in_order(command, args, options))
            if len(futures) >= MAP_WINDOW:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()

    def _submit_in_order(self, command: Command[Any], args: tuple[Any, ...], options: CallOptions) -> Future[Any]:
        """As ``submit``; what cannot be sent fails in its turn, after the results before it."""
        try:
            return self.submit(command, args, {}, options)
        except RpcError as error:
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed

    # Connections and agreements

    def _make_proxy(self, contract: Any, deadline: float) -> Any:
        if isinstance(contract, Command):
            bound = bind(contract, self)
            if contract.declaration not in self._contracts:  # a FunctionService may have grown meanwhile
                self._learn(contract, deadline)
            return bound
        proxy = make_proxy(contract, self)
        self._learn(contract, deadline)
        return proxy

    def _learn(self, contract: object, deadline: float) -> None:
        """Agree with the peer about the services of a contract, or about that which a command is of."""
        for commands in services_of(contract).values():
            self._contracts.update(dict.fromkeys(commands.values(), commands))
            self._agree(self._current_link(deadline), commands, deadline)

    def _resolve(self, command: Command[Any], timeout: float | None) -> tuple[_Link, Route]:
        """The connection to use now, made anew in a forked child, and how a command is called on it."""
        deadline = monotonic() + (CONNECT_TIME if timeout is None else min(timeout, CONNECT_TIME))
        link = self._current_link(deadline)
        commands = self._contracts[command.declaration]
        agreement = link.agreements.get(id(commands)) or self._agree(link, commands, deadline)
        return link, agreement.route_of(command)

    def _current_link(self, deadline: float) -> _Link:
        link = self._link
        if link.connection.forked and not self._closed:
            with self._lock:
                if self._link.connection.forked:
                    self._link = self._dial(deadline, again=False)
                link = self._link
        return link

    def _agree(self, link: _Link, commands: Mapping[str, Command[Any]], deadline: float) -> Agreement:
        name = next(iter(commands.values())).service_name
        conversation = agree(name, commands)
        id_, payload = next(conversation)
        while True:
            try:
                answer = link.connection.call(id_, payload, f"the contract {name}", deadline)
            except MessageTooLarge as error:
                proceed = partial(conversation.throw, error)
            else:
                proceed = partial(conversation.send, answer)
            try:
                id_, payload = proceed()
            except StopIteration as done:
                agreement: Agreement = done.value
                link.agreements[id(commands)] = agreement
                return agreement

    def _dial(self, deadline: float, *, again: bool) -> _Link:
        """Connect and shake hands; if it is to be tried again, as often as it takes until the deadline."""
        pause = FIRST_PAUSE
        transport.resolve(self._url)  # a URL that is wrong does not become right with time
        while True:
            try:
                return _Link(self._open(deadline))
            except ConnectFailed:
                left = deadline - monotonic() - LEAST_ATTEMPT
                if not again or left <= 0:
                    raise
            sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _open(self, deadline: float) -> Connection:
        core: Protocol[Token] = Protocol(client=True, limits=self._limits)
        sock = transport.dial(self._url, max(0.001, deadline - monotonic()))
        try:
            connection = Connection(sock, core, runtime=self._get_runtime, on_forsaken=self._forget)
            connection.open(deadline)
            return connection
        except TimeoutError:
            sock.close()
            raise ConnectFailed(self._url, "something listens there, but did not answer in time") from None
        except RpcError as error:
            sock.close()
            raise ConnectFailed(self._url, str(error)) from error
        except BaseException:
            sock.close()
            raise

    def _get_runtime(self) -> tuple[Workers, Watcher]:
        with self._lock:
            if self._runtime is None:
                self._runtime = (Workers("typedrpc-client", MAX_LENT), Watcher("typedrpc-client-watcher"))
            return self._runtime

    def _forget(self) -> None:
        """In a forked child: locks may be held by threads that are not here."""
        self._lock = threading.Lock()
        self._runtime = None

    def _close_connection(self, reason: str) -> None:
        self._link.connection.close(reason)


def _bad_result(error: CodecError) -> ProtocolError:
    return ProtocolError(f"the peer answered with what the contract does not allow: {error}")


@overload
def connect(
    url: str, /, *, timeout: float | None = None, max_message_size: int = ..., max_calls: int = ...
) -> Client[Client[Any]]: ...
@overload
def connect(
    contract: Callable[..., ServiceT],
    url: str,
    /,
    *,
    timeout: float | None = None,
    max_message_size: int = ...,
    max_calls: int = ...,
) -> Client[ServiceT]: ...
def connect(
    contract: Any,
    url: str | None = None,
    /,
    *,
    timeout: float | None = None,
    max_message_size: int = MAX_MESSAGE_SIZE,
    max_calls: int = MAX_CALLS,
) -> Client[Any]:
    """Dial a server and shake hands.

    ::

        with connect(Greeter, "tcp://127.0.0.1:9000") as greeter:
            greeter.hello("Robert")

    Args:
        contract: A subclass of ``Service``, abstract or not; may be left out, then ``with`` yields the client.
        url: ``tcp://host:port`` or ``unix:///path``.
        timeout: Keep trying a server that is not up yet for so many seconds. Without it there is one attempt, which may
            take 10 s.
        max_message_size: The largest message accepted from the server, in bytes.
        max_calls: Calls of the server that may be in flight at a time.

    Raises:
        ConnectFailed: No connection could be made; says why.
        DefinitionError: The contract is none, or cannot be carried.
        ValueError: A limit or the time-out is out of range.
    """
    if timeout is not None and not 0 <= timeout <= transport.LONGEST_WAIT:
        raise ValueError(f"timeout must be None or a number of seconds from 0 up to a day, not {timeout!r}")
    limits = Limits(max_message_size=max_message_size, max_calls=max_calls)
    if url is None:
        return Client(contract, None, limits, timeout)
    return Client(url, contract, limits, timeout)
