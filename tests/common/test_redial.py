"""Dialling: which address is tried when, and that one dials for all."""

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from itertools import repeat
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import PATIENCE, Running, run_all
from typedrpc.common.redial import (
    CONNECT_TIME,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    Dialled,
    Dialling,
    Redial,
    doubling,
    is_done_by,
    not_renewed,
    outcome_of,
    wait_for_link,
)
from typedrpc.errors import (
    AuthenticationFailed,
    ConnectFailed,
    ConnectionLost,
    ConnectTimeout,
    DeadlineExceeded,
    ServerBusy,
    TlsFailed,
)
from typedrpc.messages import Leave
from typedrpc.protocol import State


def dialling(
    urls: Sequence[str] = ("a", "b"), *, time: float = 60.0, pauses: Iterable[float] = (), stubborn: bool = False
) -> Dialling:
    return Dialling(urls, 0, monotonic() + time, pauses, stubborn=stubborn)


AWAY = ConnectFailed("a", "nothing listens there")
STRANGER = AuthenticationFailed("a", "not authenticated")


class TestDialling:
    def test_addresses_are_tried_in_turn_and_then_there_is_a_pause(self) -> None:
        way = dialling(pauses=[1.5])
        tried = [way.url]
        assert way.failed(AWAY) == 0.0
        tried.append(way.url)
        assert way.failed(AWAY) == 1.5
        tried.append(way.url)
        assert way.failed(AWAY) == 0.0
        assert way.failed(AWAY) is None
        assert tried == ["a", "b", "a"]

    def test_it_begins_with_the_address_that_worked(self) -> None:
        way = Dialling(["a", "b", "c"], 2, monotonic() + 60)
        assert way.url == "c"
        assert way.failed(AWAY) == 0.0
        assert (way.url, way.index) == ("a", 0)

    def test_there_is_no_pause_past_the_deadline(self) -> None:
        way = dialling(["a"], time=10.0, pauses=repeat(100.0))
        pause = way.failed(AWAY)
        assert pause is not None
        assert 0 < pause < 10
        assert dialling(["a"], time=0.0, pauses=repeat(0.0)).failed(AWAY) is None

    def test_each_address_has_its_share_of_the_time(self) -> None:
        way = dialling(["a", "b", "c", "d"], time=8.0)
        assert way.until() - monotonic() <= 2.0
        way.failed(AWAY)
        way.failed(AWAY)
        assert 2.0 < way.until() - monotonic() <= 4.0

    def test_an_attempt_of_many_takes_no_more_than_one_may(self) -> None:
        assert dialling(["a"], time=1000.0, stubborn=True).until() <= monotonic() + CONNECT_TIME
        assert dialling(["a"], time=1000.0, stubborn=True).agree_until() <= monotonic() + CONNECT_TIME
        way = dialling(["a"], time=1000.0)
        assert way.until() > monotonic() + CONNECT_TIME
        assert way.agree_until() == way.deadline

    @pytest.mark.parametrize(
        ("error", "leave"), [(STRANGER, None), (TlsFailed("a", "wrong host"), None), (AWAY, Leave.REFUSED)]
    )
    @pytest.mark.parametrize("stubborn", [True, False])
    def test_what_is_refused_for_good_is_not_tried_again(
        self, error: ConnectFailed, leave: int | None, stubborn: bool
    ) -> None:
        way = dialling(["a"], pauses=repeat(0.0), stubborn=stubborn)
        assert way.failed(error, leave) is None
        assert way.give_up(error) is error

    def test_one_refusal_is_no_reason_not_to_try_another_address(self) -> None:
        way = dialling(pauses=repeat(0.5))
        assert way.failed(STRANGER) == 0.0
        assert way.failed(AWAY) == 0.5

    def test_a_refusal_says_more_than_who_was_away(self) -> None:
        way = dialling()
        way.failed(STRANGER)
        assert way.failed(AWAY) is None
        assert way.give_up(AWAY) is STRANGER

    @pytest.mark.parametrize("leave", [Leave.OTHER, Leave.BUSY])
    def test_a_server_that_says_goodbye_is_tried_again_by_the_stubborn(self, leave: int) -> None:
        assert dialling(["a"], pauses=repeat(0.5)).failed(ServerBusy("full"), leave) is None
        assert dialling(["a"], pauses=repeat(0.5), stubborn=True).failed(ServerBusy("full"), leave) == 0.5

    def test_what_is_known_to_fail_again(self) -> None:
        assert dialling(["a"], pauses=repeat(0.5), stubborn=True).failed(AWAY, final=True) is None

    def test_pauses_double(self) -> None:
        pauses = [pause for pause, _ in zip(doubling(), range(8), strict=False)]
        assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
        assert pauses[-1] == LONGEST_PAUSE


def link_in(state: State, *, ended: bool = False) -> Any:
    core = SimpleNamespace(state=state, lost=lambda: ConnectionLost("it has gone"))
    return SimpleNamespace(connection=SimpleNamespace(core=core, ended=ended))


class Client:
    """What redials need of one."""

    def __init__(self) -> None:
        self.link = link_in(State.CLOSED, ended=True)
        self.may_renew = True
        self.started: list[Future[Any]] = []
        self.redial = Redial(lambda: self.link, lambda connection: self.may_renew, self.started.append)


class TestRedial:
    def test_one_dials_for_all(self) -> None:
        client = Client()
        futures = run_all([client.redial.join] * 20)
        assert client.started == [futures[0]]
        assert all(future is futures[0] for future in futures)

    def test_who_comes_too_late_has_what_was_made(self) -> None:
        client = Client()
        client.redial.join()
        client.link = link_in(State.OPEN)
        client.started[0].set_result(client.link)
        assert client.redial.join().result(0) is client.link
        assert len(client.started) == 1

    def test_after_a_failure_it_is_tried_again(self) -> None:
        client = Client()
        client.redial.join()
        client.started[0].set_exception(ConnectionLost("no"))
        assert client.redial.join() is client.started[1]

    def test_what_may_not_be_renewed(self) -> None:
        client = Client()
        client.may_renew = False
        with pytest.raises(ConnectionLost, match="it has gone"):
            client.redial.join().result(0)
        assert client.redial.needed() is None
        assert not client.started

    def test_what_is_needed(self) -> None:
        client = Client()
        assert client.redial.needed() is client.started[0]
        client.link = link_in(State.OPEN)
        assert client.redial.needed() is None
        client.link = link_in(State.DRAINING)
        assert client.redial.needed() is client.started[0]

    def test_where_nobody_can_dial(self) -> None:
        client = Client()

        def fail(future: object) -> None:
            raise RuntimeError("can't start new thread")

        client.redial = Redial(lambda: client.link, lambda connection: True, fail)
        with pytest.raises(ConnectionLost, match=r"it has gone; and nobody could dial again: can't start new thread"):
            outcome_of(client.redial.join())

    def test_who_was_interrupted_before_somebody_dials(self) -> None:
        """Nobody is left waiting, and who asks next has somebody dial."""
        client = Client()

        def interrupt(future: object) -> None:
            raise KeyboardInterrupt

        interrupted = Redial(lambda: client.link, lambda connection: True, interrupt)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                interrupted.join()

    def test_who_was_interrupted_once_somebody_dials(self) -> None:
        """Who dials gives it its outcome, and nobody else does."""
        client = Client()
        started: list[Dialled] = []

        def interrupt(future: Dialled) -> None:
            started.append(future)
            assert future.claim()
            raise KeyboardInterrupt

        redial = Redial(lambda: client.link, lambda connection: True, interrupt)
        with pytest.raises(KeyboardInterrupt):
            redial.join()
        future = redial.join()
        assert [future] == started
        assert not future.done()
        future.set_result(client.link)

    def test_one_has_the_claim(self) -> None:
        future = Dialled()
        assert [future.claim() for _ in range(3)] == [True, False, False]

    def test_a_forked_child_dials_for_itself(self) -> None:
        client = Client()
        before = client.redial.join()
        client.redial.forsake()
        assert client.redial.join() is not before


class TestWaiting:
    def test_for_a_connection(self) -> None:
        future: Future[Any] = Future()
        waiting = Running(wait_for_link, future, None, lambda: True)
        future.set_result("link")
        assert waiting.result() == "link"

    def test_until_the_deadline(self) -> None:
        with pytest.raises(DeadlineExceeded, match="no connection in time"):
            wait_for_link(Future(), monotonic() + 0.01, lambda: True)

    def test_where_nobody_dials_any_more(self) -> None:
        with pytest.raises(ConnectionLost, match="event loop of the connection is closed"):
            wait_for_link(Future(), monotonic() + PATIENCE, lambda: False)

    def test_everybody_has_an_error_of_his_own(self) -> None:
        future: Future[Any] = Future()
        cause = ConnectTimeout("tcp://h:1", "no connection in time")
        failed = ConnectionLost("gone")
        failed.__cause__ = cause
        future.set_exception(failed)
        seen = []
        for _ in range(2):
            with pytest.raises(ConnectionLost, match="gone") as caught:
                outcome_of(future)
            seen.append(caught.value)
            assert caught.value.__cause__ is cause
        assert seen[0] is not seen[1]
        assert failed not in seen

    def test_as_a_task_does(self) -> None:
        async def main() -> None:
            future: Future[Any] = Future()
            assert not await is_done_by(future, monotonic() + 0.01)
            waiting = asyncio.create_task(is_done_by(future, None))
            future.set_exception(ConnectionLost("which is told nobody here"))
            assert await waiting

        asyncio.run(main())


def test_what_calls_are_told() -> None:
    before: Any = link_in(State.CLOSED).connection
    lost = not_renewed(before, AWAY)
    assert type(lost) is ConnectionLost
    assert str(lost) == "it has gone; then: cannot connect to a: nothing listens there"
    assert lost.__cause__ is AWAY
    assert not_renewed(before, STRANGER) is STRANGER
