"""Each form of a call, of contracts in either colour, from either client to either server, on either kind of loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest

from tests.loops import Loop, come_about, serving
from tests.support import PATIENCE
from typedrpc import AsyncStream, Service, Stream, aio, connect, rpc


class Desk(Service):
    def __init__(self) -> None:
        self.noted: list[str] = []

    @rpc
    def plain(self, number: int) -> str:
        self.noted.append(f"plain {number}")
        return f"plain {number}"

    @rpc
    async def awaited(self, number: int) -> str:
        await asyncio.sleep(0)
        self.noted.append(f"awaited {number}")
        return f"awaited {number}"

    @rpc
    def items(self, number: int) -> Iterator[int]:
        yield from range(number)

    @rpc
    async def aitems(self, number: int) -> AsyncIterator[int]:
        for item in range(number):
            await asyncio.sleep(0)
            yield item

    @rpc
    def collect(self, items: Iterator[int]) -> list[int]:
        return list(items)

    @rpc
    async def acollect(self, items: AsyncIterator[int]) -> list[int]:
        return [item async for item in items]


async def some() -> AsyncIterator[int]:
    for item in range(3):
        await asyncio.sleep(0)
        yield item


async def listed(stream: AsyncIterator[int]) -> list[int]:
    assert isinstance(stream, AsyncStream)
    return [item async for item in stream]


def drained(stream: Iterator[int]) -> list[int]:
    assert isinstance(stream, Stream)
    return list(stream)


# A form that blocks is used in a thread, the others on the loop.
BLOCKING: dict[str, tuple[Callable[[Desk], object], object]] = {
    "plain": (lambda desk: desk.plain(1), "plain 1"),
    "plain call": (lambda desk: desk.plain.call(1), "plain 1"),
    "plain submit": (lambda desk: desk.plain.submit(1).result(PATIENCE), "plain 1"),
    "plain map": (lambda desk: list(desk.plain.map([1, 2])), ["plain 1", "plain 2"]),
    "awaited call": (lambda desk: desk.awaited.call(1), "awaited 1"),
    "awaited submit": (lambda desk: desk.awaited.submit(1).result(PATIENCE), "awaited 1"),
    "awaited map": (lambda desk: list(desk.awaited.map([1, 2])), ["awaited 1", "awaited 2"]),
    "items": (lambda desk: drained(desk.items(3)), [0, 1, 2]),
    "items call": (lambda desk: drained(desk.items.call(3)), [0, 1, 2]),
    "items submit": (lambda desk: drained(desk.items.submit(3).result(PATIENCE)), [0, 1, 2]),
    "items map": (lambda desk: [drained(stream) for stream in desk.items.map([1, 2])], [[0], [0, 1]]),
    "aitems call": (lambda desk: drained(desk.aitems.call(3)), [0, 1, 2]),
    "aitems map": (lambda desk: [drained(stream) for stream in desk.aitems.map([1, 2])], [[0], [0, 1]]),
    "collect": (lambda desk: desk.collect(iter(range(3))), [0, 1, 2]),
    "acollect call": (lambda desk: desk.acollect.call(some()), [0, 1, 2]),
}
AWAITED: dict[str, tuple[Callable[[Desk], Coroutine[Any, Any, object]], object]] = {
    "plain aio": (lambda desk: desk.plain.aio(1), "plain 1"),
    "awaited": (lambda desk: desk.awaited(1), "awaited 1"),
    "awaited aio": (lambda desk: desk.awaited.aio(1), "awaited 1"),
    "items aio": (lambda desk: listed(desk.items.aio(3)), [0, 1, 2]),
    "aitems": (lambda desk: listed(desk.aitems(3)), [0, 1, 2]),
    "aitems aio": (lambda desk: listed(desk.aitems.aio(3)), [0, 1, 2]),
    "collect aio": (lambda desk: desk.collect.aio(iter(range(3))), [0, 1, 2]),
    "acollect": (lambda desk: desk.acollect(some()), [0, 1, 2]),
}


@pytest.mark.parametrize("server", ["loop", "threads"])
@pytest.mark.parametrize("client", ["loop", "threads"])
class TestForms:
    async def use(self, desk: Desk, service: Desk) -> None:
        for name, (block, result) in BLOCKING.items():
            assert await asyncio.to_thread(block, desk) == result, name
        for name, (await_it, result) in AWAITED.items():
            assert await await_it(desk) == result, name
        assert await asyncio.wrap_future(desk.plain.submit(5)) == "plain 5"
        assert await asyncio.wrap_future(desk.awaited.submit(5)) == "awaited 5"
        service.noted.clear()
        desk.plain.notify(7)
        desk.awaited.notify(8)
        await asyncio.to_thread(desk.plain.notify, 9)
        await come_about(lambda: sorted(service.noted) == ["awaited 8", "plain 7", "plain 9"], "the one-way calls")

    def test_all_of_them(self, loop: Loop, client: str, server: str) -> None:
        async def main() -> None:
            service = Desk()
            async with serving(server, service) as url:
                if client == "loop":
                    async with aio.connect(Desk, url) as desk:
                        await self.use(desk, service)
                    return
                opened = await asyncio.to_thread(connect, Desk, url)
                try:
                    await self.use(opened.proxy(Desk), service)
                finally:
                    await asyncio.to_thread(opened.close)

        loop.run(main())

    @pytest.mark.unmeasured
    def test_one_client_of_threads_and_several_loops_at_once(self, loop: Loop, client: str, server: str) -> None:
        """Each takes all forms that it may, at the same time."""

        def elsewhere(desk: Desk) -> None:
            async def call() -> None:
                for number in range(20):
                    results = tuple(await asyncio.gather(desk.plain.aio(number), desk.awaited(number)))
                    assert results == (f"plain {number}", f"awaited {number}")
                    assert await listed(desk.aitems(3)) == [0, 1, 2]

            loop.run(call())

        def in_thread(desk: Desk) -> None:
            for number in range(20):
                assert desk.plain(number) == f"plain {number}"
                assert desk.awaited.call(number) == f"awaited {number}"
                assert drained(desk.items(3)) == [0, 1, 2]

        async def use(desk: Desk) -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(2):
                    group.create_task(asyncio.to_thread(elsewhere, desk))
                    group.create_task(asyncio.to_thread(in_thread, desk))
                for number in range(40):
                    assert await desk.plain.aio(number) == f"plain {number}"
                    assert await desk.awaited(number) == f"awaited {number}"

        async def main() -> None:
            async with serving(server, Desk()) as url:
                if client == "loop":
                    async with aio.connect(Desk, url) as desk:
                        await use(desk)
                    return
                opened = await asyncio.to_thread(connect, Desk, url)
                try:
                    await use(opened.proxy(Desk))
                finally:
                    await asyncio.to_thread(opened.close)

        loop.run(main())
