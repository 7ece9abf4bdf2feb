"""What `make bench-codec` runs, with small counts: the shape of what it prints, and what its exit code says.

Its speeds are not judged here: the budgets are made so wide, or so narrow, that any figure does. The libraries that it
compares need not be installed.
"""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.unmeasured

CODEC = Path(__file__).resolve().parents[2] / "benchmarks" / "codec.py"
LIBRARIES = {
    "msgspec": "msgspec",
    "msgspec structs": "msgspec",
    "cattrs": "cattrs",
    "mashumaro": "mashumaro",
    "pydantic json": "pydantic",
    "pydantic msgpack": "pydantic",
    "pickle": "pickle",
    "msgpack": "msgpack",
}
INSTALLED = [name for name, package in LIBRARIES.items() if find_spec(package)]
PROMISES = {
    "encode 100 dataclasses: speed relative to msgspec": ">= 0.50 x",
    "decode 100 dataclasses: speed relative to msgspec": ">= 0.80 x",
    "encode 100 dataclasses: ahead of cattrs, mashumaro, pydantic": ">= 1.00 x",
    "decode 100 dataclasses: ahead of cattrs, mashumaro, pydantic": ">= 1.00 x",
}


def codec(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(CODEC), "--quick", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


def tables_of(output: str) -> list[list[list[str]]]:
    """The cells of each table, its heading first."""
    tables = re.findall(r"(?m)(?:^[^\n]*\|[^\n]*\n[-+|: ]+\n(?:[^\n]*\|[^\n]*\n)+)", output)
    return [[[cell.strip() for cell in line.split("|")] for line in table.splitlines()] for table in tables]


def test_each_way_has_a_row_and_each_installed_library_a_column(tmp_path: Path) -> None:
    run = codec("--only", "records", "--only", "int", "--slack", "1e6", "--json", str(tmp_path / "codec.json"))
    assert (run.stderr, run.returncode) == ("", 0), run.stdout
    figures, _ = tables_of(run.stdout)
    assert figures[0] == ["", "typedrpc", *INSTALLED]
    titles = ["encode 100 dataclasses", "decode 100 dataclasses", "encode a small int", "decode a small int"]
    assert [row[0] for row in figures[2:]] == titles
    assert [row for row in figures[2:] if not all(re.match(r"[0-9.]+( us)?$", cell) for cell in row[1:])] == []
    report = json.loads((tmp_path / "codec.json").read_text(encoding="utf-8"))
    assert [f"{row['way']} {row['title']}" for row in report["rows"]] == titles
    assert [list(row["ratios"]) for row in report["rows"]] == [INSTALLED] * 4
    assert report["machine"]["python"].split()[-1] in run.stdout.splitlines()[0]


def test_a_library_that_is_not_installed_is_left_out_and_named() -> None:
    run = codec("--only", "int", "--slack", "1e6")
    left_out = re.findall(r"(?m)^(.*) is left out: .* not installed$", run.stdout)
    assert left_out == [name for name in LIBRARIES if name not in INSTALLED]


def test_every_budget_is_shown_and_a_missed_one_makes_the_exit_code_1(tmp_path: Path) -> None:
    run = codec("--only", "records", "--slack", "0", "--json", str(tmp_path / "codec.json"))
    assert run.stderr == ""
    _, budgets = tables_of(run.stdout)
    assert {row[0]: row[1] for row in budgets[2:]} == PROMISES
    measured = [row for row in budgets[2:] if row[2] != "-"]
    assert [row[3] for row in measured] == ["NO"] * len(measured)
    assert run.returncode == (1 if measured else 0)
    assert f"missed: {len(measured)}" in run.stdout


def test_the_tables_can_be_printed_as_markdown() -> None:
    run = codec("--only", "int", "--slack", "1e6", "--markdown")
    assert (run.stderr, run.returncode) == ("", 0)
    figures, budgets = (
        [row[1:-1] for row in table if all(cell == "" for cell in (row[0], row[-1]))] for table in tables_of(run.stdout)
    )
    assert figures[0] == ["", "typedrpc", *INSTALLED]
    assert {len(row) for row in figures} == {len(INSTALLED) + 2}
    assert {len(row) for row in budgets} == {5}


@pytest.mark.parametrize("name", ["luck", ""])
def test_an_unknown_value_is_refused_with_the_names_of_those_that_there_are(name: str) -> None:
    run = codec("--only", name)
    assert run.returncode == 2
    assert "'records'" in run.stderr
