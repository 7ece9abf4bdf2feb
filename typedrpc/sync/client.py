"""Connect, and call: the client of the threads side."""

import socket
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast, final, overload

from typing_extensions import Unpack

from typedrpc import transport
from typedrpc.call import Call
from typedrpc.common.caller import PeerLink, RemoteCaller, with_limit
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
from typedrpc.hooks import CallOutcome, LossHookT, told_by
from typedrpc.messages import MAX_CALLS, MAX_MESSAGE_SIZE, Limits
from typedrpc.peer import Peer, next_peer_id
from typedrpc.protocol import Protocol
from typedrpc.rate import CallRate
from typedrpc.retry import Retry
from typedrpc.service import FunctionService, Service
from typedrpc.sync.connection import Connection
from typedrpc.sync.secure import TlsSocket
from typedrpc.sync.watcher import Watcher
from typedrpc.tls import Tls, identity_of

if TYPE_CHECKING:  # imported when used
    import ssl


@final
class Client(BaseClient[EnteredT_co]):
    """A connection to a server, made by :func:`connect`.

    As a context manager it yields the proxy of the contract that it was made with, or itself where there was none, and
    closes at the end. It may be used from any thread. After a fork the child's first call dials a connection of its
    own; the parent's is not touched.
    """

    def _prepare(self) -> None:
        self._runtime_lock = threading.Lock()
        self._runtime: tuple[Workers, Watcher] | None = None
        self._caller = RemoteCaller(
            repr(self), lambda deadline: self._current_link(deadline).agreements, self._call_timeout, self._again
        )
        try:
            self._check_urls()
            if self._contract is not None:
                self._entered = self._caller.bind(self._contract)
            self._link = self._establish(self._first_dialling())
        except BaseException:
            self._closed = True
            self._stop_threads()  # the server may have called already
            raise

    def _make_proxy(self, contract: Any, deadline: float) -> Any:
        return self._caller.make_proxy(contract, deadline)

    def close(self) -> None:
        """End the connection. Calls that wait, in any thread, raise ``ConnectionLost``. May be called again."""
        self._closed = True
        self._again.close()
        self._close_connections()
        if told_by(self):  # a hook, which has to finish too
            threading.Thread(target=self._stop_threads, name="typedrpc-close").start()
        else:
            self._stop_threads()

    def _stop_threads(self) -> None:
        # It stays, closed: a thread that is still at work may ask for it, and must not be given another one.
        runtime = self._runtime
        if runtime is not None:
            runtime[1].close()
            runtime[0].close(1.0)

    def on_disconnect(self, hook: LossHookT, /) -> LossHookT:
        """Register a function that is called with the peer, and the cause, when the connection is lost or closed.

        It runs in a thread of its own, after ``on_connect`` has returned. If the connection has ended already, it is
        not called.
        """
        super().on_disconnect(hook)
        connection = self._link.connection
        connection.handlers.attended = True
        connection.handlers.look_again()
        return hook

    def __enter__(self) -> EnteredT_co:
        return cast(EnteredT_co, self._entered)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    # Connections

    def _begin(self, stay: Stay) -> None:
        """Tell the hooks of a connection that was made.

        Raises:
            ConnectFailed: It has ended again, or one of them ended it.
        """
        connection = stay.connection
        if connection.ended:
            stay.end()
        if not stay.begin(lambda: not connection.ended):
            raise ConnectFailed(self._url, str(connection.core.lost()))

    def _establish(self, dialling: Dialling) -> PeerLink:
        """Connect, shake hands and agree on contracts, as often as it takes, and may."""
        while True:
            core: Protocol[Token] = Protocol(client=True, hello=self._make_hello(), rate=CallRate.of(self._max_rate))
            self._url = dialling.url
            link: PeerLink | None = None
            try:
                core.credentials = self._make_credentials()
                link, stay = self._open(core, dialling.until())
                self._make_ready(link, stay, dialling.agree_until())
                self._index = dialling.index
                return link
            except BaseException as error:
                left = link is not None and link.connection.left
                if link is not None:
                    link.connection.close()
                if not isinstance(error, ConnectFailed | ServerBusy):
                    raise
                if link is None:
                    self._connect_failed.run(error)
                pause = dialling.failed(error, core.leave, final=left or (link is not None and self._retry is None))
                if pause is None and (reason := dialling.give_up(error)) is not error:
                    raise reason from None
                if pause is None:
                    raise
            if self._again.closed.wait(pause):
                raise ConnectionLost("the connection was closed on this side")

    def _make_ready(self, link: PeerLink, stay: Stay, deadline: float) -> None:
        """Tell the hooks of a connection that was made, and agree on the contracts that are in use."""
        self._coming = link
        try:
            self._begin(stay)
            self._caller.agree_anew(link.agreements, with_limit(deadline))
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
        self._start_thread(lambda: self._dial_again(future))

    def _dial_again(self, future: Dialled) -> None:
        if not future.claim():
            return
        before = self._link.connection
        self._again.closed.wait(self._first_pause())
        try:
            link = self._establish(self._next_dialling())
            self._replace(link)
            if self._closed:
                link.connection.close()
                raise link.connection.core.lost()
        except BaseException as error:
            future.set_exception(not_renewed(before, error) if isinstance(error, RpcError) else error)
            if not isinstance(error, RpcError):
                raise
        else:
            future.set_result(link)
            if link.connection.ended:
                self._look_after(link.connection)

    def _start_thread(self, body: Callable[[], None]) -> None:
        self._get_runtime()[0].start(body)

    def _open(self, core: Protocol[Token], deadline: float) -> tuple[PeerLink, Stay]:
        address = transport.resolve(self._url)
        secured = self._get_context(self._url, address.host) if address.tls else None
        plain = transport.dial(self._url, max(0.001, deadline - monotonic()))
        sock: transport.SocketLike = plain
        connection: Connection | None = None
        try:
            link = PeerLink()
            peer = Peer(next_peer_id(), str(address), None, link)
            if secured is not None:
                sock = self._secure(plain, *secured, deadline)
                peer.identity = identity_of(sock.getpeercert())
            stays: list[Stay] = []
            connection = Connection(
                sock,
                core,
                runtime=self._get_runtime,
                dispatcher=self._dispatcher,
                peer=peer,
                attended=self._reads(),
                keep_alive=self._keep_alive,
                on_end=lambda connection: self._ended(connection, stays),
                on_forsaken=self._forget,
            )
            link.attach(connection, peer)
            connection.open(deadline)
            stay = Stay(
                connection,
                peer,
                connect=self._connect,
                disconnect=self._disconnect,
                failed=self._connect_failed,
                start=lambda body: self._get_runtime()[0].start(body),
                run_async=self._run_async,
            )
            stays.append(stay)  # from here on its end is told; who begins it looks whether that was too late
            connection.handlers.look_again()
            return link, stay
        except BaseException as error:
            if connection is None:
                sock.close()
            elif isinstance(error, RpcError):
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
                # With TLS 1.3 the server looks at a client's certificate when the client takes the handshake for done.
                raise self._why_no_tls(self._url, error.__cause__) or ConnectFailed(self._url, str(error)) from error
            if isinstance(error, TimeoutError):
                raise ConnectTimeout(self._url, why_not_in_time(core)) from None
            raise

    def _secure(self, sock: socket.socket, context: "ssl.SSLContext", name: str, deadline: float) -> TlsSocket:
        """TLS over a socket. Raises ``ConnectFailed``, and ``TimeoutError``."""
        try:
            secured = TlsSocket(sock, context, server_name=name)
            secured.handshake(deadline)
        except OSError as error:
            if (failed := self._why_no_tls(self._url, error)) is not None:
                raise failed from error
            if not transport.is_of_socket(error):
                raise  # the time is over
            raise ConnectFailed(self._url, transport.in_words(error)) from error
        return secured

    def _get_runtime(self) -> tuple[Workers, Watcher]:
        runtime = self._runtime
        if runtime is not None:  # asked for within finalizers too, which may have interrupted who holds the lock
            return runtime
        with self._runtime_lock:
            if self._runtime is None:
                self._runtime = (Workers("typedrpc-client", self._max_workers), Watcher("typedrpc-client-watcher"))
            return self._runtime

    def _ended(self, connection: Connection, stays: list[Stay]) -> None:
        _end(stays)
        self._look_after(connection)

    def _forget(self) -> None:
        """In a forked child: locks may be held by threads that are not here."""
        self._again.forsake()
        self._coming = None
        self._former = []
        self._runtime_lock = threading.Lock()
        self._runtime = None


def _end(stays: list[Stay]) -> None:
    for stay in stays:
        stay.end()


@overload
def connect(url: Urls, /, **options: Unpack[ConnectOptions]) -> Client[Client[Any]]: ...
@overload
def connect(contract: Callable[..., ServiceT], url: Urls, /, **options: Unpack[ConnectOptions]) -> Client[ServiceT]: ...
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
) -> Client[Any]:
    """Dial a server and shake hands.

    ::

        with connect(Greeter, "tcp://127.0.0.1:9000") as greeter:
            greeter.hello("Robert")

    Args:
        contract: A subclass of ``Service``, abstract or not; may be left out, then ``with`` yields the client.
        url: ``tcp://host:port``, ``tls://host:port`` or ``unix:///path``; or several, which are tried in turn.
        timeout: Keep trying a server that is not up yet for so many seconds. Without it there is one attempt, which may
            take 10 s. A server that lets clients wait in line is waited for as long.
        expose: Services that the server may call: see ``Peer.proxy``. Their handlers run in threads of this client,
            those of calls that are nested in one of this side's in the thread that waits for it.
        max_message_size: The largest message accepted from the server, in bytes.
        max_calls: Calls of the server that may be in flight at a time.
        max_depth: Calls that may be nested in each other; further ones are refused with ``NestedTooDeep``.
        max_workers: Threads that may be lent where handlers, and callbacks of futures, take their time.
        call_timeout: Seconds that a call may take where ``with_options(timeout=...)`` does not say; None for as long as
            it takes. Calls whose result is a stream are not timed by it.
        keep_alive: Seconds after which a server that says nothing, though it is asked, is taken for dead, so that calls
            which wait raise ``ConnectionLost``; None for never. Nobody is asked while this client neither waits nor
            listens.
        max_rate: Calls a second that the server may make, on average; None for any number.
        retry: Wait for a server that is away, and send calls again that the loss of a connection cut short, as far as
            that cannot run anything twice. Without it, a call after a loss dials again once.
        tls: Whose certificate is trusted at a URL ``tls://host:port``, and which this client shows; or a context of
            your own. None trusts what the system trusts.
        secret: What both sides prove to know: at least 16 random bytes, or the name of who has them, and these.
        token: What is presented to the server, only with TLS or on a unix socket; or a function that gives it, called
            for each connection.
        on_connect: Called with the server as a ``Peer`` when the connection is made, before this returns. It may end
            the connection with ``peer.close(reason)``; then this raises ``ConnectFailed``.
        on_disconnect: Called with the peer, and the cause, when the connection is lost or closed.
        on_connect_failed: Called with the error of each attempt that failed, those that are tried again among them.
        on_call: Called before each handler of this side.
        on_result: Called after each handler of this side.

    Raises:
        ConnectFailed: No connection could be made; says why. ``ConnectTimeout`` if there was no time for more.
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
    return Client(
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
