"""vgi-rpc: an Arrow batch for each call, over its raw TCP and unix transports; for Python 3.13.

The server has a thread for each connection; a connection is for one thread. It sets TCP_NODELAY itself. What it
validates of batches by itself, it validates here. The 100 records are dataclasses of its own kind. Its streams are made
for batches of many rows; here each int is a batch, as it is produced by itself: whoever has columns has other speeds.
"""

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any, Protocol

from .base import ITEMS, LOCALHOST, Client, Peer, in_background


@cache
def _definition() -> Any:
    """Its classes, and the contract made of them."""
    vgi: Any = importlib.import_module("vgi_rpc")
    arrow: Any = importlib.import_module("pyarrow")
    schema = arrow.schema([arrow.field("value", arrow.int64())])

    @dataclass(frozen=True)
    class Row(vgi.ArrowSerializableDataclass):  # type: ignore[misc]  # Any
        id: int
        name: str
        price: float
        flag: bool

    @dataclass
    class Count(vgi.ProducerState):  # type: ignore[misc]  # Any
        number: int
        value: int = 0

        def produce(self, out: Any, context: Any) -> None:
            if self.value == self.number:
                out.finish()
                return
            out.emit_pydict({"value": [self.value]})
            self.value += 1

    class Calls(Protocol):
        def add(self, a: int, b: int) -> int: ...
        def records(self, rows: list[Row]) -> list[Row]: ...
        def echo(self, data: bytes) -> bytes: ...
        def count(self, number: int) -> Any: ...

        count.__annotations__["return"] = vgi.Stream[vgi.ProducerState]  # type checkers cannot know it

    class Handlers:
        def add(self, a: int, b: int) -> int:
            return a + b

        def records(self, rows: list[Row]) -> list[Row]:
            return rows

        def echo(self, data: bytes) -> bytes:
            return data

        def count(self, number: int) -> Any:
            return vgi.Stream(output_schema=schema, state=Count(number))

    return SimpleNamespace(Calls=Calls, Handlers=Handlers, items=[Row(**asdict(item)) for item in ITEMS])


@contextmanager
def _serve(path: str | None) -> Iterator[str]:
    vgi: Any = importlib.import_module("vgi_rpc")
    transport: Any = importlib.import_module("vgi_rpc.rpc._transport")
    definition = _definition()
    server = vgi.RpcServer(definition.Calls, definition.Handlers())
    addresses: list[str] = []
    bound = threading.Event()

    def tell(*address: object) -> None:
        addresses.append(str(address[-1]))
        bound.set()

    def run() -> None:
        if path is None:
            transport.serve_tcp(server, LOCALHOST, 0, threaded=True, on_bound=tell)
        else:
            transport.serve_unix(server, path, threaded=True, on_bound=tell)

    in_background(run)
    if not bound.wait(10):
        raise RuntimeError("vgi-rpc does not listen")
    yield addresses[0]


@contextmanager
def _connect(address: str) -> Iterator[Client]:
    rpc: Any = importlib.import_module("vgi_rpc.rpc")
    definition = _definition()
    if address.isdigit():
        opened = rpc.tcp_connect(definition.Calls, LOCALHOST, int(address))
    else:
        opened = rpc.unix_connect(definition.Calls, address)
    with opened as calls:
        add, records, echo = calls.add, calls.records, calls.echo

        def stream(number: int) -> Iterator[int]:
            for one in calls.count(number=number):
                yield one.batch.column(0)[0].as_py()

        yield Client(
            add=lambda a, b: add(a=a, b=b),
            records=lambda rows: records(rows=rows),
            items=definition.items,
            stream=stream,
            echo=lambda data: echo(data=data),
        )


PEER = Peer(
    serve=_serve,
    connect=_connect,
    packages=("vgi_rpc", "pyarrow"),
    shared=False,
    left_out={"map": "one call at a time on a connection"},
    notes={"stream": "a batch for each int"},
)
