"""What the connections of one client or server on an event loop have in common: the loop, threads, a buffer."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Final, final

from typedrpc.aio.pool import Pool
from typedrpc.aio.starter import Starter
from typedrpc.common.workers import Workers
from typedrpc.wire import RECEIVE_SIZE

CLOSING_TURNS: Final = 3
"""Turns of the loop after which transports that were closed have told so, and closed their sockets."""


@final
class Runtime:
    """Made in the thread of the loop.

    Attributes:
        loop: The loop.
        context: The context variables of who made this: what happens on the loop, or in a thread, for no task in
            particular has a copy of it, whoever was the cause.
        workers: Threads.
        pool: So many of them for plain handlers.
        starter: Starts coroutines.
        buffer: What is read comes in here first: a connection of its own has none while nothing is on its way.
        view: A view of it.
    """

    def __init__(self, workers: Workers, max_workers: int, *, debug: bool = False) -> None:
        """
        Args:
            workers: Threads.
            max_workers: How many of them plain handlers may take.
            debug: Tell of handlers that hold up the loop.
        """
        self.loop: Final = asyncio.get_running_loop()
        self.context: Final = copy_context()
        self.workers: Final = workers
        self.pool: Final = Pool(self.workers, max_workers)
        self.starter: Final = Starter(self.loop, debug=debug)
        self._until_end: AsyncGenerator[None, None] | None = None
        self.buffer: Final = bytearray(RECEIVE_SIZE)
        self.view: Final = memoryview(self.buffer)

    async def open(self, close: Callable[[], None]) -> None:
        """Have a function called if the loop ends, as that of ``asyncio.run`` does, before :meth:`close` was.

        It ends all connections: a transport that is left to the garbage collector complains.
        """
        self._until_end = _until_end(close)
        await anext(self._until_end)

    async def close(self) -> None:
        """It is used no more."""
        self.starter.close()
        if self._until_end is not None:
            with suppress(RuntimeError):  # the loop is ending already
                await self._until_end.aclose()

    def start_thread(self, body: Callable[[], None]) -> None:
        """Run a function in a thread of its own. Raises ``RuntimeError`` where the system has no more."""
        context = self.context.copy()
        self.workers.start(lambda: context.run(body))


async def _until_end(close: Callable[[], None]) -> AsyncGenerator[None, None]:
    """What a loop is asked to end when it ends itself; unlike a task it is nobody's to wait for, or to cancel."""
    try:
        yield
    finally:
        close()
        for _ in range(CLOSING_TURNS):
            await asyncio.sleep(0)
