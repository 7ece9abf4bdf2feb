"""The invariants of the read role, one test or more for each; the last test lets many threads at it at once."""

import signal
import threading
from collections.abc import Callable

import pytest

from tests.support import PATIENCE, Running, handling
from typedrpc.sync.role import ReadRole, Waiter


class Parked(dict[Waiter, bool]):
    """The parked threads of a role, with a condition on who comes and goes."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()

    def __setitem__(self, waiter: Waiter, value: bool) -> None:
        with self._changed:
            super().__setitem__(waiter, value)
            self._changed.notify_all()

    def pop(self, waiter: Waiter, default: bool = False) -> bool:  # type: ignore[override]  # as it is called
        with self._changed:
            self._changed.notify_all()
            return super().pop(waiter, default)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE)


def role_and_parked() -> tuple[ReadRole, Parked]:
    """A role that is held, and its parked threads."""
    role, parked = ReadRole(), Parked()
    role.parked = parked  # type: ignore[misc]  # final but for this
    assert role.try_take()
    return role, parked


def test_one_holder_at_a_time() -> None:
    role = ReadRole()
    seen = [role.free, role.try_take(), role.free, role.try_take()]
    role.release()
    seen += [role.free, role.try_take()]
    assert seen == [True, True, False, False, True, True]


def test_releases_are_counted() -> None:
    role = ReadRole()
    for count in range(3):
        assert role.progress == count
        assert role.try_take()
        role.release()


def test_release_hands_the_role_over_locked() -> None:
    role, parked = role_and_parked()
    waiter = Waiter()
    thread = Running(role.park, waiter, None)
    parked.wait_until(lambda: waiter in parked)
    role.release()
    assert thread.result() is True
    assert waiter.leads
    assert not role.free
    assert not role.parked


def test_release_wakes_one_and_no_more() -> None:
    role, parked = role_and_parked()
    waiters = [Waiter() for _ in range(3)]
    threads = [Running(role.park, waiter, None) for waiter in waiters]
    parked.wait_until(lambda: len(parked) == 3)
    for left in (2, 1, 0):
        role.release()
        assert len(parked) == left
        assert sum(waiter.leads for waiter in waiters) == 3 - left
    assert [thread.result() for thread in threads] == [True] * 3


def test_who_is_done_does_not_sleep() -> None:
    role = ReadRole()
    assert role.try_take()
    waiter = Waiter()
    waiter.done = True
    assert role.park(waiter, None) is True
    assert not waiter.leads
    assert not role.parked


def test_nobody_sleeps_while_the_role_is_free() -> None:
    role = ReadRole()
    waiter = Waiter()
    assert role.park(waiter, None) is True
    assert not waiter.leads
    assert role.free


def test_rousing() -> None:
    role, parked = role_and_parked()
    waiter = Waiter()
    assert role.rouse(waiter) is False
    thread = Running(role.park, waiter, None)
    parked.wait_until(lambda: waiter in parked)
    assert role.rouse(waiter) is True
    assert role.rouse(waiter) is False
    assert thread.result() is True
    assert not waiter.leads


@pytest.mark.parametrize("timeout", [0.0, -1.0, 0.001])
def test_time_that_passes(timeout: float) -> None:
    role = ReadRole()
    assert role.try_take()
    waiter = Waiter()
    assert role.park(waiter, timeout) is False
    assert not role.parked
    role.release()
    assert role.free


def test_a_waiter_may_park_again() -> None:
    role, parked = role_and_parked()
    waiter = Waiter()
    for _ in range(3):
        thread = Running(role.park, waiter, None)
        parked.wait_until(lambda: waiter in parked)
        role.release()
        assert thread.result() is True
        assert waiter.leads
        waiter.leads = False


def test_a_signal_leaves_nothing_parked() -> None:
    role, parked = role_and_parked()
    waiter = Waiter()
    main = threading.get_ident()

    def interrupt() -> None:
        parked.wait_until(lambda: waiter in parked)
        signal.pthread_kill(main, signal.SIGUSR1)

    def handle(number: int, frame: object) -> None:
        raise InterruptedError("by a signal")

    with handling(signal.SIGUSR1, handle):
        thread = Running(interrupt)
        with pytest.raises(InterruptedError):
            role.park(waiter, PATIENCE)
        thread.result()
    assert not role.parked
    role.release()
    assert role.free


def test_many_threads_take_turns() -> None:
    """Each thread leads many times; nobody leads beside another, and nobody sleeps for ever."""
    role = ReadRole()
    leading: list[int] = []
    turns = [0] * 8

    def lead(number: int) -> None:
        leading.append(number)
        assert leading == [number]
        leading.pop()
        turns[number] += 1

    def run(number: int) -> None:
        waiter = Waiter()
        while turns[number] < 500:
            if waiter.leads or role.try_take():
                waiter.leads = False
                lead(number)
                role.release()
            else:
                role.park(waiter, None)
        if waiter.leads:
            role.release()

    threads = [Running(run, number) for number in range(8)]
    for thread in threads:
        thread.result()
    assert turns == [500] * 8
    assert role.free
