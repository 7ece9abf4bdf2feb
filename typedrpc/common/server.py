"""The server, whichever way it serves: what it is made with, who is in, and what it says to many."""

import inspect
import logging
import os
import threading
import traceback
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import suppress
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, ParamSpec, TypedDict, TypeVar, cast, overload

from typedrpc import transport
from typedrpc.admission import Admission, Answer, WhenFull
from typedrpc.answers import Answers
from typedrpc.authentication import (
    NONCE_SIZE,
    NOT_AUTHENTICATED,
    Failures,
    Keys,
    source_of,
    travels_alone,
)
from typedrpc.call import Call
from typedrpc.command import Command
from typedrpc.common.arrivals import Arrivals, Place, check_max_per_address
from typedrpc.common.broadcast import Gather as Gathering
from typedrpc.common.broadcast import broadcast
from typedrpc.common.connection import KEEP_ALIVE, Connection, check_keep_alive
from typedrpc.common.loop import refuse_on_kept_loop, run_on
from typedrpc.common.stay import Stay
from typedrpc.common.workers import MAX_WORKERS, Workers, check_counts
from typedrpc.dispatch import MAX_NESTING, Dispatcher
from typedrpc.errors import (
    AuthenticationFailed,
    ConnectFailed,
    ConnectionLost,
    DefinitionError,
    ListenFailed,
    ProtocolError,
    RpcError,
    ServerBusy,
    TlsFailed,
)
from typedrpc.factories import Servable, sort_out
from typedrpc.failure import cut
from typedrpc.hooks import CallOutcome, Hooked, check_plain
from typedrpc.identity import Identity
from typedrpc.messages import MAX_CALLS, MAX_MESSAGE_SIZE, Feature, Hello, Leave, Limits, Method, pack_goodbye
from typedrpc.peer import Gather, Peer
from typedrpc.rate import Rates, check_rate
from typedrpc.service import Table
from typedrpc.tls import Tls, failure, server_context
from typedrpc.wire import PREAMBLE, SPEAKS_TLS, Kind, encode

if TYPE_CHECKING:  # imported when used: it takes longer than all the rest
    import asyncio
    import socket
    import ssl

P = ParamSpec("P")
R = TypeVar("R")
ConnectionT = TypeVar("ConnectionT", bound=Connection)

logger = logging.getLogger("typedrpc")

HANDSHAKE_TIME: Final = 10.0
GRACE: Final = 5.0

LINGER_TIME: Final = 1.0
"""Seconds that a server which closes waits for clients that read to leave, once they were told all there is to say."""

MAX_PER_ADDRESS: Final = 1024
"""Connections that one address may have at a time, unless a server is told another number."""


class ServerOptions(TypedDict, total=False):
    """What :class:`Server` takes besides services and URL, with the same names, types and defaults."""

    ids: Mapping[str, int]
    max_clients: int | None
    when_full: WhenFull
    max_message_size: int
    max_calls: int
    max_workers: int
    max_concurrent: int | None
    max_depth: int
    handshake_timeout: float
    keep_alive: float | None
    max_per_address: int | None
    max_rate: float | None
    tls: "Tls | ssl.SSLContext | None"
    secret: bytes | Mapping[str, bytes] | None
    check_token: Callable[[str], object] | None
    authorize: Callable[[Identity | None, Command[Any]], object] | None
    guard: Callable[[Call], object] | None
    allow_users: Collection[int | str] | None
    mode: int
    insecure: bool
    debug: bool
    on_connect: Callable[[Peer], object] | None
    on_disconnect: Callable[[Peer, ConnectionLost], object] | None
    on_connect_failed: Callable[[RpcError], object] | None
    on_call: Callable[[Call], object] | None
    on_result: Callable[[Call, CallOutcome], object] | None


class BaseServer(Hooked, Generic[ConnectionT]):
    """A server, without how it listens, and how it reads and writes."""

    _runs_apart: ClassVar[bool] = False
    """Every handler takes a thread or a task of its own."""

    def __init__(
        self,
        *services: Servable,
        url: str,
        ids: Mapping[str, int] = MappingProxyType({}),
        max_clients: int | None = None,
        when_full: WhenFull = "refuse",
        max_message_size: int = MAX_MESSAGE_SIZE,
        max_calls: int = MAX_CALLS,
        max_workers: int = MAX_WORKERS,
        max_concurrent: int | None = None,
        max_depth: int = MAX_NESTING,
        handshake_timeout: float = HANDSHAKE_TIME,
        keep_alive: float | None = KEEP_ALIVE,
        max_per_address: int | None = MAX_PER_ADDRESS,
        max_rate: float | None = None,
        tls: "Tls | ssl.SSLContext | None" = None,
        secret: bytes | Mapping[str, bytes] | None = None,
        check_token: Callable[[str], object] | None = None,
        authorize: Callable[[Identity | None, Command[Any]], object] | None = None,
        guard: Callable[[Call], object] | None = None,
        allow_users: Collection[int | str] | None = None,
        mode: int = transport.UNIX_MODE,
        insecure: bool = False,
        debug: bool = False,
        on_connect: Callable[[Peer], object] | None = None,
        on_disconnect: Callable[[Peer, ConnectionLost], object] | None = None,
        on_connect_failed: Callable[[RpcError], object] | None = None,
        on_call: Callable[[Call], object] | None = None,
        on_result: Callable[[Call, CallOutcome], object] | None = None,
    ) -> None:
        """
        Args:
            services: Instances of ``Service`` subclasses, and function services. Of a class, or of a function with such
                a result, each client has an instance of its own: it is made, with the ``Peer`` if it wants an argument,
                before the client is let in; entered, if it is a context manager; and left when the connection has ended
                and none of its handlers runs.
            url: ``tcp://host:port``, port 0 for one that the system chooses, ``tls://host:port`` or ``unix:///path``.
            ids: Other command ids for some commands, where those of two services clash: ``{"Greeter.add": 7}``.
            max_clients: Clients that may be in at a time, 1 for exclusive access; None for no limit. A place is free
                again when its client's connection has ended, none of its handlers runs and ``on_disconnect`` is done.
            when_full: What becomes of a further client: ``"refuse"`` (its ``connect`` raises ``ServerBusy``), or
                ``"wait"`` (it stands in line, in the order of arrival, until its ``connect`` gives up).
            max_message_size: The largest message accepted from a client, in bytes.
            max_calls: Calls of one client that may be in flight at a time.
            max_workers: Threads that may be lent, on top of one for each connection, where handlers take their time.
            max_concurrent: Handlers that run at a time, over all clients; further calls wait in the order in which they
                came, and no thread waits with them. 1 for what is not thread-safe. A call that a client makes from
                within one of the server's to it takes no further place, and neither do callbacks. None for no limit.
            max_depth: Calls that may be nested in each other; further ones are refused with ``NestedTooDeep``.
            handshake_timeout: Seconds that a client has to say who it is.
            keep_alive: Seconds after which a client that says nothing, though it is asked, is taken for dead and cut
                off; None for never. One that does not read all the time is not asked: the system looks after it.
            max_per_address: Connections that one address may have at a time, those that are not let in yet among them;
                None for any number. Unix sockets have no address.
            max_rate: Calls a second that one client may make, on average; as many more at once as it makes in a second.
                It counts for all connections of one identity, or of one address where nobody says who he is.
                Further ones are refused with ``ServerBusy``. None for any number.
            tls: Serve with TLS, at a URL ``tls://host:port``: which certificate the server shows, and whose it trusts;
                or a context of your own.
            secret: What clients must prove to know, and the server proves to them: at least 16 random bytes, or several
                by the names of who has them.
            check_token: Called with the token that a client presents, only with TLS or on a unix socket. Returns who it
                is, a name or an ``Identity``, or None for nobody; may be ``async def``.
            authorize: Called with who calls and with the command, for those that say ``@rpc(requires=...)``: whether it
                may be called. Needed where a command says so.
            guard: Called with each call before its handler, in its thread: raises ``PermissionDenied`` to refuse it.
            allow_users: Users of this system, names or numbers, who may connect to a unix socket; None for all that the
                file lets in. Linux only. Through a socket that ssh forwards everybody is the user that runs sshd.
            mode: The permissions of a unix socket's file.
            insecure: Listen beyond loopback although nothing guards the server.
            debug: Tell clients the traceback of an exception that a handler did not mean for them.
            on_connect: See :meth:`on_connect`, as for the others.
            on_disconnect: Called when a client that was let in has left.
            on_connect_failed: Called when a client was not let in.
            on_call: Called before each handler.
            on_result: Called after each handler.

        Raises:
            DefinitionError: The services cannot be served together; says why.
            ValueError: A limit is out of range, a secret too short, or a token would travel where others can read it.
        """
        check_counts(max_depth=max_depth, max_workers=max_workers)
        if not 0 < handshake_timeout <= transport.LONGEST_WAIT:
            raise ValueError(f"handshake_timeout must be more than 0 seconds and at most a day: {handshake_timeout!r}")
        self._url = url
        self._limits = Limits(max_message_size=max_message_size, max_calls=max_calls)
        self._handshake_timeout = handshake_timeout
        check_keep_alive(keep_alive)
        check_rate(max_rate)
        check_max_per_address(max_per_address)
        self._keep_alive = keep_alive
        self._max_rate = max_rate
        self._rates = Rates(max_rate)
        self._tls = tls
        self._keys = None if secret is None else Keys(secret)
        self._check_token = check_token
        if check_token is not None and not travels_alone(url):
            raise ValueError(f"check_token needs a url tls:// or unix://, as a token travels as it is: not {url}")
        asked = {Method.SECRET: secret, Method.TOKEN: check_token}
        self._methods = tuple(method for method, by in asked.items() if by is not None)
        self._failures = Failures()
        if isinstance(allow_users, str):
            raise ValueError(f"allow_users is a collection of users: [{allow_users!r}]")
        self._allow_users = allow_users
        self._allowed: frozenset[int] | None = None
        check_plain(authorize, "authorize")
        check_plain(guard, "guard")
        self._mode = mode
        self._insecure = insecure
        served, self._factories = sort_out(services)
        table = Table(served, ids)
        if authorize is None:
            _check_that_nothing_is_required(table)
        super().__init__(
            Dispatcher(
                table,
                debug=debug,
                max_depth=max_depth,
                max_concurrent=max_concurrent,
                apart=self._runs_apart,
                authorize=authorize,
                guard=guard,
            ),
            on_connect=on_connect,
            on_disconnect=on_disconnect,
            on_connect_failed=on_connect_failed,
            on_call=on_call,
            on_result=on_result,
        )
        self._admission: Admission[Stay] = Admission(max_clients, when_full)
        self._lock = threading.Lock()
        self._connections: dict[ConnectionT, Stay] = {}
        self._arrivals = Arrivals(max_per_address)
        self._places: dict[ConnectionT, Place] = {}  # of the connections, among those of their addresses
        self._peers: dict[int, Peer] = {}
        self._workers = Workers("typedrpc-server", max_workers)
        self._max_workers = max_workers
        self._closing = False
        self._debug = debug
        self._context: ssl.SSLContext | None = None
        self._incarnation = os.urandom(16)
        self._answers = self._dispatcher.answers = Answers()
        self._prepare()

    def _prepare(self) -> None:
        """What else there is to a server that was just made."""

    def _make_hello(self) -> Hello:
        """What this side says of itself on a new connection."""
        features = frozenset((Feature.READS,))
        nonce = os.urandom(NONCE_SIZE) if self._methods else b""
        return Hello(self._limits, features=features, nonce=nonce, methods=self._methods, incarnation=self._incarnation)

    @property
    def _is_guarded(self) -> bool:
        """Whether not everybody who can reach the server may call it."""
        return bool(self._methods)

    def _find_users(self) -> None:
        """Look who may connect to the unix socket. Raises ``ListenFailed`` where that cannot be told."""
        if self._allow_users is not None:
            self._allowed = transport.find_users(self._url, self._allow_users)

    def _make_context(self) -> "ssl.SSLContext | None":
        """With what the server meets clients; None without TLS.

        Raises:
            ListenFailed: It cannot be made, or the URL is not of TLS.
        """
        with suppress(ValueError):  # a URL that is none is told next
            if not transport.parse(self._url).tls:
                if self._tls is not None:
                    raise ListenFailed(self._url, "tls= is given, but this is no URL of TLS; write tls://host:port")
                return None
            try:
                return server_context(self._tls)
            except ValueError as error:
                raise ListenFailed(self._url, str(error)) from error
        return None

    def _farewell(self) -> bytes:
        """What is said, where there is TLS, to clients that speak typedrpc without it."""
        reason = f"this server speaks TLS; write {self._url}"
        goodbye = encode(Kind.GOODBYE, 0, 0, pack_goodbye(0, reason))
        return PREAMBLE + b"".join(goodbye if isinstance(goodbye, tuple) else (goodbye,))

    def _why_no_tls(self, address: str, cause: BaseException | None) -> ConnectFailed | None:
        """What became of a handshake, where the cause of a connection's end has to do with TLS."""
        if self._context is not None:
            return failure(address, cause, client=False)
        if isinstance(cause, ProtocolError) and str(cause) == SPEAKS_TLS:
            return TlsFailed(
                address, "the client speaks TLS, and this server does not: its URL is to begin with tcp://"
            )
        return None

    @property
    def url(self) -> str:
        """Where the server listens; before it is started, what it was given."""
        return self._url

    def peer(self, id: int, /) -> Peer:
        """The client that is in with this ``Peer.id``.

        Raises:
            KeyError: There is none: it has left.
        """
        with self._lock:
            return self._peers[id]

    @property
    def peers(self) -> tuple[Peer, ...]:
        """The clients that are in now, in the order in which they were let in."""
        with self._lock:
            return tuple(self._peers.values())

    @overload
    def broadcast(
        self, command: Command[Callable[P, None]], /, *, to: Iterable[Peer] | None = None
    ) -> Callable[P, int]: ...
    @overload
    def broadcast(
        self, command: Command[Callable[P, Coroutine[Any, Any, None]]], /, *, to: Iterable[Peer] | None = None
    ) -> Callable[P, int]: ...
    def broadcast(self, command: Command[Any], /, *, to: Iterable[Peer] | None = None) -> Callable[..., int]:
        """Call a command of many clients one-way: ``server.broadcast(Listener.on_text)("hi")``.

        What is returned takes the command's arguments and returns how many clients it went to: those that expose the
        service. It waits for none of them. Each gets what is broadcast in order; a client that reads too slowly, so
        that more than 16 MiB or 4096 messages wait for it, is cut off, with a line in the log.

        Args:
            command: Of a contract, ``Listener.on_text``, or a function of a ``FunctionService``. It returns None.
            to: Which clients, each once; by default all that are connected when the arguments are given.

        Raises:
            DefinitionError: When it is called: the command has a result, or takes callbacks.
            ArgumentError: When it is called: the arguments do not fit.
        """
        chosen = None if to is None else tuple(to)
        return lambda *args, **kwargs: broadcast(command, self.peers if chosen is None else chosen, args, kwargs)

    @overload
    def gather(
        self,
        command: Command[Callable[P, Coroutine[Any, Any, R]]],
        /,
        *,
        timeout: float | None = None,
        to: Iterable[Peer] | None = None,
    ) -> Gather[P, R]: ...
    @overload
    def gather(
        self, command: Command[Callable[P, R]], /, *, timeout: float | None = None, to: Iterable[Peer] | None = None
    ) -> Gather[P, R]: ...
    def gather(
        self, command: Command[Any], /, *, timeout: float | None = None, to: Iterable[Peer] | None = None
    ) -> Gather[..., Any]:
        """Call a command of many clients at once: ``server.gather(Listener.ask, timeout=1.0)("ready?")``.

        What is returned takes the command's arguments, waits until each client that exposes the service has answered
        or the time is over, and returns client to result, or to the exception with which its call ended. On an event
        loop it is awaited, ``await server.gather(Listener.ask).aio("ready?")``: called there, where answers come by the
        very loop, it raises ``BlockingCall``.

        Args:
            command: Of a contract, ``Listener.ask``, or a function of a ``FunctionService``.
            timeout: Seconds that all have together; None for as long as it takes. A handler's own deadline counts too.
            to: Which clients, each once; by default all that are connected when the arguments are given.

        Raises:
            ValueError: The time-out is out of range.
            DefinitionError: When it is called: the command takes callbacks.
            ArgumentError: When it is called: the arguments do not fit.
        """
        chosen = None if to is None else tuple(to)
        return Gathering(command, lambda: self.peers if chosen is None else chosen, timeout, self._why_not_wait)

    def _why_not_wait(self, what: str, instead: str) -> RpcError | None:
        """What is wrong with a thread that is about to wait for clients.

        Args:
            what: Names the command.
            instead: The right way.
        """
        return refuse_on_kept_loop(what, instead)

    def _get_loop(self) -> "asyncio.AbstractEventLoop | None":
        """Where what is ``async`` runs; None for the loop that is kept."""
        return None

    def _run_async(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return run_on(self._get_loop(), coroutine)

    def __repr__(self) -> str:
        return f"<server at {self._url}>"

    # Who may come in

    def _is_allowed(self, connection: ConnectionT, stay: Stay, sock: "socket.socket") -> bool:
        """Whether the user who has just connected may; another one is turned away."""
        if self._allowed is None:
            return True
        try:
            number, name = transport.user_of(sock)
        except OSError as error:
            number, name = -1, f"unknown ({error})"
        if number in self._allowed:
            stay.peer.identity = Identity(name, "user")
            return True
        connection.turn_away()
        self._turn_away(connection, stay, f"the user {name} may not connect")
        return False

    def _check_proof(self, connection: ConnectionT, stay: Stay) -> bool:
        """Whether a client that claims to know a secret does; another one is turned away."""
        claim = connection.core.claim
        assert claim is not None
        proof = None if self._keys is None else self._keys.answer(claim, connection.core.hellos())
        if proof is None:
            whose = f" of {cut(claim.name, 64)!r}" if claim.name else ""
            self._turn_away(connection, stay, f"it did not prove that it knows the secret{whose}")
            return False
        return connection.accept(Identity(claim.name, "secret"), proof)

    def _check_found(self, connection: ConnectionT, stay: Stay, found: object) -> bool:
        """Whether a token is somebody's, by what its check returned or raised; who has another one is turned away."""
        if isinstance(found, Identity):
            return connection.accept(found)
        if isinstance(found, str) and found:
            return connection.accept(Identity(found, "token"))
        why, trace = "its token is nobody's", ""
        if isinstance(found, BaseException):
            why = f"check_token failed with {type(found).__name__}"
            # Not its text, nor that of others: the token may be in there.
            trace = "\n" + "".join(traceback.format_tb(found.__traceback__))
        elif found is not None:
            why = f"check_token must return a name, an Identity or None, and gave a {type(found).__name__}"
        self._turn_away(connection, stay, why, trace)
        return False

    def _turn_away(self, connection: ConnectionT, stay: Stay, why: str, trace: str = "") -> None:
        """A client has not proved who it is: it is told so after a while, and no more than that."""
        now = monotonic()
        peer = stay.peer
        delay = self._failures.add(source_of(peer.address), now)
        stay.refuse(AuthenticationFailed(peer.address, why))
        self._failures.log(logger.warning, f"{peer} was refused: {why}{trace}", now)
        self._after(delay, lambda: connection.close(NOT_AUTHENTICATED, Leave.REFUSED))

    def _hold_back(self, connection: ConnectionT, stay: Stay, check: Callable[[], None]) -> None:
        """Check who a client is: now, or when the time is over that its address has to wait; by any thread."""
        seconds = self._failures.penalty(source_of(stay.peer.address), monotonic())
        if not seconds:
            check()
        elif self._has_room_later():
            self._after(seconds, check)
        else:
            connection.end(ConnectionLost("too many clients wait to be let in"))

    def _has_room_later(self) -> bool:
        """Whether not too much waits to be done later."""
        raise NotImplementedError

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        """Have something done that does not block, when so many seconds have passed."""
        raise NotImplementedError

    # Who is in

    def _admit(self, connection: ConnectionT, stay: Stay) -> None:
        """A client has said hello: let it in, have it wait, or turn it away."""
        admission = self._admission
        with self._lock:
            if connection.ended:
                return
            closing = self._closing
            answer = Answer.FULL if closing else admission.ask(stay)
            inside, why = admission.inside, admission.why_full()
        if closing:
            connection.close("the server is closing")
        elif answer is Answer.IN:
            self._let_in(stay)
        elif answer is Answer.WAIT:
            connection.post(connection.core.queued(inside, admission.limit or inside))
        else:
            stay.refuse(ServerBusy(why))
            connection.close(why, Leave.BUSY)

    def _let_in(self, stay: Stay) -> None:
        """A client has a place."""
        stay.begin(lambda: self._welcome_in(stay))

    def _welcome_in(self, stay: Stay) -> bool:
        with self._lock:
            if cast("ConnectionT", stay.connection) in self._connections:
                self._peers[stay.peer.id] = stay.peer
                self._find_session(stay)
                self._find_rate(stay)
        if stay.connection.welcome():
            return True
        with self._lock:
            self._peers.pop(stay.peer.id, None)
        return False

    def _find_rate(self, stay: Stay) -> None:
        """A client is let in: it may make as many calls as are left to it, or to its address, from before."""
        rate, peer = stay.connection.core.rate, stay.peer
        # Clients of a unix socket have no address of their own.
        who = None if peer.address.startswith("unix") else ("address", source_of(peer.address))
        if peer.identity is not None:
            who = (peer.identity.means, peer.identity.name)
        if rate is not None and who is not None and (bucket := self._rates.find(who)) is not None:
            rate.share(bucket)

    def _find_session(self, stay: Stay) -> None:
        """A client that may send calls again is let in: what is kept for it. The lock is held."""
        core = stay.connection.core
        if core.peer_hello.session:
            identity = stay.peer.identity
            name = "" if identity is None else identity.name
            hello = core.peer_hello
            core.visit = self._answers.enter(name, hello.session, hello.next_key, stay.connection.answer)

    def _on_end(self, connection: ConnectionT) -> None:
        with self._lock:
            stay = self._connections.pop(connection, None)
            if stay is None:
                return
            place = self._places.pop(connection, None)
            self._peers.pop(stay.peer.id, None)
            self._admission.step_out(stay)
        if connection.core.visit is not None:
            self._answers.leave(connection.core.visit, for_good=connection.core.leave == Leave.GONE)
        if place is not None:
            place.leave()
        error = connection.core.error
        no_tls = None if error is None or stay.let_in else self._why_no_tls(stay.peer.address, error.__cause__)
        if no_tls is not None:
            stay.refuse(no_tls)
            logger.warning("%s was cut off: no TLS: %s", stay.peer, no_tls.reason)
        elif error is not None and isinstance(error.__cause__, ProtocolError | TimeoutError):
            logger.warning("%s was cut off: %s", stay.peer, error)
        else:
            logger.debug("%s has left: %s", stay.peer, error)
        stay.end()

    def _on_over(self, stay: Stay) -> None:
        """Nothing is left of a client: its place is the next one's."""
        with self._lock:
            following = self._admission.leave(stay)
            if following is None or self._closing:
                return
        try:
            self._workers.start(lambda: self._let_in(following))
        except RuntimeError:
            logger.warning("no thread could be started for %s: it was cut off", following.peer)
            following.connection.end(ConnectionLost("no thread could be started"))


def _check_that_nothing_is_required(table: Table) -> None:
    """Raise ``DefinitionError`` where a command asks for what nobody could look for."""
    faults = [
        f"{entry.command.qualified_name} requires {entry.implementation.requires!r}: give the server authorize="
        for entry in table.entries.values()
        if entry.implementation.requires is not None
    ]
    if faults:
        raise DefinitionError("services served without authorize", faults)


def check_now(
    check: Callable[[str], object], token: str, run_async: Callable[[Coroutine[Any, Any, Any]], Any]
) -> object:
    """Whose a token is: what the function that checks it returns, or the exception that it raises.

    Args:
        check: The function.
        token: The token.
        run_async: Runs a coroutine, and waits for what it returns.
    """
    try:
        found = check(token)
        return run_async(_caught(found)) if inspect.iscoroutine(found) else found
    except BaseException as error:  # whatever it is, it is no reason for this thread to end
        return error


async def _caught(coroutine: Coroutine[Any, Any, object]) -> object:
    try:
        return await coroutine
    except BaseException as error:  # nor for the loop of all handlers
        return error
