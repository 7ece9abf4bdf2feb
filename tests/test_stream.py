"""Streams of local instances: the same kind of object as a proxy gives."""

import asyncio
import contextvars
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from typedrpc import AsyncStream, Stream
from typedrpc.stream import LocalAsyncStream, LocalStream, wait_for, without_loop

PATIENCE = 20


class Producer:
    """Generators that say how far they have come."""

    def __init__(self) -> None:
        self.made = 0
        self.ended: list[str] = []
        self.loops: set[int] = set()

    def items(self, count: int, problem: Exception | None = None) -> Iterator[int]:
        try:
            for number in range(count):
                self.made += 1
                yield number
            if problem is not None:
                raise problem
        finally:
            self.ended.append("items")

    async def aitems(self, count: int, problem: Exception | None = None) -> AsyncIterator[int]:
        try:
            for number in range(count):
                await asyncio.sleep(0)
                self.loops.add(id(asyncio.get_running_loop()))
                self.made += 1
                yield number
            if problem is not None:
                raise problem
        finally:
            await asyncio.sleep(0)
            self.ended.append("aitems")


class Steps:
    """A plain iterator of both colours, which cannot be closed."""

    def __init__(self) -> None:
        self.number = 0

    def __iter__(self) -> Iterator[int]:
        return self

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    def __next__(self) -> int:
        self.number += 1
        return self.number

    async def __anext__(self) -> int:
        return next(self)


class AsyncSteps:
    def __init__(self) -> None:
        self.number = 0

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        self.number += 1
        return self.number


@pytest.fixture
def producer() -> Producer:
    return Producer()


def sources(producer: Producer, count: int, problem: Exception | None = None) -> list[Any]:
    return [producer.items(count, problem), producer.aitems(count, problem)]


async def collect(stream: AsyncStream[int]) -> list[int]:
    return [item async for item in stream]


def run(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE))


# For threads


@pytest.mark.parametrize("colour", [0, 1])
def test_a_stream_iterates_to_its_end(producer: Producer, colour: int) -> None:
    stream: Stream[int] = LocalStream(sources(producer, 3)[colour])
    assert iter(stream) is stream
    assert producer.made == 0
    assert next(stream) == 0
    assert list(stream) == [1, 2]
    assert list(stream) == []
    assert len(producer.ended) == 1
    stream.close()


@pytest.mark.parametrize("colour", [0, 1])
def test_closing_a_stream_stops_the_producer(producer: Producer, colour: int) -> None:
    stream = LocalStream(sources(producer, 9)[colour])
    assert next(stream) == 0
    stream.close()
    assert len(producer.ended) == 1
    stream.close()
    assert list(stream) == []
    assert (producer.made, len(producer.ended)) == (1, 1)


@pytest.mark.parametrize("colour", [0, 1])
def test_leaving_the_block_stops_the_producer(producer: Producer, colour: int) -> None:
    def leave() -> None:
        with LocalStream(sources(producer, 9)[colour]) as stream:
            assert isinstance(stream, Stream)
            assert next(stream) == 0
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        leave()
    assert len(producer.ended) == 1


@pytest.mark.parametrize("colour", [0, 1])
def test_dropping_a_stream_stops_the_producer(producer: Producer, colour: int) -> None:
    stream = LocalStream(sources(producer, 9)[colour])
    assert next(stream) == 0
    del stream
    gc.collect()
    assert len(producer.ended) == 1


@pytest.mark.parametrize("colour", [0, 1])
def test_an_error_comes_after_the_items_before_it(producer: Producer, colour: int) -> None:
    stream = LocalStream(sources(producer, 2, ValueError("broken"))[colour])
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(ValueError, match="broken"):
        next(stream)
    assert list(stream) == []
    assert len(producer.ended) == 1


@pytest.mark.parametrize("colour", [0, 1])
def test_a_stream_that_is_never_begun_runs_nothing(producer: Producer, colour: int) -> None:
    dropped = LocalStream(sources(producer, 2)[colour])
    del dropped
    LocalStream(sources(producer, 2)[colour]).close()
    gc.collect()
    assert (producer.made, producer.ended) == (0, [])


def test_a_plain_iterator_is_dropped_when_its_stream_is_closed() -> None:
    stream: LocalStream[int] = LocalStream(iter([1, 2, 3]))
    assert next(stream) == 1
    stream.close()
    assert list(stream) == []
    awaited: LocalStream[int] = LocalStream(AsyncSteps())
    assert next(awaited) == 1
    awaited.close()
    assert list(awaited) == []


def test_an_async_source_keeps_its_loop(producer: Producer) -> None:
    assert list(LocalStream(producer.aitems(3))) == [0, 1, 2]
    assert len(producer.loops) == 1


def test_an_async_source_can_be_read_where_a_loop_runs(producer: Producer) -> None:
    async def main() -> list[int]:
        return list(LocalStream(producer.aitems(3)))

    assert run(main()) == [0, 1, 2]
    assert producer.ended == ["aitems"]


def test_an_async_source_that_was_never_begun_is_closed_all_the_same(producer: Producer) -> None:
    inner = LocalAsyncStream(producer.aitems(3))
    LocalStream(inner).close()
    assert run(collect(inner)) == []


# For event loops


@pytest.mark.parametrize("colour", [0, 1])
def test_an_async_stream_iterates_to_its_end(producer: Producer, colour: int) -> None:
    async def main() -> None:
        stream: AsyncStream[int] = LocalAsyncStream(sources(producer, 3)[colour])
        assert aiter(stream) is stream
        assert await anext(stream) == 0
        assert await collect(stream) == [1, 2]
        assert await collect(stream) == []
        await stream.aclose()

    run(main())
    assert len(producer.ended) == 1


@pytest.mark.parametrize("colour", [0, 1])
def test_closing_an_async_stream_stops_the_producer(producer: Producer, colour: int) -> None:
    async def main() -> None:
        async with LocalAsyncStream(sources(producer, 9)[colour]) as stream:
            assert isinstance(stream, AsyncStream)
            assert await anext(stream) == 0
        assert len(producer.ended) == 1
        await stream.aclose()
        assert await collect(stream) == []

    run(main())
    assert (producer.made, len(producer.ended)) == (1, 1)


@pytest.mark.parametrize("colour", [0, 1])
def test_an_error_of_an_async_stream(producer: Producer, colour: int) -> None:
    async def main() -> None:
        stream = LocalAsyncStream(sources(producer, 1, ValueError("broken"))[colour])
        assert await anext(stream) == 0
        with pytest.raises(ValueError, match="broken"):
            await anext(stream)
        assert await collect(stream) == []

    run(main())


def test_an_async_iterator_that_cannot_be_closed_is_dropped() -> None:
    async def main() -> None:
        for source in (Steps(), AsyncSteps(), iter([1])):
            stream: LocalAsyncStream[int] = LocalAsyncStream(source)
            assert await anext(stream) == 1
            await stream.aclose()
            assert await collect(stream) == []

    run(main())


# Waiting for coroutines


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")


async def look() -> tuple[str, int]:
    await asyncio.sleep(0)
    return variable.get(), threading.get_ident()


def test_a_coroutine_is_waited_for_in_this_thread() -> None:
    variable.set("here")
    assert wait_for(look()) == ("here", threading.get_ident())


def test_where_a_loop_runs_a_coroutine_is_waited_for_in_another_thread() -> None:
    async def main() -> tuple[str, int]:
        variable.set("there")
        return wait_for(look())

    value, thread = run(main())
    assert value == "there"
    assert thread != threading.get_ident()


def test_what_is_raised_without_a_loop_is_raised_here() -> None:
    def fail() -> None:
        raise LookupError("gone")

    async def main() -> None:
        without_loop(fail)

    with pytest.raises(LookupError, match="gone"):
        without_loop(fail)
    with pytest.raises(LookupError, match="gone"):
        run(main())
