"""Counts what calls and items cost, between a client and a server in this process; prints a map in JSON.

:mod:`tests.cost.test_cost` runs it, in a process of its own into which no coverage tool looks::

    python -m tests.cost.counted                # functions, system calls, waits
    python -m tests.cost.counted --blocks       # blocks of memory that stay
    python -m tests.cost.counted --opcodes      # instructions; on CPython 3.11 only
    python -m tests.cost.counted --table        # any of them for a reader, not in JSON
    python -m tests.cost.counted --only call --dearer typedrpc.wire:FrameReader.sole_frame

The last one wraps a function, so that it costs one call more: the guard has to see it.

A count is to be the same on any machine, loaded or idle. So:

- Time stands still: whatever asks how long something took is told that it took none.
- The watcher looks only while nothing else moves.
- A round begins and ends when all threads wait, so that all of it is counted, and nothing else. The median of the
  rounds counts: how many of many items came with one read is chance, and so is what a watcher does under load.
"""

import argparse
import asyncio
import gc
import importlib
import itertools
import json
import os
import select
import socket
import sys
import threading
import time
from _thread import LockType
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack
from functools import wraps
from statistics import median
from typing import Any, Final, TypeAlias

time.monotonic = (1000.0).conjugate  # of C, as the clock is, so that it counts as much

from typedrpc import Server, Service, aio, connect, rpc  # noqa: E402  # which import the clock by name
from typedrpc.sync import watcher  # noqa: E402

SYSTEM_CALLS: Final = frozenset(
    {"accept", "close", "connect", "modify", "poll", "read", "recv", "recv_into", "recvfrom", "recvfrom_into"}
    | {"recvmsg", "recvmsg_into", "register", "select", "send", "sendall", "sendmsg", "sendto", "setsockopt"}
    | {"shutdown", "sleep", "unregister", "write"}
)
"""Functions of C that enter the system where they are a socket's, a selector's, or of ``os`` or ``time``."""

WAITING: Final = frozenset({"accept", "acquire", "poll", "read", "recv", "recv_into", "select", "sleep"})
"""Those in which a thread waits for something."""

FUNCTIONS, BUILTINS, SYSTEM, WAITS, OPCODES = range(5)
WHAT: Final = ("functions", "builtins", "system calls", "waits", "opcodes")
"""
- functions: how often a function of Python was called, or a generator went on.
- builtins: how often a function of C was.
- system calls: of these, those that enter the system; waits for a lock are not among them.
- waits: for a lock that another thread had, which is what a hand-over between threads takes.
- opcodes: instructions of the interpreter.
"""

SIDES: Final = {"client": ("MainThread", "typedrpc-client-"), "server": ("typedrpc-server-", "server")}
"""Whose threads are whose, by how their names begin. Those that accept, and the watchers, are nobody's."""

REST: Final = 0.01
"""Seconds without a move after which the watcher may look."""

LOOK: Final = 0.0002
"""Seconds between two looks whether all is at rest."""

PATIENCE: Final = 30.0
ROUNDS: Final = 5
AT_ONCE: Final = 64


class Thread:
    """What one thread has done."""

    def __init__(self) -> None:
        self._thread = threading.current_thread()
        self.name = self._thread.name
        self.is_main = self._thread is threading.main_thread()
        self.is_watcher = self.name.endswith("watcher")
        self.counts = [0] * len(WHAT)
        self.inside = False  # something in which it waits
        self.paused = False

    def is_at_rest(self) -> bool:
        return self.inside or self.paused or self.is_watcher or not self._thread.is_alive()


class Tally:
    """Counts what threads do, from when each starts."""

    def __init__(self, *, opcodes: bool) -> None:
        self.threads: list[Thread] = []
        self._main = Thread()
        self._opcodes = opcodes
        self.is_over = False
        self._is_awaited = False  # by the thread that is paused

    def start(self) -> None:
        """Count in this thread, and in those that start from now on."""
        threading.setprofile(self._begin)
        if self._opcodes:
            sys.settrace(self._tracer(self._main))
        sys.setprofile(self._profiler(self._main))

    def _begin(self, frame: Any, event: str, argument: Any) -> None:
        sys.setprofile(self._profiler(Thread()))

    def _profiler(self, thread: Thread) -> Callable[[Any, str, Any], None]:
        self.threads.append(thread)
        counts = thread.counts
        if self._opcodes and not thread.is_main:
            sys.settrace(self._tracer(thread))

        def profile(frame: Any, event: str, argument: Any) -> None:
            if thread.paused:
                return
            if event == "call":
                counts[FUNCTIONS] += 1
            elif event == "c_call":
                counts[BUILTINS] += 1
                name = argument.__name__
                if name in SYSTEM_CALLS and _enters_the_system(argument):
                    counts[SYSTEM] += 1
                if name in WAITING:
                    if name == "acquire" and isinstance(argument.__self__, LockType) and argument.__self__.locked():
                        counts[WAITS] += 1
                    thread.inside = True
            elif thread.inside and event != "return":
                thread.inside = False

        return profile

    def _tracer(self, thread: Thread) -> Callable[[Any, str, Any], Any]:
        counts = thread.counts

        def trace(frame: Any, event: str, argument: Any) -> Any:
            if event == "opcode":
                counts[OPCODES] += not thread.paused
            elif event == "call":
                frame.f_trace_opcodes, frame.f_trace_lines = True, False
            return trace

        return trace

    def settle(self, has_come: Callable[[], object] = lambda: True) -> None:
        """Return when that has come, and all other threads wait for something. What this thread does is not counted."""
        self._main.paused = True
        self._is_awaited = True
        try:
            until = time.perf_counter() + PATIENCE
            while not (has_come() and all(thread.is_main or thread.is_at_rest() for thread in tuple(self.threads))):
                self._is_awaited = not has_come()
                if time.perf_counter() > until:
                    raise TimeoutError("what was to come did not, or a thread never came to rest")
                time.sleep(LOOK)
        finally:
            self._main.paused = self._is_awaited = False

    def is_at_rest(self) -> bool:
        """Whether nothing moves for a moment; asked by a watcher, which is of no use where nothing is awaited."""
        if self.is_over:
            return True
        if self._main.paused and not self._is_awaited:
            time.sleep(LOOK)
            return False
        before = self._moves()
        time.sleep(REST)
        return before == self._moves() and all(thread.is_at_rest() for thread in tuple(self.threads))

    def _moves(self) -> list[list[int]]:
        return [thread.counts.copy() for thread in tuple(self.threads) if not thread.is_watcher]

    def counts(self, side: str) -> list[int]:
        """What the threads of a side have done so far."""
        of_side = [
            thread.counts
            for thread in tuple(self.threads)
            if thread.name.startswith(SIDES[side]) and not thread.is_watcher
        ]
        return [sum(counts) for counts in zip(*of_side, strict=True)]


def _enters_the_system(function: Any) -> bool:
    of = function.__self__
    if isinstance(of, socket.socket) or type(of).__module__ == "select":
        return True
    return getattr(of, "__name__", "") in {"posix", "nt", "select", "time"}


class PatientLock:
    """What a watcher sleeps with: it wakes when nothing moves."""

    def __init__(self, tally: Tally) -> None:
        self._lock = threading.Lock()
        self._tally = tally
        self.release = self._lock.release

    def acquire(self, timeout: float = -1) -> bool:
        taken = self._lock.acquire(timeout=timeout)
        while not self._tally.is_at_rest():
            pass
        return taken


class Unit(Service, name="unit"):
    """What is called. Its handlers do next to nothing."""

    told = 0

    @rpc(id=1)
    def add(self, a: int, b: int) -> int:
        return a + b

    @rpc(id=2)
    def tell(self, a: int) -> None:
        self.told = a

    @rpc(id=3)
    def count(self, until: int) -> Iterator[int]:
        yield from range(until)

    @rpc(id=4)
    def total(self, numbers: Iterator[int]) -> int:
        return sum(numbers)


class AsyncUnit(Service, name="aunit"):
    """The same for an event loop."""

    told = 0

    @rpc(id=1)
    async def add(self, a: int, b: int) -> int:
        return a + b

    @rpc(id=2)
    async def tell(self, a: int) -> None:
        self.told = a

    @rpc(id=3)
    async def count(self, until: int) -> AsyncIterator[int]:
        for number in range(until):
            yield number

    @rpc(id=4)
    async def total(self, numbers: AsyncIterator[int]) -> int:
        total = 0
        async for number in numbers:
            total += number
        return total


Rest: TypeAlias = Callable[[Callable[[], object]], None]


def with_threads(unit: Unit, served: Unit, rest: Rest) -> dict[str, tuple[int, Callable[[int], Any]]]:
    """What is counted with threads: how many units a round has, and what does so many."""
    add, tell, total = unit.add, unit.tell.notify, unit.total

    def calls(number: int) -> None:
        for _ in range(number):
            add(1, 2)

    def items(number: int) -> None:
        for _ in add.map(range(number), range(number)):
            pass

    def results(number: int) -> None:
        for _ in unit.count(number):
            pass

    def arguments(number: int) -> None:
        total(iter(range(number)))

    def one_way(number: int) -> None:
        for one in range(number):
            tell(one)
            rest(lambda: served.told == one)  # noqa: B023 - so that each is read by itself

    def submitted(number: int) -> None:
        for _ in range(number):
            future = add.submit(1, 2)
            rest(future.done)
            future.result()

    return {
        "call": (200, calls),
        "map item": (4000, items),
        "result stream item": (4000, results),
        "argument stream item": (4000, arguments),
        "one-way call": (64, one_way),
        "submitted call": (64, submitted),
    }


def on_loop(
    unit: AsyncUnit, served: AsyncUnit, rest: Rest
) -> dict[str, tuple[int, Callable[[int], Coroutine[Any, Any, Any]]]]:
    """The same on an event loop."""
    add, tell, total = unit.add, unit.tell.notify, unit.total

    async def calls(number: int) -> None:
        for _ in range(number):
            await add(1, 2)

    async def calls_at_once(number: int) -> None:
        for _ in range(number // AT_ONCE):
            await asyncio.gather(*[add(1, 2) for _ in range(AT_ONCE)])

    async def results(number: int) -> None:
        async for _ in unit.count(number):
            pass

    async def arguments(number: int) -> None:
        async def numbers() -> AsyncIterator[int]:
            for one in range(number):
                yield one

        await total(numbers())

    async def one_way(number: int) -> None:
        for one in range(number):
            tell(one)
            await asyncio.sleep(0)
            rest(lambda: served.told == one)  # noqa: B023 - as above

    return {
        "asyncio call": (200, calls),
        f"asyncio call, {AT_ONCE} at once": (10 * AT_ONCE, calls_at_once),
        "asyncio result stream item": (4000, results),
        "asyncio argument stream item": (4000, arguments),
        "asyncio one-way call": (64, one_way),
    }


class LoopServer:
    """An asyncio server in a thread of its own, to the end of the process."""

    def __init__(self, service: Service) -> None:
        self.url = ""
        started = threading.Event()

        async def serve() -> None:
            async with aio.Server(service, url="tcp://127.0.0.1:0") as server:
                self.url = server.url
                started.set()
                await asyncio.Event().wait()

        threading.Thread(target=lambda: asyncio.run(serve()), name="server", daemon=True).start()
        if not started.wait(PATIENCE):
            raise TimeoutError("the server did not start")


Result = dict[str, float]


class Counting:
    """Rounds in which it is counted what each thread does."""

    def __init__(self, *, opcodes: bool) -> None:
        self.tally = tally = Tally(opcodes=opcodes)
        self.rest: Rest = tally.settle
        self._what = (OPCODES,) if opcodes else (FUNCTIONS, BUILTINS, SYSTEM, WAITS)
        self._shrink = 10 if opcodes else 1  # it takes so much longer
        make = watcher.Watcher.__init__

        def make_patient(self: watcher.Watcher, name: str) -> None:
            make(self, name)
            self._wake = PatientLock(tally)  # type: ignore[assignment]

        watcher.Watcher.__init__ = make_patient  # type: ignore[method-assign]
        tally.start()

    def end(self) -> None:
        """Let the watchers look when they like: to end is nothing that rests."""
        self.tally.is_over = True

    def units(self, number: int) -> int:
        return max(AT_ONCE, number // self._shrink)

    def look(self) -> tuple[dict[str, list[int]], int]:
        self.tally.settle()
        return {side: self.tally.counts(side) for side in SIDES}, len(self.tally.threads)

    def result(self, looks: list[Any], number: int) -> Result:
        """The medians of the rounds: for each unit, and how many threads were started in a round."""
        rounds = [
            {side: [b - a for a, b in zip(before[side], after[side], strict=True)] for side in SIDES}
            for (before, _), (after, _) in itertools.pairwise(looks)
        ]
        result = {
            f"{side} {WHAT[index]}": round(median(counts[side][index] for counts in rounds) / number, 4)
            for side in SIDES
            for index in self._what
        }
        started = median(after - before for (_, before), (_, after) in itertools.pairwise(looks))
        return result if self._what == (OPCODES,) else {**result, "threads started": started}


class Weighing:
    """Rounds after which it is counted how many blocks of memory are held."""

    def rest(self, has_come: Callable[[], object]) -> None:
        until = time.perf_counter() + PATIENCE
        while not has_come() and time.perf_counter() < until:
            time.sleep(LOOK)

    def end(self) -> None:
        pass

    def units(self, number: int) -> int:
        return 1024 if number > 64 else 256

    def look(self) -> int:
        time.sleep(REST)  # for what threads let go of at the end of a round
        gc.collect()
        return sys.getallocatedblocks()

    def result(self, looks: list[Any], number: int) -> Result:
        return {"blocks": round(median(b - a for a, b in itertools.pairwise(looks)) / number, 4)}


def make_dearer(path: str) -> None:
    """Wrap ``module:Class.function``, so that it costs one call more, and a system call."""
    module, _, name = path.partition(":")
    *outer, last = name.split(".")
    owner: Any = importlib.import_module(module)
    for one in outer:
        owner = getattr(owner, one)
    function = getattr(owner, last)

    @wraps(function)
    def dearer(*args: Any, **kwargs: Any) -> Any:
        select.select((), (), (), 0)
        return function(*args, **kwargs)

    setattr(owner, last, dearer)


def count(method: Counting | Weighing, only: list[str] | None) -> dict[str, Result]:
    """Count all, or what is chosen."""
    results: dict[str, Result] = {}
    with ExitStack() as stack:
        served = Unit()
        server = stack.enter_context(Server(served, url="tcp://127.0.0.1:0"))
        unit = stack.enter_context(connect(Unit, server.url))
        stack.callback(method.end)
        for name, (number, work) in with_threads(unit, served, method.rest).items():
            if only is None or name in only:
                number = method.units(number)
                work(number)
                work(number)  # the pace of a map is found
                looks: list[Any] = [method.look()]
                for _ in range(ROUNDS):
                    work(number)
                    looks.append(method.look())
                results[name] = method.result(looks, number)
    if only is None or any(name.startswith("asyncio") for name in only):
        asyncio.run(count_on_loop(method, only, results))
    return results


async def count_on_loop(method: Counting | Weighing, only: list[str] | None, results: dict[str, Result]) -> None:
    served = AsyncUnit()
    async with aio.connect(AsyncUnit, LoopServer(served).url) as unit:
        for name, (number, work) in on_loop(unit, served, method.rest).items():
            if only is None or name in only:
                number = method.units(number)
                await work(number)
                await work(number)
                looks: list[Any] = [method.look()]
                for _ in range(ROUNDS):
                    await work(number)
                    looks.append(method.look())
                results[name] = method.result(looks, number)


def main() -> None:
    parser = argparse.ArgumentParser(description="Count what calls and items cost.")
    parser.add_argument("--opcodes", action="store_true", help="instructions instead; on CPython 3.11 only")
    parser.add_argument("--blocks", action="store_true", help="blocks of memory that stay instead")
    parser.add_argument("--table", action="store_true", help="print a table instead of JSON")
    parser.add_argument("--only", action="append", metavar="NAME", help="such as: call")
    parser.add_argument("--dearer", metavar="MODULE:NAME", help="a function that is to cost more")
    arguments = parser.parse_args()
    if arguments.dearer:
        make_dearer(arguments.dearer)
    results = count(Weighing() if arguments.blocks else Counting(opcodes=arguments.opcodes), arguments.only)
    sys.setprofile(None)
    sys.settrace(None)
    if arguments.table:
        for name, result in results.items():
            print(name, *(f"    {what:<22} {value:>10.3f}" for what, value in result.items()), sep="\n")
    else:
        print(json.dumps(results))
    sys.stdout.flush()
    os._exit(0)  # whatever threads still wait for


if __name__ == "__main__":
    main()
