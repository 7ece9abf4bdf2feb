"""What hostile payloads cost, beside what plain ``msgpack.unpackb`` takes for the same bytes.

::

    python benchmarks/hostile.py
    python benchmarks/hostile.py --schemas 1000 --seed 7 --worst 20

Types are invented by the strategies of the test suite, the same ones for the same seed; each has payloads that are good
ones mutated: bits flipped, bytes changed, cut out and put in, cut short, other types, deep nesting, huge announced
lengths. Besides these there are payloads made by hand for the worst that is known of each type.

How it is measured: ``unpack_result`` against ``unpackb(payload, strict_map_key=False)``, the least of five runs each,
in turns, in one process, without the garbage collector. Memory is the peak of `tracemalloc` in a run of its own. A
payload of a few bytes costs what an error costs, whatever it holds: the ratio is to the greater of what `unpackb` takes
and of a floor, which is printed.

Exit code: 0; 1 when anything but the codec's own error came out.
"""

import argparse
import gc
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import msgpack  # type: ignore[import-untyped]  # it ships no types

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.codec.invented import CONVERTED, Pair, Words, attacks, generic  # noqa: E402
from typedrpc.codec import CodecError, CommandCodec  # noqa: E402
from typedrpc.schema import Schema, node_of  # noqa: E402

LIMIT = 50
"""How many times what `unpackb` takes is aimed for."""
TIME_FLOOR = 5e-6
MEMORY_FLOOR = 1024
RUNS = 5


class Cost(NamedTuple):
    """What one payload costs.

    Attributes:
        time, memory: Ratios to `unpackb`, with the floors.
        seconds, size: What was measured.
    """

    hint: str
    kind: str
    bytes: int
    time: float
    memory: float
    seconds: float
    size: int


packb: Any = msgpack.packb


def plainly(payload: bytes) -> None:
    try:  # noqa: SIM105  # a with would be measured too
        msgpack.unpackb(payload, strict_map_key=False)
    except Exception:  # what it raises depends on the payload
        pass


def seconds_of(functions: list[Callable[[], None]]) -> list[float]:
    """The least time that each takes, measured in turns."""
    best = [float("inf")] * len(functions)
    for _ in range(RUNS):
        for index, function in enumerate(functions):
            start = perf_counter()
            function()
            best[index] = min(best[index], perf_counter() - start)
    return best


def peak_of(function: Callable[[], None]) -> int:
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def cost_of(hint: Any, kind: str, payload: bytes) -> Cost:
    """Measures one payload. Raises whatever is not the codec's own error."""
    unpack = CommandCodec("Hostile.command", Schema((), node_of(hint))).unpack_result

    def ours() -> None:
        try:  # noqa: SIM105
            unpack(payload)
        except CodecError:
            pass

    def theirs() -> None:
        plainly(payload)

    ours()
    plain, seconds = seconds_of([theirs, ours])
    plain_size, size = peak_of(theirs), peak_of(ours)
    return Cost(
        str(node_of(hint))[:50],
        kind,
        len(payload),
        seconds / max(plain, TIME_FLOOR),
        size / max(plain_size, MEMORY_FLOOR),
        seconds,
        size,
    )


def by_hand() -> list[tuple[Any, str, bytes]]:
    """Payloads that are known to cost much: many small values, good to the end or bad at it, and long ones."""
    data = {
        "date": 5,
        "time": [0, 0, None, None],
        "timedelta": 5,
        "Decimal": "1",
        "complex": [0, 0],
        "Fraction": [1, 1],
    }
    data |= {"range": [0, 1, 1], "UUID": b"x" * 16, "Money": 1, "Words": []}
    found: list[tuple[Any, str, bytes]] = []

    def add(hint: Any, item: Any, kind: str = "") -> None:
        found.append((generic(list, hint), f"many{kind}", packb([item] * 5000)))
        found.append((generic(list, hint), f"many{kind}, bad end", packb([item] * 5000 + [b""] * 3 + [{}])))

    for typed in CONVERTED:
        name = typed.hint.__name__
        add(typed.hint, data.get(name, "a" if "Path" in name else "1.1.1.1" if "v4" in name else "::"))
    for hint, item in [(int, 1), (float, 1), (str, ""), (bytes, b""), (bytearray, b""), (memoryview, b""), (Any, [])]:
        add(hint, item)
    for hint, item in [(set[int], []), (list[int], []), (tuple[()], []), (dict[str, int], {}), (Words, [])]:
        add(hint, item)
    add(generic(Pair, int, int), [1, None])
    add(int | str | None, None)
    add(list[int] | list[str], [0, []])
    for typed in CONVERTED:
        found += [
            (typed.hint, f"long {text[:3]}", packb(text * (50_000 // len(text))))
            for text in ("/a", "ab/", ":1", "1.", "1", "1" * 50 + "x")
        ]
    found.append((set[int], "many", packb([*range(20_000)])))
    found.append((dict[int, int], "many", packb({index: index for index in range(20_000)})))
    return found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--schemas", type=int, default=200, help="how many types are invented (%(default)s)")
    parser.add_argument("--payloads", type=int, default=20, help="how many payloads each has (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which types and payloads (%(default)s)")
    parser.add_argument("--worst", type=int, default=10, help="how many of the worst are shown (%(default)s)")
    options = parser.parse_args(arguments)
    gc.disable()
    invented: list[Cost] = []
    failed = 0
    for attacked in attacks(options.schemas, options.seed, options.payloads):
        for kind, payload in [("good", attacked.good), *(("mutated", bad) for bad in attacked.bad)]:
            try:
                invented.append(cost_of(attacked.hint, kind, payload))
            except Exception as error:
                failed += 1
                print(f"{attacked.hint}: {payload[:80]!r}: {type(error).__name__}: {error}")
        gc.collect()
    print(f"floors: {TIME_FLOOR * 1e6:.0f} us, {MEMORY_FLOOR} bytes; aim: at most {LIMIT} times")
    show(f"{len(invented)} payloads of {options.schemas} invented types, seed {options.seed}", invented, options.worst)
    show("by hand", [cost_of(*one) for one in by_hand()], options.worst)
    print(f"{failed} payloads raised something else than the codec's error")
    return 1 if failed else 0


def show(title: str, costs: list[Cost], worst: int) -> None:
    """Prints the worst ratios of time and of memory."""
    over_time = sum(cost.time > LIMIT for cost in costs)
    over_memory = sum(cost.memory > LIMIT for cost in costs)
    print(f"\n{title}: {over_time} over {LIMIT} times the time, {over_memory} over {LIMIT} times the memory")
    for name in ("time", "memory"):
        print(f"  the worst in {name}:")
        ratios = sorted(((getattr(cost, name), cost) for cost in costs), reverse=True)
        for ratio, cost in ratios[:worst]:
            measured = f"{cost.seconds * 1e6:9.0f} us" if name == "time" else f"{cost.size:9} B "
            print(f"  {ratio:8.1f} x {measured} {cost.bytes:8} bytes  {cost.hint:50}  {cost.kind}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
