"""The server process of the benchmarks: prints its url, and serves the workload until its standard input ends."""

import argparse
import logging

from processes import end_with_input
from workload import LARGE_MESSAGE, Workload, pin, warning_counter

from typedrpc import Server


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cpu", type=int)
    parser.add_argument("--large", action="store_true", help="accept messages of 256 MiB")
    parser.add_argument("--url", default="tcp://127.0.0.1:0")
    parser.add_argument("--handshake-timeout", type=float, default=10.0)
    parser.add_argument("--max-workers", type=int, default=64)
    arguments = parser.parse_args()
    pin(arguments.cpu)
    end_with_input()
    # What it says of the peers that misbehave on purpose is counted, not shown.
    library = logging.getLogger("typedrpc")
    library.addHandler(warning_counter)
    library.propagate = False
    server = Server(
        Workload(),
        url=arguments.url,
        max_message_size=LARGE_MESSAGE if arguments.large else 16 * 1024 * 1024,
        handshake_timeout=arguments.handshake_timeout,
        max_workers=arguments.max_workers,
    )
    with server:
        print(server.url, flush=True)
        server.wait()


if __name__ == "__main__":
    main()
