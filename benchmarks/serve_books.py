"""A server that keeps books, until SIGTERM; prints its url, and at its end how often it has booked what."""

import argparse
import asyncio
import json
import threading
from collections import Counter

from typedrpc import Service, aio, rpc, serve


class Books(Service):
    """Books numbers."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.booked: Counter[int] = Counter()

    @rpc
    def book(self, number: int) -> int:
        with self.lock:
            self.booked[number] += 1
        return -number

    @rpc(idempotent=True)
    def double(self, number: int) -> int:
        return 2 * number


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--asyncio", action="store_true")
    arguments = parser.parse_args()
    books = Books()

    def tell(server: object) -> None:
        print(getattr(server, "url", ""), flush=True)

    if arguments.asyncio:
        asyncio.run(aio.serve(books, url=arguments.url, on_start=tell))
    else:
        serve(books, url=arguments.url, on_start=tell)
    print(json.dumps([*books.booked.items()]), flush=True)


if __name__ == "__main__":
    main()
