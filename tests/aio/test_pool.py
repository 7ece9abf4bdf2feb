"""The threads of plain handlers: so many at a time, and the others in line."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import pytest

from tests.support import PATIENCE, Gate, Gates, Tally
from typedrpc.aio.pool import STALL_TIME, Pool
from typedrpc.common.workers import Workers

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers("under-test", 64)
    yield workers
    assert workers.close(PATIENCE) == 0


class Held:
    """Jobs that wait until they are let go, and write down when they began."""

    def __init__(self) -> None:
        self.gates = Gates()
        self.tally = Tally()
        self.began: list[int] = []

    def job(self, number: int) -> None:
        self.began.append(number)
        with self.tally.running():
            self.gates[str(number)].wait()

    def wait_for(self, number: int) -> None:
        """Wait until so many have begun, in all."""
        self.tally.wait_for("running, begun", number)


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.gates.open_all()


def fill(pool: Pool, held: Held, count: int) -> None:
    for number in range(count):
        pool.run(lambda number=number: held.job(number))  # type: ignore[misc]


def test_so_many_run_at_a_time_and_the_others_in_the_order_in_which_they_came(workers: Workers, held: Held) -> None:
    pool = Pool(workers, 2)
    fill(pool, held, 6)
    held.wait_for(2)
    assert sorted(held.began) == [0, 1]
    for number in range(6):
        held.gates[str(number)].open()
        held.wait_for(min(number + 3, 6))
        assert held.began[2:] == list(range(2, min(number + 3, 6)))


@pytest.mark.parametrize("limit", [0, 1])
def test_there_is_always_one(limit: int, workers: Workers, held: Held) -> None:
    pool = Pool(workers, limit)
    fill(pool, held, 2)
    held.wait_for(1)
    held.gates["0"].open()
    held.wait_for(2)
    assert held.began == [0, 1]


class Loop:
    """Stands for a loop that turns when a test says so; and what is refused on it."""

    def __init__(self) -> None:
        self.refused: list[int] = []
        self._soon: list[Callable[[], None]] = []
        self._later: list[Callable[[], None]] = []

    def call_soon_threadsafe(self, function: Callable[..., None], *args: object) -> None:
        self._soon.append(partial(function, *args))

    def call_later(self, delay: float, function: Callable[..., None], *args: object) -> None:
        assert delay == STALL_TIME
        self._later.append(partial(function, *args))

    def turn(self) -> None:
        """Let the time pass after which somebody looks, once."""
        for due in (self._soon, self._later):
            taken = due.copy()
            due.clear()
            for function in taken:
                function()

    def run(self, pool: Pool, job: Callable[[], None], number: int) -> None:
        pool.run_first(job, lambda: self.refused.append(number), cast("asyncio.AbstractEventLoop", self))


def test_what_must_not_wait_goes_first_and_is_refused_where_nothing_moves(workers: Workers, held: Held) -> None:
    pool, loop = Pool(workers, 1), Loop()
    fill(pool, held, 2)
    held.wait_for(1)
    loop.run(pool, lambda: held.job(2), 2)
    loop.run(pool, lambda: held.job(3), 3)
    held.gates["0"].open()
    held.wait_for(2)
    assert held.began == [0, 2]
    loop.turn()  # one has ended meanwhile
    assert loop.refused == []
    loop.turn()
    assert loop.refused == [3]
    held.gates["2"].open()
    held.wait_for(3)
    assert held.began == [0, 2, 1]
    held.gates["1"].open()
    loop.turn()
    assert loop.refused == [3]


def test_what_must_not_wait_runs_at_once_where_a_thread_is_free(workers: Workers, held: Held) -> None:
    pool, ran, loop = Pool(workers, 1), Gate(), Loop()
    loop.run(pool, ran.open, 1)
    ran.wait()
    loop.turn()
    assert loop.refused == []


def test_a_job_that_ends_its_thread_leaves_its_place_to_the_next(
    workers: Workers, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    died = Gate()
    monkeypatch.setattr(threading, "excepthook", lambda raised: died.open())
    pool, ended = Pool(workers, 1), Gate()
    go = Gate()

    def end() -> None:
        go.wait()
        raise SystemExit

    pool.run(end)
    pool.run(ended.open)
    go.open()
    ended.wait()
    died.wait()
    ran = Gate()
    pool.run(ran.open)
    ran.wait()


def test_a_system_without_threads(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool, ran = Pool(workers, 1), Gate()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="can't start"):
                pool.run(ran.open)
    assert not ran.is_open
    pool.run(ran.open)  # the attempts took no place
    ran.wait()


def test_who_steps_aside_where_there_are_no_threads_loses_nobody(
    workers: Workers, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool, loop, go, aside = Pool(workers, 1), Loop(), Gate(), Gate()
    failures: list[BaseException] = []

    def step_aside() -> None:
        go.wait()
        try:
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", refuse)
                pool.step_aside()()
        except BaseException as error:
            failures.append(error)
        aside.open()

    pool.run(step_aside)
    pool.run(lambda: held.job(1))
    loop.run(pool, lambda: held.job(2), 2)  # before that
    held.gates["1"].open()
    held.gates["2"].open()
    go.open()
    aside.wait()
    held.wait_for(2)
    assert failures == []
    assert held.began == [2, 1]
