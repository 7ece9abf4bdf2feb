"""What comes is handled: work is never left lying, whoever is stuck, and answers leave when they are ready."""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from tests.ends import Colours, alike, for_clients, for_servers
from tests.support import PATIENCE, FakeServer, Gate, Log, RawPeer, Running, Workshop, agree
from typedrpc import ConnectionLost, RemoteError, Service, current_call, rpc
from typedrpc.codec import pack_plain
from typedrpc.common import handlers
from typedrpc.wire import HEADER, Kind

pytestmark = pytest.mark.usefixtures("no_leaks")
colours = alike

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


@for_servers
@pytest.mark.parametrize("max_workers", [0, 1, 64])
def test_an_answer_is_not_kept_back_by_the_handler_of_what_came_with_it(
    max_workers: int, workshop: Workshop, colours: Colours
) -> None:
    """Answers leave together where that costs no time; here the second handler takes for ever."""
    with colours.serve(workshop, max_workers=max_workers) as server, RawPeer.dial(server.url) as peer:
        peer.shake_hands()
        peer.send(request(ADD, 1, 2, 3) + request(ADD, 3, 4, 5) + request(WAIT, 5, "a"))
        assert [peer.read_frame().call, peer.read_frame().call] == [1, 3]
        workshop.gates["a"].open()
        assert peer.read_frame().call == 5


@for_servers
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_came_with_a_call_that_blocks_is_handled(place: int, workshop: Workshop, colours: Colours) -> None:
    with colours.serve(workshop) as server, RawPeer.dial(server.url) as peer:
        peer.shake_hands()
        parts = [request(ADD, 3, 1), request(ADD, 5, 2)]
        parts.insert(place, request(WAIT, 1, "a"))
        peer.send(b"".join(parts))
        assert {peer.read_frame().call, peer.read_frame().call} == {3, 5}
        peer.send(request(ADD, 7, 3))
        assert peer.read_frame().call == 7
        workshop.gates["a"].open()
        assert peer.read_frame().call == 1


@for_servers
def test_one_way_calls_keep_their_order_beside_calls_that_block(workshop: Workshop, colours: Colours) -> None:
    with colours.serve(workshop) as server, RawPeer.dial(server.url) as peer:
        peer.shake_hands()
        notes = [str(number) for number in range(300)]
        blocked = [request(WAIT, 2 * number + 1, str(number)) for number in range(10)]
        peer.send(b"".join(request(NOTE, 0, note) + (blocked.pop() if int(note) % 30 == 0 else b"") for note in notes))
        assert workshop.wait_for_notes(300) == notes
        for number in range(10):
            workshop.gates[str(number)].open()
        assert {peer.read_frame().call for _ in range(10)} == {2 * number + 1 for number in range(10)}


@for_servers
def test_one_way_calls_that_pile_up_stop_the_reading(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, colours: Colours
) -> None:
    """What came is bounded; when it is handled, the rest is read, and nothing is lost."""
    monkeypatch.setattr(handlers, "HELD_BYTES", 100_000)
    with colours.serve(workshop, max_message_size=2000) as server, RawPeer.dial(server.url) as peer:
        peer.shake_hands()
        peer.send(request(WAIT, 0, "a"))
        workshop.started["a"].wait()

        def send() -> None:
            for number in range(20_000):
                peer.send(request(NOTE, 0, f"{number} {'x' * 1000}"))

        sending = Running(send)
        with colours.connect(Workshop, server.url) as other:
            assert [other.add(number) for number in range(200)] == list(range(200))
        assert not sending.done
        assert workshop.notes == []
        workshop.gates["a"].open()
        sending.result()
        notes = workshop.wait_for_notes(20_000)
        assert [int(note.split()[0]) for note in notes] == list(range(20_000))


@for_servers
def test_a_thread_is_lent_although_a_callback_called_before_it_blocks(colours: Colours) -> None:
    """In the callback the thread itself reads for a while; what is to be read afterwards is read by a lent one."""
    go_on, entered = Gate(), Gate()
    workshop = Workshop()
    with colours.serve(workshop) as server, colours.connect(Workshop, server.url) as proxy:
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


def test_a_callback_that_fails_is_logged_and_ends_nothing(log: Log, workshop: Workshop, colours: Colours) -> None:
    def fail(future: Future[str]) -> None:
        raise SystemExit

    with colours.serve(workshop) as server, colours.connect(Workshop, server.url) as proxy:
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
    log: Log, error: type[BaseException], colours: Colours
) -> None:
    def end() -> int:
        raise error

    asker = Asker()
    with colours.serve(asker) as server:
        with colours.connect(Asker, server.url) as proxy, pytest.raises(error):
            proxy.ask(end)
    assert asker.heard == f"Asker.ask: callback 'question' failed at the peer with {error.__name__}"
    assert log.unread == []


@for_servers
def test_callbacks_that_wait_for_each_other(workshop: Workshop, colours: Colours) -> None:
    barrier = threading.Barrier(8)
    met: list[int] = []
    done = Gate()

    def meet(future: Future[str]) -> None:
        met.append(barrier.wait(PATIENCE))
        if len(met) == 8:
            done.open()

    with colours.serve(workshop) as server, colours.connect(Workshop, server.url) as proxy:
        for number in range(8):
            proxy.wait.submit(str(number)).add_done_callback(meet)
        for number in range(8):
            workshop.gates[str(number)].open()
        done.wait()
    assert sorted(met) == list(range(8))


def test_the_context_of_a_call_ends_with_it(colours: Colours) -> None:
    """Threads are used again; neither the call nor anything that a handler set stays behind."""

    class Nosy(Service):
        @rpc
        def look(self) -> str:
            return current_call().command

        @rpc
        def fail(self) -> None:
            raise ValueError

    with colours.serve(Nosy()) as server, colours.connect(Nosy, server.url) as nosy:
        for _ in range(20):
            assert nosy.look() == "Nosy.look"
            with pytest.raises(ValueError, match=r"^$"):
                nosy.fail()
    with pytest.raises(RuntimeError):
        current_call()


@for_servers
def test_calls_that_came_and_were_not_begun_when_the_peer_left(workshop: Workshop, colours: Colours) -> None:
    """Nobody waits for them: they are not run. One-way calls are."""
    with colours.serve(workshop, max_workers=0) as server:
        with RawPeer.dial(server.url) as peer:
            peer.shake_hands()
            peer.send(request(WAIT, 1, "a") + request(WAIT, 3, "b") + request(NOTE, 0, "n"))
            workshop.started["a"].wait()
            left = server.peers
        with colours.connect(server.url):  # others come in all the same
            pass
        left[0].close()
        workshop.gates["a"].open()
        assert workshop.wait_for_notes(1) == ["n"]
        assert not workshop.started["b"].is_open


@for_servers
def test_answers_for_a_peer_that_left_are_dropped(
    workshop: Workshop, caplog: pytest.LogCaptureFixture, colours: Colours
) -> None:
    with colours.serve(workshop) as server, caplog.at_level(logging.WARNING):
        with RawPeer.dial(server.url) as peer:
            peer.shake_hands()
            peer.send(request(WAIT, 1, "a"))
            workshop.started["a"].wait()
        workshop.gates["a"].open()
        with colours.connect(Workshop, server.url) as other:
            assert other.add(1) == 1
    assert caplog.messages == []


@for_clients
def test_a_future_whose_connection_ends_first(colours: Colours) -> None:
    def script(peer: RawPeer) -> None:
        agree(peer)
        peer.question()
        peer.question()

    with FakeServer(script) as fake, colours.connect(Workshop, fake.url) as proxy:
        futures = [proxy.add.submit(1), proxy.add.submit(2)]
        for future in futures:
            with pytest.raises(ConnectionLost):
                future.result(PATIENCE)


@for_servers
def test_large_and_small_answers_that_are_ready_together(workshop: Workshop, colours: Colours) -> None:
    with colours.serve(workshop) as server, RawPeer.dial(server.url) as peer:
        peer.shake_hands()
        calls = range(1, 81, 2)
        peer.send(b"".join(request(BLOB, call, 100_000) if call % 3 else request(ADD, call, call) for call in calls))
        answers = {peer.read_frame().call for _ in calls}
        assert answers == set(calls)
