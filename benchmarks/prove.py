"""Measures what typedrpc promises in milliseconds and megabytes, and prints each figure beside its promise.

::

    make prove
    python benchmarks/prove.py --only sequence --only bulk
    python benchmarks/prove.py --quick --json figures.json

Real processes over loopback, a few minutes at most. Every part runs in a process of its own and is ended when it takes
too long: a call that hangs is a broken promise, not a benchmark that hangs. A budget is an aim for later work; missing
it is shown, and breaks no promise.

Exit code: 0 when every promise is met, 1 when one is missed, 2 for wrong arguments.
"""

import argparse
import faulthandler
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import proofs_bad_input
import proofs_broadcast
import proofs_cascade
import proofs_connections
import proofs_nested
import proofs_resources
import proofs_restart
import proofs_speed
import proofs_streams
import proofs_waiting
from figures import Figure, heading
from machine import machine, machine_line


class Part(NamedTuple):
    """Some promises that are measured together, and the seconds that it may take."""

    measure: Callable[[bool], list[Figure]]
    time_limit: float


PARTS = {
    "parallel": Part(proofs_waiting.parallel, 30),
    "slow-handler": Part(proofs_waiting.slow_handler, 30),
    "killed": Part(proofs_waiting.killed, 30),
    "cascade": Part(proofs_cascade.cascade, 60),
    "nested": Part(proofs_nested.nested, 150),
    "unrelated": Part(proofs_nested.unrelated, 30),
    "no-server": Part(proofs_waiting.no_server, 20),
    "bad-input": Part(proofs_bad_input.bad_input, 90),
    "reconnect": Part(proofs_resources.reconnect, 60),
    "callbacks": Part(proofs_resources.callbacks, 180),
    "stalled": Part(proofs_streams.stalled, 120),
    "breakoff": Part(proofs_streams.breakoff, 60),
    "held": Part(proofs_connections.held, 120),
    "fork": Part(proofs_resources.fork, 30),
    "broadcast": Part(proofs_broadcast.broadcast, 150),
    "all-ids": Part(proofs_broadcast.all_ids, 60),
    "ids": Part(proofs_resources.ids, 60),
    "restart": Part(proofs_restart.restart, 120),
    "import": Part(proofs_resources.import_time, 60),
    "crossing": Part(proofs_speed.crossing, 60),
    "bulk": Part(proofs_speed.bulk, 60),
    "beside": Part(proofs_speed.beside, 150),
    "sequence": Part(proofs_speed.sequence, 120),
}


def run_part(name: str, quick: bool) -> list[Figure]:
    """Measure one part in a process of its own. What goes wrong with it becomes a figure with a fault."""
    command = [sys.executable, str(Path(__file__).resolve()), "--part", name, *(["--quick"] if quick else [])]
    limit = PARTS[name].time_limit
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        try:
            # The part ends itself at its limit, and shows where each of its threads was.
            output, _ = process.communicate(timeout=limit + 5)
        except subprocess.TimeoutExpired:
            output = ""
        finally:
            process.kill()
    try:
        return [Figure(**fields) for fields in json.loads(output)]
    except ValueError:
        fault = f"it failed, or took longer than {limit:g} s; see above"
        return [Figure(promise=f"the measurements of {name!r} come to an end", fault=fault)]


def measure_part(name: str, quick: bool) -> None:
    """What the process of a part does: print its figures in JSON."""
    faulthandler.dump_traceback_later(PARTS[name].time_limit, exit=True)
    figures = PARTS[name].measure(quick)
    print(json.dumps([asdict(figure) for figure in figures]), flush=True)
    faulthandler.cancel_dump_traceback_later()


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Measure what is promised in milliseconds and megabytes.",
        epilog="Exit code 1 when a promise is missed. A missed budget is no missed promise.",
    )
    parser.add_argument("--quick", action="store_true", help="small counts: shows that it runs, not how fast")
    parser.add_argument("--only", action="append", choices=PARTS, metavar="NAME", help=f"one of {', '.join(PARTS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--slack", type=float, default=1.0, help="times every limit, for a machine that is busy (1)")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        measure_part(arguments.part, arguments.quick)
        return 0
    start = monotonic()
    where = machine()
    print(machine_line(where))
    if arguments.slack != 1:
        print(f"every limit times {arguments.slack:g}")
    print(f"\n{heading()}", flush=True)
    figures: list[Figure] = []
    # Several at a time disturb each other's times, which nobody looks at where it is to be quick.
    with ThreadPoolExecutor(3 if arguments.quick else 1) as pool:
        for found in pool.map(lambda name: run_part(name, arguments.quick), arguments.only or PARTS):
            for figure in found:
                figures.append(figure)
                print(figure.row(arguments.slack), flush=True)
    missed = [figure for figure in figures if figure.is_missed(arguments.slack)]
    print(f"\n{len(figures)} figures in {monotonic() - start:.0f} s; promises missed: {len(missed)}")
    if arguments.json:
        rows = [asdict(figure) | {"within_limit": figure.within_limit(arguments.slack)} for figure in figures]
        arguments.json.write_text(json.dumps({"machine": where, "figures": rows}, indent=2) + "\n", encoding="utf-8")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
