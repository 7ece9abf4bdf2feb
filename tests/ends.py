"""The ends of a connection in either colour, used alike by tests that know of threads only.

Those of the asyncio side live on an event loop in a thread of its own: what blocks the test blocks nothing else.

With :class:`Colours` a test has what the library gives, within a ``with``. With :class:`Ends` it has servers and
clients with all their methods, those that block too, for what is tested of these.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeVar, overload

import pytest
from typing_extensions import Unpack

import typedrpc
from tests.support import PATIENCE
from typedrpc import aio, connect
from typedrpc.aio.connection import Connection as LoopConnection
from typedrpc.call import handled_by
from typedrpc.common.client import ConnectOptions, ServiceT
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


class LoopServer:
    """A server of the asyncio side, with the methods of one of the threads side.

    Attributes:
        itself: The server, as handlers and peers see it.
    """

    def __init__(self, *services: Any, url: str, **options: Any) -> None:
        self.itself = aio.Server(*services, url=url, **options)
        self._thread: LoopThread | None = None
        self._lock = threading.Lock()
        self._users = 0
        self._over = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.itself, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if "_over" not in self.__dict__ or name in self.__dict__:
            super().__setattr__(name, value)
        else:  # a test puts something in the place of the server's own
            setattr(self.itself, name, value)

    def __repr__(self) -> str:
        return repr(self.itself)

    def start(self) -> Self:
        if self._over:  # it has no loop any more
            raise RuntimeError("a server is started once; make another one")
        thread = self._thread or LoopThread()
        try:
            thread.run(self.itself.start())
        except BaseException:
            if self._thread is None:
                thread.close()
            raise
        self._thread = thread
        return self

    def close(self, grace: float = 5.0) -> None:
        thread = self._thread
        if thread is None or self._is_ours():
            self.itself.close(grace)
            self._over = self._over or thread is None
            return

        async def close() -> None:
            await self.itself.close(grace)

        self._use(thread, close)

    def wait(self) -> None:
        if self._thread is not None:
            self._use(self._thread, self.itself.wait)

    def _is_ours(self) -> bool:
        """Whether this is a thread of the server's: on a loop one would not wait there either."""
        return handled_by(self.itself) or threading.current_thread().name.startswith("typedrpc-server")

    def _use(self, thread: LoopThread, function: Callable[[], Any]) -> None:
        """Await something; whoever is the last to have awaited the end of the server ends its loop."""
        with self._lock:
            if self._over:
                return
            self._users += 1
        try:
            thread.run(function())
        finally:
            with self._lock:
                self._users -= 1
                self._over = over = not self._users and self.itself._closed.is_set()
            if over:
                thread.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LoopClient:
    """A client of the asyncio side, with the methods of one of the threads side."""

    def __init__(self, *target: Any, **options: Any) -> None:
        async def start() -> Any:
            return await aio.connect(*target, **options)

        self._thread = LoopThread()
        self._over = False
        self._lock = threading.Lock()
        try:
            self.itself = self._thread.run(start())
        except BaseException:
            self._thread.close()
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self.itself, name)

    def __repr__(self) -> str:
        return repr(self.itself)

    def close(self) -> None:
        async def close() -> None:
            await self.itself.close()

        with self._lock:
            if self._over:
                return
            self._over = True
        self._thread.run(close())
        self._thread.close()

    def __enter__(self) -> Any:
        entered = self._thread.run(self.itself.__aenter__())
        return self if entered is self.itself else entered

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Ends:
    """What makes clients of one colour, and servers of one.

    Attributes:
        client: The colour of clients: ``"threads"`` or ``"loop"``.
        server: The colour of servers.
    """

    if TYPE_CHECKING:
        Server = typedrpc.Server

        @overload
        def connect(self, url: str, /, **options: Unpack[ConnectOptions]) -> typedrpc.Client[typedrpc.Client[Any]]: ...
        @overload
        def connect(
            self, contract: Callable[..., ServiceT], url: str, /, **options: Unpack[ConnectOptions]
        ) -> typedrpc.Client[ServiceT]: ...
        def connect(self, *target: Any, **options: Any) -> Any: ...

    def __init__(self, client: str = "threads", server: str = "threads") -> None:
        self.client = client
        self.server = server
        if not TYPE_CHECKING:
            self.connect = typedrpc.connect if client == "threads" else LoopClient
            self.Server = typedrpc.Server if server == "threads" else LoopServer

    @staticmethod
    def itself(end: Any) -> Any:
        """A server or client as handlers and peers see it."""
        return getattr(end, "itself", end)

    def __repr__(self) -> str:
        return f"{self.client}-{self.server}"


ENDS: Final = tuple(Ends(client, server) for client, server in COLOURS)
"""Each colour of a client with each of a server."""
ALIKE: Final = (ENDS[0], ENDS[3])
"""Those of one colour: for what takes long, or has only one end."""


@pytest.fixture(params=ALIKE, ids=repr)
def alike_ends(request: pytest.FixtureRequest) -> Ends:
    """In a module that takes it for its ``ends``: both of one side, where crossed pairs would show no more."""
    found: Ends = request.param
    return found


def socket_of(connection: Any) -> Any:
    """The socket of a connection of either colour, for its options."""
    if isinstance(connection, LoopConnection):
        assert connection._transport is not None
        return connection._transport.get_extra_info("socket")
    return connection._sock
