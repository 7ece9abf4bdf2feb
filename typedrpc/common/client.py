"""The client, whichever way it connects: what it is made with, and what users see of it."""

from collections.abc import Callable, Coroutine, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeAlias, TypedDict, TypeVar, overload

from typedrpc.call import Call
from typedrpc.command import BoundCommand, Command
from typedrpc.common.agreements import AGREE_TIME
from typedrpc.common.caller import PeerLink
from typedrpc.common.connection import check_keep_alive
from typedrpc.common.loop import run_on
from typedrpc.common.tokens import Token
from typedrpc.common.workers import check_counts
from typedrpc.dispatch import Dispatcher
from typedrpc.errors import ConnectFailed, ConnectionLost, RpcError, TlsFailed
from typedrpc.hooks import CallOutcome, Hooked
from typedrpc.messages import Hello, Limits
from typedrpc.peer import Peer
from typedrpc.protocol import Protocol, State
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

CONNECT_TIME: Final = 10.0
"""Seconds that one attempt to connect and shake hands may take when ``connect`` is given no time-out."""

FIRST_PAUSE: Final = 0.01
LONGEST_PAUSE: Final = 0.25
"""Seconds between two attempts to reach a server that is not up yet: doubled from the first to the longest."""

LEAST_ATTEMPT: Final = 0.05
"""Seconds that an attempt is worth making in; what a hurried one says of the server would mislead."""


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
        self._max_rate = max_rate
        self._retry = retry
        self._tls = tls
        self._context: ssl.SSLContext | None = None
        if tls is not None:
            check_secured(self._urls)
        self._secret = secret
        self._token = token
        self._contract = contract
        self._timeout = timeout
        self._entered: Any = self
        self._link: PeerLink
        self._prepare()

    def _prepare(self) -> None:
        """What else there is to a client that was just made."""

    def _make_hello(self) -> Hello:
        """What this side says of itself on a new connection."""
        return Hello(self._limits, self._services)

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
    if core.state is State.GREETED:
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
