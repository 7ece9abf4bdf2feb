"""Promises about calls in both directions: handlers that call their callers, and threads that wait meanwhile."""

from statistics import median
from time import perf_counter

from figures import Figure
from processes import Process
from relay import Referee, Relay
from stress_nested import run

from typedrpc import connect

THREADS = 16
TRIPS = 110
LEGS = 60
MOST_THREADS = 100
CALLS = 100_000
REPLY_LIMIT = 250.0


def nested(quick: bool) -> list[Figure]:
    """Calls that go to and fro, from many threads at both ends of one connection at once."""
    start = perf_counter()
    reports = run(THREADS, 1 if quick else TRIPS, LEGS)
    seconds = perf_counter() - start
    errors = [error for report in reports for error in report.errors]
    return [
        Figure(
            promise=f"calls nested 1 to {LEGS} deep, {THREADS} threads at both ends: answered",
            measured=sum(report.handled for report in reports),
            limit=CALLS,
            at_least=True,
            note=f"with callbacks and large payloads, in {seconds:.0f} s",
            fault=f"{len(errors)} ended otherwise: {errors[0]}" if errors else "",
        ),
        Figure(
            promise="the most threads in a process meanwhile",
            measured=max(report.most_threads for report in reports),
            limit=MOST_THREADS,
        ),
    ]


def unrelated(quick: bool) -> list[Figure]:
    """A thread that waits for its own reply runs nothing else."""
    seconds = 0.5 if quick else 5.0
    relay = Relay()
    times: list[float] = []
    with Process("serve_relay.py") as server, connect(server.first_line, expose=[relay]) as client:
        referee, there = client.proxy(Referee), client.proxy(Relay)
        end = perf_counter() + seconds
        referee.send_to_rest(seconds)
        relay.resting.wait()
        while (start := perf_counter()) < end - 0.2:
            there.rest(0.1)
            times.append(1000 * (perf_counter() - start))
    promise = f"a reply of 100 ms, while a request takes {seconds:g} s at the caller's side"
    note = f"the slowest of {len(times)}; median {median(times):.0f} ms"
    return [Figure(promise=promise, measured=max(times), unit="ms", limit=REPLY_LIMIT, note=note)]
