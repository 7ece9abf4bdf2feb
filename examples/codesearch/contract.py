"""What the code search server and its clients agree on. A client imports this module and nothing else of the server."""

from abc import abstractmethod
from dataclasses import dataclass

from typedrpc import Service, rpc


@dataclass(frozen=True)
class Hit:
    """One line that a pattern matched. `start` and `end` are the columns of the match within `text`."""

    path: str
    line: int
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Package:
    name: str
    files: int
    lines: int


@dataclass(frozen=True)
class Stats:
    root: str
    files: int
    lines: int
    bytes: int
    seconds_to_index: float
    largest: list[Package]


class CodeSearch(Service):
    """Searches a tree of Python source text that the server holds in memory."""

    @rpc
    @abstractmethod
    def search(self, pattern: str, limit: int = 20) -> list[Hit]:
        """The first `limit` lines, in the order of their paths, that match the regular expression `pattern`.

        Raises:
            ValueError: The pattern is no regular expression, or the limit is out of range.
        """

    @rpc
    @abstractmethod
    def file(self, path: str, lines: tuple[int, int] | None = None) -> str:
        """The text of one file, whole or from the first to the last of two line numbers, both included.

        Raises:
            FileNotFoundError: No such file is in the index.
            ValueError: The range is empty, or starts before line 1.
        """

    @rpc
    @abstractmethod
    def stats(self) -> Stats:
        """What the server has indexed."""
