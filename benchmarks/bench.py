"""Measures calls beside every peer: the same work for each, in turns, within one run; and the budget.

::

    make bench
    python benchmarks/bench.py --only typedrpc --only thriftpy2 --work add --rounds 15
    python benchmarks/bench.py --quick --json bench.json
    python benchmarks/bench.py --markdown

Each peer has a server process and a client process, over TCP on loopback: first both pinned to one core, then, for a
second table, to a core each. They take turns, round by round, in another order each time, so that the moods of the
machine fall on all alike. Medians over the rounds are printed, and of a ratio the median of what it was in each
round; "typedrpc is 2" says that it is twice as fast as that peer. CPU time is that of a whole process, for a call or an
item. What is not installed is left out, and what a peer cannot do has a line with the reason.

The rows of the budget that are about asyncio and about the codec are measured by what `make bench-asyncio` and
`make bench-codec` run; `--work asyncio` and `--work codec` are these alone.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from itertools import product
from pathlib import Path
from random import Random
from time import monotonic, sleep
from typing import Any, Final, NamedTuple

import asyncio_calls
import asyncio_peers
from bench_tables import CORE_EACH, ONE_CORE, UNPINNED, Turn, Turns, budgets_of, report_of, table_of
from bench_works import THREADS, WORKS, Order
from codec import markdown_table, print_budgets, text_table
from figures import Figure
from machine import machine, machine_line
from peers import PEERS
from peers.base import Peer
from processes import HERE, Process
from workload import cores

BESIDE: Final = ("asyncio", "codec")
"""Works that have a command of their own."""

QUIET_TIME: Final = 15.0
"""Seconds that a server may take at most to close 1,000 connections before the next one's turn comes all the same."""


class Effort(NamedTuple):
    """How much is measured."""

    rounds: int
    seconds: float
    quick: bool

    def order(self, work: str, warm: bool) -> Order:
        """What a client is to do in a turn; a small one in the first round, which only warms up."""
        quick = self.quick or not warm
        return {"work": work, "seconds": self.seconds, "size": WORKS[work].quick if quick else WORKS[work].size}


class Pair:
    """The processes of a peer. The first fault that ends one of them ends what it can do."""

    def __init__(self, name: str, folder: str, cpus: tuple[int | None, int | None], stack: ExitStack) -> None:
        def start(cpu: int | None, *arguments: str) -> Process:
            pinned = () if cpu is None else ("--cpu", str(cpu))
            return stack.enter_context(Process("bench_pair.py", *pinned, *arguments))

        self._server = start(cpus[0], "serve", name, folder)
        self._client = start(cpus[1], "call", name, self._server.first_line)

    def take_turn(self, order: Order) -> Turn:
        """Raises RuntimeError with what went wrong."""
        before = float(self._server.ask("cpu"))
        told = json.loads(self._client.ask(json.dumps(order)))
        used = self._cpu_when_quiet() if order["work"] == "connections" else float(self._server.ask("cpu"))
        used -= before
        if "error" in told:
            raise RuntimeError(told["error"])
        calls = told["calls"]
        rate = WORKS[order["work"]].amount(calls, order["size"]) / told["seconds"]
        return Turn(rate, told["cpu"] / calls, used / calls)

    def _cpu_when_quiet(self) -> float:
        """The CPU seconds of the server once it has closed what the client left: that is not to fall on who is next."""
        end = monotonic() + QUIET_TIME
        used = float(self._server.ask("cpu"))
        while monotonic() < end:
            sleep(0.05)
            before, used = used, float(self._server.ask("cpu"))
            if used - before < 0.002:
                break
        return used


Notes = dict[str, dict[str, str]]
"""By work and peer: what is to be said of it."""


def notes_of(works: list[str], names: list[str]) -> Notes:
    """What the peers say of themselves."""
    return {work: {name: _note(work, PEERS[name]) for name in names} for work in works}


def _note(work: str, peer: Peer) -> str:
    told = peer.left_out.get(work) or peer.notes.get(work, "")
    if work == "threads" and not told:
        return "one connection" if peer.shared else f"{THREADS} connections"
    return told


def measure(
    names: list[str], works: list[str], effort: Effort, cpus: tuple[int | None, int | None], notes: Notes
) -> Turns:
    """Start all peers and let them take turns. Whoever fails has no figures for that work, and a note that says why."""
    turns: Turns = {work: {name: [] for name in names if work not in PEERS[name].left_out} for work in works}

    def fail(work: str, name: str, error: Exception) -> None:
        if turns[work].pop(name, None) is not None:
            notes[work][name] = f"failed: {error}"

    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        pairs: list[tuple[str, Pair]] = []
        for name in names:
            try:
                pairs.append((name, Pair(name, folder, cpus, stack)))
            except RuntimeError as error:
                for work in works:
                    fail(work, name, error)
        order = Random(len(names))
        for number, work in product(range(effort.rounds + 1), works):
            if sys.stderr.isatty():
                print(f"\rround {number} of {effort.rounds}: {work:<12}", end="\r", file=sys.stderr)
            order.shuffle(pairs)  # so that nobody always follows the same one, and finds the caches as that leaves them
            for name, pair in pairs:
                if name not in turns[work]:
                    continue
                try:
                    turn = pair.take_turn(effort.order(work, warm=number > 0))
                except (RuntimeError, BrokenPipeError) as error:
                    fail(work, name, error)
                    continue
                if number:
                    turns[work][name].append(turn)
    return turns


def placements() -> dict[str, tuple[int | None, int | None]]:
    """The cores of server and client, by the name of the table."""
    first, second = cores()
    if first is None:
        return {UNPINNED: (None, None)}
    tables: dict[str, tuple[int | None, int | None]] = {ONE_CORE: (first, first)}
    if first != second:
        tables[CORE_EACH] = (second, first)
    return tables


def measure_asyncio(effort: Effort, markdown: bool) -> tuple[dict[str, Any], list[Figure]]:
    """What `make bench-asyncio` measures: its tables, printed too, and its rows of the budget."""
    there = [name for name, peer in asyncio_peers.PEERS.items() if not asyncio_peers.missing(*peer.packages)]
    loops = [name for name in asyncio_calls.LOOPS if not asyncio_peers.missing(name)]
    pairs = [asyncio_calls.Pair(*names) for names in product(there, loops)]
    turns = asyncio_calls.measure(pairs, effort.rounds, effort.seconds)
    fence = "```" if markdown else ""
    for work, measured in turns.items():
        print(fence, *asyncio_calls.lines_of(work, measured), fence, sep="\n")
    tables = {
        work.title: {", ".join(pair): [turn._asdict() for turn in measured] for pair, measured in of_work.items()}
        for work, of_work in turns.items()
    }
    return tables, list(asyncio_calls.budgets_of(turns))


def measure_codec(quick: bool) -> list[Figure]:
    """The rows of the budget that `make bench-codec` measures. A process of its own has nothing else in its caches."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "codec.json"
        command = [sys.executable, str(HERE / "codec.py"), "--only", "records", "--json", str(file)]
        subprocess.run([*command, *(["--quick"] if quick else [])], stdout=subprocess.DEVNULL, check=False)
        budgets = json.loads(file.read_text(encoding="utf-8"))["budgets"]
    for budget in budgets:
        del budget["within_limit"]
    return [Figure(**budget | {"budget": True}) for budget in budgets if budget["promise"].startswith("decode")]


def print_tables(placement: str, turns: Turns, notes: Notes, markdown: bool) -> None:
    print(f"\n{'## ' if markdown else ''}Both processes of a peer: {placement}")
    layout = markdown_table if markdown else text_table
    for work, of_work in report_of(turns).items():
        print(f"\n{layout(table_of(work, of_work, notes[work]))}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure calls beside every peer, and the budget.")
    parser.add_argument("--quick", action="store_true", help="short turns, small sizes: shows that it runs")
    parser.add_argument("--only", action="append", choices=PEERS, metavar="NAME", help=f"one of {', '.join(PEERS)}")
    works = (*WORKS, *BESIDE)
    parser.add_argument("--work", action="append", choices=works, metavar="NAME", help=f"one of {', '.join(works)}")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (5)")
    parser.add_argument("--seconds", type=float, default=0.2, help="what a turn takes (0.2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    arguments = parser.parse_args()
    quick = arguments.quick
    effort = Effort(1, 0.02, True) if quick else Effort(arguments.rounds, arguments.seconds, False)
    chosen = arguments.work or (list(WORKS) if arguments.only else list(works))
    began, where = monotonic(), machine()
    print(machine_line(where))
    names = []
    for name in arguments.only or PEERS:
        if lacking := PEERS[name].missing():
            print(f"{name} is left out: not installed: {', '.join(lacking)}")
        else:
            names.append(name)
    here = [work for work in WORKS if work in chosen]
    tables: dict[str, Turns] = {}
    for placement, cpus in placements().items() if here and names else ():
        notes = notes_of(here, names)
        tables[placement] = measure(names, here, effort, cpus, notes)
        print_tables(placement, tables[placement], notes, arguments.markdown)
    budgets = list(budgets_of(tables)) if here else []
    by_loop: dict[str, Any] = {}
    if "asyncio" in chosen:
        by_loop, of_asyncio = measure_asyncio(effort, arguments.markdown)
        budgets += of_asyncio
    if "codec" in chosen:
        budgets += measure_codec(quick)
    print()
    print_budgets(budgets, 1.0, arguments.markdown)
    taken = f"in {monotonic() - began:.0f} s; load now {machine()['load']}"
    print(f"\n{effort.rounds} rounds, turns of {effort.seconds} s{', small sizes' if quick else ''}, {taken}")
    if arguments.json:
        report = {
            "machine": where,
            "tables": {placement: report_of(turns) for placement, turns in tables.items()},
            "asyncio": by_loop,
            "budgets": [asdict(budget) | {"within_limit": budget.within_limit(1.0)} for budget in budgets],
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
