"""Streams over real sockets: what arrives, in which order, how errors end them, and who stops the producer."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.ends import COLOURS, LOOPS, THREADS, Colours, alike, for_clients
from tests.streaming import AsyncGate, Joined, Pipes, Watched, connection_of, expect_empty, joined
from tests.support import PATIENCE, FakeServer, Gate, Log, RawPeer, Running, agree, in_time, run_all, until
from typedrpc import (
    ArgumentValueError,
    CallCancelled,
    DeadlineExceeded,
    MessageTooLarge,
    RemoteError,
    Service,
    current_call,
    rpc,
)
from typedrpc.codec import pack_plain
from typedrpc.common import sending
from typedrpc.common.sending import Sender, Stopped
from typedrpc.flow import Outflow
from typedrpc.messages import Limits
from typedrpc.sync.connection import Connection

pytestmark = pytest.mark.usefixtures("kept_loop", "no_leaks")
colours = alike

URL = "tcp://127.0.0.1:0"


@pytest.fixture
def pair(colours: Colours) -> Iterator[Joined]:
    with joined(colours) as pair:
        yield pair


@pytest.fixture(
    params=[("tcp", one) for one in COLOURS] + [("unix", one) for one in (THREADS, LOOPS)],
    ids=lambda param: f"{param[0]}-{' '.join(param[1])}",
)
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Joined]:
    """Clients and servers of each colour, and over each kind of socket."""
    kind, colours = request.param
    with joined(colours, URL if kind == "tcp" else f"unix://{tmp_path}/server.sock") as pair:
        yield pair


async def awaited(items: Any) -> AsyncIterator[Any]:
    """A plain iterable as an async iterator that lets others run."""
    for item in items:
        await asyncio.sleep(0)
        yield item


async def taken(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


async def doubled(items: AsyncIterator[int]) -> AsyncIterator[int]:
    async for item in items:
        yield 2 * item


async def atotal(items: AsyncIterator[int]) -> int:
    return sum(await taken(items))


def every_way(pair: Joined, shape: str, numbers: list[int]) -> dict[str, Any]:
    """What one shape gives, by each kind of handler and each form of call."""
    pipes, scripts = pair.pipes, pair.service.scripts
    scripts.update(
        items=lambda: iter(numbers),
        aitems=lambda: awaited(numbers),
        total=sum,
        atotal=atotal,
        doubled=lambda items: (2 * item for item in items),
        adoubled=doubled,
    )

    async def with_a_loop() -> dict[str, Any]:
        match shape:
            case "result":
                return {
                    "aio": await taken(pipes.produce.aio("items")),
                    "async": await taken(pipes.aproduce("aitems")),
                }
            case "argument":
                return {
                    "aio": await pipes.consume.aio("total", iter(numbers)),
                    "async": await pipes.aconsume("atotal", awaited(numbers)),
                }
            case _:
                return {
                    "aio": await taken(pipes.both.aio("doubled", iter(numbers))),
                    "async": await taken(pipes.aboth("adoubled", awaited(numbers))),
                }

    found = asyncio.run(with_a_loop())
    match shape:
        case "result":
            found |= {
                "plain": list(pipes.produce("items")),
                "call": list(pipes.aproduce.call("aitems")),
            }
        case "argument":
            found |= {
                "plain": pipes.consume("total", iter(numbers)),
                "submit": pipes.consume.submit("total", iter(numbers)).result(PATIENCE),
                "call": pipes.aconsume.call("atotal", awaited(numbers)),
                "async submit": pipes.aconsume.submit("atotal", awaited(numbers)).result(PATIENCE),
            }
        case _:
            found |= {
                "plain": list(pipes.both("doubled", iter(numbers))),
                "call": list(pipes.aboth.call("adoubled", awaited(numbers))),
            }
    return found


MANY = pytest.param(2100, marks=pytest.mark.unmeasured)  # more than go into two frames


class TestShapes:
    @pytest.mark.parametrize("count", [0, 1, MANY])
    def test_a_result(self, either: Joined, count: int) -> None:
        numbers = list(range(count))
        found = every_way(either, "result", numbers)
        assert {way: items == numbers for way, items in found.items()} == dict.fromkeys(found, True)

    @pytest.mark.parametrize("count", [0, 1, MANY])
    def test_an_argument(self, either: Joined, count: int) -> None:
        found = every_way(either, "argument", list(range(count)))
        assert found == dict.fromkeys(found, sum(range(count)))

    @pytest.mark.parametrize("count", [0, 1, MANY])
    def test_both(self, either: Joined, count: int) -> None:
        found = every_way(either, "both", list(range(count)))
        doubles = [2 * number for number in range(count)]
        assert {way: items == doubles for way, items in found.items()} == dict.fromkeys(found, True)

    def test_neither_beside_open_streams(self, either: Joined) -> None:
        either.service.scripts["items"] = Watched().plain
        with either.pipes.produce("items") as first, either.pipes.produce("items") as second:
            assert [next(first), next(second), either.pipes.add(1, 2), next(first), next(second)] == [0, 0, 3, 1, 1]

    def test_what_is_sent_back_and_forth_one_by_one(self, either: Joined) -> None:
        either.service.scripts["doubled"] = lambda items: (2 * item for item in items)
        answered = threading.Semaphore(0)

        def questions() -> Iterator[int]:
            for number in range(100):
                yield number
                assert answered.acquire(timeout=PATIENCE)

        found = []
        for answer in either.pipes.both("doubled", questions()):
            found.append(answer)
            answered.release()
        assert found == list(range(0, 200, 2))

    @pytest.mark.unmeasured
    def test_many_threads_take_from_one_stream_and_each_item_comes_once(self, pair: Joined) -> None:
        pair.service.scripts["items"] = lambda: iter(range(20_000))
        stream = pair.pipes.produce("items")
        found = run_all([lambda: list(stream)] * 4)
        assert sorted(item for items in found for item in items) == list(range(20_000))
        assert all(items == sorted(items) for items in found)

    def test_several_streams_among_the_arguments(self, colours: Colours) -> None:
        class Zip(Service):
            @rpc
            def zip(self, a: Iterator[int], b: Iterator[str], *, c: Iterator[bytes]) -> list[tuple[int, str, bytes]]:
                return list(zip(a, b, c, strict=True))

        with colours.serve(Zip(), url=URL) as server, colours.connect(Zip, server.url) as zipper:
            count = 3000
            found = zipper.zip(iter(range(count)), map(str, range(count)), c=(bytes(n % 7) for n in range(count)))
            assert found == [(n, str(n), bytes(n % 7)) for n in range(count)]


SIZES = [0, 1, 100, 16_000, 16_384, 65_000, 65_535, 65_536, 70_000, 300_000, 3, 1_000_000, 0]


def blob(number: int) -> bytes:
    return bytes([number % 251]) * SIZES[number % len(SIZES)]


def reusing(size: int) -> Iterator[bytearray]:
    """One buffer, again and again, with something else in it."""
    buffer = bytearray(size)
    for number in range(40):
        buffer[:] = bytes([number]) * size
        yield buffer
    buffer[:] = b"\xff" * size


class Bytearrays(Service):
    """Streams of bytearrays that are used again."""

    def __init__(self, size: int) -> None:
        self._size = size

    @rpc
    def produce(self) -> Iterator[bytearray]:
        return reusing(self._size)

    @rpc
    async def aproduce(self) -> AsyncIterator[bytearray]:
        for item in reusing(self._size):
            yield item

    @rpc
    def consume(self, items: Iterator[bytearray]) -> list[bytes]:
        return [bytes(item) for item in items]

    @rpc
    async def aconsume(self, items: AsyncIterator[bytearray]) -> list[bytes]:
        return [bytes(item) async for item in items]


class Memoryviews(Service):
    """Streams of memoryviews that are used again."""

    def __init__(self, size: int) -> None:
        self._size = size

    @rpc
    def produce(self) -> Iterator[memoryview]:
        return map(memoryview, reusing(self._size))

    @rpc
    async def aproduce(self) -> AsyncIterator[memoryview]:
        for item in reusing(self._size):
            yield memoryview(item)

    @rpc
    def consume(self, items: Iterator[memoryview]) -> list[bytes]:
        return [bytes(item) for item in items]

    @rpc
    async def aconsume(self, items: AsyncIterator[memoryview]) -> list[bytes]:
        return [bytes(item) async for item in items]


class TestSizes:
    def test_items_of_every_size_come_as_they_were_made(self, either: Joined) -> None:
        expected = [blob(number) for number in range(2 * len(SIZES))]
        scripts = either.service.scripts
        scripts.update(blobs=lambda: iter(expected), ablobs=lambda: awaited(expected), list=list, alist=taken)
        assert list(either.pipes.blobs("blobs")) == expected
        assert list(either.pipes.ablobs.call("ablobs")) == expected
        assert either.pipes.swallow("list", iter(expected)) == expected
        assert either.pipes.aswallow.call("alist", awaited(expected)) == expected

    @pytest.mark.unmeasured
    @pytest.mark.parametrize("size", [100, 65_536, 200_000])
    def test_a_buffer_that_the_producer_uses_again_keeps_what_was_yielded(self, size: int, colours: Colours) -> None:
        expected = [bytes([number]) * size for number in range(40)]
        with (
            colours.serve(Bytearrays(size), Memoryviews(size), url=URL) as server,
            colours.connect(server.url) as client,
        ):
            arrays, views = client.proxy(Bytearrays), client.proxy(Memoryviews)
            assert [bytes(item) for item in arrays.produce()] == expected
            assert [bytes(item) for item in arrays.aproduce.call()] == expected
            assert arrays.consume(reusing(size)) == expected
            assert arrays.aconsume.call(awaited(reusing(size))) == expected
            assert [bytes(item) for item in views.produce()] == expected
            assert [bytes(item) for item in views.aproduce.call()] == expected
            assert views.consume(memoryview(item) for item in reusing(size)) == expected
            assert views.aconsume.call(awaited(memoryview(item) for item in reusing(size))) == expected


@dataclass
class Broken(Exception):
    at: int
    why: str


class Failing(Service):
    """Streams that end as their scripts do."""

    def __init__(self) -> None:
        self.scripts: dict[str, Callable[..., Any]] = {}

    @rpc(raises=[Broken])
    def produce(self, script: str) -> Iterator[int]:
        yield from self.scripts[script]()

    @rpc(raises=[Broken])
    async def aproduce(self, script: str) -> AsyncIterator[int]:
        for item in self.scripts[script]():
            yield item


class Undeclared(Exception):
    pass


def failing(error: BaseException, count: int = 1000) -> Callable[[], Iterator[int]]:
    def items() -> Iterator[int]:
        yield from range(count)
        raise error

    return items


def outcome_of(stream: Iterator[Any]) -> tuple[list[Any], BaseException]:
    """The items of a stream that fails, and its error."""
    found: list[Any] = []
    try:
        for item in stream:
            found.append(item)  # noqa: PERF402  # they count although an error follows
    except Exception as error:
        assert next(stream, "nothing") == "nothing"
        return found, error
    raise AssertionError("it did not fail")


class TestErrorsOfResults:
    @pytest.fixture(params=["plain", "async"])
    def produce(
        self, request: pytest.FixtureRequest, colours: Colours
    ) -> Iterator[Callable[[Callable[[], Iterator[Any]]], Any]]:
        service = Failing()
        with colours.serve(service, url=URL) as server, colours.connect(Failing, server.url) as proxy:

            def produce(script: Callable[[], Iterator[Any]]) -> Any:
                service.scripts["it"] = script
                return proxy.produce("it") if request.param == "plain" else proxy.aproduce.call("it")

            yield produce

    @pytest.mark.parametrize("count", [0, 1, 1000])
    def test_a_declared_error_comes_with_its_fields_after_the_items(self, produce: Any, count: int) -> None:
        items, error = outcome_of(produce(failing(Broken(7, "no more"), count)))
        assert items == list(range(count))
        assert error == Broken(7, "no more")
        assert type(error) is Broken

    def test_a_builtin_comes_as_itself(self, produce: Any) -> None:
        items, error = outcome_of(produce(failing(KeyError("here"))))
        assert (items, type(error), error.args) == (list(range(1000)), KeyError, ("here",))
        assert isinstance(error.__cause__, RemoteError)

    def test_an_undeclared_one_comes_as_a_remote_error(self, log: Log, produce: Any) -> None:
        items, error = outcome_of(produce(failing(Undeclared("secret"))))
        assert (items, type(error)) == (list(range(1000)), RemoteError)
        assert "Undeclared" in str(error)
        assert "secret" not in str(error)
        assert "produce failed in a call, error id" in log.line()

    def test_an_item_that_does_not_fit_ends_it(self, log: Log, produce: Any) -> None:
        watched = Watched(3)

        def items() -> Iterator[Any]:
            yield from watched.plain()
            yield "three"
            raise AssertionError("nobody asks for more")

        found, error = outcome_of(produce(items))
        assert (found, type(error)) == ([0, 1, 2], RemoteError)
        assert "produce: result: item: expected int, got str" in log.line()


class TestErrorsOfItems:
    def test_an_item_that_is_too_large_ends_it_and_not_the_connection(self, log: Log, colours: Colours) -> None:
        with joined(colours, max_message_size=100_000) as pair:
            watched = Watched(2, item=b"small")

            def items() -> Iterator[bytes]:
                yield from watched.plain()
                yield bytes(200_000)

            pair.service.scripts["blobs"] = items
            found, error = outcome_of(pair.pipes.blobs("blobs"))
            assert (found, type(error)) == ([b"small", b"small"], MessageTooLarge)
            assert "blobs" in log.line()
            pair.service.scripts["ablobs"] = lambda: awaited(items())
            found, error = outcome_of(pair.pipes.ablobs.call("ablobs"))
            assert (found, type(error)) == ([b"small", b"small"], MessageTooLarge)
            assert "blobs" in log.line()
            assert pair.pipes.add(1, 2) == 3

    @pytest.mark.parametrize("colour", ["plain", "async"])
    def test_the_caller_gets_back_what_his_iterator_raised_and_the_handler_sees_an_error(
        self, pair: Joined, colour: str
    ) -> None:
        mine = Undeclared("my own")
        seen: list[Any] = []

        def plain(items: Iterator[int]) -> int:
            try:
                for item in items:
                    seen.append(item)  # noqa: PERF402  # they count although an error follows
            except Exception as error:
                seen.append(type(error))
                raise
            return len(seen)

        async def asynchronous(items: AsyncIterator[int]) -> int:
            try:
                async for item in items:
                    seen.append(item)  # noqa: PERF401  # they count although an error follows
            except Exception as error:
                seen.append(type(error))
                raise
            return len(seen)

        pair.service.scripts.update(plain=plain, asynchronous=asynchronous)

        def call() -> Any:
            if colour == "plain":
                return pair.pipes.consume("plain", failing(mine)())
            return pair.pipes.aconsume.call("asynchronous", awaited(failing(mine)()))

        with pytest.raises(Undeclared) as caught:
            call()
        assert caught.value is mine
        assert seen == [*range(1000), RemoteError]

    def test_a_handler_may_make_do_with_what_came_before_the_error(self, pair: Joined) -> None:
        def forgiving(items: Iterator[int]) -> int:
            total = 0
            try:
                for item in items:
                    total += item
            except ValueError:
                pass
            return total

        pair.service.scripts["forgiving"] = forgiving
        assert pair.pipes.consume("forgiving", failing(ValueError("enough"), 10)()) == 45

    @pytest.mark.parametrize("form", ["submit", "stream", "aio"])
    def test_so_does_the_caller_of_another_form(self, pair: Joined, form: str) -> None:
        mine = Undeclared("my own")
        pair.service.scripts.update(total=sum, doubled=lambda items: (2 * item for item in items))
        if form == "submit":
            error = pair.pipes.consume.submit("total", failing(mine, 3)()).exception(PATIENCE)
        elif form == "stream":
            items, error = outcome_of(pair.pipes.both("doubled", failing(mine, 3)()))
            assert items == [0, 2, 4]
        else:

            async def main() -> None:
                await pair.pipes.consume.aio("total", failing(mine, 3)())

            with pytest.raises(Undeclared) as caught:
                asyncio.run(main())
            error = caught.value
        assert error is mine

    def test_a_future_has_it_too_if_it_is_no_plain_exception(self, pair: Joined) -> None:
        """Nobody would complete the future otherwise, and who waits for it would wait for ever."""

        async def cancelled() -> AsyncIterator[int]:
            yield 1
            raise asyncio.CancelledError("its own task was")

        async def main() -> None:
            await asyncio.wait_for(pair.pipes.aconsume.aio("total", cancelled()), PATIENCE)

        async def total(items: AsyncIterator[int]) -> int:
            return sum([item async for item in items])

        mine = SystemExit(3)
        pair.service.scripts["total"] = sum
        assert pair.pipes.consume.submit("total", failing(mine, 3)()).exception(PATIENCE) is mine
        pair.service.scripts["total"] = total
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(main())

    def test_an_item_of_an_argument_that_does_not_fit(self, pair: Joined) -> None:
        seen: list[Any] = []

        def keep(items: Iterator[int]) -> None:
            try:
                seen.extend(items)
            except Exception as error:
                seen.append(type(error))
                raise

        def wrong() -> Iterator[Any]:
            yield 1
            yield "two"

        pair.service.scripts["keep"] = keep
        with pytest.raises(ArgumentValueError, match="expected int, got str"):
            pair.pipes.consume("keep", wrong())
        assert seen == [1, ArgumentValueError]

    def test_an_item_of_an_argument_that_is_too_large(self, colours: Colours) -> None:
        with joined(colours, server={"max_message_size": 100_000}) as pair:
            pair.service.scripts["lengths"] = lambda items: [len(item) for item in items]
            with pytest.raises(MessageTooLarge):
                pair.pipes.swallow("lengths", iter([b"small", bytes(200_000)]))
            assert pair.pipes.swallow("lengths", iter([b"small", bytes(20_000)])) == [5, 20_000]


# Credit

BLOB = bytes(1000)
AHEAD = 300
"""Items of 1000 bytes that a producer may be ahead of a consumer that takes none: the first credit, a frame that
overdraws it, and what waits to be packed into the next."""


class TestCredit:
    @pytest.mark.parametrize("form", ["plain", "async"])
    def test_who_produces_a_result_waits_for_who_consumes(self, pair: Joined, form: str) -> None:
        watched = Watched(5000, item=BLOB)
        pair.service.scripts.update(blobs=watched.plain, ablobs=watched.awaited)
        stream = pair.pipes.blobs("blobs") if form == "plain" else pair.pipes.ablobs.call("ablobs")
        assert next(stream) == BLOB
        waits_for_credit(pair.far)
        assert watched.made <= AHEAD
        assert sum(1 for _ in stream) == 4999
        assert watched.made == 5000

    @pytest.mark.parametrize("form", ["plain", "async"])
    def test_who_produces_an_argument_waits_for_who_consumes(self, pair: Joined, form: str) -> None:
        watched, go = Watched(5000, item=BLOB), AsyncGate()

        def plain(items: Iterator[bytes]) -> int:
            go.wait()
            return sum(1 for _ in items)

        async def asynchronous(items: AsyncIterator[bytes]) -> int:
            await go.pass_through()
            return len(await taken(items))

        pair.service.scripts.update(plain=plain, asynchronous=asynchronous)
        call = (
            Running(pair.pipes.swallow, "plain", watched.plain())
            if form == "plain"
            else Running(pair.pipes.aswallow.call, "asynchronous", watched.awaited())
        )
        watched.began.wait()
        waits_for_credit(pair.near)
        assert watched.made <= AHEAD
        go.open()
        assert call.result() == watched.made == 5000

    def test_a_window_that_is_used_grows_and_stays_bounded(self, pair: Joined) -> None:
        watched = Watched(item=BLOB)
        pair.service.scripts["blobs"] = watched.plain
        with pair.pipes.blobs("blobs") as stream:
            count = 20_000
            for number in range(count):
                assert next(stream) == BLOB
                assert watched.made - number <= 1300 + AHEAD
            # What the consumer has granted last may still be on its way.
            until(lambda: watched.made - count > AHEAD, "a window that has grown")
            waits_for_credit(pair.far)
            assert watched.made - count <= 1300 + AHEAD

    @pytest.mark.unmeasured
    def test_a_hundred_stalled_streams_hold_up_neither_calls_nor_others(self, colours: Colours) -> None:
        with joined(colours, server={"max_workers": 2}) as pair:
            results, arguments = [Watched(item=BLOB) for _ in range(50)], [Watched(item=BLOB) for _ in range(50)]
            go = Gate()

            def stalled(items: Iterator[bytes]) -> int:
                next(items)
                go.wait()
                return 1

            pair.service.scripts.update(
                {f"blobs{n}": watched.plain for n, watched in enumerate(results)}, stalled=stalled, few=lambda: range(9)
            )
            streams = [pair.pipes.blobs(f"blobs{n}") for n in range(50)]
            futures = [pair.pipes.swallow.submit("stalled", watched.plain()) for watched in arguments]
            for stream in streams:
                assert next(stream) == BLOB
            for watched in (*results, *arguments):
                watched.began.wait()
            assert [pair.pipes.add(n, 1) for n in range(50)] == list(range(1, 51))
            assert list(pair.pipes.produce("few")) == list(range(9))
            go.open()
            assert [future.result(PATIENCE) for future in futures] == [1] * 50
            for stream in streams:
                stream.close()
            for watched in (*results, *arguments):
                watched.ended.wait()

    @pytest.mark.parametrize("form", ["plain", "async"])
    def test_items_are_not_held_back_while_their_producer_waits(self, pair: Joined, form: str) -> None:
        go = AsyncGate()

        def items() -> Iterator[int]:
            yield from range(10)
            go.wait()
            yield 10

        async def aitems() -> AsyncIterator[int]:
            for number in range(10):
                yield number
            await go.pass_through()
            yield 10

        pair.service.scripts.update(items=items, aitems=aitems)
        for _ in range(3):
            stream = pair.pipes.produce("items") if form == "plain" else pair.pipes.aproduce.call("aitems")
            assert [next(stream) for _ in range(10)] == list(range(10))
            go.open()
            assert list(stream) == [10]

    def test_nor_those_of_an_argument(self, pair: Joined) -> None:
        got, go = Gate(), Gate()

        def items() -> Iterator[int]:
            yield from range(10)
            got.wait()
            yield 10

        def consume(items: Iterator[int]) -> list[int]:
            found = [next(items) for _ in range(10)]
            got.open()
            return found + list(items)

        pair.service.scripts["consume"] = consume
        assert pair.pipes.consume("consume", items()) == list(range(11))
        go.open()


def waits_for_credit(connection: Connection) -> None:
    """Wait until the only stream that goes out has used its credit up, and its producer waits for more."""

    def does() -> bool:
        outflows: list[dict[int, Any]] = list(connection.core.outflows.copy().values())
        flows = [flow for numbers in outflows for flow in numbers.values()]
        return bool(flows) and all(not flow.may_send and has_come_to_a_halt(flow.notify.__self__) for flow in flows)

    until(does, "the end of the credit")


def has_come_to_a_halt(sender: Any) -> bool:
    """Whether a thread, or a task, waits until it may send more."""
    return sender._waiting.waiter is not None if isinstance(sender, Sender) else bool(sender._future)


def ended_if_begun(watched: Watched, *connections: Connection) -> bool:
    """Wait for the end of a call, and of its producer; unless it has not begun, as a deadline may be over before."""
    expect_empty(*connections)
    if not watched.began.is_open:
        return False
    watched.ended.wait()
    return True


# Who stops the producer, and how


def leave_the_loop(stream: Any) -> None:
    for item in stream:
        if item == 2:
            break
    stream.close()
    stream.close()
    assert next(stream, "nothing") == "nothing"


def leave_the_block(stream: Any) -> None:
    with stream:
        assert [next(stream), next(stream)] == [0, 1]


def raise_in_the_block(stream: Any) -> None:
    with pytest.raises(ZeroDivisionError), stream:
        raise ZeroDivisionError


def take_nothing(stream: Any) -> None:
    stream.close()


WAYS = [leave_the_loop, leave_the_block, raise_in_the_block, take_nothing]


class TestStopping:
    """The producer's ``finally`` has run, and at the end of each test neither side holds anything of the call."""

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("form", ["plain", "async"])
    def test_closing_stops_the_producer_of_a_result(self, pair: Joined, form: str, way: Callable[[Any], None]) -> None:
        watched = Watched()
        pair.service.scripts.update(items=watched.plain, aitems=watched.awaited)
        way(pair.pipes.produce("items") if form == "plain" else pair.pipes.aproduce.call("aitems"))
        if way in (leave_the_loop, leave_the_block):
            watched.ended.wait()
        pair.expect_empty()
        assert watched.ended.is_open == watched.began.is_open

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("form", ["plain", "async"])
    def test_closing_stops_both_producers(self, pair: Joined, form: str, way: Callable[[Any], None]) -> None:
        mine, theirs = Watched(), Watched()

        def both(items: Iterator[int]) -> Iterator[int]:
            next(items)
            return theirs.plain()

        async def aboth(items: AsyncIterator[int]) -> AsyncIterator[int]:
            await anext(items)
            async for item in theirs.awaited():
                yield item

        pair.service.scripts.update(both=both, aboth=aboth)
        way(
            pair.pipes.both("both", mine.plain()) if form == "plain" else pair.pipes.aboth.call("aboth", mine.awaited())
        )
        pair.expect_empty()
        for watched in (mine, theirs):
            if watched.began.is_open:
                watched.ended.wait()

    @pytest.mark.parametrize("form", ["plain", "async"])
    @pytest.mark.parametrize("cycle", [False, True])
    def test_a_stream_that_nobody_has_any_more(self, pair: Joined, form: str, cycle: bool) -> None:
        watched = Watched()
        pair.service.scripts.update(items=watched.plain, aitems=watched.awaited)
        stream: Any = pair.pipes.produce("items") if form == "plain" else pair.pipes.aproduce.call("aitems")
        assert next(stream) == 0
        gc.disable()  # it comes by when it is called
        try:
            if cycle:
                holder: list[Any] = [stream]
                holder.append(holder)
                del holder
            del stream
            if cycle:
                assert not watched.ended.is_open
                gc.collect()
            watched.ended.wait()
        finally:
            gc.enable()

    def test_a_stream_of_a_loop_that_nobody_has_any_more(self, pair: Joined) -> None:
        watched = Watched()
        pair.service.scripts["items"] = watched.plain

        async def main() -> None:
            async for item in pair.pipes.produce.aio("items"):
                if item == 3:
                    break

        asyncio.run(main())
        gc.collect()
        watched.ended.wait()

    @pytest.mark.parametrize("form", ["plain", "async"])
    def test_the_end_of_the_call_stops_an_argument_that_was_not_consumed(self, pair: Joined, form: str) -> None:
        watched = Watched()

        def one(items: Iterator[int]) -> int:
            return next(items)

        async def aone(items: AsyncIterator[int]) -> int:
            return await anext(items)

        pair.service.scripts.update(one=one, aone=aone)
        if form == "plain":
            assert pair.pipes.consume("one", watched.plain()) == 0
        else:
            assert pair.pipes.aconsume.call("aone", watched.awaited()) == 0
        watched.ended.wait()

    def test_a_handler_may_close_its_argument_and_go_on(self, pair: Joined) -> None:
        watched = Watched()

        def part(items: Any) -> Any:
            with items:
                total = sum([next(items) for _ in range(10)], 0)
            watched.ended.wait()
            assert next(items, None) is None
            return total

        pair.service.scripts["part"] = part
        assert pair.pipes.consume("part", watched.plain()) == 45

    def test_an_async_producer_that_waits_for_something_else_is_stopped_too(self, pair: Joined) -> None:
        ended, never = Gate(), asyncio.Event()

        async def items() -> AsyncIterator[int]:
            try:
                yield 1
                await never.wait()
            finally:
                ended.open()

        async def one(items: AsyncIterator[int]) -> int:
            return await anext(items)

        pair.service.scripts["one"] = one
        assert pair.pipes.aconsume.call("one", items()) == 1
        ended.wait()

    def test_closing_from_another_thread_ends_the_wait_for_an_item(self, pair: Joined) -> None:
        watched = Watched(pause_at=1)
        pair.service.scripts["items"] = watched.plain
        stream = pair.pipes.produce("items")
        assert next(stream) == 0
        waiting = Running(next, stream, "nothing")
        watched.paused.wait()
        stream.close()
        assert waiting.result() == "nothing"
        watched.go.open()
        watched.ended.wait()

    def test_a_handler_that_waits_with_its_call_is_told(self, pair: Joined) -> None:
        ended, began = Gate(), Gate()

        def items() -> Iterator[int]:
            try:
                yield 1
                began.open()
                assert current_call().cancelled.wait(PATIENCE)
                current_call().cancelled.check()
            finally:
                ended.open()

        pair.service.scripts["items"] = items
        stream = pair.pipes.produce("items")
        assert next(stream) == 1
        began.wait()
        stream.close()
        ended.wait()

    @pytest.mark.parametrize("form", ["plain", "async"])
    def test_a_producer_that_goes_on_sees_that_the_call_was_cancelled(self, pair: Joined, form: str) -> None:
        seen: list[BaseException] = []
        ended = Gate()

        def items() -> Iterator[int]:
            try:
                while True:
                    yield 1
            except BaseException as error:
                seen.append(error)
                raise
            finally:
                ended.open()

        async def aitems() -> AsyncIterator[int]:
            try:
                while True:
                    yield 1
            except BaseException as error:
                seen.append(error)
                raise
            finally:
                ended.open()

        pair.service.scripts.update(items=items, aitems=aitems)
        stream = pair.pipes.produce("items") if form == "plain" else pair.pipes.aproduce.call("aitems")
        next(stream)
        stream.close()
        ended.wait()
        expected = CallCancelled if form == "plain" else (asyncio.CancelledError, GeneratorExit)
        assert [isinstance(error, expected) for error in seen] == [True]

    @pytest.mark.parametrize("form", ["plain", "async"])
    def test_a_cancelled_task_closes_its_stream(self, pair: Joined, form: str) -> None:
        watched = Watched(pause_at=3)
        pair.service.scripts.update(items=watched.plain)

        async def main() -> None:
            got = asyncio.Event()

            async def consume() -> None:
                async for item in pair.pipes.produce.aio("items"):
                    if item == 2:
                        got.set()

            task = asyncio.create_task(consume())
            await asyncio.wait_for(got.wait(), PATIENCE)
            await asyncio.to_thread(watched.paused.wait)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        watched.go.open()
        watched.ended.wait()

    @pytest.mark.parametrize("form", ["plain", "async", "aio"])
    def test_a_time_out_covers_the_whole_stream(self, pair: Joined, form: str) -> None:
        def limited(timeout: float) -> Any:
            pipes = pair.pipes
            if form == "plain":
                return pipes.produce.with_options(timeout=timeout)("items")
            if form == "async":
                return pipes.aproduce.with_options(timeout=timeout).call("aitems")
            return pipes.produce.with_options(timeout=timeout).aio("items")

        async def main(timeout: float) -> None:
            async for _ in limited(timeout):
                pass

        def take_all(timeout: float) -> None:
            for _ in limited(timeout):
                pass

        def ends(timeout: float) -> bool:
            watched = Watched()
            pair.service.scripts.update(items=watched.plain, aitems=watched.awaited)
            with pytest.raises(DeadlineExceeded):
                asyncio.run(main(timeout)) if form == "aio" else take_all(timeout)
            return ended_if_begun(watched, pair.near, pair.far)

        in_time(ends)

    def test_a_stream_that_nobody_takes_of_ends_at_its_deadline_too(self, pair: Joined) -> None:
        def ends(timeout: float) -> bool:
            mine, theirs = Watched(), Watched()
            pair.service.scripts["both"] = lambda items: theirs.plain()
            stream = pair.pipes.both.with_options(timeout=timeout)("both", mine.plain())
            found = ended_if_begun(theirs, pair.near, pair.far)
            with pytest.raises(DeadlineExceeded):
                list(stream)
            return found

        in_time(ends)

    def test_the_default_time_out_of_a_client_leaves_streams_alone(self, colours: Colours) -> None:
        with joined(colours, call_timeout=0.05) as pair:
            ended = Gate()

            def slow() -> Iterator[int]:
                yield 1
                assert current_call().deadline is None
                ended.open()
                yield 2

            pair.service.scripts["items"] = slow
            assert list(pair.pipes.produce("items")) == [1, 2]
            assert ended.is_open

    @for_clients
    @pytest.mark.parametrize("way", ["call", "submit", "stream", "close", "aio"])
    def test_an_argument_is_stopped_although_the_peer_says_nothing(self, way: str, colours: Colours) -> None:
        """Whoever reads meanwhile: the caller, the producer that waits for credit, or a thread of the client's."""
        silent = Gate()

        def script(peer: RawPeer) -> None:
            agree(peer)
            peer.question()
            silent.wait()

        async def main(items: Iterator[int]) -> None:
            task = asyncio.ensure_future(pipes.consume.aio("any", items))
            await asyncio.to_thread(waits_for_credit, connection_of(client))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        def ends(timeout: float) -> bool:
            watched = Watched()
            stream: Any = None
            consume = pipes.consume.with_options(timeout=timeout)
            if way == "call":
                with pytest.raises(DeadlineExceeded):
                    consume("any", watched.plain())
            elif way == "submit":
                assert isinstance(consume.submit("any", watched.plain()).exception(PATIENCE), DeadlineExceeded)
            elif way == "aio":
                asyncio.run(main(watched.plain()))
            else:
                both = pipes.both.with_options(timeout=timeout) if way == "stream" else pipes.both
                stream = both("any", watched.plain())
                if way == "close":
                    waits_for_credit(connection_of(client))
                    stream.close()
            return ended_if_begun(watched, connection_of(client))

        with FakeServer(script) as server, colours.connect(server.url) as client:
            pipes = client.proxy(Pipes)
            in_time(ends)
            silent.open()

    def test_a_thread_that_takes_from_an_argument_learns_that_its_call_is_over(self, pair: Joined) -> None:
        """Also where it is the one that reads the connection, on which nothing comes any more."""
        got, go, waits = Gate(), Gate(), Gate()
        taker: list[Running[Any]] = []

        def elsewhere(items: Iterator[int]) -> int:
            def take() -> None:
                assert next(items) == 0
                got.open()
                next(items)

            taker.append(Running(take))
            waits.wait()
            return 1

        pair.service.scripts["elsewhere"] = elsewhere
        watched = Watched(pause_at=1)
        call = pair.pipes.consume.submit("elsewhere", watched.plain())
        got.wait()
        watched.paused.wait()
        for _ in range(20):  # the role of who reads goes round
            assert pair.pipes.add(1, 1) == 2
        waits.open()
        assert call.result(PATIENCE) == 1
        assert isinstance(taker[0].error(), CallCancelled)
        watched.go.open()
        go.open()


def test_what_is_held_back_does_not_come_after_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Items that wait for more of them when their call is cancelled are dropped: the watcher finds nothing to send."""
    for name in ("QUICK_TIME", "HOLD_TIME"):
        monkeypatch.setattr(sending, name, float("inf"))
    sent: list[bytes] = []
    held: list[Sender] = []
    connection: Any = SimpleNamespace(
        core=SimpleNamespace(peer_limits=Limits(), item=lambda call, number, payload, name: payload),
        send=sent.append,
        post=sent.append,
        streams=SimpleNamespace(hold=held.append),
    )
    codec: Any = SimpleNamespace(name="rows", pack_item=pack_plain)
    sender = Sender(connection, Outflow(), 1, 0, codec)
    cancelled: list[int] = []

    def items() -> Iterator[int]:
        yield 1
        assert held == [sender]
        sender.flush_held()
        assert len(sent) == 1
        yield 2
        cancelled.append(2)
        yield 3

    with pytest.raises(Stopped):
        sender.run(items(), lambda: cancelled)
    sender.flush_held()
    assert len(sent) == 1
