"""What both ends of the soak serve: a command for each shape, whose answer is known before."""

import asyncio
import threading
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, cast

from relay import step

from typedrpc import ConnectionLost, Service, current_call, rpc
from typedrpc.peer import PeerServer

GATHER_TIME: Final = 60.0
"""Seconds that all clients together have to answer one question."""

MAX_BOOKS: Final = 64
"""Words of which it is known what was booked. Clients that are killed leave theirs behind."""


@dataclass
class Answers:
    """What became of one question to all clients."""

    right: int = 0
    lost: int = 0
    """Clients that left meanwhile."""
    others: list[str] = field(default_factory=list)
    """Anything else, in words: wrong."""


class Soak(Service, name="soak"):
    """Served by servers and by clients.

    Attributes:
        ears: What is called at a client when it is told a word of its own.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self.ears: dict[str, Callable[[], object]] = {}
        self._books: OrderedDict[str, Counter[int]] = OrderedDict()

    @property
    def held(self) -> dict[str, int]:
        """What the service itself holds: nothing, when all is quiet."""
        with self._lock:
            return {"handlers": self._running, "ears": len(self.ears)}

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1

    # Calls

    @rpc(id=1)
    def add(self, a: int, b: int) -> int:
        return a + b

    @rpc(id=2)
    async def aadd(self, a: int, b: int) -> int:
        return a + b

    @rpc(id=3)
    def echo(self, data: bytes) -> bytes:
        return data

    @rpc(id=4)
    async def aecho(self, data: bytes) -> bytes:
        return data

    @rpc(id=5)
    def fail(self, text: str) -> None:
        raise ValueError(text)

    # These two wait for nothing that is to be waited for: a call that must not run twice outlives its connection.

    @rpc(id=6, idempotent=True)
    def wait(self, seconds: float) -> bool:
        """Wait, until it is cancelled. Returns whether it was not."""
        with self._counted():
            return not current_call().cancelled.wait(seconds)

    @rpc(id=7, idempotent=True)
    async def await_(self) -> None:
        """Wait until it is cancelled. Without a timer: asyncio would keep it, and the call, until it is due."""
        with self._counted():
            await asyncio.get_running_loop().create_future()

    # One-way

    @rpc(id=10)
    def note(self, word: str, number: int) -> None:
        notes = self._notes_of(word)
        with self._lock:
            notes.append(number)

    @rpc(id=11)
    def noted(self, word: str, count: int) -> list[int] | None:
        """What was noted of a word, which is forgotten; None while it is not so much."""
        notes = self._notes_of(word)
        if len(notes) < count:
            return None
        self._forget(word)
        return notes

    def _notes_of(self, word: str) -> list[int]:
        notes: list[int] = self._kept(word, list)
        return notes

    def _kept(self, word: str, make: Callable[[], Any]) -> Any:
        """What is kept of a word, which goes with the connection where its client is killed."""
        peer = current_call().peer
        with self._lock:
            if peer.state is None:
                peer.state = {}
            return peer.state.setdefault(word, make())

    def _forget(self, word: str) -> None:
        with self._lock:
            del current_call().peer.state[word]

    # Streams

    @rpc(id=20)
    def count(self, start: int, count: int) -> Iterator[int]:
        with self._counted():
            yield from range(start, start + count)

    @rpc(id=21)
    async def acount(self, start: int, count: int) -> AsyncIterator[int]:
        with self._counted():
            for number in range(start, start + count):
                yield number

    @rpc(id=22)
    def total(self, numbers: Iterator[int]) -> int:
        with self._counted():
            return sum(numbers)

    @rpc(id=23)
    async def atotal(self, numbers: AsyncIterator[int]) -> int:
        with self._counted():
            return sum([number async for number in numbers])

    @rpc(id=24)
    def double(self, numbers: Iterator[int]) -> Iterator[int]:
        with self._counted():
            for number in numbers:
                yield 2 * number

    @rpc(id=25)
    async def adouble(self, numbers: AsyncIterator[int]) -> AsyncIterator[int]:
        with self._counted():
            async for number in numbers:
                yield 2 * number

    @rpc(id=26)
    def endless(self, item: bytes) -> Iterator[bytes]:
        with self._counted():
            while True:
                yield item

    @rpc(id=27)
    async def aendless(self, item: bytes) -> AsyncIterator[bytes]:
        with self._counted():
            while True:
                yield item

    # Callbacks

    @rpc(id=30)
    def fold(self, count: int, value: int, function: Callable[[int], int]) -> int:
        for _ in range(count):
            value = function(value)
        return value

    @rpc(id=31)
    async def afold(self, count: int, value: int, function: Callable[[int], Awaitable[int]]) -> int:
        for _ in range(count):
            value = await function(value)
        return value

    @rpc(id=32)
    def keep(self, word: str, function: Callable[[int], int]) -> None:
        """Keep a function beyond the call."""
        self._kept(word, lambda: function)

    @rpc(id=33)
    def use(self, word: str, value: int) -> int:
        function: Callable[[int], int] = current_call().peer.state[word]
        return function(value)

    @rpc(id=34)
    def drop(self, word: str) -> None:
        self._forget(word)

    # Nested, both ways

    @rpc(id=40)
    def bounce(self, legs: int, value: int) -> int:
        """Go a leg, and have the other end go the rest: in threads and in tasks by turns, at last by a callback."""
        if legs == 0:
            return value
        other = current_call().peer.proxy(Soak)
        if legs == 1:
            return other.fold(1, value, step)
        return other.abounce.call(legs - 1, step(value))

    @rpc(id=41)
    async def abounce(self, legs: int, value: int) -> int:
        if legs == 0:
            return value
        return await current_call().peer.proxy(Soak).bounce.aio(legs - 1, step(value))

    # Over connections that are cut

    @rpc(id=45)
    def hang_up(self, rudely: bool) -> None:
        """The connection of this client is cut, with a goodbye or without."""
        peer = current_call().peer
        if rudely:
            cast("Any", peer.link).connection.end(ConnectionLost("cut by the soak"))
        else:
            peer.close("for the sake of the soak")

    @rpc(id=46)
    def book(self, word: str, number: int) -> int:
        with self._lock:
            books = self._books.setdefault(word, Counter())
            books[number] += 1
            while len(self._books) > MAX_BOOKS:
                self._books.popitem(last=False)
        return -number

    @rpc(id=47)
    async def abook(self, word: str, number: int) -> int:
        return self.book(word, number)

    @rpc(id=48)
    def booked(self, word: str) -> dict[int, int]:
        """How often each number was booked of a word, which is forgotten."""
        with self._lock:
            return dict(self._books.pop(word))

    @rpc(id=49, idempotent=True)
    def look(self, number: int) -> int:
        return -number

    # To many

    @rpc(id=50)
    def hear(self, word: str) -> None:
        """At clients: all are told a word, which one of them waits for."""
        ear = self.ears.get(word)
        if ear is not None:
            ear()

    @rpc(id=51)
    def shout(self, word: str) -> int:
        """Tell all clients a word. Returns how many it went to."""
        return server_of_call().broadcast(Soak.hear)(word)

    @rpc(id=52)
    def ask(self, a: int, b: int) -> Answers:
        """Ask all clients for a sum."""
        gather = server_of_call().gather(Soak.add, timeout=GATHER_TIME)
        return sort_out(gather(a, b), a + b)

    @rpc(id=53)
    async def aask(self, a: int, b: int) -> Answers:
        gather = server_of_call().gather(Soak.aadd, timeout=GATHER_TIME)
        return sort_out(await gather.aio(a, b), a + b)


def server_of_call() -> PeerServer:
    server = current_call().peer.server
    assert server is not None
    return server


def sort_out(outcomes: dict[Any, int | Exception], wanted: int) -> Answers:
    """Which of the outcomes are right."""
    answers = Answers()
    for outcome in outcomes.values():
        if outcome == wanted:
            answers.right += 1
        elif isinstance(outcome, ConnectionLost):
            answers.lost += 1
        else:
            answers.others.append(repr(outcome))
    return answers
