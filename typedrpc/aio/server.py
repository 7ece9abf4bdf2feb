"""Listen, accept and serve: the server of the asyncio side."""

import asyncio
import inspect
import logging
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Self, final

from typing_extensions import Unpack

from typedrpc import transport
from typedrpc.aio.acceptor import Acceptor
from typedrpc.aio.caller import LoopLink
from typedrpc.aio.closing import Closing
from typedrpc.aio.connection import Connection
from typedrpc.aio.runtime import Runtime
from typedrpc.aio.secure import Crowded, Secure
from typedrpc.aio.threads import in_thread
from typedrpc.authentication import MAX_CHECKS, MAX_PENDING
from typedrpc.call import handled_by
from typedrpc.common.arrivals import Place, Threshold
from typedrpc.common.connection import GOODBYE_TIME
from typedrpc.common.loop import blocking_call, running_loop
from typedrpc.common.server import GRACE, LINGER_TIME, BaseServer, ServerOptions
from typedrpc.common.stay import Stay
from typedrpc.common.tokens import Token
from typedrpc.errors import ConnectionLost, RpcError
from typedrpc.factories import Servable
from typedrpc.hooks import told_by
from typedrpc.messages import Method
from typedrpc.peer import Peer, next_peer_id
from typedrpc.protocol import Protocol
from typedrpc.rate import CallRate
from typedrpc.tls import identity_of

logger = logging.getLogger("typedrpc")


@final
class Server(BaseServer[Connection]):
    """Serves services to whoever connects, on the event loop on which it is started.

    ::

        async with Server(Greeter(), url="tcp://127.0.0.1:0") as server:
            print(server.url)

    Handlers that are ``async def`` run on the loop, each as a task of its own if it waits for anything; the others in
    threads, ``max_workers`` at a time, with the context variables of who started the server.
    """

    _runs_apart = True

    def _prepare(self) -> None:
        self._acceptor: Acceptor | None = None
        self._runtime: Runtime
        self._serving: set[asyncio.Task[None]] = set()
        self._greeting: Threshold[Place] = Threshold()
        self._closed: asyncio.Event
        self._started = False
        self._checking = asyncio.Semaphore(MAX_CHECKS)
        self._pending = 0  # clients that wait to be told that they are refused

    def _get_loop(self) -> asyncio.AbstractEventLoop:
        return self._runtime.loop

    async def start(self) -> Self:
        """Listen, and serve in the background. A server is started once.

        Raises:
            ListenFailed: The socket could not be opened; says why.
            RuntimeError: It was started before.
        """
        if self._started or self._closing:
            raise RuntimeError("a server is started once; make another one")
        self._find_users()
        self._context = self._make_context()
        insecure = self._insecure or self._is_guarded
        listener, address = transport.listen(self._url, insecure=insecure, mode=self._mode)
        self._started = True
        self._url = str(address)
        self._runtime = Runtime(self._workers, self._max_workers, debug=self._debug)
        self._closed = asyncio.Event()
        loop, context = self._runtime.loop, self._context
        secure = None
        if context is not None:
            time, leave = self._handshake_timeout, self._greeting.leave
            secure = Secure(loop, context, self._farewell(), time, enter=self._enter, leave=leave)
        self._acceptor = Acceptor(loop, listener, address, self._make, self._arrivals, secure=secure, failed=self._fail)
        await self._runtime.open(self._abandon)
        logger.info("serving at %s", self._url)
        return self

    def close(self, grace: float = GRACE) -> Closing:
        """Stop: accept no more, let the handlers that run finish, end all connections. May be called again.

        It goes on whether or not what this returns is awaited; and from one of the server's handlers or hooks, which
        has to finish too, there is nothing to await.

        Args:
            grace: Seconds that running handlers have. After that their clients get ``ConnectionLost``, and handlers
                that are tasks are cancelled.
        """
        if not self._started:
            self._closing = True
            return Closing.done()
        if self._runtime.loop.is_closed():
            self._abandon()
            return Closing.done()
        closing = Closing.start(self._close(grace), self._runtime.loop)
        return Closing.done() if handled_by(self) or told_by(self) else closing

    def _abandon(self) -> None:
        """The event loop ends, or has ended: there is no time for anybody to finish."""
        first, self._closing = not self._closing, True
        if first:
            if self._acceptor is not None:
                self._acceptor.close()
            for connection in tuple(self._connections):
                connection.close("the event loop of the server has ended")
        self._closed.set()

    async def _close(self, grace: float) -> None:
        first, self._closing = not self._closing, True
        if not first:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace + 1.0):
                    await self._closed.wait()
            return
        deadline = monotonic() + grace
        if self._acceptor is not None:
            self._acceptor.close()
            await self._acceptor.wait_until_settled()
        connections = tuple(self._connections)
        try:
            for connection in connections:
                connection.drain("the server is closing")
            told = []
            for connection in connections:
                is_idle = await connection.handlers.wait_until_idle(max(0.0, deadline - monotonic()))
                if is_idle and connection.finish("the server is closing"):
                    told.append(connection)
            # Who reads leaves now. Calls of others may be on their way: they are told that they do not run.
            now = monotonic()
            for time in (GOODBYE_TIME, LINGER_TIME):
                for connection in told:
                    if time == GOODBYE_TIME or connection.core.peer_waits:
                        await connection.wait_until_left(max(0.0, min(deadline, now + time) - monotonic()))
        finally:
            for connection in connections:
                connection.close("the server is closing")
            self._answers.close("the server is closing")
            for connection in connections:
                await connection.wait_until_gone()
            await self._runtime.close()
            try:
                left = await in_thread(lambda: self._workers.close(max(1.0, deadline - monotonic())))
                if left:
                    logger.warning("%d handlers go on after the server has closed", left)
            finally:  # also where the system has no thread for that
                logger.info("closed %s", self._url)
                self._closed.set()

    async def wait(self) -> None:
        """Return when the server is closed."""
        await self._closed.wait()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        await self.close()

    def _why_not_wait(self, what: str, instead: str) -> RpcError | None:
        on_loop = self._started and running_loop() is self._runtime.loop
        return blocking_call(what, instead) if on_loop else super()._why_not_wait(what, instead)

    # Serving

    def _make(self, place: Place) -> Connection:
        """The connection of a client that is just accepted."""
        core: Protocol[Token] = Protocol(client=False, hello=self._make_hello(), rate=CallRate.of(self._max_rate))
        link = LoopLink()
        peer = Peer(next_peer_id(), "", self, link)
        connection = Connection(
            core,
            runtime=self._runtime,
            dispatcher=self._dispatcher,
            peer=peer,
            attended=True,
            keep_alive=self._keep_alive,
            on_made=partial(self._welcome, place),
            on_end=self._on_end,
        )
        link.attach(connection, peer)
        return connection

    def _fail(self, address: str, error: OSError) -> None:
        """A client's TLS handshake came to nothing."""
        failed: RpcError | None
        if isinstance(error, Crowded):  # of which the log has a line
            failed = ConnectionLost(f"{address}: {error}")
        elif isinstance(error, TimeoutError):
            failed = ConnectionLost(f"{address}: no handshake within {self._handshake_timeout:g} s")
            logger.warning("%s was cut off: no handshake within %g s", address, self._handshake_timeout)
        else:
            failed = self._why_no_tls(address, error)
            if failed is None:
                return
            logger.warning("%s was cut off: no TLS: %s", address, failed.reason)
        if self._connect_failed:
            with suppress(RuntimeError):  # there are no threads
                self._runtime.start_thread(lambda: self._connect_failed.run(failed))

    def _welcome(self, place: Place, connection: Connection, made: asyncio.Transport) -> None:
        peer = connection.handlers.peer
        sock = made.get_extra_info("socket")
        peer.identity = identity_of(made.get_extra_info("peercert"))
        with suppress(OSError):  # it has left again
            transport.set_options(sock)
            peer.address = transport.describe_peer(sock)
        stay = Stay(
            connection,
            peer,
            connect=self._connect,
            disconnect=self._disconnect,
            failed=self._connect_failed,
            factories=self._factories,
            start=self._runtime.start_thread,
            run_async=self._run_async,
            on_over=self._on_over,
        )
        with self._lock:
            self._connections[connection] = stay
            self._places[connection] = place
            closing = self._closing
        if closing:
            self._greeting.leave(place)
            connection.end(ConnectionLost("the server is closing"))
            return
        if not self._is_allowed(connection, stay, sock):
            self._greeting.leave(place)
            made.pause_reading()  # what is read all the same, by loops that have begun to, is dropped
            return
        task = self._runtime.loop.create_task(self._serve(connection, stay, place))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    def _enter(self, place: Place) -> None:
        """Somebody begins to shake hands, and another one may have to make way."""
        oldest = self._greeting.enter(place)
        if oldest is not None:
            oldest.cut()

    async def _serve(self, connection: Connection, stay: Stay, place: Place) -> None:
        place.cut = lambda: connection.end(ConnectionLost("too many connections shake hands with the server at a time"))
        if place not in self._greeting:  # with TLS it has been there since it came
            self._enter(place)
        deadline = place.since + self._handshake_timeout
        try:
            await connection.open(deadline)
            if not await self._is_known(connection, stay, deadline):
                return
        except TimeoutError:
            logger.warning("%s was cut off: no handshake within %g s", stay.peer, self._handshake_timeout)
            connection.end(ConnectionLost(f"{stay.peer}: no handshake within {self._handshake_timeout:g} s"))
        except ConnectionLost:
            pass  # said by _on_end
        except Exception:
            connection.fault()
        else:
            self._admit(connection, stay)
        finally:
            self._greeting.leave(place)
            place.cut = lambda: None

    async def _is_known(self, connection: Connection, stay: Stay, deadline: float) -> bool:
        """Whether a client is who it says, if it has to be; another one is turned away.

        Raises:
            TimeoutError: There was no time to find it out.
        """
        claim = connection.core.claim
        if claim is None:
            return True
        looking = asyncio.Event()
        self._hold_back(connection, stay, looking.set)
        if not connection.ended:
            async with asyncio.timeout(max(0.0, deadline - monotonic())):
                await looking.wait()
        if connection.ended:
            return False
        if claim.method == Method.SECRET:
            return self._check_proof(connection, stay)
        async with asyncio.timeout(max(0.0, deadline - monotonic())):
            found = await self._check(claim.token)
        return self._check_found(connection, stay, found)

    async def _check(self, token: str) -> object:
        """Whose a token is: what the function that checks it returns, or the exception that it raises."""
        check = self._check_token
        assert check is not None
        try:
            if inspect.iscoroutinefunction(check):
                return await check(token)
            async with self._checking:
                found = await in_thread(lambda: check(token))
            return await found if inspect.iscoroutine(found) else found
        except BaseException as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # by the time-out, or with the loop
                raise
            return error

    def _has_room_later(self) -> bool:
        return self._pending < MAX_PENDING

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        if self._pending >= MAX_PENDING:
            action()
            return

        def act() -> None:
            self._pending -= 1
            action()

        self._pending += 1
        self._runtime.loop.call_later(seconds, act)

    def _let_in(self, stay: Stay) -> None:
        if self._connect or self._factories:  # which may take their time
            try:
                self._runtime.start_thread(lambda: super(Server, self)._let_in(stay))
            except RuntimeError:
                logger.warning("no thread could be started for %s: it was cut off", stay.peer)
                stay.connection.end(ConnectionLost("no thread could be started"))
        else:
            super()._let_in(stay)


async def serve(
    *services: Servable,
    url: str,
    on_start: Callable[[Server], object] | None = None,
    grace: float = GRACE,
    **options: Unpack[ServerOptions],
) -> None:
    """Serve until SIGINT or SIGTERM comes or the server is closed, then stop cleanly.

    Signals are heeded in the main thread; elsewhere only closing the server, or cancelling the task, ends this.

    Args:
        services: As for :class:`Server`.
        url: As for :class:`Server`.
        on_start: Called with the server once it listens, and awaited if it is ``async def``; ``server.url`` has the
            port that the system chose.
        grace: Seconds that running handlers have to finish at the end.
        options: As for :class:`Server`.

    Raises:
        DefinitionError: The services cannot be served together.
        ListenFailed: The socket could not be opened.
    """
    server = Server(*services, url=url, **options)
    loop = asyncio.get_running_loop()
    await server.start()
    heeded: list[signal.Signals] = []
    try:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                with suppress(NotImplementedError):  # not on this system
                    loop.add_signal_handler(number, server.close, grace)
                    heeded.append(number)
        if on_start is not None:
            started = on_start(server)
            if inspect.isawaitable(started):
                await started
        await server.wait()
    finally:
        for heard in heeded:
            loop.remove_signal_handler(heard)
        await server.close(grace)
