"""The processes of `proofs_connections.py`: a server on an event loop, and clients that hold connections to it open.

::

    python held.py serve
    python held.py hold URL COUNT

The server says its url; it ends with its standard input. The client opens its connections, says how many seconds that
took, and then for each line of input calls on each of them in turn, and says how many seconds a call took.
"""

import asyncio
import sys
from contextlib import AsyncExitStack
from time import perf_counter

from asyncio_calls import Input
from asyncio_peers import Adder
from workload import allow_descriptors

from typedrpc.aio import Server, connect

AT_ONCE = 50
"""Connections that are opened at a time."""


async def serve() -> None:
    lines = Input()
    async with Server(Adder(), url="tcp://127.0.0.1:0") as server:
        print(server.url, flush=True)
        while True:
            await lines.line()
            print(len(server.peers), flush=True)


async def hold(url: str, count: int) -> None:
    lines = Input()
    async with AsyncExitStack() as stack:
        start = perf_counter()
        adders: list[Adder] = []
        while len(adders) < count:
            clients = (stack.enter_async_context(connect(Adder, url)) for _ in range(min(AT_ONCE, count - len(adders))))
            adders += await asyncio.gather(*clients)
        print(perf_counter() - start, flush=True)
        while True:
            await lines.line()
            start = perf_counter()
            for number, adder in enumerate(adders):
                assert await adder.add(number, 1) == number + 1
            print((perf_counter() - start) / count, flush=True)


if __name__ == "__main__":
    allow_descriptors()
    role, *rest = sys.argv[1:]
    asyncio.run(serve() if role == "serve" else hold(rest[0], int(rest[1])))
