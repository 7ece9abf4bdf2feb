"""What `make bench-asyncio` runs, with short turns: the shape of what it prints.

Its speeds are not judged here. The libraries that it compares need not be installed.
"""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.unmeasured

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "asyncio_calls.py"
PEERS = {
    "typedrpc.aio": "typedrpc.aio",
    "typedrpc, threads": "typedrpc",
    "grpc.aio": "grpc_tools",
    "bare echo": "asyncio",
}
LOOPS = ("asyncio", "uvloop")
COMMAND = [sys.executable, str(SCRIPT), "--quick", *(word for name in PEERS for word in ("--only", name))]


def test_each_work_has_a_row_for_each_installed_peer_on_each_installed_loop() -> None:
    run = subprocess.run(COMMAND, capture_output=True, text=True, timeout=50, check=False)
    assert (run.stderr, run.returncode) == ("", 0), run.stdout
    names = [
        f"{name}, {loop}" for name, package in PEERS.items() for loop in LOOPS if find_spec(package) and find_spec(loop)
    ]
    number = r" +[0-9.,]+"
    for title in ("one after another", "64 in flight"):
        table = run.stdout.split(f"\n{title} ", 1)[1].split("\n\n", 1)[0].splitlines()[1:]
        rows = [re.fullmatch(rf"(.+?) *{number} +([0-9.]+|-){number * 3}", line) for line in table]
        assert [row and row[1] for row in rows] == names
    left_out = re.findall(r"(.+) is left out: not installed: .+", run.stdout)
    absent = {name: package for name, package in {**PEERS, "uvloop": "uvloop"}.items() if not find_spec(package)}
    assert left_out == list(absent)
