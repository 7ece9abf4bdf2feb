"""Handlers with a thread or a task of their own: what they may do, who waits for them, and what their peers may not."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it ships no types
import pytest

from tests.ends import Colours, alike, close, for_clients, for_servers
from tests.streaming import AsyncGate, Joined, Pipes, Watched, connections_of, expect_empty, joined
from tests.support import PATIENCE, FakeServer, Gate, Log, RawPeer, Running, failure_of, until
from typedrpc import (
    ConnectionLost,
    NestedTooDeep,
    ProtocolError,
    Server,
    Service,
    current_call,
    rpc,
)
from typedrpc.codec import pack_plain, unpack_plain
from typedrpc.codec.body import callback_mark
from typedrpc.failure import Code
from typedrpc.flow import FIRST_CREDIT
from typedrpc.parts import pack_parts
from typedrpc.protocol import MAX_STREAMS, Protocol, State
from typedrpc.wire import HEADER, Kind

pytestmark = pytest.mark.usefixtures("kept_loop", "no_leaks")
colours = alike

URL = "tcp://127.0.0.1:0"


@pytest.fixture
def pair(colours: Colours) -> Iterator[Joined]:
    with joined(colours) as pair:
        yield pair


# The thread, the task and their context


def test_a_plain_handler_and_its_generator_run_in_one_thread(pair: Joined) -> None:
    seen: list[tuple[str, str]] = []

    def items() -> Iterator[int]:
        lock = threading.RLock()
        with lock:
            for number in range(3):
                seen.append((threading.current_thread().name, current_call().command))
                yield number
        seen.append((threading.current_thread().name, current_call().command))

    pair.service.scripts["items"] = items
    assert list(pair.pipes.produce("items")) == [0, 1, 2]
    assert len(seen) == 4
    assert len(set(seen)) == 1
    assert seen[0][1] == "Pipes.produce"


def test_async_handlers_run_on_the_loop_with_their_call(pair: Joined) -> None:
    async def where() -> str:
        await asyncio.sleep(0)
        return f"{threading.current_thread().name} {current_call().command}"

    pair.service.scripts["where"] = where
    loop = "typedrpc-loop" if isinstance(pair.server, Server) else "test-loop"
    assert pair.pipes.aask.call("where") == f"{loop} Pipes.aask"


def test_hundreds_of_async_handlers_take_no_threads(colours: Colours) -> None:
    """All wait at a time, where two threads may be lent."""
    go = AsyncGate()

    async def wait() -> int:
        await go.pass_through()
        return 1

    with joined(colours, server={"max_workers": 2}) as pair:
        pair.service.scripts["wait"] = wait
        futures = [pair.pipes.aask.submit("wait") for _ in range(500)]
        assert pair.pipes.add(1, 1) == 2
        until(lambda: len(go._waiting) == 500, "500 handlers")
        go.open()
        assert sum(future.result(PATIENCE) for future in futures) == 500


# Both directions


class Ears(Service):
    """What a client exposes."""

    def __init__(self, heard: Watched | None = None) -> None:
        self.heard = heard or Watched()

    @rpc
    def hear(self) -> Iterator[int]:
        return self.heard.plain()

    @rpc
    def tell(self, items: Iterator[int]) -> int:
        return sum(items)

    @rpc
    async def atell(self, items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])


@pytest.mark.parametrize("form", ["call", "stream"])
def test_a_server_streams_from_and_to_its_client_within_a_call(form: str, colours: Colours) -> None:
    ears = Ears()
    with joined(colours, expose=[ears]) as pair:

        def back() -> Iterator[int]:
            mouth = current_call().peer.proxy(Ears)
            with mouth.hear() as heard:
                first = [next(heard) for _ in range(2000)]
            yield sum(first)
            yield mouth.tell(iter(range(1000)))
            yield mouth.atell.call(asynchronous(range(1000)))

        pair.service.scripts.update(back=back, as_list=lambda: list(back()))
        found = list(pair.pipes.produce("back")) if form == "stream" else pair.pipes.ask("as_list")
        assert found == [sum(range(2000)), sum(range(1000)), sum(range(1000))]
        ears.heard.ended.wait()


async def asynchronous(items: Any) -> AsyncIterator[Any]:
    for item in items:
        yield item


def test_a_server_streams_from_its_client_outside_of_any_call(colours: Colours) -> None:
    ears = Ears()
    with joined(colours, expose=[ears]) as pair:
        (peer,) = pair.server.peers
        with peer.proxy(Ears).hear() as heard:
            assert [next(heard) for _ in range(3000)] == list(range(3000))
        assert peer.proxy(Ears).tell(iter(range(3000))) == sum(range(3000))
        ears.heard.ended.wait()


def test_a_handler_passes_on_what_it_gets_from_downstream(colours: Colours) -> None:
    """Three processes' worth of streams in a row; breaking off stops them all."""
    source = Watched()
    with joined(colours) as below, joined(colours) as above:
        below.service.scripts["items"] = source.plain

        def relay() -> Iterator[int]:
            with below.pipes.produce("items") as items:
                for item in items:
                    yield -item

        above.service.scripts["relay"] = relay
        with above.pipes.produce("relay") as stream:
            assert [next(stream) for _ in range(500)] == [-n for n in range(500)]
        source.ended.wait()


def test_a_handler_that_waits_for_downstream_is_stopped_with_its_call(colours: Colours) -> None:
    source = Watched(pause_at=1)
    with joined(colours) as below, joined(colours) as above:
        below.service.scripts["items"] = source.plain
        ended = Gate()

        def relay() -> Iterator[int]:
            try:
                yield from below.pipes.produce("items")
            finally:
                ended.open()

        above.service.scripts["relay"] = relay
        with above.pipes.produce("relay") as stream:
            assert next(stream) == 0
            source.paused.wait()
        ended.wait()
        source.go.open()
        source.ended.wait()


def test_an_async_handler_passes_on_too_and_stops_too(colours: Colours) -> None:
    source = Watched()
    with joined(colours) as below, joined(colours) as above:
        below.service.scripts["items"] = source.plain
        ended = Gate()

        async def relay() -> AsyncIterator[int]:
            try:
                async with below.pipes.produce.aio("items") as items:
                    async for item in items:
                        yield -item
            finally:
                ended.open()

        above.service.scripts["relay"] = relay
        with above.pipes.aproduce.call("relay") as stream:
            assert [next(stream) for _ in range(500)] == [-n for n in range(500)]
        ended.wait()
        source.ended.wait()


def test_callbacks_go_with_streams_in_one_call(colours: Colours) -> None:
    class Mixed(Service):
        @rpc
        def scale(self, items: Iterator[int], by: Callable[[int], int]) -> Iterator[int]:
            for item in items:
                yield by(item)

        @rpc
        def total(self, by: Callable[[int], int], items: Iterator[int]) -> int:
            return sum(by(item) for item in items)

        @rpc
        async def ascale(self, items: AsyncIterator[int], by: Callable[[int], int]) -> AsyncIterator[int]:
            async for item in items:
                yield await by.aio(item)  # type: ignore[attr-defined]

    with colours.serve(Mixed(), url=URL) as server, colours.connect(Mixed, server.url) as mixed:
        assert list(mixed.scale(iter(range(300)), lambda n: 3 * n)) == list(range(0, 900, 3))
        assert mixed.total(lambda n: 2 * n, iter(range(300))) == sum(range(0, 600, 2))
        assert mixed.total.submit(lambda n: n, iter(range(300))).result(PATIENCE) == sum(range(300))

        async def main() -> list[int]:
            return [item async for item in mixed.ascale(asynchronous(range(300)), lambda n: 3 * n)]

        assert asyncio.run(main()) == list(range(0, 900, 3))


def test_streams_of_services_that_are_made_for_each_client(colours: Colours) -> None:
    class Counter(Service):
        def __init__(self) -> None:
            self.next = 0

        @rpc
        def take(self, count: int) -> Iterator[int]:
            for _ in range(count):
                self.next += 1
                yield self.next

    with colours.serve(Counter, url=URL) as server:
        with colours.connect(Counter, server.url) as one, colours.connect(Counter, server.url) as other:
            assert [list(one.take(2)), list(other.take(3)), list(one.take(1))] == [[1, 2], [1, 2, 3], [3]]


def test_versions_of_a_contract_agree_about_items(colours: Colours) -> None:
    class New(Service, name="Versioned"):
        @rpc
        def rows(self, count: int) -> Iterator[int]:
            yield from range(count)

        @rpc
        def total(self, rows: Iterator[float]) -> float:
            return sum(rows)

    class Old(Service, name="Versioned"):
        @rpc
        def rows(self, count: int) -> Iterator[float]:
            raise NotImplementedError

        @rpc
        def total(self, rows: Iterator[int]) -> float:
            raise NotImplementedError

    with colours.serve(New(), url=URL) as server, colours.connect(Old, server.url) as old:
        rows = list(old.rows(3))
        assert rows == [0.0, 1.0, 2.0]
        assert {type(row) for row in rows} == {float}
        assert old.total(iter([1, 2])) == 3.0


# Turns, depth, hooks, closing


def test_a_turn_lasts_until_the_stream_has_ended(colours: Colours) -> None:
    with joined(colours, server={"max_concurrent": 1}) as pair:
        first, second = Watched(), Watched(3)
        pair.service.scripts.update(first=first.plain, second=second.plain)
        stream = pair.pipes.produce("first")
        assert next(stream) == 0
        call = pair.pipes.add.submit(1, 2)
        waiting = pair.pipes.produce("second")
        assert [next(stream) for _ in range(3000)] == list(range(1, 3001))
        assert [call.done(), second.began.is_open] == [False, False]
        stream.close()
        assert call.result(PATIENCE) == 3
        assert list(waiting) == [0, 1, 2]
        assert pair.pipes.add(1, 1) == 2


def test_an_async_handler_has_a_turn_too(colours: Colours) -> None:
    with joined(colours, server={"max_concurrent": 1}) as pair:
        go = AsyncGate()
        pair.service.scripts["wait"] = go.pass_through
        first, second = pair.pipes.aask.submit("wait"), pair.pipes.add.submit(1, 2)
        until(lambda: go._waiting, "the handler")
        assert not second.done()
        go.open()
        assert (first.result(PATIENCE), second.result(PATIENCE)) == (None, 3)


def test_streams_count_in_the_depth_of_calls(colours: Colours) -> None:
    exposed = Pipes()
    with joined(colours, expose=[exposed], server={"max_depth": 4}, max_depth=4) as pair:

        def deeper() -> Iterator[int]:
            yield 1
            yield from current_call().peer.proxy(Pipes).produce("deeper")

        pair.service.scripts["deeper"] = exposed.scripts["deeper"] = deeper
        stream = pair.pipes.produce("deeper")
        assert [next(stream) for _ in range(4)] == [1] * 4
        with pytest.raises(NestedTooDeep):
            next(stream)


def test_hooks_are_told_when_the_stream_has_ended(colours: Colours) -> None:
    told: list[Any] = []
    over = threading.Semaphore(0)
    service = Pipes()
    with colours.serve(service, url=URL) as server:
        server.on_call(lambda call: told.append(call.command))

        @server.on_result
        def note(call: Any, outcome: Any) -> None:
            told.append((call.command, outcome.result, type(outcome.error)))
            over.release()

        with colours.connect(Pipes, server.url) as pipes:
            watched = Watched()
            service.scripts.update(few=lambda: iter(range(3)), items=watched.plain, total=sum)
            assert list(pipes.produce("few")) == [0, 1, 2]
            assert over.acquire(timeout=PATIENCE)
            assert pipes.consume("total", iter([1, 2])) == 3
            assert over.acquire(timeout=PATIENCE)
            with pipes.produce("items") as stream:
                next(stream)
            assert over.acquire(timeout=PATIENCE)
    names = [entry if isinstance(entry, str) else entry[0] for entry in told]
    assert names == [name for name in ("Pipes.produce", "Pipes.consume", "Pipes.produce") for _ in range(2)]
    assert told[1] == ("Pipes.produce", None, type(None))
    assert told[3] == ("Pipes.consume", 3, type(None))
    assert told[5][2].__name__ == "CallCancelled"


@pytest.mark.parametrize("form", ["plain", "async"])
@pytest.mark.parametrize("grace", [0.0, 0.1])
def test_a_server_that_closes_ends_a_stream_that_has_no_end(form: str, grace: float, colours: Colours) -> None:
    watched = Watched()
    service = Pipes(items=watched.plain, aitems=watched.awaited)
    with colours.serve(service, url=URL) as server, colours.connect(Pipes, server.url) as pipes:
        stream = pipes.produce("items") if form == "plain" else pipes.aproduce.call("aitems")
        assert next(stream) == 0
        close(server, grace)
        watched.ended.wait()
        with pytest.raises(ConnectionLost):
            list(stream)


@for_servers
def test_a_generator_whose_client_has_left_is_told_so(
    colours: Colours, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ended = Gate()
    whys: list[str] = []
    producers: list[int] = []
    stop = Protocol.end_all_flows

    def items() -> Iterator[int]:
        producers.append(threading.get_ident())
        try:
            while True:
                yield 0
        except BaseException as error:
            whys.append(str(error))
            raise
        finally:
            ended.open()

    def stop_and_linger(core: Protocol[Any]) -> None:
        stop(core)
        if not core.client and threading.get_ident() not in producers:  # who may have found that nobody reads
            ended.wait()  # as if the generator's thread were quicker than this one

    monkeypatch.setattr(Protocol, "end_all_flows", stop_and_linger)
    with colours.serve(Pipes(items=items), url=URL) as server:
        with colours.connect(Pipes, server.url) as pipes:
            stream = pipes.produce("items")
            assert next(stream) == 0
        ended.wait()
    assert whys == ["Pipes.produce: its caller has left"]
    assert "failed in a call" not in caplog.text


def test_a_server_that_closes_lets_a_stream_finish_in_its_grace(colours: Colours) -> None:
    watched = Watched(3, pause_at=2)
    service = Pipes(items=watched.plain)
    with colours.serve(service, url=URL) as server, colours.connect(Pipes, server.url) as pipes:
        stream = pipes.produce("items")
        assert next(stream) == 0
        watched.paused.wait()
        closing = Running(close, server, PATIENCE)
        until(lambda: not server.peers or connections_of(server)[0].core.state is State.DRAINING)
        watched.go.open()
        assert list(stream) == [1, 2]
        closing.result()


def test_a_client_that_closes_stops_the_producers_of_both_sides(colours: Colours) -> None:
    mine, theirs = Watched(), Watched()
    service = Pipes(both=lambda items: theirs.plain())
    with colours.serve(service, url=URL) as server:
        with colours.connect(Pipes, server.url) as pipes:
            stream = pipes.both("both", mine.plain())
            assert next(stream) == 0
        mine.ended.wait()
        theirs.ended.wait()
        with pytest.raises(ConnectionLost):
            list(stream)


# One-way calls, and peers that misbehave


def test_streams_cannot_be_called_one_way(pair: Joined) -> None:
    with pytest.raises(TypeError, match="takes a stream"):
        pair.pipes.consume.notify("total", iter([1]))
    with pytest.raises(TypeError):
        pair.pipes.produce.notify("items")


class Simple(Service):
    def __init__(self) -> None:
        self.watched = Watched()
        self.seen: list[Any] = []
        self.go = Gate()

    @rpc(id=1)
    def rows(self) -> Iterator[int]:
        return self.watched.plain()

    @rpc(id=2)
    def total(self, items: Iterator[int]) -> int:
        self.go.wait()
        try:
            return sum(items)
        except Exception as error:
            self.seen.append(error)
            raise

    @rpc(id=3)
    def add(self, a: int, b: int) -> int:
        return a + b

    @rpc(id=4)
    async def arows(self) -> AsyncIterator[int]:
        async for item in self.watched.awaited():
            yield item


@pytest.fixture
def simple(colours: Colours) -> Iterator[tuple[Simple, Server]]:
    service = Simple()
    with colours.serve(service, url=URL) as server:
        yield service, server
        service.go.open()


def one_stream() -> bytes:
    """The packed arguments of a call with one stream."""
    return bytes(msgpack.packb([callback_mark(0)]) or b"")


@for_servers
def test_a_peer_that_calls_streams_one_way_is_not_served_and_holds_nothing(
    log: Log, simple: tuple[Simple, Server]
) -> None:
    service, server = simple
    with RawPeer.dial(server.url).shake_hands() as peer:
        for command, call, payload in ((1, 0, b"\x90"), (4, 0, b"\x90"), (2, 5, one_stream())):
            peer.send_frame(Kind.NOTIFY, command, call, payload)
            assert "a one-way call was dropped" in log.line()
        peer.send_frame(Kind.REQUEST, 3, 7, pack_plain([1, 2]))
        while (frame := peer.read_frame()).kind != Kind.RESPONSE:
            assert frame.kind == Kind.RELEASE
        (connection,) = connections_of(server)
        expect_empty(connection)
    assert not service.watched.began.is_open


@for_servers
@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        pytest.param(
            [(Kind.ITEM, 1, pack_parts([b"\x01"] * (FIRST_CREDIT // 5))), (Kind.ITEM, 1, bytes(FIRST_CREDIT))] * 2,
            "beyond what was asked for",
            id="credit",
        ),
        pytest.param([(Kind.CREDIT, 0, pack_plain(-1))], "no number of bytes", id="negative"),
        pytest.param([(Kind.CREDIT, 0, b"\xc1")], "cannot be read", id="unreadable"),
        pytest.param(
            [(Kind.ITEM, n, pack_parts([b"\x01"])) for n in range(1, MAX_STREAMS + 3)],
            "streams at a time",
            id="streams",
        ),
    ],
)
def test_a_peer_that_breaks_the_rules_of_streams_is_told_and_cut_off(
    simple: tuple[Simple, Server], frames: list[tuple[int, int, bytes]], reason: str
) -> None:
    service, server = simple
    with RawPeer.dial(server.url).shake_hands() as peer:
        peer.send_frame(Kind.REQUEST, 2, 1, one_stream())
        for kind, number, payload in frames:
            peer.send_frame(kind, number, 1, payload)
        goodbye = peer.read_frames_to_end()[-1]
        assert goodbye.kind == Kind.GOODBYE
        assert reason in str(unpack_plain(goodbye.payload))
    service.go.open()
    until(lambda: service.seen, "the handler's error")
    assert isinstance(service.seen[0], ConnectionLost)


@for_servers
@pytest.mark.parametrize(
    "payload", [b"", b"\xff" * 8, pack_parts([b"\xc1"]), pack_parts([b"\xa1x"]), pack_parts([b""])]
)
def test_items_that_cannot_be_read_fail_their_call_alone(
    log: Log, simple: tuple[Simple, Server], payload: bytes
) -> None:
    service, server = simple
    service.go.open()
    with RawPeer.dial(server.url).shake_hands() as peer:
        peer.send_frame(Kind.REQUEST, 2, 1, one_stream())
        peer.send_frame(Kind.ITEM, 1, 1, payload)
        while (frame := peer.read_frame()).kind != Kind.ERROR:
            assert (frame.kind, frame.command, frame.call) == (Kind.CANCEL, 1, 1)
        assert failure_of(frame)[0] == Code.REMOTE
        peer.send_frame(Kind.REQUEST, 3, 3, pack_plain([1, 2]))
        assert unpack_plain(peer.read_frame().payload) == 3
    assert [type(error) for error in service.seen] == [ProtocolError]
    assert "error id" in log.line()


@for_servers
def test_frames_of_calls_that_are_over_are_ignored(simple: tuple[Simple, Server]) -> None:
    _, server = simple
    with RawPeer.dial(server.url).shake_hands() as peer:
        for kind, payload in ((Kind.ITEM, pack_parts([b"\x01"])), (Kind.END, b""), (Kind.CREDIT, pack_plain(9))):
            for number in (0, 1, 9):
                peer.send_frame(kind, number, 77, payload)
        peer.send_frame(Kind.CANCEL, 0, 77, b"")
        peer.send_frame(Kind.REQUEST, 3, 3, pack_plain([1, 2]))
        assert unpack_plain(peer.read_frame().payload) == 3
        (connection,) = connections_of(server)
        expect_empty(connection)


@for_servers
def test_a_cancelled_stream_is_answered_once(simple: tuple[Simple, Server]) -> None:
    service, server = simple
    with RawPeer.dial(server.url).shake_hands() as peer:
        peer.send_frame(Kind.REQUEST, 1, 1, b"\x90")
        service.watched.began.wait()
        peer.send_frame(Kind.CANCEL, 0, 1, b"")
        while (frame := peer.read_frame()).kind == Kind.ITEM:
            assert frame.command == 0
        assert failure_of(frame)[0] == Code.CANCELLED
        peer.send_frame(Kind.REQUEST, 3, 3, pack_plain([1, 2]))
        assert peer.read_frame().kind == Kind.RESPONSE
    service.watched.ended.wait()


@for_servers
def test_a_request_that_comes_with_its_cancel_is_not_run_for_long(simple: tuple[Simple, Server]) -> None:
    _, server = simple
    with RawPeer.dial(server.url).shake_hands() as peer:
        peer.send(HEADER.pack(1, Kind.REQUEST, 0, 1, 1) + b"\x90" + HEADER.pack(0, Kind.CANCEL, 0, 0, 1))
        while (frame := peer.read_frame()).kind == Kind.ITEM:
            pass
        assert failure_of(frame)[0] == Code.CANCELLED
        (connection,) = connections_of(server)
        expect_empty(connection)


@for_servers
def test_a_stream_that_comes_just_before_its_peer_leaves_ends(simple: tuple[Simple, Server]) -> None:
    _, server = simple
    for _ in range(20):
        with RawPeer.dial(server.url).shake_hands() as peer:
            for call in range(1, 9, 2):
                peer.send_frame(Kind.REQUEST, 1, call, b"\x90")
    until(lambda: not server.peers, "the end of all connections")


@for_clients
def test_nothing_comes_after_an_item_that_cannot_be_read(colours: Colours) -> None:
    ended = Gate()

    def script(peer: RawPeer) -> None:
        peer.shake_hands()
        question = peer.question()
        peer.send_frame(Kind.RESPONSE, 0, question.call, pack_plain(None))
        call = peer.question().call
        peer.send_frame(Kind.ITEM, 0, call, pack_parts([b"\x01", b"\xc0", b"\x03"]))
        cancel = peer.read_frame()
        assert (cancel.kind, cancel.call) == (Kind.CANCEL, call)
        ended.wait()

    with FakeServer(script) as server, colours.connect(Simple, server.url) as proxy:
        stream = proxy.rows()
        assert next(stream) == 1
        with pytest.raises(ProtocolError, match="cannot be read"):
            next(stream)
        assert list(stream) == []
        ended.open()


# Forks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_an_open_stream_is_the_parents_and_a_forked_child_is_told(pair: Joined) -> None:
    watched = Watched()
    pair.service.scripts["items"] = watched.plain
    with pair.pipes.produce("items") as stream:
        assert [next(stream) for _ in range(10)] == list(range(10))
        child = os.fork()
        if not child:
            code = 1
            try:
                threading.Timer(PATIENCE, os._exit, (3,)).start()
                try:
                    for _ in stream:
                        pass
                except ConnectionLost:
                    code = 0
                stream.close()
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert [next(stream) for _ in range(3000)] == list(range(10, 3010))
