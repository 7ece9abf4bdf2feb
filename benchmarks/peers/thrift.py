"""thriftpy2: its compiled binary protocol and buffered transport, and a server with a thread for each connection.

`calls.thrift` is read when it starts. A connection is for one thread at a time, so 8 threads have 8. The client sets
TCP_NODELAY, and what the server accepts is made to do so. There is nothing for many calls at once, and there are no
streams. Structs are made of the dataclasses, and dataclasses of the structs that come back.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from .base import LOCALHOST, Client, Item, Peer, in_background, no_delay

TIME_OUT: Final = 30_000
"""Milliseconds. Unless it is told otherwise it has time-outs, of 3 s, and asks the system before each read whether
something has come; a turn may take longer than 3 s, and what they cost does not depend on how long they are."""


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
def _serve(path: str | None, timeout: int | None = None) -> Iterator[str]:
    rpc: Any = importlib.import_module("thriftpy2.rpc")
    # A port has to be named, and is taken from the socket below.
    server = rpc.make_server(
        _definition().Calls, _Calls(), LOCALHOST, 1, unix_socket=path, client_timeout=timeout, **_factories()
    )
    server.daemon = True
    if path is None:
        server.trans.port = 0
    server.trans.client_timeout = timeout  # what was passed counts for TCP alone: it would hang up after 3 s
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
def _connect(address: str, timeout: int | None = None) -> Iterator[Client]:
    rpc: Any = importlib.import_module("thriftpy2.rpc")
    definition = _definition()
    at: dict[str, Any] = {"port": int(address)} if address.isdigit() else {"unix_socket": address}
    client = rpc.make_client(definition.Calls, LOCALHOST, timeout=timeout, **at, **_factories())
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
WITH_TIME_OUTS = replace(
    PEER,
    serve=partial(_serve, timeout=TIME_OUT),
    connect=partial(_connect, timeout=TIME_OUT),
    left_out={**PEER.left_out, **dict.fromkeys(("records", "1 MiB", "64 MiB", "connections"), "see above")},
)
