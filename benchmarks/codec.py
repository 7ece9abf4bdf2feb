"""Measures how fast values are encoded and decoded, beside other libraries that do the same, and the budgets for it.

::

    make bench-codec
    python benchmarks/codec.py --only records --only ints
    python benchmarks/codec.py --quick --json codec.json
    python benchmarks/codec.py --markdown

What is measured is `CommandCodec.pack_result` and `unpack_result`: what a result costs on each side of a call, apart
from the connection. The libraries take turns, round by round, in one process, so that the moods of the machine fall on
all alike; CPU time is counted, and the best round of each stands for it. A figure says how many times as fast as the
library typedrpc is: 2 is twice as fast, 0.5 takes twice the time. Before anything is measured, the value is encoded and
decoded once, and has to come out as it was. A library that is not installed is left out, and so is one that cannot
express a type; a line says so.

Exit code: 0 when every budget is met that could be measured, 1 when one is missed, 2 for wrong arguments.
"""

import argparse
import copy
import gc
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from time import monotonic, process_time
from typing import Any, Final, NamedTuple

from codec_peers import PEERS, TYPEDRPC, Library
from codec_values import SUBJECTS, Subject
from figures import Figure, heading
from machine import machine, machine_line

WAYS: Final = ("encode", "decode")
BUDGETS: Final = {("records", "decode"): 0.8, ("records", "encode"): 0.5, ("ints", "decode"): 0.4}
"""The least speed, relative to that of msgspec."""
AHEAD_OF: Final = ("cattrs", "mashumaro", "pydantic json", "pydantic msgpack")
"""The columns in which every figure is to be 1 or more."""


class Row(NamedTuple):
    """One value, one way.

    Attributes:
        key: The name of the value.
        title: What the row is called.
        seconds: What typedrpc takes.
        ratios: How many times as fast as each library it is; without those that cannot express the type.
    """

    key: str
    way: str
    title: str
    seconds: float
    ratios: dict[str, float]


class Effort(NamedTuple):
    """How much is measured: the rounds, and the CPU seconds of each library in one."""

    rounds: int
    slice: float


QUICK: Final = Effort(2, 0.0005)
FULL: Final = Effort(25, 0.02)


def cpu_time(function: Callable[[Any], Any], argument: Any, times: int) -> float:
    """The CPU seconds that `times` calls take."""
    repeat = range(times)
    start = process_time()
    for _ in repeat:
        function(argument)
    return process_time() - start


def times_for(function: Callable[[Any], Any], argument: Any, seconds: float) -> int:
    """How often a function is to be called so that the calls take about so long."""
    times = 1
    while (taken := cpu_time(function, argument, times)) < seconds / 4:
        times *= 2
    return max(1, round(times * seconds / taken))


def best_times(tasks: dict[str, tuple[Callable[[Any], Any], Any]], effort: Effort) -> dict[str, float]:
    """The CPU seconds of one call of each function, from its best round."""
    # The collector runs, as it does in a program, but does not look through what was there before.
    gc.collect()
    gc.freeze()
    times = {name: times_for(function, argument, effort.slice) for name, (function, argument) in tasks.items()}
    best = dict.fromkeys(tasks, float("inf"))
    order = list(tasks.items())
    for _ in range(effort.rounds):
        order.append(
            order.pop(0)
        )  # so that nobody always follows the same one, and finds the caches as that leaves them
        for name, (function, argument) in order:
            best[name] = min(best[name], cpu_time(function, argument, times[name]) / times[name])
    gc.unfreeze()
    return best


def rows_of(key: str, subject: Subject, libraries: dict[str, Library], effort: Effort, notes: list[str]) -> list[Row]:
    """Measure one value both ways. What a library cannot do goes to the notes."""
    encoding: dict[str, tuple[Callable[[Any], Any], Any]] = {}
    decoding: dict[str, tuple[Callable[[Any], Any], Any]] = {}
    for name, library in {"typedrpc": TYPEDRPC, **libraries}.items():
        try:
            coding = library.of(subject)
            received = coding.received(coding.encode(coding.value))
            if coding.decode(received) != coding.value:
                raise ValueError("the value comes out as another one")
        except Exception as error:
            if library is TYPEDRPC:
                raise
            notes.append(f"{name} leaves out {subject.title!r}: {summary(error)}")
            continue
        # A copy for each: a library that looks into an object's __dict__ makes its attributes slower for whoever reads
        # them afterwards.
        encoding[name] = (coding.encode, copy.deepcopy(coding.value))
        decoding[name] = (coding.decode, received)
    rows = []
    for way, tasks in zip(WAYS, (encoding, decoding), strict=True):
        best = best_times(tasks, effort)
        ratios = {name: best[name] / best["typedrpc"] for name in libraries if name in best}
        rows.append(Row(key, way, subject.title, best["typedrpc"], ratios))
    return rows


def summary(error: Exception) -> str:
    """The first line of an error, of a sane length."""
    text = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {text[:100]}"


def budgets_of(rows: list[Row]) -> Iterator[Figure]:
    """Each budget, with the figure that was measured."""
    for row in rows:
        if (row.key, row.way) in BUDGETS:
            yield Figure(
                promise=f"{row.way} {row.title}: speed relative to msgspec",
                measured=row.ratios.get("msgspec"),
                unit="x",
                limit=BUDGETS[row.key, row.way],
                at_least=True,
            )
    for row in rows:
        rivals = {name: ratio for name, ratio in row.ratios.items() if name in AHEAD_OF}
        nearest = min(rivals, key=rivals.__getitem__, default=None)
        yield Figure(
            promise=f"{row.way} {row.title}: ahead of cattrs, mashumaro, pydantic",
            measured=rivals[nearest] if nearest else None,
            unit="x",
            limit=1.0,
            at_least=True,
            note=f"nearest: {nearest}" if nearest else "",
        )


def cells_of(row: Row, columns: list[str]) -> list[str]:
    """The row as text: title, time of typedrpc, a figure a library."""
    return [f"{row.way} {row.title}", duration(row.seconds), *(figure(row.ratios.get(name)) for name in columns)]


def duration(seconds: float) -> str:
    micro = seconds * 1e6
    return f"{micro:.2f} us" if micro < 10 else f"{micro:.0f} us" if micro < 10_000 else f"{micro / 1000:.1f} ms"


def figure(ratio: float | None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:,.0f}"


def text_table(table: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) for cells in table]
    lines.insert(1, "-+-".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def markdown_table(table: list[list[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    lines.insert(1, f"|---|{'---:|' * (len(table[0]) - 1)}")
    return "\n".join(lines)


def print_budgets(budgets: list[Figure], slack: float, markdown: bool) -> None:
    if not markdown:
        print(heading().replace("promise", "budget ", 1))
    lines = [budget.row(slack) for budget in budgets]
    if markdown:
        cells = [[cell.strip() for cell in f"{line} | ".split(" | ")[:5]] for line in lines]
        lines = [markdown_table([["budget", "limit", "measured", "met", ""], *cells])]
    print("\n".join(lines))


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Measure how fast values are encoded and decoded, beside other libraries.",
        epilog="Exit code 1 when a budget is missed.",
    )
    parser.add_argument("--quick", action="store_true", help="small counts: shows that it runs, not how fast")
    parser.add_argument(
        "--only", action="append", choices=SUBJECTS, metavar="NAME", help=f"one of {', '.join(SUBJECTS)}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--slack", type=float, default=1.0, help="divides every budget, for a machine that is busy (1)")
    arguments = parser.parse_args()
    start = monotonic()
    where = machine()
    paragraph = "\n\n" if arguments.markdown else "\n"
    libraries = {name: library for name, library in PEERS.items() if not library.missing()}
    columns = list(libraries)
    print(machine_line(where), end=paragraph)
    print(", ".join(dict.fromkeys(text for library in libraries.values() for text in library.versions())))
    notes = [
        f"{name} is left out: {', '.join(library.missing())} is not installed"
        for name, library in PEERS.items()
        if name not in libraries
    ]
    rows: list[Row] = []
    for key in arguments.only or SUBJECTS:
        subject = SUBJECTS[key](arguments.quick)
        rows += rows_of(key, subject, libraries, QUICK if arguments.quick else FULL, notes)
    table = [["", "typedrpc", *columns], *(cells_of(row, columns) for row in rows)]
    layout = markdown_table if arguments.markdown else text_table
    print(f"\nHow many times as fast as each library typedrpc is:\n\n{layout(table)}\n")
    for note in notes:
        print(note, end=paragraph)
    print(end="" if arguments.markdown or not notes else "\n")
    budgets = list(budgets_of(rows))
    print_budgets(budgets, arguments.slack, arguments.markdown)
    missed = [budget for budget in budgets if budget.is_missed(arguments.slack)]
    print(f"\n{len(budgets)} budgets in {monotonic() - start:.0f} s; missed: {len(missed)}")
    if arguments.json:
        report = {
            "machine": where,
            "rows": [row._asdict() for row in rows],
            "budgets": [asdict(budget) | {"within_limit": budget.within_limit(arguments.slack)} for budget in budgets],
            "notes": notes,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
