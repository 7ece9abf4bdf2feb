"""What `bench.py` makes of its turns: ratios, tables, and the budget."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any, Final, NamedTuple

from bench_works import WORKS
from figures import Figure
from peers import ECHO, FLOOR, OURS, PEERS, PYRO_MSGPACK

ONE_CORE: Final = "one core"
CORE_EACH: Final = "a core each"
UNPINNED: Final = "not pinned"


class Turn(NamedTuple):
    """What was measured in one turn.

    Attributes:
        rate: Calls a second, or items, connections, MiB.
        client: CPU seconds a call, of the client process: of an item in a map and a stream.
        server: The same of the server process.
    """

    rate: float
    client: float
    server: float

    def rate_alone(self) -> float:
        """Calls a second if the two processes had their core for themselves, and were never idle."""
        return 1 / max(self.client + self.server, 1e-9)


Turns = dict[str, dict[str, list[Turn]]]
"""By work and peer: a turn each round."""


class Budget(NamedTuple):
    """What is aimed at: how many times as fast as the best of some peers."""

    promise: str
    work: str
    placement: str
    rivals: tuple[str, ...]
    limit: float


RIVALS: Final = tuple(name for name in PEERS if name not in (OURS, ECHO, FLOOR))
BUDGETS: Final = (
    Budget("add, one after another: ratio to a bare socket echo", "add", ONE_CORE, (ECHO,), 0.6),
    Budget("add, one after another: ratio to thriftpy2", "add", ONE_CORE, ("thriftpy2",), 1.3),
    Budget("the same: to thriftpy2 with time-outs, its default", "add", ONE_CORE, ("thriftpy2, time-outs",), 1.3),
    Budget("add, 8 threads, one connection: to thriftpy2 with 8", "threads", ONE_CORE, ("thriftpy2",), 1.0),
    Budget("the same: with time-outs, its default", "threads", ONE_CORE, ("thriftpy2, time-outs",), 1.0),
    Budget("map over 20,000: ratio to Pyro5's batch with msgpack", "map", ONE_CORE, (PYRO_MSGPACK,), 1.0),
    Budget("100 dataclasses: ratio to pickled dicts", "records", ONE_CORE, ("multiprocessing",), 1.0),
    Budget("the same: to pickled dataclasses", "records", ONE_CORE, ("pickled dataclasses",), 1.0),
    Budget("stream of 20,000 ints: ratio to the best peer", "stream", ONE_CORE, RIVALS, 10.0),
    Budget("64 MiB there and back, a core each: to a bare socket", "64 MiB", CORE_EACH, (ECHO,), 0.6),
)


def ratio(
    turns: Mapping[str, list[Turn]],
    peer: str,
    others: Sequence[str],
    of: Callable[[Turn], float] = lambda turn: turn.rate,
) -> float | None:
    """How a peer compares with the best of others: the median of what it was in each round. None if one is missing."""
    rivals = [turns[name] for name in others if turns.get(name)]
    if not rivals or not turns.get(peer):
        return None
    best = [max(map(of, of_round)) for of_round in zip(*rivals, strict=True)]
    return median(of(turn) / rival for turn, rival in zip(turns[peer], best, strict=True))


def summary(turns: Mapping[str, list[Turn]], peer: str) -> dict[str, Any]:
    """All figures of a peer in one work."""
    rates, clients, servers = zip(*turns[peer], strict=True)
    return {
        "rate": median(rates),
        "rates": list(rates),
        "client_cpu_us": 1e6 * median(clients),
        "server_cpu_us": 1e6 * median(servers),
        "ratio_to_echo": ratio(turns, peer, (ECHO,)),
        "ratio_to_floor": ratio(turns, peer, (FLOOR,)),
        "typedrpc_is": ratio(turns, OURS, (peer,)),
    }


def report_of(turns: Turns) -> dict[str, dict[str, dict[str, Any]]]:
    """The summaries of all peers in all works."""
    return {
        work: {peer: summary(of_work, peer) for peer, measured in of_work.items() if measured}
        for work, of_work in turns.items()
    }


def table_of(work: str, of_work: Mapping[str, Mapping[str, Any]], notes: Mapping[str, str]) -> list[list[str]]:
    """The table of one work as cells, with a row for each peer in the notes or the report.

    Args:
        of_work: What :func:`report_of` has of the work.
        notes: By peer, why it has no figures, or how it does the work; a peer without anything to tell has "".
    """
    title, unit = WORKS[work].title, WORKS[work].unit
    rows = [[title, unit, "x echo", "x floor", "typedrpc is", "client us", "server us", ""]]
    for peer, note in notes.items():
        figures = of_work.get(peer)
        if figures is None:
            rows.append([peer, *"------", note])
            continue
        ratios = (figures["ratio_to_echo"], figures["ratio_to_floor"], figures["typedrpc_is"])
        cpu = (figures["client_cpu_us"], figures["server_cpu_us"])
        rows.append([peer, f"{figures['rate']:,.0f}", *map(_ratio, ratios), *(f"{us:,.1f}" for us in cpu), note])
    return rows


def _ratio(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def budgets_of(tables: Mapping[str, Turns]) -> Iterator[Figure]:
    """What is aimed at, with what was measured; nothing where the processes were not pinned as it says."""
    for budget in BUDGETS:
        turns = tables.get(budget.placement, {}).get(budget.work, {})
        by_cpu = ratio(turns, OURS, budget.rivals, Turn.rate_alone)
        yield Figure(
            promise=budget.promise,
            measured=ratio(turns, OURS, budget.rivals),
            unit="x",
            limit=budget.limit,
            at_least=True,
            budget=True,
            note="" if by_cpu is None else f"by CPU time {by_cpu:.2f} x",
        )
