"""Servers and clients of either colour, used alike, with ``with`` and with methods that block.

What lives on an event loop has one in a thread of its own here, so that what blocks the test blocks nothing else.
"""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, overload

import pytest
from typing_extensions import Unpack

import typedrpc
from tests.ends import LoopThread
from typedrpc import aio
from typedrpc.aio.connection import Connection as LoopConnection
from typedrpc.call import handled_by
from typedrpc.common.client import ConnectOptions, ServiceT

SERVERS: Final = ("threads", "loop")
COLOURS: Final = tuple((client, server) for client in SERVERS for server in SERVERS)


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
def alike(request: pytest.FixtureRequest) -> Ends:
    """In a module that takes it for its ``ends``: both of one side, where crossed pairs would show no more."""
    found: Ends = request.param
    return found


def socket_of(connection: Any) -> Any:
    """The socket of a connection of either colour, for its options."""
    if isinstance(connection, LoopConnection):
        assert connection._transport is not None
        return connection._transport.get_extra_info("socket")
    return connection._sock
