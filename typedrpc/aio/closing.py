"""Something that ends by itself, and that who wants to may wait for."""

import asyncio
from collections.abc import Coroutine, Generator
from concurrent.futures import Future
from typing import Any, final


@final
class Closing:
    """What closing gives: it goes on whether or not it is awaited."""

    __slots__ = ("_future",)

    def __init__(self, future: Future[None]) -> None:
        self._future = future

    def __await__(self) -> Generator[Any, None, None]:
        return asyncio.shield(asyncio.wrap_future(self._future)).__await__()

    @classmethod
    def start(cls, coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> "Closing":
        """Run a coroutine on a loop, from any thread."""
        try:
            return cls(asyncio.run_coroutine_threadsafe(coroutine, loop))
        except RuntimeError:  # the loop is closed: what would have run there has ended with it
            coroutine.close()
            return cls.done()

    @classmethod
    def done(cls) -> "Closing":
        """It is over, or goes on without whoever asked."""
        future: Future[None] = Future()
        future.set_result(None)
        return cls(future)
