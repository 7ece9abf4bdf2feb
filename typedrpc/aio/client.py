"""Connect, and call: the client of the asyncio side."""

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, cast, final, overload

from typing_extensions import Unpack

from typedrpc import transport
from typedrpc.aio.caller import LoopCaller, LoopLink, agreement_about
from typedrpc.aio.closing import Closing
from typedrpc.aio.connection import Connection
from typedrpc.aio.runtime import Runtime
from typedrpc.aio.threads import in_thread
from typedrpc.authentication import Credentials
from typedrpc.call import Call, get_call
from typedrpc.common.caller import PeerLink, with_limit
from typedrpc.common.client import (
    BaseClient,
    ConnectOptions,
    EnteredT_co,
    ServiceT,
    Urls,
    check_options,
    why_not_in_time,
)
from typedrpc.common.connection import KEEP_ALIVE
from typedrpc.common.connection import Connection as AnyConnection
from typedrpc.common.redial import Dialled, Dialling, not_renewed
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
from typedrpc.rate import CallRate
from typedrpc.retry import Retry
from typedrpc.service import FunctionService, Service
from typedrpc.tls import Tls, identity_of
from typedrpc.transport import LONGEST_WAIT

if TYPE_CHECKING:  # imported when used
    import ssl


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
        self._dialling: asyncio.Task[None] | None = None

    def _get_loop(self) -> asyncio.AbstractEventLoop:
        return self._runtime.loop

    async def _open(self) -> None:
        self._runtime = Runtime(self._workers, self._max_workers)
        self._caller = LoopCaller(
            repr(self),
            lambda deadline: self._current_link(deadline).agreements,
            self._call_timeout,
            self._again,
        )
        try:
            self._check_urls()
            if self._contract is not None:
                self._entered = self._caller.bind(self._contract)
            self._use(await self._establish(self._first_dialling()))
        except BaseException:
            self._closed = True
            await self._stop_threads()  # the server may have called already
            raise
        await self._runtime.open(self._end_with_loop)

    def _end_with_loop(self) -> None:
        self._closed = True
        self._again.close()
        self._close_connections("the event loop of the client has ended")

    def _make_proxy(self, contract: Any, deadline: float) -> Any:
        return self._caller.make_proxy(contract, deadline)

    def close(self) -> Closing:
        """End the connection. Calls that wait raise ``ConnectionLost``. May be called again, and from any thread.

        It ends whether or not what this returns is awaited; and from one of the client's own handlers or hooks, which
        has to finish too, there is nothing to await.
        """
        self._closed = True
        self._again.close()
        self._close_connections()
        if (dialling := self._dialling) is not None:
            self._runtime.loop.call_soon_threadsafe(dialling.cancel)
        closing = Closing.start(self._finish(), self._runtime.loop)
        call = get_call()
        inside = told_by(self) or (call is not None and call.peer is self.peer)
        return Closing.done() if inside else closing

    async def _finish(self) -> None:
        if self._dialling is not None:
            await asyncio.wait([self._dialling])
        for connection in (*self._former, self._link.connection):
            await cast(Connection, connection).wait_until_gone()
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

    def _use(self, link: PeerLink) -> None:
        """From now on calls go by this connection."""
        self._replace(link)
        self._caller.use(link.agreements)

    async def _establish(self, dialling: Dialling) -> LoopLink:
        """Connect, shake hands and agree on contracts, as often as it takes, and may."""
        addresses = self._check_urls()
        while True:
            core: Protocol[Token] = Protocol(client=True, hello=self._make_hello(), rate=CallRate.of(self._max_rate))
            self._url = dialling.url
            link: LoopLink | None = None
            try:
                core.credentials = await self._get_credentials()
                link, stay = await self._attempt(addresses[dialling.index], core, dialling.until())
                await self._make_ready(link, stay, dialling.agree_until())
                self._index = dialling.index
                return link
            except BaseException as error:
                left = link is not None and link.connection.left
                if link is not None:
                    link.connection.close()
                    if addresses[dialling.index].tls:  # as below
                        cast(Connection, link.connection).cut_off()
                if not isinstance(error, ConnectFailed | ServerBusy):
                    raise
                failure = error
            if link is None and self._connect_failed:
                await in_thread(lambda error=failure: self._connect_failed.run(error))  # type: ignore[misc]
            pause = dialling.failed(failure, core.leave, final=left or (link is not None and self._retry is None))
            if pause is None:
                raise dialling.give_up(failure)
            await asyncio.sleep(pause)

    async def _make_ready(self, link: LoopLink, stay: Stay, deadline: float) -> None:
        """Tell the hooks of a connection that was made, and agree on the contracts that are in use."""
        self._coming = link
        try:
            await self._begin(stay)
            for commands in self._caller.contracts():
                await agreement_about(link.agreements, commands, with_limit(deadline))
            link.connection.check()
        except DeadlineExceeded:
            raise ConnectTimeout(self._url, "the server did not tell its contract in time") from None
        except RpcError as error:
            if isinstance(error, DefinitionError | ConnectFailed):
                raise
            raise ConnectFailed(self._url, str(error)) from error
        finally:
            self._coming = None

    def _start_dialling(self, future: Dialled) -> None:
        def start() -> None:
            if not future.claim():
                return
            if self._closed:
                future.set_exception(self._link.connection.core.lost())
            else:
                # Whichever task needs a connection first: what is begun is none of its.
                context = self._runtime.context.copy()
                self._dialling = self._runtime.loop.create_task(self._dial_again(future), context=context)

        self._runtime.loop.call_soon_threadsafe(start)

    async def _dial_again(self, future: Dialled) -> None:
        before = self._link.connection
        try:
            await asyncio.sleep(self._first_pause())
            link = await self._establish(self._next_dialling())
            self._use(link)
            if self._closed:
                link.connection.close()
                raise link.connection.core.lost()
        except BaseException as error:
            if isinstance(error, RpcError):
                future.set_exception(not_renewed(before, error))
                return
            lost = ConnectionLost("the connection was closed on this side")
            future.set_exception(lost if isinstance(error, asyncio.CancelledError) else error)
            if not isinstance(error, Exception):
                raise
            return
        finally:
            self._dialling = None
        future.set_result(link)
        if link.connection.ended:
            self._look_after(link.connection)

    def _is_alive(self) -> bool:
        return not self._runtime.loop.is_closed()

    def _may_renew(self, connection: AnyConnection) -> bool:
        return super()._may_renew(connection) and not connection.forked and self._is_alive()

    def _start_thread(self, body: Callable[[], None]) -> None:
        self._workers.start(body)

    def _ended(self, connection: AnyConnection, stays: list[Stay]) -> None:
        for stay in stays:
            stay.end()
        self._look_after(connection)

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
            keep_alive=self._keep_alive,
            on_end=lambda connection: self._ended(connection, stays),
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
            if address.tls:  # its end would be waited for, by a loop that may be over before
                connection.cut_off()
            if isinstance(error, ConnectFailed):
                raise
            if isinstance(error, RpcError):
                if isinstance(error.__cause__, ServerBusy):
                    raise error.__cause__ from None
                if isinstance(error.__cause__, AuthenticationFailed):
                    raise AuthenticationFailed(self._url, error.__cause__.reason) from None
                # With TLS 1.3 the server looks at a client's certificate when the client takes the handshake for done.
                raise self._why_no_tls(self._url, error.__cause__) or ConnectFailed(self._url, str(error)) from error
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
        secured: dict[str, Any] = {}
        if address.tls:
            # In a thread, as it reads files.
            context, name = await in_thread(lambda: self._get_context(self._url, address.host))
            # Nothing is waited for longer than until the deadline.
            secured = {"ssl": context, "server_hostname": name, "ssl_handshake_timeout": LONGEST_WAIT}
        try:
            async with asyncio.timeout(max(0.001, deadline - monotonic())):
                if address.path:
                    made, _ = await loop.create_unix_connection(lambda: connection, address.path)
                else:
                    made, _ = await loop.create_connection(lambda: connection, address.host, address.port, **secured)
        except TimeoutError as error:
            raise ConnectTimeout(self._url, "no connection in time") from error
        except (OSError, UnicodeError) as error:
            raise self._why_no_tls(self._url, error) or ConnectFailed(self._url, transport.in_words(error)) from error
        connection.handlers.peer.identity = identity_of(made.get_extra_info("peercert"))
        sock = made.get_extra_info("socket")
        if sock is None:  # the other end has left again, and TLS has forgotten the socket
            return
        met_itself = False
        with suppress(OSError):  # the other end has left again, which the handshake will say
            met_itself = not address.path and sock.getsockname() == sock.getpeername()
            transport.set_options(sock)
        if met_itself:
            # The system may choose the very port that is dialled, where nobody listens: a socket meets itself.
            raise ConnectFailed(self._url, transport.in_words(ConnectionRefusedError()))


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
