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
from tests.ends import CLIENTS, SERVERS
from tests.loops import ON_UVLOOP, uvloop
from typedrpc import BoundCommand, Command, FunctionService, Peer, Server, Service, connect
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

    def __init__(self, url: str) -> None:
        self._url = url

    @contextlib.contextmanager
    def talk(
        self,
        *services: Service | FunctionService,
        accepts: int = MAX_MESSAGE_SIZE,
        **options: Unpack[ServerOptions],
    ) -> Iterator[Talk]:
        with (
            Server(*services, url=self._url, **options) as server,
            connect(server.url, max_message_size=accepts, max_calls=MAX_CALLS) as client,
        ):
            yield client


class ColouredRunner(Runner):
    """Server and client of either side, over a socket."""

    def __init__(self, client: str, server: str) -> None:
        self._connect = CLIENTS[client]
        self._serve = SERVERS[server]

    @contextlib.contextmanager
    def talk(
        self,
        *services: Service | FunctionService,
        accepts: int = MAX_MESSAGE_SIZE,
        **options: Unpack[ServerOptions],
    ) -> Iterator[Talk]:
        with (
            self._serve(*services, **options) as server,
            self._connect(server.url, max_message_size=accepts, max_calls=MAX_CALLS) as client,
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


RUNNERS = ("tcp", "unix", "aio", "aio client", "aio server", ON_UVLOOP)
