"""Promises about peers that send what they should not: little memory, an end in time, and nobody else notices.

For each kind of bad input there is a fresh server, several peers that send it at the same time, and a client in a
process of its own that calls meanwhile.
"""

import contextlib
import json
import random
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from time import monotonic, sleep
from typing import Literal, NamedTuple

from figures import Figure
from processes import Process, serve_workload
from workload import Workload, memory_of

from typedrpc import connect
from typedrpc.codec import Payload
from typedrpc.messages import Hello, Limits
from typedrpc.protocol import Outgoing, Protocol
from typedrpc.service import commands_of
from typedrpc.wire import HEADER, RECEIVE_SIZE, Frame, FrameReader, Kind, encode

MEMORY_LIMIT = 10.0
OTHERS_LIMIT = 50.0
PATIENCE = 8.0

Outcome = Literal["cut off", "refused, connection kept", "left alone"]

ADD, WAIT = commands_of(Workload)["add"], commands_of(Workload)["wait"]
MAX_MESSAGE_SIZE = Limits().max_message_size


def _joined(data: Outgoing) -> bytes:
    return data if isinstance(data, bytes) else b"".join(data)


def _call(payload: Payload, *, id: int = ADD.id, call: int = 1) -> bytes:
    return _joined(encode(Kind.REQUEST, id, call, payload))


GREETING = b"".join(_joined(data) for data in Protocol[object](client=True, hello=Hello(Limits())).outgoing)
GOOD_CALL = _call(ADD.codec.pack_arguments(1, 2), call=99)
WAIT_CALL = _call(WAIT.codec.pack_arguments(0.5), id=WAIT.id)


def _tls_hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with contextlib.suppress(ssl.SSLWantReadError):  # it has said hello, and waits
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


@dataclass(frozen=True, slots=True)
class BadInput:
    """What a peer sends, and what it should come to.

    Attributes:
        name: In the table.
        send: Given the number of the peer, what it sends.
        outcome: What should become of it.
        after_greeting: Whether it shakes hands first, as a good client does.
        hang_up: Whether it closes its half of the connection afterwards.
        drip: Whether it sends a byte a second.
    """

    name: str
    send: Callable[[int], bytes]
    outcome: Outcome = "cut off"
    after_greeting: bool = True
    hang_up: bool = False
    drip: bool = False


KINDS = [
    BadInput("an HTTP request", lambda _: b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", after_greeting=False),
    BadInput("random bytes", lambda peer: random.Random(peer).randbytes(100_000), after_greeting=False),
    BadInput("a TLS hello", lambda _: _tls_hello(), after_greeting=False),
    BadInput("nothing at all", lambda _: b"", after_greeting=False),
    BadInput("random bytes after the handshake", lambda peer: random.Random(peer).randbytes(100_000)),
    BadInput("a header for 4 GiB", lambda _: HEADER.pack(2**32 - 1, Kind.REQUEST, 0, ADD.id, 1) + b"x" * 999),
    BadInput(
        "a header for 16 MiB, and no more",
        lambda _: HEADER.pack(MAX_MESSAGE_SIZE, Kind.REQUEST, 0, ADD.id, 1),
        "left alone",
    ),
    BadInput("a truncated frame", lambda _: _call(b"x" * 1000)[:500], hang_up=True),
    BadInput("a payload that is not msgpack", lambda _: _call(b"\xc1" * 1000), "refused, connection kept"),
    BadInput("msgpack nested 100 000 deep", lambda _: _call(b"\x91" * 100_000 + b"\xc0"), "refused, connection kept"),
    BadInput("wrong types in a good payload", lambda _: _call(b"\x92\xa1x\xc3"), "refused, connection kept"),
    BadInput("a frame of unknown kind 0x7f", lambda _: HEADER.pack(0, 0x7F, 0, 0, 0)),
    BadInput("a duplicate call id", lambda _: WAIT_CALL * 2),
    BadInput("a byte a second, from the start", lambda _: GREETING, after_greeting=False, drip=True),
    BadInput("a byte a second, within a call", lambda _: _call(b"x" * 1000), "left alone", drip=True),
]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of it.

    Attributes:
        peers: How many send bad input at a time.
        lasting: Seconds for which new ones come, where they are dealt with at once.
        handshake_time: Seconds that the server gives them to shake hands.
        pause: Seconds between the bytes of those that send one at a time.
        kinds: How many kinds are tried at a time. More than one at a time disturb each other's times.
    """

    peers: int = 10
    lasting: float = 0.5
    handshake_time: float = 2.0
    pause: float = 1.0
    kinds: int = 1


QUICK = Scale(peers=2, lasting=0.0, handshake_time=0.3, pause=0.1, kinds=3)


def bad_input(quick: bool) -> list[Figure]:
    """Each kind, and what the good client saw of all of them."""
    scale = QUICK if quick else Scale()
    with ThreadPoolExecutor(scale.kinds) as pool:
        tried = list(pool.map(lambda kind: _try(kind, scale), KINDS))
    slowest, name = max((one.slowest_call, kind.name) for one, kind in zip(tried, KINDS, strict=True))
    promise = "the slowest call of a good client meanwhile, all kinds of bad input"
    note = f"of {sum(one.good_calls for one in tried):,}; beside {name}"
    others = Figure(promise=promise, measured=slowest, unit="ms", limit=OTHERS_LIMIT, note=note)
    return [*(one.figure for one in tried), others]


class Tried(NamedTuple):
    """What one kind came to. The slowest call of the good client is in ms."""

    figure: Figure
    good_calls: int
    slowest_call: float


def _try(kind: BadInput, scale: Scale) -> Tried:
    """Try one kind."""
    with (
        serve_workload("--handshake-timeout", scale.handshake_time) as server,
        connect(Workload, server.first_line) as observer,
        Process("caller.py", "steady", server.first_line) as good,
    ):
        observer.usage()
        before = memory_of(server.pid)
        start = monotonic()
        count = expected = warnings = 0
        outcomes: set[str] = set()
        while not count or (kind.outcome != "left alone" and monotonic() - start < scale.lasting):
            peers = [_Peer(kind, number, server.first_line) for number in range(scale.peers)]
            outcomes |= _misbehave(peers, scale)
            count += len(peers)
            expected = count if kind.outcome == "cut off" else 0
            warnings = _count_warnings(observer, expected)
            for peer in peers:
                peer.sock.close()
        passed = monotonic() - start
        after = memory_of(server.pid)
        good.end_input()
        seen = json.loads(good.read_line() or '{"calls": 0, "slowest": 0}')
    faults = []
    if outcomes != {kind.outcome}:
        faults.append(f"not all were {kind.outcome}, but {', '.join(sorted(outcomes))}")
    if warnings != expected:
        faults.append(f"{warnings} log lines, not {expected}")
    if not seen["calls"]:
        faults.append("the good client failed")
    figure = Figure(
        promise=f"memory of a server under bad input: {kind.name}",
        unit="MiB",
        limit=MEMORY_LIMIT,
        note=f"{count} peers {kind.outcome} in {passed:.1f} s, {warnings} log lines; "
        f"{seen['calls']} good calls, the slowest {seen['slowest']:.1f} ms",
        fault="; ".join(faults),
    )
    if before is not None and after is not None:
        figure = replace(figure, measured=max(0.0, after.peak - before.now))
    return Tried(figure, seen["calls"], seen["slowest"])


def _count_warnings(observer: Workload, expected: int) -> int:
    """The log lines of the server; a connection is cut off a moment before the line is written."""
    deadline = monotonic() + 1.0
    while (count := observer.usage().warnings) < expected and monotonic() < deadline:
        sleep(0.005)
    return count


def _misbehave(peers: list["_Peer"], scale: Scale) -> set[str]:
    """Let all peers send their bad input at the same time: what became of their connections."""
    for peer in peers:
        data = peer.kind.send(peer.number)
        peer.rest = data[1:] if peer.kind.drip else b""
        peer.send(data[:1] if peer.kind.drip else data)
        if peer.kind.hang_up:
            peer.sock.shutdown(socket.SHUT_WR)
    if peers[0].kind.drip:
        # A little longer than a handshake may take.
        for position in range(round(1 + scale.handshake_time / scale.pause)):
            sleep(scale.pause)
            for peer in peers:
                peer.send(peer.rest[position : position + 1])
    if peers[0].kind.outcome == "left alone":
        return {peer.outcome(0.05) for peer in peers}
    return {peer.outcome(PATIENCE + scale.handshake_time) for peer in peers}


class _Peer:
    """One that sends bad input. Connected, and where it is to be, past the handshake, when it is made."""

    def __init__(self, kind: BadInput, number: int, url: str) -> None:
        self.kind = kind
        self.number = number
        self.rest = b""
        host, _, port = url.removeprefix("tcp://").rpartition(":")
        self.sock = socket.create_connection((host, int(port)))
        self.sock.settimeout(PATIENCE)
        self.cut = False
        self.reader = FrameReader(MAX_MESSAGE_SIZE)
        self.seen: list[Frame] = []
        if kind.after_greeting:
            self.sock.sendall(GREETING)
            self._read_until(lambda frame: frame.kind == Kind.HELLO)

    def send(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except OSError:  # cut off meanwhile
            self.cut = True

    def outcome(self, patience: float) -> str:
        """What has become of the connection, or becomes of it within some seconds."""
        self.sock.settimeout(patience)
        try:
            if self.kind.outcome == "refused, connection kept":
                self._read_until(lambda frame: frame.kind == Kind.ERROR and frame.call == 1)
                self.sock.sendall(GOOD_CALL)
                self._read_until(lambda frame: frame.kind == Kind.RESPONSE and frame.call == 99)
                return "cut off" if self.cut else self.kind.outcome
            self._read_until(lambda frame: False)
        except TimeoutError:
            return "left alone"
        return "cut off"

    def _read_until(self, wanted: Callable[[Frame], bool]) -> None:
        """Read until such a frame came, or the connection is cut off."""
        while not self.cut:
            try:
                data = self.sock.recv(RECEIVE_SIZE)
            except TimeoutError:
                raise
            except OSError:
                data = b""
            self.cut = not data
            if any(wanted(frame) for frame in self.reader.feed(data)):
                return
