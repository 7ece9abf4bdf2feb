"""Runs the examples as a user would: as processes, by their file names."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Serve = Callable[..., "ServerProcess"]


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
