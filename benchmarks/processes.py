"""The processes of a benchmark: real ones, which end with the process that started them."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HERE = Path(__file__).resolve().parent


class Process:
    """A Python process that says in its first line where it listens, and ends when its standard input does.

    As a context manager it is ended at the end, whatever it does.
    """

    def __init__(self, script: str, *arguments: object) -> None:
        command = [sys.executable, str(HERE / script), *map(str, arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid
        self.first_line = self.read_line()
        if not self.first_line:
            self.kill()
            raise RuntimeError(f"{script} ended before it said anything")

    def read_line(self) -> str:
        """The next line of its output; empty when it has ended."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def ask(self, line: str) -> str:
        """Write a line to its standard input; the next line of its output."""
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)
        answer = self.read_line()
        if not answer:
            raise RuntimeError(f"a process of the benchmark ended when it was to answer {line!r}")
        return answer

    def end_input(self) -> None:
        """End its standard input, and so, soon, the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def kill(self) -> None:
        """End it with SIGKILL; returns when it is gone."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        try:
            self.end_input()
            self._process.wait(5)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()


def serve_workload(*arguments: object) -> Process:
    """A server of the workload; its first line is its url."""
    return Process("serve_workload.py", *arguments)


def run_caller(*arguments: object) -> dict[str, Any]:
    """Run a client process to its end; what it prints, which is a map in JSON."""
    command = [sys.executable, str(HERE / "caller.py"), *map(str, arguments)]
    run = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(run.stdout)
    return result


def end_with_input() -> None:
    """End this process as soon as its standard input does, and so with the process that started it."""

    def watch() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=watch, name="end-with-input", daemon=True).start()
