from collections.abc import Callable

import pytest

from tests.support import Running
from typedrpc.common.handlers import Series
from typedrpc.common.role import ReadRole
from typedrpc.common.tokens import CallWaiter, Pending
from typedrpc.errors import ConnectionLost, DeadlineExceeded, RpcError
from typedrpc.wire import Frame, Kind

FRAME = Frame(Kind.RESPONSE, 0, 1, b"\x01")


class Threads:
    """What is to be run in a thread of the connection's own."""

    def __init__(self) -> None:
        self.served_callers = 0
        self.settled: list[Callable[[], None]] = []
        self.series: list[Series | None] = []

    def settle(self, finish: Callable[[], None], series: Series | None = None) -> None:
        self.settled.append(finish)
        self.series.append(series)


class Owner:
    def __init__(self) -> None:
        self.role = ReadRole()
        self.handlers = Threads()


@pytest.mark.parametrize("answered", [True, False])
def test_a_parked_thread_learns_the_outcome(answered: bool) -> None:
    owner = Owner()
    assert owner.role.try_take()
    waiter = CallWaiter()
    parked = Running(owner.role.park, waiter, None)
    if answered:
        waiter.complete(owner, FRAME)  # type: ignore[arg-type]  # it has what is used of one
    else:
        waiter.fail(owner, ConnectionLost("gone"))  # type: ignore[arg-type]
    assert parked.result() is True
    assert waiter.done
    assert (waiter.frame is FRAME) is answered
    assert isinstance(waiter.error, ConnectionLost) is not answered


def test_what_came_first_counts() -> None:
    owner = Owner()
    waiter = CallWaiter()
    waiter.complete(owner, FRAME)  # type: ignore[arg-type]
    waiter.fail(owner, ConnectionLost("gone"))  # type: ignore[arg-type]
    assert waiter.frame is FRAME
    assert waiter.error is None


def test_a_pending_outcome_goes_to_its_function_elsewhere() -> None:
    owner = Owner()
    outcomes: list[Frame | RpcError] = []
    error = DeadlineExceeded("late")
    Pending(outcomes.append).complete(owner, FRAME)  # type: ignore[arg-type]
    Pending(outcomes.append).fail(owner, error)  # type: ignore[arg-type]
    assert outcomes == []
    for finish in owner.handlers.settled:
        finish()
    assert outcomes == [FRAME, error]


def test_an_answer_waits_for_the_callbacks_of_its_call_and_a_failure_does_not() -> None:
    owner = Owner()
    outcomes: list[Frame | RpcError] = []
    token = Pending(outcomes.append)
    token.series = series = Series()
    token.complete(owner, FRAME)  # type: ignore[arg-type]
    token.fail(owner, DeadlineExceeded("late"))  # type: ignore[arg-type]
    assert owner.handlers.series == [series, None]
