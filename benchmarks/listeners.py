"""A process of many clients that expose a listener, as cheap as they can be: bare sockets, and one selector for all.

They say hello as any client does; what comes is compared byte by byte with what has to come. Arguments: the URL, how
many, and with ``--messages`` how many messages of ``--size`` characters are to come; without it they never read. Prints
``ready`` when all are in, the number of messages that all have got now and then, and at the end how many have got
everything.
"""

import argparse
import selectors
import socket
import threading
from collections import Counter

from processes import end_with_input

from typedrpc import Service, rpc
from typedrpc.agreement import digest_of
from typedrpc.messages import Hello, Limits, pack_hello
from typedrpc.service import services_of
from typedrpc.wire import HEADER, HEADER_SIZE, PREAMBLE, Kind, encode

STEP = 5
"""Messages after which it is told that all have got them."""

SMALL_BUFFER = 4096


class Listener(Service):
    """What the clients expose."""

    @rpc(id=1)
    def on_text(self, number: int, text: str) -> None: ...


def frame_of(number: int, size: int) -> bytes:
    """One message as it comes."""
    frame = encode(Kind.NOTIFY, 1, 0, Listener.on_text.codec.pack_arguments(number, "x" * size))
    return frame if isinstance(frame, bytes) else b"".join(frame)


def enter(url: str, *, small: bool) -> socket.socket:
    """Connect, and return when the server has let this client in."""
    host, _, port = url.removeprefix("tcp://").rpartition(":")
    sock = socket.socket()
    if small:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    sock.connect((host, int(port)))
    hello = pack_hello(Hello(Limits(), {name: digest_of(commands) for name, commands in services_of(Listener).items()}))
    sock.sendall(PREAMBLE + HEADER.pack(len(hello), Kind.HELLO, 0, 0, 0) + hello)
    _receive(sock, len(PREAMBLE))
    kind = 0
    while kind != Kind.WELCOME:
        length, kind, *_ = HEADER.unpack(_receive(sock, HEADER_SIZE))
        _receive(sock, length)
    return sock


def _receive(sock: socket.socket, count: int) -> bytes:
    return sock.recv(count, socket.MSG_WAITALL) if count else b""


class Readers:
    """Reads from all of them until each has everything, or has got something wrong, or was cut off."""

    def __init__(self, socks: list[socket.socket], frames: list[bytes]) -> None:
        self._expected = memoryview(b"".join(frames))
        self._steps = [sum(map(len, frames[:count])) for count in range(STEP, len(frames) + 1, STEP)]
        self._places = dict.fromkeys(socks, 0)
        self._passed = Counter[int]()
        self._selector = selectors.DefaultSelector()
        for sock in socks:
            self._selector.register(sock, selectors.EVENT_READ, 0)
        self.complete = 0

    def run(self) -> None:
        buffer = bytearray(1 << 18)
        view = memoryview(buffer)
        while self._selector.get_map():
            for key, _ in self._selector.select():
                sock, step = key.fileobj, key.data
                assert isinstance(sock, socket.socket)
                try:
                    count = sock.recv_into(buffer)
                except ConnectionResetError:
                    count = 0
                place = self._places[sock]
                good = count > 0 and self._expected[place : place + count] == view[:count]
                place += count
                self._places[sock] = place
                over = not good or place == len(self._expected)
                self.complete += good and over
                reached = step
                while reached < len(self._steps) and (over or place >= self._steps[reached]):
                    reached += 1
                    self._passed[reached] += 1
                    if self._passed[reached] == len(self._places):
                        print(reached * STEP, flush=True)
                if over:
                    self._selector.unregister(sock)
                elif reached != step:
                    self._selector.modify(sock, selectors.EVENT_READ, reached)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("count", type=int)
    parser.add_argument("--messages", type=int)
    parser.add_argument("--size", type=int, default=0)
    arguments = parser.parse_args()
    socks = [enter(arguments.url, small=arguments.messages is None) for _ in range(arguments.count)]
    print("ready", flush=True)
    end_with_input()
    messages: int | None = arguments.messages
    if messages is None:
        threading.Event().wait()  # until the input ends
        return
    readers = Readers(socks, [frame_of(number, arguments.size) for number in range(messages)])
    readers.run()
    print(f"complete {readers.complete}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
