"""The picture of what was measured, of reports that are made up: what is in it, in which order, and how large it is."""

import importlib
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest

BENCHMARKS: Final = Path(__file__).resolve().parents[2] / "benchmarks"
NEEDS_MATPLOTLIB: Final = pytest.mark.skipif(
    find_spec("matplotlib") is None, reason="matplotlib is installed with the bench extra only"
)
LARGEST: Final = 300_000

RATES: Final = {
    "typedrpc": 50_000.0,
    "bare echo": 900_000.0,
    "floor": 70_000.0,
    **{f"peer {number}": 40_000.0 / 2**number for number in range(10)},
}
WORKS: Final = (
    *("add", "threads", "map", "records", "stream", "1 MiB", "64 MiB", "connections", "unix"),
    *("asyncio one after another", "asyncio 64 in flight", "a new one"),
)
MACHINE: Final = {"python": "CPython 3.11.0", "processor": "A Processor", "cores": 2}
BENCH: Final = {
    "machine": MACHINE,
    "tables": {
        "one core": {
            work: {name: {"rate": rate, "ratio_to_echo": None} for name, rate in RATES.items()} for work in WORKS
        },
        "a core each": {"add": {"typedrpc": {"rate": 1.0}}},
    },
}
POINTS: Final = [
    {"n": n, "client": 20.0 * n, "server": 20.0 * n, "collector": 0.0, "wall": 40.0 * n} for n in (1, 9, 99)
]
GROWTH: Final = {
    "machine": MACHINE,
    "series": [
        {"curve": curve, "title": title, "exponent": exponent, "points": POINTS}
        for curve in ("calls in flight", "connections", "payload", "commands", "nesting")
        for title, exponent in (("threads", 1.0), ("to connect, asyncio", None))
    ],
}


@pytest.fixture
def picture(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, which finds its neighbours as it does when it is run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("picture")


def test_the_fastest_comes_first_and_who_was_not_measured_not_at_all(picture: Any) -> None:
    rates = {"slow": 1.0, "typedrpc": 2.0, "equal": 2.0, "fast": 3.0, "failed": 0.0, "left out": None}
    ordered = picture.in_order({name: {"rate": rate} for name, rate in rates.items()})
    assert ordered == [("fast", 3.0), ("typedrpc", 2.0), ("equal", 2.0), ("slow", 1.0)]


def test_labels_are_a_rate_and_ratios_to_it(picture: Any) -> None:
    rates = [("a", 1_000_000.0), ("b", 75_000.0), ("typedrpc", 50_000.0), ("c", 20_000.0), ("d", 500.0)]
    assert picture.labels_of(rates) == ["20 x", "1.5 x", "50 k/s", "0.40 x", "0.01 x"]
    assert picture.labels_of(rates[:1]) == ["1 M/s"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1 B"), (512, "512 B"), (2**10, "1 KiB"), (3 * 2**20, "3 MiB"), (2**31, "2 GiB"), (0.5, "0.5 B")],
)
def test_a_size_is_written_in_the_unit_that_suits_it(picture: Any, value: float, text: str) -> None:
    assert picture.size(value) == text


def test_letters_keep_their_places_when_the_picture_is_made_compact(picture: Any) -> None:
    use = '<use xlink:href="#DejaVuSans-Bold-2c" transform="translate(63.625 0)"/>'
    svg = f'  {use}\n  <!-- a\nb --><path d="M 12.3456 1"/>'
    assert picture.compact(svg) == '<use href="#b2c" x="63"/>\n<path d="M 12.34 1"/>'


@NEEDS_MATPLOTLIB
@pytest.mark.unmeasured
def test_it_is_drawn_small_on_white_and_the_same_each_time(tmp_path: Path) -> None:
    reports = [tmp_path / "bench.json", tmp_path / "growth.json"]
    for path, report in zip(reports, (BENCH, GROWTH), strict=True):
        path.write_text(json.dumps(report), encoding="utf-8")
    drawn = [tmp_path / "first.svg", tmp_path / "second.svg", tmp_path / "third.png"]
    for path in drawn:
        command = [sys.executable, str(BENCHMARKS / "picture.py"), *map(str, reports), str(path)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
        assert (run.stderr, run.returncode) == ("", 0)
    first, second, png = (path.read_bytes() for path in drawn)
    assert first == second
    assert len(first) < LARGEST
    assert png.startswith(b"\x89PNG")
    root = ElementTree.fromstring(first)
    assert root.tag.endswith("}svg")
    background = root.find(".//*[@id='patch_1']/{*}path")
    assert background is not None
    assert "fill: #ffffff" in background.attrib["style"]
    names = {element.attrib.get("id", "") for element in root.iter()}
    panels = len(WORKS) + 5
    assert {f"axes_{number}" for number in range(1, panels + 1)} <= names
    assert f"axes_{panels + 1}" not in names


@pytest.mark.unmeasured
@pytest.mark.skipif(find_spec("matplotlib") is not None, reason="matplotlib is installed")
def test_without_matplotlib_it_says_what_to_install(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "picture.py"), "bench.json", "growth.json", "picture.svg"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False, cwd=tmp_path)
    assert run.returncode == 2
    assert "typedrpc[bench]" in run.stderr
