"""A whole server behind a socket, and whatever a client may send it: only documented outcomes, and others are served.

The server is a process of its own, so that what it takes of memory and threads is its own. Examples share it: what one
of them leaves behind adds up.
"""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.codec.invented import thorough
from tests.ends import SERVERS
from tests.frames import COMMANDS, conversations, plain
from tests.support import Program, RawPeer, Workshop
from typedrpc import connect
from typedrpc.codec import pack_plain, unpack_plain
from typedrpc.failure import Code, unpack_failure
from typedrpc.wire import FrameReader, Kind

pytestmark = pytest.mark.unmeasured

MAX_GROWTH: Final = 50 << 20
"""Bytes by which the server may have grown in the end."""
MAX_THREADS: Final = 100

SERVING: Final = """
    import faulthandler
    import logging
    from tests.ends import Ends
    from tests.both.test_fuzz_server import Target
    faulthandler.cancel_dump_traceback_later()  # many examples share it
    lines = []
    class Lines(logging.Handler):
        def emit(self, record):
            lines.append(record)
    logging.getLogger("typedrpc").addHandler(Lines())
    with Ends(server={server!r}).Server(Target(), url="tcp://127.0.0.1:0") as server:
        say(server.url)
        while hear():
            wrong = [record.getMessage() for record in lines if record.exc_info]
            del lines[:]
            say(len(wrong), *(text.replace(chr(10), " ") for text in wrong))
"""


class Target(Workshop):
    """Without what waits at gates, which nobody here opens."""


COMMANDS_HERE: Final = (Target.add.id, Target.echo.id, Target.spell.id, Target.note.id, Target.blob.id, *COMMANDS)
arguments: Final = st.one_of(
    st.tuples(st.integers(-9, 9), st.integers(0, 9)).map(lambda found: pack_plain([*found])),
    st.binary(max_size=30).map(lambda data: pack_plain([data])),
    st.tuples(st.text(max_size=5), st.integers(0, 9)).map(lambda found: pack_plain([*found])),
    st.lists(plain, max_size=3).map(pack_plain),
)
ANSWERS: Final = {
    Kind.HELLO,
    Kind.WELCOME,
    Kind.RESPONSE,
    Kind.ERROR,
    Kind.BATCH,
    Kind.PONG,
    Kind.GOODBYE,
    Kind.RELEASE,
}
CODES: Final = {value for name, value in vars(Code).items() if isinstance(value, int) and not name.startswith("_")}


class Fuzzed:
    """A server that is fed."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.url = program.hear()
        with connect(Target, self.url) as target:  # what is loaded once is no growth
            assert target.add(1, 2) == 3
        self.memory, _ = self.used()

    def used(self) -> tuple[int, int]:
        """Bytes that are resident, and threads."""
        said = dict(
            line.split(":", 1)
            for line in Path(f"/proc/{self.program.process.pid}/status").read_text(encoding="ascii").splitlines()
        )
        return int(said["VmRSS"].split()[0]) << 10, int(said["Threads"])

    def complaints(self) -> str:
        """What it logged with a traceback: something inside it that nobody foresaw."""
        self.program.say("go on")
        return self.program.hear()


@pytest.fixture(scope="module", params=SERVERS)
def fuzzed(request: pytest.FixtureRequest) -> Iterator[Fuzzed]:
    if not Path("/proc/self/status").exists():
        pytest.skip("there is no /proc here")
    with Program(SERVING.format(server=request.param), measured=False) as program:
        fuzzed = Fuzzed(program)
        yield fuzzed
        memory, threads = fuzzed.used()
        assert memory - fuzzed.memory < MAX_GROWTH
        assert threads < MAX_THREADS


@given(said=conversations(client=True, commands=COMMANDS_HERE, arguments=arguments), resets=st.booleans())
@thorough(80)
def test_whatever_a_client_sends(said: bytes, resets: bool, fuzzed: Fuzzed) -> None:
    with RawPeer.dial(fuzzed.url) as peer:
        with contextlib.suppress(ConnectionError):  # it may be cut off before it has said all
            peer.send(said)
            if resets:
                peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            else:
                peer.sock.shutdown(socket.SHUT_WR)
        if not resets:
            check_answers(peer.read_to_end())
    with connect(Target, fuzzed.url) as target:
        assert target.add(len(said), 1) == len(said) + 1
        assert target.echo(b"right") == b"right"
    assert fuzzed.complaints() == "0"
    assert fuzzed.used()[1] < MAX_THREADS


def check_answers(data: bytes) -> None:
    """What came back: frames that a server sends, with errors that are documented."""
    if not data:
        return
    reader = FrameReader(1 << 30)
    for frame in reader.feed(data):
        assert frame.kind in ANSWERS, str(frame)
        if frame.kind == Kind.ERROR:
            failure = unpack_plain(frame.payload)
            assert isinstance(failure, list)
            assert failure[0] in CODES
            assert isinstance(unpack_failure(frame.payload, "Target.any"), Exception)
    assert reader.fault is None
