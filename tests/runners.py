"""Ways to have a conversation: each runner joins a client and a server by its own means."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar, overload
from unittest.mock import patch

from typing_extensions import Unpack

from tests import ends
from tests.certificates import of_client, of_server
from tests.ends import CLIENTS, SERVERS
from tests.loops import ON_UVLOOP, uvloop
from typedrpc import BoundCommand, Command, FunctionService, Peer, Server, Service, Tls, connect
from typedrpc.common.server import ServerOptions
from typedrpc.messages import MAX_CALLS, MAX_MESSAGE_SIZE

ServiceT = TypeVar("ServiceT", bound=Service)
CallableT = TypeVar("CallableT", bound=Callable[..., Any])


class Talk(Protocol):
    """One connection, from the client's side."""

    @property
    def peer(self) -> Peer: ...
    @overload
    def proxy(self, contract: Command[CallableT], /) -> BoundCommand[CallableT]: ...
    @overload
    def proxy(self, contract: Callable[..., ServiceT], /) -> ServiceT: ...
    def proxy(self, contract: Any, /) -> Any: ...
    def close(self) -> None: ...


class Runner(ABC):
    """Serves services and connects to them."""

    @abstractmethod
    def talk(
        self,
        *services: Service | FunctionService,
        accepts: int = MAX_MESSAGE_SIZE,
        **options: Unpack[ServerOptions],
    ) -> AbstractContextManager[Talk]:
        """A connection to a server of these services.

        Args:
            services: What is served.
            accepts: The client's ``max_message_size``.
            options: As for ``Server``.
        """


class ThreadsRunner(Runner):
    """Server and client of the threads side, over a socket."""

    def __init__(self, url: str, of_server: Tls | None = None, of_client: Tls | None = None) -> None:
        self._url = url
        self._of_server = of_server
        self._of_client = of_client

    @contextlib.contextmanager
    def talk(
        self,
        *services: Service | FunctionService,
        accepts: int = MAX_MESSAGE_SIZE,
        **options: Unpack[ServerOptions],
    ) -> Iterator[Talk]:
        options.setdefault("tls", self._of_server)
        with (
            Server(*services, url=self._url, **options) as server,
            connect(server.url, max_message_size=accepts, max_calls=MAX_CALLS, tls=self._of_client) as client,
        ):
            yield client


class ColouredRunner(Runner):
    """Server and client of either side, over a socket, with TLS or without."""

    def __init__(self, client: str, server: str, *, secure: bool = False) -> None:
        self._connect = CLIENTS[client]
        self._serve = SERVERS[server]
        self._of_server: dict[str, Any] = {"url": "tls://localhost:0", "tls": of_server()} if secure else {}
        self._of_client: dict[str, Any] = {"tls": of_client()} if secure else {}

    @contextlib.contextmanager
    def talk(
        self,
        *services: Service | FunctionService,
        accepts: int = MAX_MESSAGE_SIZE,
        **options: Unpack[ServerOptions],
    ) -> Iterator[Talk]:
        with (
            self._serve(*services, **self._of_server, **options) as server,
            self._connect(server.url, max_message_size=accepts, max_calls=MAX_CALLS, **self._of_client) as client,
        ):
            yield client


class UvloopRunner(ColouredRunner):
    """Server and client of the asyncio side, each on a loop of uvloop's."""

    @contextlib.contextmanager
    def talk(
        self,
        *services: Service | FunctionService,
        accepts: int = MAX_MESSAGE_SIZE,
        **options: Unpack[ServerOptions],
    ) -> Iterator[Talk]:
        assert uvloop is not None
        with (
            patch.object(ends, "make_loop", uvloop.new_event_loop),
            super().talk(*services, accepts=accepts, **options) as talk,
        ):
            yield talk


def make_runner(name: str, directory: Path) -> Runner:
    """The runner of this name; what it leaves in the file system is in the directory."""
    match name:
        case "tcp":
            return ThreadsRunner("tcp://127.0.0.1:0")
        case "unix":
            return ThreadsRunner(f"unix://{directory}/server.sock")
        case "tls":
            return ThreadsRunner("tls://localhost:0", of_server(), of_client())
        case "aio tls":
            return ColouredRunner("loop", "loop", secure=True)
        case "aio":
            return ColouredRunner("loop", "loop")
        case "aio client":
            return ColouredRunner("loop", "threads")
        case "aio server":
            return ColouredRunner("threads", "loop")
        case "uvloop":
            return UvloopRunner("loop", "loop")
        case _:
            raise ValueError(name)


RUNNERS = ("tcp", "unix", "tls", "aio", "aio client", "aio server", "aio tls", ON_UVLOOP)
