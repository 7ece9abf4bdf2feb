"""A call as its handler sees it; the tests of servers try it over sockets."""

import threading
from time import monotonic
from typing import Any, cast

import pytest

from tests.support import PATIENCE, Gate, Running
from typedrpc import CallCancelled
from typedrpc.call import (
    Call,
    CallOfBatch,
    Opened,
    Row,
    current_call,
    enter_call,
    get_call,
    handled_by,
    leave_call,
    new_call,
)
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


def one_of_a_batch(*args: Any) -> Call:
    row = Row("Desk.wait", nothing, nothing, nothing)
    request = Request(1, 7, b"")
    call = new_call(CallOfBatch)
    call.opened = Opened(row, nothing, cast(Any, "peer"), cast(Any, "protocol"), request, 3, 1e12, True)
    call.given = [*args]
    return call


class TestOneOfABatch:
    """Most of it is made when somebody asks for it."""

    def test_what_it_has_in_common_with_the_others(self) -> None:
        call = one_of_a_batch(1, 2)
        assert (call.command, call.id, call.depth, call.deadline) == ("Desk.wait", 7, 3, 1e12)
        assert [call.peer, call.protocol, call.function] == cast(Any, ["peer", "protocol", nothing])
        assert (call.args, call.kwargs, dict(call.metadata)) == ((1, 2), {}, {})
        assert call.kwargs is call.kwargs

    def test_it_is_cancelled_as_others_are_whatever_was_asked_before(self) -> None:
        call, told = one_of_a_batch(), Gate()
        assert not call.cancelled
        call.on_cancel("key", told.open)
        call.cancel("its caller has left")
        assert call.args == ()
        assert call.why_cancelled == "its caller has left"
        assert told.is_open
        call.forget("key")

    def test_it_has_no_other_attributes(self) -> None:
        for call in (one_of_a_batch(), make_call()):
            assert not hasattr(call, "started")
            with pytest.raises(AttributeError, match="'Call' object has no attribute 'nothing'"):
                cast(Any, call).nothing  # noqa: B018  # asking is what is tried
        call = one_of_a_batch()
        call.started = 1.0
        call.reply_metadata["a"] = "b"
        assert (call.started, call.reply_metadata) == (1.0, {"a": "b"})


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
