import logging
import threading
import weakref
from collections.abc import Callable

import pytest

from tests.support import PATIENCE, Gate, Gates, Running, until
from typedrpc.common import workers
from typedrpc.common.workers import Workers


def names() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("under-test"))


class TestWorkers:
    def test_threads_that_are_started_and_lent_are_waited_for(self) -> None:
        pool = Workers("under-test", 1)
        gates, done = Gates(), []

        def body(number: int) -> Callable[[], None]:
            def run() -> None:
                gates[f"began {number}"].open()
                gates["go"].wait()
                done.append(number)

            return run

        pool.start(body(1))
        pool.start(body(2))
        assert pool.lend(body(3))
        for number in (1, 2, 3):
            gates[f"began {number}"].wait()
        assert len(names()) == 3
        gates["go"].open()
        assert pool.close(PATIENCE) == 0
        assert sorted(done) == [1, 2, 3]
        assert names() == []

    def test_a_thread_that_waits_for_work_keeps_nothing_of_what_it_has_done(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(workers, "LINGER", 10 * PATIENCE)
        pool = Workers("under-test", 1)

        def start() -> weakref.ref[Gates]:
            kept = Gates()

            def body() -> None:
                kept["ran"].open()

            pool.start(body)
            return weakref.ref(kept)

        def is_idle() -> bool:
            return pool._idle == 1

        try:
            for _ in range(2):  # in a new thread, and in one that has waited
                kept = start()
                until(lambda kept=kept: kept() is None)  # type: ignore[misc]
                until(is_idle)
            assert len(names()) == 1
        finally:
            assert pool.close(PATIENCE) == 0

    def test_no_more_are_lent_than_the_limit(self, caplog: pytest.LogCaptureFixture) -> None:
        pool = Workers("under-test", 2)
        gate, began = Gate(), threading.Semaphore(0)

        def body() -> None:
            began.release()
            gate.wait()

        assert pool.lend(body)
        assert pool.lend(body)
        assert not pool.lend(body)
        assert not pool.lend(body)
        assert [record.getMessage()[:46] for record in caplog.records] == [
            "all 2 threads that may be lent are busy: calls"
        ]
        pool.start(body)  # what a connection has of its own does not count
        for _ in range(3):
            assert began.acquire(timeout=PATIENCE)
        gate.open()
        assert pool.close(PATIENCE) == 0

    def test_an_idle_thread_is_lent_again(self) -> None:
        pool = Workers("under-test", 1)
        used: list[str] = []
        try:
            for _ in range(20):
                ran = Gate()

                def body(ran: Gate = ran) -> None:
                    used.append(threading.current_thread().name)
                    ran.open()

                # The thread counts as lent for a moment after the gate has opened.
                assert any(pool.lend(body) for _ in range(1_000_000))
                ran.wait()
        finally:
            assert pool.close(PATIENCE) == 0
        assert set(used) == {"under-test-1"}

    def test_an_idle_thread_is_started_again_for_a_connection(self) -> None:
        """What a connection has of its own, and what is lent, are the same threads in turn."""
        pool = Workers("under-test", 1)
        used: list[str] = []
        try:
            for number in range(20):
                # It is not idle yet when the gate has opened.
                until(lambda number=number: pool._idle >= bool(number), "an idle thread")  # type: ignore[misc]
                ran = Gate()

                def body(ran: Gate = ran) -> None:
                    used.append(threading.current_thread().name)
                    ran.open()

                if number % 2:
                    pool.start(body)
                else:
                    assert pool.lend(body)
                ran.wait()
        finally:
            assert pool.close(PATIENCE) == 0
        assert set(used) == {"under-test-1"}

    def test_what_is_started_beside_a_thread_that_is_meant_already_has_one_of_its_own(self) -> None:
        """An idle thread that was given something to do, and has not begun, is given nothing else."""
        pool = Workers("under-test", 5)
        first = Gate()
        pool.start(first.open)
        first.wait()
        until(lambda: pool._idle == 1, "an idle thread")
        meeting = threading.Barrier(4)

        def meet() -> None:
            meeting.wait(PATIENCE)

        for _ in range(3):
            pool.start(meet)
        meeting.wait(PATIENCE)
        assert pool.close(PATIENCE) == 0

    def test_a_body_that_raises_does_not_stay_lent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(threading, "excepthook", lambda raised: None)
        pool = Workers("under-test", 1)

        def fail() -> None:
            raise SystemExit

        for _ in range(3):
            assert any(pool.lend(fail) for _ in range(1_000_000))
        ran = Gate()
        assert any(pool.lend(ran.open) for _ in range(1_000_000))
        ran.wait()
        assert pool.close(PATIENCE) == 0

    def test_an_idle_thread_ends_after_a_while(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(workers, "LINGER", 0.001)
        pool = Workers("under-test", 1)
        threads: list[threading.Thread] = []
        assert pool.lend(lambda: threads.append(threading.current_thread()))
        for thread in threading.enumerate():
            if thread.name == "under-test-1":
                thread.join(PATIENCE)
        assert len(threads) == 1
        assert not threads[0].is_alive()
        assert pool.close(0) == 0

    def test_closed_it_lends_nothing(self) -> None:
        pool = Workers("under-test", 5)
        assert pool.close(0) == 0
        assert not pool.lend(lambda: None)

    def test_closing_gives_up_on_who_goes_on(self) -> None:
        pool = Workers("under-test", 5)
        gate = Gate()
        pool.start(gate.wait)
        assert pool.close(0) == 1
        gate.open()
        assert pool.close(PATIENCE) == 0

    def test_closing_from_one_of_its_threads(self) -> None:
        pool = Workers("under-test", 5)
        left: list[int] = []
        closed = Gate()

        def body() -> None:
            left.append(pool.close(PATIENCE))
            closed.open()

        pool.start(body)
        closed.wait()
        assert left == [0]
        assert pool.close(PATIENCE) == 0

    def test_a_system_without_threads(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        pool = Workers("under-test", 1)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with caplog.at_level(logging.WARNING, "typedrpc"):
                assert not pool.lend(lambda: None)
            with pytest.raises(RuntimeError):
                pool.start(lambda: None)
        assert [record.getMessage() for record in caplog.records] == [
            "no thread could be started; calls wait until one is free"
        ]
        ran = Gate()
        assert pool.lend(ran.open)  # the attempt did not use the limit up
        ran.wait()
        assert pool.close(PATIENCE) == 0


class TestTasks:
    def test_they_are_waited_for(self) -> None:
        pool = Workers("under-test", 1)
        pool.task_began()
        closing = Running(pool.close, PATIENCE)
        until(lambda: pool._closed, "the pool to be closed")
        assert not closing.done
        pool.task_ended()
        assert closing.result() == 0

    def test_those_that_go_on_are_counted(self) -> None:
        pool = Workers("under-test", 1)
        pool.task_began()
        assert pool.close(0) == 1

    def test_nobody_waits_for_himself(self) -> None:
        """One of them closes: the thread that would have to run it is this one."""
        pool = Workers("under-test", 1)
        pool.loop_thread = threading.get_ident()
        pool.task_began()
        assert pool.close(PATIENCE) == 1
