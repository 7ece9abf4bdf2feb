"""The threads side and the asyncio side: one surface, and no more than a third of one text."""

import inspect
import runpy
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from typedrpc import aio, sync

ROOT: Final = Path(__file__).resolve().parent.parent
SCRIPT: Final = ROOT / "benchmarks" / "twins.py"

twins: Final = types.SimpleNamespace(**runpy.run_path(str(SCRIPT)))
"""The names of the script, which is a module of no package."""

ONLY_SYNC: Final = {"Server": {"forsake"}, "Client": set[str]()}
"""What a fork leaves to the child; users have no use for it."""

ASYNC: Final = {"__enter__": "__aenter__", "__exit__": "__aexit__"}

Parameter: TypeAlias = tuple[str, Any, Any, Any]


def surface(of: type) -> set[str]:
    """What users see of a class: whatever has a public name, and how it is entered and left."""
    return {name for name in dir(of) if not name.startswith("_")} | (set(ASYNC) | set(ASYNC.values())) & set(dir(of))


def parameters(of: Callable[..., Any]) -> list[Parameter]:
    """Name, kind, default and type of each; what takes a server takes one of its own side."""
    return [
        (one.name, one.kind, one.default, one.annotation if one.name != "on_start" else None)
        for one in inspect.signature(of).parameters.values()
    ]


class TestSurface:
    def test_the_names_are_the_same(self) -> None:
        assert set(aio.__all__) - set(sync.__all__) == {"Connecting"}
        assert set(sync.__all__) - set(aio.__all__) == set()

    @pytest.mark.parametrize("name", ["connect", "serve", "Server"])
    def test_what_is_called_takes_the_same(self, name: str) -> None:
        assert parameters(getattr(aio, name)) == parameters(getattr(sync, name))

    @pytest.mark.parametrize("name", ["Server", "Client"])
    def test_the_classes_have_the_same_methods(self, name: str) -> None:
        ours, theirs = surface(getattr(sync, name)), surface(getattr(aio, name))
        assert {ASYNC.get(method, method) for method in ours} - theirs == ONLY_SYNC[name]
        assert theirs - {ASYNC.get(method, method) for method in ours} == set()

    @pytest.mark.parametrize(
        ("name", "method"),
        [(name, method) for name in ONLY_SYNC for method in sorted(surface(getattr(sync, name)) - ONLY_SYNC[name])],
    )
    def test_the_methods_take_the_same(self, name: str, method: str) -> None:
        ours = getattr(getattr(sync, name), method)
        theirs = getattr(getattr(aio, name), ASYNC.get(method, method))
        assert type(ours) is type(theirs)
        if isinstance(ours, types.FunctionType):
            assert parameters(ours) == parameters(theirs)
        else:
            assert isinstance(ours, property)

    def test_what_connecting_gives_is_entered_like_the_client(self) -> None:
        assert surface(aio.Connecting) == set(ASYNC.values())


class TestText:
    def test_each_connection_has_less_than_300_lines_of_code(self) -> None:
        assert twins.MOST_LINES == 300
        assert max(twins.compare().lines) < 300

    def test_they_share_a_third_of_their_lines_at_most(self) -> None:
        likeness = twins.compare()
        assert 3 * len(likeness.shared) <= min(likeness.lines), likeness.shared

    def test_the_script_prints_it(self) -> None:
        run = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=True, timeout=30)
        likeness = twins.compare()
        sync_line, aio_line, both_line = run.stdout.splitlines()
        assert sync_line.startswith(f"typedrpc/sync/connection.py   {likeness.lines[0]} lines")
        assert aio_line.startswith(f"typedrpc/aio/connection.py    {likeness.lines[1]} lines")
        assert f" {len(likeness.shared)} lines" in both_line

    @pytest.mark.parametrize(
        ("source", "lines"),
        [
            ("", []),
            ("\n\n# a comment\n", []),
            ('"""One\n\ntwo."""\n', []),
            ("x = 1  # why\n", ["x = 1  # why"]),
            ('TIME = 1\n"""Seconds."""\n', ["TIME = 1"]),
            ('def f():\n    """What."""\n\n    return 1\n', ["def f():", "return 1"]),
            ('x = """\n\nend"""\n', ['x = """', "", 'end"""']),  # which is data
            ("f(\n    1,  # one\n    # two\n\n    2,\n)\n", ["f(", "1,  # one", "2,", ")"]),
        ],
    )
    def test_what_counts_as_a_line_of_code(self, source: str, lines: list[str]) -> None:
        assert twins.code_lines(source) == lines

    def test_what_counts_as_shared(self) -> None:
        assert twins.shared_lines(["a", "b", "b", "c"], ["b", "d", "b", "b", "a"]) == ["a", "b", "b"]
        assert twins.shared_lines(["a"], ["b"]) == []

    def test_two_files(self, tmp_path: Path) -> None:
        one, other = tmp_path / "one.py", tmp_path / "other.py"
        one.write_text("a = 1\nb = 2\nc = 3\n", encoding="utf-8")
        other.write_text("if True:\n    b = 2\n", encoding="utf-8")
        likeness = twins.compare(one, other)
        assert likeness == ((3, 2), ["b = 2"])
        assert likeness.share == 0.5
