"""Listen, accept and serve: the server of the threads side."""

import logging
import socket
import threading
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Self, final

from typing_extensions import Unpack

from typedrpc import transport
from typedrpc.authentication import MAX_CHECKS, MAX_PENDING
from typedrpc.call import handled_by
from typedrpc.common.arrivals import Place
from typedrpc.common.caller import PeerLink
from typedrpc.common.connection import GOODBYE_TIME
from typedrpc.common.fork import forsake_after_fork
from typedrpc.common.server import GRACE, LINGER_TIME, BaseServer, ServerOptions, check_now
from typedrpc.common.stay import Stay
from typedrpc.common.tokens import Token
from typedrpc.common.workers import Workers
from typedrpc.errors import ConnectionLost
from typedrpc.factories import Servable
from typedrpc.hooks import told_by
from typedrpc.messages import Method
from typedrpc.peer import Peer, next_peer_id
from typedrpc.protocol import Protocol
from typedrpc.rate import CallRate
from typedrpc.sync.acceptor import Acceptor
from typedrpc.sync.connection import Connection
from typedrpc.sync.greeter import Check, Checks, Greeter
from typedrpc.sync.later import Later
from typedrpc.sync.secure import TlsSocket
from typedrpc.sync.stop import Stop
from typedrpc.sync.watcher import Watcher
from typedrpc.tls import identity_of

if TYPE_CHECKING:  # imported when used
    import ssl

logger = logging.getLogger("typedrpc")


@final
class Server(BaseServer[Connection]):
    """Serves services to whoever connects, each connection with a thread of its own.

    ::

        with Server(Greeter(), url="tcp://127.0.0.1:0") as server:
            print(server.url)

    Handlers run concurrently, in the threads of the connections and in lent ones. All methods may be called from any
    thread.
    """

    def _prepare(self) -> None:
        self._watcher = Watcher("typedrpc-watcher")
        self._later = Later(self._watcher, MAX_PENDING)
        self._checks = Checks(self._watcher, MAX_CHECKS, self._workers.start, self._cut_off)
        self._acceptor: Acceptor | None = None
        self._greeter: Greeter
        self._on_closing: Callable[[], None] = lambda: None
        self._closed = threading.Event()
        forsake_after_fork(self)

    def start(self) -> Self:
        """Listen, and serve in the background. A server is started once.

        Raises:
            ListenFailed: The socket could not be opened; says why.
            RuntimeError: It was started before.
        """
        with self._lock:
            if self._acceptor is not None or self._closing:
                raise RuntimeError("a server is started once; make another one")
            self._find_users()
            self._context = self._make_context()
            insecure = self._insecure or self._is_guarded
            listener, address = transport.listen(self._url, insecure=insecure, mode=self._mode)
            self._url = str(address)
            self._greeter = Greeter(self._start_serving)
            self._acceptor = Acceptor(listener, address, self._welcome, arrivals=self._arrivals, greeter=self._greeter)
        logger.info("serving at %s", self._url)
        return self

    def close(self, grace: float = GRACE) -> None:
        """Stop: accept no more, let the handlers that run finish, end all connections. May be called again.

        Called by one of the server's handlers or hooks it returns at once: they have to finish too.

        Args:
            grace: Seconds that running handlers have. After that their clients get ``ConnectionLost``; a thread cannot
                be ended from outside, so a handler that goes on does so for nobody.
        """
        if handled_by(self) or told_by(self):
            threading.Thread(target=self._close, args=(grace,), name="typedrpc-close").start()
        else:
            self._close(grace)

    def _close(self, grace: float) -> None:
        with self._lock:
            first, self._closing = not self._closing, True
            connections = tuple(self._connections)
        self._on_closing()
        if not first:
            self._closed.wait(grace + 1.0)
            return
        if self._acceptor is not None:
            self._acceptor.close()
        deadline = monotonic() + grace
        try:
            for connection in connections:
                connection.drain("the server is closing")
            told = []
            for connection in connections:
                is_idle = connection.handlers.wait_until_idle(max(0.0, deadline - monotonic()))
                if is_idle and connection.finish("the server is closing"):
                    told.append(connection)
            # Who reads leaves now. Calls of others may be on their way: they are told that they do not run.
            now = monotonic()
            for time in (GOODBYE_TIME, LINGER_TIME):
                for connection in told:
                    if time == GOODBYE_TIME or connection.core.peer_waits:
                        connection.handlers.wait_until_ended(max(0.0, min(deadline, now + time) - monotonic()))
        finally:  # also when a second Ctrl-C cuts the grace short
            for connection in connections:
                connection.close("the server is closing")
            self._answers.close("the server is closing")
            self._watcher.close()
            left = self._workers.close(max(1.0, deadline - monotonic()))
            if left:
                logger.warning("%d handlers go on after the server has closed", left)
            logger.info("closed %s", self._url)
            self._closed.set()

    def wait(self) -> None:
        """Block until the server is closed."""
        self._closed.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def forsake(self) -> None:
        """See :mod:`typedrpc.common.fork`: to the child the server is closed, and goes on for the parent."""
        self._lock = threading.Lock()
        self._arrivals.forsake()
        self._rates.forsake()
        self._connections = {}
        self._places = {}
        self._peers = {}
        self._answers.forsake()
        self._closing = True
        self._on_closing = lambda: None
        self._closed = threading.Event()
        self._closed.set()

    def _welcome(self, sock: socket.socket, place: Place) -> None:
        """A client has just connected: shake hands with it, and then serve it in a thread of its own."""
        transport.prepare(sock)
        core: Protocol[Token] = Protocol(client=False, hello=self._make_hello(), rate=CallRate.of(self._max_rate))
        link = PeerLink()
        peer = Peer(next_peer_id(), transport.describe_peer(sock), self, link)
        secured = sock if self._context is None else self._secure(sock, peer, self._context)
        connection = Connection(
            secured,
            core,
            runtime=self._get_runtime,
            dispatcher=self._dispatcher,
            peer=peer,
            attended=True,
            keep_alive=self._keep_alive,
            on_end=self._on_end,
        )
        link.attach(connection, peer)
        stay = Stay(
            connection,
            peer,
            connect=self._connect,
            disconnect=self._disconnect,
            failed=self._connect_failed,
            factories=self._factories,
            start=self._workers.start,
            run_async=self._run_async,
            on_over=self._on_over,
        )
        with self._lock:
            self._connections[connection] = stay
            self._places[connection] = place
            closing = self._closing
        if closing:
            connection.end(ConnectionLost("the server is closing"))
            return
        if self._is_allowed(connection, stay, sock):
            self._greeter.welcome(secured, connection, stay, self._handshake_timeout)

    def _start_serving(self, connection: Connection, stay: Stay, deadline: float) -> None:
        """Have a thread serve a client, if it is who it says; in the thread of all that shake hands.

        Raises:
            RuntimeError: There is no thread.
        """
        if connection.core.claim is None:
            self._workers.start(lambda: self._serve(connection, stay))
        else:
            self._hold_back(connection, stay, lambda: self._serve_known(connection, stay, deadline))

    def _serve_known(self, connection: Connection, stay: Stay, deadline: float) -> None:
        """Have a thread serve a client that has said who it is, if that is so. Does not block."""
        try:
            self._look_who(connection, stay, deadline)
        except RuntimeError:
            logger.warning("no thread could be started for %s: it was cut off", stay.peer)
            connection.end(ConnectionLost("no thread could be started"))

    def _look_who(self, connection: Connection, stay: Stay, deadline: float) -> None:
        claim = connection.core.claim
        if connection.ended or claim is None:
            return
        if claim.method == Method.TOKEN:
            check = Check(connection, stay, deadline)
            self._checks.add(check, lambda: self._check(check, claim.token))
            return
        if monotonic() >= deadline:
            self._cut_off(Check(connection, stay, deadline))
            return
        try:
            is_known = self._check_proof(connection, stay)
        except Exception:
            connection.fault()
            return
        if is_known:
            self._workers.start(lambda: self._serve(connection, stay))

    def _serve(self, connection: Connection, stay: Stay) -> None:
        self._admit(connection, stay)
        connection.handlers.serve()

    def _check(self, check: Check, token: str) -> None:
        """Serve a client if the token that it presented is somebody's; another one is turned away."""
        connection, stay = check.connection, check.stay
        try:
            assert self._check_token is not None
            found = check_now(self._check_token, token, self._run_async)
        finally:
            self._checks.done(check)
        if connection.ended:
            return
        if monotonic() >= check.deadline:
            self._cut_off(check)
            return
        try:
            is_known = self._check_found(connection, stay, found)
        except Exception:
            connection.fault()
            return
        if is_known:
            self._serve(connection, stay)

    def _cut_off(self, check: Check) -> None:
        """There was no time to find out who a client is."""
        logger.warning("%s was cut off: no handshake within %g s", check.stay.peer, self._handshake_timeout)
        check.connection.end(ConnectionLost(f"{check.stay.peer}: no handshake within {self._handshake_timeout:g} s"))

    def _has_room_later(self) -> bool:
        return len(self._later) < MAX_PENDING

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        self._later.add(seconds, action)

    def _secure(self, sock: socket.socket, peer: Peer, context: "ssl.SSLContext") -> TlsSocket:
        def know(secured: TlsSocket) -> None:
            peer.identity = identity_of(secured.getpeercert())

        return TlsSocket(sock, context, on_ready=know, farewell=self._farewell())

    def _get_runtime(self) -> tuple[Workers, Watcher]:
        return self._workers, self._watcher


def serve(
    *services: Servable,
    url: str,
    on_start: Callable[[Server], object] | None = None,
    grace: float = GRACE,
    **options: Unpack[ServerOptions],
) -> None:
    """Serve until SIGINT or SIGTERM comes or the server is closed, then stop cleanly.

    Signals are heeded in the main thread; elsewhere only closing the server ends this.

    Args:
        services: As for :class:`Server`.
        url: As for :class:`Server`.
        on_start: Called with the server once it listens; ``server.url`` has the port that the system chose.
        grace: Seconds that running handlers have to finish at the end.
        options: As for :class:`Server`.

    Raises:
        DefinitionError: The services cannot be served together.
        ListenFailed: The socket could not be opened.
    """
    server = Server(*services, url=url, **options)
    with Stop() as stop:
        server._on_closing = stop.set
        with stop.on_signals(), server:
            if on_start is not None:
                on_start(server)
            stop.wait()
            server.close(grace)
