"""The soak of `make soak`, for half a minute: every shape of call at once, and nothing is left of it.

What is counted is judged exactly. Memory is not yet at rest after so short a time: its bound is wide.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.unmeasured

BENCHMARKS: Final = ROOT / "benchmarks"
SECONDS: Final = 16
ROUNDS: Final = 4


def names_of(module: str) -> list[str]:
    """The names of the shapes of a module, as it is run."""
    program = f"import {module}; print(*(shape.__name__ for shape in {module}.SHAPES))"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=BENCHMARKS, capture_output=True, text=True, check=True, timeout=50
    )
    return run.stdout.split()


def test_both_colours_have_the_same_shapes() -> None:
    names = names_of("soak_threads")
    assert len(names) > 10
    assert names_of("soak_asyncio") == names


def soak(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "soak.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


@pytest.mark.timeout(250)  # half a minute of work, and as long as it takes a busy machine to come to rest
def test_nothing_is_left_after_a_soak(tmp_path: Path) -> None:
    kept = tmp_path / "soak.json"
    run = soak(
        *("--seconds", str(SECONDS), "--rounds", str(ROUNDS), "--workers", "1"),
        *("--margin", "100", "--margin-mib", "64", "--json", str(kept)),
    )
    assert run.returncode == 0, run.stdout + run.stderr
    told: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    assert told["faults"] == []
    assert told["killed"] >= ROUNDS
    shapes = names_of("soak_threads")
    for name, end in told["ends"].items():
        assert len(end["quiet"]) == ROUNDS
        assert all(set(one["tables"].values()) == {0} for one in end["quiet"]), name
        if name.startswith("client"):
            assert set(end["quiet"][-1]["done"]) == set(shapes), "not every shape has had its turn"


def test_what_is_left_is_found() -> None:
    """A client that stays away from its place is found by the server that counts on it."""
    program = (
        "import soak; end = soak.End('server', None, 2); end.last = {'connections': 3, 'tables': {'calls': 1},"
        " 'descriptors': 5, 'threads': 2, 'names': ['pipe', 'socket'], 'faults': ['wrong'], 'objects': {'Call': 20}};"
        "first = {**end.last, 'descriptors': 4, 'names': ['pipe'], 'objects': {'Call': 2}}; end.quiet = [first];"
        "print(*end.left(), sep='; ');"
        "end.quiet = [{**first, 'rss': mib} for mib in (10, 50, 50)] + [{**end.last, 'rss': 80}];"
        "end.judge(soak.Margin(0.5, 1));"
        "print(*end.faults, sep='; ')"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=BENCHMARKS, capture_output=True, text=True, check=True, timeout=50
    )
    left, faults = run.stdout.splitlines()
    assert left == "1 calls; 3 connections, not 2; 5 descriptors, not 4; new: socket"
    assert faults == (
        "server: wrong; server: 20 objects of Call, which were 2; "
        "server: 80 MiB are resident at rest in the last quarter, 50 in the second"
    )
