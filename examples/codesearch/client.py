"""The command line of the code search: one call a run, its result in colours.

::

    python examples/codesearch/client.py stats
    python examples/codesearch/client.py search 'class \\w+Error' --limit 5
    python examples/codesearch/client.py file this.py --lines 1-3
"""

import argparse
import sys
import time

from contract import CodeSearch, Hit, Stats
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Column, Table
from rich.text import Text

from typedrpc import RpcError, connect

console = Console(soft_wrap=True, highlight=False)


def line_range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first), int(last or first)


def command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Search Python source text that a server has indexed.")
    parser.add_argument("--url", default="tcp://127.0.0.1:9010", help="what server.py printed (%(default)s)")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds to wait for the server (%(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    search = commands.add_parser("search", help="lines that match a regular expression")
    search.add_argument("pattern")
    search.add_argument("--limit", type=int, default=20)
    file = commands.add_parser("file", help="the text of a file")
    file.add_argument("path")
    file.add_argument("--lines", type=line_range, metavar="FIRST-LAST")
    commands.add_parser("stats", help="what the server has indexed")
    return parser.parse_args()


def show_hits(hits: list[Hit]) -> None:
    for hit in hits:
        text = Text(hit.text)
        text.stylize("bold red", hit.start, hit.end)
        console.print(Text.assemble((hit.path, "magenta"), ":", (str(hit.line), "green"), ": ", text))


def show_file(path: str, text: str, first_line: int) -> None:
    if console.is_terminal:
        console.print(Syntax(text.removesuffix("\n"), "python", line_numbers=True, start_line=first_line))
    else:
        sys.stdout.write(text)


def show_stats(stats: Stats) -> None:
    console.print(f"{stats.files} files, {stats.lines} lines, {stats.bytes / 1e6:.1f} MB below {stats.root},")
    console.print(f"indexed in {stats.seconds_to_index:.2f} s")
    table = Table("largest", Column("files", justify="right"), Column("lines", justify="right"))
    for package in stats.largest:
        table.add_row(package.name, str(package.files), str(package.lines))
    console.print(table)


def run(code_search: CodeSearch, arguments: argparse.Namespace) -> None:
    started = time.perf_counter()
    match arguments.command:
        case "search":
            hits = code_search.search(arguments.pattern, limit=arguments.limit)
            seconds = time.perf_counter() - started
            show_hits(hits)
            summary = f"search({arguments.pattern!r}, limit={arguments.limit}) -> {len(hits)} hits"
        case "file":
            text = code_search.file(arguments.path, arguments.lines)
            seconds = time.perf_counter() - started
            show_file(arguments.path, text, arguments.lines[0] if arguments.lines else 1)
            summary = f"file({arguments.path!r}, {arguments.lines}) -> {len(text)} characters"
        case _:
            stats = code_search.stats()
            seconds = time.perf_counter() - started
            show_stats(stats)
            summary = f"stats() -> {stats.files} files"
    sys.stdout.flush()
    print(f"[{summary} in {seconds * 1000:.1f} ms]", file=sys.stderr)


def main() -> int:
    arguments = command_line()
    try:
        with connect(CodeSearch, arguments.url, timeout=arguments.timeout) as code_search:
            run(code_search, arguments)
    except (ValueError, OSError, RpcError) as error:
        # The handler raised ValueError or FileNotFoundError in the server's process; both arrive as themselves.
        errors = Console(stderr=True, highlight=False, soft_wrap=True)
        errors.print(Text(f"{type(error).__name__}: {error}", "bold red"))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
