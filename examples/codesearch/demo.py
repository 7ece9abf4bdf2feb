"""Starts the server as a process of its own, runs the client process against it call by call, and stops the server.

This is what ``make demo`` shows.
"""

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent


class Call(NamedTuple):
    arguments: list[str]
    shows: str
    exit_code: int = 0


CALLS = [
    Call(["stats"], "a dataclass that holds a list of dataclasses"),
    Call(["search", r"def \w+_until", "--limit", "5"], "a list of dataclasses"),
    Call(["file", "this.py", "--lines", "1-3"], "an optional tuple as argument"),
    Call(["search", "(", "--limit", "5"], "the handler raises ValueError, and it arrives as ValueError", exit_code=1),
    Call(["file", "../../../etc/passwd"], "nothing outside the index can be read", exit_code=1),
    Call(["search", "import this"], "and the server goes on as if nothing had happened"),
]


def start_server() -> tuple[subprocess.Popen[str], str]:
    """Starts the server on a port that the system chooses; returns its process and its url."""
    command = [sys.executable, str(HERE / "server.py"), "--url", "tcp://127.0.0.1:0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    first_line = server.stdout.readline().strip()
    if not first_line:
        raise SystemExit(f"the server did not start, its exit code is {server.wait()}")
    print(f"[server, process {server.pid}] {first_line}", flush=True)
    return server, first_line.rpartition(" ")[2]


def run_client(url: str, call: Call) -> bool:
    """Runs the client for one call, its output on ours; says whether it ended as expected."""
    print(f"\n$ client.py {shlex.join(call.arguments)}    # {call.shows}", flush=True)
    started = time.perf_counter()
    command = [sys.executable, str(HERE / "client.py"), "--url", url, *call.arguments]
    client = subprocess.run(command, stderr=subprocess.STDOUT, check=False)
    seconds = time.perf_counter() - started
    print(f"[client process ended with {client.returncode} after {seconds:.2f} s in all]", flush=True)
    return client.returncode == call.exit_code


def main() -> int:
    server, url = start_server()
    try:
        as_expected = [run_client(url, call) for call in CALLS]
    finally:
        print("\n[stopping the server with SIGTERM]", flush=True)
        server.send_signal(signal.SIGTERM)
        try:
            last_words, _ = server.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            raise
    print(f"[server, process {server.pid}] {last_words.strip()}, exit code {server.returncode}")
    print(f"\n{sum(as_expected)} of {len(CALLS)} calls went as expected")
    return 0 if all(as_expected) and server.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
