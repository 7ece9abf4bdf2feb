"""The processes of `soak.py`: a server, or a client of all servers, with threads or on an event loop.

::

    python soak_ends.py serve PLACE FOLDER
    python soak_ends.py call [--doomed] threads|asyncio SEED WORKERS FOLDER PLACE=URL...

A server says its url; a client says that it is ready. Then each answers lines of input, in JSON: ``sample`` says what
it holds, ``quiet`` the same after a collection of garbage; a client goes on working at ``go``, and stops at ``rest``,
which is answered when all of its workers have. A doomed client works from the start, until it is killed. A client in
which nothing has moved for long says where everybody is, and ends with 3; on SIGUSR1 either says it too. Both end with
their standard input.
"""

import argparse
import asyncio
import faulthandler
import json
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any, Final

import soak_asyncio
import soak_threads
from asyncio_calls import Input
from soak_places import PLACES, Place
from soak_services import Soak
from soak_state import Faults, quiet_sample, sample
from workload import allow_descriptors

from typedrpc import Server, aio

STILL: Final = 60.0
"""Seconds that one shape may take, before it is held to hang."""

HELPERS: Final = 2
"""Threads of an event loop for what blocks. They are there from the start: what is there is counted."""


class Answers:
    """What this process says of itself."""

    def __init__(self, soak: Soak) -> None:
        self.faults = Faults()
        self.done: Counter[str] = Counter()
        self._soak = soak

    def to(self, line: str) -> str:
        found = quiet_sample() if line == "quiet" else sample()
        found["tables"].update(self._soak.held)
        return json.dumps({**found, "faults": self.faults.found, "done": self.done})


class Watchdog:
    """Ends this process when a worker is at one thing for too long; says where everybody is then."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[str, float]] = {}
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def begins(self, worker: str, what: str) -> None:
        self._since[worker] = (what, monotonic())

    def ends(self, worker: str) -> None:
        self._since.pop(worker, None)

    def _watch(self) -> None:
        pause = threading.Event()
        while not pause.wait(1.0):
            for worker, (what, since) in list(self._since.items()):
                if monotonic() - since > STILL:
                    print(f"process {os.getpid()}: {worker} hangs in {what}", file=sys.stderr, flush=True)
                    faulthandler.dump_traceback(all_threads=True)
                    print_tasks()
                    os._exit(3)


MANY: Final = len(soak_threads.SHAPES)

tasks_of: list[asyncio.AbstractEventLoop] = []
"""The event loop of this process, if it has one of its own."""


def print_tasks(*_: object) -> None:
    for loop in tasks_of:
        for task in asyncio.all_tasks(loop):
            task.print_stack()


class Crew:
    """Threads that work as long as they may: each goes through all shapes first, and then does what the dice say."""

    def __init__(self, answers: Answers, *, may_work: bool) -> None:
        self._answers = answers
        self._watchdog = Watchdog()
        self._changed = threading.Condition()
        self._may_work = may_work
        self._at_work = 0
        self._fresh = 0  # workers that have not gone through all shapes yet

    def go(self) -> None:
        with self._changed:
            self._may_work = True
            self._changed.notify_all()

    def rest(self) -> None:
        """Returns when all do; at first when each has gone through all shapes, by which caches fill."""
        with self._changed:
            self._may_work = False
            self._changed.wait_for(lambda: not (self._at_work or self._fresh))

    def add(self, name: str, ends: soak_threads.Ends, seed: str) -> None:
        with self._changed:
            self._fresh += 1
        threading.Thread(target=self._run, args=(name, ends, Random(seed)), name=name, daemon=True).start()

    def _run(self, name: str, ends: soak_threads.Ends, dice: Random) -> None:
        first = list(dice.sample(soak_threads.SHAPES, len(soak_threads.SHAPES)))
        for number in count():
            shape = first.pop() if first else dice.choice(soak_threads.SHAPES)
            with self._changed:
                if not 0 < number < MANY:
                    self._changed.wait_for(lambda: self._may_work)
                self._at_work += 1
            self._watchdog.begins(name, shape.__name__)
            try:
                shape(ends._replace(word=f"{name} {number}"), dice)
            except BaseException as error:
                self._answers.faults.note(f"{name}: {shape.__name__}", error)
            self._watchdog.ends(name)
            self._answers.done[shape.__name__] += 1
            with self._changed:
                self._at_work -= 1
                self._fresh -= number + 1 == MANY
                self._changed.notify_all()


class LoopCrew:
    """The same with tasks."""

    def __init__(self, answers: Answers, *, may_work: bool) -> None:
        self._answers = answers
        self._watchdog = Watchdog()
        self._may_work = asyncio.Event()
        self._all_rest = asyncio.Event()
        self._all_rest.set()
        self._at_work = 0
        self._fresh = 0
        self._tasks: list[asyncio.Task[None]] = []
        if may_work:
            self.go()

    def go(self) -> None:
        self._may_work.set()

    async def rest(self) -> None:
        """Returns when all do."""
        self._may_work.clear()
        await self._all_rest.wait()

    def add(self, name: str, ends: soak_asyncio.Ends, seed: str) -> None:
        self._fresh += 1
        self._all_rest.clear()
        self._tasks.append(asyncio.create_task(self._run(name, ends, Random(seed))))

    async def _run(self, name: str, ends: soak_asyncio.Ends, dice: Random) -> None:
        first = list(dice.sample(soak_asyncio.SHAPES, len(soak_asyncio.SHAPES)))
        for number in count():
            shape = first.pop() if first else dice.choice(soak_asyncio.SHAPES)
            if not 0 < number < MANY:
                await self._may_work.wait()
            self._at_work += 1
            self._all_rest.clear()
            self._watchdog.begins(name, shape.__name__)
            try:
                await shape(ends._replace(word=f"{name} {number}"), dice)
            except BaseException as error:
                self._answers.faults.note(f"{name}: {shape.__name__}", error)
            self._watchdog.ends(name)
            self._answers.done[shape.__name__] += 1
            self._at_work -= 1
            self._fresh -= number + 1 == MANY
            if not (self._at_work or self._fresh):
                self._all_rest.set()


def serve(place: Place, folder: Path) -> None:
    soak = Soak()
    answers = Answers(soak)
    with Server(soak, url=place.url.format(folder=folder), **place.server(folder)) as server:
        print(server.url, flush=True)
        for line in sys.stdin:
            print(answers.to(line.strip()), flush=True)


async def serve_on_loop(place: Place, folder: Path) -> None:
    soak = Soak()
    answers = Answers(soak)
    async with (
        lines_of_loop() as lines,
        aio.Server(soak, url=place.url.format(folder=folder), **place.server(folder)) as server,
    ):
        print(server.url, flush=True)
        while True:
            print(answers.to((await lines.line()).strip()), flush=True)


def call(seed: str, workers: int, folder: Path, urls: dict[str, str], doomed: bool) -> None:
    soak = Soak()
    answers = Answers(soak)
    crew = Crew(answers, may_work=doomed)
    with ExitStack() as stack:
        proxies: list[Soak] = []
        for name, url in urls.items():
            again = partial(soak_threads.dial, PLACES[name], url, folder, soak)
            proxy = stack.enter_context(again())
            proxies.append(proxy)
            for number in range(workers):
                ends = soak_threads.Ends(proxy, soak, "", again)
                crew.add(f"{os.getpid()} {name} {number}", ends, f"{seed} {name} {number}")
        print("ready", flush=True)
        for line in sys.stdin:
            if line.strip() == "go":
                crew.go()
            elif line.strip() == "rest":
                crew.rest()
                for proxy in proxies:  # by which a server learns that earlier answers are wanted no more
                    proxy.add(1, 1)
            print(answers.to(line.strip()), flush=True)
        crew.rest()


async def call_on_loop(seed: str, workers: int, folder: Path, urls: dict[str, str], doomed: bool) -> None:
    soak = Soak()
    answers = Answers(soak)
    crew = LoopCrew(answers, may_work=doomed)
    async with AsyncExitStack() as stack:
        proxies: list[Soak] = []
        lines = await stack.enter_async_context(lines_of_loop())
        for name, url in urls.items():
            again = partial(soak_asyncio.dial, PLACES[name], url, folder, soak)
            proxy = await stack.enter_async_context(await again())
            proxies.append(proxy)
            for number in range(workers):
                ends = soak_asyncio.Ends(proxy, soak, "", again)
                crew.add(f"{os.getpid()} {name} {number}", ends, f"{seed} {name} {number}")
        print("ready", flush=True)
        while True:
            line = (await lines.line()).strip()
            if line == "go":
                crew.go()
            elif line == "rest":
                await crew.rest()
                for proxy in proxies:
                    await proxy.aadd(1, 1)
            print(answers.to(line), flush=True)


@asynccontextmanager
async def lines_of_loop() -> AsyncIterator[Input]:
    """What there is to a process with an event loop of its own."""
    loop = asyncio.get_running_loop()
    tasks_of.append(loop)
    pool = ThreadPoolExecutor(HELPERS, "helper")
    barrier = threading.Barrier(HELPERS)
    list(pool.map(lambda _: barrier.wait(), range(HELPERS)))
    loop.set_default_executor(pool)
    yield Input()


def main() -> None:
    parser = argparse.ArgumentParser()
    roles = parser.add_subparsers(dest="role", required=True)
    server, client = roles.add_parser("serve"), roles.add_parser("call")
    server.add_argument("place", choices=PLACES)
    client.add_argument("--doomed", action="store_true")
    client.add_argument("colour", choices=("threads", "asyncio"))
    client.add_argument("seed")
    client.add_argument("workers", type=int)
    for parts in (server, client):
        parts.add_argument("folder", type=Path)
    client.add_argument("urls", nargs="+")
    arguments = parser.parse_args()
    allow_descriptors()
    signal.signal(signal.SIGUSR1, print_tasks)
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=True)
    if arguments.role == "serve":
        place = PLACES[arguments.place]
        if place.colour == "threads":
            serve(place, arguments.folder)
        else:
            asyncio.run(serve_on_loop(place, arguments.folder))
        return
    urls = dict(url.split("=", 1) for url in arguments.urls)
    options: tuple[Any, ...] = (arguments.seed, arguments.workers, arguments.folder, urls, arguments.doomed)
    if arguments.colour == "threads":
        call(*options)
    else:
        asyncio.run(call_on_loop(*options))


if __name__ == "__main__":
    main()
