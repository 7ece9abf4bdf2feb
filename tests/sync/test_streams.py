"""Streams over real sockets: what arrives, in which order, how errors end them, and who stops the producer."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.streaming import Joined, Pipes, Watched, eventually, expect_empty, joined
from tests.support import PATIENCE, FakeServer, Gate, Log, RawPeer, Running, agree, run_all
from typedrpc import (
    ArgumentTypeError,
    ArgumentValueError,
    CallCancelled,
    ConnectionLost,
    DeadlineExceeded,
    MessageTooLarge,
    ProtocolError,
    RemoteError,
    Server,
    Service,
    connect,
    current_call,
    rpc,
)
from typedrpc.sync.loop import kept_loop

pytestmark = pytest.mark.usefixtures("no_leaks")

URL = "tcp://127.0.0.1:0"


@pytest.fixture(autouse=True, scope="module")
def loop() -> None:
    """The loop of async handlers is kept for as long as the process runs: it is no leak."""
    kept_loop()


@pytest.fixture
def pair() -> Iterator[Joined]:
    with joined() as pair:
        yield pair


@pytest.fixture(params=["tcp", "unix"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Joined]:
    """Over each kind of socket."""
    with joined(URL if request.param == "tcp" else f"unix://{tmp_path}/server.sock") as pair:
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


class TestShapes:
    @pytest.mark.parametrize("count", [0, 1, 5000])
    def test_a_result(self, either: Joined, count: int) -> None:
        numbers = list(range(count))
        found = every_way(either, "result", numbers)
        assert {way: items == numbers for way, items in found.items()} == dict.fromkeys(found, True)

    @pytest.mark.parametrize("count", [0, 1, 5000])
    def test_an_argument(self, either: Joined, count: int) -> None:
        found = every_way(either, "argument", list(range(count)))
        assert found == dict.fromkeys(found, sum(range(count)))

    @pytest.mark.parametrize("count", [0, 1, 5000])
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

    def test_many_threads_take_from_one_stream_and_each_item_comes_once(self, pair: Joined) -> None:
        pair.service.scripts["items"] = lambda: iter(range(20_000))
        stream = pair.pipes.produce("items")
        found = run_all([lambda: list(stream)] * 4)
        assert sorted(item for items in found for item in items) == list(range(20_000))
        assert all(items == sorted(items) for items in found)

    def test_several_streams_among_the_arguments(self) -> None:
        class Zip(Service):
            @rpc
            def zip(self, a: Iterator[int], b: Iterator[str], *, c: Iterator[bytes]) -> list[tuple[int, str, bytes]]:
                return list(zip(a, b, c, strict=True))

        with Server(Zip(), url=URL) as server, connect(Zip, server.url) as zipper:
            count = 3000
            found = zipper.zip(iter(range(count)), map(str, range(count)), c=(bytes(n % 7) for n in range(count)))
            assert found == [(n, str(n), bytes(n % 7)) for n in range(count)]


SIZES = [0, 1, 100, 16_000, 16_384, 65_000, 65_535, 65_536, 70_000, 300_000, 3, 1_000_000, 0]


def blob(number: int) -> bytes:
    return bytes([number % 251]) * SIZES[number % len(SIZES)]


class TestSizes:
    def test_items_of_every_size_come_as_they_were_made(self, either: Joined) -> None:
        expected = [blob(number) for number in range(2 * len(SIZES))]
        scripts = either.service.scripts
        scripts.update(blobs=lambda: iter(expected), ablobs=lambda: awaited(expected), list=list, alist=taken)
        assert list(either.pipes.blobs("blobs")) == expected
        assert list(either.pipes.ablobs.call("ablobs")) == expected
        assert either.pipes.swallow("list", iter(expected)) == expected
        assert either.pipes.aswallow.call("alist", awaited(expected)) == expected

    @pytest.mark.parametrize("size", [100, 65_536, 200_000])
    @pytest.mark.parametrize("kind", [bytearray, memoryview])
    def test_a_buffer_that_the_producer_uses_again_keeps_what_was_yielded(self, size: int, kind: Any) -> None:
        def reusing() -> Iterator[Any]:
            buffer = bytearray(size)
            for number in range(40):
                buffer[:] = bytes([number]) * size
                yield buffer if kind is bytearray else memoryview(buffer)
            buffer[:] = b"\xff" * size

        class Buffers(Service):
            @rpc
            def produce(self) -> Iterator[kind]:
                return reusing()

            @rpc
            async def aproduce(self) -> AsyncIterator[kind]:
                for item in reusing():
                    yield item

            @rpc
            def consume(self, items: Iterator[kind]) -> list[bytes]:
                return [bytes(item) for item in items]

            @rpc
            async def aconsume(self, items: AsyncIterator[kind]) -> list[bytes]:
                return [bytes(item) async for item in items]

        expected = [bytes([number]) * size for number in range(40)]
        with Server(Buffers(), url=URL) as server, connect(Buffers, server.url) as buffers:
            assert [bytes(item) for item in buffers.produce()] == expected
            assert [bytes(item) for item in buffers.aproduce.call()] == expected
            assert buffers.consume(reusing()) == expected
            assert buffers.aconsume.call(awaited(reusing())) == expected


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


def until(error: Exception, count: int = 1000) -> Callable[[], Iterator[int]]:
    def items() -> Iterator[int]:
        yield from range(count)
        raise error

    return items


def outcome_of(stream: Iterator[Any]) -> tuple[list[Any], BaseException]:
    """The items of a stream that fails, and its error."""
    found: list[Any] = []
    with pytest.raises(Exception) as caught:  # noqa: PT011  # which one is for the test to say
        for item in stream:
            found.append(item)  # noqa: PERF402  # they count although an error follows
    assert next(stream, "nothing") == "nothing"
    return found, caught.value


class TestErrorsOfResults:
    @pytest.fixture(params=["plain", "async"])
    def produce(self, request: pytest.FixtureRequest) -> Iterator[Callable[[Callable[[], Iterator[Any]]], Any]]:
        service = Failing()
        with Server(service, url=URL) as server, connect(Failing, server.url) as proxy:

            def produce(script: Callable[[], Iterator[Any]]) -> Any:
                service.scripts["it"] = script
                return proxy.produce("it") if request.param == "plain" else proxy.aproduce.call("it")

            yield produce

    @pytest.mark.parametrize("count", [0, 1, 1000])
    def test_a_declared_error_comes_with_its_fields_after_the_items(self, produce: Any, count: int) -> None:
        items, error = outcome_of(produce(until(Broken(7, "no more"), count)))
        assert items == list(range(count))
        assert error == Broken(7, "no more")
        assert type(error) is Broken

    def test_a_builtin_comes_as_itself(self, produce: Any) -> None:
        items, error = outcome_of(produce(until(KeyError("here"))))
        assert (items, type(error), error.args) == (list(range(1000)), KeyError, ("here",))
        assert isinstance(error.__cause__, RemoteError)

    def test_an_undeclared_one_comes_as_a_remote_error(self, log: Log, produce: Any) -> None:
        items, error = outcome_of(produce(until(Undeclared("secret"))))
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
    def test_an_item_that_is_too_large_ends_it_and_not_the_connection(self, log: Log) -> None:
        with joined(max_message_size=100_000) as pair:
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
        mine, seen = Undeclared("my own"), []

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
                    seen.append(item)
            except Exception as error:
                seen.append(type(error))
                raise
            return len(seen)

        pair.service.scripts.update(plain=plain, asynchronous=asynchronous)
        with pytest.raises(Undeclared) as caught:
            if colour == "plain":
                pair.pipes.consume("plain", until(mine)())
            else:
                pair.pipes.aconsume.call("asynchronous", awaited(until(mine)()))
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
        assert pair.pipes.consume("forgiving", until(ValueError("enough"), 10)()) == 45

    @pytest.mark.parametrize("form", ["submit", "stream", "aio"])
    def test_so_does_the_caller_of_another_form(self, pair: Joined, form: str) -> None:
        mine = Undeclared("my own")
        pair.service.scripts.update(total=sum, doubled=lambda items: (2 * item for item in items))
        if form == "submit":
            error = pair.pipes.consume.submit("total", until(mine, 3)()).exception(PATIENCE)
        elif form == "stream":
            items, error = outcome_of(pair.pipes.both("doubled", until(mine, 3)()))
            assert items == [0, 2, 4]
        else:

            async def main() -> None:
                await pair.pipes.consume.aio("total", until(mine, 3)())

            with pytest.raises(Undeclared) as caught:
                asyncio.run(main())
            error = caught.value
        assert error is mine

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
        with pytest.raises((ArgumentTypeError, ArgumentValueError), match="expected int, got str"):
            pair.pipes.consume("keep", wrong())
        assert seen == [ArgumentValueError] or seen[0] == 1

    def test_an_item_of_an_argument_that_is_too_large(self) -> None:
        with joined(server={"max_message_size": 100_000}) as pair:
            pair.service.scripts["lengths"] = lambda items: [len(item) for item in items]
            with pytest.raises(MessageTooLarge):
                pair.pipes.swallow("lengths", iter([b"small", bytes(200_000)]))
            assert pair.pipes.swallow("lengths", iter([b"small", bytes(20_000)])) == [5, 20_000]
