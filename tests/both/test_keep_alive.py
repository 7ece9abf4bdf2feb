"""A peer that has died without a word is found, in either direction; who lives is left alone.

The ends have so short a time for it that the tests need not wait, and nothing here says how long anything may take.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest

from tests.ends import Colours, alike, for_clients, for_servers
from tests.support import FakeServer, Forwarder, Gate, Log, Program, RawPeer, Running, Workshop, agree, hello, until
from tests.support import serving_process as serving
from typedrpc import ConnectionLost, DeadlineExceeded, RpcError, Server, connect
from typedrpc.agreement import digest_of
from typedrpc.codec import pack_plain
from typedrpc.common import handlers
from typedrpc.service import services_of
from typedrpc.transport import Delivery
from typedrpc.wire import HEADER, PREAMBLE, Frame, Kind

pytestmark = pytest.mark.usefixtures("no_leaks")
colours = alike

SHORT = 0.2
"""Seconds after which a peer is taken for dead."""

ADD, WAIT, NOTE = Workshop.add.id, Workshop.wait.id, Workshop.note.id


@pytest.fixture
def workshop() -> Iterator[Workshop]:
    workshop = Workshop()
    yield workshop
    workshop.gates.open_all()


def reader(url: str) -> RawPeer:
    """A client that says that it reads all the time."""
    peer = RawPeer.dial(url)
    peer.send(PREAMBLE + hello(features=["reads"]))
    assert peer.read_frame().kind == Kind.HELLO
    return peer


def request(command: int, call: int, *arguments: object) -> bytes:
    payload = pack_plain(list(arguments))
    return HEADER.pack(len(payload), Kind.REQUEST if call else Kind.NOTIFY, 0, command, call) + payload


def silence(peer: RawPeer) -> None:
    """As a server: agree, and then read and say nothing, as if a cable had been pulled."""
    agree(peer)
    peer.read_to_end()


def was_silent(error: BaseException | None) -> bool:
    return (
        isinstance(error, ConnectionLost)
        and f"nothing came from the peer for {SHORT:g} s" in str(error)
        and isinstance(error.__cause__, TimeoutError)
    )


# A server and its clients


@for_servers
def test_a_client_that_reads_is_asked_and_cut_off_when_it_does_not_answer(colours: Colours, log: Log) -> None:
    with colours.serve(Workshop(), keep_alive=SHORT) as server, reader(server.url) as peer:
        assert [frame.kind for frame in peer.read_frames_to_end()] == [Kind.PING, Kind.GOODBYE]
        line = log.line()
    assert "was cut off" in line
    assert "nothing came from the peer for 0.2 s, though it was asked" in line


@for_servers
def test_a_client_that_answers_stays(colours: Colours, log: Log) -> None:
    with colours.serve(Workshop(), keep_alive=SHORT) as server, reader(server.url) as peer:
        for _ in range(5):
            ping = peer.read_frame()
            assert ping.kind == Kind.PING
            assert ping.payload == b""
            peer.send_frame(Kind.PONG, 0, ping.call, b"")
        peer.send(request(ADD, 1, 2, 3))
        while (answer := peer.read_frame()).kind == Kind.PING:
            peer.send_frame(Kind.PONG, 0, 0, b"")
        assert (answer.kind, answer.call) == (Kind.RESPONSE, 1)
    assert log.unread == []


@for_servers
def test_an_idle_client_without_a_reader_is_neither_asked_nor_cut_off(colours: Colours, log: Log) -> None:
    with colours.serve(Workshop(), keep_alive=SHORT) as server, RawPeer.dial(server.url) as idle:
        idle.shake_hands()
        for _ in range(2):  # meanwhile others are found dead, one after another
            with reader(server.url) as peer:
                peer.read_to_end()
            assert "nothing came" in log.line()
        idle.send(request(ADD, 1, 2, 3))
        assert idle.read_frame().kind == Kind.RESPONSE
        assert len(server.peers) == 1


@for_servers
def test_a_client_that_has_a_call_to_answer_is_asked(colours: Colours, log: Log) -> None:
    """It reads, although it does not say that it always does."""

    callers: list[Running[str]] = []
    with colours.serve(Workshop(), keep_alive=SHORT) as server, RawPeer.dial(server.url) as peer:
        peer.send(PREAMBLE + hello(services={"Workshop": digest_of_workshop()}))
        assert peer.read_frame().kind == Kind.HELLO
        until(lambda: server.peers, "it is let in")
        callers.append(Running(server.peers[0].proxy(Workshop).wait, "never"))
        assert [frame.kind for frame in peer.read_frames_to_end()][-2:] == [Kind.PING, Kind.GOODBYE]
        assert was_silent(callers[0].error())
        log.line()


def digest_of_workshop() -> bytes:
    return digest_of(services_of(Workshop)["Workshop"])


@for_servers
def test_none_is_never(colours: Colours, log: Log) -> None:
    with colours.serve(Workshop(), keep_alive=None) as server, reader(server.url) as quiet:
        with colours.serve(Workshop(), keep_alive=SHORT) as other, reader(other.url) as peer:
            peer.read_to_end()
        log.line()
        quiet.send(request(ADD, 1, 2, 3))
        assert quiet.read_frame().kind == Kind.RESPONSE


@for_servers
def test_a_client_that_was_stopped(colours: Colours, log: Log) -> None:
    program = """
        from tests.support import Workshop
        from typedrpc import connect
        with connect(Workshop, hear(), on_disconnect=lambda peer, cause: None) as workshop:
            say(workshop.add(1))
            hear()
    """
    with colours.serve(Workshop(), keep_alive=SHORT) as server, Program(program, measured=False) as client:
        client.say(server.url)
        assert client.hear() == "1"
        client.signal(signal.SIGSTOP)
        try:
            assert "nothing came from the peer" in log.line()
        finally:
            client.signal(signal.SIGCONT)


# A client and its server


@for_clients
def test_who_waits_for_a_dead_server_learns_of_it(colours: Colours) -> None:
    with FakeServer(silence) as server, colours.connect(Workshop, server.url, keep_alive=SHORT) as workshop:
        assert was_silent(Running(workshop.add, 1).error())


@for_clients
def test_so_does_who_gave_a_future(colours: Colours) -> None:
    with FakeServer(silence) as server, colours.connect(Workshop, server.url, keep_alive=SHORT) as workshop:
        futures = [workshop.add.submit(number) for number in range(3)]
        for future in futures:
            assert was_silent(future.exception(30))


@for_clients
def test_so_does_who_listens(colours: Colours) -> None:
    ends: list[ConnectionLost] = []
    left = Gate()

    def note(peer: Any, cause: ConnectionLost) -> None:
        ends.append(cause)
        left.open()

    with (
        FakeServer(silence) as server,
        colours.connect(Workshop, server.url, keep_alive=SHORT, on_disconnect=note),
    ):
        left.wait()
    assert was_silent(ends[0])


@for_clients
def test_calls_that_wait_shorter_find_out_together(colours: Colours) -> None:
    """Each of them ends at its own deadline, until the time is over."""
    with FakeServer(silence) as server, colours.connect(Workshop, server.url, keep_alive=SHORT) as workshop:
        quick = workshop.add.with_options(timeout=0.02)
        error: RpcError | None = None
        end = monotonic() + 30
        while not isinstance(error, ConnectionLost) and monotonic() < end:
            error = Running(quick, 1).error()  # type: ignore[assignment]
            assert isinstance(error, DeadlineExceeded | ConnectionLost)
        assert was_silent(error)


@for_clients
def test_a_server_that_takes_its_time_is_asked_and_lives(colours: Colours) -> None:
    """With a handler that sleeps the server still reads."""
    pings = 0

    def answer_late(peer: RawPeer) -> None:
        nonlocal pings
        agree(peer)
        call = peer.question().call
        while pings < 5:
            assert peer.read_frame().kind == Kind.PING
            pings += 1
            peer.send_frame(Kind.PONG, 0, 0, b"")
        peer.send_frame(Kind.RESPONSE, 0, call, pack_plain(7))
        peer.read_to_end()

    with FakeServer(answer_late) as server, colours.connect(Workshop, server.url, keep_alive=SHORT) as workshop:
        assert Running(workshop.add, 1).result() == 7
    assert pings == 5


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGSTOP")
@for_clients
def test_a_server_that_was_stopped(colours: Colours) -> None:
    with serving() as (url, process), colours.connect(Workshop, url, keep_alive=SHORT) as workshop:
        assert workshop.add(1) == 1
        process.signal(signal.SIGSTOP)
        try:
            assert was_silent(Running(workshop.add, 1).error())
        finally:
            process.signal(signal.SIGCONT)
        process.say()
        process.finish()


def test_an_idle_client_says_nothing(colours: Colours) -> None:
    """Nor is it cut off by a server that has as little time for it."""
    with (
        colours.serve(Workshop(), keep_alive=SHORT) as server,
        Forwarder(server.url) as between,
        colours.connect(Workshop, between.url, keep_alive=SHORT) as workshop,
    ):
        assert workshop.add(1) == 1
        with colours.serve(Workshop(), keep_alive=4 * SHORT) as other, reader(other.url) as peer:
            peer.read_to_end()  # which takes a while
        assert workshop.add(2) == 2
        kinds = [frame.kind for frame in between.frames()]
    assert len(kinds) == 4 + kinds.count(Kind.PING) + kinds.count(Kind.PONG)
    if colours.client == "threads":
        assert Kind.PING not in kinds


def test_a_busy_connection_gets_no_ping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes between two looks counts, although nobody writes down that it came."""
    with (
        Server(Workshop(), url="tcp://127.0.0.1:0") as server,
        Forwarder(server.url) as between,
        connect(between.url) as client,
    ):
        workshop = client.proxy(Workshop)
        connection: Any = client._link.connection
        for number in range(50):
            monkeypatch.setattr("typedrpc.sync.alive.monotonic", lambda now=100.0 * number: now)
            assert workshop.add(number) == number
            assert connection.role.try_take()
            connection._alive.hear_nothing()  # nothing has come just now: what did before that counts
            connection.stop_leading()
        monkeypatch.undo()
    assert Kind.PING not in [frame.kind for frame in between.frames()]


class Line(list[Delivery]):
    """A line that is so slow that a question waits behind other bytes: a few of them arrive between two looks."""

    def look(self, sock: object) -> Delivery:
        self.append(Delivery(4096 * min(len(self), 5), 1_000_000))
        return self[-1]


@for_clients
def test_over_a_slow_line_a_peer_has_time_until_the_question_can_have_arrived(
    colours: Colours, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line()
    monkeypatch.setattr("typedrpc.transport.delivery", line.look)
    with FakeServer(silence) as server, colours.connect(Workshop, server.url, keep_alive=SHORT) as workshop:
        assert was_silent(Running(workshop.add, 1).error())
    assert len(line) == 7  # when it was asked, five times that more had arrived, and once that nothing had


# A side that cannot read now


@for_servers
def test_a_server_whose_threads_are_all_busy_gives_signs_of_life(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, colours: Colours
) -> None:
    """It has no thread that could read, or no room for more: a ping that it has not read is answered all the same."""
    monkeypatch.setattr(handlers, "HELD_BYTES", 10_000)
    for module in ("sync.alive", "aio.alive"):
        monkeypatch.setattr(f"typedrpc.{module}.SIGN_TIME", 0.01)
    with colours.serve(workshop, max_message_size=2000, max_workers=1) as server, RawPeer.dial(server.url) as peer:
        peer.shake_hands()
        peer.send(request(WAIT, 0, "a"))
        workshop.started["a"].wait()
        sending = Running(peer.send, b"".join(request(NOTE, 0, "x" * 1000) for _ in range(2_000)))
        frames: list[Frame] = [peer.read_frame() for _ in range(3)]
        assert [(frame.kind, frame.payload) for frame in frames] == [(Kind.PONG, b"")] * 3
        workshop.gates["a"].open()
        sending.result()
        assert len(workshop.wait_for_notes(2_000)) == 2_000


def test_a_handler_that_takes_long_does_not_cost_the_client_its_connection(
    workshop: Workshop, colours: Colours, log: Log
) -> None:
    """Both sides ask, and both are answered."""
    with (
        colours.serve(workshop, keep_alive=SHORT) as server,
        Forwarder(server.url) as between,
        colours.connect(Workshop, between.url, keep_alive=SHORT, on_disconnect=lambda *_: None) as proxy,
    ):
        waiting = Running(proxy.wait, "a")
        workshop.started["a"].wait()
        seen = threading.Event()
        end = monotonic() + 30
        while monotonic() < end and not seen.wait(0.01):
            kinds = [frame.kind for frame in between.frames()]
            if Kind.PING in kinds and kinds.count(Kind.PING) + kinds.count(Kind.PONG) > 3:
                seen.set()
        workshop.gates["a"].open()
        assert waiting.result() == "a"
        assert seen.is_set()
    assert log.unread == []
