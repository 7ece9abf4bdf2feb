"""The ends of a connection in either colour, used alike by tests that know of threads only.

Those of the asyncio side live on an event loop in a thread of its own: what blocks the test blocks nothing else.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, NamedTuple, TypeVar

import pytest

from tests.support import PATIENCE
from typedrpc import aio, connect
from typedrpc.sync import Server

T = TypeVar("T")

make_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
"""Makes the event loops; a runner puts another one here."""


class LoopThread:
    """An event loop that runs in a thread."""

    def __init__(self) -> None:
        self.loop = make_loop()
        self._thread = threading.Thread(target=self._run, name="test-loop", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there, and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE)

    def close(self) -> None:
        """Cancel what is left, as ``asyncio.run`` does, and end the thread."""
        self.run(self._cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)
        self.loop.close()

    async def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def loop_thread() -> Iterator[LoopThread]:
    """A loop for as long as the block lasts."""
    thread = LoopThread()
    try:
        yield thread
    finally:
        thread.close()


@contextlib.contextmanager
def threads_server(*services: Any, url: str = "tcp://127.0.0.1:0", **options: Any) -> Iterator[Any]:
    """A server of the threads side."""
    with Server(*services, url=url, **options) as server:
        yield server


@contextlib.contextmanager
def loop_server(*services: Any, url: str = "tcp://127.0.0.1:0", **options: Any) -> Iterator[Any]:
    """A server of the asyncio side."""
    with loop_thread() as thread:

        async def start() -> aio.Server:
            return await aio.Server(*services, url=url, **options).start()

        async def stop() -> None:
            await server.close()

        server = thread.run(start())
        try:
            yield server
        finally:
            thread.run(stop())


@contextlib.contextmanager
def loop_connect(*target: Any, **options: Any) -> Iterator[Any]:
    """As ``typedrpc.connect``, and used with ``with`` like that, with a client of the asyncio side."""
    with loop_thread() as thread:

        async def start() -> Any:
            return await aio.connect(*target, **options)

        async def enter() -> Any:
            return await client.__aenter__()

        async def stop() -> None:
            await client.close()

        client = thread.run(start())
        try:
            yield thread.run(enter())
        finally:
            thread.run(stop())


SERVERS: Final[dict[str, Callable[..., contextlib.AbstractContextManager[Any]]]] = {
    "threads": threads_server,
    "loop": loop_server,
}
CLIENTS: Final[dict[str, Callable[..., contextlib.AbstractContextManager[Any]]]] = {
    "threads": connect,
    "loop": loop_connect,
}


def close(server: Any, grace: float) -> None:
    """Close a server of either side, and wait for that; not from its loop."""
    closing: Any = server.close(grace)
    if closing is not None:

        async def wait() -> None:
            await closing

        asyncio.run(wait())


class Colours(NamedTuple):
    """Which sides the two ends of a connection are of."""

    client: str
    server: str

    def serve(self, *services: Any, **options: Any) -> contextlib.AbstractContextManager[Server]:
        """Serve services; options as for ``Server``."""
        return SERVERS[self.server](*services, **options)

    def connect(self, *target: Any, **options: Any) -> contextlib.AbstractContextManager[Any]:
        """As ``typedrpc.connect``, to be used with ``with``."""
        return CLIENTS[self.client](*target, **options)


COLOURS: Final = [Colours(client, server) for client in CLIENTS for server in SERVERS]
"""The colours of client and server, each with each."""

THREADS: Final = Colours("threads", "threads")
LOOPS: Final = Colours("loop", "loop")


@pytest.fixture(params=(THREADS, LOOPS), ids=" ".join)
def alike(request: pytest.FixtureRequest) -> Colours:
    """In a module that takes it for its ``colours``: both ends of one side, where crossed pairs would show no more."""
    return Colours(*request.param)


def for_colours(*colours: Colours) -> pytest.MarkDecorator:
    """Have a test run with these only; the fixture ``colours`` gives all of them."""
    return pytest.mark.parametrize("colours", colours, ids=" ".join, indirect=True)


for_clients: Final = for_colours(*(Colours(client, "threads") for client in CLIENTS))
"""For a test that has no server of the library's."""

for_servers: Final = for_colours(*(Colours("threads", server) for server in SERVERS))
"""For a test that has no client of the library's, or one whose colour does not matter."""

for_both: Final = for_colours(THREADS, LOOPS)
"""For a test that takes long, where the crossed pairs would show nothing more."""

for_threads: Final = for_colours(THREADS)
"""For a test of what there is with threads only."""
