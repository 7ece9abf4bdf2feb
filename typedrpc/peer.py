"""The other end of a connection, as handlers and servers see it."""

from collections.abc import Callable, Coroutine, Iterable, Mapping
from itertools import count
from threading import Lock
from typing import Any, Final, ParamSpec, Protocol, TypeVar, final, overload

from typedrpc.command import BoundCommand, Command
from typedrpc.identity import Identity
from typedrpc.service import Service, services_of

ServiceT = TypeVar("ServiceT", bound=Service)
CallableT = TypeVar("CallableT", bound=Callable[..., Any])
T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")

MAX_VERSIONS: Final = 4096
"""Schemas of its own by which one peer may write its calls."""

MAX_VERSIONS_SIZE: Final = 16 * 1024 * 1024
"""Bytes of all these schemas together."""


@final
class Versions:
    """By which schemas of its own a peer writes its calls: what each of their numbers leads to. Thread-safe.

    Attributes:
        rows: What the numbers, which count from 0, lead to.
    """

    __slots__ = ("_left", "_lock", "_numbers", "rows")

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self._numbers: dict[tuple[int, bytes], int] = {}
        self._left = MAX_VERSIONS_SIZE
        self._lock = Lock()

    def number_of(self, command: int, schema: bytes, make: Callable[[], Any]) -> int | None:
        """The number of a packed schema for a command, the same one each time; None where there are too many.

        Args:
            command: The id of the command.
            schema: The schema, packed.
            make: Gives what a new number leads to.
        """
        with self._lock:
            number = self._numbers.get((command, schema))
            if number is None and len(self.rows) < MAX_VERSIONS and len(schema) <= self._left:
                self._left -= len(schema)
                number = self._numbers[command, schema] = len(self.rows)
                self.rows.append(make())
            return number


class Link(Protocol):
    """What a peer needs of the connection to it."""

    def proxy(self, contract: Any, /) -> Any: ...
    def close(self, reason: str, /) -> None: ...
    def set_limit(self, max_message_size: int, /) -> None: ...
    def services(self) -> Mapping[str, bytes]: ...
    def receive_callback(self, origin: int, index: int, callback: Any, /) -> Any: ...


class Gather(Protocol[P, R]):
    """A command that is asked of many peers at once, as ``server.gather`` gives it."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> "dict[Peer, R | Exception]":
        """Ask, and wait for the answers: peer to result, or to the exception with which its call ended.

        Raises:
            BlockingCall: This is the thread of an event loop that answers come by.
            DefinitionError: The command takes callbacks.
            ArgumentError: The arguments do not fit.
        """
        ...

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> "dict[Peer, R | Exception]":
        """The same, awaited, from any event loop. If the task is cancelled, so are the calls.

        Raises:
            DefinitionError: The command takes callbacks.
            ArgumentError: The arguments do not fit.
        """
        ...


class PeerServer(Protocol):
    """The server of a peer, as handlers see it; in full it is ``typedrpc.Server``."""

    @property
    def url(self) -> str: ...
    @property
    def peers(self) -> "tuple[Peer, ...]": ...
    def peer(self, id: int, /) -> "Peer": ...
    @overload
    def broadcast(
        self, command: Command[Callable[P, None]], /, *, to: "Iterable[Peer] | None" = None
    ) -> Callable[P, int]: ...
    @overload
    def broadcast(
        self, command: Command[Callable[P, Coroutine[Any, Any, None]]], /, *, to: "Iterable[Peer] | None" = None
    ) -> Callable[P, int]: ...
    @overload
    def gather(
        self,
        command: Command[Callable[P, Coroutine[Any, Any, R]]],
        /,
        *,
        timeout: float | None = None,
        to: "Iterable[Peer] | None" = None,
    ) -> Gather[P, R]: ...
    @overload
    def gather(
        self, command: Command[Callable[P, R]], /, *, timeout: float | None = None, to: "Iterable[Peer] | None" = None
    ) -> Gather[P, R]: ...
    def close(self, grace: float = ...) -> object: ...


@final
class Peer:
    """The other end of a connection.

    Attributes:
        id: A number that no other peer of this process has or had.
        address: For people: where it connects from, ``"127.0.0.1:50214"``; at a client, the URL of the server.
        server: The server that it is connected to; None at a client.
        identity: Who it is, as far as the server has asked for that; None where it has not, and at a client.
        state: Whatever you want to keep with this connection. :meth:`state_as` gives it with its type.
    """

    __slots__ = ("__weakref__", "address", "id", "identity", "instances", "link", "server", "state", "versions")

    def __init__(self, id: int, address: str, server: PeerServer | None, link: Link) -> None:
        self.id = id
        self.address = address
        self.server = server
        self.identity: Identity | None = None
        self.state: Any = None
        self.versions = Versions()
        self.link = link
        self.instances: tuple[Service, ...] = ()  # the services that were made for this peer

    @overload
    def proxy(self, contract: Command[CallableT], /) -> BoundCommand[CallableT]: ...
    @overload
    def proxy(self, contract: Callable[..., ServiceT], /) -> ServiceT: ...
    def proxy(self, contract: Any, /) -> Any:
        """The proxy of a contract, or of a single command, that the peer exposes.

        A call that a handler makes by it, before it has answered the peer's own, is nested in that: the thread that
        waits there runs it.

        Args:
            contract: A subclass of ``Service``, abstract or not, or a command, such as a function of a
                ``FunctionService``.

        Raises:
            DefinitionError: It is no contract, or one that cannot be carried.
            ConnectionLost: The peer has left.
            DeadlineExceeded: It did not tell its contract within 10 s.
        """
        return self.link.proxy(contract)

    def exposes(self, contract: object) -> bool:
        """Whether the peer, a client, has said that it exposes the services of a contract, or of a command."""
        return services_of(contract).keys() <= self.link.services().keys()

    def state_as(self, kind: type[T]) -> T:
        """:attr:`state`, which must be of this type.

        Raises:
            RuntimeError: It is not, or was not set.
        """
        if not isinstance(self.state, kind):
            # No TypeError: a caller would take that for his arguments'.
            raise RuntimeError(f"the state of {self!r} is no {kind.__name__}: {self.state!r}")
        return self.state

    def set_limit(self, *, max_message_size: int) -> None:
        """Change the largest message that is accepted from this peer, in bytes, while it is connected.

        It is told. What it has sent before it knows is refused message by message, and the connection goes on.

        Raises:
            ValueError: The size is out of range.
            ConnectionLost: The peer has left.
        """
        self.link.set_limit(max_message_size)

    def close(self, reason: str = "") -> None:
        """End the connection; the peer is told the reason. Calls that wait on either side raise ``ConnectionLost``.

        In ``on_connect`` this refuses the peer: its ``connect`` raises ``ConnectFailed`` with the reason.
        """
        self.link.close(reason)

    def __repr__(self) -> str:
        return f"<peer {self.id} at {self.address}>"


_ids = count(1)


def next_peer_id() -> int:
    """A number that no peer of this process had before."""
    return next(_ids)
