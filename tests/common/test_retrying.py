"""Keys of calls, whether a call goes on, and the thread that sends calls again that no thread waits for."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import PATIENCE, Gate
from typedrpc import ConnectFailed, ConnectionLost, OutcomeUnknown, Retry, ServerBusy, Service, rpc
from typedrpc.codec import Segmented
from typedrpc.common.redial import Redial
from typedrpc.common.retrying import Again, Keys, Pursuit, own
from typedrpc.options import DEFAULT_OPTIONS
from typedrpc.protocol import State


class Desk(Service):
    @rpc
    def run(self) -> None: ...

    @rpc(idempotent=True)
    def look(self) -> None: ...


def connection(
    state: State = State.CLOSED, *, left: bool = False, forked: bool = False, incarnation: bytes = b"the one"
) -> Any:
    core = SimpleNamespace(state=state, peer_hello=SimpleNamespace(incarnation=incarnation))
    return SimpleNamespace(core=core, ended=state is State.CLOSED, left=left, forked=forked)


def again(retry: Retry | None = None) -> Again:
    dialled: Future[Any] = Future()
    dialled.set_result("link")
    redial: Any = SimpleNamespace(join=lambda: dialled, forsake=lambda: None)
    return Again(retry, redial, lambda body: threading.Thread(target=body, daemon=True).start())


def pursuit(of: Again, command: Any = Desk.run, end: float | None = None) -> Pursuit:
    return Pursuit(of, command, DEFAULT_OPTIONS, end)


QUICK = Retry(first_delay=0.001, max_delay=0.001)


class TestKeys:
    def test_they_count_from_0_and_are_wanted_until_they_are_dropped(self) -> None:
        keys = Keys()
        assert (keys.next, keys.wanted_from()) == (0, 0)
        assert [keys.take() for _ in range(3)] == [0, 1, 2]
        keys.drop(1)
        assert (keys.next, keys.wanted_from()) == (3, 0)
        keys.drop(0)
        keys.drop(0)
        assert keys.wanted_from() == 2
        keys.drop(2)
        assert keys.wanted_from() == 3

    def test_no_two_clients_have_the_same_session(self) -> None:
        assert Keys().session != Keys().session

    def test_a_forked_child_is_another_client(self) -> None:
        client = again(QUICK)
        before = client.keys
        assert before is not None
        client.forsake()
        assert client.keys is not None
        assert client.keys.session != before.session


class TestPursuit:
    @pytest.mark.parametrize(
        ("retry", "command", "error", "goes_on"),
        [
            (None, Desk.run, ConnectionLost("it did not run"), True),
            (None, Desk.run, OutcomeUnknown("who knows"), False),
            (None, Desk.look, OutcomeUnknown("who knows"), False),
            (QUICK, Desk.run, ConnectionLost("it did not run"), True),
            (QUICK, Desk.run, OutcomeUnknown("who knows"), True),
            (QUICK, Desk.look, OutcomeUnknown("who knows"), True),
        ],
    )
    def test_what_is_sent_again(self, retry: Retry | None, command: Any, error: ConnectionLost, goes_on: bool) -> None:
        call = pursuit(again(retry), command)
        call.sent(connection())
        assert call.goes_on(error) is goes_on

    @pytest.mark.parametrize("sent_on", [connection(left=True), connection(forked=True)])
    def test_not_what_this_side_has_closed_nor_what_is_the_parents(self, sent_on: Any) -> None:
        call = pursuit(again(QUICK))
        call.sent(sent_on)
        assert not call.goes_on(ConnectionLost("gone"))

    def test_nor_where_the_server_says_that_it_does_not_know(self) -> None:
        call = pursuit(again(QUICK))
        call.sent(connection(State.OPEN))
        assert not call.goes_on(OutcomeUnknown("the answer is gone"))

    @pytest.mark.parametrize("cause", [ConnectFailed("tcp://h:1", "refused"), ServerBusy("full")])
    def test_nor_where_nobody_could_be_reached(self, cause: Exception) -> None:
        lost = ConnectionLost("gone")
        lost.__cause__ = cause
        assert not pursuit(again(QUICK)).goes_on(lost)

    def test_nor_for_a_closed_client(self) -> None:
        client = again(QUICK)
        call = pursuit(client)
        call.sent(connection())
        client.close()
        assert not call.goes_on(ConnectionLost("gone"))

    def test_once_by_default(self) -> None:
        call = pursuit(again())
        for expected in (True, False):
            assert call.sent(connection()) is None
            assert call.goes_on(ConnectionLost("it did not run")) is expected

    def test_as_often_as_it_is_told(self) -> None:
        call = pursuit(again(Retry(attempts=3, first_delay=0.001)))
        seen = []
        for _ in range(3):
            call.sent(connection())
            seen.append(call.goes_on(ConnectionLost("it did not run")))
        assert seen == [True, True, False]

    def test_and_as_long(self) -> None:
        call = pursuit(again(Retry(first_delay=1.0, total=1e-12)))
        call.sent(connection())
        assert not call.goes_on(OutcomeUnknown("who knows"))

    def test_only_attempts_that_may_have_run_are_counted(self) -> None:
        call = pursuit(again(QUICK))
        assert call.sent(connection()) == (0, 0, 0)
        assert call.goes_on(ConnectionLost("it did not run"))
        assert call.sent(connection()) == (0, 0, 0)
        assert call.goes_on(OutcomeUnknown("who knows"))
        assert call.sent(connection()) == (0, 1, 0)

    def test_where_it_may_have_run_is_the_only_place_that_it_is_sent_to(self) -> None:
        call = pursuit(again(QUICK))
        call.sent(connection(incarnation=b"one"))
        assert call.goes_on(ConnectionLost("it did not run"))
        call.sent(connection(incarnation=b"two"))
        assert call.goes_on(OutcomeUnknown("who knows"))
        assert call.sent(connection(incarnation=b"two")) == (0, 1, 0)
        assert call.goes_on(ConnectionLost("it did not run this time"))
        elsewhere = connection(incarnation=b"one")
        with pytest.raises(OutcomeUnknown, match=r"Desk\.run: it may have run") as caught:
            call.sent(elsewhere)
        assert not call.goes_on(caught.value)

    def test_nor_where_the_server_did_not_say_who_it_is(self) -> None:
        call = pursuit(again(QUICK))
        call.sent(connection(incarnation=b""))
        assert not call.goes_on(OutcomeUnknown("who knows"))

    def test_an_idempotent_one_may_run_anywhere(self) -> None:
        call = pursuit(again(QUICK), Desk.look)
        for incarnation in (b"one", b"two", b""):
            assert call.sent(connection(incarnation=incarnation)) is None
            assert call.goes_on(OutcomeUnknown("who knows"))

    def test_its_options_have_the_time_that_is_left(self) -> None:
        left = pursuit(again(), end=monotonic() + 10).options.timeout
        assert left is not None
        assert 0 < left <= 10
        assert pursuit(again(), end=monotonic() - 1).options.timeout == 0.0
        assert pursuit(again()).options.timeout is None


class TestLater:
    def test_calls_are_sent_in_order_by_one_thread(self) -> None:
        client, done = again(), Gate()
        sent: list[tuple[int, int]] = []

        def send(number: int) -> None:
            sent.append((number, threading.get_ident()))
            if number == 4:
                done.open()

        holds = Gate()
        client.resend(pursuit(client), lambda dialled: holds.wait())
        for number in range(5):
            client.resend(pursuit(client), lambda dialled, number=number: send(number))  # type: ignore[misc]
        holds.open()
        done.wait()
        assert [number for number, _ in sent] == list(range(5))
        assert len({thread for _, thread in sent}) == 1

    @pytest.mark.parametrize("why", ["its deadline has passed", "the client is closed"])
    def test_one_that_waits_no_longer_for_a_connection(self, why: str) -> None:
        never: Future[Any] = Future()
        client = again()
        client = Again(None, _redial(never), client._later.start)
        told: Future[object] = Future()
        end = monotonic() + 0.01 if why == "its deadline has passed" else None
        client.resend(pursuit(client, end=end), told.set_result)
        if end is None:
            client.close()
        assert told.result(PATIENCE) is None

    def test_one_that_fails_does_not_keep_the_others_from_being_sent(self, caplog: pytest.LogCaptureFixture) -> None:
        client, holds = again(), Gate()
        told: Future[object] = Future()

        def fail(dialled: object) -> None:
            holds.wait()
            raise SystemExit

        client.resend(pursuit(client), fail)
        client.resend(pursuit(client), told.set_result)
        holds.open()
        assert told.result(PATIENCE) is not None
        assert "could not be told" in caplog.text

    def test_where_its_thread_ends_all_are_told_and_another_one_sends_what_comes_next(self) -> None:
        dialled: Future[Any] = Future()
        dialled.set_result("link")
        joined: list[bool] = []

        def join() -> "Future[Any]":
            joined.append(True)
            if len(joined) == 1:
                raise MemoryError
            return dialled

        redial: Any = SimpleNamespace(join=join)
        ended: Future[BaseException] = Future()

        def start(body: Callable[[], None]) -> None:
            def run() -> None:
                try:
                    body()
                except MemoryError as error:
                    ended.set_result(error)

            threading.Thread(target=run, daemon=True).start()

        client = Again(None, redial, start)
        first: Future[Any] = Future()
        client.resend(pursuit(client), first.set_result)
        assert isinstance(first.result(PATIENCE).exception(), ConnectionLost)
        assert isinstance(ended.result(PATIENCE), MemoryError)
        second: Future[Any] = Future()
        client.resend(pursuit(client), second.set_result)
        assert second.result(PATIENCE) is dialled


def _redial(future: "Future[Any]") -> Redial:
    redial: Any = SimpleNamespace(join=lambda: future)
    return redial  # type: ignore[no-any-return]


def test_arguments_that_are_kept_do_not_change_with_the_buffers_of_the_caller() -> None:
    buffer = bytearray(b"before")
    kept = own(Segmented(b"body", [memoryview(buffer)]))
    buffer[:] = b"after!"
    assert kept == Segmented(b"body", [b"before"])
    assert own(b"body") == b"body"
