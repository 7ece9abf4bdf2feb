"""The table of what one side has offered."""

import threading
from itertools import count
from typing import Any

from tests.support import run_all
from typedrpc.callbacks import ALL_CALLBACKS, Callbacks
from typedrpc.inflight import MAX_CALL, InFlight


def test_what_is_offered_is_found_by_call_and_index() -> None:
    callbacks = Callbacks()
    waiter = object()
    group = callbacks.offer(5, ["a", "b"], waiter)
    assert (group.waiter, group.series) == (waiter, None)
    assert callbacks.offer(7, ["c"]).waiter is None
    found = callbacks.find(5, 1)
    assert found is not None
    assert (found.group, found.offer) == (group, "b")
    other = callbacks.find(7, 0)
    assert other is not None
    assert other.offer == "c"


def test_what_is_not_there_is_not_found() -> None:
    callbacks = Callbacks()
    callbacks.offer(5, ["a", "b"])
    for call, index in [(5, 2), (5, ALL_CALLBACKS), (7, 0), (0, 0)]:
        assert callbacks.find(call, index) is None
        if index != ALL_CALLBACKS:
            callbacks.release(call, index)  # which is ignored
    assert callbacks.find(5, 0) is not None


def test_a_group_goes_with_its_last_callback() -> None:
    callbacks = Callbacks()
    callbacks.offer(5, ["a", "b"])
    callbacks.release(5, 0)
    assert callbacks.find(5, 0) is None
    assert callbacks.find(5, 1) is not None
    callbacks.release(5, 0)
    assert [*callbacks.groups] == [5]
    callbacks.release(5, 1)
    assert callbacks.groups == {}


def test_all_of_a_call_are_released_at_once() -> None:
    callbacks = Callbacks()
    callbacks.offer(5, ["a", "b", "c"])
    callbacks.offer(7, ["d"])
    callbacks.release(5, ALL_CALLBACKS)
    callbacks.release(9, ALL_CALLBACKS)
    assert [*callbacks.groups] == [7]


def test_what_was_found_stays_when_it_is_released() -> None:
    callbacks = Callbacks()
    callbacks.offer(5, ["a"])
    found = callbacks.find(5, 0)
    callbacks.release(5, 0)
    assert found is not None
    assert found.offer == "a"


def test_what_was_not_sent_is_withdrawn() -> None:
    callbacks = Callbacks()
    callbacks.offer(5, ["a"])
    callbacks.withdraw(5)
    callbacks.withdraw(5)
    assert callbacks.groups == {}


def test_nothing_is_kept_after_the_end() -> None:
    callbacks = Callbacks()
    callbacks.offer(5, ["a"])
    callbacks.end()
    assert callbacks.groups == {}
    callbacks.offer(7, ["b"])
    assert callbacks.find(7, 0) is None
    callbacks.end()


def test_ids_of_calls_with_callbacks_are_not_given_again() -> None:
    calls: InFlight[Any] = InFlight(1)
    callbacks = Callbacks()
    calls.kept = callbacks.groups
    callbacks.offer(calls.new_id(), ["a"])
    callbacks.offer(calls.new_id(), ["b"])
    calls.next_number = count(MAX_CALL, 2).__next__
    assert [calls.new_id(), calls.new_id()] == [MAX_CALL, 5]
    callbacks.release(1, 0)
    calls.next_number = count(MAX_CALL, 2).__next__
    assert [calls.new_id(), calls.new_id()] == [MAX_CALL, 1]


def test_from_many_threads() -> None:
    callbacks = Callbacks()
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait(10)
        for call in range(number, 8000, 8):
            callbacks.offer(call, ["a", "b"])
            callbacks.release(call, 0)
            callbacks.release(call, 1)

    run_all([lambda number=number: work(number) for number in range(8)])  # type: ignore[misc]
    assert callbacks.groups == {}
