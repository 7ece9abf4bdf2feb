"""One of several servers in a row: its handlers call the next one, the last ones wait for as long as they may."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from typedrpc import Service, current_call, rpc


class Stage(Service, name="stage"):
    """Counts its handlers while they run."""

    def __init__(self, next_one: "Stage | None" = None) -> None:
        self._next = next_one
        self._lock = threading.Lock()
        self._running = 0

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1

    @rpc(id=1)
    def running(self) -> int:
        with self._lock:
            return self._running

    @rpc(id=2)
    def call(self) -> None:
        """In a thread that waits for a nested call."""
        with self._counted():
            if self._next is not None:
                self._next.call()
            current_call().cancelled.wait()

    @rpc(id=3)
    def items(self) -> Iterator[int]:
        """In a thread that waits for an item of a nested stream."""
        with self._counted():
            if self._next is not None:
                yield from self._next.items()
            current_call().cancelled.wait()

    @rpc(id=4)
    def endless(self) -> Iterator[bytes]:
        """In a thread whose stream goes on for ever."""
        with self._counted():
            if self._next is not None:
                yield from self._next.endless()
            while True:
                yield bytes(1024)

    @rpc(id=5)
    async def acall(self) -> None:
        """In a task that awaits a nested call."""
        with self._counted():
            if self._next is not None:
                await self._next.acall()
            await asyncio.Event().wait()

    @rpc(id=6)
    async def aitems(self) -> AsyncIterator[int]:
        """In a task that awaits an item of a nested stream."""
        with self._counted():
            if self._next is not None:
                async for item in self._next.aitems():
                    yield item
            await asyncio.Event().wait()
