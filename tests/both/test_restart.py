"""Servers that are restarted under load: clients with ``retry`` go on, and nobody sees an error."""

import threading
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path
from signal import SIGTERM
from typing import Any, Final

import pytest

from tests.ends import LOOPS, THREADS, Colours
from tests.support import Program, Running, Tally
from typedrpc import Retry, Service, rpc

RESTARTS: Final = 3
CALLS_BETWEEN: Final = 100
CLIENTS: Final = 3

SERVERS: Final = {
    "threads": """
        from tests.both.test_restart import Books
        from typedrpc import serve
        books = Books()
        serve(books, url={url!r}, on_start=lambda server: say(server.url), grace=20)
        say(*books.booked)
    """,
    "loop": """
        import asyncio
        from tests.both.test_restart import Books
        from typedrpc.aio import serve
        books = Books()
        asyncio.run(serve(books, url={url!r}, on_start=lambda server: say(server.url), grace=20))
        say(*books.booked)
    """,
}


class Books(Service):
    """Books numbers, and lists what it has booked."""

    def __init__(self) -> None:
        self.booked: list[int] = []

    @rpc
    def book(self, number: int) -> int:
        self.booked.append(number)
        if number % 16 == 0:
            threading.Event().wait(0.01)  # so that some run while the server is told to stop
        return -number

    @rpc(idempotent=True)
    def double(self, number: int) -> int:
        return 2 * number


@pytest.fixture(params=(THREADS, LOOPS), ids=" ".join)
def colours(request: pytest.FixtureRequest) -> Colours:
    return Colours(*request.param)


class Load:
    """Clients that call without a pause until they are stopped. The first error of one ends the test."""

    def __init__(self, connect: Callable[..., Any], urls: list[str]) -> None:
        self.sent = 0
        self.done = Tally()
        self._numbers = count(1)
        self._stopped = threading.Event()
        self._connect = connect
        self._urls = urls
        self._callers = [Running(self._call, index) for index in range(CLIENTS)]

    def _call(self, index: int) -> int:
        calls = 0
        urls = self._urls[index % len(self._urls) :] + self._urls[: index % len(self._urls)]
        with self._connect(Books, urls, retry=Retry(first_delay=0.005, max_delay=0.1)) as books:
            while not self._stopped.is_set():
                number = next(self._numbers)
                assert books.book(number) == -number
                assert books.double(number) == 2 * number
                calls += 1
                self.done.add("calls")
        return calls

    def go_on(self) -> None:
        """Until some more calls have been answered."""
        reached = self.done["calls"] + CALLS_BETWEEN
        while self.done["calls"] < reached:
            for caller in self._callers:
                if caller.done:
                    caller.result()  # raises what it has met
            threading.Event().wait(0.005)

    def stop(self) -> int:
        """How many calls of each command were made."""
        self._stopped.set()
        return sum(caller.result() for caller in self._callers)


def restart(server: Program, source: str, booked: Counter[int]) -> Program:
    """End a server as an operator does, and start another one in its place."""
    server.signal(SIGTERM)
    booked.update(map(int, server.expect_success().split()))  # exit code 0
    following = Program(source, measured=False)
    following.hear()
    return following


@pytest.mark.unmeasured
@pytest.mark.timeout(120)
@pytest.mark.parametrize("addresses", [1, 2])
def test_no_call_fails_while_servers_are_restarted(colours: Colours, tmp_path: Path, addresses: int) -> None:
    """One server that is away for a while each time, or two of which one is always there."""
    urls = [f"unix://{tmp_path}/{number}.sock" for number in range(addresses)]
    sources = [SERVERS[colours.server].format(url=url) for url in urls]
    servers = [Program(source, measured=False) for source in sources]
    booked: Counter[int] = Counter()
    try:
        for server in servers:
            server.hear()
        load = Load(colours.connect, urls)
        for number in range(RESTARTS):
            load.go_on()
            at = number % addresses
            servers[at] = restart(servers[at], sources[at], booked)
        load.go_on()
        calls = load.stop()
        for server in servers:
            server.signal(SIGTERM)
            booked.update(map(int, server.expect_success().split()))
    finally:
        for server in servers:
            server.__exit__(None, None, None)
    assert len(booked) == calls
    assert set(booked.values()) == {1}
