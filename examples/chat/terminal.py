"""A terminal in which lines may come while another one is being typed. Knows nothing of calls and connections."""

import sys
from threading import Lock

try:
    from readline import get_line_buffer  # importing it gives `input` its line editing, too
except ImportError:  # on Windows

    def get_line_buffer() -> str:
        return ""


CLEAR_LINE = "\r\x1b[K"


class Terminal:
    """Lines in, lines out. Through pipes it works too, without a prompt."""

    def __init__(self) -> None:
        self._lock = Lock()  # lines are shown by any thread
        self._interactive = sys.stdin.isatty() and sys.stdout.isatty()
        self._prompt = ""  # while a line is being typed

    def show(self, line: str) -> None:
        """Show a line, above the one that is being typed.

        The whole typed line is drawn again, so the cursor jumps to its end. A line that has grown longer than the
        terminal is wide leaves its first row behind: more than this the standard library does not allow.
        """
        line = printable(line)
        with self._lock:
            if self._prompt:
                line = f"{CLEAR_LINE}{line}\n{self._prompt}{get_line_buffer()}"
            else:
                line += "\n"
            sys.stdout.write(line)
            sys.stdout.flush()

    def read(self, prompt: str) -> str:
        """Wait for a line.

        Raises:
            EOFError: There is none any more: Ctrl-D.
            KeyboardInterrupt: Ctrl-C.
        """
        if not self._interactive:
            return input()
        with self._lock:
            self._prompt = prompt
        try:
            return input(prompt)
        except (EOFError, KeyboardInterrupt):
            print()  # what comes next does not stand beside the prompt
            raise
        finally:
            with self._lock:
                self._prompt = ""


def printable(line: str) -> str:
    """Without what would do something to the terminal: others have written it."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)
