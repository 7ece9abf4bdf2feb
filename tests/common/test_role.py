"""The invariants of the read role, one test or more for each; the last test lets many threads at it at once."""

import signal
import threading
from collections.abc import Callable

import pytest

from tests.support import PATIENCE, Gate, Running, handling
from typedrpc.common.role import ReadRole, Waiter


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


class Wake:
    """The lock that a waiter sleeps with; tells when the thread comes back to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.release = self._lock.release
        self.again = Gate()
        self._times = 0

    def acquire(self, timeout: float = -1) -> bool:
        self._times += 1
        if self._times > 1:
            self.again.open()
        return self._lock.acquire(timeout=timeout)


class Interjecting(Parked):
    """Has something happen just after a waiter was taken out."""

    then: Callable[[], None] | None = None

    def pop(self, waiter: Waiter, default: bool = False) -> bool:  # type: ignore[override]
        found = super().pop(waiter, default)
        then, self.then = self.then, None
        if found and then is not None:
            then()
        return found


@pytest.mark.parametrize("form", ["handed over", "roused"])
@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_a_bare_wake_does_not_overtake_what_is_being_said(form: str, timeout: float | None) -> None:
    """One thread is about to hand the role over when another, which aborts the wait, wakes the waiter."""
    role, parked = ReadRole(), Interjecting()
    role.parked = parked  # type: ignore[misc]
    assert role.try_take()
    waiter = Waiter()
    waiter.wake = wake = Wake()  # type: ignore[assignment]

    def park() -> tuple[bool, bool]:
        try:
            role.park(waiter, timeout)
            return waiter.leads, waiter.roused
        finally:
            wake.again.open()

    def abort() -> None:
        waiter.done = True
        role.rouse_for_good(waiter)
        wake.again.wait()

    thread = Running(park)
    parked.wait_until(lambda: waiter in parked)
    parked.then = abort
    if form == "roused":
        role.rouse(waiter)
    else:
        role.release()
    assert thread.result() == (form == "handed over", True)
    assert not parked


def test_who_wakes_does_not_mind_a_bare_wake_that_was_not_taken_yet() -> None:
    role, parked = ReadRole(), Interjecting()
    role.parked = parked  # type: ignore[misc]
    assert role.try_take()
    waiter = Waiter()
    dict.__setitem__(parked, waiter, True)  # as if it were about to sleep
    parked.then = lambda: role.rouse_for_good(waiter)
    role.release()
    assert waiter.leads


def test_a_bare_wake_leaves_nothing_parked() -> None:
    """One that came while the thread was awake ends its next sleep, for no reason."""
    role, parked = role_and_parked()
    waiter = Waiter()
    role.rouse_for_good(waiter)
    assert role.park(waiter, PATIENCE) is True
    assert not parked
    role.release()
    assert role.free


def test_a_waiter_that_nobody_goes_on_to_wake_goes_on_itself() -> None:
    """Who has taken it out of those that are parked was interrupted then."""
    role, parked = role_and_parked()
    waiter = Waiter()
    thread = Running(role.park, waiter, None)
    parked.wait_until(lambda: waiter in parked)
    assert parked.pop(waiter)
    role.rouse_for_good(waiter)
    assert thread.result() is True
    assert not waiter.leads


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
