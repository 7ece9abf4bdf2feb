"""zerorpc: a server and clients with a gevent loop for each thread that has one.

Heartbeats are switched off: with them each call has a greenlet more. `map` is `async_=True`, up to 100 calls on their
way. A client belongs to its thread, so 8 threads have 8. 0MQ sets TCP_NODELAY itself.
"""

import importlib
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from .base import LOCALHOST, ROWS, Client, Peer, count, in_background

AHEAD: Final = 100


@contextmanager
def _serve(path: str | None) -> Iterator[str]:
    zerorpc: Any = importlib.import_module("zerorpc")
    zmq: Any = importlib.import_module("zmq")

    class Calls:
        def add(self, a: int, b: int) -> int:
            return a + b

        def records(self, rows: Any) -> Any:
            return rows

        def echo(self, data: bytes) -> bytes:
            return data

        def numbers(self, number: int) -> Iterator[int]:
            return count(number)

        numbers = zerorpc.stream(numbers)

    addresses: list[str] = []
    bound = threading.Event()

    def run() -> None:
        server = zerorpc.Server(Calls(), heartbeat=None)
        server.bind(f"tcp://{LOCALHOST}:0" if path is None else f"ipc://{path}")
        addresses.append(server._events._socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode())
        bound.set()
        server.run()

    in_background(run)
    if not bound.wait(10):
        raise RuntimeError("zerorpc does not listen")
    yield addresses[0]


@contextmanager
def _connect(address: str) -> Iterator[Client]:
    zerorpc: Any = importlib.import_module("zerorpc")
    client = zerorpc.Client(address, heartbeat=None, timeout=120)
    add = client.add

    def map(xs: Sequence[int], ys: Sequence[int]) -> Iterator[int]:
        results: deque[Any] = deque()
        for x, y in zip(xs, ys, strict=True):
            results.append(client("add", x, y, **{"async": True}))
            if len(results) > AHEAD:
                yield results.popleft().get()
        for result in results:
            yield result.get()

    try:
        yield Client(add=add, map=map, records=client.records, items=ROWS, stream=client.numbers, echo=client.echo)
    finally:
        client.close()


PEER = Peer(serve=_serve, connect=_connect, packages=("zerorpc",), shared=False)
