"""The processes of `growth.py`: a server and a client, each with threads or on an event loop.

::

    python growth_ends.py [--cpu N] serve [--max-calls N] threads|asyncio|commands URL [COUNT]
    python growth_ends.py [--cpu N] call threads|asyncio|commands URL

A server says its url, and then for each line of input, in JSON, how many seconds of CPU it has used, and how many of
them Python's garbage collector; to the line ``settle`` when no more than one client is left. A client says that it is
ready, and then for each line ``WORK COUNT TIMES`` does that much of the work so often, and says the same of that, and
how many seconds passed. Both end with their standard input, and show where each of their threads is when a line takes
too long.
"""

import argparse
import asyncio
import faulthandler
import gc
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from time import perf_counter, process_time, thread_time
from typing import Final

from asyncio_calls import Input
from growth_callers import Caller, CommandsCaller, LoopCaller
from growth_services import DEEP, LARGE, AsyncGrowth, Growth, large_service
from workload import allow_descriptors, pin

from typedrpc import Server, aio
from typedrpc.messages import MAX_CALLS

PATIENCE: Final = 300.0
"""Seconds that one line may take."""

LOOK: Final = 0.005
"""Seconds between two looks whether a server has lost all clients but one."""


class Meter:
    """What this process has used: CPU seconds, and how many of them Python's garbage collector has."""

    def __init__(self) -> None:
        self._collecting = 0.0
        self._start = 0.0
        gc.callbacks.append(self._note)

    def used(self) -> dict[str, float]:
        return {"cpu": process_time(), "collector": self._collecting}

    def since(self, before: dict[str, float]) -> dict[str, float]:
        return {name: value - before[name] for name, value in self.used().items()}

    def _note(self, phase: str, info: object) -> None:
        if phase == "start":
            self._start = thread_time()
        else:
            self._collecting += thread_time() - self._start


meter = Meter()


def serve(kind: str, url: str, count: int, max_calls: int) -> None:
    """Serve with threads: the few commands of the other curves, or ``count`` of them."""
    service = large_service(count)[0] if kind == "commands" else Growth()
    before = meter.used()
    with Server(service, url=url, max_message_size=LARGE, max_depth=DEEP, max_calls=max_calls) as server:
        started = {f"serve_{name}": value for name, value in meter.since(before).items()}
        print(server.url, flush=True)
        for line in read_lines():
            while line == "settle" and len(server.peers) > 1:
                time.sleep(LOOK)
            print(json.dumps({**meter.used(), **started}), flush=True)


async def serve_on_loop(url: str, max_calls: int) -> None:
    lines = Input()
    async with aio.Server(
        AsyncGrowth(), url=url, max_message_size=LARGE, max_depth=DEEP, max_calls=max_calls
    ) as server:
        print(server.url, flush=True)
        while True:
            line = await lines.line()
            while line.strip() == "settle" and len(server.peers) > 1:
                await asyncio.sleep(LOOK)
            print(json.dumps(meter.used()), flush=True)


def call(kind: str, url: str) -> None:
    with ExitStack() as stack:
        caller = CommandsCaller(url, stack) if kind == "commands" else Caller(url, stack)
        print("ready", flush=True)
        for line in read_lines():
            name, count, times = line.split()
            work: Callable[[int], None] = getattr(caller, name)
            gc.collect()
            before, start = meter.used(), perf_counter()
            for _ in range(int(times)):
                work(int(count))
            wall = perf_counter() - start
            print(json.dumps({**meter.since(before), "wall": wall}), flush=True)


async def call_on_loop(url: str) -> None:
    lines = Input()
    async with AsyncExitStack() as stack:
        caller = LoopCaller(url)
        await caller.start(stack)
        print("ready", flush=True)
        while True:
            faulthandler.cancel_dump_traceback_later()
            name, count, times = (await lines.line()).split()
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            work: Callable[[int], Awaitable[None]] = getattr(caller, name)
            gc.collect()
            before, start = meter.used(), perf_counter()
            for _ in range(int(times)):
                await work(int(count))
            wall = perf_counter() - start
            print(json.dumps({**meter.since(before), "wall": wall}), flush=True)


def read_lines() -> Iterator[str]:
    """The lines of standard input; this process ends when whoever takes them is at one for too long."""
    for line in sys.stdin:
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        yield line.strip()
        faulthandler.cancel_dump_traceback_later()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cpu", type=int)
    roles = parser.add_subparsers(dest="role", required=True)
    for role in ("serve", "call"):
        parts = roles.add_parser(role)
        parts.add_argument("kind", choices=("threads", "asyncio", "commands"))
        parts.add_argument("url")
        if role == "serve":
            parts.add_argument("count", type=int, nargs="?", default=0)
            parts.add_argument("--max-calls", type=int, default=MAX_CALLS)
    arguments = parser.parse_args()
    pin(arguments.cpu)
    allow_descriptors()
    if arguments.kind == "asyncio":
        asyncio.run(
            serve_on_loop(arguments.url, arguments.max_calls)
            if arguments.role == "serve"
            else call_on_loop(arguments.url)
        )
    elif arguments.role == "serve":
        serve(arguments.kind, arguments.url, arguments.count, arguments.max_calls)
    else:
        call(arguments.kind, arguments.url)


if __name__ == "__main__":
    main()
