"""Counts primes for whoever asks, and tells how far it is by calling the caller's function.

::

    python examples/progress/progress_server.py
    python examples/progress/progress_client.py 300000000      # and press Ctrl-C before it is done
"""

import argparse
import logging
from collections.abc import Callable

from progress_contract import Primes, Progress, Stopped
from sieve import primes_below

from typedrpc import CallCancelled, ConnectionLost, RemoteError, Server, current_call, rpc, serve

logger = logging.getLogger("primes")

MAX_LIMIT = 10**12


class SievedPrimes(Primes):
    @rpc
    def count(self, limit: int, report: Callable[[Progress], None]) -> int:
        if not 0 <= limit <= MAX_LIMIT:
            raise ValueError(f"limit must be from 0 to {MAX_LIMIT:,}, not {limit:,}")
        peer = current_call().peer
        logger.info("%s: counting the primes below %s", peer, f"{limit:,}")
        primes = 0
        for below, primes in primes_below(limit):
            try:
                # A call back to the caller, who is waiting for this one: it returns when his function has.
                report(Progress(below, primes))
            except (CallCancelled, ConnectionLost, RemoteError) as error:
                # He has given the call up, as Ctrl-C does, or is gone, or his function fails: nobody wants the rest. Or
                # this server is closing, and he is still there to be told.
                stopped = Stopped(below, str(error))
                logger.info("%s: %s", peer, stopped)
                raise stopped from error
        logger.info("%s: done", peer)
        return primes


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve counting of primes until Ctrl-C or SIGTERM.")
    parser.add_argument("--url", default="tcp://127.0.0.1:9030", help="where to listen (%(default)s)")
    parser.add_argument(
        "--grace", type=float, default=5.0, help="seconds that counting may go on when the server stops (%(default)g)"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("typedrpc").setLevel(logging.WARNING)

    def on_start(server: Server) -> None:
        print(f"serving Primes at {server.url}", flush=True)

    serve(SievedPrimes(), url=arguments.url, on_start=on_start, grace=arguments.grace)
    print("stopped", flush=True)


if __name__ == "__main__":
    main()
