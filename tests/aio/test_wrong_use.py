"""What would block the thread of an event loop raises, says what to write instead, and leaves all else as it was."""

import asyncio
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from tests.loops import Loop, serving
from tests.streaming import AsyncGate, Pipes
from typedrpc import BlockingCall, Service, aio, connect, current_call, remote, rpc
from typedrpc.aio.threads import in_thread
from typedrpc.common.loop import kept_loop

COLOURS = pytest.mark.parametrize("colour", ["loop", "threads"])
"""Of the server."""

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture(autouse=True, scope="module")
def kept() -> None:
    """The loop of the threads side's async handlers is kept for as long as the process runs: it is no leak."""
    kept_loop()


WRONG: dict[str, tuple[Callable[[Pipes], Any], str]] = {
    "a plain command": (lambda pipes: pipes.add(1, 2), "await proxy.add.aio(...)"),
    "call": (lambda pipes: pipes.add.call(1, 2), "await proxy.add.aio(...)"),
    "call of an async command": (lambda pipes: pipes.aask.call("x"), "await proxy.aask.aio(...)"),
    "call with options": (lambda pipes: pipes.add.with_options(timeout=5)(1, 2), "await proxy.add.aio(...)"),
    "map": (lambda pipes: pipes.add.map([1], [2]), "await asyncio.gather(*map(proxy.add.aio, ...))"),
    "map of an async command": (lambda pipes: pipes.aask.map(["x"]), "await asyncio.gather(*map(proxy.aask.aio, ...))"),
    "a plain stream": (lambda pipes: pipes.produce("items"), "async for item in proxy.produce.aio(...)"),
    "call of a stream": (lambda pipes: pipes.aproduce.call("items"), "async for item in proxy.aproduce.aio(...)"),
    "submit of a stream": (lambda pipes: pipes.produce.submit("items"), "async for item in proxy.produce.aio(...)"),
    "map of a stream": (
        lambda pipes: next(pipes.produce.map(["items"])),
        "async for item in proxy.produce.aio(...)",
    ),
}


@COLOURS
def test_a_blocking_form_on_the_loop(loop: Loop, colour: str) -> None:
    async def main() -> None:
        async with serving(colour, Pipes(items=lambda: iter([1]))) as url, aio.connect(Pipes, url) as pipes:
            for again in range(2):  # before the contract is known, and afterwards
                for name, (use, right) in WRONG.items():
                    with pytest.raises(BlockingCall, match=re.escape(f"write `{right}`")) as caught:
                        use(pipes)
                    assert isinstance(caught.value, RuntimeError), name
                assert await pipes.add.aio(again, 1) == again + 1

    loop.run(main())


@COLOURS
def test_a_future_that_has_no_result_yet(loop: Loop, colour: str) -> None:
    gate = AsyncGate()

    async def main() -> None:
        async with serving(colour, Pipes(wait=gate.pass_through)) as url, aio.connect(Pipes, url) as pipes:
            future = pipes.aask.submit("wait")
            assert isinstance(future, Future)
            for wait in (future.result, future.exception, lambda: future.result(5)):
                with pytest.raises(BlockingCall, match=re.escape("await asyncio.wrap_future(proxy.aask.submit(...))")):
                    wait()
            with pytest.raises(TimeoutError):
                future.result(0)
            gate.open()
            assert await asyncio.wrap_future(future) is None
            assert future.result() is None
            assert await asyncio.to_thread(pipes.add.submit(1, 2).result) == 3

    loop.run(main())


@COLOURS
def test_a_future_that_was_made_in_another_thread(loop: Loop, colour: str) -> None:
    gate = AsyncGate()

    async def main() -> None:
        async with serving(colour, Pipes(wait=gate.pass_through)) as url, aio.connect(Pipes, url) as pipes:
            future = await asyncio.to_thread(pipes.aask.submit, "wait")
            with pytest.raises(BlockingCall):
                future.result()
            gate.open()
            assert await asyncio.wrap_future(future) is None

    loop.run(main())


@COLOURS
def test_a_future_is_cancelled_and_fails_as_any(loop: Loop, colour: str) -> None:
    begun, ended = AsyncGate(), AsyncGate()

    async def wait() -> None:
        begun.open()
        try:
            await AsyncGate().pass_through()
        finally:
            ended.open()

    async def fail() -> None:
        raise KeyError("k")

    async def main() -> None:
        async with serving(colour, Pipes(wait=wait, fail=fail)) as url, aio.connect(Pipes, url) as pipes:
            with pytest.raises(KeyError):
                await asyncio.wrap_future(pipes.aask.submit("fail"))
            future = pipes.aask.submit("wait")
            await begun.pass_through()
            assert future.cancel()
            await ended.pass_through()
            assert future.cancelled()
            wrapped = asyncio.wrap_future(pipes.aask.submit("wait"))
            wrapped.cancel()
            with pytest.raises(asyncio.CancelledError):
                await wrapped

    loop.run(main())


@COLOURS
def test_a_blocking_stream_is_consumed_by_threads_only(loop: Loop, colour: str) -> None:
    gate = AsyncGate()

    def items() -> Iterator[int]:
        gate.wait()
        yield from range(3)

    async def main() -> None:
        async with serving(colour, Pipes(items=items)) as url, aio.connect(Pipes, url) as pipes:
            stream = await asyncio.to_thread(pipes.produce, "items")
            with pytest.raises(BlockingCall, match=re.escape("write `async for item in proxy.produce.aio(...)`")):
                next(stream)
            gate.open()
            assert await asyncio.to_thread(list, stream) == [0, 1, 2]  # nothing is lost

    loop.run(main())


class Listener(Service):
    @rpc
    def plain(self, number: int) -> int:
        return number + 1

    @rpc
    async def awaited(self, number: int) -> int:
        return number + 1

    @rpc
    async def held(self) -> None:
        """Until it is given up."""
        await asyncio.get_running_loop().create_future()

    @rpc
    def items(self) -> Iterator[int]:
        yield from range(3)


class Host(Service):
    """Async handlers that call back in the wrong way, and then in the right one."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.go = AsyncGate()

    def wrong(self, use: Callable[[], object]) -> None:
        try:
            use()
        except BlockingCall as error:
            self.said.append(str(error))
        else:
            self.said.append("nothing")

    @rpc
    async def call_back(self) -> int:
        listener = current_call().peer.proxy(Listener)
        if not await listener.awaited(0):
            return 0
        self.wrong(lambda: listener.plain(1))
        self.wrong(lambda: listener.awaited.call(1))
        held = listener.held.submit()
        self.wrong(held.result)
        held.cancel()
        self.wrong(lambda: list(listener.plain.map([1, 2])))
        self.wrong(lambda: list(listener.awaited.map([1, 2])))
        self.wrong(lambda: list(listener.items()))
        return await listener.plain.aio(1)

    @rpc
    async def callback(self, ask: Callable[[int], int]) -> int:
        self.wrong(lambda: ask(1))
        return await remote(ask).aio(1)

    @rpc
    async def consume(self, items: Iterator[int]) -> list[int]:
        self.wrong(lambda: next(items))
        self.go.open()
        return await in_thread(lambda: list(items))


@COLOURS
def test_async_handlers_that_would_block_their_loop(loop: Loop, colour: str) -> None:
    host = Host()

    async def main() -> None:
        async with serving(colour, host) as url, aio.connect(Host, url, expose=[Listener()]) as proxy:
            assert await proxy.call_back() == 2
            for said, right in zip(
                host.said,
                [
                    "await proxy.plain.aio(...)",
                    "await proxy.awaited.aio(...)",
                    "await asyncio.wrap_future(proxy.held.submit(...))",
                    "plain",
                    "awaited",
                    "proxy.items.aio(...)",
                ],
                strict=True,
            ):
                assert "would block the thread of the event loop" in said
                assert right in said

    loop.run(main())


@COLOURS
def test_an_async_handler_that_blocks_its_loop_with_a_callback(loop: Loop, colour: str) -> None:
    host = Host()

    async def main() -> None:
        async with serving(colour, host) as url, aio.connect(Host, url) as proxy:
            assert await proxy.callback(lambda number: number + 1) == 2
            (said,) = host.said
            assert "would block the thread of the event loop" in said
            assert said.endswith("write `await remote(ask).aio(...)`")

    loop.run(main())


@COLOURS
def test_an_async_handler_that_blocks_its_loop_with_an_argument(loop: Loop, colour: str) -> None:
    host = Host()

    def items() -> Iterator[int]:
        host.go.wait()
        yield from range(3)

    async def main() -> None:
        async with serving(colour, host) as url, aio.connect(Host, url) as proxy:
            assert await proxy.consume(items()) == [0, 1, 2]
            (said,) = host.said
            assert "would block the thread of the event loop" in said
            assert said.endswith("write `items: AsyncIterator[...]`")

    loop.run(main())


@COLOURS
def test_a_plain_callback_on_the_loop_that_would_block_it(loop: Loop, colour: str) -> None:
    said: list[str] = []

    async def main() -> None:
        async with serving(colour, Host()) as url:
            client = await aio.connect(Host, url)

            def call(number: int) -> int:
                try:
                    return client.proxy(Host).call_back.call()
                except BlockingCall as error:
                    said.append(str(error))
                    return -1

            async with client as proxy:
                assert await proxy.callback(call) == -1
            assert said[0].endswith("write `await proxy.call_back.aio(...)`")

    loop.run(main())


def test_a_threads_client_may_block_a_loop_of_the_users(loop: Loop) -> None:
    """As in a notebook, whose cells run on one."""

    async def main() -> None:
        async with serving("threads", Pipes(items=lambda: iter(range(3)), one=lambda: asyncio.sleep(0, 1))) as url:
            with connect(Pipes, url) as pipes:
                assert pipes.add(1, 2) == 3
                assert pipes.aask.call("one") == 1
                assert pipes.add.submit(1, 2).result() == 3
                assert list(pipes.add.map([1, 2], [3, 4])) == [4, 6]
                assert list(pipes.produce("items")) == [0, 1, 2]
                assert await pipes.add.aio(1, 2) == 3

    loop.run(main())


def test_a_threads_client_does_not_block_the_loop_of_its_handlers() -> None:
    """A client of the threads side that an async handler of the same process uses: all of them share one loop."""
    said: list[str] = []

    class Relay(Service):
        def __init__(self, target: Pipes) -> None:
            self.target = target

        def wrong(self, use: Callable[[], object]) -> None:
            with pytest.raises(BlockingCall) as caught:
                use()
            said.append(str(caught.value))

        @rpc
        async def work(self) -> int:
            target = self.target
            self.wrong(lambda: target.add(1, 2))
            self.wrong(lambda: target.aask.call("one"))
            self.wrong(lambda: target.aask.submit("wait").result())
            self.wrong(lambda: list(target.add.map([1, 2], [3, 4])))
            self.wrong(lambda: list(target.produce("items")))
            return await target.add.aio(1, 2)

    gate = AsyncGate()

    async def main() -> None:
        scripts: dict[str, Callable[..., Any]] = {"wait": gate.pass_through}
        async with serving("threads", Pipes(**scripts)) as url:
            with connect(Pipes, url) as pipes:
                async with serving("threads", Relay(pipes)) as front, aio.connect(Relay, front) as relay:
                    assert await relay.work() == 3
                gate.open()

    asyncio.run(main())
    assert len(said) == 5
