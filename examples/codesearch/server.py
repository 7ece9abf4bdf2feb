"""Indexes a tree of Python source text and answers searches in it.

By default the tree is the standard library of the Python that runs the server::

    python examples/codesearch/server.py
    python examples/codesearch/client.py search 'def \\w+_until'

For people who trust each other: a regular expression can be written so that it takes for ever.
"""

import argparse
import sysconfig
from pathlib import Path

from contract import CodeSearch, Hit, Stats
from index import Index

from typedrpc import Server, rpc, serve


class IndexedCodeSearch(CodeSearch):
    """The contract, implemented: mypy refuses a signature here that does not fit the one that the clients see."""

    def __init__(self, index: Index) -> None:
        self._index = index

    @rpc
    def search(self, pattern: str, limit: int = 20) -> list[Hit]:
        return self._index.search(pattern, limit)

    @rpc
    def file(self, path: str, lines: tuple[int, int] | None = None) -> str:
        return self._index.file(path, lines)

    @rpc
    def stats(self) -> Stats:
        return self._index.stats


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve code search until Ctrl-C or SIGTERM.")
    parser.add_argument("--url", default="tcp://127.0.0.1:9010", help="where to listen (%(default)s)")
    parser.add_argument(
        "--root", type=Path, default=Path(sysconfig.get_path("stdlib")), help="the tree to index (%(default)s)"
    )
    arguments = parser.parse_args()

    index = Index(arguments.root)

    def on_start(server: Server) -> None:
        print(f"serving {index.stats.files} files of {arguments.root} at {server.url}", flush=True)

    serve(IndexedCodeSearch(index), url=arguments.url, on_start=on_start)
    print("stopped", flush=True)


if __name__ == "__main__":
    main()
