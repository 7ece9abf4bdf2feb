"""Source text held in memory and searched with regular expressions. Knows nothing of calls and connections."""

import errno
import os
import re
import time
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from contract import Hit, Package, Stats

MAX_LIMIT = 1000
MAX_TEXT = 200
LINE = re.compile(r"[^\n]*\n|[^\n]+")
SKIPPED_FOLDERS = {"__pycache__", "site-packages"}


@dataclass(frozen=True)
class Source:
    path: str
    text: str
    line_starts: "array[int]"  # quoted: before Python 3.12 an array cannot be subscripted

    @property
    def lines(self) -> int:
        return len(self.line_starts)


class Index:
    """All Python files below `root`, read once.

    A path is looked up in the index and never on disk, so no path that a client sends can lead out of the tree.
    The index does not change once it is built, so any number of threads may search it.
    """

    def __init__(self, root: Path) -> None:
        started = time.perf_counter()
        self._sources = {path: _read(root, path) for path in sorted(_python_files(root))}
        self.stats = _stats(root, self._sources.values(), time.perf_counter() - started)

    def search(self, pattern: str, limit: int) -> list[Hit]:
        if not 1 <= limit <= MAX_LIMIT:
            raise ValueError(f"limit must be from 1 to {MAX_LIMIT}, not {limit}")
        try:
            compiled = re.compile(pattern, re.MULTILINE)
        except re.error as error:
            raise ValueError(f"bad pattern {pattern!r}: {error}") from None
        hits = (hit for source in self._sources.values() for hit in _hits(source, compiled))
        return list(islice(hits, limit))

    def file(self, path: str, lines: tuple[int, int] | None) -> str:
        source = self._sources.get(path)
        if source is None:
            raise FileNotFoundError(errno.ENOENT, "no such file in the index", path)
        if lines is None:
            return source.text
        first, last = lines
        if not 1 <= first <= last:
            raise ValueError(f"lines must be a range from line 1 or later, not {first}-{last}")
        if first > source.lines:
            raise ValueError(f"{path} has {source.lines} lines, none of them is in {first}-{last}")
        end = source.line_starts[last] if last < source.lines else None
        return source.text[source.line_starts[first - 1] : end]


def _python_files(root: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        for name in names:
            if name.endswith(".py"):
                yield Path(folder, name).relative_to(root).as_posix()


def _read(root: Path, path: str) -> Source:
    text = (root / path).read_text(encoding="utf-8", errors="replace")
    return Source(path, text, array("L", [match.start() for match in LINE.finditer(text)]))


def _hits(source: Source, pattern: re.Pattern[str]) -> Iterator[Hit]:
    """At most one hit a line; a match over several lines belongs to the first of them."""
    position = 0
    while position < len(source.text) and (match := pattern.search(source.text, position)):
        line = bisect_right(source.line_starts, match.start())
        start = source.line_starts[line - 1]
        end = source.text.find("\n", start)
        end = len(source.text) if end < 0 else end
        text = source.text[start : min(end, start + MAX_TEXT)]
        yield Hit(source.path, line, text, min(match.start() - start, len(text)), min(match.end() - start, len(text)))
        position = end + 1


def _stats(root: Path, sources: Collection[Source], seconds: float) -> Stats:
    files: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for source in sources:
        package = source.path.partition("/")[0]
        files[package] += 1
        lines[package] += source.lines
    return Stats(
        root=str(root),
        files=len(sources),
        lines=lines.total(),
        bytes=sum(len(source.text.encode()) for source in sources),
        seconds_to_index=seconds,
        largest=[Package(name, files[name], count) for name, count in lines.most_common(5)],
    )
