"""The client, whichever way it connects: what it is made with, and what users see of it."""

import os
from collections.abc import Callable, Coroutine, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeAlias, TypedDict, TypeVar, overload

from typedrpc import transport
from typedrpc.authentication import NONCE_SIZE, Credentials, check_secret, check_token_given, travels_alone
from typedrpc.call import Call, get_call
from typedrpc.command import BoundCommand, Command
from typedrpc.common.agreements import AGREE_TIME
from typedrpc.common.caller import PeerLink
from typedrpc.common.connection import Connection, check_keep_alive
from typedrpc.common.loop import run_on
from typedrpc.common.redial import CONNECT_TIME, Dialled, Dialling, Redial, doubling, wait_for_link
from typedrpc.common.retrying import Again
from typedrpc.common.tokens import Token
from typedrpc.common.workers import check_counts
from typedrpc.deadlines import get_limit, nearest
from typedrpc.dispatch import Dispatcher
from typedrpc.errors import AuthenticationFailed, ConnectFailed, ConnectionLost, RpcError, TlsFailed
from typedrpc.hooks import CallOutcome, Hooked, told_by
from typedrpc.messages import Feature, Hello, Leave, Limits
from typedrpc.peer import Peer
from typedrpc.protocol import Protocol, State
from typedrpc.rate import check_rate
from typedrpc.retry import Retry
from typedrpc.service import FunctionService, Service, Table
from typedrpc.tls import Tls, check_client, client_context, failure, name_of
from typedrpc.transport import LONGEST_WAIT, parse

if TYPE_CHECKING:  # imported when used: it takes longer than all the rest
    import asyncio
    import ssl

ServiceT = TypeVar("ServiceT", bound=Service)
EnteredT_co = TypeVar("EnteredT_co", covariant=True)
CallableT = TypeVar("CallableT", bound=Callable[..., Any])
Urls: TypeAlias = str | Sequence[str]
"""Where a server is; or several places, which are tried in turn."""

_OPEN: Final = State.OPEN


class BaseClient(Hooked, Generic[EnteredT_co]):
    """A client, without how it connects, and how it reads and writes."""

    _runs_apart: ClassVar[bool] = False
    """Every handler takes a thread or a task of its own."""

    def __init__(
        self,
        url: Urls,
        contract: Callable[..., Any] | None,
        *,
        limits: Limits,
        timeout: float | None,
        expose: Sequence[Service | FunctionService],
        max_depth: int,
        max_workers: int,
        call_timeout: float | None,
        keep_alive: float | None,
        max_rate: float | None,
        retry: Retry | None,
        tls: "Tls | ssl.SSLContext | None",
        secret: bytes | tuple[str, bytes] | None,
        token: str | Callable[[], str] | None,
        on_connect: Callable[[Peer], object] | None,
        on_disconnect: Callable[[Peer, ConnectionLost], object] | None,
        on_connect_failed: Callable[[RpcError], object] | None,
        on_call: Callable[[Call], object] | None,
        on_result: Callable[[Call, CallOutcome], object] | None,
    ) -> None:
        table = Table(expose)
        super().__init__(
            Dispatcher(table, max_depth=max_depth, apart=self._runs_apart),
            on_connect=on_connect,
            on_disconnect=on_disconnect,
            on_connect_failed=on_connect_failed,
            on_call=on_call,
            on_result=on_result,
        )
        # What is no URL is told when it is dialled.
        self._urls: tuple[Any, ...] = tuple(url) if isinstance(url, list | tuple) else (url,)
        self._url = self._urls[0]
        self._limits = limits
        self._max_workers = max_workers
        self._closed = False
        self._exposes = bool(expose)
        self._services = table.digests()
        self._call_timeout = call_timeout
        self._keep_alive = keep_alive
        check_rate(max_rate)
        self._max_rate = max_rate
        self._retry = retry
        self._tls = tls
        self._context: ssl.SSLContext | None = None
        if tls is not None:
            check_secured(self._urls)
        self._secret = None if secret is None else check_given_secret(secret)
        self._token = token
        self._contract = contract
        self._timeout = timeout
        self._entered: Any = self
        self._link: PeerLink
        self._coming: PeerLink | None = None
        """A connection that the hooks are told of, and that is not used otherwise yet."""
        self._former: list[Connection] = []
        """Connections that others have replaced, and that may not be through with everything."""
        self._index = 0  # of the address that was reached last
        self._again = Again(
            retry, Redial(lambda: self._link, self._may_renew, self._start_dialling), self._start_thread
        )
        self._prepare()

    def _prepare(self) -> None:
        """What else there is to a client that was just made."""

    def _make_hello(self) -> Hello:
        """What this side says of itself on a new connection."""
        nonce = b"" if self._secret is None and self._token is None else os.urandom(NONCE_SIZE)
        features = frozenset((Feature.READS,) if self._reads() else ())
        keys = self._again.keys
        session, next_key = (b"", 0) if keys is None else (keys.session, keys.next)
        return Hello(self._limits, self._services, features, nonce, session=session, next_key=next_key)

    def _reads(self) -> bool:
        """Whether somebody reads all the time."""
        return self._runs_apart or self._exposes or bool(self._disconnect) or self._retry is not None

    def _make_credentials(self) -> Credentials | None:
        """By what this side proves who it is on a new connection. May take its time.

        Raises:
            AuthenticationFailed: The function that gives the token did not.
        """
        if self._secret is not None:
            return Credentials(secret=self._secret)
        if self._token is None:
            return None
        try:
            return Credentials(token=check_token_given(self._token() if callable(self._token) else self._token))
        except Exception as error:
            raise AuthenticationFailed(self._url, f"there is no token to present: {type(error).__name__}") from error

    def _get_context(self, url: str, host: str) -> "tuple[ssl.SSLContext, str]":
        """With what this side meets a server that has TLS, and the name that its certificate must have.

        The files are read once.

        Raises:
            TlsFailed: There can be no TLS with this.
        """
        name = name_of(self._tls, host)
        try:
            if self._context is None:
                self._context = client_context(self._tls)
            check_client(self._context, name)
        except ValueError as error:
            raise TlsFailed(url, str(error)) from error
        return self._context, name

    def _why_no_tls(self, url: str, error: BaseException | None) -> ConnectFailed | None:
        """What became of a handshake, where an error has to do with TLS."""
        return None if self._context is None else failure(url, error, client=True)

    # Connections, one after another

    def _current_link(self, deadline: float | None) -> PeerLink:
        """The connection to use now, which is made anew where it was lost, and in a forked child.

        Args:
            deadline: When to stop waiting for it, on the monotonic clock.

        Raises:
            ConnectionLost: There is none any more. What refused the client for good is raised as it is.
            DeadlineExceeded: There was none in time.
        """
        link = self._link
        if link.connection.core.state is _OPEN:
            return link
        return self._renewed_link(link, deadline)

    def _renewed_link(self, link: PeerLink, deadline: float | None) -> PeerLink:
        connection, redial = link.connection, self._again.redial
        if not redial.is_over(connection):
            return link
        if self._coming is not None and told_by(self):  # a hook, which dialling waits for
            return self._coming
        dialled = redial.join()
        if connection.why_not_wait("") is not None:
            return link
        within = get_call()
        until = nearest(deadline, get_limit())
        if within is not None:
            until = nearest(until, within.deadline)
        renewed: PeerLink = wait_for_link(dialled, until, self._is_alive)
        return renewed

    def _replace(self, link: PeerLink) -> None:
        """From now on calls go by this connection; one that there was still brings the answers that it may."""
        former = vars(self).get("_link")
        if former is not None:
            # What a thread that was interrupted may hold is let go of here: by now nobody is in there any more.
            ended = [connection for connection in self._former if connection.ended]
            self._former = [*(each for each in self._former if each not in ended), former.connection]
            for connection in ended:
                connection.close()
        self._link = link

    def _close_connections(self, reason: str = "") -> None:
        link = self._link
        for connection in (*self._former, link.connection):
            connection.close(reason, Leave.GONE)
        if (coming := self._coming) is not None:
            coming.connection.close(code=Leave.GONE)

    def _may_renew(self, connection: Connection) -> bool:
        """Whether another connection may be made instead of this one: what this side has closed was not lost."""
        return not (self._closed or connection.left)

    def _is_alive(self) -> bool:
        """Whether there is still somebody who dials."""
        return True

    def _start_dialling(self, future: Dialled) -> None:
        """Have somebody dial, and give the future what it comes to."""
        raise NotImplementedError

    def _start_thread(self, body: Callable[[], None]) -> None:
        """Run a function in a thread of this client's."""
        raise NotImplementedError

    def _check_urls(self) -> list[transport.Address]:
        """
        Raises:
            ConnectFailed: One is none, which does not become right with time.
        """
        return [transport.resolve(url) for url in self._urls]

    def _first_dialling(self) -> Dialling:
        """How the first connection is made."""
        retry, timeout = self._retry, self._timeout
        if retry is not None:
            time = retry.total if timeout is None else min(timeout, retry.total)
            return Dialling(self._urls, 0, monotonic() + time, retry.pauses(), stubborn=True)
        time = CONNECT_TIME if timeout is None else timeout
        return Dialling(self._urls, 0, monotonic() + time, () if timeout is None else doubling())

    def _next_dialling(self) -> Dialling:
        """How another one is made."""
        retry = self._retry
        if retry is None:
            return Dialling(self._urls, self._index, monotonic() + CONNECT_TIME)
        return Dialling(self._urls, self._index, monotonic() + retry.total, retry.pauses(), stubborn=True)

    def _first_pause(self) -> float:
        """Seconds to wait before another one is made: many clients may have lost theirs at once."""
        return 0.0 if self._retry is None else next(self._retry.pauses(), 0.0)

    def _look_after(self, connection: Connection) -> None:
        """A connection has ended: where the server is to reach this client, it is made anew without being needed."""
        link = vars(self).get("_link")
        is_needed = self._retry is not None and (self._exposes or bool(self._disconnect))
        if is_needed and link is not None and link.connection is connection and self._may_renew(connection):
            self._again.redial.join()

    @property
    def peer(self) -> Peer:
        """The other end of the connection, as the server's handlers see this one."""
        return self._link.peer

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
        return self._make_proxy(contract, monotonic() + AGREE_TIME)

    def _make_proxy(self, contract: Any, deadline: float) -> Any:
        raise NotImplementedError

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # Who forgets the `with` looks for commands here.
            how = "`with connect(...) as proxy:` gives the proxy, and so does client.proxy(Contract)"
            raise AttributeError(f"a client has no attribute {name!r}; {how}")

    def _get_loop(self) -> "asyncio.AbstractEventLoop | None":
        """Where what is ``async`` runs; None for the loop that is kept."""
        return None

    def _run_async(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return run_on(self._get_loop(), coroutine)

    def __repr__(self) -> str:
        return f"<client of {self._url}>"


def check_secured(urls: Sequence[Any]) -> None:
    """Check the URLs of a client that was told about certificates: nothing may go to another one.

    Raises:
        ValueError: One of them is not of TLS.
    """
    for url in urls:
        try:
            secured = parse(url).tls
        except ValueError:
            continue  # told when it is dialled
        if not secured:
            raise ValueError(f"tls is given, and {url} is no URL of TLS; write tls://host:port")


def why_not_in_time(core: Protocol[Token]) -> str:
    if core.queue is not None:
        inside, limit = core.queue
        return f"the server had no place in time: {inside} of {limit} clients are in"
    if core.hellos().server:  # it has said hello
        return "the server did not let this client in in time"
    return "something listens there, but did not answer in time"


class ConnectOptions(TypedDict, total=False):
    """What :func:`connect` takes besides contract and URL, with the same names, types and defaults."""

    timeout: float | None
    expose: Sequence[Service | FunctionService]
    max_message_size: int
    max_calls: int
    max_depth: int
    max_workers: int
    call_timeout: float | None
    keep_alive: float | None
    max_rate: float | None
    retry: Retry | None
    tls: "Tls | ssl.SSLContext | None"
    secret: bytes | tuple[str, bytes] | None
    token: str | Callable[[], str] | None
    on_connect: Callable[[Peer], object] | None
    on_disconnect: Callable[[Peer, ConnectionLost], object] | None
    on_connect_failed: Callable[[RpcError], object] | None
    on_call: Callable[[Call], object] | None
    on_result: Callable[[Call, CallOutcome], object] | None


def check_options(
    *,
    url: Urls,
    timeout: float | None,
    call_timeout: float | None,
    max_depth: int,
    max_workers: int,
    keep_alive: float | None,
    secret: object = None,
    token: object = None,
) -> None:
    """Check what ``connect`` is given.

    Raises:
        ValueError: One is out of range.
    """
    if timeout is not None and not 0 <= timeout <= LONGEST_WAIT:
        raise ValueError(f"timeout must be None or a number of seconds from 0 up to a day, not {timeout!r}")
    if call_timeout is not None and not 0 <= call_timeout <= LONGEST_WAIT:
        raise ValueError(f"call_timeout must be None or a number of seconds from 0 up to a day, not {call_timeout!r}")
    check_counts(max_depth=max_depth, max_workers=max_workers)
    check_keep_alive(keep_alive)
    if not url and not isinstance(url, str):  # what is no URL is told when it is dialled
        raise ValueError("connect needs the url of a server, or several")
    if token is None:
        return
    if secret is not None:
        raise ValueError("a client proves who it is by a secret or by a token, not by both")
    if not callable(token):
        check_token_given(token)
    for one in url if isinstance(url, list | tuple) else (url,):
        if isinstance(one, str) and not travels_alone(one):
            raise ValueError(f"a token needs a url tls:// or unix://, as it travels as it is: not {one}")


def check_given_secret(secret: object) -> tuple[str, bytes]:
    """The secret that ``connect`` is given, with the name of who has it.

    Raises:
        ValueError: It cannot be used.
    """
    if isinstance(secret, tuple):
        if len(secret) != 2:
            raise ValueError("a secret with a name is (name, secret)")
        return check_secret(*secret)
    return check_secret("", secret)
