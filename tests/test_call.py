"""A call as its handler sees it; the tests of servers try it over sockets."""

import threading
from time import monotonic
from typing import Any, cast

import pytest

from tests.support import PATIENCE, Gate, Running
from typedrpc import CallCancelled
from typedrpc.call import Call, Row, current_call, enter_call, get_call, handled_by, leave_call
from typedrpc.protocol import Request


def nothing(*args: Any) -> Any:
    raise AssertionError("nobody calls it")


def make_call(deadline: float | None = None) -> Call:
    row = Row("Desk.wait", nothing, nothing, nothing)
    call = Call(row, (), {}, cast(Any, None), cast(Any, None), Request(1, 1, b""))
    call.deadline = deadline
    return call


def test_a_call_is_current_from_its_handler_on() -> None:
    call = make_call()
    with pytest.raises(RuntimeError, match="inside a handler only"):
        current_call()
    token = enter_call(call)
    try:
        assert current_call() is get_call() is call
        assert Running(get_call).result() is None, "threads have it with a copied context only"
    finally:
        leave_call(token)
    assert get_call() is None
    assert not handled_by(object())


class TestCancellation:
    def test_until_it_is_cancelled(self) -> None:
        call = make_call()
        assert not call.cancelled
        call.cancelled.check()
        assert not call.cancelled.wait(0)
        assert repr(call.cancelled) == "<not cancelled>"

    def test_once_it_is(self) -> None:
        call = make_call()
        call.cancel("its caller has left")
        assert call.cancelled
        assert call.cancelled.wait()
        assert repr(call.cancelled) == "<cancelled>"
        with pytest.raises(CallCancelled, match=r"^Desk\.wait: its caller has left$"):
            call.cancelled.check()

    def test_past_its_deadline(self) -> None:
        call = make_call(monotonic() - 1)
        assert call.cancelled
        assert call.cancelled.wait()
        with pytest.raises(CallCancelled, match=r"^Desk\.wait: its deadline has passed$"):
            call.cancelled.check()

    def test_a_wait_ends_at_the_deadline(self) -> None:
        assert make_call(monotonic() + 0.01).cancelled.wait(PATIENCE)

    def test_a_wait_ends_when_it_is_cancelled(self) -> None:
        call = make_call(monotonic() + 10 * PATIENCE)
        began = Gate()

        def wait() -> bool:
            began.open()
            return call.cancelled.wait()

        waiting = [Running(wait) for _ in range(3)]
        began.wait()
        call.cancel("enough")
        assert [one.result() for one in waiting] == [True] * 3
        assert not call._aborts, "nobody is told any more"


class TestOnCancel:
    def test_whoever_works_for_it_is_told_once(self) -> None:
        call, told = make_call(), list[str]()
        for name in "abc":
            call.on_cancel(name, lambda name=name: told.append(name))  # type: ignore[misc]
        call.forget("b")
        call.cancel("enough")
        assert sorted(told) == ["a", "c"]
        assert not call._aborts

    def test_who_comes_later_is_told_at_once(self) -> None:
        call, told = make_call(), list[str]()
        call.cancel("enough")
        call.on_cancel("late", lambda: told.append("late"))
        assert told == ["late"]
        assert not call._aborts

    def test_what_nobody_knows_is_forgotten_in_silence(self) -> None:
        call = make_call()
        call.forget("nobody")
        call.on_cancel("somebody", nothing)
        call.forget("nobody")
        call.forget("somebody")
        call.cancel("enough")

    def test_who_comes_while_it_is_cancelled_is_not_passed_over(self) -> None:
        """Whichever of the two is first, they are told before they go on."""
        for _ in range(200):
            call, told, barrier = make_call(), threading.Event(), threading.Barrier(2, timeout=PATIENCE)

            def come(call: Call = call, told: threading.Event = told, barrier: threading.Barrier = barrier) -> bool:
                barrier.wait()
                call.on_cancel("me", told.set)
                return not call.why_cancelled or told.is_set()

            coming = Running(come)
            barrier.wait()
            call.cancel("enough")
            assert coming.result()
            assert told.wait(PATIENCE)


def test_what_goes_back_beside_the_result_is_the_handlers_to_fill() -> None:
    call = make_call()
    assert not call.metadata
    call.reply_metadata["a"] = "b"
    assert call.reply_metadata == {"a": "b"}
