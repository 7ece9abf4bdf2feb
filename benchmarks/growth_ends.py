"""The processes of `growth.py`: a server and a client, each with threads or on an event loop.

::

    python growth_ends.py [--cpu N] serve threads|asyncio|commands URL [COUNT]
    python growth_ends.py [--cpu N] call threads|asyncio|commands URL

A server says its url, and then for each line of input, in JSON, the CPU seconds that it has used; to the line
``settle`` when no more than one client is left. A client says that it is ready, and then for each line
``WORK COUNT TIMES`` does that much of the work so often, and says in JSON how many seconds it took, and how many of
CPU. Both end with their standard input, and show where each of their threads is when a line takes too long.
"""

import argparse
import asyncio
import faulthandler
import gc
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from time import perf_counter, process_time
from typing import Final

from asyncio_calls import Input
from caller import expect
from growth_services import DEEP, LARGE, AsyncGrowth, Growth, Number, large_service
from workload import allow_descriptors, pin

from typedrpc import Server, aio, connect
from typedrpc.command import FunctionCommand

PATIENCE: Final = 300.0
"""Seconds that one line may take."""

AT_ONCE: Final = 50
"""Connections that an event loop opens at a time."""

LOOK: Final = 0.005
"""Seconds between two looks whether a server has lost all clients but one."""


def serve(kind: str, url: str, count: int) -> None:
    """Serve with threads: the few commands of the other curves, or ``count`` of them."""
    before = process_time()
    service = large_service(count)[0] if kind == "commands" else Growth()
    defined = process_time()
    with Server(service, url=url, max_message_size=LARGE, max_depth=DEEP) as server:
        started = {"define": defined - before, "serve": process_time() - defined}
        print(server.url, flush=True)
        for line in read_lines():
            while line == "settle" and len(server.peers) > 1:
                time.sleep(LOOK)
            print(json.dumps({"cpu": process_time(), **started}), flush=True)


async def serve_on_loop(url: str) -> None:
    lines = Input()
    async with aio.Server(AsyncGrowth(), url=url, max_message_size=LARGE, max_depth=DEEP) as server:
        print(server.url, flush=True)
        while True:
            line = await lines.line()
            while line.strip() == "settle" and len(server.peers) > 1:
                await asyncio.sleep(LOOK)
            print(json.dumps({"cpu": process_time()}), flush=True)


class Caller:
    """What a client with threads does. Each work takes how much of it there is."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        self._url = url
        self._growth = self._connect(stack)
        self._held = stack.enter_context(ExitStack())
        self._connections: list[Growth] = []
        self._data = b""

    def _connect(self, stack: ExitStack) -> Growth:
        client = connect(Growth, self._url, expose=[Growth()], max_message_size=LARGE, max_depth=DEEP)
        return stack.enter_context(client)

    def calls(self, count: int) -> None:
        """So many calls in flight."""
        futures = [self._growth.add.submit(number, 1) for number in range(count)]
        expect(sum(future.result() for future in futures), count * (count + 1) // 2)

    def data(self, count: int) -> None:
        """Have so many bytes ready, for ``payload``."""
        self._data = bytes(count)

    def payload(self, count: int) -> None:
        """So many bytes there and back."""
        expect(len(self._growth.echo(self._data)), count)

    def nesting(self, count: int) -> None:
        """So many calls within each other."""
        expect(self._growth.climb(count), count)

    def open(self, count: int) -> None:
        """So many connections, each with the first call, before which the contract is compared."""
        for number in range(count):
            growth = connect(Growth, self._url)
            self._connections.append(self._held.enter_context(growth))
            expect(self._connections[-1].add(number, 1), number + 1)

    def each(self, count: int) -> None:
        """A call on each of the connections."""
        for number, growth in enumerate(self._connections):
            expect(growth.add(number, 1), number + 1)
        expect(len(self._connections), count)

    def close(self, count: int) -> None:
        """Close them all."""
        expect(len(self._connections), count)
        self._connections.clear()
        self._held.close()


class LoopCaller:
    """The same on an event loop."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._held = AsyncExitStack()
        self._connections: list[AsyncGrowth] = []

    async def start(self, stack: AsyncExitStack) -> None:
        client = aio.connect(AsyncGrowth, self._url, expose=[AsyncGrowth()], max_depth=DEEP)
        self._growth = await stack.enter_async_context(client)
        await stack.enter_async_context(self._held)

    async def calls(self, count: int) -> None:
        results = await asyncio.gather(*(self._growth.add(number, 1) for number in range(count)))
        expect(sum(results), count * (count + 1) // 2)

    async def nesting(self, count: int) -> None:
        expect(await self._growth.climb(count), count)

    async def open(self, count: int) -> None:
        while (held := len(self._connections)) < count:
            number = min(AT_ONCE, count - held)
            self._connections += await asyncio.gather(*(self._open() for _ in range(number)))

    async def _open(self) -> AsyncGrowth:
        growth = await self._held.enter_async_context(aio.connect(AsyncGrowth, self._url))
        expect(await growth.add(1, 2), 3)
        return growth

    async def each(self, count: int) -> None:
        for number, growth in enumerate(self._connections):
            expect(await growth.add(number, 1), number + 1)
        expect(len(self._connections), count)

    async def close(self, count: int) -> None:
        expect(len(self._connections), count)
        self._connections.clear()
        await self._held.aclose()


class CommandsCaller:
    """What the client of a large service does."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        self._url = url
        self._stack = stack
        self._commands: list[FunctionCommand[Number]] = []
        self._last: Number | None = None

    def define(self, count: int) -> None:
        """Define as many commands as the server has."""
        self._commands = large_service(count)[1]

    def newer(self, count: int) -> None:
        """Define them, the last one in a newer version."""
        self._commands = large_service(count, newer=True)[1]

    def agree(self, count: int) -> None:
        """Connect, and call the last command: before that, the two sides compare all of them."""
        client = self._stack.enter_context(connect(self._url))
        self._last = client.proxy(self._commands[-1])
        self.one(count)

    def one(self, count: int) -> None:
        """Call the last command."""
        assert self._last is not None
        expect(self._last(1), count)


def call(kind: str, url: str) -> None:
    with ExitStack() as stack:
        caller = CommandsCaller(url, stack) if kind == "commands" else Caller(url, stack)
        print("ready", flush=True)
        for line in read_lines():
            name, count, times = line.split()
            work: Callable[[int], None] = getattr(caller, name)
            gc.collect()
            cpu, start = process_time(), perf_counter()
            for _ in range(int(times)):
                work(int(count))
            print(_told(cpu, start), flush=True)


async def call_on_loop(url: str) -> None:
    lines = Input()
    async with AsyncExitStack() as stack:
        caller = LoopCaller(url)
        await caller.start(stack)
        print("ready", flush=True)
        while True:
            faulthandler.cancel_dump_traceback_later()
            name, count, times = (await lines.line()).split()
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            work: Callable[[int], Awaitable[None]] = getattr(caller, name)
            gc.collect()
            cpu, start = process_time(), perf_counter()
            for _ in range(int(times)):
                await work(int(count))
            print(_told(cpu, start), flush=True)


def _told(cpu: float, start: float) -> str:
    return json.dumps({"cpu": process_time() - cpu, "wall": perf_counter() - start})


def read_lines() -> Iterator[str]:
    """The lines of standard input; this process ends when whoever takes them is at one for too long."""
    for line in sys.stdin:
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        yield line.strip()
        faulthandler.cancel_dump_traceback_later()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cpu", type=int)
    roles = parser.add_subparsers(dest="role", required=True)
    for role in ("serve", "call"):
        parts = roles.add_parser(role)
        parts.add_argument("kind", choices=("threads", "asyncio", "commands"))
        parts.add_argument("url")
        if role == "serve":
            parts.add_argument("count", type=int, nargs="?", default=0)
    arguments = parser.parse_args()
    pin(arguments.cpu)
    allow_descriptors()
    if arguments.kind == "asyncio":
        asyncio.run(serve_on_loop(arguments.url) if arguments.role == "serve" else call_on_loop(arguments.url))
    elif arguments.role == "serve":
        serve(arguments.kind, arguments.url, arguments.count)
    else:
        call(arguments.kind, arguments.url)


if __name__ == "__main__":
    main()
