"""A server in a row of servers: prints its url, and serves a stage until its standard input ends."""

import argparse
import contextlib

from processes import end_with_input
from stage import Stage

from typedrpc import Server, connect


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--next", help="the url of the next server")
    arguments = parser.parse_args()
    end_with_input()
    with contextlib.ExitStack() as stack:
        behind = None
        if arguments.next:
            behind = stack.enter_context(connect(arguments.next)).proxy(Stage)
        server = stack.enter_context(Server(Stage(behind), url="tcp://127.0.0.1:0"))
        print(server.url, flush=True)
        server.wait()


if __name__ == "__main__":
    main()
