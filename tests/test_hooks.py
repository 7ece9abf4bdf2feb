"""Hooks: their registration and order, and what becomes of those that raise."""

import pytest

from tests.support import Log
from typedrpc.hooks import CallOutcome, Event


def test_hooks_run_in_order_of_registration() -> None:
    said: list[str] = []
    event = Event(lambda text: said.append(f"first {text}"))
    event.add(lambda text: said.append(f"second {text}"))
    event.run("hello")
    assert said == ["first hello", "second hello"]


def test_an_event_without_hooks_is_false() -> None:
    event = Event(None)
    assert not event
    event.run()
    event.add(print)
    assert event


def test_a_hook_that_raises_harms_nothing(log: Log) -> None:
    said: list[int] = []

    def fail(number: int) -> None:
        raise SystemExit("no" if number else "nothing")

    event = Event(fail)
    event.add(said.append)
    event.run(1)
    assert said == [1]
    assert log.line() == "a hook failed"


def test_an_interrupt_is_no_fault_of_the_hook() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Event(interrupt).run()


def test_hooks_that_are_not_needed_any_more() -> None:
    said: list[int] = []
    event = Event(said.append)
    event.add(said.append)
    event.run(1, until=lambda: len(said) == 1)
    assert said == [1]


def test_how_outcomes_print() -> None:
    assert repr(CallOutcome(5, None, 0.25)) == "CallOutcome(result=5, seconds=0.250000)"
    assert repr(CallOutcome(None, KeyError("x"), 0.25)) == "CallOutcome(error=KeyError('x'), seconds=0.250000)"
