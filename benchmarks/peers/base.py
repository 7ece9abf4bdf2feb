"""What `bench.py` asks of a peer, and the values that all of them are given."""

import importlib.util
import socket
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final

LOCALHOST: Final = "127.0.0.1"
LARGEST: Final = 80 * 1024 * 1024
"""The limit of a message, for peers that have one: 64 MiB and what is around them."""


@dataclass
class Item:
    """One of the 100 that are sent there and back."""

    id: int
    name: str
    price: float
    flag: bool


ITEMS: Final = [Item(number, f"item {number}", number * 1.25, number % 2 == 0) for number in range(100)]
ROWS: Final = [asdict(item) for item in ITEMS]
"""The same for peers that have no types of their own: they send dicts, and are spared to make dataclasses of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A connection, as the works use it. What a peer cannot do is None.

    Attributes:
        add: Two ints there, their sum back.
        map: The same for each two of many, by whatever the peer has for many calls.
        records: What ``items`` holds there, and an equal value back.
        items: The 100 dataclasses, or what the peer has in place of them.
        stream: The ints from 0, so many, produced one by one at the server.
        echo: Bytes there and back.
        run: Runs a coroutine to its end. Where it is given, ``add``, ``records`` and ``echo`` are coroutine functions,
            so that a peer with an event loop is not made to start and stop it for each call.
    """

    add: Callable[[int, int], Any]
    map: Callable[[Sequence[int], Sequence[int]], Iterable[int]] | None = None
    records: Callable[[Any], Any] | None = None
    items: Any = field(default_factory=lambda: ITEMS)
    stream: Callable[[int], Iterable[int]] | None = None
    echo: Callable[[bytes], Any] | None = None
    run: Callable[[Coroutine[Any, Any, Any]], Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A library, or one of the ways in which it can be used.

    Attributes:
        serve: A server that runs as long as the context, at a unix socket of that path, or over TCP where it is None;
            what ``connect`` needs to know. It has to run in threads of its own.
        connect: A connection to that address.
        packages: What has to be importable.
        shared: Whether threads may share a connection. If not, each has one of its own.
        left_out: The works that it cannot do, each with the reason.
        notes: What is to be known of how it does a work.
    """

    serve: Callable[[str | None], AbstractContextManager[str]]
    connect: Callable[[str], AbstractContextManager[Client]]
    packages: tuple[str, ...] = ()
    shared: bool = True
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    def missing(self) -> list[str]:
        """Those of its packages that are not installed."""
        return [name for name in self.packages if importlib.util.find_spec(name) is None]


def count(number: int) -> Iterator[int]:
    """What the servers stream."""
    yield from range(number)


def listen(path: str | None) -> tuple[socket.socket, str]:
    """A listening socket, and its address: a port or a path."""
    if path is None:
        listener = socket.create_server((LOCALHOST, 0), backlog=1024)
        return listener, str(listener.getsockname()[1])
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1024)
    return listener, path


def dial(address: str) -> socket.socket:
    """A connection to such an address."""
    if address.isdigit():
        sock = socket.create_connection((LOCALHOST, int(address)))
        no_delay(sock)
        return sock
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(address)
    return sock


def no_delay(sock: socket.socket) -> None:
    """Let small messages leave at once."""
    if sock.family != getattr(socket, "AF_UNIX", None):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def accept_in_threads(listener: socket.socket, handle: Callable[[socket.socket], None]) -> None:
    """Give each connection a thread, in the background. A connection that ends is no error."""

    def serve(sock: socket.socket) -> None:
        with sock:
            no_delay(sock)
            with suppress(EOFError, ConnectionError):
                handle(sock)

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:  # the listener is closed
                return
            in_background(serve, sock)

    in_background(accept)


def in_background(function: Callable[..., object], *arguments: object) -> threading.Thread:
    """Run a function in a thread that does not keep the process."""
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread
