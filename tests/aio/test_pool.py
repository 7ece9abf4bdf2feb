"""The threads of plain handlers: so many at a time, and the others in line."""

import threading
from collections.abc import Iterator

import pytest

from tests.support import PATIENCE, Gate, Gates, Tally
from typedrpc.aio.pool import Pool
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
        assert pool.run(lambda number=number: held.job(number), may_wait=True)  # type: ignore[misc]


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


def test_who_must_not_wait_is_refused_while_all_are_busy(workers: Workers, held: Held) -> None:
    pool = Pool(workers, 1)
    fill(pool, held, 2)
    held.wait_for(1)
    assert not pool.run(lambda: held.began.append(99), may_wait=False)
    held.gates["0"].open()
    held.wait_for(2)
    assert not pool.run(lambda: held.began.append(99), may_wait=False)  # the one in line went first
    held.gates["1"].open()
    ran = Gate()
    assert any(pool.run(ran.open, may_wait=False) for _ in range(1_000_000))  # the thread counts as busy for a moment
    ran.wait()
    assert held.began == [0, 1]


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

    assert pool.run(end, may_wait=True)
    assert pool.run(ended.open, may_wait=True)
    go.open()
    ended.wait()
    died.wait()
    ran = Gate()
    assert any(pool.run(ran.open, may_wait=False) for _ in range(1_000_000))
    ran.wait()


def test_a_system_without_threads(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool, ran = Pool(workers, 1), Gate()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="can't start"):
                pool.run(ran.open, may_wait=True)
    assert not ran.is_open
    assert pool.run(ran.open, may_wait=False)  # the attempts took no place
    ran.wait()
