"""thriftpy2: its compiled binary protocol and buffered transport, and a server with a thread for each connection.

`calls.thrift` is read when it starts. A connection is for one thread at a time, so 8 threads have 8. The client sets
TCP_NODELAY, and what the server accepts is made to do so. There is nothing for many calls at once, and there are no
streams. Structs are made of the dataclasses, and dataclasses of the structs that come back.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .base import LOCALHOST, Client, Item, Peer, in_background, no_delay


def _definition() -> Any:
    thriftpy2: Any = importlib.import_module("thriftpy2")
    return thriftpy2.load(str(Path(__file__).with_name("calls.thrift")), module_name="calls_thrift")


def _factories() -> dict[str, Any]:
    protocol: Any = importlib.import_module("thriftpy2.protocol")
    transport: Any = importlib.import_module("thriftpy2.transport")
    return {
        "proto_factory": protocol.TCyBinaryProtocolFactory(),
        "trans_factory": transport.TCyBufferedTransportFactory(),
    }


class _Calls:
    def add(self, a: int, b: int) -> int:
        return a + b

    def records(self, items: Any) -> Any:
        return items

    def echo(self, data: bytes) -> bytes:
        return data


@contextmanager
def _serve(path: str | None) -> Iterator[str]:
    rpc: Any = importlib.import_module("thriftpy2.rpc")
    # A port has to be named, and is taken from the socket below.
    server = rpc.make_server(
        _definition().Calls, _Calls(), LOCALHOST, 1, unix_socket=path, client_timeout=None, **_factories()
    )
    server.daemon = True
    if path is None:
        server.trans.port = 0
    server.trans.client_timeout = None  # what was passed counts for TCP alone: it would hang up after 3 s
    server.trans.listen()
    address = str(server.trans.sock.getsockname()[1]) if path is None else path
    server.trans.listen = lambda: None  # serve() would do so again, at another port
    accept = server.trans.accept

    def accept_without_delay() -> Any:
        transport = accept()
        no_delay(transport.sock)
        return transport

    server.trans.accept = accept_without_delay
    in_background(server.serve)
    yield address


@contextmanager
def _connect(address: str) -> Iterator[Client]:
    rpc: Any = importlib.import_module("thriftpy2.rpc")
    definition = _definition()
    at: dict[str, Any] = {"port": int(address)} if address.isdigit() else {"unix_socket": address}
    client = rpc.make_client(definition.Calls, LOCALHOST, timeout=None, **at, **_factories())
    struct = definition.Item

    def records(items: list[Item]) -> list[Item]:
        returned = client.records([struct(item.id, item.name, item.price, item.flag) for item in items])
        return [Item(item.id, item.name, item.price, item.flag) for item in returned]

    try:
        yield Client(add=client.add, records=records, echo=client.echo)
    finally:
        client.close()


PEER = Peer(
    serve=_serve,
    connect=_connect,
    packages=("thriftpy2",),
    shared=False,
    left_out={"map": "one call at a time on a connection", "stream": "it has none"},
)
