"""How the exponent of a curve is found, and what `make bench-growth` runs, with small numbers.

How steep the curves are is not judged here: the limit is made so wide, or so narrow, that any of them does.
"""

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

BENCHMARKS: Final = Path(__file__).resolve().parents[2] / "benchmarks"
NUMBERS: Final = (1, 10, 100, 1_000, 3_000, 10_000)
CURVES: Final = {
    "calls in flight": ["threads", "asyncio", "threads, 1,024 let in", "asyncio, 1,024 let in"],
    "connections": [
        f"{what}, {kind}"
        for kind in ("threads", "asyncio")
        for what in ("to connect", "a call on each in turn", "to close")
    ],
    "payload": ["bytes there and back"],
    "commands": ["to define", "to serve", "to connect and compare", "the same, one being newer", "a call of one"],
    "nesting": ["threads", "asyncio"],
}


@pytest.fixture
def exponents(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, which finds its neighbours as it does when the benchmark is run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("exponents")


class TestTheExponent:
    @pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
    def test_is_the_power(self, exponents: Any, power: float) -> None:
        assert exponents.exponent([(n, 7 * n**power) for n in NUMBERS]) == pytest.approx(power)

    def test_is_that_of_the_last_decade(self, exponents: Any) -> None:
        """What is fixed, or cheap at first, says nothing of how it grows."""
        assert exponents.exponent([(n, 1 if n < 1000 else n) for n in NUMBERS]) == pytest.approx(1)
        assert exponents.exponent([(n, n if n < 1000 else n * n / 1000) for n in NUMBERS]) == pytest.approx(2)

    def test_is_of_the_last_two_points_where_the_last_decade_has_one(self, exponents: Any) -> None:
        assert exponents.exponent([(1, 100), (100, 100), (10_000, 10_000)]) == pytest.approx(1)

    @pytest.mark.parametrize("points", [[], [(1, 5)], [(1, 0), (10, 0)], [(1, 0), (10, 5)]])
    def test_needs_two_points_that_cost_something(self, exponents: Any, points: list[tuple[float, float]]) -> None:
        assert exponents.exponent(points) is None


def figure_of(exponents: Any, cost: Callable[[int], float], collector: Callable[[int], float] = lambda n: 0.0) -> Any:
    points = [
        exponents.Point(n=n, client=cost(n), server=collector(n), collector=collector(n), wall=1.0) for n in NUMBERS
    ]
    return exponents.Series(curve="calls", title="threads", unit="call", points=points).figure()


class TestTheVerdict:
    def test_linear_is_in_order_with_a_fixed_cost_and_caches_too(self, exponents: Any) -> None:
        assert not figure_of(exponents, lambda n: 1000 + 40 * n).is_missed(1.0)
        assert not figure_of(exponents, lambda n: 40 * n * (1.1 if n > 1000 else 1)).is_missed(1.0)

    def test_a_square_that_is_as_large_as_the_rest_in_the_end_is_not(self, exponents: Any) -> None:
        figure = figure_of(exponents, lambda n: 40 * n + 40 * n * n / 10_000)
        assert figure.is_missed(1.0)
        assert 1.2 < figure.measured < 1.4

    def test_leaves_the_garbage_collector_out_and_names_it(self, exponents: Any) -> None:
        figure = figure_of(exponents, lambda n: 40 * n, lambda n: n * n)
        assert figure.measured == pytest.approx(1)
        assert re.search(r"1\.9\d with the garbage collector", figure.note)

    def test_says_what_one_costs(self, exponents: Any) -> None:
        note = figure_of(exponents, lambda n: 1000 + 40 * n).note
        assert "40.1 us a call there; 1.04 ms at 1" in note


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0 ns"), (0.25, "250 ns"), (1, "1 us"), (12.345, "12.3 us"), (4_000, "4 ms"), (2_500_000, "2.5 s")],
)
def test_a_time_is_written_in_the_unit_that_suits_it(exponents: Any, value: float, text: str) -> None:
    assert exponents.microseconds(value) == text


def growth(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(BENCHMARKS / "growth.py"), "--quick", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)


@pytest.mark.unmeasured
@pytest.mark.timeout(180)
def test_every_curve_has_its_points_and_its_verdict(tmp_path: Path) -> None:
    run = growth("--slack", "1e6", "--json", str(tmp_path / "growth.json"))
    assert (run.stderr, run.returncode) == ("", 0), run.stdout
    report = json.loads((tmp_path / "growth.json").read_text(encoding="utf-8"))
    found: dict[str, list[str]] = {}
    for series in report["series"]:
        found.setdefault(series["curve"], []).append(series["title"])
        assert [point for point in series["points"] if point["client"] + point["server"] <= 0] == []
        assert len(series["points"]) == 2
        row = re.escape(f"{series['curve']}, {series['title']}: exponent up to {series['points'][-1]['n']:,}")
        assert re.search(rf"{row} +\| <= 1\.15 +\| [-0-9.]+ +\| yes", run.stdout)
    assert found == CURVES
    assert report["machine"]["python"].split()[-1] in run.stdout.splitlines()[0]


@pytest.mark.unmeasured
def test_one_that_is_worse_makes_the_exit_code_1() -> None:
    run = growth("--only", "payload", "--slack=-1e6")
    assert (run.stderr, run.returncode) == ("", 1)
    assert "worse than linear: 1" in run.stdout


@pytest.mark.unmeasured
def test_an_unknown_curve_is_refused_with_the_names_of_those_that_there_are() -> None:
    run = growth("--only", "luck")
    assert run.returncode == 2
    assert "'nesting'" in run.stderr
