"""The threads that handle what comes: that work is never left lying, whoever is stuck."""

import socket
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from threading import get_ident
from typing import Any, cast

import pytest

from tests.support import PATIENCE, Running
from typedrpc.callbacks import Callbacks
from typedrpc.common.role import ReadRole
from typedrpc.dispatch import Dispatcher
from typedrpc.messages import Hello, Limits
from typedrpc.protocol import Protocol
from typedrpc.service import Table
from typedrpc.sync.handling import HandlerThreads
from typedrpc.sync.writer import Writer

pytestmark = pytest.mark.usefixtures("no_leaks")

URL = "tcp://127.0.0.1:0"


class Pool:
    """Stands for the threads to lend and for their watcher: writes down what is asked, and runs it when told to."""

    def __init__(self, limit: int = 64) -> None:
        self.asked: list[str] = []
        self.bodies: list[Callable[[], None]] = []
        self.limit = limit

    def start(self, body: Callable[[], None]) -> None:
        self.asked.append("start")
        self.bodies.append(body)

    def lend(self, body: Callable[[], None]) -> bool:
        if self.limit <= 0:
            return False
        self.limit -= 1
        self.asked.append("lend")
        self.bodies.append(body)
        return True

    def watch(self, connection: object) -> None:
        self.asked.append("watch")


class Bare:
    """Handler threads of no connection; what is ready is done, and nothing is there to be read."""

    watched = False

    def __init__(self, *, limit: int = 64, wanted: bool = False) -> None:
        self.pool = Pool(limit)
        self.role = ReadRole()
        self.ours, self.other = socket.socketpair()
        self.ours.settimeout(PATIENCE)
        core: Protocol[Any] = Protocol(client=False, hello=Hello(Limits()))
        nothing: Any = lambda *arguments: None  # noqa: E731
        writer = Writer(
            self.ours,
            self.role,
            may_read_ahead=lambda: False,
            read_ahead=nothing,
            nothing_came=nothing,
            end=nothing,
            stop_leading=self.role.release,
            leave=nothing,
            helper=nothing,
        )
        self.handlers = HandlerThreads(
            core,
            self.role,
            writer,
            read=nothing,
            read_now=nothing,
            readable=lambda: False,
            stop_leading=self.role.release,
            fault=nothing,
            runtime=lambda: cast(Any, (self.pool, self.pool)),
            watched=cast(Any, self),
            dispatcher=Dispatcher(Table(())),
            peer=cast(Any, None),
            attended=wanted,
            callbacks=Callbacks(),
            run_apart=nothing,
        )

    def look(self, now: float) -> float | None:
        return self.handlers.look_for_stall()

    def run_next(self) -> Running[None]:
        return Running(self.pool.bodies.pop(0))


@pytest.fixture
def bare() -> Iterator[Bare]:
    bare = Bare()
    yield bare
    bare.ours.close()
    bare.other.close()


class TestAttach:
    def test_the_first_is_started_and_only_one(self, bare: Bare) -> None:
        for _ in range(3):
            bare.handlers.attach()
        assert bare.pool.asked == ["start"]
        bare.run_next().result()  # finds nothing to do, and leaves
        bare.handlers.attach()
        assert bare.pool.asked == ["start", "start"]
        bare.run_next().result()

    def test_for_a_thread_that_stands_aside_another_comes_once(self, bare: Bare) -> None:
        """However deep the calls are nested in which it stands aside."""
        done: list[str] = []

        def nested(levels: int) -> None:
            mine = bare.handlers.step_aside()
            assert mine is (levels == 20)
            if levels:
                nested(levels - 1)
            else:
                for name in ("first", "second", "third"):
                    bare.handlers.ready.append(partial(done.append, name))
                    bare.handlers.call_for_help()
                assert bare.pool.asked.count("lend") == 1
                bare.run_next().result()
                assert done == ["first", "second", "third"]
                bare.handlers.attach()
                assert bare.pool.asked.count("lend") == 2
                bare.run_next().result()
            if mine:
                bare.handlers.step_back()

        bare.handlers.ready.append(partial(nested, 20))
        bare.handlers.attach()
        bare.run_next().result()
        assert done == ["first", "second", "third"]
        assert bare.pool.bodies == []

    def test_what_is_ready_when_a_thread_steps_aside_is_for_another(self, bare: Bare) -> None:
        done: list[int] = []

        def stand_aside() -> None:
            assert bare.handlers.step_aside()
            helper = bare.run_next()
            helper.result()
            assert len(done) == 1
            assert done != [get_ident()]
            bare.handlers.step_back()

        bare.handlers.ready.extend((stand_aside, lambda: done.append(get_ident())))
        bare.handlers.attach()
        bare.run_next().result()
        assert len(done) == 1

    def test_who_is_not_attached_does_not_stand_aside(self, bare: Bare) -> None:
        assert not bare.handlers.step_aside()
        assert bare.pool.asked == []

    def test_where_none_is_left_the_thread_itself_comes_back_to_it(self) -> None:
        bare = Bare(limit=0)
        done: list[int] = []

        def stand_aside() -> None:
            assert bare.handlers.step_aside()
            bare.handlers.ready.append(lambda: done.append(get_ident()))
            bare.handlers.call_for_help()
            assert bare.pool.bodies == []
            bare.handlers.step_back()

        bare.handlers.ready.append(stand_aside)
        bare.handlers.attach()
        attached = bare.run_next()
        attached.result()
        assert done == [attached.thread.ident]
        bare.ours.close()
        bare.other.close()

    def test_who_is_interrupted_while_a_thread_is_started_leaves_no_trace(self, bare: Bare) -> None:
        def interrupt(body: Callable[[], None]) -> None:
            bare.pool.bodies.append(body)
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bare.pool, "start", interrupt)
            with pytest.raises(KeyboardInterrupt):
                bare.handlers.attach()
        bare.run_next().result()  # it was begun all the same, and finds that it is not counted
        bare.handlers.attach()
        assert bare.pool.asked == ["start"]
        bare.run_next().result()
        bare.handlers.attach()
        assert bare.pool.asked == ["start", "start"]


class TestWhenOver:
    def test_it_is_told_once_when_all_has_been_done(self, bare: Bare) -> None:
        told: list[str] = []
        bare.handlers.when_over(lambda: told.append("over"))
        assert told == []

        def work() -> None:
            bare.handlers.end()
            assert told == []

        bare.handlers.ready.append(work)
        bare.handlers.attach()
        bare.run_next().result()
        assert told == ["over"]
        bare.handlers.end()
        assert told == ["over"]

    def test_it_is_told_at_once_when_it_is_over_already(self, bare: Bare) -> None:
        told: list[str] = []
        bare.handlers.end()
        bare.handlers.when_over(lambda: told.append("over"))
        assert told == ["over"]

    def test_what_runs_nested_is_waited_for(self, bare: Bare) -> None:
        told: list[str] = []
        bare.handlers.when_over(lambda: told.append("over"))
        bare.handlers.busy.append(None)
        bare.handlers.end()
        assert told == []
        assert bare.handlers.run_nested(deque()) is None
        assert told == []
        bare.handlers.busy.pop()
        assert bare.handlers.run_nested(deque()) is None
        assert told == ["over"]

    def test_what_is_ready_at_the_end_is_done_first(self, bare: Bare) -> None:
        told: list[str] = []
        bare.handlers.when_over(lambda: told.append("over"))
        bare.handlers.ready.append(lambda: told.append("done"))
        bare.handlers.end()
        assert told == []
        bare.run_next().result()
        assert told == ["done", "over"]
