"""One thread shakes hands with all who connect, whatever they do; who says nothing costs no thread."""

import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from tests.ends import LOOPS, THREADS, Colours
from tests.support import Log, RawPeer, Workshop, hello, until
from typedrpc import Server, connect
from typedrpc.common import arrivals
from typedrpc.wire import PREAMBLE, Kind

pytestmark = pytest.mark.usefixtures("no_leaks")

URL = "tcp://127.0.0.1:0"
SAID = PREAMBLE + hello()


@pytest.fixture
def colours(request: pytest.FixtureRequest) -> Colours:
    return Colours(*request.param)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(Workshop(), url=URL) as server:
        yield server


def test_who_says_little_takes_no_thread_and_holds_nobody_up(server: Server) -> None:
    with connect(Workshop, server.url) as good:
        assert good.add(0) == 0
        threads = threading.active_count()
        peers = [RawPeer.dial(server.url) for _ in range(200)]
        try:
            for byte in SAID[:20]:
                for peer in peers:
                    peer.send(bytes([byte]))
                assert good.add(byte) == byte
            until(lambda: len(server._connections) == 201, "all are accepted")
            assert threading.active_count() <= threads
            with connect(Workshop, server.url) as late:
                assert late.add(7) == 7
            for peer in peers[:5]:  # whoever goes on in the end is served
                peer.send(SAID[20:])
                assert peer.read_frame().kind == Kind.HELLO
        finally:
            for peer in peers:
                peer.sock.close()


def test_who_has_left_is_not_kept(server: Server) -> None:
    """By the thread that has shaken hands, until somebody else comes."""
    with connect(Workshop, server.url) as good:
        assert good.add(1) == 1
        (connection,) = server._connections
        left = weakref.ref(connection)
        del connection

    def is_gone() -> bool:
        gc.collect()
        return left() is None

    until(is_gone)


@pytest.mark.parametrize("colours", [THREADS, LOOPS], ids=" ".join, indirect=True)
def test_too_many_who_say_nothing_make_way(colours: Colours, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals.Threshold.__init__, "__defaults__", (3,))
    with colours.serve(Workshop()) as server:
        peers = []
        try:
            for _ in range(5):  # one after another, so that it is known who came first
                peers.append(RawPeer.dial(server.url))
                peers[-1].send(SAID[:5])
            assert [peer.read_to_end() for peer in peers[:2]] == [b"", b""]
            assert "more than 3 connections shake hands at a time" in log.line()
            with colours.connect(Workshop, server.url) as late:
                assert late.add(7) == 7
            peers[-1].send(SAID[5:])
            assert peers[-1].read_frame().kind == Kind.HELLO
        finally:
            for peer in peers:
                peer.sock.close()
        assert "in the middle of a frame" in log.line()  # the one that was neither cut off nor let in


@pytest.mark.parametrize("colours", [THREADS, LOOPS], ids=" ".join, indirect=True)
def test_too_many_of_one_address(colours: Colours, log: Log) -> None:
    with colours.serve(Workshop(), max_per_address=2) as server:
        with RawPeer.dial(server.url).shake_hands() as first, RawPeer.dial(server.url).shake_hands():
            with RawPeer.dial(server.url) as third:
                assert third.read_to_end() == b""
            assert "127.0.0.1 has 2 connections, which is the limit" in log.line()
            first.sock.close()
            until(lambda: len(server.peers) == 1, "the first has left")
            with RawPeer.dial(server.url).shake_hands(), RawPeer.dial(server.url) as fourth:
                assert fourth.read_to_end() == b""
        assert log.unread == []


def test_closing_ends_those_who_shake_hands(log: Log) -> None:
    server = Server(Workshop(), url=URL).start()
    with RawPeer.dial(server.url) as silent, RawPeer.dial(server.url) as begun:
        begun.send(SAID[:5])
        until(lambda: len(server._connections) == 2, "both are accepted")
        server.close()
        assert (silent.read_to_end(), begun.read_to_end()) == (b"", b"")
    assert server._connections == {}
    assert log.unread == []


def test_a_fault_of_our_own_ends_that_connection_alone(
    server: Server, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Any:
        raise RuntimeError("a fault")

    with monkeypatch.context() as patch:
        patch.setattr("typedrpc.protocol.Protocol.receive", fail)
        with RawPeer.dial(server.url) as peer:
            peer.greet()
            assert peer.read_to_end() == b""
    assert "a fault of typedrpc's own" in log.line()
    with connect(Workshop, server.url) as good:
        assert good.add(1) == 1


def test_a_system_that_can_wait_for_no_more(server: Server, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Any:
        raise OSError(28, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(server._greeter.selector, "register", refuse)
        with RawPeer.dial(server.url) as peer:
            assert peer.read_to_end() == b""
        assert "was cut off: no space left" in log.line()
    with connect(Workshop, server.url) as good:
        assert good.add(1) == 1
