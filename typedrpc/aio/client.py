"""Connect, and call: the client of the asyncio side."""

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, cast, final, overload

from typing_extensions import Unpack

from typedrpc import transport
from typedrpc.aio.caller import LoopCaller, LoopLink
from typedrpc.aio.closing import Closing
from typedrpc.aio.connection import Connection
from typedrpc.aio.runtime import Runtime
from typedrpc.aio.threads import in_thread
from typedrpc.authentication import Credentials
from typedrpc.call import Call, get_call
from typedrpc.common.client import (
    CONNECT_TIME,
    FIRST_PAUSE,
    LEAST_ATTEMPT,
    LONGEST_PAUSE,
    BaseClient,
    ConnectOptions,
    EnteredT_co,
    ServiceT,
    Urls,
    check_options,
    why_not_in_time,
)
from typedrpc.common.connection import KEEP_ALIVE
from typedrpc.common.stay import Stay
from typedrpc.common.tokens import Token
from typedrpc.common.workers import MAX_WORKERS, Workers
from typedrpc.dispatch import MAX_NESTING
from typedrpc.errors import (
    AuthenticationFailed,
    ConnectFailed,
    ConnectionLost,
    ConnectTimeout,
    DeadlineExceeded,
    DefinitionError,
    RpcError,
    ServerBusy,
)
from typedrpc.hooks import CallOutcome, told_by
from typedrpc.messages import MAX_CALLS, MAX_MESSAGE_SIZE, Limits
from typedrpc.peer import Peer, next_peer_id
from typedrpc.protocol import Protocol
from typedrpc.retry import Retry
from typedrpc.service import FunctionService, Service

if TYPE_CHECKING:  # imported when used
    import ssl

    from typedrpc.tls import Tls


@final
class Client(BaseClient[EnteredT_co]):
    """A connection to a server, made by :func:`connect`; it belongs to the event loop on which that was awaited.

    As an async context manager it yields the proxy of the contract that it was made with, or itself where there was
    none, and closes at the end. Calls are awaited: ``await proxy.hello("Robert")`` where the contract says
    ``async def``, ``await proxy.hello.aio("Robert")`` for any. A call that would block the loop raises
    ``BlockingCall``; in other threads it waits there.
    """

    _runs_apart = True

    def _prepare(self) -> None:
        self._workers = Workers("typedrpc-client", self._max_workers)

    def _get_loop(self) -> asyncio.AbstractEventLoop:
        return self._runtime.loop

    async def _open(self) -> None:
        self._runtime = Runtime(self._workers, self._max_workers)
        deadline = monotonic() + (CONNECT_TIME if self._timeout is None else self._timeout)
        try:
            link, stay = await self._dial(deadline, again=self._timeout is not None)
        except BaseException:
            await self._stop_threads()  # the server may have called already
            raise
        self._link = link
        await self._runtime.open(lambda: link.connection.close("the event loop of the client has ended"))
        self._caller = LoopCaller(repr(self), link.agreements, self._call_timeout)
        try:
            await self._begin(stay)
            if self._contract is not None:
                self._entered = self._caller.make_proxy(self._contract)
                await self._caller.agree(self._contract, deadline)
        except BaseException as error:
            await self.close()
            if isinstance(error, DeadlineExceeded):
                raise ConnectTimeout(self._url, "the server did not tell its contract in time") from None
            if isinstance(error, RpcError) and not isinstance(error, DefinitionError | ConnectFailed):
                raise ConnectFailed(self._url, str(error)) from error
            raise

    def _make_proxy(self, contract: Any, deadline: float) -> Any:
        return self._caller.make_proxy(contract)

    def close(self) -> Closing:
        """End the connection. Calls that wait raise ``ConnectionLost``. May be called again, and from any thread.

        It ends whether or not what this returns is awaited; and from one of the client's own handlers or hooks, which
        has to finish too, there is nothing to await.
        """
        self._closed = True
        self._link.connection.close()
        closing = Closing.start(self._finish(), self._runtime.loop)
        call = get_call()
        inside = told_by(self) or (call is not None and call.peer is self.peer)
        return Closing.done() if inside else closing

    async def _finish(self) -> None:
        await cast(Connection, self._link.connection).wait_until_gone()
        await self._stop_threads()

    async def _stop_threads(self) -> None:
        await self._runtime.close()
        await in_thread(lambda: self._workers.close(1.0))

    async def __aenter__(self) -> EnteredT_co:
        return cast(EnteredT_co, self._entered)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        await self.close()

    # The connection

    async def _begin(self, stay: Stay) -> None:
        """Tell the hooks of a connection that was made.

        Raises:
            ConnectFailed: It has ended again, or one of them ended it.
        """
        connection = stay.connection

        def begin() -> bool:
            if connection.ended:
                stay.end()
            return stay.begin(lambda: not connection.ended)

        begun = await in_thread(begin) if self._connect else begin()
        if not begun:
            raise ConnectFailed(self._url, str(connection.core.lost()))

    async def _dial(self, deadline: float, *, again: bool) -> tuple[LoopLink, Stay]:
        """Connect and shake hands; if it is to be tried again, as often as it takes until the deadline."""
        pause = FIRST_PAUSE
        address = transport.resolve(self._url)  # a URL that is wrong does not become right with time
        while True:
            core: Protocol[Token] = Protocol(client=True, hello=self._make_hello())
            try:
                core.credentials = await self._get_credentials()
                return await self._attempt(address, core, deadline)
            except (ConnectFailed, ServerBusy) as error:
                failure = error
            if self._connect_failed:
                await in_thread(lambda error=failure: self._connect_failed.run(error))  # type: ignore[misc]
            if isinstance(failure, AuthenticationFailed):  # which no other attempt would change
                raise failure
            left = deadline - monotonic() - LEAST_ATTEMPT
            # A server that says goodbye is up, and does not want this client.
            if not again or left <= 0 or core.leave is not None:
                raise failure
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _get_credentials(self) -> Credentials | None:
        return await in_thread(self._make_credentials) if callable(self._token) else self._make_credentials()

    async def _attempt(
        self, address: transport.Address, core: Protocol[Token], deadline: float
    ) -> tuple[LoopLink, Stay]:
        link = LoopLink()
        peer = Peer(next_peer_id(), str(address), None, link)
        stays: list[Stay] = []
        connection = Connection(
            core,
            runtime=self._runtime,
            dispatcher=self._dispatcher,
            peer=peer,
            attended=self._exposes or bool(self._disconnect),
            on_end=lambda connection: _end(stays),
        )
        link.attach(connection, peer)
        try:
            await self._reach(address, connection, deadline)
            await connection.open(deadline)
        except BaseException as error:
            if isinstance(error, RpcError) and not isinstance(error, ConnectFailed):
                connection.end(core.lost())
            else:
                connection.close("the client waits no longer" if isinstance(error, TimeoutError) else "")
            if isinstance(error, ConnectFailed):
                raise
            if isinstance(error, RpcError):
                if isinstance(error.__cause__, ServerBusy):
                    raise error.__cause__ from None
                if isinstance(error.__cause__, AuthenticationFailed):
                    raise AuthenticationFailed(self._url, error.__cause__.reason) from None
                raise ConnectFailed(self._url, str(error)) from error
            if isinstance(error, TimeoutError):
                raise ConnectTimeout(self._url, why_not_in_time(core)) from None
            raise
        stay = Stay(
            connection,
            peer,
            connect=self._connect,
            disconnect=self._disconnect,
            failed=self._connect_failed,
            start=self._runtime.start_thread,
            run_async=self._run_async,
        )
        stays.append(stay)  # from here on its end is told; who begins it looks whether that was too late
        return link, stay

    async def _reach(self, address: transport.Address, connection: Connection, deadline: float) -> None:
        """Have the connection made. Raises ``ConnectFailed``."""
        loop = self._runtime.loop
        try:
            async with asyncio.timeout(max(0.001, deadline - monotonic())):
                if address.path:
                    made, _ = await loop.create_unix_connection(lambda: connection, address.path)
                else:
                    made, _ = await loop.create_connection(lambda: connection, address.host, address.port)
        except TimeoutError as error:
            raise ConnectTimeout(self._url, "no connection in time") from error
        except (OSError, UnicodeError) as error:
            raise ConnectFailed(self._url, transport.in_words(error)) from error
        sock = made.get_extra_info("socket")
        met_itself = False
        with suppress(OSError):  # the other end has left again, which the handshake will say
            met_itself = not address.path and sock.getsockname() == sock.getpeername()
            transport.set_options(sock)
        if met_itself:
            # The system may choose the very port that is dialled, where nobody listens: a socket meets itself.
            raise ConnectFailed(self._url, transport.in_words(ConnectionRefusedError()))


def _end(stays: list[Stay]) -> None:
    for stay in stays:
        stay.end()


@final
class Connecting(Generic[EnteredT_co]):
    """What :func:`connect` gives: ``await`` it for the client, or enter it with ``async with``, once."""

    def __init__(self, client: Client[EnteredT_co]) -> None:
        self._client = client

    async def _connect(self) -> Client[EnteredT_co]:
        await self._client._open()
        return self._client

    def __await__(self) -> Generator[Any, Any, Client[EnteredT_co]]:
        return self._connect().__await__()

    async def __aenter__(self) -> EnteredT_co:
        return await (await self).__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        await self._client.close()


@overload
def connect(url: Urls, /, **options: Unpack[ConnectOptions]) -> Connecting[Client[Any]]: ...
@overload
def connect(
    contract: Callable[..., ServiceT], url: Urls, /, **options: Unpack[ConnectOptions]
) -> Connecting[ServiceT]: ...
def connect(
    contract: Any,
    url: Urls | None = None,
    /,
    *,
    timeout: float | None = None,
    expose: Sequence[Service | FunctionService] = (),
    max_message_size: int = MAX_MESSAGE_SIZE,
    max_calls: int = MAX_CALLS,
    max_depth: int = MAX_NESTING,
    max_workers: int = MAX_WORKERS,
    call_timeout: float | None = None,
    keep_alive: float | None = KEEP_ALIVE,
    max_rate: float | None = None,
    retry: Retry | None = None,
    tls: "Tls | ssl.SSLContext | None" = None,
    secret: bytes | tuple[str, bytes] | None = None,
    token: str | Callable[[], str] | None = None,
    on_connect: Callable[[Peer], object] | None = None,
    on_disconnect: Callable[[Peer, ConnectionLost], object] | None = None,
    on_connect_failed: Callable[[RpcError], object] | None = None,
    on_call: Callable[[Call], object] | None = None,
    on_result: Callable[[Call, CallOutcome], object] | None = None,
) -> Connecting[Any]:
    """Dial a server and shake hands, on the running event loop.

    ::

        async with connect(Greeter, "tcp://127.0.0.1:9000") as greeter:
            await greeter.hello.aio("Robert")

    Args:
        contract: A subclass of ``Service``, abstract or not; may be left out, then ``async with`` yields the client.
        url: As for :func:`typedrpc.connect`, and so are all options. Handlers of what is exposed run on the loop where
            they are ``async def``, and in threads otherwise, of which there are ``max_workers``.
        timeout: See there.
        expose: See there.
        max_message_size: See there.
        max_calls: See there.
        max_depth: See there.
        max_workers: See there.
        call_timeout: See there.
        keep_alive: See there.
        max_rate: See there.
        retry: See there.
        tls: See there.
        secret: See there.
        token: See there.
        on_connect: See there. Hooks may be ``async def``; others run in threads.
        on_disconnect: See there.
        on_connect_failed: See there.
        on_call: See there. It is called on the loop.
        on_result: See there. It is called where the handler has run.

    Raises:
        ConnectFailed: When it is awaited, as for the others: no connection could be made; says why. ``ConnectTimeout``
            if there was no time for more.
        AuthenticationFailed: One side did not prove who it is. A ``ConnectFailed`` that is not tried again.
        ServerBusy: The server has no place for another client, and does not let clients wait.
        DefinitionError: The contract is none, or cannot be carried; or the services cannot be exposed together.
        ValueError: A limit or the time-out is out of range, or a token would travel where others can read it.
    """
    check_options(
        url=contract if url is None else url,
        timeout=timeout,
        call_timeout=call_timeout,
        max_depth=max_depth,
        max_workers=max_workers,
        keep_alive=keep_alive,
        secret=secret,
        token=token,
    )
    return Connecting(
        Client(
            contract if url is None else url,
            None if url is None else contract,
            limits=Limits(max_message_size=max_message_size, max_calls=max_calls),
            timeout=timeout,
            expose=expose,
            max_depth=max_depth,
            max_workers=max_workers,
            call_timeout=call_timeout,
            keep_alive=keep_alive,
            max_rate=max_rate,
            retry=retry,
            tls=tls,
            secret=secret,
            token=token,
            on_connect=on_connect,
            on_disconnect=on_disconnect,
            on_connect_failed=on_connect_failed,
            on_call=on_call,
            on_result=on_result,
        )
    )
