"""Calls that must not run twice, over connections that are cut at random: each runs once or not at all, and its caller
knows which, or is told that nobody does."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Final, Literal, TypeAlias

import pytest

from tests.ends import LOOPS, THREADS, Colours
from tests.proxy import Plan, Proxy
from tests.support import run_all
from typedrpc import ConnectFailed, ConnectionLost, OutcomeUnknown, Retry, Service, aio, rpc

Belief: TypeAlias = Literal["ran", "did not run", "unknown"]

CALLS: Final = 10_000
CALLERS: Final = 8
FEWEST_CUTS: Final = 30

pytestmark = [pytest.mark.timeout(240), pytest.mark.unmeasured]

RETRY: Final = Retry(first_delay=0.001, max_delay=0.02, total=600)


class Ledger(Service):
    """Books numbers, and knows how often it has booked each."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.booked: Counter[int] = Counter()

    @rpc
    def book(self, number: int) -> int:
        with self.lock:
            self.booked[number] += 1
        return -number

    @rpc
    async def book_soon(self, number: int) -> int:
        self.book(number)
        await asyncio.sleep(0)
        return -number

    @rpc(idempotent=True)
    def look(self, number: int) -> int:
        with self.lock:
            self.booked[number] += 1
        return -number


def cuts(seed: int, most: int = 6000) -> Callable[[], tuple[Plan, Plan]]:
    """Each connection is cut at another byte, of the way there or of the way back, and at most after so many."""
    dice = random.Random(seed)

    def plans() -> tuple[Plan, Plan]:
        cut = Plan(cut_after=dice.randrange(20, most), reset=dice.random() < 0.5)
        return (cut, Plan()) if dice.random() < 0.5 else (Plan(), cut)

    return plans


def belief_of(book: Callable[[int], int], number: int) -> Belief:
    try:
        assert book(number) == -number
    except OutcomeUnknown:
        return "unknown"
    except (ConnectionLost, ConnectFailed):
        return "did not run"
    return "ran"


def check(ledger: Ledger, believed: dict[int, Belief]) -> Counter[Belief]:
    """Whether each call ran as often as its caller believes. The server is closed: nothing runs any more."""
    for number, belief in believed.items():
        runs = ledger.booked[number]
        assert runs in {"ran": {1}, "did not run": {0}, "unknown": {0, 1}}[belief], (number, belief, runs)
    assert ledger.booked.keys() <= believed.keys()
    return Counter(believed.values())


@pytest.fixture(params=(THREADS, LOOPS), ids=" ".join)
def colours(request: pytest.FixtureRequest) -> Colours:
    return Colours(*request.param)


def book_all(numbers: Iterator[int], book: Callable[[int], int]) -> dict[int, Belief]:
    return {number: belief_of(book, number) for number in numbers}


def book_from_threads(book: Callable[[int], Callable[[int], int]]) -> list[dict[int, Belief]]:
    """Book all numbers, from several threads at once.

    Args:
        book: Gives each thread, by its index, what it books with.
    """
    jobs = [partial(book_all, share(index), book(index)) for index in range(CALLERS)]
    return run_all(jobs, patience=200.0)


def share(index: int) -> Iterator[int]:
    """The numbers that one of the callers books."""
    return iter(range(index, CALLS, CALLERS))


def test_a_client_that_tries_again_never_has_a_call_run_twice(colours: Colours) -> None:
    ledger = Ledger()
    with Proxy("tcp://") as proxy:
        with colours.serve(ledger) as server:
            proxy.target = server.url
            proxy.plan_each(cuts(1))
            with colours.connect(Ledger, proxy.url, retry=RETRY) as remote:
                forms: list[Callable[[int], int]] = [remote.book, lambda number: remote.book.submit(number).result(60)]
                results = book_from_threads(lambda index: forms[index % 2])
        assert sum(passage.was_cut for passage in proxy.passages) > FEWEST_CUTS
    believed: dict[int, Belief] = {number: belief for result in results for number, belief in result.items()}
    assert check(ledger, believed) == {"ran": CALLS}


def test_a_client_that_gives_up_soon_knows_what_it_can_know(colours: Colours) -> None:
    """One attempt may have run, and the next one reach nobody, or a server that accepts nothing."""
    ledger = Ledger()
    with Proxy("tcp://") as proxy:
        with colours.serve(ledger) as server:
            proxy.target = server.url
            with colours.connect(Ledger, proxy.url, retry=Retry(attempts=2, first_delay=0.001)) as remote:
                proxy.plan_each(cuts(5, 900))
                proxy.cut()
                forms: list[Callable[[int], int]] = [remote.book, lambda number: remote.book.submit(number).result(60)]
                results = book_from_threads(lambda index: forms[index % 2])
        assert sum(passage.was_cut for passage in proxy.passages) > FEWEST_CUTS
    believed: dict[int, Belief] = {number: belief for result in results for number, belief in result.items()}
    beliefs = check(ledger, believed)
    assert beliefs["ran"] > 0
    assert beliefs["unknown"] > 0


def test_a_client_that_does_not_try_again_knows_what_it_can_know(colours: Colours) -> None:
    ledger = Ledger()
    with Proxy("tcp://") as proxy:
        with colours.serve(ledger) as server:
            proxy.target = server.url
            proxy.plan_each(cuts(2))
            while True:
                try:
                    client = colours.connect(Ledger, proxy.url)
                    remote = client.__enter__()
                    break
                except (ConnectFailed, ConnectionLost):
                    continue
            try:
                results = book_from_threads(lambda index: remote.book)
            finally:
                client.__exit__(None, None, None)
        assert sum(passage.was_cut for passage in proxy.passages) > FEWEST_CUTS
    believed: dict[int, Belief] = {number: belief for result in results for number, belief in result.items()}
    beliefs = check(ledger, believed)
    assert beliefs["ran"] > CALLS // 2
    assert beliefs["unknown"] > 0


def test_tasks_that_try_again() -> None:
    """The same on one event loop, where calls are awaited, by plain and by async handlers."""
    ledger = Ledger()
    believed: dict[int, Belief] = {}

    async def book(remote: Ledger, numbers: Iterator[int]) -> None:
        for number in numbers:
            form = remote.book.aio if number % 3 else remote.book_soon
            try:
                assert await form(number) == -number
                believed[number] = "ran"
            except OutcomeUnknown:
                believed[number] = "unknown"

    async def main(proxy: Proxy) -> None:
        async with aio.Server(ledger, url="tcp://127.0.0.1:0") as server:
            proxy.target = server.url
            proxy.plan_each(cuts(3))
            async with aio.connect(Ledger, proxy.url, retry=RETRY) as remote:
                await asyncio.gather(*(book(remote, share(index)) for index in range(CALLERS)))

    with Proxy("tcp://") as proxy:
        asyncio.run(main(proxy))
        assert sum(passage.was_cut for passage in proxy.passages) > FEWEST_CUTS
    assert check(ledger, believed) == {"ran": CALLS}


def test_what_may_run_twice_always_has_its_answer(colours: Colours) -> None:
    ledger = Ledger()
    numbers = count()
    with Proxy("tcp://") as proxy:
        with colours.serve(ledger) as server:
            proxy.target = server.url
            proxy.plan_each(cuts(4))
            with colours.connect(Ledger, proxy.url, retry=RETRY) as remote:
                while sum(passage.was_cut for passage in tuple(proxy.passages)) < FEWEST_CUTS:
                    number = next(numbers)
                    assert remote.look(number) == -number
    assert all(ledger.booked[number] >= 1 for number in range(next(numbers)))
