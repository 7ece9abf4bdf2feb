"""The soak: every shape of call at once, for long, with servers and clients of both colours; and that nothing grows.

::

    make soak
    make soak SOAK_SECONDS=3600
    python benchmarks/soak.py --seconds 120 --json soak.json

The servers are those of `soak_places.py`, each in a process of its own. Two clients, one with threads and one on an
event loop, are connected to all of them and have some workers at each, which do the shapes of `soak_threads.py` and
`soak_asyncio.py` in the order of dice, and check every answer. Further client processes come, do the same, and are
killed half way.

Time is cut into rounds. In a round all work, and once a second each process says what it holds. At the end of a round
the workers rest, and it is looked at what is left. What is flat:

- *Tables* (calls in flight at either end, streams, callbacks, batches, what waits to be written or handled, places
  at servers, and so on): exactly empty at the end of each round, after some seconds at most.
- *Connections*: exactly those of the two clients then; none once these have left.
- *Descriptors and threads*: at the end of each round no more than at the end of the first one, exactly.
- *Objects* of the library, counted by class by way of the garbage collector: at the end of the last round no more than
  at the most in the first half of all rounds, and a few.
- *Memory*: what is resident at the end of a round, when the allocator was told to give back what is free. The median of
  the last quarter of the rounds is that of the second quarter and some per cent at most. The first quarter is the
  warm-up, in which caches fill.

Exit code: 0; 1 where something was not flat, an answer was wrong, anything failed that was not to fail, or the library
has warned of something; 3 where something hung: then all processes show where each of their threads and tasks is.
"""

import argparse
import json
import os
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import Any, Final, NamedTuple

from machine import machine, machine_line
from processes import Process
from soak_places import PLACES, furnish

SCRIPT: Final = "soak_ends.py"
COLOURS: Final = ("threads", "asyncio")
PATIENCE: Final = 90.0
"""Seconds that a process may take to answer; clients notice before that what hangs in them."""

SETTLE_TIME: Final = 30.0
"""Seconds after which what is left counts as left for good."""

STABLE_TIME: Final = 3.0
"""Seconds without a change after which the first round has settled: lent threads linger for one."""

FEW: Final = 8
"""Objects of one class that may be more: what is compiled or asked for the first time late."""


class Margin(NamedTuple):
    """By how much memory may be more: a part of it, and so many MiB."""

    part: float
    mib: float


class End:
    """One process of the soak, and what was seen of it."""

    def __init__(self, name: str, process: Process, connections: int) -> None:
        """
        Args:
            name: For the table.
            process: The process.
            connections: What it has when all rest.
        """
        self.name = name
        self.process = process
        self.connections = connections
        self.busy: list[dict[str, Any]] = []
        self.quiet: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self.last: dict[str, Any] = {}

    def ask(self, line: str) -> dict[str, Any]:
        self.last = json.loads(self.process.ask(line))
        return self.last

    def left(self) -> list[str]:
        """What the last answer shows that is not to be there at rest."""
        last = self.last
        left = [f"{count} {name}" for name, count in last["tables"].items() if count]
        if last["connections"] != self.connections:
            left.append(f"{last['connections']} connections, not {self.connections}")
        if self.quiet:
            first = self.quiet[0]
            for name in ("descriptors", "threads"):
                if last[name] > first[name]:
                    new = sorted((Counter(last["names"]) - Counter(first["names"])).elements())
                    left.append(f"{last[name]} {name}, not {first[name]}; new: {', '.join(new)}")
        return left

    def fault(self, what: str) -> None:
        self.faults.append(f"{self.name}: {what}")
        print(self.faults[-1], file=sys.stderr, flush=True)

    def judge(self, margin: Margin) -> None:
        """Look at what only the whole shows."""
        self.faults += [f"{self.name}: {fault}" for fault in self.last["faults"]]
        half = self.quiet[: (len(self.quiet) + 1) // 2]
        for kind, count in self.quiet[-1]["objects"].items():
            most = max(one["objects"].get(kind, 0) for one in half)
            if count > most + FEW:
                self.fault(f"{count} objects of {kind}, which were {most}")
        before, after = self.quarters("rss", self.quiet)
        if after > before * (1 + margin.part) + margin.mib:
            self.fault(f"{after:.0f} MiB are resident at rest in the last quarter, {before:.0f} in the second")

    def quarters(self, name: str, samples: list[dict[str, Any]]) -> tuple[float, float]:
        """The median of a count in the second quarter of the time, and in the last one."""
        values = [one[name] for one in samples]
        quarter = max(1, len(values) // 4)
        return median(values[quarter : 2 * quarter] or values), median(values[-quarter:])

    def most_in_tables(self) -> int:
        return int(max(sum(one["tables"].values()) for one in self.busy))

    def row(self) -> str:
        cells = [self.name]
        for name in ("descriptors", "threads"):
            before, after = self.quarters(name, self.busy)
            cells += [f"{before:.0f}, {after:.0f}", f"{self.quiet[0][name]}, {self.quiet[-1][name]}"]
        for samples in (self.busy, self.quiet):
            before, after = self.quarters("rss", samples)
            cells.append(f"{before:.0f}, {after:.0f}")
        cells.append(str(self.most_in_tables()))
        tables = {name: count for one in self.quiet for name, count in one["tables"].items() if count}
        cells += ["none" if not tables else str(tables), "NO" if self.faults else "yes"]
        return f"| {' | '.join(cells)} |"


HEADINGS: Final = (
    "process",
    "descriptors at work",
    "at rest",
    "threads at work",
    "at rest",
    "MiB at work",
    "at rest",
    "the most in tables",
    "at rest",
    "flat",
)


class Hang(threading.Thread):
    """Has all processes show where they are when one does not answer, and ends this one."""

    def __init__(self) -> None:
        super().__init__(name="watchdog", daemon=True)
        self.processes: list[Process] = []
        self._until = monotonic() + PATIENCE
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(1.0):
            if monotonic() > self._until:
                self.show("a process did not answer")
                os._exit(3)

    def moved(self) -> None:
        self._until = monotonic() + PATIENCE

    def end(self) -> None:
        self._over.set()
        self.join()

    def show(self, what: str) -> None:
        print(f"the soak hangs: {what}", file=sys.stderr, flush=True)
        for process in list(self.processes):
            print(f"process {process.pid}", file=sys.stderr, flush=True)
            try:
                os.kill(process.pid, signal.SIGUSR1)
            except ProcessLookupError:
                continue
            sleep(1.0)  # the lines of one after those of another
        for process in list(self.processes):
            process.kill()


class Killer:
    """Starts client processes while all work, of both colours in turns, and kills each half way."""

    def __init__(self, dice: random.Random, workers: int, folder: str, urls: Sequence[str]) -> None:
        self.killed = 0
        self.faults: list[str] = []
        self._dice = dice
        self._arguments = (workers, folder, *urls)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        over = threading.Event()
        thread = threading.Thread(target=self._run, args=(over,), name="killer")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _run(self, over: threading.Event) -> None:
        while True:
            colour = COLOURS[self.killed % len(COLOURS)]
            process = Process(SCRIPT, "call", "--doomed", colour, f"doomed {self.killed}", *self._arguments)
            over.wait(self._dice.uniform(0.05, 1.5))
            try:
                told = json.loads(process.ask("sample"))
                self.faults += [f"a client to be killed: {fault}" for fault in told["faults"]]
                over.wait(self._dice.uniform(0.0, 0.5))
            except RuntimeError as error:
                self.faults.append(f"a client to be killed has ended before: {error}")
            process.kill()
            with process:  # its pipes
                self.killed += 1
            if over.wait(self._dice.uniform(0.2, 1.0)):
                return


class Report(NamedTuple):
    """How it went."""

    seconds: float
    rounds: int
    killed: int
    done: dict[str, int]
    ends: list[End]
    faults: list[str]

    def lines(self) -> Iterator[str]:
        total = sum(self.done.values())
        yield f"{self.seconds:.0f} s in {self.rounds} rounds, {total:,} shapes, {self.killed} clients killed"
        yield ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in self.done.items())
        yield ""
        yield f"| {' | '.join(HEADINGS)} |"
        yield f"|---|{'---:|' * (len(HEADINGS) - 1)}"
        yield from (end.row() for end in self.ends)
        yield from ("", *self.faults) if self.faults else ()


def soak(seconds: float, rounds: int, workers: int, seed: int, margin: Margin) -> Report:
    """Let it run for so long."""
    dice = random.Random(seed)
    # As glibc has it at first, but for good: large messages go back to the system at once. Otherwise it comes to keep
    # them in arenas, one for a thread, and what is resident says nothing of what is held.
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(128 * 1024))
    watchdog = Hang()
    watchdog.start()
    with TemporaryDirectory() as folder, ExitStack() as stack:
        furnish(Path(folder))

        def started(*arguments: object) -> Process:
            process = stack.enter_context(Process(SCRIPT, *arguments))
            watchdog.processes.append(process)
            return process

        servers = [End(f"server {name}", started("serve", name, folder), len(COLOURS)) for name in PLACES]
        urls = [f"{name}={server.process.first_line}" for name, server in zip(PLACES, servers, strict=True)]
        clients = [
            End(f"client {colour}", started("call", colour, f"{seed} {colour}", workers, folder, *urls), len(PLACES))
            for colour in COLOURS
        ]
        ends = [*servers, *clients]
        killer = Killer(dice, 1, folder, urls)
        start = monotonic()
        try:
            for number in range(1, rounds + 1):
                with killer.at_work():
                    for client in clients:
                        client.ask("go")
                    while True:
                        sleep(1.0)
                        for end in ends:
                            end.busy.append(end.ask("sample"))
                            watchdog.moved()
                        if monotonic() > start + seconds * number / rounds:
                            break
                for client in clients:
                    client.ask("rest")
                    watchdog.moved()
                settle(ends, watchdog, f"round {number}")
                for end in ends:
                    end.quiet.append(end.last)
        except RuntimeError as error:  # one of the processes has ended: the others show where they are
            watchdog.show(str(error))
            sys.exit(3)
        for end in ends:
            end.judge(margin)
        done: Counter[str] = Counter()
        for client in clients:
            done.update(client.last["done"])
            client.process.end_input()
        for server in servers:
            server.connections = 0
        settle(servers, watchdog, "all have gone")
        watchdog.end()
    faults = [fault for end in ends for fault in end.faults] + killer.faults
    return Report(monotonic() - start, rounds, killer.killed, dict(sorted(done.items())), ends, faults)


def settle(ends: Sequence[End], watchdog: Hang, after: str) -> None:
    """All rest: wait until nothing is left, or for long enough; what is left then is a fault."""
    start = same_since = monotonic()
    before: list[tuple[int, int]] = []
    while True:
        for end in ends:
            end.ask("quiet")
            watchdog.moved()
        now = [(end.last["descriptors"], end.last["threads"]) for end in ends]
        if now != before:
            before, same_since = now, monotonic()
        is_first = any(not end.quiet for end in ends)
        is_stable = not is_first or monotonic() - same_since > STABLE_TIME
        if (is_stable and not any(end.left() for end in ends)) or monotonic() - start > SETTLE_TIME:
            break
        sleep(0.1)
    for end in ends:
        for what in end.left():
            end.fault(f"left after {after}: {what}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Every shape of call at once, for long; and that nothing grows.")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long (600)")
    parser.add_argument("--rounds", type=int, help="in so many rounds (one for each 15 seconds, 4 at the least)")
    parser.add_argument("--workers", type=int, default=2, help="of each client at each server (2)")
    parser.add_argument("--seed", type=int, default=1, help="of the dice (1)")
    parser.add_argument("--margin", type=float, default=5.0, help="per cent that memory may grow (5)")
    parser.add_argument("--margin-mib", type=float, default=8.0, help="and MiB (8)")
    parser.add_argument("--json", type=Path, help="where to keep every sample")
    arguments = parser.parse_args()
    rounds = arguments.rounds or max(4, round(arguments.seconds / 15))
    margin = Margin(arguments.margin / 100, arguments.margin_mib)
    where = machine()
    report = soak(arguments.seconds, rounds, arguments.workers, arguments.seed, margin)
    print(machine_line(where))
    for line in report.lines():
        print(line)
    if arguments.json:
        kept = {end.name: {"busy": end.busy, "quiet": end.quiet} for end in report.ends}
        arguments.json.write_text(
            json.dumps({"machine": where, "killed": report.killed, "ends": kept, "faults": report.faults})
        )
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
