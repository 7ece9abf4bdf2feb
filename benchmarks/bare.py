"""What a bare socket does with the same bytes: the measure of everything that is promised as a ratio.

As a program it is the server: prints its port, and serves until its standard input ends. Each connection says first
what it is for.
"""

import argparse
import socket
import threading
from enum import IntEnum
from struct import Struct

from processes import end_with_input
from workload import pin

PREFACE = Struct(">BII")
RECEIVE_SIZE = 64 * 1024


class Purpose(IntEnum):
    """What a connection does."""

    EXCHANGE = 1
    """A request of so many bytes, an answer of so many, and again; neither larger than one read."""

    RETURN = 2
    """So many bytes there, and when all have come, the same back."""

    CROSS = 3
    """So many bytes each way at the same time, started by one byte of the client."""


def dial(port: int, purpose: Purpose, there: int, back: int) -> socket.socket:
    """A connection for a purpose, with the bytes that go there and come back each time."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(PREFACE.pack(purpose, there, back))
    return sock


def exchange(sock: socket.socket, request: bytes, count: int) -> None:
    """``count`` requests, one after another."""
    send, receive = sock.send, sock.recv
    for _ in range(count):
        send(request)
        receive(RECEIVE_SIZE)


def receive_exactly(sock: socket.socket, buffer: bytearray) -> bool:
    """Fill a buffer. Returns False when the peer has left."""
    view = memoryview(buffer)
    while view:
        count = sock.recv_into(view)
        if not count:
            return False
        view = view[count:]
    return True


def cross(sock: socket.socket, data: bytes, buffer: bytearray) -> bool:
    """Send and fill a buffer at the same time. Returns False when the peer has left."""
    sender = threading.Thread(target=sock.sendall, args=(data,))
    sender.start()
    complete = receive_exactly(sock, buffer)
    sender.join()
    return complete


def _serve(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    preface = bytearray(PREFACE.size)
    receive_exactly(sock, preface)
    purpose, there, back = PREFACE.unpack(preface)
    if purpose == Purpose.EXCHANGE:
        answer = bytes(back)
        while sock.recv(RECEIVE_SIZE):
            sock.send(answer)
        return
    buffer = bytearray(there)
    if purpose == Purpose.RETURN:
        while receive_exactly(sock, buffer):
            sock.sendall(buffer)
    else:
        data = bytes(back)
        while sock.recv(1) and cross(sock, data, buffer):
            pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cpu", type=int)
    arguments = parser.parse_args()
    pin(arguments.cpu)
    end_with_input()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            sock, _ = listener.accept()
            with sock:
                _serve(sock)


if __name__ == "__main__":
    main()
