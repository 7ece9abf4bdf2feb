"""The curves of `growth.py`: how much there is of what, and how the cost of it is measured."""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Final, Self

from exponents import Point, Series
from processes import Process
from workload import cores

SCRIPT: Final = "growth_ends.py"
ROUNDS: Final = 3
"""How often each point is measured."""

CALLS: Final = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)
ROOMY: Final = ("--max-calls", 2 * CALLS[-1])
IN_LINE: Final = (2_000, 3_000, 5_000, 10_000, 20_000)
"""The same where the server lets in as many as it does by default, and the rest waits at the client."""

CONNECTIONS: Final = {
    "threads": (1, 3, 10, 30, 100, 300, 1_000),
    "asyncio": (1, 3, 10, 30, 100, 300, 1_000, 2_000, 5_000),
}
"""A connection to a server of threads has a thread of its own there: a thousand is where one would take the other."""

PAYLOADS: Final = (16, 256, *(2**exponent for exponent in (12, 14, 16, 18, 20, 22, 24, 26, 27, 28, 29, 30)))
COMMANDS: Final = (1, 10, 100, 1_000, 3_000, 10_000, 30_000, 60_000)
LEVELS: Final = (1, 3, 10, 20, 30, 60, 100)

BATCH: Final = 3_000
"""Units in which a small amount of work is measured: a single call is too short for the clock of CPU time."""

BYTES: Final = 2**25
"""The same of bytes."""


class Ends:
    """A server process and a client process."""

    def __init__(self, kind: str, *arguments: object, url: str = "tcp://127.0.0.1:0") -> None:
        core, _ = cores()
        options = [SCRIPT] if core is None else [SCRIPT, "--cpu", str(core)]
        self._server = Process(*options, "serve", kind, url, *arguments)
        self._client = Process(*options, "call", kind, self._server.first_line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        with self._server, self._client:
            pass

    def served(self, settle: bool = False) -> dict[str, float]:
        """CPU seconds of the server up to now, and of its start; on demand when it has no more than one client left."""
        told: dict[str, float] = json.loads(self._server.ask("settle" if settle else "cpu"))
        return told

    def do(self, work: str, count: int, times: int = 1, *, settle: bool = False) -> Point:
        """Have the client do so much of a work so often: what once costs."""
        before = self.served()
        told = json.loads(self._client.ask(f"{work} {count} {times}"))
        after = self.served(settle)
        server, collector = (after[name] - before[name] for name in ("cpu", "collector"))
        each = 1e6 / times
        return Point(
            n=count,
            client=told["cpu"] * each,
            server=server * each,
            collector=(told["collector"] + collector) * each,
            wall=told["wall"] * each,
        )


def cheapest(points: Sequence[Point]) -> Point:
    """The one of several measurements that took the least CPU."""
    return min(points, key=lambda point: point.cpu)


def calls_in_flight(quick: bool) -> Iterator[Series]:
    """As many calls as that are begun before any of their results is taken; at last more than the server lets in."""
    for kind, title, counts, options in (
        ("threads", "threads", CALLS, ROOMY),
        ("asyncio", "asyncio", CALLS, ROOMY),
        ("threads", "threads, 1,024 let in", IN_LINE, ()),
        ("asyncio", "asyncio, 1,024 let in", IN_LINE, ()),
    ):
        with Ends(kind, *options) as ends:
            points = [_best(ends, "calls", count, BATCH, quick) for count in some(counts, quick)]
        yield Series(curve="calls in flight", title=title, unit="call", points=points)


def connections(quick: bool) -> Iterator[Series]:
    """As many connections as that at one server: to open them, to call on each of them in turn, to close them.

    Over a unix socket: closed connections of TCP hold their ports for a minute, and the system takes longer and longer
    to find a free one.
    """
    titles = {"open": "to connect", "each": "a call on each in turn", "close": "to close"}
    for kind, counts in CONNECTIONS.items():
        found: dict[str, list[Point]] = {work: [] for work in titles}
        with tempfile.TemporaryDirectory() as folder, Ends(kind, url=f"unix://{folder}/server") as ends:
            for count in some(counts, quick):
                rounds = [_held(ends, count) for _ in range(_rounds(quick))]
                for points, measured in zip(found.values(), zip(*rounds, strict=True), strict=True):
                    points.append(cheapest(measured))
        for work, title in titles.items():
            yield Series(curve="connections", title=f"{title}, {kind}", unit="connection", points=found[work])


def _held(ends: Ends, count: int) -> tuple[Point, Point, Point]:
    """Open so many connections, call on each, and close them."""
    return (
        ends.do("open", count),
        ends.do("each", count, max(1, BATCH // count)),
        ends.do("close", count, settle=True),
    )


def payload(quick: bool) -> Iterator[Series]:
    """As many bytes as that there and back."""
    points = []
    with Ends("threads") as ends:
        for count in some(PAYLOADS, quick):
            ends.do("data", count)
            points.append(_best(ends, "payload", count, min(BYTES, 1_000 * count), quick))
    yield Series(curve="payload", title="bytes there and back", unit="MiB", unit_size=2**20, points=points)


def commands(quick: bool) -> Iterator[Series]:
    """As many commands as that in one service: to define and to serve them, to agree on them, to call one."""
    titles = {
        "define": "to define",
        "serve": "to serve",
        "agree": "to connect and compare",
        "newer": "the same, one being newer",
        "one": "a call of one",
    }
    found: dict[str, list[Point]] = {work: [] for work in titles}
    for count in some(COMMANDS, quick):
        rounds = [_agreed(count) for _ in range(_rounds(quick))]
        for work, points in found.items():
            points.append(cheapest([measured[work] for measured in rounds]))
    for work, title in titles.items():
        yield Series(curve="commands", title=title, unit="" if work == "one" else "command", points=found[work])


def _agreed(count: int) -> dict[str, Point]:
    """All of it in two processes that have never seen these commands."""
    with Ends("commands", count) as ends:
        started = ends.served()
        define, serve = ends.do("define", count), 1e6 * started["serve_cpu"]
        measured = {
            "define": define,
            "serve": Point(n=count, client=0.0, server=serve, collector=1e6 * started["serve_collector"], wall=serve),
            "agree": ends.do("agree", count),
            "one": ends.do("one", count, 1_000),
        }
        ends.do("newer", count)
        return measured | {"newer": ends.do("agree", count)}


def nesting(quick: bool) -> Iterator[Series]:
    """As many calls as that within each other, to and fro over one connection."""
    for kind in ("threads", "asyncio"):
        with Ends(kind) as ends:
            points = [_best(ends, "nesting", count, BATCH, quick) for count in some(LEVELS, quick)]
        yield Series(curve="nesting", title=kind, unit="level", points=points)


CURVES: Final[dict[str, Callable[[bool], Iterator[Series]]]] = {
    "calls": calls_in_flight,
    "connections": connections,
    "payload": payload,
    "commands": commands,
    "nesting": nesting,
}


def some(counts: Sequence[int], quick: bool) -> Sequence[int]:
    """All of them, or where it is to be quick the smallest ones."""
    return counts[:2] if quick else counts


def _rounds(quick: bool) -> int:
    return 1 if quick else ROUNDS


def _best(ends: Ends, work: str, count: int, batch: int, quick: bool) -> Point:
    """A point of a work that can be repeated: warmed up, and the cheapest of its rounds."""
    times = 1 if quick else max(1, batch // count)
    ends.do(work, count, 1)
    return cheapest([ends.do(work, count, times) for _ in range(_rounds(quick))])
