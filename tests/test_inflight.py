from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from typedrpc.inflight import MAX_CALL, InFlight


def table(first: int = 1) -> InFlight[str]:
    return InFlight(first)


@pytest.mark.parametrize("first", [1, 2])
def test_ids_go_up_in_steps_of_two(first: int) -> None:
    calls = table(first)
    assert [calls.new_id() for _ in range(4)] == [first, first + 2, first + 4, first + 6]


@pytest.mark.parametrize(("first", "last"), [(1, MAX_CALL), (2, MAX_CALL - 1)])
def test_ids_wrap_around_and_skip_those_in_flight(first: int, last: int) -> None:
    calls = table(first)
    calls.insert(first, "old")
    calls.insert(first + 2, "old too")
    calls.next_number = count(last - 2, 2).__next__
    assert [calls.new_id() for _ in range(4)] == [last - 2, last, first + 4, first + 6]


def test_the_last_id_is_skipped_when_it_is_in_flight() -> None:
    calls = table()
    calls.insert(MAX_CALL, "old")
    calls.next_number = count(MAX_CALL + 2**32, 2).__next__  # the second time
    assert calls.new_id() == 1


@pytest.mark.parametrize("first", [1, 2])
def test_threads_get_different_ids(first: int) -> None:
    calls = table(first)
    calls.next_number = count(MAX_CALL - 1000 - (first == 2), 2).__next__
    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(lambda _: calls.new_id(), range(4000)))
    assert len(set(ids)) == 4000
    assert all(0 < id <= MAX_CALL and id % 2 == first % 2 for id in ids)


def test_a_call_is_given_back_once() -> None:
    calls = table()
    calls.insert(1, "a")
    assert len(calls) == 1
    assert calls.pop(1) == "a"
    assert calls.pop(1) is None
    assert calls.pop(3) is None
    assert len(calls) == 0


def test_all_calls_are_given_back_at_the_end() -> None:
    calls = table()
    calls.insert(1, "a", 5.0)
    calls.insert(3, "b")
    assert sorted(token for _, token in calls.pop_all()) == ["a", "b"]
    assert calls.pop_all() == []
    assert calls.next_deadline() is None
    assert calls.expire(10.0) == []


class Contested(dict[int, str]):
    """A table from which another thread takes the last call just before ``popitem``."""

    def popitem(self) -> tuple[int, str]:
        item = super().popitem()
        if not self:
            raise KeyError
        return item


def test_a_call_that_another_thread_takes_meanwhile_is_not_given_back() -> None:
    calls = table()
    calls.calls = Contested({1: "a", 3: "b"})
    assert [token for _, token in calls.pop_all()] == ["b"]


def test_deadlines_expire_in_order() -> None:
    calls = table()
    for call, deadline in ((1, 3.0), (3, 1.0), (5, None), (7, 2.0)):
        calls.insert(call, f"call {call}", deadline)
    assert calls.next_deadline() == 1.0
    assert calls.expire(0.9) == []
    assert calls.expire(2.0) == [(3, "call 3"), (7, "call 7")]
    assert calls.next_deadline() == 3.0
    assert calls.expire(99.0) == [(1, "call 1")]
    assert calls.next_deadline() is None
    assert len(calls) == 1


def test_a_call_that_is_done_does_not_expire() -> None:
    calls = table()
    calls.insert(1, "a", 1.0)
    calls.insert(3, "b", 2.0)
    calls.pop(1)
    assert calls.next_deadline() == 2.0
    assert calls.expire(5.0) == [(3, "b")]


def test_the_heap_does_not_grow_with_calls_that_are_done() -> None:
    calls = table()
    calls.insert(1, "stays", 1e9)
    for call in range(3, 4003, 2):
        calls.insert(call, "goes", 1e8)
        calls.pop(call)
        assert len(calls._deadlines) < 100
    assert calls.expire(2e9) == [(1, "stays")]


class InFlightMachine(RuleBasedStateMachine):
    """A table beside a plain model of it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: InFlight[str] = InFlight(2)
        self.model: dict[int, float | None] = {}

    @rule(deadline=st.none() | st.floats(0, 100))
    def insert(self, deadline: float | None) -> None:
        call = self.calls.new_id()
        assert call not in self.model
        assert call % 2 == 0
        self.calls.insert(call, f"call {call}", deadline)
        self.model[call] = deadline

    @precondition(lambda self: bool(self.model))
    @rule(choose=st.integers(0))
    def pop(self, choose: int) -> None:
        call = sorted(self.model)[choose % len(self.model)]
        assert self.calls.pop(call) == f"call {call}"
        del self.model[call]

    @rule(now=st.floats(0, 100))
    def expire(self, now: float) -> None:
        due = {call for call, deadline in self.model.items() if deadline is not None and deadline <= now}
        assert sorted(self.calls.expire(now)) == sorted((call, f"call {call}") for call in due)
        for call in due:
            del self.model[call]

    @invariant()
    def the_next_deadline_is_that_of_a_call(self) -> None:
        deadlines = [deadline for deadline in self.model.values() if deadline is not None]
        assert self.calls.next_deadline() == min(deadlines, default=None)

    @invariant()
    def same_calls(self) -> None:
        assert set(self.calls.calls) == set(self.model)


TestLikeAModel = InFlightMachine.TestCase
TestLikeAModel.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
