"""Promises about deadlines that go through several servers: what works for a caller stops with him."""

from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter, sleep
from typing import Any

from figures import Figure
from processes import Process
from stage import Stage

from typedrpc import DeadlineExceeded, connect, deadline

TIMEOUT = 0.3
STOP_LIMIT = 400.0
PATIENCE = 10.0
"""Seconds after which what has not stopped does not stop."""


def cascade(quick: bool) -> list[Figure]:
    """A calls B, which calls C: when A's time is over, neither B nor C goes on."""
    rounds = 1 if quick else 10
    figures = []
    with (
        Process("serve_stage.py") as c,
        Process("serve_stage.py", "--next", c.first_line) as b,
        connect(Stage, b.first_line) as a_to_b,
        # On connections of their own, so that what is asked there waits for nothing.
        connect(Stage, b.first_line) as at_b,
        connect(Stage, c.first_line) as at_c,
    ):
        for where, ways in _ways(a_to_b).items():
            times, faults = [], []
            for way in list(ways) * rounds:
                start = perf_counter()
                faults += _wait_in_vain(way)
                while at_b.running() or at_c.running():
                    if perf_counter() - start > PATIENCE:
                        faults.append("handlers go on")
                        break
                    sleep(0.001)
                times.append(1000 * (perf_counter() - start))
            note = f"the slowest of {len(times)}; median {median(times):.0f} ms"
            promise = f"A -> B -> C, 300 ms at A: B and C have stopped, {where}"
            figures.append(
                Figure(
                    promise=promise,
                    measured=max(times),
                    unit="ms",
                    limit=STOP_LIMIT,
                    note=note,
                    fault="; ".join(sorted(set(faults))),
                )
            )
    return figures


def _ways(stage: Stage) -> dict[str, list[Callable[[], Any]]]:
    return {
        "in threads": [stage.call, lambda: _exhaust(stage.items()), lambda: _exhaust(stage.endless())],
        "in tasks": [stage.acall.call, lambda: _exhaust(stage.aitems.call())],
    }


def _exhaust(items: Iterator[object]) -> None:
    for _ in items:
        pass


def _wait_in_vain(way: Callable[[], Any]) -> list[str]:
    """What went otherwise than that the time was over."""
    try:
        with deadline(TIMEOUT):
            way()
    except DeadlineExceeded:
        return []
    except Exception as error:
        return [repr(error)]
    return ["it returned"]
