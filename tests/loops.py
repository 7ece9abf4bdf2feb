"""Event loops for tests: each test of an asyncio programmer's runs on every kind of them, and leaves nothing behind."""

import asyncio
import gc
import importlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any, Final, TypeVar

import pytest

from tests.support import PATIENCE
from typedrpc import Server, aio

uvloop: Any = importlib.import_module("uvloop") if find_spec("uvloop") else None  # there is none for Windows

T = TypeVar("T")

ON_UVLOOP: Final = pytest.param("uvloop", marks=pytest.mark.skipif(uvloop is None, reason="uvloop is not installed"))
LOOPS: Final = ["asyncio", ON_UVLOOP]

if uvloop is not None:  # it keeps a pipe for as long as the process runs, which is no leak of a test's
    uvloop.new_event_loop().close()


class Loop:
    """Runs coroutines to their end, each on a new loop in debug mode, of one kind."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """As ``asyncio.run``. What the loop is told of that nobody handles fails the test, tasks left over too."""
        complaints: list[dict[str, Any]] = []

        async def main() -> T:
            loop = asyncio.get_running_loop()
            loop.slow_callback_duration = PATIENCE  # which says nothing of a machine that is shared
            loop.set_exception_handler(lambda loop, context: complaints.append(context))
            async with asyncio.timeout(PATIENCE):
                return await coroutine

        with asyncio.Runner(debug=True, loop_factory=self._make) as runner:
            try:
                return runner.run(main())
            finally:
                runner.run(settled())
                gc.collect()
                assert not complaints, complaints

    def _make(self) -> asyncio.AbstractEventLoop:
        return uvloop.new_event_loop() if self.kind == "uvloop" else asyncio.new_event_loop()


async def settled() -> None:
    """Wait until no other task of the loop is left, which none may need to be told."""
    async with asyncio.timeout(PATIENCE):
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)


async def turns(number: int = 10) -> None:
    """Let the loop turn: what is ready is done."""
    for _ in range(number):
        await asyncio.sleep(0)


async def come_about(condition: Callable[[], object], what: str = "it") -> None:
    """Wait, on a loop, for what nobody tells: state of the library's own, or of a thread's."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


@asynccontextmanager
async def serving(colour: str, *services: Any, url: str = "tcp://127.0.0.1:0", **options: Any) -> AsyncIterator[str]:
    """The URL of a server: on the loop that runs, or of the threads side."""
    if colour == "loop":
        async with aio.Server(*services, url=url, **options) as server:
            yield server.url
        return
    threads = Server(*services, url=url, **options)
    threads.start()
    try:
        yield threads.url
    finally:
        await asyncio.to_thread(threads.close)
