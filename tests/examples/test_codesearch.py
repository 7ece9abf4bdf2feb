"""The code search: its server, its client and the demo, each a process.

Most tests let the server index a small tree of their own; the demo indexes the standard library.
"""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.unmeasured

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Client = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("codesearch") / "tree"
    (root / "package" / "__pycache__").mkdir(parents=True)
    (root / "a.py").write_text("import os\n\n\ndef first(x):\n    return x\n")
    (root / "empty.py").write_text("")
    (root / "no_newline.py").write_text("def last(): pass")
    (root / "package" / "b.py").write_text("class B:\n    def second(self): [os] = 1\n\x0c\n# tail\n")
    (root / "package" / "long.py").write_text("x = '" + "-" * 1000 + "needle'\n")
    (root / "package" / "latin.py").write_bytes(b"# caf\xe9\n")
    (root / "package" / "__pycache__" / "c.py").write_text("def hidden(): pass\n")
    (root / "notes.txt").write_text("def not_python(): pass\n")
    (root.parent / "secret.py").write_text("secret = 1\n")
    return root


@pytest.fixture(scope="module")
def client(tree: Path, serve: Callable[..., Any], run: Run) -> Client:
    server = serve("codesearch/server.py", "--root", str(tree))
    assert server.first_line == f"serving 6 files of {tree} at {server.url}"
    return lambda *arguments: run("codesearch/client.py", "--url", server.url, *arguments)


def test_a_search_prints_path_line_and_text(client: Client) -> None:
    found = client("search", r"def \w+")
    assert found.stdout.splitlines() == [
        "a.py:4: def first(x):",
        "no_newline.py:1: def last(): pass",
        "package/b.py:2:     def second(self): [os] = 1",
    ]
    assert re.fullmatch(r"\[search\('def .*', limit=20\) -> 3 hits in [\d.]+ ms\]\n", found.stderr)
    assert found.returncode == 0


def test_a_search_stops_at_its_limit(client: Client) -> None:
    assert client("search", "def", "--limit", "1").stdout == "a.py:4: def first(x):\n"


def test_a_line_is_found_once_however_often_it_matches(client: Client) -> None:
    assert client("search", "x?", "--limit", "3").stdout.splitlines() == ["a.py:1: import os", "a.py:2: ", "a.py:3: "]


def test_lines_are_counted_by_newlines_alone(client: Client) -> None:
    assert client("search", "^# tail").stdout == "package/b.py:4: # tail\n"
    assert client("file", "package/b.py", "--lines", "4-4").stdout == "# tail\n"


def test_a_long_line_is_cut(client: Client) -> None:
    (line,) = client("search", "needle").stdout.splitlines()
    assert line == "package/long.py:1: " + ("x = '" + "-" * 1000)[:200]


def test_text_that_is_not_utf_8_travels_all_the_same(client: Client) -> None:
    assert client("search", "caf").stdout == "package/latin.py:1: # caf\N{REPLACEMENT CHARACTER}\n"


def test_a_file_comes_whole_or_in_part(client: Client) -> None:
    assert client("file", "a.py").stdout == "import os\n\n\ndef first(x):\n    return x\n"
    assert client("file", "a.py", "--lines", "4-5").stdout == "def first(x):\n    return x\n"
    assert client("file", "a.py", "--lines", "5-900").stdout == "    return x\n"
    assert client("file", "a.py", "--lines", "1").stdout == "import os\n"


def test_the_stats_count_files_and_lines(client: Client) -> None:
    stats = client("stats").stdout
    assert stats.startswith("6 files, 12 lines, 0.0 MB below ")
    assert re.search(r"package\W+3\W+6\b", stats)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["search", "("], "ValueError: bad pattern '(': missing ), unterminated subpattern at position 0"),
        (["search", "x", "--limit", "0"], "ValueError: limit must be from 1 to 1000, not 0"),
        (
            ["file", "a.py", "--lines", "3-2"],
            "ValueError: lines must be a range from line 1 or later, not 3-2",
        ),
        (["file", "a.py", "--lines", "9-9"], "ValueError: a.py has 5 lines, none of them is in 9-9"),
        (["file", "empty.py", "--lines", "1"], "ValueError: empty.py has 0 lines, none of them is in 1-1"),
        (["file", "../secret.py"], "FileNotFoundError: [Errno 2] no such file in the index: '../secret.py'"),
        (["file", "/etc/passwd"], "FileNotFoundError: [Errno 2] no such file in the index: '/etc/passwd'"),
        (["file", "./a.py"], "FileNotFoundError: [Errno 2] no such file in the index: './a.py'"),
        (["file", "notes.txt"], "FileNotFoundError: [Errno 2] no such file in the index: 'notes.txt'"),
    ],
)
def test_what_the_handler_refuses_arrives_as_the_exception_that_it_raised(
    client: Client, arguments: list[str], error: str
) -> None:
    refused = client(*arguments)
    assert (refused.stdout, refused.stderr, refused.returncode) == ("", f"{error}\n", 1)


def test_a_server_that_is_not_there_is_an_error_in_words(run: Run, tmp_path: Path) -> None:
    refused = run("codesearch/client.py", "--url", f"unix://{tmp_path}/nobody.sock", "--timeout", "0.1", "stats")
    assert refused.stdout == ""
    assert refused.stderr.startswith(f"ConnectFailed: cannot connect to unix://{tmp_path}/nobody.sock: ")
    assert refused.returncode == 1


def test_colours_go_to_a_terminal(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in client("search", "first").stdout
    assert "\x1b[" in client("file", "a.py").stdout


def test_the_demo_shows_every_call_and_a_clean_exit(run: Run) -> None:
    demo = run("codesearch/demo.py")
    assert demo.stdout.splitlines()[-1] == "6 of 6 calls went as expected"
    assert demo.returncode == 0
    serving = re.match(r"\[server, process \d+\] serving (\d+) files of .* at tcp://127.0.0.1:\d+\n", demo.stdout)
    assert serving is not None
    assert int(serving[1]) > 500
    assert demo.stdout.count("\n$ client.py ") == 6
    assert "ValueError: bad pattern" in demo.stdout
    assert "no such file in the index: '../../../etc/passwd'" in demo.stdout
    assert re.search(r"^asyncio/\w+\.py:\d+: .*def \w+_until", demo.stdout, re.MULTILINE)
    assert re.search(r"^\[server, process \d+\] stopped, exit code 0$", demo.stdout, re.MULTILINE)


def test_the_client_reads_the_contract_and_nothing_else_of_the_server() -> None:
    program = "import sys, client; print(*(name for name in ('contract', 'index', 'server') if name in sys.modules))"
    folder = Path(__file__).resolve().parents[2] / "examples" / "codesearch"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == "contract\n"
