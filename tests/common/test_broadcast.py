"""Broadcast and gather: who gets what in which order, and that no peer holds up, fails or costs the others."""

import array
import asyncio
import contextlib
import queue
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from itertools import count
from typing import Any

import pytest

from tests.ends import ALIKE, ENDS, Ends, alike_ends, socket_of
from tests.support import (
    PATIENCE,
    Forwarder,
    Gate,
    Gates,
    Log,
    Program,
    RawPeer,
    Running,
    hello,
    in_time,
    run_all,
    until,
)
from typedrpc import (
    ArgumentError,
    BlockingCall,
    CallCancelled,
    ConnectionLost,
    ContractMismatch,
    DeadlineExceeded,
    DefinitionError,
    FunctionService,
    ProtocolError,
    RemoteError,
    Server,
    Service,
    UnknownCommand,
    aio,
    current_call,
    rpc,
)
from typedrpc.agreement import digest_of
from typedrpc.codec import pack_plain, unpack_plain
from typedrpc.common import broadcast as module
from typedrpc.common.loop import kept_loop
from typedrpc.definition import FIRST_RESERVED_ID
from typedrpc.messages import ProtocolCommand
from typedrpc.peer import Peer
from typedrpc.service import services_of
from typedrpc.wire import PREAMBLE, Frame, Kind, payload_size

pytestmark = pytest.mark.usefixtures("no_leaks")
ends = alike_ends

URL = "tcp://127.0.0.1:0"
MANY = 60


class Left(Exception):
    def __init__(self, room: str) -> None:
        self.room = room

    def __len__(self) -> int:  # one that is not true is an exception all the same
        return 0


class Inbox:
    """What a listener was told."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.got: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.gates = Gates()

    def next(self) -> Any:
        return self.got.get(timeout=PATIENCE)

    def take(self, count: int) -> list[Any]:
        return [self.next() for _ in range(count)]


class Listener(Inbox, Service):
    """What the server knows of its clients."""

    @rpc
    def on_text(self, text: str) -> None:
        self.got.put(text)

    @rpc
    def on_data(self, data: bytes, more: memoryview | None = None, *rest: bytearray) -> None:
        self.got.put(b"".join([data, more or b"", *rest]))

    @rpc
    def tell(self, report: Callable[[str], None]) -> None:
        report("told")

    @rpc(raises=[Left])
    def ask(self, question: str) -> str:
        match question:
            case "error":
                raise ValueError("what?")
            case "left":
                raise Left("hall")
            case "odd":
                raise RuntimeErrorOfMine
            case "nested":
                return current_call().peer.proxy(Room).greet(self.name)
        return f"{self.name}: {question}"

    @rpc
    def wait(self, gate: str) -> str:
        self.gates["waiting"].open()
        self.gates[gate].wait()
        return self.name


class RuntimeErrorOfMine(Exception):
    pass


class Room(Service):
    """What the server serves."""

    def __init__(self) -> None:
        self.barrier: threading.Barrier | None = None

    @rpc
    def greet(self, name: str) -> str:
        return f"hello {name}"

    @rpc
    def say(self, text: str) -> int:
        server = current_call().server
        assert server is not None
        return server.broadcast(Listener.on_text)(text)

    @rpc
    def ask_all(self, question: str) -> list[str]:
        server = current_call().server
        assert server is not None
        if self.barrier is not None:
            self.barrier.wait(PATIENCE)
        return sorted(map(str, server.gather(Listener.ask, timeout=PATIENCE)(question).values()))


@pytest.fixture(scope="module", autouse=True)
def loop() -> None:
    """The loop of async handlers lasts as long as the process: it is nothing that a test leaves behind."""
    kept_loop()


@pytest.fixture
def few_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few messages may wait for a peer that a test needs not thousands of them."""
    monkeypatch.setattr(module, "MAX_BACKLOG_FRAMES", 400)


@pytest.fixture
def server(ends: Ends, log: Log) -> Iterator[Server]:
    with ends.Server(Room(), url=URL) as server:
        yield server


@contextlib.contextmanager
def listeners(
    ends: Ends, server: Server, names: str = "ab", *, kind: Callable[[str], Any] = Listener
) -> Iterator[list[Any]]:
    """Clients that expose a listener each, in the order in which the server knows them."""
    with contextlib.ExitStack() as stack:
        made = [kind(name) for name in names]
        for one in made:
            before = len(server.peers)
            stack.enter_context(ends.connect(server.url, expose=[one])).proxy(Room)
            assert len(server.peers) == before + 1
        yield made
        for one in made:
            if isinstance(one, Listener):
                one.gates.open_all()


def raw_listener(
    server: Server, *, digest: bytes | None = None, receive_buffer: int | None = None, max_message_size: int = 16 << 20
) -> RawPeer:
    """A client that says that it exposes a listener, and then does what the test does."""
    before = len(server.peers)
    peer = RawPeer.dial(server.url, receive_buffer=receive_buffer)
    services = {"Listener": digest or digest_of(services_of(Listener)["Listener"])}
    peer.send(PREAMBLE + hello(services=services, max_message_size=max_message_size))
    assert peer.read_frame().kind == Kind.HELLO
    peer.send_frame(Kind.REQUEST, Room.greet.id, 1, pack_plain(["raw"]))
    assert peer.read_frame().kind == Kind.RESPONSE  # so it is in
    assert len(server.peers) == before + 1
    return peer


def only(outcomes: dict[Peer, Any]) -> Any:
    """What the one peer answered."""
    (outcome,) = outcomes.values()
    return outcome


def texts(peer: RawPeer, count: int) -> list[str]:
    """The texts of the next frames, which must be broadcasts."""
    found = []
    for _ in range(count):
        frame = peer.read_frame()
        assert (frame.kind, frame.command) == (Kind.NOTIFY, Listener.on_text.id)
        found.append(text_of(frame))
    return found


def text_of(frame: Frame) -> str:
    payload: Any = unpack_plain(frame.payload)
    (text,) = payload
    assert isinstance(text, str)
    return text


class TestWho:
    def test_all_that_expose_the_service(self, ends: Ends, server: Server) -> None:
        assert server.broadcast(Listener.on_text)("nobody") == 0
        with (
            ends.connect(Room, server.url),
            listeners(ends, server) as (a, b),
            ends.connect(server.url, expose=[Room()]) as other,
        ):
            other.proxy(Room)
            assert len(server.peers) == 4
            assert server.broadcast(Listener.on_text)("hi") == 2
            assert (a.next(), b.next()) == ("hi", "hi")

    def test_some_of_them(self, ends: Ends, server: Server) -> None:
        with listeners(ends, server, "abc") as (a, b, c):
            peers = server.peers
            assert server.broadcast(Listener.on_text, to=[peers[0], peers[2]])("two") == 2
            assert server.broadcast(Listener.on_text, to=[])("none") == 0
            assert server.broadcast(Listener.on_text, to={peers[1]})("one") == 1
            assert server.broadcast(Listener.on_text, to=[peers[1]] * 3)("once") == 1
            assert server.broadcast(Listener.on_text)("end") == 3
            assert (a.take(2), b.take(3), c.take(2)) == (["two", "end"], ["one", "once", "end"], ["two", "end"])

    def test_a_generator_is_read_once_and_lasts(self, ends: Ends, server: Server) -> None:
        with listeners(ends, server) as (a, b):
            send = server.broadcast(Listener.on_text, to=(peer for peer in server.peers))
            ask = server.gather(Listener.ask, to=(peer for peer in server.peers))
            assert [send("one"), send("two")] == [2, 2]
            assert [a.take(2), b.take(2)] == [["one", "two"]] * 2
            assert len(ask("one")) == len(ask("two")) == 2

    def test_who_is_connected_counts_when_the_arguments_are_given(self, ends: Ends, server: Server) -> None:
        send, ask = server.broadcast(Listener.on_text), server.gather(Listener.ask)
        assert (send("nobody"), ask("nobody")) == (0, {})
        with listeners(ends, server, "a") as (a,):
            assert send("hi") == 1
            assert a.next() == "hi"
            assert list(ask("hi").values()) == ["a: hi"]

    def test_who_has_left(self, ends: Ends, server: Server) -> None:
        with listeners(ends, server, "a") as (a,):
            with listeners(ends, server, "b"):
                peers = server.peers
            left(server, 1)
            assert server.broadcast(Listener.on_text, to=peers)("hi") == 1
            assert a.next() == "hi"
            outcomes = list(server.gather(Listener.ask, to=peers)("hi").values())
            assert outcomes[0] == "a: hi"
            assert isinstance(outcomes[1], ConnectionLost)

    def test_peers_of_another_server(self, ends: Ends, server: Server) -> None:
        """They are peers as well: one process may serve at two addresses."""
        with (
            ends.Server(Room(), url=URL) as second,
            listeners(ends, server, "a") as (a,),
            listeners(ends, second, "b") as (b,),
        ):
            both = [*server.peers, *second.peers]
            assert server.broadcast(Listener.on_text, to=both)("both") == 2
            assert server.broadcast(Listener.on_text)("own") == 1
            assert a.take(2) == ["both", "own"]
            assert b.next() == "both"
            assert list(second.gather(Listener.ask, to=both)("?").values()) == ["a: ?", "b: ?"]

    def test_the_server_itself_as_its_client_sees_it(self, ends: Ends, server: Server) -> None:
        with ends.connect(server.url, expose=[Listener()]) as client:
            assert server.broadcast(Listener.on_text, to=[client.peer])("hi") == 0

    def test_the_command_of_an_implementation(self, ends: Ends, server: Server) -> None:
        with listeners(ends, server, "a") as (a,):
            assert server.broadcast(Loud.on_text)("hi") == 1
            assert a.next() == "hi"

    def test_a_function_service(self, ends: Ends, server: Server) -> None:
        functions = FunctionService("functions")
        got: queue.SimpleQueue[int] = queue.SimpleQueue()

        @functions.rpc
        def tick(number: int) -> None:
            got.put(number)

        @functions.rpc
        def double(number: int) -> int:
            return 2 * number

        with ends.connect(server.url, expose=[functions]) as client:
            client.proxy(Room)
            assert server.broadcast(tick)(7) == 1
            assert got.get(timeout=PATIENCE) == 7
            assert list(server.gather(double)(4).values()) == [8]


class Loud(Listener):
    @rpc
    def on_text(self, text: str) -> None:
        self.got.put(text.upper())


def left(server: Server, count: int) -> None:
    """Wait until so many peers are left."""
    until(lambda: len(server.peers) <= count, "the end of the others")


class TestRefused:
    """Nothing is sent to anybody."""

    @pytest.fixture
    def a(self, ends: Ends, server: Server) -> Iterator[Listener]:
        with listeners(ends, server, "a") as (a,):
            yield a
            assert server.broadcast(Listener.on_text)("last") == 1
            assert a.next() == "last"

    def test_a_command_with_a_result(self, server: Server, a: Listener) -> None:
        send: Any = server.broadcast(Listener.ask)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
        with pytest.raises(DefinitionError, match=r"Listener.ask: a broadcast has no results: .*return None"):
            send("hi")

    def test_a_command_with_callbacks(self, server: Server, a: Listener) -> None:
        for form in (server.broadcast(Listener.tell), server.gather(Listener.tell)):
            with pytest.raises(DefinitionError, match=r"Listener.tell: it takes callbacks, which belong to one peer"):
                form(lambda text: None)

    @pytest.mark.parametrize("args", [(), (1,), ("a", "b"), (b"a",)])
    def test_wrong_arguments(self, server: Server, a: Listener, args: Any) -> None:
        send: Any = server.broadcast(Listener.on_text)
        ask: Any = server.gather(Listener.ask)
        for form in (send, ask):
            with pytest.raises(ArgumentError, match=r"Listener\.(on_text|ask)"):
                form(*args)
        with pytest.raises(ArgumentError):
            send(text="a", other=1)

    @pytest.mark.parametrize("command", [None, "on_text", Listener().on_text, Listener, print])
    def test_what_is_no_command(self, server: Server, a: Listener, command: Any) -> None:
        for form in (server.broadcast(command), server.gather(command)):
            with pytest.raises(DefinitionError, match="it is no command"):
                form("hi")

    def test_a_command_of_no_service(self, server: Server, a: Listener) -> None:
        class Nobody:
            @rpc
            def on_text(self, text: str) -> None: ...

        with pytest.raises(DefinitionError, match="it belongs to no service"):
            server.broadcast(Nobody.on_text)("hi")

    @pytest.mark.parametrize("timeout", [-1.0, float("nan"), float("inf"), 1e9])
    def test_a_time_out_that_is_none(self, server: Server, a: Listener, timeout: float) -> None:
        with pytest.raises(ValueError, match="timeout must be None or a number of seconds"):
            server.gather(Listener.ask, timeout=timeout)

    def test_peers_that_are_none(self, server: Server, a: Listener) -> None:
        to: Any = [*server.peers, "b"]
        with pytest.raises(AttributeError):
            server.broadcast(Listener.on_text, to=to)("hi")


class TestOrder:
    @pytest.mark.unmeasured
    def test_of_each_thread_at_each_peer(self, ends: Ends, server: Server) -> None:
        threads, messages = 6, 150

        def send(thread: int) -> None:
            for number in range(messages):
                assert server.broadcast(Listener.on_text)(f"{thread} {number}") == 3

        with listeners(ends, server, "abc") as made:
            run_all(partial(send, thread) for thread in range(threads))
            for one in made:
                check_order(one.take(threads * messages), threads, messages)

    def test_one_way_calls_of_the_same_thread_among_them(self, ends: Ends, server: Server) -> None:
        with listeners(ends, server, "a") as (a,):
            proxy = server.peers[0].proxy(Listener)
            for number in range(200):
                if number % 2:
                    proxy.on_text.notify(str(number))
                else:
                    server.broadcast(Listener.on_text)(str(number))
            assert a.take(200) == [str(number) for number in range(200)]


def check_order(got: Iterable[str], threads: int, messages: int) -> None:
    by_thread: dict[str, list[int]] = {}
    for text in got:
        thread, number = text.split()
        by_thread.setdefault(thread, []).append(int(number))
    assert by_thread == {str(thread): list(range(messages)) for thread in range(threads)}


class TestLargePayloads:
    SIZE = 300_000

    def test_what_was_given_may_be_changed_at_once(self, ends: Ends, server: Server) -> None:
        """Two peers that do not read yet get what was given, not what became of it."""
        data = bytes(range(250)) * (self.SIZE // 250)
        changing, third = bytearray(data), bytearray(data)
        with raw_listener(server, receive_buffer=4096) as slow, listeners(ends, server) as (a, b):
            for _ in range(4):
                assert server.broadcast(Listener.on_data)(data, memoryview(changing), third) == 3
                changing[:] = bytes(len(changing))
                third[:10] = b"x" * 10
                third.clear()  # nothing holds it
                third += data
                changing[:] = data
            changing[:] = bytes(len(changing))
            third.clear()
            for listener in (a, b):
                assert listener.take(4) == [3 * data] * 4
            for _ in range(4):
                frame = slow.read_frame()
                assert frame.kind == Kind.NOTIFY
                assert [bytes(segment) for segment in frame.payload.segments] == [data] * 3  # type: ignore[union-attr]

    def test_an_array(self, ends: Ends, server: Server) -> None:
        numbers = array.array("i", range(100_000))
        kept = numbers.tobytes()
        with listeners(ends, server) as (a, b):
            server.broadcast(Listener.on_data)(b"", memoryview(numbers).cast("B"))
            numbers[:] = array.array("i", bytes(len(kept)))
            assert (a.next(), b.next()) == (kept, kept)

    def test_too_large_for_one_peer(self, ends: Ends, server: Server, log: Log) -> None:
        with raw_listener(server, max_message_size=1024) as small, listeners(ends, server, "a") as (a,):
            send = server.broadcast(Listener.on_data)
            assert [send(bytes(size)) for size in (1100, 2000, 100_000)] == [1, 1, 1]
            assert list(map(len, a.take(3))) == [1100, 2000, 100_000]
            assert server.broadcast(Listener.on_text)("small") == 2
            assert texts(small, 1) == ["small"]
            line = log.line()  # one for all of them
            assert "a broadcast of Listener.on_data is too large for <peer" in line
            assert "it takes 1024" in line

    def test_exactly_as_large_as_it_takes(self, server: Server, log: Log) -> None:
        with raw_listener(server, max_message_size=1024) as small:
            overhead = len(pack_plain([bytes(1000)])) - 1000
            assert server.broadcast(Listener.on_data)(bytes(1024 - overhead)) == 1
            assert len(small.read_frame().payload) == 1024
            assert server.broadcast(Listener.on_data)(bytes(1025 - overhead)) == 0
            assert "too large" in log.line()


class Newer(Inbox, Service, name="Listener"):
    """A later version: other ids, a parameter more."""

    @rpc(id=7)
    def on_text(self, text: str, loud: bool = True) -> None:
        self.got.put((text, loud))

    @rpc(id=9)
    def ask(self, question: str, loud: bool = True) -> str | None:
        return f"{self.name}: {question}, {loud}"


class OtherIds(Inbox, Service, name="Listener"):
    """The same with other ids."""

    @rpc(id=0xFEFF)
    def on_text(self, text: str) -> None:
        self.got.put(text)


class Broken(Service, name="Listener"):
    def __init__(self, name: str = "") -> None: ...

    @rpc
    def on_text(self, text: int) -> None: ...


class Lacking(Service, name="Listener"):
    def __init__(self, name: str = "") -> None: ...

    @rpc
    def ask(self, question: str) -> bytes:
        return b""


class TestVersions:
    def test_another_version_of_the_contract(self, ends: Ends, server: Server) -> None:
        with listeners(ends, server, "n", kind=Newer) as (newer,), listeners(ends, server, "a") as (a,):
            for number in range(500):
                assert server.broadcast(Listener.on_text)(str(number)) == 2
            assert newer.take(500) == [(str(number), True) for number in range(500)]
            assert a.take(500) == [str(number) for number in range(500)]
            assert server.broadcast(Listener.on_text)("more") == 2
            assert newer.next() == ("more", True)

    def test_other_ids(self, ends: Ends, server: Server) -> None:
        with listeners(ends, server, "oo", kind=OtherIds) as others, listeners(ends, server, "a") as (a,):
            for number in range(100):
                assert server.broadcast(Listener.on_text)(str(number)) == 3
            for one in (*others, a):
                assert one.take(100) == [str(number) for number in range(100)]

    def test_what_names_the_version_counts_for_the_size_too(self, ends: Ends, server: Server, log: Log) -> None:
        newer = Newer()
        with ends.connect(server.url, expose=[newer], max_message_size=1024) as client:
            client.proxy(Room)
            send = server.broadcast(Listener.on_text)
            assert send("first") == 1
            assert newer.next() == ("first", True)
            told(server.peers[0])
            reached = [size for size in range(1000, 1030) if send("x" * size)]
            assert reached == list(range(1000, reached[-1] + 1))
            assert [len(text) for text, _ in newer.take(len(reached))] == reached
            assert "is too large for <peer" in log.line()
            assert send("last") == 1
            assert newer.next() == ("last", True)

    @pytest.mark.unmeasured
    def test_many_threads_while_it_is_agreed_about(self, ends: Ends, server: Server) -> None:
        threads, messages = 6, 100

        def send(thread: int) -> None:
            for number in range(messages):
                server.broadcast(Listener.on_text)(f"{thread} {number}")

        with listeners(ends, server, "nnn", kind=Newer) as made:
            run_all(partial(send, thread) for thread in range(threads))
            for one in made:
                check_order([text for text, _ in one.take(threads * messages)], threads, messages)

    @pytest.mark.parametrize("kind", [Broken, Lacking])
    def test_a_contract_that_cannot_be_agreed_about(
        self, ends: Ends, server: Server, log: Log, kind: type[Service]
    ) -> None:
        with listeners(ends, server, "x", kind=kind), listeners(ends, server, "a") as (a,):
            for number in range(50):
                assert server.broadcast(Listener.on_text)(str(number)) in (1, 2)
            assert a.take(50) == [str(number) for number in range(50)]
            line = log.line()
            assert "a broadcast of Listener.on_text does not reach <peer" in line
            # What was agreed is known from then on.
            outcomes = list(server.gather(Listener.ask)("hi").values())
            assert isinstance(outcomes[0], UnknownCommand if kind is Broken else ContractMismatch)
            assert outcomes[1] == "a: hi"
            told(server.peers[0])
            assert server.broadcast(Listener.on_text)("end") == 1
            assert log.unread == []

    def test_gather_adapts(self, ends: Ends, server: Server) -> None:
        with listeners(ends, server, "n", kind=Newer), listeners(ends, server, "a"):
            outcomes = list(server.gather(Listener.ask)("hi").values())
            assert isinstance(outcomes[0], ContractMismatch)  # str | None for str
            assert outcomes[1] == "a: hi"


class TestPeersThatDoNotTellTheirContract:
    @pytest.mark.usefixtures("few_wait")
    def test_they_hold_up_nobody_and_are_cut_off(self, ends: Ends, server: Server, log: Log) -> None:
        with raw_listener(server, digest=b"other") as mute, listeners(ends, server, "a") as (a,):
            send = server.broadcast(Listener.on_text)
            for number in range(module.MAX_BACKLOG_FRAMES):
                assert send(str(number)) == 2
                assert a.next() == str(number)  # nothing waits for the good one
            assert server.peers[0].exposes(Listener)
            assert mute.question().command == ProtocolCommand.CONTRACT
            assert log.unread == []
            send("one too many")
            assert "was cut off: it does not tell its contract" in log.line()
            assert mute.read_to_end() == b""
            assert send("end") == 1
            assert a.take(2) == ["one too many", "end"]

    def test_the_bytes_that_wait_are_bounded(self, server: Server, log: Log) -> None:
        with raw_listener(server, digest=b"other"):
            data = bytes(1 << 20)
            for _ in range(15):
                assert server.broadcast(Listener.on_data)(data) == 1
            assert log.unread == []
            server.broadcast(Listener.on_data)(data)
            assert "was cut off: it does not tell its contract" in log.line()

    @pytest.mark.usefixtures("few_wait")
    def test_what_gathers_leave_behind_is_bounded_too(self, server: Server, log: Log) -> None:
        with raw_listener(server, digest=b"other"):
            ask = server.gather(Listener.ask, timeout=0)
            for _ in range(module.MAX_BACKLOG_FRAMES + 1):
                assert isinstance(only(ask("hi")), DeadlineExceeded | ConnectionLost)
            assert "does not tell its contract" in log.line()

    def test_answers_that_make_no_sense_are_logged_once(self, ends: Ends, server: Server, log: Log) -> None:
        with raw_listener(server, digest=b"other") as odd, listeners(ends, server, "a") as (a,):
            ask = server.gather(Listener.ask)
            for number in range(5):
                asking = Running(ask, "hi")
                question = odd.question()
                odd.send_frame(Kind.RESPONSE, 0, question.call, pack_plain(number))
                first, second = asking.result().values()
                assert isinstance(first, ProtocolError)
                assert second == "a: hi"
                server.broadcast(Listener.on_text)("hi")
                odd.send_frame(Kind.ERROR, 0, odd.question().call, b"\xc1")
                assert a.next() == "hi"
                told(server.peers[0])
            assert "does not tell its contract Listener" in log.line()

    def test_who_tells_late_gets_everything_in_order(self, server: Server) -> None:
        with raw_listener(server, digest=b"other") as late:
            for number in range(100):
                server.broadcast(Listener.on_text)(str(number))
            late.send_frame(Kind.RESPONSE, 0, late.question().call, pack_plain(None))  # as ours is
            for number in range(100, 200):
                server.broadcast(Listener.on_text)(str(number))
            assert texts(late, 200) == [str(number) for number in range(200)]

    def test_who_leaves_meanwhile_is_no_news(self, server: Server, log: Log) -> None:
        with raw_listener(server, digest=b"other") as mute:
            server.broadcast(Listener.on_text)("hi")
            asking = Running(server.gather(Listener.ask), "hi")
            mute.question()
        assert isinstance(only(asking.result()), ConnectionLost)


def told(peer: Peer) -> None:
    """Wait until a peer has told its contract, and who waited for that knows. Until then broadcasts count unseen."""
    link: Any = peer.link
    until(lambda: not link.agreements._asking, "the contract")


class TestSlowPeers:
    @pytest.mark.usefixtures("few_wait")
    def test_too_many_frames(self, ends: Ends, server: Server, log: Log) -> None:
        with raw_listener(server, receive_buffer=4096) as slow, listeners(ends, server, "a") as (a,):
            send = server.broadcast(Listener.on_text)
            sent = 0
            got = 0
            text = "x" * 1000
            while send(text) == 2:
                sent += 1
                if sent - got == 100:  # the good one is no slow one
                    a.take(100)
                    got += 100
            assert sent > module.MAX_BACKLOG_FRAMES
            line = log.line()
            assert "was cut off: it does not read what is sent to it, 401 messages wait for it" in line
            assert send("end") == 1
            assert a.take(sent + 2 - got)[-1] == "end"
            # What it was sent is the beginning, in order and whole.
            received = slow.read_frames_to_end()
            assert received
            assert {text_of(frame) for frame in received if frame.kind == Kind.NOTIFY} == {text}

    def test_too_many_bytes(self, ends: Ends, server: Server, log: Log) -> None:
        with raw_listener(server, receive_buffer=4096), listeners(ends, server, "a") as (a,):
            send = server.broadcast(Listener.on_data)
            data = bytes(1 << 20)
            sent = 1
            while send(data) == 2:
                sent += 1
                assert a.next() == data
            assert 16 <= sent <= 32  # what the system holds of it comes on top
            assert "was cut off: it does not read what is sent to it" in log.line()

    def test_frames_of_which_each_is_small(self, server: Server, log: Log) -> None:
        with raw_listener(server, receive_buffer=4096):
            send = server.broadcast(Listener.on_data)
            data = bytes(60_000)
            sent = 1
            while send(data) == 1:
                sent += 1
            assert sent * len(data) < 2 * module.MAX_BACKLOG + (8 << 20)
            assert "was cut off" in log.line()

    def test_asked_again_and_again(self, server: Server, log: Log) -> None:
        with raw_listener(server, receive_buffer=4096):
            ask = server.gather(Listener.ask, timeout=0.02)
            question = "x" * (1 << 20)
            outcomes: list[Any] = [DeadlineExceeded("not asked yet")]
            while any(isinstance(outcome, DeadlineExceeded) for outcome in outcomes):
                outcomes = list(ask(question).values())
            assert all(isinstance(outcome, ConnectionLost) for outcome in outcomes)
            assert "does not read what is sent to it" in log.line()

    @pytest.mark.usefixtures("few_wait")
    def test_from_many_threads_one_line(self, server: Server, log: Log) -> None:
        with raw_listener(server, receive_buffer=4096):

            def send() -> None:
                for _ in range(300):
                    server.broadcast(Listener.on_text)("x" * 4000)

            run_all([send] * 6)
            assert server.broadcast(Listener.on_text)("end") == 0
            assert "was cut off" in log.line()

    def test_one_that_reads_in_the_end_gets_everything(self, server: Server) -> None:
        with raw_listener(server, receive_buffer=4096) as slow:
            send = server.broadcast(Listener.on_text)
            sent = [f"{number} {'x' * 1000}" for number in range(module.MAX_BACKLOG_FRAMES)]
            for text in sent:
                assert send(text) == 1
            assert texts(slow, len(sent)) == sent


KILLED = """
    from tests.support import RawPeer, hello
    from typedrpc.wire import PREAMBLE
    url, digest, count = hear(), bytes.fromhex(hear()), int(hear())
    peers = [RawPeer.dial(url) for _ in range(count)]
    for peer in peers:
        peer.send(PREAMBLE + hello(services={"Listener": digest}))
        peer.read_frame()
    say("ready")
    hear()
"""


@pytest.mark.unmeasured
class TestManyPeers:
    @pytest.mark.parametrize("ends", ALIKE, ids=repr)
    @pytest.mark.usefixtures("few_wait")
    def test_some_do_not_read_and_some_are_killed_half_way(self, server: Server, log: Log) -> None:
        """The others get every message in order."""
        lost, messages = 6, 1000
        digest = digest_of(services_of(Listener)["Listener"]).hex()
        with Program(KILLED) as program, contextlib.ExitStack() as stack:
            for line in (server.url, digest, str(lost)):
                program.say(line)
            assert program.hear() == "ready"
            wait_for_peers(server, lost)
            slow = [stack.enter_context(raw_listener(server, receive_buffer=4096)) for _ in range(lost)]
            for peer in server.peers[lost:]:
                link: Any = peer.link
                socket_of(link.connection).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            good = [stack.enter_context(raw_listener(server)) for _ in range(MANY - 2 * lost)]
            reading = [Running(texts, peer, messages) for peer in good]
            send = server.broadcast(Listener.on_text)
            counts = []
            sent = [f"{number} {'x' * 2000}" for number in range(messages)]  # more than the system and a transport take
            for number, text in enumerate(sent):
                if number == messages // 2:
                    program.process.kill()
                counts.append(send(text))
                if number % 64 == 0:
                    drained(server, exclude=len(slow))
            for one in reading:
                assert one.result() == sent
            assert counts[0] == MANY
            assert counts[-1] == MANY - 2 * lost
            lines = [log.line() for _ in slow]
            assert all("does not read what is sent to it" in line for line in lines)
            assert len(set(lines)) == lost

    @pytest.mark.parametrize("ends", ENDS[:2], ids=repr)
    def test_peers_that_come_and_go_while_many_threads_broadcast(self, ends: Ends, server: Server) -> None:
        stop = Gate()

        def send() -> int:
            for number in count():
                server.broadcast(Listener.on_text)(str(number))
                server.gather(Listener.ask, timeout=PATIENCE)("hi")
                if stop.is_open:
                    return number
            raise AssertionError

        def come_and_go(kind: Callable[[str], Any]) -> None:
            for _ in range(25):
                one = kind("x")
                with ends.connect(server.url, expose=[one]) as client:
                    client.proxy(Room)
                    one.next()

        sending = [Running(send) for _ in range(3)]
        run_all([partial(come_and_go, kind) for kind in (Listener, Newer, Listener, OtherIds)])
        stop.open()
        assert all(one.result() >= 0 for one in sending)


def wait_for_peers(server: Server, count: int) -> None:
    until(lambda: len(server.peers) == count, f"{count} peers")


def drained(server: Server, *, exclude: int) -> None:
    """Wait until no more peers than these have much that waits for them."""
    links: list[Any] = [peer.link for peer in server.peers]
    until(lambda: sum(link.connection.waiting_frames > 100 for link in links) <= exclude, "that they read")


class TestWithinHandlers:
    def test_broadcast(self, ends: Ends, server: Server) -> None:
        a = Listener("a")
        with listeners(ends, server, "b") as (b,), ends.connect(Room, server.url, expose=[a]) as room:
            assert room.say("hi") == 2
            assert (a.next(), b.next()) == ("hi", "hi")

    def test_gather_asks_the_caller_too(self, ends: Ends, server: Server) -> None:
        with listeners(ends, server, "b"), ends.connect(Room, server.url, expose=[Listener("a")]) as room:
            assert room.ask_all("hi") == ["a: hi", "b: hi"]
            assert room.ask_all("nested") == ["hello a", "hello b"]

    @pytest.mark.parametrize("max_workers", [0, 1, 64])
    def test_handlers_of_all_peers_gather_at_once(self, ends: Ends, log: Log, max_workers: int) -> None:
        """Each waits for the others, who wait for it, whether threads are left to be lent or not."""
        room = Room()
        if ends.server == "threads" or max_workers >= 4:  # so many run at once
            room.barrier = threading.Barrier(4)
        with ends.Server(room, url=URL, max_workers=max_workers) as server, contextlib.ExitStack() as stack:
            proxies = [stack.enter_context(ends.connect(Room, server.url, expose=[Listener(name)])) for name in "abcd"]
            for _ in range(3):
                found = run_all([partial(proxy.ask_all, "hi") for proxy in proxies])
                assert found == [["a: hi", "b: hi", "c: hi", "d: hi"]] * 4
        while log.unread:  # of the moment between the barrier and the gather
            assert "threads that may be lent are busy" in log.line()

    def test_broadcast_from_what_learns_that_a_peer_has_left(self, ends: Ends, server: Server) -> None:
        heard: queue.SimpleQueue[int] = queue.SimpleQueue()

        def tell(future: "Future[str]") -> None:
            assert isinstance(future.exception(), ConnectionLost)
            heard.put(server.broadcast(Listener.on_text)("it has left"))

        with listeners(ends, server, "a") as (a,):
            with raw_listener(server) as raw:
                future = server.peers[1].proxy(Listener).ask.submit("hi")
                future.add_done_callback(tell)
                assert raw.question().command == Listener.ask.id
            assert heard.get(timeout=PATIENCE) == 1
            assert a.next() == "it has left"


class TestGather:
    def test_results_and_exceptions_by_peer(self, ends: Ends, server: Server, log: Log) -> None:
        class Wrong(Listener):
            @rpc(raises=[Left])
            def ask(self, question: str) -> str:
                raise {"a": ValueError("no"), "b": Left("hall"), "c": RuntimeErrorOfMine(), "d": KeyError("k")}[
                    self.name
                ]

        with listeners(ends, server, "abcd", kind=Wrong), listeners(ends, server, "e"):
            outcomes = server.gather(Listener.ask)("hi")
            assert list(outcomes) == list(server.peers)
            value, declared, remote, key, result = outcomes.values()
            assert isinstance(value, ValueError)
            assert str(value) == "no"
            assert isinstance(declared, Left)
            assert declared.room == "hall"
            assert isinstance(remote, RemoteError)
            assert isinstance(key, KeyError)
            assert result == "e: hi"
            assert "Listener.ask failed in a call" in log.line()

    def test_one_that_is_late(self, ends: Ends, server: Server) -> None:
        with listeners(ends, server, "abc") as (a, b, c):
            a.gates["go"].open()
            c.gates["go"].open()

            def two_in_time(timeout: float) -> bool:
                first, late, third = server.gather(Listener.wait, timeout=timeout)("go").values()
                assert isinstance(late, DeadlineExceeded)
                assert "Listener.wait" in str(late)
                return [first, third] == ["a", "c"]

            in_time(two_in_time)
            b.gates["go"].open()
            assert list(server.gather(Listener.wait)("go").values()) == ["a", "b", "c"]

    def test_no_time_at_all(self, ends: Ends, server: Server) -> None:
        with listeners(ends, server):
            outcomes = server.gather(Listener.ask, timeout=0)("hi")
            assert len(outcomes) == 2
            assert all(isinstance(outcome, DeadlineExceeded) for outcome in outcomes.values())

    def test_no_limit(self, ends: Ends, server: Server) -> None:
        with listeners(ends, server) as (a, b):
            asking = Running(server.gather(Listener.wait, timeout=None), "go")
            for one in (a, b):
                one.gates["waiting"].wait()
                assert not asking.done
                one.gates["go"].open()
            assert list(asking.result().values()) == ["a", "b"]

    def test_one_that_leaves_meanwhile(self, ends: Ends, server: Server) -> None:
        with listeners(ends, server, "a") as (a,), raw_listener(server) as raw:
            asking = Running(server.gather(Listener.wait), "go")
            assert raw.question().command == Listener.wait.id
            raw.sock.shutdown(socket.SHUT_RDWR)
            a.gates["go"].open()
            result, lost = asking.result().values()
            assert result == "a"
            assert isinstance(lost, ConnectionLost)

    def test_one_that_does_not_read(self, ends: Ends, server: Server) -> None:
        class Brief(Listener):
            """Its answer is small: one that comes late is not on its way for long when the listener leaves."""

            @rpc(raises=[Left])
            def ask(self, question: str) -> str:
                return f"{self.name}: {len(question)}"

        def other_in_time(timeout: float) -> bool:
            with raw_listener(server, receive_buffer=4096), listeners(ends, server, "a", kind=Brief):
                stalled, good = server.gather(Listener.ask, timeout=timeout)("x" * 8_000_000).values()
            left(server, 0)
            assert isinstance(stalled, DeadlineExceeded)
            return bool(good == "a: 8000000")

        in_time(other_in_time)

    def test_one_that_has_no_room_for_another_call(self, ends: Ends, server: Server) -> None:
        listener = Listener("a")
        with ends.connect(server.url, expose=[listener], max_calls=3) as client:
            client.proxy(Room)
            (peer,) = server.peers
            pending = [peer.proxy(Listener).wait.submit("go") for _ in range(2)]
            (outcome,) = server.gather(Listener.ask)("hi").values()
            assert isinstance(outcome, DeadlineExceeded)
            assert "no room" in str(outcome)
            listener.gates["go"].open()
            assert [future.result(PATIENCE) for future in pending] == ["a", "a"]
            assert list(server.gather(Listener.ask)("hi").values()) == ["a: hi"]

    def test_an_answer_that_does_not_fit(self, server: Server) -> None:
        with raw_listener(server) as raw:
            asking = Running(server.gather(Listener.ask), "hi")
            raw.send_frame(Kind.RESPONSE, 0, raw.question().call, pack_plain(5))
            assert isinstance(only(asking.result()), ProtocolError)

    def test_late_answers_are_nobodys(self, server: Server) -> None:
        with raw_listener(server) as raw:

            def asked_in_time(timeout: float) -> bool:
                for number in range(5):
                    outcomes = server.gather(Listener.ask, timeout=timeout)("hi")
                    assert isinstance(only(outcomes), DeadlineExceeded)
                    raw.send_frame(Kind.PING, 0, number, b"")  # its answer comes after the question, if there was one
                    question = raw.read_frame()
                    if question.kind == Kind.PONG:
                        return False
                    others = {(frame.kind, frame.call) for frame in (raw.read_frame(), raw.read_frame())}
                    assert others == {(Kind.CANCEL, question.call), (Kind.PONG, number)}
                    raw.send_frame(Kind.RESPONSE, 0, question.call, pack_plain(f"late {number}"))
                return True

            in_time(asked_in_time)
            asking = Running(server.gather(Listener.ask), "hi")
            raw.send_frame(Kind.RESPONSE, 0, raw.question().call, pack_plain("in time"))
            assert list(asking.result().values()) == ["in time"]


class TestAwaited:
    """``gather(...).aio``, and what becomes of who does not await."""

    def test_from_a_loop_of_ones_own(self, ends: Ends, server: Server) -> None:
        async def ask() -> list[Any]:
            assert await server.gather(Listener.ask, to=[]).aio("hi") == {}
            return list((await server.gather(Listener.ask).aio("hi")).values())

        with listeners(ends, server):
            assert asyncio.run(ask()) == ["a: hi", "b: hi"]

    def test_one_that_is_late(self, ends: Ends, server: Server) -> None:
        async def ask(timeout: float) -> list[Any]:
            return list((await server.gather(Listener.wait, timeout=timeout).aio("go")).values())

        def one_in_time(timeout: float) -> bool:
            first, late = asyncio.run(ask(timeout))
            assert isinstance(late, DeadlineExceeded)
            return bool(first == "a")

        with listeners(ends, server) as (a, _):
            a.gates["go"].open()
            in_time(one_in_time)

    def test_a_task_that_is_cancelled_cancels_the_calls(self, server: Server) -> None:
        async def ask() -> None:
            asking = asyncio.ensure_future(server.gather(Listener.ask).aio("hi"))
            question = await asyncio.to_thread(raw.question)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            given_up = await asyncio.to_thread(raw.read_frame)
            assert (given_up.kind, given_up.call) == (Kind.CANCEL, question.call)

        with raw_listener(server) as raw:
            asyncio.run(ask())

    def test_who_was_not_asked_yet_is_not_asked_any_more(self, server: Server) -> None:
        """The task is cancelled while a peer is asked about its contract."""

        async def ask() -> None:
            asking = asyncio.ensure_future(server.gather(Listener.ask).aio("hi"))
            question = await asyncio.to_thread(raw.question)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            server.broadcast(Listener.on_text)("next")
            raw.send_frame(Kind.RESPONSE, 0, question.call, pack_plain(None))
            assert await asyncio.to_thread(texts, raw, 1) == ["next"]

        with raw_listener(server, digest=b"another") as raw:
            asyncio.run(ask())

    def test_asyncios_own_time_out(self, server: Server) -> None:
        async def ask() -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await server.gather(Listener.ask).aio("hi")

        with raw_listener(server) as raw:
            asyncio.run(ask())
            assert [raw.question().kind, raw.read_frame().kind] == [Kind.REQUEST, Kind.CANCEL]

    def test_wrong_arguments(self, server: Server) -> None:
        ask: Any = server.gather(Listener.ask)
        with pytest.raises(ArgumentError):
            asyncio.run(ask.aio(1))
        with pytest.raises(DefinitionError, match="callbacks"):
            asyncio.run(server.gather(Listener.tell).aio(lambda text: None))

    @pytest.mark.parametrize("awaits", [True, False])
    def test_in_an_async_handler(self, ends: Ends, log: Log, awaits: bool) -> None:
        class Hall(Service):
            @rpc
            async def ask_all(self, question: str) -> list[str]:
                gather = current_call().server.gather(Listener.ask, timeout=PATIENCE)
                return sorted(map(str, (await gather.aio(question) if awaits else gather(question)).values()))

        with (
            ends.Server(Hall(), Room(), url=URL) as server,
            listeners(ends, server),
            ends.connect(server.url, expose=[Listener("c")]) as client,
        ):
            ask = client.proxy(Hall).ask_all
            if awaits:
                assert ask.call("hi") == ["a: hi", "b: hi", "c: hi"]
                assert ask.call("nested") == ["hello a", "hello b", "hello c"]
            else:
                with pytest.raises(RemoteError, match="with BlockingCall"):
                    ask.call("hi")
                assert "Hall.ask_all failed in a call" in log.line()

    def test_a_handler_whose_call_is_cancelled_waits_no_longer(self, ends: Ends) -> None:
        ended: queue.SimpleQueue[Any] = queue.SimpleQueue()

        class Hall(Service):
            @rpc
            def ask_all(self) -> None:
                ended.put(list(current_call().server.gather(Listener.wait)("go").values()))

        with ends.Server(Hall(), Room(), url=URL) as server, listeners(ends, server, "a") as (a,):
            with ends.connect(server.url) as client:
                future = client.proxy(Hall).ask_all.submit()
                a.gates["waiting"].wait()
                future.cancel()
                (outcome,) = ended.get(timeout=PATIENCE)
                assert isinstance(outcome, CallCancelled)

    def test_the_deadline_of_the_handler_counts(self, ends: Ends) -> None:
        ended: queue.SimpleQueue[Any] = queue.SimpleQueue()

        class Hall(Service):
            @rpc
            def ask_all(self) -> None:
                ended.put(list(current_call().server.gather(Listener.wait)("go").values()))

        with ends.Server(Hall(), Room(), url=URL) as server, listeners(ends, server, "a"):
            with ends.connect(server.url) as client, pytest.raises(DeadlineExceeded):
                client.proxy(Hall).ask_all.with_options(timeout=0.2)()
            (outcome,) = ended.get(timeout=PATIENCE)
            assert isinstance(outcome, DeadlineExceeded | CallCancelled)

    def test_on_the_thread_of_the_loop_it_raises_at_once(self) -> None:
        """Whether anybody is there to be asked or not, and before anything is sent."""

        async def main() -> None:
            async with aio.Server(Room(), url=URL) as server:
                with pytest.raises(BlockingCall, match=r"Listener.ask: this would block .*gather\(...\).aio\(...\)"):
                    server.gather(Listener.ask)("hi")
                async with aio.connect(server.url, expose=[Listener("a")]) as client:
                    await client.proxy(Room).greet.aio("x")
                    with pytest.raises(BlockingCall):
                        server.gather(Listener.ask)("hi")
                    assert list((await server.gather(Listener.ask).aio("hi")).values()) == ["a: hi"]
                    assert await asyncio.to_thread(lambda: len(server.gather(Listener.ask)("hi"))) == 1

        asyncio.run(main())

    def test_peers_of_a_loop_given_to_a_server_of_threads(self, log: Log) -> None:
        async def main() -> None:
            async with aio.Server(Room(), url=URL) as server:
                async with aio.connect(server.url, expose=[Listener("a")]) as client:
                    await client.proxy(Room).greet.aio("x")
                    with Server(Room(), url=URL) as other:
                        gather = other.gather(Listener.ask, to=server.peers)
                        with pytest.raises(BlockingCall):
                            gather("hi")
                        assert list((await gather.aio("hi")).values()) == ["a: hi"]

        asyncio.run(main())


class TestManyCommands:
    @pytest.mark.unmeasured
    def test_ids_over_the_whole_range(self, ends: Ends, server: Server) -> None:
        """A few thousand here; all 65 280 in the proofs."""
        service = FunctionService("everything")

        def adder(number: int) -> Callable[[int], int]:
            def add(value: int) -> int:
                return value + number

            add.__name__ = f"command_{number}"
            return add

        commands = [service.rpc(id=number)(adder(number)) for number in [*range(0, FIRST_RESERVED_ID, 32), 0xFEFF]]
        tried = [commands[0], commands[1], commands[1000], commands[-1]]
        with (
            ends.Server(service, url=URL) as second,
            Forwarder(second.url) as forwarder,
            ends.connect(forwarder.url, expose=[service]) as client,
        ):
            assert [client.proxy(command)(1) - command.id for command in tried] == [1] * 4
            assert [only(second.gather(command)(1)) - command.id for command in tried] == [1] * 4
            assert [second.peers[0].proxy(command)(1) - command.id for command in tried] == [1] * 4
            first = forwarder.frames()[0]
            assert first.kind == Kind.HELLO
            assert payload_size(first.payload) < 200

    def test_a_function_that_is_added_while_peers_are_connected(self, ends: Ends, server: Server) -> None:
        """The peer exposes what it had; what is new here is asked about, and does not reach it."""
        service = FunctionService("growing")
        got: queue.SimpleQueue[str] = queue.SimpleQueue()

        @service.rpc
        def one(text: str) -> None:
            got.put(text)

        with ends.connect(server.url, expose=[service]) as client:
            client.proxy(Room)
            assert server.broadcast(one)("before") == 1

            @service.rpc
            def two(text: str) -> int:
                return 2

            assert server.broadcast(one)("after") == 1
            assert isinstance(only(server.gather(two, timeout=PATIENCE)("hi")), UnknownCommand)
            assert server.broadcast(one)("end") == 1
            assert [got.get(timeout=PATIENCE) for _ in range(3)] == ["before", "after", "end"]
