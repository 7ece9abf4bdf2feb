"""What `make profile` prints, with short rounds, and that its module does not get in the way of the standard library's.

The times are not judged here.
"""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.unmeasured

BENCHMARKS: Final = ROOT / "benchmarks"
SCRIPT: Final = BENCHMARKS / "profile.py"


def load() -> Any:
    """The names of the script, which is a module of no package."""
    import runpy

    sys.path.insert(0, str(BENCHMARKS))
    try:
        return SimpleNamespace(**runpy.run_path(str(SCRIPT)))
    finally:
        sys.path.remove(str(BENCHMARKS))


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (done.stderr, done.returncode) == ("", 0), done.stdout
    return done.stdout


@pytest.mark.parametrize("work", ["call", "asyncio", "map", "stream"])
def test_the_layers_add_up_to_the_whole(work: str) -> None:
    told = json.loads(run(sys.executable, str(SCRIPT), "--quick", "--json", *([] if work == "call" else [f"--{work}"])))
    assert told["work"] == work
    *layers, rest, whole = told["layers"]
    assert (rest["name"], whole["name"]) == (load().REST, "the whole")
    for side in ("client", "server"):
        assert sum(row[side] for row in [*layers, rest]) == pytest.approx(whole[side])
        assert whole[side] > 0
        assert all(layer[side] >= 0 for layer in layers if not layer["name"].startswith("dispatch"))
    names = " ".join(layer["name"] for layer in layers)
    expected = {"call": "codec protocol dispatch context handler role bare", "asyncio": "codec dispatch task bare echo"}
    more = {"map": "codec frames context batch handler", "stream": "codec frames clock"}
    assert [word for word in {**expected, **more}[work].split() if word not in names] == []


def test_the_table_has_a_row_for_each_layer() -> None:
    profile = load()
    rows = profile.complete([profile.Layer("one", 1.0, 2.0), profile.Layer("two", 0.5)], profile.Layer("all", 4.0, 6.0))
    assert rows[2:] == [(profile.REST, 2.5, 4.0), ("all", 4.0, 6.0)]
    heading, *lines = profile.lines_of(rows)
    assert heading.split() == ["layer", "client", "us", "server", "us", "share"]
    assert [line.split()[-3:] for line in lines] == [
        ["1.00", "2.00", "30.0%"],
        ["0.50", "0.00", "5.0%"],
        ["2.50", "4.00", "65.0%"],
        ["4.00", "6.00", "100.0%"],
    ]


def test_nothing_measured_leaves_the_whole() -> None:
    profile = load()
    whole = profile.Layer("all", 4.0, 6.0)
    assert profile.complete([], whole) == [(profile.REST, 4.0, 6.0), whole]


def test_scripts_beside_it_have_what_the_standard_library_calls_profile(tmp_path: Path) -> None:
    """A script of benchmarks/ finds profile.py there first, and so does what it imports."""
    source = f"""
import sys
sys.path[0] = {str(BENCHMARKS)!r}
sys.path.append({str(ROOT)!r})
import asyncio, cProfile, profile, pstats, timeit, hypothesis
assert profile.__file__ == {str(SCRIPT)!r}
assert profile.Profile is not cProfile.Profile
found = cProfile.Profile()
assert found.runcall(sorted, [2, 1]) == [1, 2]
assert profile.Profile().runcall(sorted, [2, 1]) == [1, 2]
assert not hasattr(profile, "nothing_of_the_kind")
assert pstats.Stats(found).total_calls
print("fine")
"""
    script = tmp_path / "script.py"
    script.write_text(source, encoding="utf-8")
    assert run(sys.executable, str(script)) == "fine\n"
