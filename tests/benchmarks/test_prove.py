"""What `make prove` runs, with small counts: that it measures every promise, and what its exit code says.

Its times are not judged here: the limits are made so wide, or so narrow, that any figure does.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unmeasured

PROVE = Path(__file__).resolve().parents[2] / "benchmarks" / "prove.py"

PROMISES = [
    "8 calls of 100 ms",
    "beside a handler that takes 1 s",
    "server killed while 100 threads wait",
    "server killed while 100 futures wait",
    "300 ms at A: B and C have stopped, in threads",
    "300 ms at A: B and C have stopped, in tasks",
    "calls nested 1 to 60 deep",
    "the most threads in a process",
    "a reply of 100 ms, while a request takes",
    "connect to a closed port",
    "connect to a server that never answers",
    *(
        f"bad input: {kind}"
        for kind in [
            "an HTTP request",
            "random bytes",
            "a TLS hello",
            "nothing at all",
            "a header for 4 GiB",
            "a truncated frame",
            "a payload that is not msgpack",
            "msgpack nested 100 000 deep",
            "wrong types in a good payload",
            "a frame of unknown kind",
            "a duplicate call id",
            "a byte a second",
        ]
    ),
    "slowest call of a good client",
    "left at the client after",
    "left at the server after",
    "callback called 2,000 times: growth of the client",
    "callback called 2,000 times: growth of the server",
    "calls with a callback each: growth of the client",
    "calls with a callback each: growth of the server",
    "taken one by one: growth of the client",
    "taken one by one: growth of the server",
    "a producer in a thread stops",
    "a producer in a task stops",
    "a producer in a thread of the caller stops",
    "parent and forked child",
    "others that missed anything",
    "growth of the broadcasting process",
    "slow peers that were cut off",
    "peers that do not read",
    "one broadcast to",
    "commands on one server",
    "the hello of a client",
    "explicit ids",
    "its first and its last command",
    "import typedrpc",
    "MiB each way at the same time",
    "MiB of bytes there and back",
    "beside an upload of 8 MiB, tcp",
    "beside a download of 8 MiB, tcp",
    "beside an upload of 8 MiB, unix",
    "beside a download of 8 MiB, unix",
    "one after another",
    "from 8 threads over one connection: ratio",
    "map over",
]


def prove(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(PROVE), "--quick", *arguments]
    # Coverage would measure all its processes, which takes longer than what they do.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=170, check=False)


def rows_of(output: str) -> list[list[str]]:
    """The cells of the table: promise, limit, measured, met, and a note where there is one."""
    return [re.split(r" *\| ?", line) for line in output.splitlines() if line.count("|") >= 3][1:]


@pytest.mark.timeout(180)
def test_every_promise_has_its_row_and_with_wide_limits_all_are_met(tmp_path: Path) -> None:
    run = prove("--slack", "1e6", "--json", str(tmp_path / "figures.json"))
    assert (run.stderr, run.returncode) == ("", 0), run.stdout
    rows = rows_of(run.stdout)
    assert [promise for promise in PROMISES if not any(promise in row[0] for row in rows)] == []
    assert [row for row in rows if row[3] not in ("yes", "-")] == []
    assert [row for row in rows if not re.match(r"[0-9]", row[2])] == []
    report = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert [figure["promise"] for figure in report["figures"]] == [row[0] for row in rows]
    assert report["machine"]["python"].split()[-1] in run.stdout.splitlines()[0]


def test_a_missed_promise_is_shown_and_makes_the_exit_code_1() -> None:
    run = prove("--only", "no-server", "--slack", "0")
    assert (run.stderr, run.returncode) == ("", 1)
    assert [row[3] for row in rows_of(run.stdout)] == ["NO", "NO"]
    assert "promises missed: 2" in run.stdout


def test_a_missed_budget_is_shown_and_is_no_missed_promise() -> None:
    run = prove("--only", "bulk", "--slack", "0")
    assert (run.stderr, run.returncode) == ("", 0)
    assert [row[3] for row in rows_of(run.stdout)] == ["not yet"]


def test_an_unknown_part_is_refused_with_the_names_of_those_that_there_are() -> None:
    run = prove("--only", "luck")
    assert run.returncode == 2
    assert "'sequence'" in run.stderr
