"""Peers that break the protocol, by mistake or by intent: what they get, and that nobody else notices."""

import os
import re
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it ships no types
import pytest

from tests.ends import SERVERS, Ends, alike_ends
from tests.support import (
    PATIENCE,
    FakeServer,
    Gate,
    Log,
    Program,
    RawPeer,
    Running,
    Workshop,
    agree,
    failure_of,
    hello,
)
from typedrpc import ConnectFailed, ConnectionLost, ProtocolError, RpcError, Server
from typedrpc.codec import CommandCodec, pack_plain
from typedrpc.failure import Code
from typedrpc.messages import pack_extension
from typedrpc.schema import Schema
from typedrpc.wire import HEADER, PREAMBLE, TLS_ALERT, Kind, encode

pytestmark = pytest.mark.usefixtures("no_leaks")
ends = alike_ends

ADD = Workshop.add.id
WAIT = Workshop.wait.id
TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(range(194))
GIBIBYTES_4 = 0xFFFF_FFFF


@pytest.fixture
def workshop() -> Iterator[Workshop]:
    workshop = Workshop()
    yield workshop
    workshop.gates.open_all()


@pytest.fixture
def server(ends: Ends, workshop: Workshop, log: Log) -> Iterator[Server]:
    with ends.Server(workshop, url="tcp://127.0.0.1:0") as server:
        yield server


@pytest.fixture
def good(ends: Ends, server: Server) -> Iterator[Workshop]:
    """Another client, which calls all the time while something else goes wrong, and must not notice."""
    stop = Gate()

    def call_on(proxy: Workshop) -> int:
        count = 0
        while not stop.is_open or not count:
            assert proxy.add(count, 1) == count + 1
            count += 1
        return count

    with ends.connect(Workshop, server.url) as proxy:
        calling = Running(call_on, proxy)
        yield proxy
        stop.open()
        assert calling.result() > 0


STRANGERS = {
    "http": (b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", "not typedrpc"),
    "tls": (TLS_HELLO, "the client speaks TLS"),
    "random": (b"\xd4" + bytes((7 * n + 3) % 256 for n in range(5000)), "not typedrpc"),
    "zeros": (bytes(100_000), "not typedrpc"),
    "other version": (PREAMBLE[:-1] + b"\x63", "version 99"),
    "no hello": (PREAMBLE + HEADER.pack(0, Kind.PING, 0, 0, 0), "before the hello"),
    "hello is no msgpack": (PREAMBLE + HEADER.pack(1, Kind.HELLO, 0, 0, 0) + b"\xc1", "cannot be read"),
    "hello is no map": (PREAMBLE + HEADER.pack(1, Kind.HELLO, 0, 0, 0) + b"\xc0", "no map"),
    "hello is empty": (PREAMBLE + HEADER.pack(1, Kind.HELLO, 0, 0, 0) + b"\x80", "max_message_size"),
    "hello without sense": (PREAMBLE + hello(max_calls=0), "out of range"),
    "hello with a float": (PREAMBLE + hello(max_calls=1e9), "max_calls"),
    "hello of 4 GiB": (PREAMBLE + HEADER.pack(GIBIBYTES_4, Kind.HELLO, 0, 0, 0), "announces 4294967295 bytes"),
    "hello of 1 MiB": (PREAMBLE + HEADER.pack(1 << 20, Kind.HELLO, 0, 0, 0), "announces 1048576 bytes"),
    "nested hello": (PREAMBLE + HEADER.pack(30_000, Kind.HELLO, 0, 0, 0) + b"\x91" * 30_000, "cannot be read"),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_stranger_is_cut_off_and_told_nothing(name: str, server: Server, good: Workshop, log: Log) -> None:
    data, reason = STRANGERS[name]
    with RawPeer.dial(server.url) as peer:
        peer.send(data)
        # But for TLS, which has a word for it of its own.
        assert peer.read_to_end() == (TLS_ALERT if name == "tls" else b"")
    assert good.add(1) == 1
    line = log.line()
    assert "was cut off" in line
    assert reason in line
    assert len(line) < 300


@pytest.mark.parametrize("sent", [b"", PREAMBLE[:3], PREAMBLE, PREAMBLE + hello()[:5]], ids=len)
def test_who_does_not_say_hello_in_time_is_cut_off(
    ends: Ends, sent: bytes, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ends.Server(Workshop(), url="tcp://127.0.0.1:0") as server, ends.connect(Workshop, server.url) as good:
        monkeypatch.setattr(ends.itself(server), "_handshake_timeout", 0.05)  # for who comes now
        with RawPeer.dial(server.url) as peer:
            peer.send(sent)
            assert peer.read_to_end() == b""
            assert good.add(1) == 1
            line = log.line()
            assert "no handshake within 0.05 s" in line


def test_a_byte_at_a_time(server: Server, good: Workshop, log: Log) -> None:
    """Each byte is sent only after the good client was served once more."""
    request = HEADER.pack(3, Kind.REQUEST, 0, ADD, 1) + pack_plain([1, 2])
    with RawPeer.dial(server.url) as peer:
        for byte in PREAMBLE + hello() + request:
            peer.send(bytes([byte]))
            assert good.add(byte) == byte
        assert peer.read_frame().kind == Kind.HELLO
        answer = peer.read_frame()
        assert (answer.kind, answer.call) == (Kind.RESPONSE, 1)
        peer.send(HEADER.pack(3, Kind.REQUEST, 0, ADD, 3)[:7])
        assert good.add(1) == 1
    assert "in the middle of a frame" in log.line()
    with RawPeer.dial(server.url) as peer:
        peer.shake_hands()
    assert good.add(1) == 1


BREACHES = {
    "4 GiB": (HEADER.pack(GIBIBYTES_4, Kind.REQUEST, 0, ADD, 1), "announces 4294967295 bytes"),
    "above the limit": (HEADER.pack((16 << 20) + 1, Kind.REQUEST, 0, ADD, 1), "the limit is 16777216"),
    "unknown kind": (HEADER.pack(0, 0x7F, 0, 0, 0), "unknown kind 0x7f"),
    "authentication": (HEADER.pack(0, Kind.AUTHENTICATE, 0, ADD, 1), "an authentication out of place"),
    "second hello": (hello(), "a second hello"),
    "unknown flags": (HEADER.pack(0, Kind.REQUEST, 0x80, ADD, 1), "unknown flags 0x80"),
    "even call id": (HEADER.pack(1, Kind.REQUEST, 0, ADD, 2) + b"\x90", "the call id 2"),
    "call id 0": (HEADER.pack(1, Kind.REQUEST, 0, ADD, 0) + b"\x90", "the call id 0"),
    "segments beyond the frame": (
        HEADER.pack(6, Kind.REQUEST, 0x08, ADD, 1) + struct.pack(">HI", 1, 99),
        "longer than",
    ),
    "many segments": (HEADER.pack(2, Kind.REQUEST, 0x08, ADD, 1) + b"\xff\xff", "65535 segments"),
    "extension beyond the frame": (HEADER.pack(2, Kind.REQUEST, 0x01, ADD, 1) + b"\x00\x09", "longer than its frame"),
}


@pytest.mark.parametrize("name", BREACHES)
def test_who_breaks_framing_is_told_and_cut_off(name: str, server: Server, good: Workshop, log: Log) -> None:
    data, reason = BREACHES[name]
    with RawPeer.dial(server.url) as peer:
        peer.shake_hands()
        peer.send(data)
        (goodbye,) = peer.read_frames_to_end()
        assert goodbye.kind == Kind.GOODBYE
        _, text = unpack(goodbye.payload)
        assert reason in text
    assert good.add(1) == 1
    line = log.line()
    assert "was cut off" in line
    assert reason in line


def unpack(payload: Any) -> Any:
    return msgpack.unpackb(bytes(payload), strict_map_key=False)


def test_a_second_request_with_the_call_id_of_a_running_one(
    server: Server, workshop: Workshop, good: Workshop, log: Log
) -> None:
    with RawPeer.dial(server.url) as peer:
        peer.shake_hands()
        peer.send_frame(Kind.REQUEST, WAIT, 1, pack_plain(["a"]))
        workshop.started["a"].wait()
        peer.send_frame(Kind.REQUEST, WAIT, 1, pack_plain(["b"]))
        (goodbye,) = peer.read_frames_to_end()
        assert goodbye.kind == Kind.GOODBYE
        assert "a second request with the call id 1" in unpack(goodbye.payload)[1]
    assert good.add(1) == 1
    log.line()
    workshop.gates["a"].open()
    assert not workshop.started["b"].is_open


BAD_PAYLOADS = {
    "empty": (b"", Code.ARGUMENT),
    "no msgpack": (b"\xc1", Code.ARGUMENT),
    "cut short": (b"\x92\x01", Code.ARGUMENT),
    "trailing bytes": (b"\x91\x01\x01", Code.ARGUMENT),
    "no array": (b"\x01", Code.ARGUMENT),
    "nested 100 000 deep": (b"\x91" * 100_000 + b"\xc0", Code.ARGUMENT),
    "maps nested 100 000 deep": (b"\x81\x01" * 100_000 + b"\xc0", Code.ARGUMENT),
    "claims 4 billion items": (b"\xdd\xff\xff\xff\xff", Code.ARGUMENT),
    "claims a string of 4 GiB": (b"\x91\xdb\xff\xff\xff\xff", Code.ARGUMENT),
    "an unknown extension type": (b"\x91\xd4\x55\x00", Code.ARGUMENT),
    "wrong types": (pack_plain(["1", 2]), Code.ARGUMENT_TYPE),
    "a float": (pack_plain([1.5]), Code.ARGUMENT_TYPE),
    "too many": (pack_plain([1, 2, 3]), Code.ARGUMENT_TYPE),
    "none": (pack_plain([]), Code.ARGUMENT_MISSING),
}


@pytest.mark.parametrize("name", BAD_PAYLOADS)
def test_a_bad_payload_is_an_error_for_its_call_alone(name: str, server: Server, good: Workshop, log: Log) -> None:
    payload, code = BAD_PAYLOADS[name]
    with RawPeer.dial(server.url) as peer:
        peer.shake_hands()
        peer.send_frame(Kind.REQUEST, ADD, 1, payload)
        answer = peer.read_frame()
        assert answer.call == 1
        got, text = failure_of(answer)
        assert Code.ARGUMENT <= got <= Code.ARGUMENT_MISSING
        assert code in (got, Code.ARGUMENT)
        assert len(text) < 1000
        peer.send_frame(Kind.REQUEST, ADD, 1, pack_plain([2, 3]))
        assert unpack(peer.read_frame().payload) == 5
        # One-way, there is nobody to tell; so the log is told.
        peer.send_frame(Kind.NOTIFY, ADD, 0, payload)
        assert "a one-way call was dropped" in log.line()
        peer.send_frame(Kind.REQUEST, ADD, 3, pack_plain([2, 3]))
        assert unpack(peer.read_frame().payload) == 5
    assert good.add(1) == 1


@pytest.mark.parametrize(
    ("extension", "word"),
    [
        (b"\xc1", "cannot be read"),
        (b"\xc0", "no map"),
        (b"\x81\xa1a\x00", "no 32-bit integer"),
        (b"\x81\xfe\x00", "critical"),
        (b"\x81\xff\x00", "the schema 0 was not agreed about"),
        (b"\x81\xff\xff", "a schema that is no number"),
        (b"\x81\xff\xc0\xc0", "cannot be read"),
        (b"\x81\xff\xa1a", "a schema that is no number"),
        (pack_plain({-1: 2**70}), "was not agreed about"),
        (b"\x81\x01\xff", "deadline"),
        (b"\x81\x01\xa1a", "deadline"),
    ],
)
def test_a_bad_extension_is_an_error_for_its_call_alone(
    extension: bytes, word: str, server: Server, good: Workshop
) -> None:
    with RawPeer.dial(server.url) as peer:
        peer.shake_hands()
        body = struct.pack(">H", len(extension)) + extension + pack_plain([1])
        peer.send(HEADER.pack(len(body), Kind.REQUEST, 0x01, ADD, 1) + body)
        _, text = failure_of(peer.read_frame())
        assert word in text
        peer.send_frame(Kind.REQUEST, ADD, 1, pack_plain([2, 3]))
        assert unpack(peer.read_frame().payload) == 5


def test_what_is_strange_and_allowed(server: Server, good: Workshop, log: Log) -> None:
    with RawPeer.dial(server.url) as peer:
        peer.shake_hands()
        peer.send_frame(0x80, 1, 2, b"whatever")
        peer.send_frame(0xFF, 1, 2, b"")
        peer.send_frame(Kind.PONG, 0, 0, b"unasked")
        peer.send_frame(Kind.RESPONSE, 0, 2, b"an answer to nothing")
        peer.send_frame(Kind.ERROR, 0, 0xFFFF_FFFF, b"")
        body = struct.pack(">H", 4) + b"\x81\x7f\xa1a" + pack_plain([1])
        peer.send(HEADER.pack(len(body), Kind.REQUEST, 0x01, ADD, 1) + body)
        peer.send_frame(Kind.PING, 0, 7, b"sign")
        answers = [peer.read_frame(), peer.read_frame()]
        assert sorted((answer.kind, answer.call, bytes(answer.payload)) for answer in answers) == [  # type: ignore[arg-type]
            (Kind.RESPONSE, 1, b"\x01"),
            (Kind.PONG, 7, b"sign"),
        ]
        peer.send_frame(Kind.REQUEST, 0x1234, 3, b"")
        assert failure_of(peer.read_frame())[0] == Code.UNKNOWN_COMMAND
        peer.send_frame(Kind.REQUEST, 0xFFFE, 5, b"")
        assert failure_of(peer.read_frame())[0] == Code.UNKNOWN_COMMAND
        for wrong in (b"", b"\x90", pack_plain([1, 2]), pack_plain(["x", b"", 3]), pack_plain(["Workshop", ["x", 1]])):
            for command in (0xFF00, 0xFF01, 0xFF02):
                peer.send_frame(Kind.REQUEST, command, 7, wrong)
                answer = peer.read_frame()
                assert answer.call == 7
                assert answer.kind in (Kind.ERROR, Kind.RESPONSE)
    assert good.add(1) == 1


def test_a_frame_that_is_cut_short(server: Server, good: Workshop, log: Log) -> None:
    with RawPeer.dial(server.url) as peer:
        peer.shake_hands()
        peer.send(HEADER.pack(100, Kind.REQUEST, 0, ADD, 1) + b"\x92")
        peer.sock.shutdown(socket.SHUT_WR)
        peer.read_to_end()
    assert good.add(1) == 1
    line = log.line()
    assert "in the middle of a frame" in line


def test_a_peer_that_resets(server: Server, good: Workshop) -> None:
    for data in (b"", PREAMBLE, PREAMBLE + hello(), PREAMBLE + hello() + HEADER.pack(9, Kind.REQUEST, 0, ADD, 1)):
        peer = RawPeer.dial(server.url)
        peer.send(data)
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.sock.close()
        assert good.add(1) == 1


MEMORY = """
    import faulthandler, resource, tracemalloc
    from tests.ends import Ends
    from tests.support import PATIENCE, Workshop
    from typedrpc import connect
    with Ends(server={colour!r}).Server(Workshop(), url="tcp://127.0.0.1:0"{options}) as server:
        with connect(Workshop, server.url) as own:
            assert own.add(1) == 1
            tracemalloc.start()
            say(server.url)
            while hear():
                faulthandler.dump_traceback_later(PATIENCE, exit=True)  # anew: many tests share this process
                tracemalloc.reset_peak()
                before = tracemalloc.get_traced_memory()[0]
                say("ready")
                hear()
                assert own.add(1) == 1
                say(tracemalloc.get_traced_memory()[1] - before)
                faulthandler.cancel_dump_traceback_later()
"""


class Meter:
    """A server in a process of its own that says how much memory something cost it at most.

    Coverage is kept out of the process: it would take most of the time, and is lost when the process is killed.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self.url = program.hear()

    def measure(self, action: Callable[[], object]) -> int:
        self._program.say("measure")
        assert self._program.hear() == "ready"
        action()
        self._program.say()
        return int(self._program.hear())


@pytest.fixture(scope="module", params=SERVERS)
def meter(request: pytest.FixtureRequest) -> Iterator[Meter]:
    with Program(MEMORY.format(colour=request.param, options=""), measured=False) as program:
        yield Meter(program)


@pytest.mark.unmeasured
@pytest.mark.parametrize("name", STRANGERS)
def test_a_stranger_costs_no_memory(name: str, meter: Meter) -> None:
    def visit() -> None:
        with RawPeer.dial(meter.url) as peer:
            peer.send(STRANGERS[name][0])
            peer.read_to_end()

    assert meter.measure(visit) < 10 << 20


@pytest.mark.unmeasured
@pytest.mark.parametrize("name", [*BREACHES, *BAD_PAYLOADS])
def test_bad_input_costs_no_memory(name: str, meter: Meter) -> None:
    def visit() -> None:
        with RawPeer.dial(meter.url) as peer:
            peer.shake_hands()
            if name in BREACHES:
                peer.send(BREACHES[name][0])
                peer.read_to_end()
            else:
                peer.send_frame(Kind.REQUEST, ADD, 1, BAD_PAYLOADS[name][0])
                failure_of(peer.read_frame())

    assert meter.measure(visit) < 10 << 20


def test_announcements_cost_no_memory(meter: Meter) -> None:
    """Many connections that announce as much as they may and send almost nothing of it."""

    def visit() -> None:
        peers = [RawPeer.dial(meter.url).shake_hands() for _ in range(5)]
        for peer in peers:
            peer.send(HEADER.pack(16 << 20, Kind.REQUEST, 0, ADD, 1) + bytes(1000))
            peer.send(bytes(1000))
        for peer in peers:
            peer.sock.shutdown(socket.SHUT_WR)
            peer.read_to_end()
            peer.sock.close()

    assert meter.measure(visit) < 10 << 20


# Versions of a contract


def nested(depth: int) -> Any:
    data: Any = "int"
    for _ in range(depth):
        data = ["list", data]
    return data


def chain(count: int) -> Any:
    """Records of which each has the next, so that a walk goes as deep as there are."""
    definitions = [
        ["record", "Node", [["next", ["ref", index + 1] if index < count - 1 else "None", False]], False]
        for index in range(count)
    ]
    return [[[f"p{index}", 3, ["ref", count - 1 - index], False] for index in range(count)], "int", definitions]


ADD_SCHEMA: Any = Workshop.add.schema.to_data()
BAD_SCHEMAS: dict[str, Callable[[], Any]] = {
    "nil": lambda: None,
    "a number": lambda: 7,
    "a map": lambda: {"a": 1},
    "no parts": list,
    "no types": lambda: [[["a", 1, "quaternion", True]], "int", []],
    "a definition that is not there": lambda: [[["a", 1, ["ref", 5], True]], "int", []],
    "a definition of itself": lambda: [[["a", 1, ["ref", 0], True]], "int", [["alias", "A", ["ref", 0]]]],
    "another kind": lambda: [[["a", 99, "int", True]], "int", []],
    "breaking": lambda: [[["a", 1, "str", True]], "int", []],
    "breaking in its result": lambda: [[["a", 1, "int", True], ["b", 1, "int", False]], "str", []],
    "nested 100": lambda: [
        [["a", 1, "int", True], ["x", 3, nested(100), False], ["b", 3, nested(100), False]],
        "int",
        [],
    ],
    "nested 380": lambda: [[["a", 1, nested(380), True]], "int", []],
    "a million names": lambda: [[[f"p{number}", 1, "int", False] for number in range(200_000)], "int", []],
    "a long name": lambda: [[["a" * 1_000_000, 1, "int", True]], "int", []],
    "a union of a million": lambda: [[["a", 1, ["Union", ["int"] * 1_000_000], True]], "int", []],
    "a union of many": lambda: [[["a", 1, ["Union", ["str"] * 12_000], True]], "int", []],
    "a chain of records": lambda: chain(900),
    "a literal of many": lambda: [[["a", 1, ["Literal", [["int", str(n)] for n in range(6000)]], True]], "str", []],
    "aliases that double": lambda: [
        [["a", 1, ["ref", 0], True]],
        "int",
        [
            *(["alias", f"A{index}", ["Union", [["ref", index + 1], ["ref", index + 1]]]] for index in range(60)),
            ["alias", "Z", ["list", ["ref", 0]]],
        ],
    ],
    "as many records as fit": lambda: [
        [["a", 1, "int", True], ["b", 1, "int", False], ["x", 1, ["Union", [["ref", n] for n in range(1000)]], False]],
        "int",
        [["record", "R", [["x", "int", True], [f"y{index}", "str", True]], False] for index in range(1000)],
    ],
}
BEARABLE = {"as many records as fit"}  # what nobody here takes is not looked at


def ask(peer: RawPeer, call: int, command: int, arguments: Any, extension: bytes = b"") -> Any:
    """Make a call; what comes back, an error as its code and text."""
    encoded = encode(Kind.REQUEST, command, call, pack_plain(arguments), extension)
    peer.send(encoded if isinstance(encoded, bytes) else b"".join(encoded))
    answer = peer.read_frame()
    assert answer.call == call
    return failure_of(answer) if answer.kind == Kind.ERROR else unpack(answer.payload)


ADAPT = 0xFF02


@pytest.mark.unmeasured
@pytest.mark.parametrize("name", BAD_SCHEMAS)
def test_a_schema_without_sense_is_not_taken(name: str, server: Server, good: Workshop) -> None:
    with RawPeer.dial(server.url) as peer:
        peer.shake_hands()
        numbers = ask(peer, 1, ADAPT, ["Workshop", {"add": BAD_SCHEMAS[name]()}])
        assert numbers == ({"add": 0} if name in BEARABLE else {})
        if name in BEARABLE:
            assert ask(peer, 3, ADD, [1, 2], pack_extension(schema=0)) == 3
        assert ask(peer, 3, ADD, [2, 3]) == 5
        (own,) = [one for one in server.peers if len(one.versions.rows) == len(numbers)][:1]
        assert len(own.versions.rows) == len(numbers)
    assert good.add(1) == 1


@pytest.mark.parametrize("name", BAD_SCHEMAS)
def test_a_schema_without_sense_costs_little_memory(name: str, meter: Meter) -> None:
    question = pack_plain(["Workshop", {"add": BAD_SCHEMAS[name]()}])

    def visit() -> None:
        with RawPeer.dial(meter.url) as peer:
            peer.shake_hands()
            peer.send_frame(Kind.REQUEST, ADAPT, 1, question)
            assert peer.read_frame().kind == Kind.RESPONSE

    # Plain data takes some 16 times as much as Python objects as it does packed.
    assert meter.measure(visit) < (10 << 20) + 40 * len(question)


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (None, Code.ARGUMENT_TYPE),
        ([], Code.ARGUMENT_TYPE),
        (["Workshop"], Code.ARGUMENT_TYPE),
        (["Workshop", None], Code.ARGUMENT_TYPE),
        (["Workshop", ["add"]], Code.ARGUMENT_TYPE),
        (["Workshop", {1: None}], Code.ARGUMENT_TYPE),
        ([b"Workshop", {}], Code.ARGUMENT_TYPE),
        (["Workshop", {"add": nested(500)}], Code.ARGUMENT_VALUE),
        (["Workshop", {}], {}),
        (["Elsewhere", {"add": ADD_SCHEMA}], {}),
        (["Workshop", {"subtract": ADD_SCHEMA}], {}),
        (["Workshop", {f"c{number}": ADD_SCHEMA for number in range(2000)}], {}),
        (["Workshop", {"spell": ADD_SCHEMA}], {}),
        (["Workshop", {"add": ADD_SCHEMA}, "more, from a later version"], {"add": 0}),
    ],
)
def test_questions_about_versions(arguments: Any, answer: Any, server: Server, good: Workshop) -> None:
    with RawPeer.dial(server.url) as peer:
        peer.shake_hands()
        got = ask(peer, 1, ADAPT, arguments)
        assert (got[0] if isinstance(got, tuple) else got) == answer
        assert ask(peer, 3, ADD, [2, 3]) == 5
    assert good.add(1) == 1


def test_a_number_that_was_not_agreed_about(server: Server, good: Workshop, log: Log) -> None:
    with RawPeer.dial(server.url) as peer, RawPeer.dial(server.url) as other:
        peer.shake_hands()
        other.shake_hands()
        assert ask(peer, 1, ADAPT, ["Workshop", {"add": ADD_SCHEMA}]) == {"add": 0}
        assert ask(peer, 1, ADAPT, ["Workshop", {"add": ADD_SCHEMA}]) == {"add": 0}
        assert ask(peer, 1, ADD, [1, 2], pack_extension(schema=0)) == 3
        for number, command, of in ((1, ADD, peer), (2**40, ADD, peer), (0, Workshop.echo.id, peer), (0, ADD, other)):
            code, text = ask(of, 3, command, [1], pack_extension(schema=number))
            assert code == Code.REMOTE
            assert f"the schema {number} was not agreed about on this connection" in text
        assert ask(peer, 5, ADAPT, ["Workshop", {}], pack_extension(schema=0))[0] == Code.REMOTE
        assert ask(peer, 5, 0xFFFE, [], pack_extension(schema=0))[0] == Code.UNKNOWN_COMMAND
        encoded = encode(Kind.NOTIFY, ADD, 0, pack_plain([1]), pack_extension(schema=9))
        peer.send(encoded if isinstance(encoded, bytes) else b"".join(encoded))
        assert "a one-way call was dropped: Workshop.add: the schema 9" in log.line()
        assert ask(peer, 5, ADD, [1, 2], pack_extension(schema=0)) == 3
    assert good.add(1) == 1


@pytest.mark.parametrize("name", BAD_PAYLOADS)
def test_a_bad_payload_by_a_version_of_the_peers(name: str, server: Server, good: Workshop) -> None:
    payload, code = BAD_PAYLOADS[name]
    schema = [[["b", 1, "int", False], ["a", 3, "int", True], ["ignored", 3, "Any", False]], "int", []]
    if name == "too many":
        payload = pack_plain([1, 2, 3, 4])
    if name == "wrong types":
        payload = pack_plain(["1", 2])
    with RawPeer.dial(server.url) as peer:
        peer.shake_hands()
        assert ask(peer, 1, ADAPT, ["Workshop", {"add": schema}]) == {"add": 0}
        encoded = encode(Kind.REQUEST, ADD, 3, payload, pack_extension(schema=0))
        peer.send(encoded if isinstance(encoded, bytes) else b"".join(encoded))
        got, _ = failure_of(peer.read_frame())
        assert Code.ARGUMENT <= got <= Code.ARGUMENT_MISSING
        assert code in (got, Code.ARGUMENT, Code.ARGUMENT_TYPE)
        assert ask(peer, 3, ADD, {1: 2}, pack_extension(schema=0)) == 2
        assert ask(peer, 3, ADD, [5, 2, [{"deep": [None]}]], pack_extension(schema=0)) == 7
    assert good.add(1) == 1


@pytest.mark.unmeasured
def test_a_peer_with_thousands_of_versions(server: Server, good: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typedrpc.peer.MAX_VERSIONS", 300)
    with RawPeer.dial(server.url) as peer:
        peer.shake_hands()
        got = [
            ask(peer, 1, ADAPT, ["Workshop", {"add": [[*ADD_SCHEMA[0], [f"p{number}", 1, "int", False]], "int", []]}])
            for number in range(400)
        ]
        assert got == [{"add": number} if number < 300 else {} for number in range(400)]
        assert ask(peer, 1, ADD, [1, 2, 3], pack_extension(schema=299)) == 3
        assert ask(peer, 1, ADD, [1, 2, 3], pack_extension(schema=300))[0] == Code.REMOTE
    # Others have versions of their own.
    with RawPeer.dial(server.url) as peer:
        peer.shake_hands()
        assert ask(peer, 1, ADAPT, ["Workshop", {"add": ADD_SCHEMA}]) == {"add": 0}
    assert good.add(1) == 1


def test_nothing_is_compiled_for_a_version_that_nobody_uses(
    ends: Ends, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[object] = []
    compiling = CommandCodec.unpack_with_callbacks_of

    def compile_and_note(codec: CommandCodec, caller: Schema) -> Any:
        compiled.append(codec)
        return compiling(codec, caller)

    monkeypatch.setattr(CommandCodec, "unpack_with_callbacks_of", compile_and_note)
    schema = [[*ADD_SCHEMA[0], [f"nobody_uses_it_with_{ends.server}", 1, "int", False]], "int", []]
    with RawPeer.dial(server.url) as peer:
        peer.shake_hands()
        assert ask(peer, 1, ADAPT, ["Workshop", {"add": schema}]) == {"add": 0}
        assert compiled == []
        for _ in range(3):
            assert ask(peer, 1, ADD, [1, 2], pack_extension(schema=0)) == 3
        assert len(compiled) == 1


def test_nothing_is_compared_for_who_has_not_shaken_hands(
    server: Server, good: Workshop, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[object] = []
    monkeypatch.setattr(Schema, "from_data", looked_at.append)
    question = encode(Kind.REQUEST, ADAPT, 1, pack_plain(["Workshop", {"add": ADD_SCHEMA}]), b"")
    assert isinstance(question, bytes)
    for before in (b"", PREAMBLE):
        with RawPeer.dial(server.url) as peer:
            peer.send(before + question)
            assert peer.read_to_end() == b""
        assert "was cut off" in log.line()
    assert looked_at == []
    assert good.add(1) == 1


# Servers that misbehave


def silent(peer: RawPeer) -> None:
    """Accepts, and answers nothing until the client leaves."""
    peer.read_to_end()


def silent_after_hello(peer: RawPeer) -> None:
    peer.shake_hands()
    peer.read_frames_to_end()


def talks_http(peer: RawPeer) -> None:
    peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    peer.read_to_end()


def leaves(peer: RawPeer) -> None:
    pass


def leaves_after_hello(peer: RawPeer) -> None:
    peer.shake_hands()
    peer.question()  # what is left unread when a socket is closed makes a reset of its end


def says_goodbye(peer: RawPeer) -> None:
    peer.send(PREAMBLE)
    peer.send_frame(Kind.GOODBYE, 0, 0, pack_plain([0, "not today"]))
    peer.read_to_end()


def half_a_preamble(peer: RawPeer) -> None:
    peer.send(PREAMBLE[:4])
    peer.sock.shutdown(socket.SHUT_WR)
    peer.read_to_end()


def other_version(peer: RawPeer) -> None:
    peer.send(PREAMBLE[:-1] + b"\x02")
    peer.read_to_end()


def nonsense_about_the_contract(peer: RawPeer) -> None:
    peer.shake_hands()
    question = peer.question()
    peer.send_frame(Kind.RESPONSE, 0, question.call, pack_plain({"add": "nonsense"}))
    peer.read_to_end()


def no_contracts(peer: RawPeer) -> None:
    peer.shake_hands()
    question = peer.question()
    peer.send_frame(Kind.ERROR, 0, question.call, pack_plain([int(Code.BUSY), "too busy for you", []]))
    peer.read_to_end()


Script = Callable[[RawPeer], None]
BAD_SERVERS: dict[Script, str] = {
    silent: "did not answer in time",
    silent_after_hello: "in time",
    talks_http: "not typedrpc",
    leaves: "closed the connection|reset by peer",
    leaves_after_hello: "closed the connection",
    says_goodbye: "not today",
    half_a_preamble: "in the middle",
    other_version: "version 2",
    nonsense_about_the_contract: "no table of commands",
    no_contracts: "too busy for you",
}


@pytest.mark.parametrize("script", BAD_SERVERS, ids=lambda script: script.__name__)
def test_connecting_to_a_server_that_misbehaves(ends: Ends, script: Script) -> None:
    with FakeServer(script) as fake:
        with pytest.raises(ConnectFailed) as caught:
            ends.connect(Workshop, fake.url, timeout=0.1)
        assert re.search(BAD_SERVERS[script], caught.value.reason)
        assert caught.value.url == fake.url
        assert isinstance(caught.value, ConnectionError)


def test_connecting_gives_up_without_being_told_to(ends: Ends) -> None:
    with FakeServer(leaves) as fake, pytest.raises(ConnectFailed, match=BAD_SERVERS[leaves]):
        ends.connect(fake.url)


def after_agreeing(data: bytes) -> Callable[[RawPeer], None]:
    """A server that answers the first call with these bytes."""

    def script(peer: RawPeer) -> None:
        agree(peer)
        peer.question()
        peer.send(data)
        peer.sock.shutdown(socket.SHUT_WR)
        peer.read_to_end()

    return script


BAD_ANSWERS: dict[str, tuple[bytes, type[RpcError], str]] = {
    "end": (b"", ConnectionLost, "closed the connection without a goodbye"),
    "half a frame": (HEADER.pack(9, Kind.RESPONSE, 0, 0, 3) + b"\x01", ConnectionLost, "in the middle of a frame"),
    "unknown kind": (HEADER.pack(0, 0x33, 0, 0, 3), ConnectionLost, "unknown kind 0x33"),
    "4 GiB": (HEADER.pack(GIBIBYTES_4, Kind.RESPONSE, 0, 0, 3), ConnectionLost, "announces 4294967295 bytes"),
    "goodbye": (
        HEADER.pack(5, Kind.GOODBYE, 0, 0, 0) + pack_plain([0, "hm"]),
        ConnectionLost,
        "closed the connection: hm",
    ),
    "goodbye without sense": (HEADER.pack(1, Kind.GOODBYE, 0, 0, 0) + b"\xc1", ConnectionLost, "closed the connection"),
    "a result of another type": (HEADER.pack(2, Kind.RESPONSE, 0, 0, 3) + b"\xa1a", ProtocolError, "expected int"),
    "a result that is no msgpack": (HEADER.pack(1, Kind.RESPONSE, 0, 0, 3) + b"\xc1", ProtocolError, "Workshop.add"),
    "an error that is no msgpack": (HEADER.pack(1, Kind.ERROR, 0, 0, 3) + b"\xc1", ProtocolError, "cannot be read"),
    "an error of another kind": (
        HEADER.pack(6, Kind.ERROR, 0, 0, 3) + pack_plain([99, "no", []]),
        ProtocolError,
        "code 99: no",
    ),
    "a class that is none of ours": (
        HEADER.pack(len(pack_plain([10, "SystemExit", [["x"], []]])), Kind.ERROR, 0, 0, 3)
        + pack_plain([10, "SystemExit", [["x"], []]]),
        ProtocolError,
        "SystemExit",
    ),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
@pytest.mark.parametrize("form", ["call", "submit", "timed"])
def test_a_server_that_answers_badly(ends: Ends, name: str, form: str) -> None:
    data, error, text = BAD_ANSWERS[name]
    with FakeServer(after_agreeing(data)) as fake, ends.connect(Workshop, fake.url) as workshop:
        forms: dict[str, Callable[[], int]] = {
            "call": lambda: workshop.add(1),
            "timed": lambda: workshop.add.with_options(timeout=PATIENCE)(1),
            "submit": lambda: workshop.add.submit(1).result(PATIENCE),
        }
        with pytest.raises(error, match=text):
            forms[form]()


def test_answers_to_calls_that_nobody_made(ends: Ends) -> None:
    def script(peer: RawPeer) -> None:
        agree(peer)
        question = peer.question()
        for call in (1, 2, 5, 99):
            peer.send_frame(Kind.RESPONSE, 0, call, pack_plain(666))
        peer.send_frame(Kind.RESPONSE, 0, question.call, pack_plain(1))
        peer.send_frame(Kind.RESPONSE, 0, question.call, pack_plain(667))
        peer.send_frame(Kind.RESPONSE, 0, peer.question().call, pack_plain(2))
        peer.read_to_end()

    with FakeServer(script) as fake, ends.connect(Workshop, fake.url) as workshop:
        assert [workshop.add(1), workshop.add(2)] == [1, 2]


def test_a_server_that_calls_a_client_which_serves_nothing(ends: Ends) -> None:
    answered = Gate()

    def script(peer: RawPeer) -> None:
        agree(peer)
        question = peer.question()
        peer.send_frame(Kind.REQUEST, ADD, 2, pack_plain([1, 2]))
        peer.send_frame(Kind.NOTIFY, ADD, 0, pack_plain([1, 2]))
        peer.send_frame(Kind.PING, 0, 9, b"x")
        peer.send_frame(Kind.RESPONSE, 0, question.call, pack_plain(1))
        answers = [peer.read_frame(), peer.read_frame()]
        assert sorted((answer.kind, answer.call) for answer in answers) == [(Kind.ERROR, 2), (Kind.PONG, 9)]
        answered.open()
        peer.read_to_end()

    with FakeServer(script) as fake, ends.connect(Workshop, fake.url) as workshop:
        assert workshop.add(1) == 1
        answered.wait()  # although the client does nothing more


# Addresses where nobody is


def test_a_closed_port(ends: Ends) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ConnectFailed, match="connection refused"):
        ends.connect(Workshop, url)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:80", "unknown scheme 'http'"),
        ("127.0.0.1:80", "scheme"),
        ("tcp://127.0.0.1", "no port"),
        ("tcp://:80", "no host"),
        ("tcp://127.0.0.1:99999", "Port out of range"),
        ("tcp://127.0.0.1:80/path", "more than a host and a port"),
        ("unix://", "no path"),
        ("unix:///nowhere/at/all.sock", "no such socket file"),
        ("unix:///" + "long/" * 50, "too long"),
        ("", "scheme"),
    ],
)
def test_an_address_that_is_none(ends: Ends, url: str, reason: str) -> None:
    with pytest.raises(ConnectFailed) as caught:
        ends.connect(Workshop, url)
    assert reason in caught.value.reason
    assert caught.value.url == url


def test_a_url_that_is_wrong_is_not_tried_again(ends: Ends) -> None:
    with pytest.raises(ConnectFailed, match="unknown scheme"):
        ends.connect(Workshop, "ftp://x:1", timeout=10 * PATIENCE)


def test_a_server_that_comes_up_later(ends: Ends, tmp_path: Any) -> None:
    url = f"unix://{tmp_path}/later.sock"
    connecting = Running(lambda: ends.connect(Workshop, url, timeout=PATIENCE))
    # It fails, and tries again: only then does the server come.
    with socket.socket(socket.AF_UNIX) as probe, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/later.sock")
        listener.listen()
        listener.settimeout(PATIENCE)
        refused, _ = listener.accept()
        refused.close()
        assert not connecting.done
        probe.settimeout(PATIENCE)
    os.unlink(f"{tmp_path}/later.sock")
    with ends.Server(Workshop(), url=url), connecting.result() as workshop:
        assert workshop.add(1) == 1


# Peers that ask for more than they take


def flood(ends: Ends, url: str, make_frame: Callable[[int], bytes], limit: int) -> None:
    """Send frames until no more are taken, several times over with another client served between, and read nothing."""
    with RawPeer.dial(url, receive_buffer=4096) as peer, ends.connect(Workshop, url) as other:
        peer.shake_hands()
        peer.sock.setblocking(False)
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        pending = b""
        times_full = number = 0
        while times_full < 3 and number < limit:
            while len(pending) < 1000:
                pending += make_frame(number)
                number += 1
            try:
                pending = pending[peer.sock.send(pending) :]
            except (BrokenPipeError, ConnectionResetError):
                return  # cut off
            except BlockingIOError:
                times_full += 1
                for value in range(50):
                    assert other.add(value) == value


def request(command: int, call: int, *arguments: object) -> bytes:
    payload = pack_plain(list(arguments))
    return HEADER.pack(len(payload), Kind.REQUEST if call else Kind.NOTIFY, 0, command, call) + payload


SMALL_BOUNDS = """
    from typedrpc.common import handlers, outbox
    handlers.HELD_BYTES = outbox.QUEUED_BYTES = 8 << 20
    # What the system holds beside that is not ours, and takes long to fill with small frames.
    import socket
    from typedrpc import transport
    set_options = transport.set_options
    def hold_little(sock):
        set_options(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    transport.set_options = hold_little
"""

FLOODS: dict[str, tuple[Callable[[int], bytes], int]] = {
    "of calls with large results": (lambda number: request(Workshop.blob.id, 2 * number + 1, 1_000_000), 10_000),
    "of calls with small results": (lambda number: request(ADD, 2 * number + 1, number), 400_000),
    "of calls that are refused": (lambda number: request(0x1234, 2 * number + 1), 400_000),
    "of one-way calls": (lambda number: request(Workshop.swallow.id, 0, bytes(60_000)), 10_000),
    "of one-way calls that wait": (lambda number: request(WAIT, 0, "a" * 60_000), 10_000),
    "of small one-way calls that wait": (lambda number: request(WAIT, 0, "a"), 400_000),
    "of pings": (lambda number: HEADER.pack(1000, Kind.PING, 0, 0, 0) + bytes(1000), 100_000),
}


@pytest.mark.unmeasured
@pytest.mark.parametrize("name", FLOODS)
def test_a_flood(ends: Ends, name: str) -> None:
    """What a client makes the server hold is bounded, and it does not hold up others."""
    source = SMALL_BOUNDS + MEMORY.format(colour=ends.server, options=", max_message_size=100_000, max_workers=8")
    with Program(source, measured=False) as program:
        meter = Meter(program)
        assert meter.measure(lambda: flood(ends, meter.url, *FLOODS[name])) < 40 << 20
