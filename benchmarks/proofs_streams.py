"""Promises about streams: what a stalled one costs, and how soon one that is broken off stops."""

import os
import threading
from collections.abc import Callable, Iterator
from statistics import median
from time import monotonic, perf_counter, sleep

from caller import expect
from figures import Figure
from processes import serve_workload
from workload import ITEM_SIZE, Workload, memory_of

from typedrpc import Stream, connect

STALL_GROWTH = 5.0
"""MiB that a process may grow by while its streams go on without end, and are hardly taken."""

BREAK_OFF_TIME = 100.0
"""Milliseconds within which the producer of a stream has stopped that was broken off."""

STOP_TIME = 10.0


def stalled(quick: bool) -> list[Figure]:
    """Producers of endless streams wait for consumers that take an item a second."""
    count, pause = (5, 0.05) if quick else (60, 1.0)
    made = 0

    def items() -> Iterator[bytes]:
        nonlocal made
        while True:
            made += 1
            yield bytes(ITEM_SIZE)

    with serve_workload() as server, connect(Workload, server.first_line) as workload:
        expect(sum(1 for _ in zip(range(2_000), workload.endless(), strict=False)), 2_000)  # what stays is made now
        _wait_for_stop(workload)
        with workload.endless() as threaded, workload.aendless.call() as awaited:
            taken = workload.take_slowly.submit(items(), count, pause)
            for stream in (threaded, awaited):
                expect(len(next(stream)), ITEM_SIZE)
            sleep(10 * pause if quick else 2 * pause)  # the first credit is used up
            before = memory_of(os.getpid()), memory_of(server.pid)
            for _ in range(count):
                sleep(pause)
                expect(len(next(threaded)) + len(next(awaited)), 2 * ITEM_SIZE)
            after = memory_of(os.getpid()), memory_of(server.pid)
        expect(taken.result(), count)
        fault = "" if made < count + 1000 else f"{made:,} items were made of which {count} were taken"
    figures = []
    for side, one, other in zip(("client", "server"), before, after, strict=True):
        growth = None if one is None or other is None else max(0.0, other.now - one.now)
        figures.append(
            Figure(
                promise=f"endless streams, {count} items taken one by one: growth of the {side}",
                measured=growth,
                unit="MiB",
                limit=STALL_GROWTH,
                note=f"three streams, an item every {pause:g} s; {made:,} items of {ITEM_SIZE} bytes were made to send",
                fault=fault,
            )
        )
    return figures


def breakoff(quick: bool) -> list[Figure]:
    """The producer of a stream stops when its consumer leaves after three items."""
    count = 5 if quick else 50
    figures = []
    with serve_workload() as server, connect(Workload, server.first_line) as workload:
        kinds: dict[str, Callable[[], float]] = {
            "a thread": lambda: _three_of(workload.endless()),
            "a task": lambda: _three_of(workload.aendless.call()),
            "a thread of the caller": lambda: _three_there(workload),
        }
        for kind, break_off in kinds.items():
            times = []
            for _ in range(count):
                start = break_off()
                _wait_for_stop(workload)
                times.append(1000 * (perf_counter() - start))
            figures.append(
                Figure(
                    promise=f"broken off after 3 items, a producer in {kind} stops: the slowest",
                    measured=max(times),
                    unit="ms",
                    limit=BREAK_OFF_TIME,
                    note=f"the median of {count} is {median(times):.1f} ms",
                )
            )
    return figures


def _three_of(stream: Stream[bytes]) -> float:
    """Take three items, and leave. Returns when that was."""
    with stream:
        for _ in range(3):
            next(stream)
        return perf_counter()


def _three_there(workload: Workload) -> float:
    """Have the server take three items of a stream of this side. Returns when it had left."""
    stopped = threading.Event()

    def items() -> Iterator[bytes]:
        try:
            while True:
                yield bytes(ITEM_SIZE)
        finally:
            stopped.set()

    expect(workload.take_slowly(items(), 3, 0.0), 3)
    left = perf_counter()
    if not stopped.wait(STOP_TIME):
        raise AssertionError("the producer did not stop")
    return left


def _wait_for_stop(workload: Workload) -> None:
    deadline = monotonic() + STOP_TIME
    while workload.producing():
        if monotonic() > deadline:
            raise AssertionError("a producer did not stop")
