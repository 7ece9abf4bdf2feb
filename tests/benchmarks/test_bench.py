"""What `make bench` runs, with short turns, and what it makes of its turns: ratios, tables, budgets.

Its speeds are not judged here. The libraries that it compares need not be installed.
"""

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.unmeasured

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
OURS = ["typedrpc", "bare echo", "floor"]
MAYBE_THERE = "thriftpy2"
WORKS = {
    "add": "add, one after another",
    "threads": "add from 8 threads",
    "map": "map over 20,000 inputs",
    "records": "100 dataclasses there and back",
    "stream": "stream of 20,000 ints",
    "1 MiB": "1 MiB of bytes there and back",
    "64 MiB": "64 MiB of bytes there and back",
    "connections": "1,000 connections, a call each",
    "unix": "add, one after another, unix socket",
}


@pytest.fixture(scope="module", autouse=True)
def beside_the_benchmarks() -> Iterator[None]:
    """Their modules import each other by plain names; nothing of them is left behind."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


@pytest.fixture
def tables() -> Any:
    return importlib.import_module("bench_tables")


@pytest.fixture
def bench() -> Any:
    return importlib.import_module("bench")


def turns_of(tables: Any, **rates: list[float]) -> dict[str, list[Any]]:
    """By peer, turns of these rates; both processes took half of the time."""
    return {
        name.replace("_", " "): [tables.Turn(rate, 0.5 / rate, 0.5 / rate) for rate in of_peer]
        for name, of_peer in rates.items()
    }


def test_a_ratio_is_the_median_of_what_it_was_in_each_round(tables: Any) -> None:
    # The quotient of the medians would be 2.
    turns = turns_of(tables, typedrpc=[2.0, 20.0, 300.0], bare_echo=[4.0, 10.0, 100.0])
    assert tables.ratio(turns, "typedrpc", ("bare echo",)) == 2.0
    turns = turns_of(tables, typedrpc=[10.0, 20.0, 30.0], bare_echo=[100.0, 10.0, 15.0])
    assert tables.ratio(turns, "typedrpc", ("bare echo",)) == 2.0
    assert tables.ratio(turns, "bare echo", ("typedrpc",)) == 0.5


def test_of_several_the_best_of_each_round_counts(tables: Any) -> None:
    turns = turns_of(tables, typedrpc=[12.0, 12.0], Pyro5=[6.0, 2.0], gRPC=[3.0, 4.0])
    assert tables.ratio(turns, "typedrpc", ("Pyro5", "gRPC", "absent")) == 2.5


@pytest.mark.parametrize("there", [{}, {"typedrpc": [1.0]}, {"floor": [1.0]}, {"typedrpc": [1.0], "floor": []}])
def test_there_is_no_ratio_to_nobody(tables: Any, there: dict[str, list[float]]) -> None:
    assert tables.ratio(turns_of(tables, **there), "typedrpc", ("floor",)) is None


def test_a_summary_has_every_figure_of_a_peer(tables: Any) -> None:
    turns = turns_of(tables, typedrpc=[10.0, 20.0, 40.0], bare_echo=[20.0, 40.0, 80.0], floor=[5.0, 10.0, 20.0])
    assert tables.summary(turns, "floor") == {
        "rate": 10.0,
        "rates": [5.0, 10.0, 20.0],
        "client_cpu_us": 50_000.0,
        "server_cpu_us": 50_000.0,
        "ratio_to_echo": 0.25,
        "ratio_to_floor": 1.0,
        "typedrpc_is": 2.0,
    }


def test_a_table_has_a_row_for_each_peer_with_or_without_figures(tables: Any) -> None:
    report = tables.report_of({"map": turns_of(tables, typedrpc=[200.0], floor=[1000.0])})
    rows = tables.table_of("map", report["map"], {"typedrpc": "", "thriftpy2": "none", "floor": "a note"})
    assert rows == [
        ["map over 20,000 inputs", "items/s", "x echo", "x floor", "typedrpc is", "client us", "server us", ""],
        ["typedrpc", "200", "-", "0.20", "1.00", "2,500.0", "2,500.0", ""],
        ["thriftpy2", "-", "-", "-", "-", "-", "-", "none"],
        ["floor", "1,000", "-", "1.00", "0.20", "500.0", "500.0", "a note"],
    ]


def test_bytes_are_counted_in_mib(tables: Any) -> None:
    works = importlib.import_module("bench_works").WORKS
    assert works["64 MiB"].amount(3, 64 * 1024 * 1024) == 192
    assert works["map"].amount(3, 20_000) == 3


def test_each_budget_is_the_ratio_that_it_names(tables: Any) -> None:
    one_core = {
        "add": turns_of(
            tables, typedrpc=[70.0], bare_echo=[100.0], thriftpy2=[50.0], **{"thriftpy2, time-outs": [35.0]}
        ),
        "threads": turns_of(tables, typedrpc=[30.0], thriftpy2=[40.0], **{"thriftpy2, time-outs": [60.0]}),
        "map": turns_of(tables, typedrpc=[30.0], Pyro5_msgpack=[20.0], Pyro5=[1.0]),
        "records": turns_of(
            tables,
            typedrpc=[30.0],
            multiprocessing=[10.0],
            floor=[60.0],
            **{"pickled dataclasses": [6.0]},
        ),
        "stream": turns_of(tables, typedrpc=[110.0], Pyro5=[10.0], gRPC=[5.0], floor=[1000.0]),
        "64 MiB": turns_of(tables, typedrpc=[1.0], bare_echo=[1.0]),
    }
    each = {"64 MiB": turns_of(tables, typedrpc=[5.0], bare_echo=[10.0])}
    figures = list(tables.budgets_of({"one core": one_core, "a core each": each}))
    assert [figure.measured for figure in figures] == [0.7, 1.4, 2.0, 0.75, 0.5, 1.5, 3.0, 5.0, 11.0, 0.5]
    assert [index for index, figure in enumerate(figures) if not figure.within_limit(1.0)] == [3, 4, 9]
    assert all(figure.budget and figure.note.startswith("by CPU time ") for figure in figures)


def test_a_budget_without_its_peers_or_cores_is_not_measured(tables: Any) -> None:
    turns = turns_of(tables, typedrpc=[1.0])
    assert {figure.measured for figure in tables.budgets_of({"not pinned": {"add": turns}})} == {None}
    assert {figure.measured for figure in tables.budgets_of({"one core": {"add": turns}})} == {None}


def test_a_note_says_over_how_many_connections_threads_call(bench: Any) -> None:
    notes = bench.notes_of(["threads", "add"], ["typedrpc", "thriftpy2"])
    assert notes == {
        "threads": {"typedrpc": "one connection", "thriftpy2": "8 connections"},
        "add": {"typedrpc": "", "thriftpy2": ""},
    }


def test_who_fails_has_no_figures_and_a_note_and_the_others_go_on(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[str, str, int]] = []

    class Pair:
        def __init__(self, name: str, *rest: object) -> None:
            if name == "zerorpc":
                raise RuntimeError("it does not start")
            self.name = name

        def take_turn(self, order: Any) -> Any:
            taken.append((self.name, order["work"], order["size"]))
            if (self.name, order["work"]) == ("RPyC", "map") and order["size"] > 1000:
                raise RuntimeError("it broke")
            return bench.Turn(1.0, 1.0, 1.0)

    monkeypatch.setattr(bench, "Pair", Pair)
    names, works = ["typedrpc", "thriftpy2", "RPyC", "zerorpc"], ["add", "map"]
    notes = bench.notes_of(works, names)
    turns = bench.measure(names, works, bench.Effort(2, 0.1, False), (None, None), notes)
    assert {name: len(measured) for name, measured in turns["add"].items()} == {
        "typedrpc": 2,
        "thriftpy2": 2,
        "RPyC": 2,
    }
    assert {name: len(measured) for name, measured in turns["map"].items()} == {"typedrpc": 2}
    assert notes["map"]["RPyC"] == "failed: it broke"
    assert notes["add"]["zerorpc"] == notes["map"]["zerorpc"] == "failed: it does not start"
    assert notes["map"]["thriftpy2"] == "one call at a time on a connection"
    assert not {("thriftpy2", "map")} & {turn[:2] for turn in taken}
    assert [turn[2] for turn in taken if turn[:2] == ("typedrpc", "map")] == [600, 20_000, 20_000]


def test_each_peer_knows_the_works_that_it_leaves_out() -> None:
    peers = importlib.import_module("peers")
    names = {
        "typedrpc",
        "bare echo",
        "floor",
        "thriftpy2",
        "thriftpy2, time-outs",
        "Pyro5",
        "Pyro5 msgpack",
        "RPyC",
        "gRPC",
        "zerorpc",
        "pycapnp",
    }
    assert set(peers.PEERS) == names | {"vgi-rpc", "multiprocessing", "pickled dataclasses", "xmlrpc"}
    for name, peer in peers.PEERS.items():
        assert set(peer.left_out) | set(peer.notes) <= set(WORKS), name


def test_what_will_not_install_is_left_out_with_a_line() -> None:
    install_peers = importlib.import_module("install_peers")
    wanted = install_peers.requirements()
    assert {re.split(r"\W", requirement)[0] for requirement in wanted} >= {"Pyro5", "thriftpy2", "rpyc", "vgi"}
    tried: list[str] = []

    def install(requirement: str) -> bool:
        tried.append(requirement)
        return not requirement.startswith("vgi-rpc")

    assert install_peers.install_all(wanted, install) == ["vgi-rpc is left out: it will not install"]
    assert tried == wanted


@pytest.mark.timeout(200)  # it starts a dozen processes, and does a little of everything
def test_each_work_has_a_table_with_a_row_for_each_installed_peer(tmp_path: Path) -> None:
    only = [word for name in [*OURS, MAYBE_THERE] for word in ("--only", name)]
    file = tmp_path / "bench.json"
    command = [sys.executable, str(BENCHMARKS / "bench.py"), "--quick", *only, "--json", str(file)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=190, check=False)
    assert (run.stderr, run.returncode) == ("", 0), run.stdout
    there = bool(find_spec(MAYBE_THERE))
    names = [*OURS, *([MAYBE_THERE] if there else [])]
    assert (f"{MAYBE_THERE} is left out: not installed: {MAYBE_THERE}" in run.stdout) is not there
    blocks = run.stdout.split("\nBoth processes of a peer: ")[1:]
    placements = [block.split("\n", 1)[0] for block in blocks]
    assert placements in (["one core", "a core each"], ["one core"], ["not pinned"])
    for block in blocks:
        for title in WORKS.values():
            table = block.split(f"\n{title} | ", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
            assert [line.split("|")[0].strip() for line in table] == names
    assert "failed: " not in run.stdout
    report = json.loads(file.read_text(encoding="utf-8"))
    assert list(report["tables"]) == placements
    for by_work in report["tables"].values():
        assert list(by_work) == list(WORKS)
        for work, by_peer in by_work.items():
            expected = [name for name in names if name != "bare echo" or work not in ("map", "stream")]
            assert [name for name in by_peer if name != MAYBE_THERE] == [
                name for name in expected if name != MAYBE_THERE
            ]
            for figures in by_peer.values():
                assert figures["rate"] > 0
                assert len(figures["rates"]) == 1
    assert len(report["budgets"]) == len(importlib.import_module("bench_tables").BUDGETS)
