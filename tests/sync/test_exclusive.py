"""Servers that take so many clients at a time: who is in, who waits, who is turned away."""

import signal
import socket
from collections.abc import Iterator

import pytest

from tests.ends import Ends, alike_ends
from tests.support import Gate, Log, Program, Running, Visitor, Workshop, in_time, run_all
from typedrpc import (
    ConnectFailed,
    ConnectionLost,
    ConnectTimeout,
    Server,
    ServerBusy,
)
from typedrpc.admission import Answer
from typedrpc.codec import unpack_plain
from typedrpc.common.stay import Stay
from typedrpc.messages import Leave
from typedrpc.wire import Kind

pytestmark = pytest.mark.usefixtures("no_leaks")
ends = alike_ends

URL = "tcp://127.0.0.1:0"


@pytest.fixture
def workshop() -> Iterator[Workshop]:
    workshop = Workshop()
    yield workshop
    workshop.gates.open_all()


def enter(url: str) -> Visitor:
    """A client that is let in at once."""
    visitor = Visitor.dial(url).shake_hands(welcome=False)
    assert visitor.is_let_in()
    return visitor


def stand_in_line(url: str) -> Visitor:
    """A client that has been told to wait."""
    visitor = Visitor.dial(url).shake_hands(welcome=False)
    frame = visitor.read_frame()
    assert frame.kind == Kind.QUEUED, str(frame)
    return visitor


def note_when_free(server: Server) -> Gate:
    """A gate that opens when the first place is free again."""
    gate, on_over = Gate(), server._on_over

    def note(stay: Stay) -> None:
        on_over(stay)
        gate.open()

    server._on_over = note  # type: ignore[method-assign]
    return gate


def note_when_waiting(server: Server, count: int) -> Gate:
    """A gate that opens when so many stand in line."""
    gate, ask = Gate(), server._admission.ask

    def note(who: Stay) -> Answer:
        answer = ask(who)
        if server._admission.waiting == count:
            gate.open()
        return answer

    server._admission.ask = note  # type: ignore[method-assign]
    return gate


class TestRefusing:
    def test_a_further_client_is_told_how_many_are_in(self, ends: Ends, workshop: Workshop) -> None:
        with ends.Server(workshop, url=URL, max_clients=2) as server:
            with ends.connect(Workshop, server.url) as one, ends.connect(Workshop, server.url) as two:
                for timeout in (None, 20.0):
                    with pytest.raises(ServerBusy, match=r"^2 of 2 clients are in$"):
                        ends.connect(Workshop, server.url, timeout=timeout)
                assert one.add(1) + two.add(2) == 3
                assert len(server.peers) == 2

    def test_by_a_goodbye_with_a_code(self, ends: Ends, workshop: Workshop) -> None:
        with ends.Server(workshop, url=URL, max_clients=1) as server, ends.connect(Workshop, server.url):
            with Visitor.dial(server.url).shake_hands(welcome=False) as peer:
                [frame] = peer.read_frames_to_end()
                assert frame.kind == Kind.GOODBYE
                assert unpack_plain(frame.payload) == [0, "1 of 1 clients are in", Leave.BUSY]

    def test_a_place_is_free_again(self, ends: Ends, workshop: Workshop) -> None:
        server = ends.Server(workshop, url=URL, max_clients=1)
        free = note_when_free(server)
        with server:
            with ends.connect(Workshop, server.url) as proxy:
                assert proxy.add(1) == 1
            free.wait()
            with ends.connect(Workshop, server.url) as proxy:
                assert proxy.add(2) == 2

    def test_strangers_take_no_place(self, ends: Ends, workshop: Workshop) -> None:
        with ends.Server(workshop, url=URL, max_clients=1) as server:
            with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))):
                with ends.connect(Workshop, server.url) as proxy:
                    assert proxy.add(1) == 1

    @pytest.mark.parametrize("options", [{"max_clients": 0}, {"when_full": "perhaps"}])
    def test_what_makes_no_sense(self, ends: Ends, options: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="must be"):
            ends.Server(Workshop(), url=URL, **options)  # type: ignore[arg-type]


class TestWaiting:
    def test_a_second_client_waits_until_its_time_is_over(self, ends: Ends, workshop: Workshop) -> None:
        with ends.Server(workshop, url=URL, max_clients=1, when_full="wait") as server:
            with ends.connect(Workshop, server.url) as proxy:
                working = Running(proxy.wait, "job")
                workshop.started["job"].wait()

                def waits_in_time(timeout: float) -> bool:
                    with pytest.raises(ConnectTimeout) as caught:
                        ends.connect(Workshop, server.url, timeout=timeout)
                    return str(caught.value).endswith("the server had no place in time: 1 of 1 clients are in")

                in_time(waits_in_time)
                assert not working.done
                assert proxy.add(1, 2) == 3
                workshop.gates["job"].open()
                assert working.result() == "job"

    def test_the_next_is_let_in_when_the_first_leaves(self, ends: Ends, workshop: Workshop) -> None:
        with ends.Server(workshop, url=URL, max_clients=1, when_full="wait") as server:
            first = ends.connect(Workshop, server.url)
            with stand_in_line(server.url) as second, stand_in_line(server.url) as third:
                assert len(server.peers) == 1
                first.close()
                assert second.is_let_in()
                assert len(server.peers) == 1
                second.sock.close()
                assert third.is_let_in()

    def test_a_client_that_waits_and_gets_its_place(self, ends: Ends, workshop: Workshop) -> None:
        server = ends.Server(workshop, url=URL, max_clients=1, when_full="wait")
        waits = note_when_waiting(server, 1)
        with server:
            first = ends.connect(Workshop, server.url)
            waiting = Running(lambda: ends.connect(Workshop, server.url))
            waits.wait()
            assert not waiting.done
            first.close()
            with waiting.result() as proxy:
                assert proxy.add(1) == 1

    def test_the_line_keeps_its_order_when_half_of_it_leaves(self, ends: Ends, workshop: Workshop) -> None:
        with ends.Server(workshop, url=URL, max_clients=1, when_full="wait") as server:
            first = enter(server.url)
            line = [stand_in_line(server.url) for _ in range(50)]
            leaving = line[::2]
            run_all([peer.sock.close for peer in leaving])
            first.sock.close()
            for number, peer in enumerate(line[1::2]):
                assert peer.is_let_in()
                assert len(server.peers) == 1, number
                assert all(other.hears_nothing() for other in line[1::2][number + 1 :])
                peer.sock.close()

    def test_a_client_that_calls_before_it_is_let_in_is_cut_off(self, ends: Ends, workshop: Workshop, log: Log) -> None:
        with (
            ends.Server(workshop, url=URL, max_clients=1, when_full="wait") as server,
            ends.connect(Workshop, server.url),
        ):
            with stand_in_line(server.url) as peer:
                peer.send_frame(Kind.REQUEST, 1, 1, b"\x90")
                assert [frame.kind for frame in peer.read_frames_to_end()] == [Kind.GOODBYE]
            assert "a call before the welcome" in log.line()

    def test_a_place_is_not_free_while_a_handler_runs(self, ends: Ends, workshop: Workshop) -> None:
        with ends.Server(workshop, url=URL, max_clients=1, when_full="wait") as server:
            with ends.connect(Workshop, server.url) as proxy:
                working = Running(proxy.wait, "job")
                workshop.started["job"].wait()
            assert isinstance(working.error(), ConnectionLost)
            with stand_in_line(server.url) as second:
                assert second.hears_nothing()
                workshop.gates["job"].open()
                assert second.is_let_in()

    def test_the_server_closes_while_clients_wait(self, ends: Ends, workshop: Workshop) -> None:
        server = ends.Server(workshop, url=URL, max_clients=1, when_full="wait")
        wait = note_when_waiting(server, 4)
        with server, ends.connect(Workshop, server.url):
            waiting = [Running(ends.connect, server.url) for _ in range(2)]
            waiting.append(Running(lambda: ends.connect(server.url, timeout=20.0)))
            with stand_in_line(server.url) as peer:
                wait.wait()
                server.close()
                for one in waiting:
                    error = one.error()
                    assert isinstance(error, ConnectFailed)
                    assert not isinstance(error, ConnectTimeout)
                    assert "the server is closing" in str(error)
                assert {frame.kind for frame in peer.read_frames_to_end()} == {Kind.GOODBYE}

    def test_the_line_is_not_endless(self, ends: Ends, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("typedrpc.admission.MAX_WAITING", 2)
        with (
            ends.Server(workshop, url=URL, max_clients=1, when_full="wait") as server,
            ends.connect(Workshop, server.url),
        ):
            with stand_in_line(server.url), stand_in_line(server.url):
                with pytest.raises(ServerBusy, match=r"^1 of 1 clients are in, and 2 wait$"):
                    ends.connect(Workshop, server.url)


class TestProcesses:
    CLIENT = """
        from typedrpc import connect
        from tests.support import Workshop
        with connect(Workshop, {url!r}) as proxy:
            say("in", proxy.add(1, 2))
            hear()
    """

    def test_a_killed_client_leaves_its_place_to_the_next(self, ends: Ends, workshop: Workshop) -> None:
        with ends.Server(workshop, url=URL, max_clients=1, when_full="wait") as server:
            with Program(self.CLIENT.format(url=server.url)) as first:
                assert first.hear() == "in 3"
                with stand_in_line(server.url) as second:
                    first.signal(signal.SIGKILL)
                    assert second.is_let_in()
                    assert len(server.peers) == 1

    def test_a_client_that_is_killed_in_line(self, ends: Ends, workshop: Workshop) -> None:
        with ends.Server(workshop, url=URL, max_clients=1, when_full="wait") as server:
            first = enter(server.url)
            told = """
                from tests.support import Visitor
                peer = Visitor.dial({url!r}).shake_hands(welcome=False)
                say(peer.read_frame().kind)
                hear()
            """
            with Program(told.format(url=server.url)) as second:
                assert second.hear() == str(int(Kind.QUEUED))
                with stand_in_line(server.url) as third:
                    second.signal(signal.SIGKILL)
                    second.process.wait()
                    first.sock.close()
                    assert third.is_let_in()
