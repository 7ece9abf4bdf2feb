"""What the client processes of `growth_ends.py` do. Each work is a method, which takes how much of it there is."""

import asyncio
from contextlib import AsyncExitStack, ExitStack
from typing import Final

from caller import expect
from growth_services import DEEP, LARGE, AsyncGrowth, Growth, Number, large_service

from typedrpc import aio, connect
from typedrpc.command import FunctionCommand

AT_ONCE: Final = 50
"""Connections that an event loop opens at a time."""


class Caller:
    """A client with threads."""

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
