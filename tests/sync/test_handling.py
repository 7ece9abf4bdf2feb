"""The threads that handle what comes: that work is never left lying, whoever is stuck."""

import logging
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from threading import get_ident
from typing import Any, cast

import pytest

from tests.support import PATIENCE, FakeServer, Gate, Log, RawPeer, Running, Workshop, agree
from typedrpc import ConnectionLost, RemoteError, Server, Service, connect, current_call, rpc
from typedrpc.callbacks import Callbacks
from typedrpc.codec import pack_plain
from typedrpc.common import handlers
from typedrpc.common.role import ReadRole
from typedrpc.dispatch import Dispatcher
from typedrpc.messages import Limits
from typedrpc.protocol import Protocol
from typedrpc.service import Table
from typedrpc.sync.handling import HandlerThreads
from typedrpc.sync.writer import Writer
from typedrpc.wire import HEADER, Kind

pytestmark = pytest.mark.usefixtures("no_leaks")

URL = "tcp://127.0.0.1:0"


@pytest.fixture
def workshop() -> Iterator[Workshop]:
    workshop = Workshop()
    yield workshop
    workshop.gates.open_all()


def request(command: int, call: int, *arguments: object) -> bytes:
    payload = pack_plain(list(arguments))
    return HEADER.pack(len(payload), Kind.REQUEST if call else Kind.NOTIFY, 0, command, call) + payload


ADD, WAIT, NOTE, BLOB = (command.id for command in (Workshop.add, Workshop.wait, Workshop.note, Workshop.blob))


@pytest.mark.parametrize("max_workers", [0, 1, 64])
def test_an_answer_is_not_kept_back_by_the_handler_of_what_came_with_it(max_workers: int, workshop: Workshop) -> None:
    """Answers leave together where that costs no time; here the second handler takes for ever."""
    with Server(workshop, url=URL, max_workers=max_workers) as server, RawPeer.dial(server.url) as peer:
        peer.shake_hands()
        peer.send(request(ADD, 1, 2, 3) + request(ADD, 3, 4, 5) + request(WAIT, 5, "a"))
        assert [peer.read_frame().call, peer.read_frame().call] == [1, 3]
        workshop.gates["a"].open()
        assert peer.read_frame().call == 5


@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_came_with_a_call_that_blocks_is_handled(place: int, workshop: Workshop) -> None:
    with Server(workshop, url=URL) as server, RawPeer.dial(server.url) as peer:
        peer.shake_hands()
        parts = [request(ADD, 3, 1), request(ADD, 5, 2)]
        parts.insert(place, request(WAIT, 1, "a"))
        peer.send(b"".join(parts))
        assert {peer.read_frame().call, peer.read_frame().call} == {3, 5}
        peer.send(request(ADD, 7, 3))
        assert peer.read_frame().call == 7
        workshop.gates["a"].open()
        assert peer.read_frame().call == 1


def test_one_way_calls_keep_their_order_beside_calls_that_block(workshop: Workshop) -> None:
    with Server(workshop, url=URL) as server, RawPeer.dial(server.url) as peer:
        peer.shake_hands()
        notes = [str(number) for number in range(300)]
        blocked = [request(WAIT, 2 * number + 1, str(number)) for number in range(10)]
        peer.send(b"".join(request(NOTE, 0, note) + (blocked.pop() if int(note) % 30 == 0 else b"") for note in notes))
        assert workshop.wait_for_notes(300) == notes
        for number in range(10):
            workshop.gates[str(number)].open()
        assert {peer.read_frame().call for _ in range(10)} == {2 * number + 1 for number in range(10)}


def test_one_way_calls_that_pile_up_stop_the_reading(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came is bounded; when it is handled, the rest is read, and nothing is lost."""
    monkeypatch.setattr(handlers, "HELD_BYTES", 100_000)
    with Server(workshop, url=URL, max_message_size=2000) as server, RawPeer.dial(server.url) as peer:
        peer.shake_hands()
        peer.send(request(WAIT, 0, "a"))
        workshop.started["a"].wait()

        def send() -> None:
            for number in range(20_000):
                peer.send(request(NOTE, 0, f"{number} {'x' * 1000}"))

        sending = Running(send)
        with connect(Workshop, server.url) as other:
            assert [other.add(number) for number in range(200)] == list(range(200))
        assert not sending.done
        assert workshop.notes == []
        workshop.gates["a"].open()
        sending.result()
        notes = workshop.wait_for_notes(20_000)
        assert [int(note.split()[0]) for note in notes] == list(range(20_000))


def test_a_thread_is_lent_although_a_callback_called_before_it_blocks() -> None:
    """In the callback the thread itself reads for a while; what is to be read afterwards is read by a lent one."""
    go_on, entered = Gate(), Gate()
    workshop = Workshop()
    with Server(workshop, url=URL) as server, connect(Workshop, server.url) as proxy:
        second: Future[int] = Future()

        def block(future: Future[str]) -> None:
            assert proxy.wait("first") == "first"
            proxy.add.submit(2).add_done_callback(lambda done: second.set_result(done.result()))
            entered.open()
            go_on.wait()

        proxy.wait.submit("start").add_done_callback(block)
        workshop.gates["start"].open()
        workshop.started["first"].wait()
        workshop.gates["first"].open()
        entered.wait()
        assert second.result(PATIENCE) == 2
        go_on.open()


def test_a_callback_that_fails_is_logged_and_ends_nothing(log: Log, workshop: Workshop) -> None:
    def fail(future: Future[str]) -> None:
        raise SystemExit

    with Server(workshop, url=URL) as server, connect(Workshop, server.url) as proxy:
        # Its reply is held back until the callback is there, so that the library's thread runs it.
        future = proxy.wait.submit("a")
        future.add_done_callback(fail)
        workshop.gates["a"].open()
        assert future.result(PATIENCE) == "a"
        assert log.line() == "a callback failed"
        assert proxy.add.submit(1).result(PATIENCE) == 1


class Asker(Service):
    def __init__(self) -> None:
        self.heard = ""

    @rpc
    def ask(self, question: Callable[[], int]) -> int:
        try:
            return question()
        except RemoteError as error:
            self.heard = str(error)
            return 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_is_raised_where_the_call_waits_and_is_not_logged_beside(
    log: Log, error: type[BaseException]
) -> None:
    def end() -> int:
        raise error

    asker = Asker()
    with Server(asker, url=URL) as server:
        with connect(Asker, server.url) as proxy, pytest.raises(error):
            proxy.ask(end)
    assert asker.heard == f"Asker.ask: callback 'question' failed at the peer with {error.__name__}"
    assert log.unread == []


def test_callbacks_that_wait_for_each_other(workshop: Workshop) -> None:
    barrier = threading.Barrier(8)
    met: list[int] = []
    done = Gate()

    def meet(future: Future[str]) -> None:
        met.append(barrier.wait(PATIENCE))
        if len(met) == 8:
            done.open()

    with Server(workshop, url=URL) as server, connect(Workshop, server.url) as proxy:
        for number in range(8):
            proxy.wait.submit(str(number)).add_done_callback(meet)
        for number in range(8):
            workshop.gates[str(number)].open()
        done.wait()
    assert sorted(met) == list(range(8))


def test_the_context_of_a_call_ends_with_it() -> None:
    """Threads are used again; neither the call nor anything that a handler set stays behind."""

    class Nosy(Service):
        @rpc
        def look(self) -> str:
            return current_call().command

        @rpc
        def fail(self) -> None:
            raise ValueError

    with Server(Nosy(), url=URL) as server, connect(Nosy, server.url) as nosy:
        for _ in range(20):
            assert nosy.look() == "Nosy.look"
            with pytest.raises(ValueError, match=r"^$"):
                nosy.fail()
    with pytest.raises(RuntimeError):
        current_call()


def test_calls_that_came_and_were_not_begun_when_the_peer_left(workshop: Workshop) -> None:
    """Nobody waits for them: they are not run. One-way calls are."""
    with Server(workshop, url=URL, max_workers=0) as server:
        with RawPeer.dial(server.url) as peer:
            peer.shake_hands()
            peer.send(request(WAIT, 1, "a") + request(WAIT, 3, "b") + request(NOTE, 0, "n"))
            workshop.started["a"].wait()
            left = server.peers
        with connect(Workshop, server.url) as other:
            assert other.add(1) == 1
        left[0].close()
        workshop.gates["a"].open()
        assert workshop.wait_for_notes(1) == ["n"]
        assert not workshop.started["b"].is_open


def test_answers_for_a_peer_that_left_are_dropped(workshop: Workshop, caplog: pytest.LogCaptureFixture) -> None:
    with Server(workshop, url=URL) as server, caplog.at_level(logging.WARNING):
        with RawPeer.dial(server.url) as peer:
            peer.shake_hands()
            peer.send(request(WAIT, 1, "a"))
            workshop.started["a"].wait()
        workshop.gates["a"].open()
        with connect(Workshop, server.url) as other:
            assert other.add(1) == 1
    assert caplog.messages == []


def test_a_future_whose_connection_ends_first() -> None:
    def script(peer: RawPeer) -> None:
        agree(peer)
        peer.question()
        peer.question()

    with FakeServer(script) as fake, connect(Workshop, fake.url) as proxy:
        futures = [proxy.add.submit(1), proxy.add.submit(2)]
        for future in futures:
            with pytest.raises(ConnectionLost):
                future.result(PATIENCE)


def test_large_and_small_answers_that_are_ready_together(workshop: Workshop) -> None:
    with Server(workshop, url=URL) as server, RawPeer.dial(server.url) as peer:
        peer.shake_hands()
        calls = range(1, 81, 2)
        peer.send(b"".join(request(BLOB, call, 100_000) if call % 3 else request(ADD, call, call) for call in calls))
        answers = {peer.read_frame().call for _ in calls}
        assert answers == set(calls)


class Pool:
    """Stands for the threads to lend and for their watcher: writes down what is asked, and runs it when told to."""

    def __init__(self, limit: int = 64) -> None:
        self.asked: list[str] = []
        self.bodies: list[Callable[[], None]] = []
        self.limit = limit

    def start(self, body: Callable[[], None]) -> None:
        self.asked.append("start")
        self.bodies.append(body)

    def lend(self, body: Callable[[], None]) -> bool:
        if self.limit <= 0:
            return False
        self.limit -= 1
        self.asked.append("lend")
        self.bodies.append(body)
        return True

    def watch(self, connection: object) -> None:
        self.asked.append("watch")


class Bare:
    """Handler threads of no connection; what is ready is done, and nothing is there to be read."""

    watched = False

    def __init__(self, *, limit: int = 64, wanted: bool = False) -> None:
        self.pool = Pool(limit)
        self.role = ReadRole()
        self.ours, self.other = socket.socketpair()
        self.ours.settimeout(PATIENCE)
        core: Protocol[Any] = Protocol(client=False, limits=Limits())
        nothing: Any = lambda *arguments: None  # noqa: E731
        writer = Writer(
            self.ours,
            self.role,
            may_read_ahead=lambda: False,
            read_ahead=nothing,
            end=nothing,
            stop_leading=self.role.release,
            leave=nothing,
            helper=nothing,
        )
        self.handlers = HandlerThreads(
            core,
            self.role,
            writer,
            read=nothing,
            readable=lambda: False,
            stop_leading=self.role.release,
            fault=nothing,
            runtime=lambda: cast(Any, (self.pool, self.pool)),
            watched=cast(Any, self),
            dispatcher=Dispatcher(Table(())),
            peer=cast(Any, None),
            attended=wanted,
            callbacks=Callbacks(),
            run_apart=nothing,
        )

    def look(self, now: float) -> float | None:
        return self.handlers.look_for_stall()

    def run_next(self) -> Running[None]:
        return Running(self.pool.bodies.pop(0))


@pytest.fixture
def bare() -> Iterator[Bare]:
    bare = Bare()
    yield bare
    bare.ours.close()
    bare.other.close()


class TestAttach:
    def test_the_first_is_started_and_only_one(self, bare: Bare) -> None:
        for _ in range(3):
            bare.handlers.attach()
        assert bare.pool.asked == ["start"]
        bare.run_next().result()  # finds nothing to do, and leaves
        bare.handlers.attach()
        assert bare.pool.asked == ["start", "start"]
        bare.run_next().result()

    def test_for_a_thread_that_stands_aside_another_comes_once(self, bare: Bare) -> None:
        """However deep the calls are nested in which it stands aside."""
        done: list[str] = []

        def nested(levels: int) -> None:
            mine = bare.handlers.step_aside()
            assert mine is (levels == 20)
            if levels:
                nested(levels - 1)
            else:
                for name in ("first", "second", "third"):
                    bare.handlers.ready.append(partial(done.append, name))
                    bare.handlers.call_for_help()
                assert bare.pool.asked.count("lend") == 1
                bare.run_next().result()
                assert done == ["first", "second", "third"]
                bare.handlers.attach()
                assert bare.pool.asked.count("lend") == 2
                bare.run_next().result()
            if mine:
                bare.handlers.step_back()

        bare.handlers.ready.append(partial(nested, 20))
        bare.handlers.attach()
        bare.run_next().result()
        assert done == ["first", "second", "third"]
        assert bare.pool.bodies == []

    def test_what_is_ready_when_a_thread_steps_aside_is_for_another(self, bare: Bare) -> None:
        done: list[int] = []

        def stand_aside() -> None:
            assert bare.handlers.step_aside()
            helper = bare.run_next()
            helper.result()
            assert len(done) == 1
            assert done != [get_ident()]
            bare.handlers.step_back()

        bare.handlers.ready.extend((stand_aside, lambda: done.append(get_ident())))
        bare.handlers.attach()
        bare.run_next().result()
        assert len(done) == 1

    def test_who_is_not_attached_does_not_stand_aside(self, bare: Bare) -> None:
        assert not bare.handlers.step_aside()
        assert bare.pool.asked == []

    def test_where_none_is_left_the_thread_itself_comes_back_to_it(self) -> None:
        bare = Bare(limit=0)
        done: list[int] = []

        def stand_aside() -> None:
            assert bare.handlers.step_aside()
            bare.handlers.ready.append(lambda: done.append(get_ident()))
            bare.handlers.call_for_help()
            assert bare.pool.bodies == []
            bare.handlers.step_back()

        bare.handlers.ready.append(stand_aside)
        bare.handlers.attach()
        attached = bare.run_next()
        attached.result()
        assert done == [attached.thread.ident]
        bare.ours.close()
        bare.other.close()

    def test_who_is_interrupted_while_a_thread_is_started_leaves_no_trace(self, bare: Bare) -> None:
        def interrupt(body: Callable[[], None]) -> None:
            bare.pool.bodies.append(body)
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bare.pool, "start", interrupt)
            with pytest.raises(KeyboardInterrupt):
                bare.handlers.attach()
        bare.run_next().result()  # it was begun all the same, and finds that it is not counted
        bare.handlers.attach()
        assert bare.pool.asked == ["start"]
        bare.run_next().result()
        bare.handlers.attach()
        assert bare.pool.asked == ["start", "start"]


class TestWhenOver:
    def test_it_is_told_once_when_all_has_been_done(self, bare: Bare) -> None:
        told: list[str] = []
        bare.handlers.when_over(lambda: told.append("over"))
        assert told == []

        def work() -> None:
            bare.handlers.end()
            assert told == []

        bare.handlers.ready.append(work)
        bare.handlers.attach()
        bare.run_next().result()
        assert told == ["over"]
        bare.handlers.end()
        assert told == ["over"]

    def test_it_is_told_at_once_when_it_is_over_already(self, bare: Bare) -> None:
        told: list[str] = []
        bare.handlers.end()
        bare.handlers.when_over(lambda: told.append("over"))
        assert told == ["over"]

    def test_what_runs_nested_is_waited_for(self, bare: Bare) -> None:
        told: list[str] = []
        bare.handlers.when_over(lambda: told.append("over"))
        bare.handlers.busy.append(None)
        bare.handlers.end()
        assert told == []
        assert bare.handlers.run_nested(deque()) is None
        assert told == []
        bare.handlers.busy.pop()
        assert bare.handlers.run_nested(deque()) is None
        assert told == ["over"]

    def test_what_is_ready_at_the_end_is_done_first(self, bare: Bare) -> None:
        told: list[str] = []
        bare.handlers.when_over(lambda: told.append("over"))
        bare.handlers.ready.append(lambda: told.append("done"))
        bare.handlers.end()
        assert told == []
        bare.run_next().result()
        assert told == ["done", "over"]
