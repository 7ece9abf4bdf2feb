"""A whole server behind a socket, and whatever a client may send it: only documented outcomes, and others are served.

The server is a process of its own, so that what it takes of memory and threads is its own. Examples share it: what one
of them leaves behind adds up.
"""

import contextlib
import socket
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.certificates import certificates, of_client
from tests.codec.invented import thorough
from tests.ends import SERVERS
from tests.frames import COMMANDS, conversations, plain
from tests.support import Program, RawPeer, Workshop
from typedrpc import connect
from typedrpc.codec import pack_plain, unpack_plain
from typedrpc.common.client import ConnectOptions
from typedrpc.failure import Code, unpack_failure
from typedrpc.wire import PREAMBLE, FrameReader, Kind

pytestmark = pytest.mark.unmeasured

MAX_GROWTH: Final = 50 << 20
"""Bytes by which the server may have grown in the end."""
MAX_THREADS: Final = 100

SERVING: Final = """
    import faulthandler
    import logging
    from tests.ends import Ends
    from tests.both.test_fuzz_server import SECRET, Target
    from typedrpc import Tls, authentication
    authentication.FIRST_DELAY = authentication.MAX_DELAY = 0.001  # who guesses is slowed down for seconds otherwise
    faulthandler.cancel_dump_traceback_later()  # many examples share it
    lines = []
    class Lines(logging.Handler):
        def emit(self, record):
            lines.append(record)
    logging.getLogger("typedrpc").addHandler(Lines())
    make = Ends(server={server!r}).Server
    with (
        make(Target(), url="tcp://127.0.0.1:0") as server,
        make(Target(), url="tcp://127.0.0.1:0", secret=SECRET) as guarded,
        make(Target(), url="tls://127.0.0.1:0", tls=Tls(certificate={certificate!r})) as secured,
    ):
        say(server.url, guarded.url, secured.url)
        while hear():
            wrong = [record.getMessage() for record in lines if record.exc_info]
            del lines[:]
            say(len(wrong), *(text.replace(chr(10), " ") for text in wrong))
"""


SECRET: Final = bytes(range(32))
TRUSTING: Final[ConnectOptions] = {"tls": of_client()}
OPTIONS: Final[tuple[ConnectOptions, ...]] = ({}, {"secret": SECRET}, TRUSTING)
"""Of a client that is let in by each of the servers."""


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
    Kind.AUTHENTICATE,
    Kind.WELCOME,
    Kind.RESPONSE,
    Kind.ERROR,
    Kind.BATCH,
    Kind.PONG,
    Kind.GOODBYE,
    Kind.RELEASE,
}
ANSWERS_TO_STRANGERS: Final = {Kind.HELLO, Kind.PONG, Kind.GOODBYE}
TLS: Final = 2
"""Which of the servers has it."""
CODES: Final = {value for name, value in vars(Code).items() if isinstance(value, int) and not name.startswith("_")}


class Fuzzed:
    """Servers that are fed, in one process: one lets everybody in, one asks for a secret, one has TLS."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.urls = program.hear().split()
        for number in range(len(self.urls)):  # what is loaded once is no growth
            self.serves_on(number)
        self.memory, _ = self.used()

    def serves_on(self, number: int) -> None:
        """Another client is served, by this one of the servers."""
        with connect(Target, self.urls[number], **OPTIONS[number]) as target:
            assert target.add(1, 2) == 3
            assert target.echo(b"right") == b"right"

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
    certificate = str(certificates().server)
    with Program(SERVING.format(server=request.param, certificate=certificate), measured=False) as program:
        fuzzed = Fuzzed(program)
        yield fuzzed
        memory, threads = fuzzed.used()
        assert memory - fuzzed.memory < MAX_GROWTH
        assert threads < MAX_THREADS


@given(
    said=conversations(client=True, commands=COMMANDS_HERE, arguments=arguments),
    resets=st.booleans(),
    number=st.sampled_from((0, 0, 0, 1)),
)
@thorough(100)
def test_whatever_a_client_sends(said: bytes, resets: bool, number: int, fuzzed: Fuzzed) -> None:
    answers = feed(fuzzed.urls[number], said, resets)
    check_answers(answers, ANSWERS if number == 0 else ANSWERS_TO_STRANGERS)
    fuzzed.serves_on(number)
    assert fuzzed.complaints() == "0"
    assert fuzzed.used()[1] < MAX_THREADS


records: Final = st.builds(
    lambda kind, version, length, body: bytes([kind]) + version + (length or len(body)).to_bytes(2, "big") + body,
    st.sampled_from((0x14, 0x15, 0x16, 0x17, 0xFF)),
    st.sampled_from((b"\x03\x01", b"\x03\x03", b"\x00\x00")),
    st.sampled_from((0, 0, 0, 1, 0x4000, 0xFFFF)),
    st.binary(max_size=200) | st.binary(max_size=60).map(lambda body: b"\x01\x00\x00" + bytes([len(body)]) + body),
)
"""What looks like TLS: a header that may lie, and perhaps the beginning of a ClientHello."""


@given(
    said=st.binary(max_size=100)
    | st.lists(records, max_size=4).map(b"".join)
    | conversations(client=True, commands=COMMANDS_HERE, arguments=arguments),
    resets=st.booleans(),
)
@thorough(60)
def test_whatever_is_sent_to_a_port_of_tls(said: bytes, resets: bool, fuzzed: Fuzzed) -> None:
    """An alert of TLS comes back, or nothing; a client that speaks the protocol in plain is told so in it."""
    answers = feed(fuzzed.urls[TLS], said, resets)
    if answers.startswith(PREAMBLE):
        assert said.startswith(PREAMBLE[:1])
        check_answers(answers, {Kind.HELLO, Kind.GOODBYE})
    else:
        assert answers[:1] in (b"", b"\x15", b"\x16")
    fuzzed.serves_on(TLS)
    assert fuzzed.complaints() == "0"
    assert fuzzed.used()[1] < MAX_THREADS


def feed(url: str, said: bytes, resets: bool) -> bytes:
    """Send something to a server; all that comes back, unless the connection is reset."""
    with RawPeer.dial(url.replace("tls://", "tcp://")) as peer:
        with contextlib.suppress(OSError):  # it may be cut off before it has said all
            peer.send(said)
            if resets:
                peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            else:
                peer.sock.shutdown(socket.SHUT_WR)
        return b"" if resets else peer.read_to_end()


def check_answers(data: bytes, kinds: Collection[Kind]) -> None:
    """What came back: frames of these kinds, with errors that are documented."""
    if not data:
        return
    reader = FrameReader(1 << 30)
    for frame in reader.feed(data):
        assert frame.kind in kinds, str(frame)
        if frame.kind == Kind.ERROR:
            failure = unpack_plain(frame.payload)
            assert isinstance(failure, list)
            assert failure[0] in CODES
            assert isinstance(unpack_failure(frame.payload, "Target.any"), Exception)
    assert reader.fault is None
