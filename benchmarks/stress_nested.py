"""Calls that are nested up to 60 deep, from many threads at both ends of one connection at once.

::

    python benchmarks/stress_nested.py --trips 120

Two processes; each trip goes back and forth between them, with callbacks and now and then a large payload on the way,
and its result is known before. If nothing moves any more, both processes print all their stacks, and end.
"""

import argparse
import os
import sys
from time import perf_counter

from processes import Process
from relay import Referee, Relay, Report, Runners, Watchdog, report_of

from typedrpc import connect


def run(threads: int, trips: int, most_legs: int) -> tuple[Report, Report]:
    """Have so many threads at each end make so many trips each: how it went here and there."""
    relay = Relay()
    with Process("serve_relay.py") as server, connect(server.first_line, expose=[relay]) as client:
        referee, there = client.proxy(Referee), client.proxy(Relay)
        other = referee.start(threads, trips, most_legs, os.getpid())
        watchdog = Watchdog(relay, lambda: [client.peer.link], other)
        runners = Runners(relay, lambda: there, threads, trips, most_legs)
        runners.start()
        runners.wait()
        report = referee.finish()
        watchdog.end()
        return report_of(relay, runners), report


def main() -> int:
    parser = argparse.ArgumentParser(description="Nested calls from many threads at both ends of one connection.")
    parser.add_argument("--threads", type=int, default=16, help="at each end (16)")
    parser.add_argument("--trips", type=int, default=120, help="of each thread (120)")
    parser.add_argument("--legs", type=int, default=60, help="the longest trip (60)")
    arguments = parser.parse_args()
    start = perf_counter()
    here, there = run(arguments.threads, arguments.trips, arguments.legs)
    calls = here.handled + there.handled
    print(f"{calls:,} calls in {perf_counter() - start:.1f} s; threads {here.most_threads} and {there.most_threads}")
    for error in here.errors + there.errors:
        print(error)
    return 1 if here.errors or there.errors else 0


if __name__ == "__main__":
    sys.exit(main())
