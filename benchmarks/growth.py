"""Measures how the cost of a call grows with how much there is of everything, and says whether it is worse than linear.

::

    make bench-growth
    python benchmarks/growth.py --only nesting --only commands
    python benchmarks/growth.py --quick --json growth.json

Five curves: calls in flight, connections, payload, commands, nesting. Each has a server process and a client process,
real ones, pinned to one core together, over loopback. What counts is the CPU time of both: it hardly changes with what
else the machine does. Each point is measured a few times, and the cheapest stands for it. From the points comes the
exponent: how steep the cost is in a plot of both logarithms, over the last decade; 1 is linear, and up to 1.15 counts
as that. What Python's garbage collector takes is in the cost, and is not in the exponent that is judged: the more
objects a process has, the more often it looks at all of them, until that is in proportion, too.

Exit code: 0 when no curve is worse than linear, 1 when one is, 2 for wrong arguments.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from time import monotonic

from exponents import Series, microseconds
from figures import heading
from growth_curves import CURVES
from machine import machine, machine_line


def report(where: dict[str, object], series: Sequence[Series]) -> dict[str, object]:
    """What is written with ``--json``."""
    lines = [asdict(one) | {"exponent": one.exponent, "exponent_of_all": one.exponent_of_all} for one in series]
    return {"machine": where, "series": lines}


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure how cost grows. Exit code 1 when it is worse than linear.")
    parser.add_argument("--quick", action="store_true", help="small numbers: shows that it runs, not how cost grows")
    parser.add_argument("--only", action="append", choices=CURVES, metavar="NAME", help=f"one of {', '.join(CURVES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the points there, too")
    parser.add_argument("--slack", type=float, default=1.0, help="times every limit, for a machine that is busy (1)")
    arguments = parser.parse_args()
    began = monotonic()
    where = machine()
    print(machine_line(where))
    measured: list[Series] = []
    for name in arguments.only or CURVES:
        for series in CURVES[name](arguments.quick):
            measured.append(series)
            print("", *lines_of(series), sep="\n", flush=True)
    figures = [series.figure() for series in measured]
    print("", heading(), *(figure.row(arguments.slack) for figure in figures), sep="\n")
    missed = sum(figure.is_missed(arguments.slack) for figure in figures)
    print(f"\n{len(figures)} figures in {monotonic() - began:.0f} s; worse than linear: {missed}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report(where, measured), indent=2) + "\n", encoding="utf-8")
    return 1 if missed else 0


def lines_of(series: Series) -> Iterator[str]:
    """The points of one line of a curve."""
    widths = (12, 14, 10, 10, 10, 10)

    def row(title: str, cells: Sequence[str]) -> str:
        return f"{title:<44}" + "".join(f" {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))

    yield row(
        f"{series.curve}, {series.title}",
        ("CPU", f"a {series.unit}" if series.unit else "", "client", "server", "collector", "time"),
    )
    for point in series.points:
        times = (point.client, point.server, point.collector, point.wall)
        yield row(f"{point.n:>44,}", [microseconds(point.cpu), series.each(point), *map(microseconds, times)])


if __name__ == "__main__":
    sys.exit(main())
