"""The least that typed calls take: a header of 16 bytes, msgpack, type checks at both ends, and nothing else.

Blocking sockets, and a thread for each connection at the server. No handshake, deadline, cancellation or limit, and
one caller at a time. What is said when a check fails is a bare TypeError. In `map`, 512 calls are on their way before
the first answer is read; the server gathers its answers as long as further requests lie in what it has read.
"""

import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from struct import Struct
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]  # it ships no types

from .base import Client, Item, Peer, accept_in_threads, count, dial, listen

HEADER: Final = Struct(">IIHHI")
"""Length of the payload, command, and what a protocol would have beside them."""
ADD, RECORDS, COUNT, ECHO, END = range(5)
AHEAD: Final = 512
READ_SIZE: Final = 64 * 1024


class Link:
    """Frames over a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._data = b""
        self._start = 0
        self._pack: Callable[[object], bytes] = msgpack.Packer().pack
        self._out: list[bytes] = []
        self._out_size = 0

    def put(self, command: int, value: object) -> None:
        """Add a frame to what leaves with the next flush."""
        payload = self._pack(value)
        self._out += HEADER.pack(len(payload), command, 0, 0, 0), payload
        self._out_size += len(payload)
        if self._out_size > READ_SIZE:
            self.flush()

    def flush(self) -> None:
        """Send all frames. What is large is sent without being copied into one piece."""
        if self._out_size > READ_SIZE:
            for part in self._out:
                self._sock.sendall(part)
        else:
            self._sock.sendall(b"".join(self._out))
        self._out.clear()
        self._out_size = 0

    def more(self) -> bool:
        """Whether something of the next frame has been read."""
        return self._start < len(self._data)

    def receive(self) -> tuple[int, Any]:
        """The next frame: its command, its value."""
        while len(self._data) - self._start < HEADER.size:
            self._read()
        length, command, *_ = HEADER.unpack_from(self._data, self._start)
        begin = self._start + HEADER.size
        end = begin + length
        if end <= len(self._data):
            payload: bytes | bytearray = self._data[begin:end]
            self._start = end
        else:
            payload = self._read_long(begin, length)
        return command, msgpack.unpackb(payload)

    def _read(self) -> None:
        data = self._sock.recv(READ_SIZE)
        if not data:
            raise EOFError
        self._data = self._data[self._start :] + data
        self._start = 0

    def _read_long(self, begin: int, length: int) -> bytearray:
        payload = bytearray(length)
        view = memoryview(payload)
        start = len(self._data) - begin
        view[:start] = memoryview(self._data)[begin:]
        while start < length:
            received = self._sock.recv_into(view[start:])
            if not received:
                raise EOFError
            start += received
        self._data, self._start = b"", 0
        return payload


def checked(value: Any, kind: type) -> Any:
    """The value, if it is of exactly that type."""
    if type(value) is not kind:
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def two_ints(value: Any) -> tuple[int, int]:
    a, b = value
    if type(a) is not int or type(b) is not int:
        raise TypeError(f"{value!r} are not two ints")
    return a, b


def rows_of(items: Any) -> list[tuple[int, str, float, bool]]:
    """Items as what msgpack knows, checked."""
    if type(items) is not list:
        raise TypeError("no list")
    rows = []
    for item in items:
        if type(item) is not Item:
            raise TypeError("no Item")
        id, name, price, flag = item.id, item.name, item.price, item.flag
        if type(id) is not int or type(name) is not str or type(price) is not float or type(flag) is not bool:
            raise TypeError(f"{item!r} has a field of another type")
        rows.append((id, name, price, flag))
    return rows


def items_of(rows: Any) -> list[Item]:
    """The way back, checked."""
    if type(rows) is not list:
        raise TypeError("no list")
    items = []
    for id, name, price, flag in rows:
        if type(id) is not int or type(name) is not str or type(price) is not float or type(flag) is not bool:
            raise TypeError("a field of another type")
        items.append(Item(id, name, price, flag))
    return items


def _answer(sock: socket.socket) -> None:
    link = Link(sock)
    while True:
        command, value = link.receive()
        if command == ADD:
            a, b = two_ints(value)
            link.put(ADD, checked(a + b, int))
        elif command == RECORDS:
            link.put(RECORDS, rows_of(items_of(value)))
        elif command == ECHO:
            link.put(ECHO, checked(value, bytes))
        else:
            for number in count(checked(value, int)):
                link.put(COUNT, checked(number, int))
            link.put(END, None)
        if not link.more():
            link.flush()


@contextmanager
def _serve(path: str | None) -> Iterator[str]:
    listener, address = listen(path)
    accept_in_threads(listener, _answer)
    with listener:
        yield address


@contextmanager
def _connect(address: str) -> Iterator[Client]:
    with dial(address) as sock:
        link = Link(sock)

        def call(command: int, value: object) -> Any:
            link.put(command, value)
            link.flush()
            return link.receive()[1]

        def add(a: int, b: int) -> Any:
            return checked(call(ADD, two_ints((a, b))), int)

        def map(xs: Sequence[int], ys: Sequence[int]) -> Iterable[int]:
            waiting = 0
            for number, two in enumerate(zip(xs, ys, strict=True), 1):
                link.put(ADD, two_ints(two))
                if number % AHEAD == 0:
                    link.flush()
                    for _ in range(waiting):
                        yield checked(link.receive()[1], int)
                    waiting = AHEAD
            link.flush()
            for _ in range(waiting + len(xs) % AHEAD):
                yield checked(link.receive()[1], int)

        def stream(number: int) -> Iterator[int]:
            link.put(COUNT, checked(number, int))
            link.flush()
            while (item := link.receive())[0] != END:
                yield checked(item[1], int)

        yield Client(
            add=add,
            map=map,
            records=lambda items: items_of(call(RECORDS, rows_of(items))),
            stream=stream,
            echo=lambda data: checked(call(ECHO, checked(data, bytes)), bytes),
        )


PEER = Peer(serve=_serve, connect=_connect, shared=False)
