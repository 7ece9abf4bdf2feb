"""What everything is compared with: blocking sockets, and as many bytes back as came.

A connection says first how long its messages are. Nobody looks at what is in them. Bytes are received into one buffer,
which is used again and again. There is nothing that many calls at once or a stream would be: without a header for
each, 20 000 items are only bytes.
"""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from struct import Struct
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]  # it ships no types

from .base import ROWS, Client, Peer, accept_in_threads, dial, listen

SIZE: Final = Struct(">I")
SMALL: Final = bytes(16)
"""As many bytes as a typed call of two small ints, more or less."""
RECORDS: Final = bytes(len(msgpack.Packer().pack([list(row.values()) for row in ROWS])))
"""As many bytes as the 100 dataclasses need."""


def _receive(sock: socket.socket, buffer: bytearray) -> None:
    """Fill a buffer."""
    view = memoryview(buffer)
    while view:
        received = sock.recv_into(view)
        if not received:
            raise EOFError
        view = view[received:]


def _answer(sock: socket.socket) -> None:
    size = bytearray(SIZE.size)
    _receive(sock, size)
    buffer = bytearray(*SIZE.unpack(size))
    if len(buffer) == len(SMALL):
        while data := sock.recv(len(SMALL)):  # what is so short comes whole
            sock.send(data)
        return
    while True:
        _receive(sock, buffer)
        sock.sendall(buffer)


@contextmanager
def _serve(path: str | None) -> Iterator[str]:
    listener, address = listen(path)
    accept_in_threads(listener, _answer)
    with listener:
        yield address


@contextmanager
def _connect(address: str) -> Iterator[Client]:
    with ExitStack() as stack:
        sockets: dict[int, tuple[socket.socket, bytearray]] = {}

        def connection(size: int) -> tuple[socket.socket, bytearray]:
            if size not in sockets:
                sock = stack.enter_context(dial(address))
                sock.sendall(SIZE.pack(size))
                sockets[size] = sock, bytearray(size)
            return sockets[size]

        small, _ = connection(len(SMALL))
        send, receive = small.send, small.recv

        def add(a: int, b: int) -> int:
            send(SMALL)
            receive(len(SMALL))
            return a + b

        def echo(data: bytes) -> bytearray:
            sock, buffer = connection(len(data))
            sock.sendall(data)
            _receive(sock, buffer)
            return buffer

        def records(items: Any) -> Any:
            echo(RECORDS)
            return items

        yield Client(add=add, records=records, echo=echo)


PEER = Peer(
    serve=_serve,
    connect=_connect,
    shared=False,
    left_out=dict.fromkeys(("map", "stream"), "without a header for each, many are only bytes"),
)
