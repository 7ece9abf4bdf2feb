"""Counting primes with a progress bar: the server and its clients, each a process."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.unmeasured

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., Any]

FOREVER = str(10**12)


@pytest.fixture
def server(start: Start) -> Any:
    return start("progress/progress_server.py", "--url", "tcp://127.0.0.1:0", "--grace", "0.5")


@pytest.fixture
def url(server: Any) -> str:
    line: str = server.output.expect("serving Primes at ")
    return line.rpartition(" ")[2]


def test_the_progress_comes_in_steps_and_then_the_result(server: Any, run: Run, url: str) -> None:
    client = run("progress/progress_client.py", "10000000", "--url", url)
    *steps, last = client.stdout.splitlines()
    assert [step.partition(" %")[0] for step in steps] == [f"{tenth * 10:3}" for tenth in range(1, 11)]
    assert steps[0] == " 10 %: 82,025 primes below 1,048,576"
    assert steps[-1] == "100 %: 664,579 primes below 10,000,000"
    assert last.startswith("664,579 primes below 10,000,000, counted in ")
    assert (client.returncode, client.stderr) == (0, "")
    server.complaints.expect("counting the primes below 10,000,000")
    server.complaints.expect("done")


def test_in_a_terminal_there_is_a_bar(run: Run, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    client = run("progress/progress_client.py", "10000000", "--url", url)
    assert "━━━━━" in client.stdout
    assert "100%" in client.stdout
    assert "664,579 primes\n" in client.stdout
    assert (client.returncode, client.stderr) == (0, "")


def test_ctrl_c_ends_the_client_and_the_job_and_nobody_else(server: Any, start: Start, run: Run, url: str) -> None:
    client = start("progress/progress_client.py", FOREVER, "--url", url)
    client.output.expect("0 %: 82,025 primes below 1,048,576")
    other = start("progress/progress_client.py", "30000000", "--url", url)
    other.output.expect(" primes below ")
    client.popen.send_signal(signal.SIGINT)
    assert client.wait() == 130
    assert client.complaints.rest() == ["cancelled"]
    assert len(client.output.rest()) == 1
    server.complaints.expect(": stopped at ")
    assert other.wait() == 0
    assert other.output.rest()[-1].startswith("1,857,859 primes below 30,000,000, ")
    assert run("progress/progress_client.py", "100", "--url", url).stdout.splitlines()[0] == (
        "100 %: 25 primes below 100"
    )
    server.popen.terminate()
    assert server.wait() == 0
    assert server.output.rest()[-1] == "stopped"
    assert not [line for line in server.complaints.rest() if "Traceback" in line or "error id" in line]


def test_the_job_of_a_client_that_is_killed_stops(server: Any, start: Start, url: str) -> None:
    client = start("progress/progress_client.py", FOREVER, "--url", url)
    client.output.expect("0 %: ")
    client.popen.kill()
    assert "the peer" in server.complaints.expect(": stopped at ")


def test_a_server_that_stops_gives_no_half_result(server: Any, start: Start, url: str) -> None:
    client = start("progress/progress_client.py", FOREVER, "--url", url)
    client.output.expect("0 %: ")
    server.popen.terminate()
    assert client.wait() == 1
    assert len(client.output.rest()) == 1
    (complaint,) = client.complaints.rest()
    assert complaint.startswith(("Stopped: stopped at ", "ConnectionLost: ", "OutcomeUnknown: "))
    assert server.wait() == 0
    assert not [line for line in server.complaints.rest() if "Traceback" in line or "error id" in line]


@pytest.mark.parametrize("limit", ["-1", "1000000000001"])
def test_a_limit_that_is_out_of_range_is_refused(run: Run, url: str, limit: str) -> None:
    client = run("progress/progress_client.py", "--url", url, "--", limit)
    text = f"ValueError: limit must be from 0 to 1,000,000,000,000, not {int(limit):,}\n"
    assert (client.stdout, client.stderr, client.returncode) == ("", text, 1)


def test_the_sieve_counts_primes_whatever_the_size_of_its_pieces() -> None:
    program = (
        "from sieve import primes_below\n"
        "for piece in (1, 2, 3, 7, 10, 1000):\n"
        "    for limit in range(200):\n"
        "        primes = sum(all(n % d for d in range(2, n)) for n in range(2, limit))\n"
        "        *_, last = (0, 0), *primes_below(limit, piece)\n"
        "        assert last == (limit, primes), (limit, piece, last)\n"
        "print(*primes_below(30, 10))\n"
    )
    folder = Path(__file__).resolve().parents[2] / "examples" / "progress"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == "(10, 4) (20, 8) (30, 10)\n"
