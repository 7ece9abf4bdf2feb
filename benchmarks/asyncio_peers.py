"""What `asyncio_calls.py` compares: how each serves and calls ``add(a, b)`` on the event loop that runs.

Nothing but typedrpc has to be installed. What is not installed cannot be looked into by type checkers either, so each
is imported by name and is `Any` to them.
"""

import asyncio
import importlib
import importlib.util
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from struct import Struct
from typing import Any, Final, NamedTuple, cast

from workload import Workload

from typedrpc import Server, Service, connect, rpc

LOCALHOST: Final = "127.0.0.1"
NUMBERS: Final = Struct(">qq")
FLOOR: Final = "bare echo"
FRAME: Final = bytes(16)
"""What the floor sends: as many bytes as a typed call of two small ints, more or less."""

Add = Callable[[int, int], Awaitable[int]]


class Peer(NamedTuple):
    """A library, or one of the ways in which it can be used.

    Attributes:
        packages: What has to be installed.
        serve: A server that runs as long as the context; its address.
        connect: A connection to an address; what adds two numbers at the other end.
    """

    packages: tuple[str, ...]
    serve: Callable[[], AbstractAsyncContextManager[str]]
    connect: Callable[[str], AbstractAsyncContextManager[Add]]


def missing(*packages: str) -> list[str]:
    """Those that are not installed."""
    return [name for name in packages if importlib.util.find_spec(name) is None]


class Adder(Service, name="adder"):
    @rpc(id=1)
    async def add(self, a: int, b: int) -> int:
        return a + b


@asynccontextmanager
async def _serve_aio() -> AsyncIterator[str]:
    aio: Any = importlib.import_module("typedrpc.aio")
    async with aio.Server(Adder(), url=f"tcp://{LOCALHOST}:0") as server:
        yield server.url


@asynccontextmanager
async def _connect_aio(url: str) -> AsyncIterator[Add]:
    aio: Any = importlib.import_module("typedrpc.aio")
    async with aio.connect(Adder, url) as adder:
        yield adder.add


@asynccontextmanager
async def _serve_threads() -> AsyncIterator[str]:
    with Server(Workload(), url=f"tcp://{LOCALHOST}:0") as server:
        yield server.url


@asynccontextmanager
async def _connect_threads(url: str) -> AsyncIterator[Add]:
    with connect(Workload, url) as workload:
        yield workload.add.aio


@asynccontextmanager
async def _grpc_server(enter: Callable[[Any], None]) -> AsyncIterator[str]:
    aio: Any = importlib.import_module("grpc.aio")
    server = aio.server()
    enter(server)
    port = server.add_insecure_port(f"{LOCALHOST}:0")
    await server.start()
    try:
        yield f"{LOCALHOST}:{port}"
    finally:
        await server.stop(None)


def _generated() -> tuple[Any, Any]:
    """The modules of messages and of services that gRPC's compiler makes."""
    messages, services = importlib.import_module("grpc").protos_and_services("adder.proto")
    return messages, services


def _serve_messages() -> AbstractAsyncContextManager[str]:
    messages, services = _generated()

    class Servicer:
        async def Add(self, numbers: Any, context: object) -> Any:
            return messages.Sum(sum=numbers.a + numbers.b)

    return _grpc_server(lambda server: services.add_AdderServicer_to_server(Servicer(), server))


@asynccontextmanager
async def _connect_messages(address: str) -> AsyncIterator[Add]:
    messages, services = _generated()
    aio: Any = importlib.import_module("grpc.aio")
    async with aio.insecure_channel(address) as channel:
        stub = services.AdderStub(channel)

        async def add(a: int, b: int) -> int:
            return cast(int, (await stub.Add(messages.Numbers(a=a, b=b))).sum)

        yield add


def _serve_structs() -> AbstractAsyncContextManager[str]:
    grpc: Any = importlib.import_module("grpc")

    async def add(numbers: tuple[int, int], context: object) -> tuple[int, int]:
        return numbers[0] + numbers[1], 0

    handler = grpc.unary_unary_rpc_method_handler(add, NUMBERS.unpack, lambda numbers: NUMBERS.pack(*numbers))
    handlers = grpc.method_handlers_generic_handler("adder", {"add": handler})
    return _grpc_server(lambda server: server.add_generic_rpc_handlers((handlers,)))


@asynccontextmanager
async def _connect_structs(address: str) -> AsyncIterator[Add]:
    aio: Any = importlib.import_module("grpc.aio")
    async with aio.insecure_channel(address) as channel:
        call = channel.unary_unary("/adder/add", lambda numbers: NUMBERS.pack(*numbers), NUMBERS.unpack)

        async def add(a: int, b: int) -> int:
            return cast(int, (await call((a, b)))[0])

        yield add


class _Bare(asyncio.BufferedProtocol):
    """Both ends of the floor. (A plain Protocol reads at half the speed: asyncio makes room for 256 KiB each time.)"""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.buffer = bytearray(64 * 1024)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(bytes(memoryview(self.buffer)[:nbytes]))


class _BareCaller(_Bare):
    """Answers come in order. What is sent while others are on their way leaves together when the loop turns."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()
        self.waiting: deque[asyncio.Future[None]] = deque()
        self.received = self.unsent = 0

    def buffer_updated(self, nbytes: int) -> None:
        answers, self.received = divmod(self.received + nbytes, len(FRAME))
        for _ in range(answers):
            self.waiting.popleft().set_result(None)

    def flush(self) -> None:
        self.transport.write(FRAME * self.unsent)
        self.unsent = 0

    async def add(self, a: int, b: int) -> int:
        if not self.waiting:
            self.transport.write(FRAME)
        else:
            if not self.unsent:
                self.loop.call_soon(self.flush)
            self.unsent += 1
        answer = self.loop.create_future()
        self.waiting.append(answer)
        await answer
        return a + b


@asynccontextmanager
async def _serve_bare() -> AsyncIterator[str]:
    server = await asyncio.get_running_loop().create_server(_Bare, LOCALHOST, 0)
    async with server:
        yield str(server.sockets[0].getsockname()[1])


@asynccontextmanager
async def _connect_bare(port: str) -> AsyncIterator[Add]:
    transport, caller = await asyncio.get_running_loop().create_connection(_BareCaller, LOCALHOST, int(port))
    yield caller.add
    transport.close()


PEERS: Final = {
    "typedrpc.aio": Peer(("typedrpc.aio",), _serve_aio, _connect_aio),
    "typedrpc, threads": Peer((), _serve_threads, _connect_threads),
    "grpc.aio": Peer(("grpc", "grpc_tools"), _serve_messages, _connect_messages),
    "grpc.aio, struct": Peer(("grpc",), _serve_structs, _connect_structs),
    FLOOR: Peer((), _serve_bare, _connect_bare),
}
