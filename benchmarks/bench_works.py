"""What `bench.py` has every client do, one turn at a time."""

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from time import perf_counter, process_time
from typing import Any, Final, NamedTuple, TypedDict

from peers.base import Client, Peer

MIB: Final = 1024 * 1024
THREADS: Final = 8


class Work(NamedTuple):
    """What is done in a turn.

    Attributes:
        title: The same in words.
        unit: What the rate counts: calls, items, connections, or MiB.
        size: How many inputs, items, connections or bytes; 0 where there is nothing to choose.
        quick: The same where it is only to be shown that it runs.
    """

    title: str
    unit: str = "calls/s"
    size: int = 0
    quick: int = 0

    def amount(self, calls: float, size: int) -> float:
        """How much of its unit so many calls are."""
        return calls * size / MIB if self.unit == "MiB/s" else calls


WORKS: Final = {
    "add": Work("add, one after another"),
    "threads": Work(f"add from {THREADS} threads"),
    "map": Work("map over 20,000 inputs", "items/s", 20_000, 600),
    "records": Work("100 dataclasses there and back"),
    "stream": Work("stream of 20,000 ints", "items/s", 20_000, 600),
    "1 MiB": Work("1 MiB of bytes there and back", "MiB/s", MIB, MIB),
    "64 MiB": Work("64 MiB of bytes there and back", "MiB/s", 64 * MIB, 2 * MIB),
    "connections": Work("1,000 connections, a call each", "opened/s", 1000, 20),
    "unix": Work("add, one after another, unix socket"),
}


class Order(TypedDict):
    """What a client is asked to do. A work of whole passes takes at least one, however long that takes."""

    work: str
    seconds: float
    size: int


class Told(TypedDict):
    """What a client tells of a turn: calls (or items, or connections), and the time and the CPU time that they took."""

    calls: int
    seconds: float
    cpu: float


class Worker:
    """A client of a peer with what it keeps open between turns. For one thread."""

    def __init__(self, peer: Peer, addresses: dict[str, str | None], stack: ExitStack) -> None:
        self._peer = peer
        self._addresses = addresses
        self._stack = stack
        self._clients: dict[str, Client] = {}
        self._crew: Crew | None = None

    def verify(self) -> None:
        """Do a little of everything that the peer can do, and see whether it is done right."""
        client = self._client("tcp")
        _equal(_once(client, client.add, 20, 22), 42)
        if client.map:
            _equal(list(client.map([1, 2, 3], [10, 20, 30])), [11, 22, 33])
        if client.records:
            _equal(_once(client, client.records, client.items), client.items)
        if client.stream:
            _equal(list(client.stream(3)), [0, 1, 2])
        if client.echo:
            _equal(bytes(_once(client, client.echo, b"typed\x00\xff")), b"typed\x00\xff")

    def take_turn(self, order: Order) -> Told:
        """Do a work for about so long."""
        work, seconds, size = order["work"], order["seconds"], order["size"]
        client = self._client("unix" if work == "unix" else "tcp")
        if work in ("add", "unix"):
            return _turn(lambda: repeat(client, client.add, (1, 2), seconds))
        if work == "threads":
            crew = self._crew = self._crew or Crew(self._peer, self._client("tcp"), str(self._addresses["tcp"]))
            return _turn(lambda: crew.add(seconds))
        if work == "map":
            assert client.map
            numbers, mapped = range(size), client.map
            xs, ys = list(numbers), list(numbers)
            return _turn(lambda: passes(lambda: mapped(xs, ys), size, seconds))
        if work == "stream":
            assert client.stream
            streamed = client.stream
            return _turn(lambda: passes(lambda: streamed(size), size, seconds))
        if work == "connections":
            return self._connections(size)
        if work == "records":
            assert client.records
            records, items = client.records, client.items
            return _turn(lambda: repeat(client, records, (items,), seconds))
        client = self._client("tcp", work)
        assert client.echo
        echo, data = client.echo, bytes(size)
        return _turn(lambda: repeat(client, echo, (data,), seconds))

    def _client(self, kind: str, work: str = "") -> Client:
        """A connection over TCP or a unix socket. Works with large messages have their own, as some keep buffers."""
        if (client := self._clients.get(kind + work)) is None:
            client = self._stack.enter_context(self._peer.connect(str(self._addresses[kind])))
            self._clients[kind + work] = client
        return client

    def _connections(self, count: int) -> Told:
        """They are closed after what is measured."""
        address = str(self._addresses["tcp"])
        with ExitStack() as opened:

            def open_all() -> int:
                for _ in range(count):
                    client = opened.enter_context(self._peer.connect(address))
                    _equal(_once(client, client.add, 1, 2), 3)
                return count

            return _turn(open_all)


class Crew:
    """Threads that all call at the same time, each turn anew; over one connection where the peer lets them."""

    def __init__(self, peer: Peer, client: Client, address: str) -> None:
        self._peer = peer
        self._client = client
        self._address = address
        self._seconds = 0.0
        self._calls: list[int] = []
        self._faults: list[Exception] = []
        self._ready, self._go, self._done = (threading.Barrier(THREADS + 1) for _ in range(3))
        for _ in range(THREADS):
            threading.Thread(target=self._run, daemon=True).start()
        self._ready.wait()
        if self._faults:
            raise self._faults[0]

    def add(self, seconds: float) -> int:
        """How many calls all of them made."""
        self._calls.clear()
        self._seconds = seconds
        self._go.wait()
        self._done.wait()
        if self._faults:
            raise self._faults[0]
        return sum(self._calls)

    def _run(self) -> None:
        with ExitStack() as stack:
            client = self._client
            try:
                if not self._peer.shared:
                    client = stack.enter_context(self._peer.connect(self._address))
                    _equal(_once(client, client.add, 1, 2), 3)
            except Exception as error:
                self._faults.append(error)
            self._ready.wait()
            while True:
                self._go.wait()
                try:
                    self._calls.append(repeat(client, client.add, (1, 2), self._seconds))
                except Exception as error:
                    self._faults.append(error)
                self._done.wait()


def repeat(client: Client, call: Callable[..., Any], arguments: Sequence[object], seconds: float) -> int:
    """Call again and again for so long, once at least; how many calls it was."""
    calls = 0
    end = perf_counter() + seconds
    if client.run is None:
        while not calls or perf_counter() < end:
            call(*arguments)
            calls += 1
        return calls

    async def awaited() -> int:
        calls = 0
        while not calls or perf_counter() < end:
            await call(*arguments)
            calls += 1
        return calls

    return int(client.run(awaited()))


def passes(whole: Callable[[], Iterable[int]], size: int, seconds: float) -> int:
    """The same of what gives so many items; how many items it was."""
    items = 0
    end = perf_counter() + seconds
    while not items or perf_counter() < end:
        for _ in whole():
            items += 1
        if items % size:
            raise AssertionError(f"{items % size} items too many, or too few")
    return items


def _turn(work: Callable[[], int]) -> Told:
    before, start = process_time(), perf_counter()
    calls = work()
    return {"calls": calls, "seconds": perf_counter() - start, "cpu": process_time() - before}


def _once(client: Client, call: Callable[..., Any], *arguments: object) -> Any:
    """The result of one call."""
    return client.run(call(*arguments)) if client.run else call(*arguments)


def _equal(value: object, expected: object) -> None:
    if value != expected:
        raise AssertionError(f"{value!r:.200} instead of {expected!r:.200}")
