"""What is ready to be handled: its order, who waits for whom, and the end; the test does it, one thing at a time."""

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from tests.back_to_back import Pair, frame, frames, joined
from tests.support import Log, StubLink
from typedrpc import Service, rpc
from typedrpc.callbacks import Callbacks
from typedrpc.codec import pack_plain, unpack_plain
from typedrpc.common import handlers as module
from typedrpc.common.handlers import LATER, Handlers, Series, weight
from typedrpc.dispatch import Dispatcher
from typedrpc.messages import Limits
from typedrpc.peer import Peer
from typedrpc.protocol import Outgoing, Request
from typedrpc.service import Table
from typedrpc.wire import Kind


class Desk(Service):
    def __init__(self) -> None:
        self.notes: list[str] = []

    @rpc
    def double(self, number: int) -> int:
        return 2 * number

    @rpc
    def note(self, text: str) -> None:
        self.notes.append(text)

    @rpc
    def stop(self) -> None:
        raise SystemExit

    @rpc
    async def later(self, text: str) -> str:
        return text


class ByHand(Handlers):
    """Nobody does what is ready until the test says so."""

    def __init__(self, desk: Desk, *, max_concurrent: int | None = None, limits: Limits | None = None) -> None:
        self.pair = Pair(server=limits).open()
        self.apart: list[tuple[Any, Callable[[], None]]] = []
        self.sent: list[Outgoing] = []
        self.roused = self.calls_for_help = 0
        self.at_work = False
        core: Any = self.pair.server
        super().__init__(
            core,
            dispatcher=Dispatcher(Table([desk]), max_concurrent=max_concurrent),
            peer=Peer(1, "nowhere", None, StubLink()),
            attended=True,
            callbacks=Callbacks(),
            run_apart=self._note_apart,
        )

    def _note_apart(self, request: Request, call: Any, done: Callable[[], None], settle: Any) -> None:
        self.apart.append((call, done))

    def come(self, command: Any, call: int, *arguments: object) -> Request:
        """Have a request come; one-way where its call is 0. It has not been accepted."""
        kind = Kind.REQUEST if call else Kind.NOTIFY
        (request,) = self.pair.to_server(frame(kind, pack_plain(list(arguments)), command=command.id, call=call))
        assert isinstance(request, Request)
        return request

    def call(self, command: Any, call: int, *arguments: object) -> None:
        self.accept(self.come(command, call, *arguments))

    def notify(self, command: Any, *arguments: object) -> None:
        self.accept(self.come(command, 0, *arguments))

    def do_next(self) -> None:
        work = self.ready.popleft()
        if isinstance(work, Request):
            answer, _ = self._handle(work)
            if answer is not None and answer is not LATER:
                self._answer(answer)
        else:
            work()

    def do_all(self) -> None:
        while self.ready:
            self.do_next()

    @property
    def answers(self) -> list[tuple[int, Any]]:
        """What was answered since it was last looked at, in order: the call and its result, or the kind of frame."""
        sent, self.sent = self.sent, []
        return [
            (found.call, unpack_plain(found.payload) if found.kind == Kind.RESPONSE else Kind(found.kind))
            for found in frames(joined(*sent))
        ]

    # What differs

    def call_for_help(self) -> None:
        self.calls_for_help += 1

    def end(self) -> None:
        self.ended = True
        self._look_whether_over()

    def run_nested(self, work: deque[Any]) -> BaseException | None:
        raise NotImplementedError

    def _is_at_work(self) -> bool:
        return self.at_work

    def _roused(self) -> None:
        self.roused += 1

    def _queue(self, answer: Outgoing) -> None:
        self.sent.append(answer)

    def _answer(self, answer: Outgoing) -> None:
        self.sent.append(answer)

    def _flush(self) -> None:
        pass

    def _make_room(self) -> None:
        pass

    def _look_soon(self) -> None:
        pass


@pytest.fixture
def desk() -> Desk:
    return Desk()


def noting(done: list[str], *names: str) -> list[Callable[[], None]]:
    return [lambda name=name: done.append(name) for name in names]  # type: ignore[misc]


class TestOrder:
    def test_calls_are_ready_at_once(self, desk: Desk) -> None:
        handlers = ByHand(desk)
        for call in (1, 3, 5):
            handlers.call(Desk.double, call, call)
        assert len(handlers.ready) == 3
        handlers.do_all()
        assert handlers.answers == [(1, 2), (3, 6), (5, 10)]

    def test_one_way_calls_are_ready_one_after_another(self, desk: Desk) -> None:
        handlers = ByHand(desk)
        for text in "abc":
            handlers.notify(Desk.note, text)
        for count in (1, 2, 3):
            assert len(handlers.ready) == 1
            handlers.do_next()
            assert desk.notes == list("abc"[:count])
        assert not handlers.ready
        handlers.notify(Desk.note, "d")
        handlers.do_all()
        assert desk.notes == list("abcd")
        assert handlers.answers == []

    def test_a_call_waits_for_the_series_that_it_is_given(self, desk: Desk) -> None:
        handlers, series = ByHand(desk), Series()
        for call in (1, 3):
            handlers.accept(handlers.come(Desk.double, call, call), series)
        assert len(handlers.ready) == 1
        handlers.do_all()
        assert handlers.answers == [(1, 2), (3, 6)]

    def test_outcomes_are_dealt_with_behind_what_came_before_them(self, desk: Desk) -> None:
        handlers, series, done = ByHand(desk), Series(), list[str]()
        handlers.accept(handlers.come(Desk.note, 1, "callback"), series)
        in_series, at_once = noting(done, "in series", "at once")
        handlers.settle(in_series, series)
        handlers.settle(at_once)
        assert len(handlers.ready) == 2
        handlers.ready.rotate()
        handlers.do_next()
        assert (desk.notes, done) == ([], ["at once"])
        handlers.do_all()
        assert (desk.notes, done) == (["callback"], ["at once", "in series"])

    def test_an_outcome_whose_callback_fails_ends_nothing(self, desk: Desk, log: Log) -> None:
        handlers = ByHand(desk)

        def fail() -> None:
            raise SystemExit

        handlers.settle(fail)
        handlers.do_all()
        assert log.line() == "a callback failed"

    def test_who_ends_a_program_leaves_the_others_their_turn(self, desk: Desk, log: Log) -> None:
        handlers = ByHand(desk)
        handlers.call(Desk.stop, 1)
        handlers.notify(Desk.stop)
        handlers.notify(Desk.note, "after")
        handlers.do_all()
        assert handlers.answers == [(1, Kind.ERROR)]
        assert desk.notes == ["after"]
        assert len([log.line() for _ in log.unread]) == 2


class TestApart:
    def test_a_handler_that_runs_elsewhere_is_answered_there(self, desk: Desk) -> None:
        handlers = ByHand(desk)
        handlers.call(Desk.later, 1, "text")
        handlers.do_all()
        assert handlers.answers == []
        (call, _) = handlers.apart[0]
        assert call.row.is_async

    def test_the_next_of_its_series_waits_for_its_end(self, desk: Desk) -> None:
        handlers = ByHand(desk)
        handlers.notify(Desk.later, "text")
        handlers.notify(Desk.note, "after")
        handlers.do_all()
        assert desk.notes == []
        assert not handlers.ready
        handlers.apart[0][1]()
        assert handlers.calls_for_help == 1  # whoever ended it does other things
        handlers.do_all()
        assert desk.notes == ["after"]


class TestTurns:
    def test_so_many_run_at_a_time_in_the_order_in_which_they_came(self, desk: Desk) -> None:
        handlers = ByHand(desk, max_concurrent=1)
        handlers.call(Desk.later, 1, "text")
        handlers.call(Desk.double, 3, 3)
        handlers.notify(Desk.note, "one-way")
        handlers.call(Desk.double, 5, 5)
        handlers.do_all()
        assert (handlers.answers, desk.notes) == ([], [])
        handlers.apart[0][1]()
        assert handlers.roused
        handlers.do_all()
        assert handlers.answers == [(3, 6), (5, 10)]
        assert desk.notes == ["one-way"]


class TestRoom:
    def test_what_waits_counts(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        limits = Limits(max_message_size=1024)
        monkeypatch.setattr(module, "HELD_BYTES", 4096)
        handlers = ByHand(desk, limits=limits)
        assert handlers.has_room()
        count = 0
        while handlers.has_room():
            handlers.notify(Desk.note, "x" * 500)
            count += 1
        assert count == 4096 // weight(handlers.come(Desk.note, 0, "x" * 500)) + 1
        handlers.do_next()
        assert handlers.has_room()
        held = handlers.come(Desk.note, 0, "y" * 500)
        handlers.hold(held)
        assert not handlers.has_room()
        handlers.let_go(held)
        assert handlers.has_room()

    def test_four_messages_are_never_too_much(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "HELD_BYTES", 0)
        handlers = ByHand(desk, limits=Limits(max_message_size=2048))
        for call in (1, 3, 5):
            handlers.call(Desk.note, call, "x" * 1500)
        assert handlers.has_room()
        for call in (7, 9):
            handlers.call(Desk.note, call, "x" * 1500)
        assert not handlers.has_room()


class TestTheEnd:
    def test_it_is_told_once_when_nothing_is_left(self, desk: Desk) -> None:
        handlers, told = ByHand(desk), list[str]()
        handlers.call(Desk.later, 1, "text")
        handlers.do_all()
        handlers.call(Desk.double, 3, 1)
        handlers.when_over(*noting(told, "over"))
        handlers.at_work = True
        handlers.end()
        assert told == []  # something is ready
        handlers.do_all()
        handlers.at_work = False
        handlers._look_whether_over()
        assert told == []  # a handler runs elsewhere
        handlers.apart[0][1]()
        assert told == ["over"]
        handlers.end()
        assert told == ["over"]

    def test_who_asks_afterwards_is_told_at_once(self, desk: Desk) -> None:
        handlers, told = ByHand(desk), list[str]()
        handlers.end()
        handlers.when_over(*noting(told, "over"))
        assert told == ["over"]

    def test_calls_that_came_are_not_run_any_more_and_one_way_calls_are(self, desk: Desk) -> None:
        handlers = ByHand(desk)
        handlers.call(Desk.note, 1, "call")
        handlers.notify(Desk.note, "one-way")
        handlers.end()
        handlers.do_all()
        assert desk.notes == ["one-way"]
        assert handlers.answers == []

    def test_one_way_calls_that_came_too_late_are_not_run(self, desk: Desk) -> None:
        handlers, told = ByHand(desk), list[str]()
        handlers.when_over(*noting(told, "over"))
        handlers.end()
        handlers.notify(Desk.note, "late")
        handlers.do_all()
        assert (desk.notes, told) == ([], ["over"])

    def test_nobody_stands_in_line_for_a_connection_that_has_ended(self, desk: Desk) -> None:
        handlers, told = ByHand(desk, max_concurrent=1), list[str]()
        handlers.call(Desk.later, 1, "text")
        handlers.do_all()
        handlers.call(Desk.double, 3, 3)
        handlers.when_over(*noting(told, "over"))
        handlers.end()
        assert told == []
        handlers.apart[0][1]()
        assert not handlers.ready
        assert told == ["over"]
