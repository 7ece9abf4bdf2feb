"""pycapnp: the interface of `calls.capnp`, served and called on asyncio's event loop: pycapnp has no other way.

A client's loop runs for a whole turn, not for each call. A loop belongs to its thread, so 8 threads have 8, and a
connection each. `map` has up to 1,000 calls on their way. The limit of what a message may hold is raised. Structs are
filled with the fields of the dataclasses, and dataclasses are made of those that come back. asyncio sets TCP_NODELAY.
"""

import asyncio
import importlib
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

from .base import LARGEST, LOCALHOST, Client, Item, Peer, in_background

AHEAD: Final = 1000
WORDS: Final = LARGEST // 8 * 4


@cache
def _definition() -> Any:
    capnp: Any = importlib.import_module("capnp")
    return capnp.load(str(Path(__file__).with_name("calls.capnp")))


@contextmanager
def _serve(path: str | None) -> Iterator[str]:
    capnp: Any = importlib.import_module("capnp")
    addresses: list[str] = []
    listening = threading.Event()

    class Calls(_definition().Calls.Server):  # type: ignore[misc]  # Any
        async def add(self, a: int, b: int, **rest: object) -> int:
            return a + b

        async def records(self, items: Any, **rest: object) -> Any:
            return items

        async def echo(self, data: bytes, **rest: object) -> bytes:
            return data

    async def serve(stream: Any) -> None:
        await capnp.TwoPartyServer(stream, bootstrap=Calls(), traversal_limit_in_words=WORDS).on_disconnect()

    async def run() -> None:
        if path is None:
            server = await capnp.AsyncIoStream.create_server(serve, LOCALHOST, 0, backlog=1024)
            addresses.append(str(server.sockets[0].getsockname()[1]))
        else:
            server = await capnp.AsyncIoStream.create_unix_server(serve, path)
            addresses.append(path)
        listening.set()
        async with server:
            await server.serve_forever()

    in_background(lambda: asyncio.run(capnp.run(run())))
    if not listening.wait(10):
        raise RuntimeError("pycapnp does not listen")
    yield addresses[0]


class _Loop(threading.local):
    """The loop of a thread. It is left open: it ends with the process."""

    def __init__(self) -> None:
        capnp: Any = importlib.import_module("capnp")
        self._runner = asyncio.Runner()
        self._kj = capnp.kj_loop()
        self.run(self._kj.__aenter__())

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(coroutine)


@cache
def _loop() -> _Loop:
    return _Loop()


@contextmanager
def _connect(address: str) -> Iterator[Client]:
    capnp: Any = importlib.import_module("capnp")
    run = _loop().run

    async def open_stream() -> tuple[Any, Any, Any]:
        if address.isdigit():
            stream = await capnp.AsyncIoStream.create_connection(LOCALHOST, int(address))
        else:
            stream = await capnp.AsyncIoStream.create_unix_connection(address)
        client = capnp.TwoPartyClient(stream, traversal_limit_in_words=WORDS)
        return stream, client, client.bootstrap().cast_as(_definition().Calls)

    async def close() -> None:
        client.close()
        stream.close()

    stream, client, calls = run(open_stream())

    async def add(a: int, b: int) -> Any:
        return (await calls.add(a, b)).sum

    async def records(items: list[Item]) -> list[Item]:
        request = calls.records_request()
        structs = request.init("items", len(items))
        for struct, item in zip(structs, items, strict=True):
            struct.id, struct.name, struct.price, struct.flag = item.id, item.name, item.price, item.flag
        returned = (await request.send()).items
        return [Item(item.id, item.name, item.price, item.flag) for item in returned]

    async def echo(data: bytes) -> Any:
        return (await calls.echo(data)).data

    def map(xs: Sequence[int], ys: Sequence[int]) -> list[int]:
        async def all_of_them() -> list[int]:
            sums: list[int] = []
            for start in range(0, len(xs), AHEAD):
                part = slice(start, start + AHEAD)
                promises = [calls.add(x, y) for x, y in zip(xs[part], ys[part], strict=True)]
                sums += [(await promise).sum for promise in promises]
            return sums

        result: list[int] = run(all_of_them())
        return result

    with ExitStack() as stack:
        stack.callback(lambda: run(close()))
        yield Client(add=add, map=map, records=records, echo=echo, run=run)


PEER = Peer(
    serve=_serve,
    connect=_connect,
    packages=("capnp",),
    shared=False,
    left_out={"stream": "it has callbacks in place of streams"},
)
