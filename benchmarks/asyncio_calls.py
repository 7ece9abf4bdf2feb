"""Measures calls from asyncio to asyncio, beside gRPC's asyncio interface and beside a bare echo.

::

    make bench-asyncio
    python benchmarks/asyncio_calls.py --only typedrpc.aio --only grpc.aio --rounds 9
    python benchmarks/asyncio_calls.py --quick

Each library has a server process and a client process, with asyncio's own event loop and again with uvloop, all of them
pinned to one core, over TCP on loopback. The pairs take turns, round by round, so that the moods of the machine fall on
all alike; medians over the rounds are printed, and of a ratio the median of what it was in each round. CPU time is that
of a whole process; it hardly changes with what else the machine does. The bare echo is what asyncio does with no more
than a future for each call: bytes of a fixed size, which nobody looks at. What is not installed is left out.
"""

import argparse
import asyncio
import gc
import importlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import product
from statistics import median
from time import monotonic, perf_counter, process_time
from typing import Final, NamedTuple

from asyncio_peers import FLOOR, PEERS, Add, Peer, missing
from figures import Figure, heading
from machine import machine, machine_line
from processes import Process
from workload import cores, pin

SCRIPT: Final = "asyncio_calls.py"
LOOPS: Final = ("asyncio", "uvloop")
OURS: Final = "typedrpc.aio"
RIVALS: Final = tuple(name for name in PEERS if name.startswith("grpc"))
PATIENCE: Final = 10.0
"""Seconds that a turn may take beyond its time before it counts as hung."""


class Work(NamedTuple):
    """What a client does in a turn.

    Attributes:
        at_once: How many tasks call, each one call after another.
        budget: How many times as many calls as gRPC's are aimed at.
    """

    title: str
    at_once: int
    budget: float


WORKS: Final = (Work("one after another", 1, 10.0), Work("64 in flight", 64, 20.0))


class Pair(NamedTuple):
    """A server and its client, on one kind of event loop."""

    peer: str
    loop: str


class Turn(NamedTuple):
    """What was measured in one turn.

    Attributes:
        rate: Calls a second.
        client: CPU seconds a call, of the client process.
        server: The same of the server process.
    """

    rate: float
    client: float
    server: float

    def rate_alone(self) -> float:
        """Calls a second if the two processes had their core for themselves, and were never idle."""
        return 1 / (self.client + self.server)


Turns = dict[Work, dict[Pair, list[Turn]]]


class Input:
    """The lines of standard input. The process ends when they do, and so with the process that started it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[str] = asyncio.Queue()
        threading.Thread(target=self._read, name="input", daemon=True).start()

    async def line(self) -> str:
        return await self._lines.get()

    def _read(self) -> None:
        for line in sys.stdin:
            self._loop.call_soon_threadsafe(self._lines.put_nowait, line)
        os._exit(0)


async def serve(peer: Peer) -> None:
    """Print an address, and for each line of input the CPU seconds that were used until then."""
    lines = Input()
    async with peer.serve() as address:
        print(address, flush=True)
        while True:
            await lines.line()
            print(process_time(), flush=True)


async def call(peer: Peer, address: str) -> None:
    """For each line of input, which is a map in JSON, take a turn, and print how many calls it was, and how long."""
    lines = Input()
    async with peer.connect(address) as add:
        assert await add(20, 22) == 42
        gc.collect()
        gc.freeze()
        print("ready", flush=True)
        while True:
            order = json.loads(await lines.line())
            async with asyncio.timeout(order["seconds"] + PATIENCE):
                print(json.dumps(await take_turn(add, **order)), flush=True)


async def take_turn(add: Add, at_once: int, seconds: float) -> dict[str, float]:
    """Call from so many tasks for so long."""
    calls = 0
    before, start = process_time(), perf_counter()
    end = start + seconds

    async def caller() -> None:
        nonlocal calls
        while perf_counter() < end:
            await add(1, 2)
            calls += 1

    await asyncio.gather(*(caller() for _ in range(at_once)))
    return {"calls": calls, "seconds": perf_counter() - start, "cpu": process_time() - before}


def run_role(role: str, name: str, loop: str, *rest: str) -> None:
    """What the processes do that :func:`measure` starts."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if loop == "uvloop":
        factory = importlib.import_module("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(PEERS[name]) if role == "serve" else call(PEERS[name], *rest))


def measure(pairs: list[Pair], rounds: int, seconds: float) -> Turns:
    """Start all pairs and let them take turns."""
    turns: Turns = {work: {pair: [] for pair in pairs} for work in WORKS}
    core, _ = cores()
    options = [SCRIPT, "--role"] if core is None else [SCRIPT, "--cpu", str(core), "--role"]
    with ExitStack() as stack:
        processes: dict[Pair, tuple[Process, Process]] = {}
        for pair in pairs:
            server = stack.enter_context(Process(*options, "serve", *pair))
            client = stack.enter_context(Process(*options, "call", *pair, server.first_line))
            processes[pair] = server, client
        order = list(processes.items())
        for number, work in product(range(rounds + 1), WORKS):
            order.append(order.pop(0))  # so that nobody always follows the same one
            for pair, (server, client) in order:
                before = float(server.ask("cpu"))
                told = json.loads(client.ask(json.dumps({"at_once": work.at_once, "seconds": seconds})))
                calls, used = told["calls"], float(server.ask("cpu")) - before
                if number:  # the first round warms up
                    turns[work][pair].append(Turn(calls / told["seconds"], told["cpu"] / calls, used / calls))
    return turns


def ratio(
    turns: dict[Pair, list[Turn]],
    pair: Pair,
    others: Sequence[str],
    of: Callable[[Turn], float] = lambda turn: turn.rate,
) -> float | None:
    """How a pair compares with the best of others on the same loop, round by round; None where there is nobody."""
    rivals = [turns[Pair(other, pair.loop)] for other in others if Pair(other, pair.loop) in turns]
    if not rivals or pair not in turns:
        return None
    best = [max(map(of, of_round)) for of_round in zip(*rivals, strict=True)]
    return median(of(turn) / rival for turn, rival in zip(turns[pair], best, strict=True))


def lines_of(work: Work, turns: dict[Pair, list[Turn]]) -> Iterator[str]:
    """The table of one work."""
    yield f"{work.title:<28} {'calls/s':>9} {'x grpc.aio':>11} {'x echo':>7} {'client us':>10} {'server us':>10}"
    for pair, measured in turns.items():
        rate, client, server = map(median, zip(*measured, strict=True))
        ratios = (ratio(turns, pair, RIVALS), ratio(turns, pair, (FLOOR,)))
        rival, floor = ("-" if figure is None else f"{figure:.2f}" for figure in ratios)
        name = f"{pair.peer}, {pair.loop}"
        yield f"{name:<28} {rate:>9,.0f} {rival:>11} {floor:>7} {1e6 * client:>10.1f} {1e6 * server:>10.1f}"


def budgets_of(turns: Turns) -> Iterator[Figure]:
    """What is aimed at, with what was measured."""
    for (work, measured), loop in product(turns.items(), LOOPS):
        ours = Pair(OURS, loop)
        by_cpu = ratio(measured, ours, RIVALS, Turn.rate_alone)
        yield Figure(
            promise=f"{OURS}, {work.title}, {loop}: ratio to grpc.aio",
            measured=ratio(measured, ours, RIVALS),
            unit="x",
            limit=work.budget,
            at_least=True,
            budget=True,
            note="" if by_cpu is None else f"by CPU time {by_cpu:.1f} x",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure calls from asyncio to asyncio, beside gRPC and a bare echo.")
    parser.add_argument("--quick", action="store_true", help="short turns: shows that it runs, not how fast")
    parser.add_argument("--only", action="append", choices=PEERS, metavar="NAME", help=f"one of {', '.join(PEERS)}")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (5)")
    parser.add_argument("--seconds", type=float, default=0.15, help="what a turn takes (0.15)")
    parser.add_argument("--cpu", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--role", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        pin(arguments.cpu)
        run_role(*arguments.role)
        return
    began = monotonic()
    print(machine_line(machine()))
    peers = arguments.only or list(PEERS)
    lacking = {name: missing(*PEERS[name].packages) for name in peers} | {name: missing(name) for name in LOOPS}
    for name, packages in lacking.items():
        if packages:
            print(f"{name} is left out: not installed: {', '.join(packages)}")
    pairs = [Pair(*names) for names in product(peers, LOOPS) if not any(lacking[name] for name in names)]
    rounds, seconds = (1, 0.02) if arguments.quick else (arguments.rounds, arguments.seconds)
    turns = measure(pairs, rounds, seconds)
    for work, measured in turns.items():
        print("", *lines_of(work, measured), sep="\n")
    print("", heading(), *(figure.row(1.0) for figure in budgets_of(turns)), sep="\n")
    print(f"\n{rounds} rounds, turns of {seconds} s, in {monotonic() - began:.0f} s; load now {machine()['load']}")


if __name__ == "__main__":
    main()
