"""RPyC: a ThreadedServer, and references to remote functions that are fetched once and then called.

TCP_NODELAY is set on both sides. What is longer than 3,000 bytes would be packed by zlib: that is switched off, as it
only costs time on one machine. Large messages are written by the MiB: after each write it copies what is left, so that
with its 64 KB a message of 64 MiB takes 40 s. Threads share a connection. `map` is `async_` of the function, with up to
1,000 results on their way. The 100 records are plain tuples: a dict or an object would travel as a reference, and cost
a call for each look at it. A stream is a reference to a generator, each item of which is asked for by a call.
"""

import importlib
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from .base import ITEMS, LOCALHOST, Client, Peer, count, in_background, no_delay

AHEAD: Final = 1000
ROWS: Final = tuple((item.id, item.name, item.price, item.flag) for item in ITEMS)


def _rpyc() -> Any:
    rpyc: Any = importlib.import_module("rpyc")
    rpyc.core.stream.SocketStream.MAX_IO_CHUNK = 1024 * 1024
    return rpyc


@contextmanager
def _serve(path: str | None) -> Iterator[str]:
    rpyc: Any = _rpyc()

    class Calls(rpyc.Service):  # type: ignore[misc]  # Any
        def on_connect(self, connection: Any) -> None:
            connection._channel.compress = False

        def exposed_add(self, a: int, b: int) -> int:
            return a + b

        def exposed_records(self, rows: Any) -> Any:
            return rows

        def exposed_count(self, number: int) -> Iterator[int]:
            return count(number)

        def exposed_echo(self, data: bytes) -> bytes:
            return data

    class Threaded(rpyc.ThreadedServer):  # type: ignore[misc]  # Any
        def _accept_method(self, sock: socket.socket) -> None:
            no_delay(sock)
            super()._accept_method(sock)

    at = {"hostname": LOCALHOST, "port": 0} if path is None else {"socket_path": path}
    server = Threaded(Calls, backlog=1024, **at)
    server._listen()
    in_background(server.start)
    yield str(server.port) if path is None else path


@contextmanager
def _connect(address: str) -> Iterator[Client]:
    rpyc: Any = _rpyc()
    stream = rpyc.core.stream.SocketStream
    if address.isdigit():
        opened = stream.connect(LOCALHOST, int(address), nodelay=True)
    else:
        opened = stream.unix_connect(address)
    channel = rpyc.core.channel.Channel(opened, compress=False)
    with rpyc.utils.factory.connect_channel(channel, config={"sync_request_timeout": None}) as connection:
        root = connection.root
        add = root.add
        add_later = rpyc.async_(add)

        def map(xs: Sequence[int], ys: Sequence[int]) -> Iterator[int]:
            results: deque[Any] = deque()
            for x, y in zip(xs, ys, strict=True):
                results.append(add_later(x, y))
                if len(results) > AHEAD:
                    yield results.popleft().value
            for result in results:
                yield result.value

        yield Client(add=add, map=map, records=root.records, items=ROWS, stream=root.count, echo=root.echo)


PEER = Peer(
    serve=_serve,
    connect=_connect,
    packages=("rpyc",),
    notes={"records": "as plain tuples"},
)
