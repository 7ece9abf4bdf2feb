"""`map` over a connection: order, frames, what is ahead of the consumer, errors in their turn, and its end."""

import contextvars
import gc
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf
from typing import Any, cast

import pytest

from tests.ends import Colours, alike, close, for_clients, for_servers, for_threads
from tests.streaming import connections_of
from tests.support import (
    PATIENCE,
    FakeServer,
    Forwarder,
    Gate,
    Gates,
    RawPeer,
    Running,
    Workshop,
    agree,
    in_time,
    run_all,
    until,
)
from typedrpc import (
    ArgumentTypeError,
    ArgumentValueError,
    CallCancelled,
    ConnectionLost,
    DeadlineExceeded,
    MessageTooLarge,
    OutcomeUnknown,
    ProtocolError,
    RemoteError,
    Server,
    Service,
    batches,
    connect,
    current_call,
    rpc,
)
from typedrpc.batches import AHEAD, MAX_WINDOW, MIN_WINDOW
from typedrpc.call import Call
from typedrpc.codec import Segmented, pack_plain
from typedrpc.common import calling, mapping
from typedrpc.common.handlers import Handlers
from typedrpc.failure import pack_protocol_failure, unpack_failure
from typedrpc.messages import Limits, pack_extension, pack_limits
from typedrpc.parts import open_array, pack_array, pack_outcomes, pack_parts, split_outcomes
from typedrpc.protocol import MAX_BATCH
from typedrpc.sync.handling import HandlerThreads
from typedrpc.wire import Frame, Kind, encode

pytestmark = pytest.mark.usefixtures("kept_loop", "no_leaks")
colours = alike

URL = "tcp://127.0.0.1:0"


@pytest.fixture
def workshop() -> Iterator[Workshop]:
    workshop = Workshop()
    yield workshop
    workshop.gates.open_all()


@pytest.fixture
def server(workshop: Workshop, colours: Colours) -> Iterator[Server]:
    with colours.serve(workshop, url=URL) as server:
        yield server


@pytest.fixture
def proxy(server: Server, colours: Colours) -> Iterator[Workshop]:
    with colours.connect(Workshop, server.url) as proxy:
        yield proxy


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fits into a frame goes into it, however long this machine takes to pack it, or to hear of the one before."""
    monkeypatch.setattr(mapping, "GATHER_TIME", inf)
    monkeypatch.setattr(batches, "TARGET_TIME", inf)


def outcomes(bound: Any, *iterables: Iterable[Any]) -> Iterator[Any]:
    """The results of a map, errors among them."""
    results: Iterator[Any] = bound._caller.map(bound.command, iterables, bound._options, True)
    return results


class Counted:
    """Numbers, and how many of them were asked for."""

    def __init__(self) -> None:
        self.count = 0

    def __iter__(self) -> Iterator[int]:
        for number in itertools.count():
            self.count = number + 1
            yield number


class Sum(Service):
    @rpc
    def one(self, a: int) -> int:
        return a

    @rpc
    def five(self, a: int, b: int, c: int, d: int, e: int) -> int:
        return a + b + c + d + e

    @rpc
    def invert(self, number: int) -> float:
        return 1 / number

    @rpc
    def lie(self, number: int) -> int:
        return number or "nothing"  # type: ignore[return-value]  # that it lies is what is tried


class TestResults:
    def test_of_one_to_five_iterables(self, colours: Colours) -> None:
        with colours.serve(Sum(), url=URL) as server, colours.connect(Sum, server.url) as proxy:
            numbers = range(300)
            assert list(proxy.one.map(numbers)) == list(numbers)
            assert list(proxy.five.map(numbers, numbers, numbers, numbers, numbers)) == [5 * n for n in numbers]
            assert list(proxy.five.map(numbers, [1], numbers, numbers, numbers)) == [1]
            assert list(proxy.one.map([])) == []

    @pytest.mark.unmeasured
    def test_many(self, proxy: Workshop) -> None:
        assert list(proxy.add.map(range(20_000), range(20_000))) == [2 * number for number in range(20_000)]

    @pytest.mark.unmeasured
    def test_from_several_threads_over_one_connection(self, proxy: Workshop) -> None:
        def work(base: int) -> list[int]:
            results = []
            for number in proxy.add.map(range(2000), itertools.repeat(base)):
                results.append(number)
                if number % 100 == 0:
                    assert proxy.add(number) == number
            return results

        works: list[Callable[[], list[int]]] = [lambda base=base: work(base) for base in range(6)]  # type: ignore[misc]
        assert run_all(works) == [[base + number for number in range(2000)] for base in range(6)]

    @pytest.mark.unmeasured
    def test_of_two_maps_in_turns(self, proxy: Workshop) -> None:
        pairs = zip(proxy.add.map(range(3000)), proxy.add.map(range(3000), itertools.repeat(1)), strict=True)
        assert list(pairs) == [(number, number + 1) for number in range(3000)]

    def test_are_consumed_by_other_threads_than_the_one_that_began(self, proxy: Workshop) -> None:
        results = proxy.add.map(range(500))
        assert next(results) == 0
        assert Running(lambda: list(itertools.islice(results, 200))).result() == list(range(1, 201))
        assert list(results) == list(range(201, 500))

    @pytest.mark.unmeasured
    @pytest.mark.parametrize("max_calls", [1, 2, 3])
    def test_with_little_room_at_the_peer(self, max_calls: int, workshop: Workshop, colours: Colours) -> None:
        with (
            colours.serve(workshop, url=URL, max_calls=max_calls) as server,
            colours.connect(Workshop, server.url) as proxy,
        ):
            assert list(proxy.add.map(range(3000))) == list(range(3000))
            works: list[Callable[[], list[int]]] = [lambda: list(proxy.add.map(range(500)))] * 4
            assert run_all(works) == [list(range(500))] * 4

    def test_with_segments_among_them(self, proxy: Workshop) -> None:
        sizes = [10, 200_000, 20, 0, 70_000, 65_536, 65_535, 1] * 3
        assert list(map(len, proxy.blob.map(sizes))) == sizes
        assert list(proxy.swallow.map([bytes(size) for size in sizes])) == sizes
        assert [len(data) for data in proxy.echo.map([bytes(size) for size in sizes])] == sizes

    def test_of_arguments_that_fill_frames(self, proxy: Workshop) -> None:
        sizes = [20_000] * 100 + [60_000] * 10
        assert list(proxy.swallow.map([bytes(size) for size in sizes])) == sizes


class TestFrames:
    @pytest.mark.usefixtures("unhurried")
    def test_calls_share_frames(self, server: Server, colours: Colours) -> None:
        with Forwarder(server.url) as between:
            with colours.connect(Workshop, between.url) as proxy:
                assert list(proxy.add.map(range(5000))) == list(range(5000))
            frames = [frame for frame in between.frames() if frame.command == Workshop.add.id]
        assert sum(map(calls_in, frames)) == 5000
        assert all(calls_in(frame) <= MAX_BATCH for frame in frames)
        assert len(frames) < 5000 / 4

    @for_clients
    @pytest.mark.usefixtures("unhurried")
    def test_sixty_four_leave_before_anything_has_come_back(self, colours: Colours) -> None:
        numbers = Counted()

        def script(peer: RawPeer) -> None:
            agree(peer)
            frames: list[Frame] = []
            while sum(map(calls_in, frames)) < MIN_WINDOW:
                frames.append(peer.read_frame())
            assert [calls_in(frame) for frame in frames] == [1, 2, 4, 8, 16, 32, 1]
            assert numbers.count == MIN_WINDOW
            answer(peer, frames[0])
            peer.read_to_end()

        with FakeServer(script) as fake, colours.connect(Workshop, fake.url) as proxy:
            results = proxy.add.map(numbers)
            assert numbers.count == 0
            assert next(results) == 0

    @pytest.mark.unmeasured
    def test_what_is_ahead_of_the_consumer_is_bounded(self, proxy: Workshop) -> None:
        numbers, most = Counted(), 0
        for taken, number in enumerate(itertools.islice(proxy.add.map(numbers), 100_000)):
            assert number == taken
            most = max(most, numbers.count - taken)
        assert most <= MAX_WINDOW

    def test_large_arguments_are_not_packed_far_ahead(self, proxy: Workshop) -> None:
        numbers = Counted()
        data = (bytes(20_000) for _ in numbers)
        for taken, size in enumerate(itertools.islice(proxy.swallow.map(data), 500)):
            assert size == 20_000
            assert numbers.count - taken <= MIN_WINDOW + 8

    def test_handlers_that_take_their_time_run_at_once(self, proxy: Workshop, workshop: Workshop) -> None:
        names = [str(number) for number in range(MIN_WINDOW)]
        running = Running(lambda: list(proxy.wait.map(names)))
        for name in names:
            workshop.started[name].wait()
        assert not running.done
        for name in reversed(names):
            workshop.gates[name].open()
        assert running.result() == names

    def test_what_is_done_is_not_held_back_by_what_is_not(self, proxy: Workshop, workshop: Workshop) -> None:
        names = [str(number) for number in range(20)]
        results = proxy.wait.map(names)
        for name in names:
            workshop.gates[name].open()
            assert next(results) == name

    def test_inputs_that_come_slowly_hold_nothing_back(
        self, server: Server, monkeypatch: pytest.MonkeyPatch, colours: Colours
    ) -> None:
        monkeypatch.setattr(mapping, "GATHER_TIME", -1.0)
        with Forwarder(server.url) as between:
            with colours.connect(Workshop, between.url) as proxy:
                assert list(proxy.add.map(range(300))) == list(range(300))
            kinds = [frame.kind for frame in between.frames() if frame.command == ADD]
        assert kinds == [Kind.REQUEST] * 300

    @for_clients
    @pytest.mark.usefixtures("unhurried")
    def test_somebody_reads_while_the_consumer_is_elsewhere(self, colours: Colours) -> None:
        def script(peer: RawPeer) -> None:
            agree(peer)
            frame = peer.read_frame()
            answer(peer, frame)
            elsewhere.wait()
            peer.send_frame(Kind.PING, 0, 0, b"who reads?")
            while peer.read_frame().kind != Kind.PONG:
                pass
            ponged.open()
            peer.read_to_end()

        elsewhere, ponged = Gate(), Gate()
        with FakeServer(script) as fake, colours.connect(Workshop, fake.url) as proxy:
            results = proxy.add.map(range(100))
            assert next(results) == 0
            elsewhere.open()
            ponged.wait()


def calls_in(frame: Frame) -> int:
    if frame.kind == Kind.REQUEST:
        return 1
    assert frame.kind == Kind.BATCH, str(frame)
    assert not isinstance(frame.payload, Segmented)
    parts = open_array(frame.payload)
    assert not isinstance(parts, str)
    return len(parts)


def answer(peer: RawPeer, frame: Frame, start: int = 0, stop: int | None = None) -> None:
    """Answer calls of add with 0, 1, ..."""
    if frame.kind == Kind.REQUEST:
        peer.send_frame(Kind.RESPONSE, 0, frame.call, pack_plain(0))
        return
    results = [(False, pack_plain(number)) for number in range(calls_in(frame))][start:stop]
    peer.send_frame(Kind.BATCH, 0, frame.call, pack_outcomes(results))


class TooMany(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Declaring(Service):
    @rpc(raises=[TooMany])
    def count(self, number: int) -> int:
        if number > 2:
            raise TooMany(number)
        return number


class TestErrors:
    def test_that_are_declared_arrive_as_themselves(self, colours: Colours) -> None:
        with colours.serve(Declaring(), url=URL) as server, colours.connect(Declaring, server.url) as proxy:
            told = list(outcomes(proxy.count, range(6)))
            assert told[:3] == [0, 1, 2]
            assert [error.number for error in told[3:] if isinstance(error, TooMany)] == [3, 4, 5]
            with pytest.raises(TooMany):
                list(proxy.count.map([1, 9]))

    def test_come_in_their_turn(self, colours: Colours) -> None:
        with colours.serve(Sum(), url=URL) as server, colours.connect(Sum, server.url) as proxy:
            results = proxy.invert.map([1, 2, 4, 0, 5])
            assert [next(results) for _ in range(3)] == [1.0, 0.5, 0.25]
            with pytest.raises(ZeroDivisionError) as raised:
                next(results)
            assert isinstance(raised.value.__cause__, RemoteError)
            assert list(results) == []
            assert proxy.invert(2) == 0.5

    def test_are_given_as_results(self, colours: Colours) -> None:
        numbers: list[Any] = [1, 0, "x", 2, None, 0]
        with colours.serve(Sum(), url=URL) as server, colours.connect(Sum, server.url) as proxy:
            told = list(outcomes(proxy.invert, numbers * 50))
        for number, outcome in zip(numbers * 50, told, strict=True):
            if number == 0:
                assert isinstance(outcome, ZeroDivisionError)
            elif isinstance(number, int):
                assert outcome == 1 / number
            else:
                assert isinstance(outcome, ArgumentTypeError)
                assert "Sum.invert: argument 'number'" in str(outcome)

    def test_of_handlers_that_do_not_keep_to_their_annotations(
        self, caplog: pytest.LogCaptureFixture, colours: Colours
    ) -> None:
        with colours.serve(Sum(), url=URL) as server, colours.connect(Sum, server.url) as proxy:
            first, second, third = outcomes(proxy.lie, [1, 0, 2])
        assert (first, third) == (1, 2)
        assert isinstance(second, RemoteError)
        assert "does not keep to its annotations" in caplog.text

    @pytest.mark.parametrize("return_exceptions", [False, True])
    def test_of_the_inputs_come_after_the_results_before_them(self, return_exceptions: bool, proxy: Workshop) -> None:
        def numbers() -> Iterator[int]:
            yield from range(10)
            raise LookupError("no more numbers")

        results = outcomes(proxy.add, numbers()) if return_exceptions else proxy.add.map(numbers())
        assert list(itertools.islice(results, 10)) == list(range(10))
        with pytest.raises(LookupError, match="no more numbers"):
            next(results)
        assert list(results) == []

    @pytest.mark.parametrize("return_exceptions", [False, True])
    def test_of_the_inputs_of_an_async_command_too(self, return_exceptions: bool, colours: Colours) -> None:
        class Adder(Service):
            @rpc
            async def next(self, number: int) -> int:
                return number + 1

        def numbers() -> Iterator[int]:
            yield from range(3)
            raise LookupError("no more numbers")

        with colours.serve(Adder(), url=URL) as server, colours.connect(Adder, server.url) as proxy:
            results = outcomes(proxy.next, numbers()) if return_exceptions else proxy.next.map(numbers())
            assert list(itertools.islice(results, 3)) == [1, 2, 3]
            with pytest.raises(LookupError, match="no more numbers"):
                next(results)
            assert list(results) == []

    def test_of_results_that_are_too_large(self, server: Server, colours: Colours) -> None:
        with colours.connect(Workshop, server.url, max_message_size=2000) as proxy:
            told = list(outcomes(proxy.blob, [10, 5000, 1900, 20]))
            sizes = [len(one) if isinstance(one, bytes) else type(one) for one in told]
            assert sizes == [10, MessageTooLarge, 1900, 20]
            assert list(proxy.spell.map(["x" * 100] * 500, itertools.repeat(5))) == ["x" * 500] * 500

    def test_of_arguments_that_are_too_large(self, workshop: Workshop, colours: Colours) -> None:
        with (
            colours.serve(workshop, url=URL, max_message_size=2000) as server,
            colours.connect(Workshop, server.url, max_message_size=100_000) as proxy,
        ):
            sizes = [1, 5000, 1000, 1000, 1000, 1900, 90_000] * 20
            told = list(outcomes(proxy.swallow, map(bytes, sizes)))
            for size, one in zip(sizes, told, strict=True):
                assert one == size if size < 2000 else isinstance(one, MessageTooLarge)

    def test_of_a_deadline(self, proxy: Workshop, workshop: Workshop) -> None:
        results = proxy.wait.with_options(timeout=0.05).map(["a", "b"])
        with pytest.raises(DeadlineExceeded, match=r"Workshop\.wait: no answer in time"):
            next(results)
        for name in "ab":  # of which one may come yet
            workshop.gates[name].open()
        assert proxy.add(1) == 1

    def test_of_a_deadline_for_each(self, proxy: Workshop, workshop: Workshop) -> None:
        told = list(outcomes(proxy.wait.with_options(timeout=0.05), ["a", "b", "c", "d"]))
        assert [type(one) for one in told] == [DeadlineExceeded] * 4
        assert len({id(one) for one in told}) == 4
        for name in "abcd":
            workshop.gates[name].open()
        assert list(proxy.add.with_options(timeout=PATIENCE).map(range(1000))) == list(range(1000))

    @for_clients
    @pytest.mark.parametrize("answered", [0, 2])
    @pytest.mark.usefixtures("unhurried")
    def test_of_a_server_that_dies_half_way(self, answered: int, colours: Colours) -> None:
        def script(peer: RawPeer) -> None:
            agree(peer)
            frames = [peer.read_frame() for _ in range(3)]
            answer(peer, frames[0])
            answer(peer, frames[1])
            if answered:
                answer(peer, frames[2], 0, answered)

        with FakeServer(script) as fake, colours.connect(Workshop, fake.url) as proxy:
            results = proxy.add.map(range(7))
            assert list(itertools.islice(results, 3 + answered)) == [0, 0, 1, 0, 1][: 3 + answered]
            with pytest.raises(ConnectionLost):
                next(results)
            assert list(results) == []

    @for_clients
    @pytest.mark.usefixtures("unhurried")
    def test_of_a_server_that_has_died_for_each(self, colours: Colours) -> None:
        def script(peer: RawPeer) -> None:
            agree(peer)
            answer(peer, peer.read_frame())
            answer(peer, peer.read_frame(), 0, 1)

        with FakeServer(script) as fake, colours.connect(Workshop, fake.url) as proxy:
            told = list(outcomes(proxy.add, range(5)))
        assert told[:2] == [0, 0]
        assert [type(one) for one in told[2:]] == [OutcomeUnknown] * 3

    def test_of_no_connection(self, server: Server, colours: Colours) -> None:
        with colours.connect(Workshop, server.url) as proxy:
            results = proxy.add.map(range(5))
            add = proxy.add
        with pytest.raises(ConnectionLost):
            next(results)
        with pytest.raises(ConnectionLost):
            next(outcomes(add, itertools.count()))  # there will never be another, however many inputs there are

    @for_clients
    @pytest.mark.parametrize(
        ("reply", "expected"),
        [
            ((Kind.ERROR, pack_protocol_failure(ProtocolError("not today"))), RemoteError),
            ((Kind.RESPONSE, pack_plain(1)), ProtocolError),
            ((Kind.BATCH, pack_parts([b"\x01", b"\x02"]) + b"x"), ProtocolError),
            ((Kind.BATCH, pack_parts([b"\xc1", b"\xa1x"])), ProtocolError),
            ((Kind.BATCH, pack_array([b"\xc1", b"\x01"])), ProtocolError),
            ((Kind.BATCH, pack_array([b"\xa1x", b"\xc0"])), ProtocolError),
        ],
    )
    @pytest.mark.usefixtures("unhurried")
    def test_of_an_answer_to_all_of_a_batch(
        self, reply: tuple[Kind, bytes], expected: type[Exception], colours: Colours
    ) -> None:
        def script(peer: RawPeer) -> None:
            agree(peer)
            answer(peer, peer.read_frame())
            peer.send_frame(reply[0], 0, peer.read_frame().call, reply[1])
            peer.read_to_end()

        with FakeServer(script) as fake, colours.connect(Workshop, fake.url) as proxy:
            told = list(outcomes(proxy.add, range(3)))
        assert told[0] == 0
        assert [type(one) for one in told[1:]] == [expected] * 2

    @for_clients
    @pytest.mark.usefixtures("unhurried")
    def test_of_outcomes_with_segments_that_make_no_sense(self, colours: Colours) -> None:
        def script(peer: RawPeer) -> None:
            agree(peer)
            answer(peer, peer.read_frame())
            parts = Segmented(pack_parts([b"\x01", b"\x02"]), [b"segment"])
            encoded = encode(Kind.BATCH, 0, peer.read_frame().call, parts)
            assert isinstance(encoded, tuple)
            peer.send(b"".join(encoded))
            peer.read_to_end()

        with FakeServer(script) as fake, colours.connect(Workshop, fake.url) as proxy:
            told = list(outcomes(proxy.add, range(3)))
        assert [type(one) for one in told[1:]] == [ProtocolError] * 2


class TestOneByOne:
    """Commands whose calls do not travel in batches."""

    @for_clients
    def test_a_time_out_is_for_each_call_by_itself(self, colours: Colours) -> None:
        """In a batch a call would have to wait for those before it."""

        def script(peer: RawPeer) -> None:
            agree(peer)
            first, *others = [peer.question() for _ in range(5)]
            for question in others:
                peer.send_frame(Kind.RESPONSE, 0, question.call, bytes(memoryview(cast(Any, question.payload))[1:]))
            given_up = peer.read_frame()
            assert (given_up.kind, given_up.call) == (Kind.CANCEL, first.call)
            peer.read_to_end()

        def one_is_late(timeout: float) -> bool:
            with FakeServer(script) as fake, colours.connect(Workshop, fake.url, call_timeout=timeout) as proxy:
                first, *others = outcomes(proxy.wait, "abcde")
            assert isinstance(first, DeadlineExceeded)
            return others == [*"bcde"]

        in_time(one_is_late)

    @pytest.mark.parametrize("leave", ["close", "collect"])
    def test_what_is_in_flight_is_given_up(self, leave: str, proxy: Workshop, workshop: Workshop) -> None:
        workshop.gates["a"].open()
        results: Any = proxy.wait.with_options(timeout=PATIENCE).map(["a", "b", "c"])
        assert next(results) == "a"
        if leave == "close":
            results.close()
        del results
        gc.collect()
        for name in "bc":
            workshop.gates[name].open()
        assert proxy.add(1) == 1

    def test_without_a_connection(self, server: Server, colours: Colours) -> None:
        with colours.connect(Workshop, server.url) as proxy:
            add = proxy.add.with_options(timeout=PATIENCE)
            results = outcomes(add, itertools.count())
            assert next(results) == 0
        with pytest.raises(ConnectionLost):
            deque(results, maxlen=0)  # after those that were in flight


class TestLeaving:
    @pytest.mark.parametrize("leave", ["close", "collect", "throw", "error"])
    def test_what_is_in_flight_is_given_up(
        self, leave: str, proxy: Workshop, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told = threading.Event()
        given_up: list[int] = []

        give_up = calling.Calls.give_up

        def tell(calls: calling.Calls, call: int) -> None:
            give_up(calls, call)
            given_up.append(call)
            told.set()

        monkeypatch.setattr(calling.Calls, "give_up", tell)
        results: Any = proxy.wait.map(["a", "b", "c", "d", 1 if leave == "error" else "e"])  # type: ignore[list-item]
        first = Running(next, results)
        workshop.started["b"].wait()
        workshop.gates["a"].open()
        assert first.result() == "a"
        if leave == "throw":
            with pytest.raises(KeyError):
                results.throw(KeyError())
        elif leave == "close":
            results.close()
        elif leave == "error":
            workshop.gates["b"].open()
            workshop.gates["c"].open()
            assert next(results) == "b"
            results.close()
        else:
            del results
            gc.collect()
        assert told.wait(PATIENCE)
        assert given_up
        for name in "bcde":
            workshop.gates[name].open()
        assert list(proxy.add.map(range(2000))) == list(range(2000))

    def test_before_anything_was_sent(self, proxy: Workshop) -> None:
        results: Any = proxy.add.map(range(5))
        results.close()
        del results
        assert proxy.add(1) == 1

    @for_threads
    def test_a_map_that_ends_leaves_nobody_behind(self, proxy: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
        downs: list[HandlerThreads] = []
        stand_down = HandlerThreads.stand_down

        def count(threads: HandlerThreads) -> None:
            downs.append(threads)
            stand_down(threads)

        monkeypatch.setattr(HandlerThreads, "stand_down", count)
        assert list(proxy.add.map(range(100))) == list(range(100))
        (threads,) = downs
        assert threads._standing_by == 0
        assert not threads._needs_reader()


def batch(command: int, call: int, *arguments: Sequence[object], extension: bytes = b"") -> bytes:
    encoded = encode(Kind.BATCH, command, call, pack_array([pack_plain(each) for each in arguments]), extension)
    assert isinstance(encoded, bytes)
    return encoded


def request(command: int, call: int, *arguments: object) -> bytes:
    encoded = encode(Kind.REQUEST, command, call, pack_plain(list(arguments)))
    assert isinstance(encoded, bytes)
    return encoded


def encode_of(kind: Kind, call: int) -> bytes:
    encoded = encode(kind, 0, call, b"")
    assert isinstance(encoded, bytes)
    return encoded


def told(frame: Frame) -> list[tuple[bool, bytes]]:
    assert frame.kind == Kind.BATCH, str(frame)
    assert not isinstance(frame.payload, Segmented)
    parts = split_outcomes(frame.payload)
    assert not isinstance(parts, str)
    return [(is_error, bytes(body)) for is_error, body in parts]


ADD, WAIT, NOTE = Workshop.add.id, Workshop.wait.id, Workshop.note.id


class TestAtTheServer:
    @for_servers
    def test_what_is_done_leaves_while_a_call_blocks(self, server: Server, workshop: Workshop) -> None:
        with RawPeer.dial(server.url) as peer:
            peer.shake_hands()
            peer.send(batch(WAIT, 1, ["a"], ["b"], ["c"]))
            for name in "ab":
                workshop.gates[name].open()
            got: list[tuple[bool, bytes]] = []
            while len(got) < 2:
                got += told(peer.read_frame())
            assert got == [(False, pack_plain("a")), (False, pack_plain("b"))]
            workshop.gates["c"].open()
            assert told(peer.read_frame()) == [(False, pack_plain("c"))]

    @for_servers
    def test_the_last_call_holds_nothing_back_either(self, workshop: Workshop, colours: Colours) -> None:
        """Nobody else settles anything then, and the only thread is in the handler."""
        with colours.serve(workshop, url=URL, max_workers=0) as server, RawPeer.dial(server.url) as peer:
            peer.shake_hands()
            workshop.gates["a"].open()
            peer.send(batch(WAIT, 1, ["a"], ["b"]))
            assert told(peer.read_frame()) == [(False, pack_plain("a"))]
            workshop.gates["b"].open()
            assert told(peer.read_frame()) == [(False, pack_plain("b"))]

    @for_servers
    def test_other_requests_take_their_turn_in_between(self, workshop: Workshop, colours: Colours) -> None:
        with colours.serve(workshop, url=URL, max_workers=0) as server, RawPeer.dial(server.url) as peer:
            peer.shake_hands()
            peer.send(request(WAIT, 1, "a"))
            workshop.started["a"].wait()
            peer.send(batch(NOTE, 3, ["1"], ["2"], ["3"]) + request(NOTE, 5, "between"))
            if colours.server == "loop":  # which reads on, while the only thread is in the handler
                pool = cast("Any", connections_of(server)[0])._runtime.pool
                until(lambda: len(pool._line) == 2)
            workshop.gates["a"].open()
            assert workshop.wait_for_notes(4) == ["1", "between", "2", "3"]

    @for_servers
    def test_faults_of_one_call_are_its_own(self, server: Server) -> None:
        with RawPeer.dial(server.url) as peer:
            peer.shake_hands()
            peer.send(batch(ADD, 1, [1, 2], ["x"], [], [3]))
            got: list[tuple[bool, bytes]] = []
            while len(got) < 4:
                got += told(peer.read_frame())
            assert [is_error for is_error, _ in got] == [False, True, True, False]
            assert isinstance(unpack_failure(got[1][1], ""), ArgumentTypeError)
            assert (got[0][1], got[3][1]) == (pack_plain(3), pack_plain(3))

    @for_servers
    @pytest.mark.parametrize(
        ("command", "extension"), [(0x1234, b""), (0xFF03, b""), (ADD, pack_extension(schema=5))], ids=str
    )
    def test_what_leads_nowhere_fails_each_call(self, command: int, extension: bytes, server: Server) -> None:
        with RawPeer.dial(server.url) as peer:
            peer.shake_hands()
            peer.send(batch(command, 1, [1], [2], extension=extension) + request(ADD, 3, 1))
            got: dict[int, list[Frame]] = {1: [], 3: []}
            while not got[3] or sum(len(told(frame)) for frame in got[1]) < 2:
                frame = peer.read_frame()
                got[frame.call].append(frame)
            assert all(is_error for frame in got[1] for is_error, _ in told(frame))

    @for_servers
    def test_calls_without_time_are_not_run(self, server: Server, workshop: Workshop) -> None:
        with RawPeer.dial(server.url) as peer:
            peer.shake_hands()
            peer.send(batch(NOTE, 1, ["a"], ["b"], extension=pack_extension(time_left=0)))
            got: list[tuple[bool, bytes]] = []
            while len(got) < 2:
                got += told(peer.read_frame())
            assert [type(unpack_failure(body, "")) for _, body in got] == [DeadlineExceeded] * 2
            assert workshop.notes == []

    @for_servers
    def test_the_protocols_own_commands_may_travel_so(self, server: Server) -> None:
        with RawPeer.dial(server.url) as peer:
            peer.shake_hands()
            peer.send(batch(0xFF00, 1, ["Nothing", b""], ["Nothing", b""]))
            got: list[tuple[bool, bytes]] = []
            while len(got) < 2:
                got += told(peer.read_frame())
            assert got == [(False, pack_plain({}))] * 2

    def test_a_batch_that_runs_is_answered_while_the_server_closes(self, workshop: Workshop, colours: Colours) -> None:
        with colours.serve(workshop, url=URL) as server, colours.connect(Workshop, server.url) as proxy:
            running = Running(lambda: list(proxy.wait.map("abc")))
            for name in "abc":
                workshop.started[name].wait()
            closing = Running(close, server, PATIENCE)
            for name in "abc":
                workshop.gates[name].open()
            assert running.result() == list("abc")
            closing.result()

    @pytest.mark.unmeasured
    @pytest.mark.parametrize("most", [1, 3])
    def test_each_call_takes_its_turn(self, most: int, colours: Colours) -> None:
        class Fragile(Service):
            def __init__(self) -> None:
                self.running: list[None] = []
                self.seen: list[int] = []

            @rpc
            def touch(self, number: int) -> int:
                self.running.append(None)
                assert len(self.running) <= most
                self.seen.append(number)
                self.running.pop()
                return number

        fragile = Fragile()
        with colours.serve(fragile, url=URL, max_concurrent=most) as server:

            def work() -> None:
                with colours.connect(Fragile, server.url) as proxy:
                    assert list(proxy.touch.map(range(500))) == list(range(500))

            run_all([work] * 5)
        assert sorted(fragile.seen) == sorted(list(range(500)) * 5)

    @for_servers
    def test_no_more_turns_are_taken_than_there_are_calls(
        self, workshop: Workshop, colours: Colours, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        taken: list[None] = []
        run = Handlers._run_part_in_turn

        def counted(*args: Any) -> None:
            taken.append(None)
            run(*args)

        monkeypatch.setattr(Handlers, "_run_part_in_turn", counted)
        with colours.serve(workshop, url=URL, max_concurrent=100) as server, RawPeer.dial(server.url) as peer:
            peer.shake_hands()
            peer.send(batch(ADD, 1, [1], [2], [3]))
            got: list[tuple[bool, bytes]] = []
            while len(got) < 3:
                got += told(peer.read_frame())
            peer.send(request(ADD, 3, 4))
            assert peer.read_frame().call == 3
        assert len(taken) == 3

    def test_a_client_that_leaves_frees_its_turns(self, workshop: Workshop, colours: Colours) -> None:
        with (
            colours.serve(workshop, url=URL, max_concurrent=1) as server,
            colours.connect(Workshop, server.url) as other,
        ):
            with RawPeer.dial(server.url) as peer:
                peer.shake_hands()
                peer.send(batch(WAIT, 1, ["a"], ["b"], ["c"]))
                workshop.started["a"].wait()
            for name in "abc":  # of which the server may run some before it notices
                workshop.gates[name].open()
            assert list(other.add.map(range(100))) == list(range(100))

    def test_every_call_is_observed_and_run_once(self, workshop: Workshop, colours: Colours) -> None:
        began: list[str] = []
        ended: list[object] = []
        with colours.serve(workshop, url=URL) as server:
            server.on_call(lambda call: began.append(call.command))
            server.on_result(lambda call, result: ended.append(result.value if hasattr(result, "value") else result))
            with colours.connect(Workshop, server.url) as proxy:
                assert list(proxy.add.map(range(300))) == list(range(300))
        assert began == ["Workshop.add"] * 300
        assert len(ended) == 300

    def test_handlers_know_their_call(self, colours: Colours) -> None:
        class Curious(Service):
            @rpc
            def look(self, number: int) -> bool:
                call = current_call()
                return call.deadline is not None and call.depth == 0 and call.command == "Curious.look"

        with colours.serve(Curious(), url=URL) as server, colours.connect(Curious, server.url) as proxy:
            assert list(proxy.look.with_options(timeout=PATIENCE).map(range(100))) == [True] * 100


class Plain(Service):
    """Handlers that do little, which the fast way is for."""

    def __init__(self) -> None:
        self.gates = Gates()
        self.started = Gates()
        self.calls: list[Call] = []
        self.contexts: list[contextvars.Context] = []

    @rpc
    def invert(self, number: int) -> float:
        return 1 / number

    @rpc
    def wait(self, name: str) -> str:
        self.calls.append(current_call())
        self.started[name].open()
        self.gates[name].wait()
        return name

    @rpc
    def keep(self, number: int) -> bool:
        """Whether a call is itself; contexts that are copied keep it."""
        self.calls.append(current_call())
        context = contextvars.copy_context()
        self.contexts.append(context)
        return current_call() is self.calls[-1] is context.run(current_call)

    @rpc
    def blob(self, size: int) -> bytes:
        return bytes(size)

    @rpc
    def text(self, what: str) -> str:
        return {"lone": "\ud800", "large": "x" * 3000, "kind": OfText("kind"), "none": cast("str", None)}.get(
            what, what
        )


class OfText(str):
    __slots__ = ()


@pytest.fixture
def singly(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The calls of batches that do not go the fast way: which ones of their batch they are."""
    found: list[int] = []
    run_part = Handlers._run_part

    def counted(handlers: Handlers, batch: Any, index: int, *args: Any, **kwargs: Any) -> Any:
        found.append(index)
        return run_part(handlers, batch, index, *args, **kwargs)

    monkeypatch.setattr(Handlers, "_run_part", counted)
    return found


class TestTheFastWay:
    """What is run in one loop is as it would be by itself."""

    @pytest.fixture
    def plain(self) -> Iterator[Plain]:
        plain = Plain()
        yield plain
        plain.gates.open_all()

    @pytest.fixture
    def peer(self, plain: Plain) -> Iterator[RawPeer]:
        with Server(plain, url=URL, max_workers=0) as server, RawPeer.dial(server.url) as peer:
            peer.shake_hands()
            yield peer

    def answered(self, peer: RawPeer, count: int) -> list[tuple[bool, bytes]]:
        got: list[tuple[bool, bytes]] = []
        while len(got) < count:
            got += told(peer.read_frame())
        return got

    def test_is_taken(self, peer: RawPeer, singly: list[int]) -> None:
        peer.send(batch(Plain.invert.id, 1, *([number] for number in range(1, 301))))
        assert self.answered(peer, 300) == [(False, pack_plain(1 / number)) for number in range(1, 301)]
        assert singly == []

    def test_calls_are_their_own(self, peer: RawPeer, plain: Plain, singly: list[int]) -> None:
        peer.send(batch(Plain.keep.id, 1, *([number] for number in range(100))))
        assert self.answered(peer, 100) == [(False, pack_plain(True))] * 100
        assert [call.args for call in plain.calls] == [(number,) for number in range(100)]
        assert [context.run(current_call) for context in plain.contexts] == plain.calls
        assert (plain.calls[0].command, plain.calls[0].deadline) == ("Plain.keep", None)
        assert singly == []

    def test_one_that_raises(self, peer: RawPeer, singly: list[int]) -> None:
        peer.send(batch(Plain.invert.id, 1, [1], [0], [2]))
        got = self.answered(peer, 3)
        assert [is_error for is_error, _ in got] == [False, True, False]
        assert isinstance(unpack_failure(got[1][1], ""), ZeroDivisionError)
        assert singly == []

    def test_one_whose_result_is_too_large(self, plain: Plain, singly: list[int]) -> None:
        with Server(plain, url=URL) as server, RawPeer.dial(server.url) as peer:
            peer.shake_hands()
            limits = encode(Kind.LIMITS, 0, 0, pack_limits(Limits(max_message_size=2000)))
            assert isinstance(limits, bytes)
            peer.send(limits + batch(Plain.blob.id, 1, [10], [3000], [20]))
            got = self.answered(peer, 3)
        assert [is_error for is_error, _ in got] == [False, True, False]
        assert isinstance(unpack_failure(got[1][1], ""), MessageTooLarge)
        assert singly == []

    @pytest.mark.parametrize(
        ("what", "expected"),
        [("good", None), ("kind", None), ("lone", "CodecError"), ("none", "CodecError"), ("large", "MessageTooLarge")],
    )
    def test_results_that_are_packed_together_but_for_one(
        self, what: str, expected: str | None, plain: Plain, singly: list[int]
    ) -> None:
        with Server(plain, url=URL) as server, RawPeer.dial(server.url) as peer:
            peer.shake_hands()
            limits = encode(Kind.LIMITS, 0, 0, pack_limits(Limits(max_message_size=2000)))
            assert isinstance(limits, bytes)
            peer.send(limits + batch(Plain.text.id, 1, ["a"], [what], ["c"]))
            got = self.answered(peer, 3)
        assert (got[0], got[2]) == ((False, pack_plain("a")), (False, pack_plain("c")))
        if expected is None:
            assert got[1] == (False, pack_plain(what))
        else:
            error = unpack_failure(got[1][1], "")
            assert got[1][0]
            assert expected in f"{type(error).__name__}: {error}"
        assert singly == []

    @pytest.mark.parametrize("bad", [["x"], [], [1, 2]], ids=str)
    def test_one_whose_arguments_do_not_fit(self, bad: list[object], peer: RawPeer, singly: list[int]) -> None:
        numbers = [[number] for number in range(1, AHEAD + 11)]
        peer.send(batch(Plain.invert.id, 1, *numbers[:3], bad, *numbers[3:]))
        got = self.answered(peer, AHEAD + 11)
        assert [index for index, (is_error, _) in enumerate(got) if is_error] == [3]
        assert singly == list(range(AHEAD)), "those that were looked at together, and no others"

    @pytest.mark.parametrize(
        ("array", "wrong"),
        [
            (b"\x93\x91\x01\x91\x02\x91", [2]),
            (b"\x94\x91\x01\x91\xc1\x91\x02\x91\x03", [1, 2, 3]),
            (b"\x92\x91\x01\x91\x02\xc0", [1]),
            (b"\x93\x91\x01" + b"\x91" * 2000, [1, 2]),
        ],
        ids=["short", "no value", "more", "deep"],
    )
    def test_an_array_that_cannot_be_read_whole(self, array: bytes, wrong: list[int], peer: RawPeer) -> None:
        """What comes before is run, and each of the others has an outcome."""
        encoded = encode(Kind.BATCH, Plain.invert.id, 1, array)
        assert isinstance(encoded, bytes)
        peer.send(encoded)
        got = self.answered(peer, array[0] & 0x0F)
        assert [index for index, (is_error, _) in enumerate(got) if is_error] == wrong
        assert {type(unpack_failure(got[index][1], "")) for index in wrong} == {ArgumentValueError}

    def test_a_batch_that_is_given_up(self, peer: RawPeer, plain: Plain, singly: list[int]) -> None:
        peer.send(batch(Plain.wait.id, 1, ["a"], ["b"], ["c"]))
        plain.started["a"].wait()
        with_all_read = Running(lambda: until(lambda: plain.calls[0].cancelled))
        peer.send(encode_of(Kind.CANCEL, 1) + request(Plain.invert.id, 3, 1))
        with_all_read.result()
        plain.gates["a"].open()
        got: list[tuple[bool, bytes]] = []
        while len(got) < 3:
            frame = peer.read_frame()
            got += told(frame) if frame.kind == Kind.BATCH else []
        assert [type(unpack_failure(body, "")) for _, body in got] == [CallCancelled] * 3
        assert not plain.started["b"].is_open
        assert singly == [1, 2]

    def test_a_hook_that_comes_in_between(self, plain: Plain, singly: list[int]) -> None:
        began: list[object] = []
        with Server(plain, url=URL, max_workers=0) as server, RawPeer.dial(server.url) as peer:
            peer.shake_hands()
            peer.send(batch(Plain.wait.id, 1, ["a"], ["b"], ["c"]))
            plain.started["a"].wait()
            server.on_call(lambda call: began.append(call.args))
            plain.gates.open_all()
            for name in "bc":
                plain.gates[name].open()
            assert self.answered(peer, 3) == [(False, pack_plain(name)) for name in "abc"]
        assert began == [("b",), ("c",)]
        assert singly == [1, 2]

    def test_a_deadline_that_passes_in_between(self, peer: RawPeer, plain: Plain, singly: list[int]) -> None:
        peer.send(batch(Plain.wait.id, 1, ["a"], ["b"], extension=pack_extension(time_left=0.05)))
        plain.started["a"].wait()
        until(lambda: plain.calls[0].cancelled)
        plain.gates["a"].open()
        got = self.answered(peer, 2)
        assert [type(unpack_failure(body, "")) for _, body in got] == [DeadlineExceeded] * 2
        assert not plain.started["b"].is_open
        assert singly == [0, 1]

    def test_a_connection_that_is_lost_in_between(self, plain: Plain) -> None:
        with Server(plain, url=URL) as server:
            with RawPeer.dial(server.url) as peer:
                peer.shake_hands()
                peer.send(batch(Plain.wait.id, 1, *([name] for name in "abc")))
                for name in "abc":  # which others take meanwhile
                    plain.started[name].wait()
            until(lambda: all(call.cancelled for call in plain.calls))
            plain.gates.open_all()
            until(lambda: not server.peers)
            with connect(Plain, server.url) as proxy:
                assert list(proxy.invert.map([1, 2, 4])) == [1, 0.5, 0.25]

    def test_results_are_read_at_once(self, plain: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
        read: list[object] = []
        codec = Plain.invert.codec
        unpack = codec.unpack_result

        def counted(payload: Any) -> Any:
            read.append(payload)
            return unpack(payload)

        monkeypatch.setitem(codec.__dict__, "unpack_result", counted)
        with Server(plain, url=URL) as server, connect(Plain, server.url) as proxy:
            results = outcomes(proxy.invert, [*range(1, 500), 0, *range(500, 600)])
            given = [result for result in results if not isinstance(result, Exception)]
        assert given == [1 / number for number in range(1, 600)]
        assert len(read) < 300, "those that came alone, or beside the error"
