"""Slow-loris: hundreds of sockets that send a byte at a time. Others do not notice: their calls are counted meanwhile.

Nothing sleeps: each byte of all the slow peers is followed by a call of a good client, which must be answered before
the next byte is sent.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.certificates import of_client, of_server
from tests.ends import Ends, alike_ends
from tests.support import RawPeer, Workshop, hello, until
from typedrpc import Server
from typedrpc.codec import pack_plain
from typedrpc.wire import HEADER, PREAMBLE, Kind

pytestmark = [pytest.mark.usefixtures("kept_loop", "no_leaks"), pytest.mark.unmeasured]
ends = alike_ends

SLOW: Final = 500
FEW: Final = 10
"""Threads that may come for the good client, where the machine is so slow that its handlers are."""
LONG: Final = 3600.0
"""Seconds that nobody's handshake takes here: how fast the machine is decides nothing."""

CLIENT_HELLO: Final = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
"""How TLS begins."""

GREETING: Final = PREAMBLE + hello()
ARGUMENTS: Final = pack_plain([1, 2])
REQUEST: Final = HEADER.pack(len(ARGUMENTS), Kind.REQUEST, 0, Workshop.add.id, 1) + ARGUMENTS


@contextlib.contextmanager
def slow_peers(url: str) -> Iterator[list[RawPeer]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(RawPeer.dial(url.replace("tls://", "tcp://"))) for _ in range(SLOW)]


def greeting(server: Any) -> int:
    """How many shake hands with a server of either side."""
    return len(server._greeter._visitors if isinstance(server, Server) else server._greeting)


def trickle(peers: list[RawPeer], data: bytes, good: Workshop, calls: int = 0) -> int:
    """Each peer sends the same, a byte at a time; how many calls of the good client were answered in between."""
    for byte in data:
        for peer in peers:
            peer.send(bytes([byte]))
        assert good.add(calls, 1) == calls + 1
        calls += 1
    return calls


def test_a_greeting_and_a_request_a_byte_at_a_time(ends: Ends) -> None:
    """They are slow, and do nothing wrong: in the end they are served too."""
    server = ends.Server(Workshop(), url="tcp://127.0.0.1:0", handshake_timeout=LONG)
    with server, ends.connect(Workshop, server.url) as good, slow_peers(server.url) as peers:
        assert trickle(peers, GREETING, good) == len(GREETING)
        for peer in peers:
            assert peer.read_frame().kind == Kind.HELLO
        until(lambda: len(server.peers) == SLOW + 1, "all being let in")
        assert trickle(peers, REQUEST[:-1], good) == len(REQUEST) - 1
        with ends.connect(Workshop, server.url) as fresh:
            assert fresh.add(2, 3) == 5
        assert trickle(peers, REQUEST[-1:], good) == 1
        for peer in peers:
            answer = peer.read_frame()
            assert (answer.kind, answer.call, bytes(answer.payload)) == (Kind.RESPONSE, 1, b"\x03")  # type: ignore[arg-type]


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
def test_who_does_not_shake_hands_takes_no_thread(scheme: str, ends: Ends) -> None:
    """Nor do hundreds of them, whatever they begin with."""
    begin = CLIENT_HELLO if scheme == "tls" else GREETING
    options: dict[str, Any] = {"handshake_timeout": LONG, "tls": of_server() if scheme == "tls" else None}
    trusting = of_client() if scheme == "tls" else None
    with (
        ends.Server(Workshop(), url=f"{scheme}://127.0.0.1:0", **options) as server,
        ends.connect(Workshop, server.url, tls=trusting) as good,
    ):
        trickle([], b"--", good)  # whatever threads the good client takes are there
        before = threading.active_count()
        with slow_peers(server.url) as peers:
            if scheme == "tcp" or ends.server == "threads":  # asyncio keeps those of TLS to itself
                until(lambda: greeting(ends.itself(server)) == SLOW, "all being there")
            for said in (begin[:1], begin[1:-1]):
                assert trickle(peers, said, good) == len(said)
                assert threading.active_count() < before + FEW
            assert len(server.peers) == 1
            with ends.connect(Workshop, server.url, tls=trusting) as fresh:
                assert fresh.add(2, 3) == 5


@pytest.mark.parametrize("said", [0, 5, len(PREAMBLE), len(PREAMBLE) + 7, len(GREETING) - 1])
def test_those_that_never_come_to_an_end_are_cut_off(said: int, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then does not prolong the time that a handshake has."""
    few = 20
    server = ends.Server(Workshop(), url="tcp://127.0.0.1:0")
    with server, ends.connect(Workshop, server.url) as good:
        monkeypatch.setattr(ends.itself(server), "_handshake_timeout", 0.05)  # for who comes now
        with contextlib.ExitStack() as stack:
            peers = [stack.enter_context(RawPeer.dial(server.url)) for _ in range(few)]
            for calls, byte in enumerate(GREETING[:said]):
                for peer in peers:
                    with contextlib.suppress(ConnectionError):  # it may be cut off already
                        peer.send(bytes([byte]))
                assert good.add(calls) == calls
            for peer in peers:
                assert peer.read_to_end() == b""
        assert good.add(1) == 1
        assert len(server.peers) == 1
