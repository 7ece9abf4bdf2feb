"""What the tests of streams need: a service whose handlers do what a test says, and producers that are watched."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from tests.ends import THREADS, Colours
from tests.support import PATIENCE, Gate, until
from typedrpc import Service, rpc
from typedrpc.common.client import BaseClient
from typedrpc.common.connection import Connection
from typedrpc.common.server import BaseServer


class Pipes(Service):
    """Each shape of stream, for threads and for async handlers; what they do is in ``scripts``, by name."""

    def __init__(self, **scripts: Callable[..., Any]) -> None:
        self.scripts = scripts

    @rpc
    def add(self, a: int, b: int) -> int:
        return a + b

    @rpc
    def ask(self, script: str) -> Any:
        return self.scripts[script]()

    @rpc
    def produce(self, script: str) -> Iterator[int]:
        yield from self.scripts[script]()

    @rpc
    def consume(self, script: str, items: Iterator[int]) -> Any:
        return self.scripts[script](items)

    @rpc
    def both(self, script: str, items: Iterator[int]) -> Iterator[int]:
        yield from self.scripts[script](items)

    @rpc
    async def aask(self, script: str) -> Any:
        return await self.scripts[script]()

    @rpc
    async def aproduce(self, script: str) -> AsyncIterator[int]:
        items = self.scripts[script]()
        try:
            async for item in items:
                yield item
        finally:
            await items.aclose()

    @rpc
    async def aconsume(self, script: str, items: AsyncIterator[int]) -> Any:
        return await self.scripts[script](items)

    @rpc
    async def aboth(self, script: str, items: AsyncIterator[int]) -> AsyncIterator[int]:
        made = self.scripts[script](items)
        try:
            async for item in made:
                yield item
        finally:
            await made.aclose()

    @rpc
    def blobs(self, script: str) -> Iterator[bytes]:
        yield from self.scripts[script]()

    @rpc
    async def ablobs(self, script: str) -> AsyncIterator[bytes]:
        async for item in self.scripts[script]():
            yield item

    @rpc
    def swallow(self, script: str, items: Iterator[bytes]) -> Any:
        return self.scripts[script](items)

    @rpc
    async def aswallow(self, script: str, items: AsyncIterator[bytes]) -> Any:
        return await self.scripts[script](items)


class Watched:
    """Makes iterators, plain and async, and knows how they fare.

    Attributes:
        made: Items that were made so far.
        began: Opened when the first item is asked for.
        ended: Opened when an iterator was closed, or has come to its end: its ``finally`` has run.
        thread: Where it was.
    """

    def __init__(self, count: int = 1 << 60, *, item: Any = None, pause_at: int = -1) -> None:
        """
        Args:
            count: Items to make; by default it never ends.
            item: What each is; its number by default.
            pause_at: The number of the item before which it waits at the gate ``go``.
        """
        self.made = 0
        self.began = Gate()
        self.ended = Gate()
        self.go = Gate()
        self.paused = Gate()
        self.thread: threading.Thread | None = None
        self._count = count
        self._item = item
        self._pause_at = pause_at

    def plain(self) -> Iterator[Any]:
        self.began.open()
        self.thread = threading.current_thread()
        try:
            for number in range(self._count):
                if number == self._pause_at:
                    self.paused.open()
                    self.go.wait()
                self.made += 1
                yield number if self._item is None else self._item
        finally:
            self.ended.open()

    async def awaited(self) -> AsyncIterator[Any]:
        self.began.open()
        try:
            for number in range(self._count):
                self.made += 1
                yield number if self._item is None else self._item
        finally:
            self.ended.open()


class AsyncGate(Gate):
    """A gate that coroutines pass too."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[asyncio.Future[None]] = []

    def open(self) -> None:
        super().open()
        while self._waiting:
            future = self._waiting.pop()
            future.get_loop().call_soon_threadsafe(future.cancel)

    async def pass_through(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        if not self.is_open:
            done, _ = await asyncio.wait([future], timeout=PATIENCE)
            assert done, "a gate stayed shut"


def tables_of(connection: Connection) -> dict[str, int]:
    """What a connection holds of calls and streams: nothing, where none goes on."""
    core = connection.core
    sizes = {
        "calls": len(core.calls.calls),
        "running": core.running,
        "handled": len(core.handled),
        "inflows": len(core.inflows),
        "outflows": len(core.outflows),
        "callbacks": len(connection.callbacks.groups),
        "frames": 0 if connection.ended else connection.waiting_frames,
        "apart": connection.handlers._running_apart,
    }
    return {name: size for name, size in sizes.items() if size}


def connection_of(client: BaseClient[Any]) -> Any:
    link: Any = client.peer.link
    connection: Connection = link.connection
    return connection


def connections_of(server: BaseServer[Any]) -> list[Any]:
    links: list[Any] = [peer.link for peer in server.peers]
    return [link.connection for link in links]


def is_empty(connection: Connection) -> bool:
    return not tables_of(connection)


def expect_empty(*connections: Connection) -> None:
    """Both ends come to hold nothing of calls that are over."""
    for connection in connections:
        try:
            until(partial(is_empty, connection), "empty tables")
        except AssertionError as error:
            raise AssertionError(f"left: {tables_of(connection)}") from error


class Joined:
    """A server of :class:`Pipes` and a client of it in this process."""

    def __init__(self, service: Pipes, server: BaseServer[Any], client: BaseClient[Any]) -> None:
        self.service = service
        self.server = server
        self.client = client
        self.pipes: Pipes = client.proxy(Pipes)
        self.near = connection_of(client)
        until(lambda: server.peers, "the peer")
        (self.far,) = connections_of(server)

    def expect_empty(self) -> None:
        expect_empty(self.near, self.far)


@contextmanager
def joined(
    colours: Colours = THREADS,
    url: str = "tcp://127.0.0.1:0",
    /,
    *,
    expose: Any = (),
    server: Any = None,
    **client: Any,
) -> Iterator[Joined]:
    """A server and its client; at the end neither may hold anything of a call."""
    service = Pipes()
    with colours.serve(service, url=url, **(server or {})) as running:
        with colours.connect(running.url, expose=expose, **client) as opened:
            pair = Joined(service, running, opened)
            yield pair
            if not pair.near.ended:
                pair.expect_empty()
