"""Runs the examples as a user would: as processes, by their file names."""

import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import IO

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Serve = Callable[..., "ServerProcess"]
Start = Callable[..., "Process"]

PATIENCE = 30.0
"""Seconds that anything may take which is waited for."""


class ServerProcess:
    """An example's server on a port that the system chose; `url` is what its first line says."""

    def __init__(self, script: str, *arguments: str) -> None:
        command = [sys.executable, str(EXAMPLES / script), "--url", "tcp://127.0.0.1:0", *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.first_line = self._process.stdout.readline().rstrip("\n")
        self.url = self.first_line.rpartition(" ")[2]

    def stop(self) -> tuple[int, str, str]:
        """Stops it with SIGTERM; its exit code, the rest of its output, its complaints."""
        self._process.terminate()
        output, complaints = self._process.communicate(timeout=20)
        return self._process.returncode, output, complaints

    def end(self) -> None:
        """Whatever a test left of it."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


class Lines:
    """What a process prints, as it comes.

    Attributes:
        seen: The lines that were waited for, and those before them.
    """

    def __init__(self, stream: IO[str]) -> None:
        self.seen: list[str] = []
        self._coming: queue.Queue[str | None] = queue.Queue()
        self._thread = Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def expect(self, part: str) -> str:
        """Wait for the next line that contains something; returns it."""
        while (line := self._next(part)) is not None:
            if part in line:
                return line
        raise AssertionError(f"no {part!r} in all of {self.seen}")

    def rest(self) -> list[str]:
        """Wait for the end; returns all lines that were ever printed."""
        while self._next("the end") is not None:
            pass
        return self.seen

    def _next(self, what: str) -> str | None:
        try:
            line = self._coming.get(timeout=PATIENCE)
        except queue.Empty:
            raise AssertionError(f"no {what!r} after {self.seen}") from None
        if line is None:
            self._coming.put(None)  # for whoever asks again
        else:
            self.seen.append(line)
        return line

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self._coming.put(line.rstrip("\n"))
        self._coming.put(None)


class Process:
    """An example that is talked to through pipes."""

    def __init__(self, script: str, *arguments: str) -> None:
        # A shell may have started us with SIGINT ignored, and what is ignored is inherited.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            command = [sys.executable, str(EXAMPLES / script), *arguments]
            pipe = subprocess.PIPE
            self.popen = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        finally:
            signal.signal(signal.SIGINT, before)
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        assert self.popen.stderr is not None
        self._input = self.popen.stdin
        self.output = Lines(self.popen.stdout)
        self.complaints = Lines(self.popen.stderr)

    def type(self, line: str) -> None:
        self._input.write(line + "\n")
        self._input.flush()

    def end_input(self) -> None:
        self._input.close()

    def wait(self) -> int:
        """Wait until it has ended; returns its exit code."""
        return self.popen.wait(PATIENCE)

    def end(self) -> None:
        """Whatever a test left of it."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        if not self._input.closed:
            self._input.close()
        self.output.rest()
        self.complaints.rest()


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Process] = []

    def start_one(script: str, *arguments: str) -> Process:
        started.append(Process(script, *arguments))
        return started[-1]

    yield start_one
    for process in started:
        process.end()


@pytest.fixture(scope="module")
def serve() -> Iterator[Serve]:
    started: list[ServerProcess] = []

    def start(script: str, *arguments: str) -> ServerProcess:
        started.append(ServerProcess(script, *arguments))
        return started[-1]

    yield start
    for server in started:
        server.end()


@pytest.fixture(scope="module")
def run() -> Run:
    def start(script: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(EXAMPLES / script), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)

    return start
