"""Has a server count primes, with a bar that shows how far it is. Ctrl-C ends it.

::

    python examples/progress/progress_client.py 300000000
"""

import argparse
import sys
import time

from progress_contract import Primes, Progress, Stopped
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from typedrpc import RpcError, connect

CANCELLED = 130
"""What shells take for the exit code of a program that Ctrl-C has ended: 128 and the number of SIGINT."""


def count_with_bar(primes: Primes, limit: int, console: Console) -> int:
    columns = BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
    with Bar(*columns, console=console, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task("", total=limit)

        def report(progress: Progress) -> None:
            bar.update(task, completed=progress.below, description=f"{progress.primes:,} primes")

        # The server calls `report` while this call waits, and it runs right here, in this thread.
        return primes.count(limit, report)


def count_with_lines(primes: Primes, limit: int) -> int:
    """For a file or a pipe, where a bar cannot be drawn: a line for each tenth that is done."""
    tenths = -1

    def report(progress: Progress) -> None:
        nonlocal tenths
        if progress.below * 10 // limit > tenths:
            tenths = progress.below * 10 // limit
            print(f"{tenths * 10:3} %: {progress.primes:,} primes below {progress.below:,}", flush=True)

    return primes.count(limit, report)


def main() -> int:
    parser = argparse.ArgumentParser(description="Count primes.")
    parser.add_argument("limit", type=int, help="count those below this number")
    parser.add_argument("--url", default="tcp://127.0.0.1:9030", help="what progress_server.py printed (%(default)s)")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds to wait for the server (%(default)s)")
    arguments = parser.parse_args()
    limit: int = arguments.limit
    console = Console()
    started = time.perf_counter()
    try:
        with connect(Primes, arguments.url, timeout=arguments.timeout) as primes:
            count = count_with_bar(primes, limit, console) if console.is_terminal else count_with_lines(primes, limit)
    except KeyboardInterrupt:
        # The connection is closed by now, which the server's job finds out the next time it wants to report.
        print("cancelled", file=sys.stderr)
        return CANCELLED
    except (RpcError, Stopped, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"{count:,} primes below {limit:,}, counted in {time.perf_counter() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
