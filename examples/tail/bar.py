"""A progress bar on stderr. Knows nothing of calls and connections."""

import shutil
import sys
from types import TracebackType
from typing import Self, TextIO


class Bar:
    """Shows how much of something is done; where no bar can be drawn, by a line for each quarter."""

    def __init__(self, title: str, total: int, stream: TextIO | None = None) -> None:
        """
        Args:
            title: Stands before it.
            total: What there is to do; may be 0.
            stream: Where it is drawn; on stderr if not said.
        """
        self._title = title
        self._total = total
        self._stream = sys.stderr if stream is None else stream
        self._is_terminal = self._stream.isatty()
        self._done = 0
        self._shown = ""

    def advance(self, more: int) -> None:
        """So much more is done."""
        self._done += more
        self._show()

    def _show(self) -> None:
        percent = 100 * self._done // self._total if self._total else 100
        if not self._is_terminal:
            self._draw(f"{self._title}: {percent // 25 * 25} %\n")
            return
        width = max(10, shutil.get_terminal_size().columns - len(self._title) - 10)
        filled = width * percent // 100
        self._draw(f"\r{self._title} [{'#' * filled}{'.' * (width - filled)}] {percent:3} %")

    def _draw(self, text: str) -> None:
        if text != self._shown:  # a terminal is slower than what is counted here
            self._shown = text
            self._stream.write(text)
            self._stream.flush()

    def __enter__(self) -> Self:
        self._show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_terminal:
            self._stream.write("\n")
            self._stream.flush()
