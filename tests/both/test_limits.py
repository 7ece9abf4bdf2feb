"""A peer that goes beyond what it may: it is refused, or cut off, and nobody else notices.

Of the limits in docs/limits.md here are those that have no tests beside what they limit.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.certificates import certificates
from tests.ends import Colours, alike, for_servers
from tests.support import Log, Program, RawPeer, Running, Workshop, until
from typedrpc import ConnectionLost, RemoteError, RpcError, ServerBusy, Tls, connect, transport
from typedrpc.codec import pack_plain
from typedrpc.common import arrivals
from typedrpc.failure import unpack_failure
from typedrpc.messages import ProtocolCommand
from typedrpc.protocol import PINGS_AT_ONCE, QUESTION_RATE
from typedrpc.rate import Bucket
from typedrpc.wire import HEADER, Kind

pytestmark = pytest.mark.usefixtures("no_leaks")
colours = alike


@pytest.fixture
def workshop() -> Iterator[Workshop]:
    workshop = Workshop()
    yield workshop
    workshop.gates.open_all()


@for_servers
@pytest.mark.parametrize("secure", [False, True])
def test_more_clients_that_shake_hands_than_may(
    colours: Colours, log: Log, monkeypatch: pytest.MonkeyPatch, secure: bool
) -> None:
    """With TLS too, in which none of them gets as far as to the protocol."""
    monkeypatch.setattr(arrivals.Threshold.__init__, "__defaults__", (2,))
    own: Any = {"tls": Tls(certificate=certificates().server)} if secure else {}
    scheme = "tls" if secure else "tcp"
    with colours.serve(Workshop(), url=f"{scheme}://127.0.0.1:0", **own) as server, contextlib.ExitStack() as stack:
        url = server.url.replace("tls://", "tcp://")
        silent = [stack.enter_context(RawPeer.dial(url)) for _ in range(5)]
        for peer in silent[:3]:
            peer.read_to_end()
        for peer in silent[3:]:
            assert not transport.wait(peer.sock, read=True, timeout=0)
        assert "more than 2 connections shake hands at a time" in log.line()
    assert log.unread == []


@for_servers
def test_the_time_to_shake_hands_begins_when_a_client_is_accepted(
    colours: Colours, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS takes of it what it takes: here, all."""
    if colours.server == "threads":
        pytest.skip("one thread keeps the time of all")
    monkeypatch.setattr(arrivals, "monotonic", lambda: monotonic() - 100.0)
    with colours.serve(Workshop(), handshake_timeout=90.0) as server, RawPeer.dial(server.url) as peer:
        peer.read_to_end()
        assert "no handshake within 90 s" in log.line()


@for_servers
def test_a_flood_of_pings(colours: Colours, log: Log) -> None:
    ping = HEADER.pack(0, Kind.PING, 0, 0, 0)
    with colours.serve(Workshop()) as server, colours.connect(Workshop, server.url) as good:
        with RawPeer.dial(server.url) as peer:
            peer.shake_hands()
            sending = Running(peer.send, ping * 100 * PINGS_AT_ONCE)
            kinds = [frame.kind for frame in peer.read_frames_to_end()]
            error = sending.error()
            assert error is None or isinstance(error, OSError)  # nobody reads the rest
        assert set(kinds) <= {Kind.PONG, Kind.GOODBYE}
        assert "more than 100 pings at once" in log.line()
        assert good.add(1) == 1


@for_servers
def test_a_flood_of_questions_about_contracts(colours: Colours, log: Log) -> None:
    """They are refused, and the calls are not: who asks can be told so."""

    def question(call: int) -> bytes:
        payload = pack_plain(["Workshop", []])
        return HEADER.pack(len(payload), Kind.REQUEST, 0, ProtocolCommand.SIGNATURES, call) + payload

    with colours.serve(Workshop()) as server, colours.connect(Workshop, server.url) as good:
        others = len(server.peers)
        with RawPeer.dial(server.url) as peer:
            peer.shake_hands()
            until(lambda: len(server.peers) > others, "it is let in")
            link: Any = server.peers[-1].link
            link.connection.core.questions = Bucket(QUESTION_RATE, 2, lambda: 0.0)
            peer.send(b"".join(question(2 * number + 1) for number in range(5)))
            answers = [peer.read_frame() for _ in range(5)]
            refused = [frame for frame in answers if frame.kind == Kind.ERROR]
            assert len(refused) == 3
            for frame in refused:
                error = unpack_failure(frame.payload, "")
                assert isinstance(error, ServerBusy)
                assert str(error).endswith(
                    "typedrpc.signatures: more than 1000 questions about contracts at once, or 100 a second"
                )
            payload = pack_plain([2, 3])
            peer.send(HEADER.pack(len(payload), Kind.REQUEST, 0, Workshop.add.id, 11) + payload)
            assert peer.read_frame().kind == Kind.RESPONSE
        assert good.add(1) == 1
    assert log.unread == []


def test_more_calls_a_second_than_the_server_lets_a_client_make(colours: Colours) -> None:
    """One in a hundred seconds is one at once, and no other in this test."""
    with colours.serve(Workshop(), max_rate=0.01) as server:
        with colours.connect(Workshop, server.url) as workshop:
            assert workshop.add(1) == 1
            with pytest.raises(ServerBusy, match=r"more than 0\.01 calls a second"):
                Running(workshop.add, 2).result()
        with colours.connect(Workshop, server.url) as other, pytest.raises(ServerBusy):  # who comes again is the same
            Running(other.add, 3).result()


def test_calls_are_counted_by_who_makes_them(colours: Colours) -> None:
    keys = {"ann": b"a" * 16, "bob": b"b" * 16}
    with colours.serve(Workshop(), max_rate=0.01, secret=keys) as server:
        for name, key in keys.items():
            with colours.connect(Workshop, server.url, secret=(name, key)) as workshop:
                assert workshop.add(1) == 1
            with (
                colours.connect(Workshop, server.url, secret=(name, key)) as workshop,
                pytest.raises(ServerBusy),
            ):
                Running(workshop.add, 2).result()


def test_clients_of_a_unix_socket_are_counted_apart(colours: Colours, tmp_path: Path) -> None:
    with colours.serve(Workshop(), url=f"unix://{tmp_path}/socket", max_rate=0.01) as server:
        for _ in range(2):
            with colours.connect(Workshop, server.url) as workshop:
                assert workshop.add(1) == 1


def test_more_one_way_calls_than_it_lets_it(colours: Colours, workshop: Workshop, log: Log) -> None:
    with (
        colours.serve(workshop, max_rate=0.01) as server,
        colours.connect(Workshop, server.url) as proxy,
    ):
        for number in range(5):
            proxy.note.notify(str(number))
        assert "more one-way calls than max_rate lets it" in log.line()
        assert workshop.wait_for_notes(1) == ["0"]
        with pytest.raises(ServerBusy):
            Running(proxy.add, 1).result()
    assert workshop.notes == ["0"]


def test_more_calls_than_the_client_lets_its_server_make(colours: Colours, workshop: Workshop) -> None:
    with (
        colours.serve(Workshop()) as server,
        colours.connect(Workshop, server.url, expose=[workshop], max_rate=0.01),
    ):
        (peer,) = server.peers
        listener = peer.proxy(Workshop)
        assert Running(listener.add, 1).result() == 1
        with pytest.raises(ServerBusy):
            Running(listener.add, 2).result()


POOR = """
    import logging, resource, sys
    from pathlib import Path
    from tests.ends import SERVERS
    from tests.support import Workshop

    logging.basicConfig(stream=sys.stdout, format="%(message)s", force=True)
    with SERVERS[{colour!r}](Workshop(), url="tcp://127.0.0.1:0", max_message_size=1 << 30) as server:
        say(server.url)
        hear()
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), -1))
        say("limited")
        hear()
"""


@for_servers
def test_no_memory_for_a_message_or_for_a_handler(colours: Colours) -> None:
    with Program(POOR.format(colour=colours.server), measured=False) as program:
        url = program.hear()
        with connect(Workshop, url) as good, connect(Workshop, url, max_message_size=1 << 30) as greedy:
            assert (good.swallow(bytes(1000)), greedy.swallow(bytes(1000))) == (1000, 1000)
            program.say()
            assert program.hear() == "limited"
            with pytest.raises(RemoteError, match="MemoryError"):
                greedy.blob(600 << 20)
            assert program.hear().startswith("Workshop.blob")
            error: BaseException | None = None
            try:
                greedy.swallow(bytes(600 << 20))
            except RpcError as raised:
                error = raised
            assert isinstance(error, ConnectionLost)
            assert good.add(1) == 1
            with connect(Workshop, url) as late:
                assert late.add(2) == 2
        program.say()
        assert "was cut off: there is no memory for what it has sent" in program.expect_success()
