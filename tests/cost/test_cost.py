"""The guard: what a call and an item cost, counted and not timed, so that a slip shows on any machine.

The table has what was counted last; what costs less is written there as it is then::

    python -m tests.cost.counted --table
    python3.11 -m tests.cost.counted --table --opcodes

One column holds for all versions of CPython: they differ in what the standard library's event loop takes, by one or two
calls; of a figure that differs, the larger one stands here. Instructions differ more, and are counted on CPython 3.11.
"""

import json
import os
import subprocess
import sys
from typing import Any, Final, NamedTuple

import pytest

from tests.support import PATIENCE, ROOT

pytestmark = pytest.mark.unmeasured

IS_COUNTED_HERE: Final = sys.version_info[:2] == (3, 11)
"""This is the version that the table has the instructions of."""

SLACK: Final = 0.7
"""Calls of functions that a unit may take more: less than one that is added, more than what chance makes of items."""

SLACK_OF_SYSTEM: Final = 0.04
"""The same of system calls, and of waits."""

SLACK_OF_OPCODES: Final = (1.01, 5)
"""Times and instructions that a unit may take more: within what chance makes of items that come together."""

LEAK: Final = 0.1
"""Blocks of memory that a unit may leave behind. One that leaks is one a unit; a table that grows is some in all."""


class Cost(NamedTuple):
    """What one unit costs a side, as counted last; see :data:`tests.cost.counted.WHAT`.

    Attributes:
        unit: What is done once: a call, an item.
        side: Of the connection.
        functions: Calls of functions of Python.
        builtins: Calls of functions of C.
        system: System calls.
        waits: For another thread.
        opcodes: Instructions, on CPython 3.11.
        why: What they are for, as far as it is not plain.
    """

    unit: str
    side: str
    functions: float
    builtins: float
    system: float
    waits: float
    opcodes: float
    why: str


COSTS: Final = (
    Cost("call", "client", 10.1, 16.1, 2, 0, 464, "one send, one recv: the thread that calls reads its own reply"),
    Cost("call", "server", 18, 29, 2, 0, 913, "one recv, one send: who reads a request handles and answers it"),
    Cost("map item", "client", 2.3, 4.4, 0.01, 0, 139, "packing and unpacking; a frame has hundreds of calls"),
    Cost("map item", "server", 1.8, 8.9, 0.01, 0, 203, "the handler and its context"),
    Cost("result stream item", "client", 3.1, 0.1, 0.01, 0, 63, "unpacking"),
    Cost("result stream item", "server", 11.1, 11.1, 0, 0, 228, "the generator, the look at the clock, the batch"),
    Cost("argument stream item", "client", 6.1, 11.1, 0, 0, 200, "the iterator, the look at the clock, the batch"),
    Cost("argument stream item", "server", 3.1, 0.1, 0, 0, 59, "unpacking"),
    Cost("one-way call", "client", 47.2, 34.5, 1, 0, 961, "one send; no bound invoker as a call has"),
    Cost("one-way call", "server", 29, 30, 1, 0, 1091, "one recv"),
    Cost("submitted call", "client", 100.2, 82.5, 2, 3, 2418, "a future, and a hand-over from the thread that reads"),
    Cost("submitted call", "server", 18, 29, 2, 0, 913, "as a call"),
    Cost("asyncio call", "client", 49.1, 51.2, 4, 0, 1488, "a turn of the loop to read, one of the task"),
    Cost("asyncio call", "server", 38, 52, 3, 0, 1452, "the handler's task; a turn of the loop, which has a timer"),
    Cost("asyncio call, 64 at once", "client", 48.1, 54.9, 0.14, 0, 1385, "many calls leave, and come, together"),
    Cost("asyncio call, 64 at once", "server", 20.5, 39.5, 0.08, 0, 964, "many calls come, and leave, together"),
    Cost("asyncio result stream item", "client", 3.2, 0.1, 0.01, 0, 66, "unpacking"),
    Cost("asyncio result stream item", "server", 6.1, 12.1, 0, 0, 175, "the generator and the batch"),
    Cost("asyncio argument stream item", "client", 6.1, 12.1, 0, 0, 182, "the generator and the batch"),
    Cost("asyncio argument stream item", "server", 3.2, 0.2, 0.01, 0, 74, "unpacking"),
    Cost("asyncio one-way call", "client", 62.2, 39.5, 2, 0, 1267, "the frame leaves when the loop turns"),
    Cost("asyncio one-way call", "server", 46, 51, 2, 0, 1580, "a select, which has a timer, and a recv"),
)

THREADS: Final = {"result stream item": 1, "argument stream item": 1}
"""Threads that a round may start, of all its thousands of items; none where nothing is said."""

FOUND_DEARER: Final = (
    ("call", "typedrpc.wire:FrameReader.sole_frame", {"client", "server"}),
    ("result stream item", "typedrpc.flow:ItemBatch.add", {"server"}),
    ("argument stream item", "typedrpc.flow:ItemBatch.add", {"client"}),
    ("asyncio call", "typedrpc.wire:FrameReader.sole_frame", {"client", "server"}),
)
"""Functions that run once a unit, and the sides that call them: any others would do as well.

An item of a map has none: what runs for each is generated, or the user's."""

Counts = dict[str, dict[str, float]]


def count(*arguments: str) -> Counts:
    """Run the program that counts."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    command = [sys.executable, "-m", "tests.cost.counted", *arguments]
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1.5 * PATIENCE, check=False
    )
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    counts: Counts = json.loads(run.stdout)
    return counts


def limits(cost: Cost) -> dict[str, float]:
    """The most that is allowed, by what is counted."""
    return {
        f"{cost.side} functions": cost.functions + SLACK,
        f"{cost.side} builtins": cost.builtins + SLACK,
        f"{cost.side} system calls": cost.system + SLACK_OF_SYSTEM,
        f"{cost.side} waits": cost.waits + SLACK_OF_SYSTEM,
        f"{cost.side} opcodes": cost.opcodes * SLACK_OF_OPCODES[0] + SLACK_OF_OPCODES[1],
    }


def excess(counts: Counts) -> dict[tuple[str, str], str]:
    """What is beyond its limit, by unit and by what was counted."""
    found = {}
    for cost in COSTS:
        counted = counts.get(cost.unit, {})
        for what, limit in limits(cost).items():
            if what in counted and counted[what] > limit:
                found[cost.unit, what] = f"{counted[what]} of {limit:.2f} ({cost.why})"
    for unit, counted in counts.items():
        if counted.get("threads started", 0) > THREADS.get(unit, 0):
            found[unit, "threads started"] = f"{counted['threads started']} of {THREADS.get(unit, 0)}"
        if counted.get("blocks", 0) > LEAK:
            found[unit, "blocks"] = f"{counted['blocks']} of {LEAK}"
    return found


def test_no_unit_costs_more_than_it_did() -> None:
    counts = count()
    assert {cost.unit for cost in COSTS} == set(counts)
    assert excess(counts) == {}


@pytest.mark.skipif(not IS_COUNTED_HERE, reason="the table has the instructions of CPython 3.11")
def test_no_unit_takes_more_instructions_than_it_did() -> None:
    counts = count("--opcodes")
    assert {cost.unit for cost in COSTS} == set(counts)
    assert excess(counts) == {}


def test_no_unit_leaves_memory_behind() -> None:
    counts = count("--blocks")
    assert {cost.unit for cost in COSTS} == set(counts)
    assert excess(counts) == {}


@pytest.mark.parametrize(("unit", "path", "sides"), FOUND_DEARER, ids=[unit for unit, *_ in FOUND_DEARER])
def test_a_call_of_a_function_and_a_system_call_more_are_found(unit: str, path: str, sides: set[str]) -> None:
    found = excess(count("--only", unit, "--dearer", path))
    # An event loop of another version may take that much less than the table says.
    kinds = {"system calls"} if unit.startswith("asyncio") and not IS_COUNTED_HERE else {"functions", "system calls"}
    assert {what for _, what in found} >= {f"{side} {kind}" for side in sides for kind in kinds}, found
    assert {what.split()[0] for _, what in found} == sides


@pytest.mark.skipif(not IS_COUNTED_HERE, reason="the table has the instructions of CPython 3.11")
def test_instructions_more_are_found() -> None:
    unit, path, sides = FOUND_DEARER[0]
    found = excess(count("--opcodes", "--only", unit, "--dearer", path))
    assert set(found) == {(unit, f"{side} opcodes") for side in sides}


class TestComparison:
    """The comparison by itself, with figures that were not counted."""

    @staticmethod
    def counts_of(cost: Cost, **more: float) -> Counts:
        names = {"functions": "functions", "builtins": "builtins", "system": "system calls", "waits": "waits"}
        names["opcodes"] = "opcodes"
        values: dict[str, Any] = cost._asdict()
        return {cost.unit: {f"{cost.side} {name}": values[key] + more.get(key, 0) for key, name in names.items()}}

    @pytest.mark.parametrize("cost", COSTS, ids=[f"{cost.unit}, {cost.side}" for cost in COSTS])
    def test_what_was_counted_last_is_within_it(self, cost: Cost) -> None:
        assert excess(self.counts_of(cost)) == {}

    @pytest.mark.parametrize("cost", COSTS, ids=[f"{cost.unit}, {cost.side}" for cost in COSTS])
    @pytest.mark.parametrize("key", ["functions", "builtins", "system", "waits"])
    def test_one_more_is_not(self, cost: Cost, key: str) -> None:
        assert len(excess(self.counts_of(cost, **{key: 1}))) == 1

    def test_a_leak_of_a_block_is_not(self) -> None:
        assert set(excess({"call": {"blocks": 1.0}})) == {("call", "blocks")}

    def test_a_thread_for_each_round_is_not_but_for_a_stream(self) -> None:
        counts = {unit: {"threads started": 1.0} for unit in ("call", "result stream item")}
        assert set(excess(counts)) == {("call", "threads started")}
