"""Context variables: whose they are in handlers, in callbacks and after calls; and the call that goes with them."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from tests.loops import Loop, serving
from tests.streaming import AsyncGate, Pipes
from typedrpc import Peer, Service, aio, current_call, rpc

VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="unset")


def seen_and_set(value: str) -> str:
    """What the variable was before it is set to this."""
    before = VARIABLE.get()
    VARIABLE.set(value)
    return before


class Desk(Service):
    """Each kind of handler tells what the variable is, and sets it."""

    def __init__(self) -> None:
        self.gates = {name: AsyncGate() for name in ("begun", "go")}

    @rpc
    def plain(self, value: str) -> str:
        return seen_and_set(value)

    @rpc
    async def awaited(self, value: str) -> str:
        before = seen_and_set(value)
        await asyncio.sleep(0)
        assert VARIABLE.get() == value
        return before

    @rpc
    async def at_once(self, value: str) -> str:
        return seen_and_set(value)

    @rpc
    def items(self, value: str) -> Iterator[str]:
        yield seen_and_set(value)
        assert VARIABLE.get() == value

    @rpc
    async def aitems(self, value: str) -> AsyncIterator[str]:
        yield seen_and_set(value)
        await asyncio.sleep(0)
        assert VARIABLE.get() == value

    @rpc
    async def slow(self, value: str) -> str:
        before = seen_and_set(value)
        self.gates["begun"].open()
        await self.gates["go"].pass_through()
        return before

    @rpc
    async def collect(self, items: Iterator[str]) -> list[str]:
        return await asyncio.to_thread(list, items)

    @rpc
    async def acollect(self, items: AsyncIterator[str]) -> list[str]:
        return [item async for item in items]


class Listener(Service):
    @rpc
    async def awaited(self, value: str) -> str:
        return seen_and_set(value)

    @rpc
    def plain(self, value: str) -> str:
        return seen_and_set(value)


async def first(stream: AsyncIterator[str]) -> str:
    items = [item async for item in stream]
    assert len(items) == 1
    return items[0]


CALLS: dict[str, Callable[[Desk, str], Any]] = {
    "plain": lambda desk, value: desk.plain.aio(value),
    "awaited": lambda desk, value: desk.awaited(value),
    "at once": lambda desk, value: desk.at_once(value),
    "items": lambda desk, value: first(desk.items.aio(value)),
    "aitems": lambda desk, value: first(desk.aitems(value)),
}


@pytest.mark.parametrize("name", CALLS)
def test_handlers_have_those_of_who_started_the_server_and_leave_nothing(loop: Loop, name: str) -> None:
    async def main() -> None:
        VARIABLE.set("server's")
        async with serving("loop", Desk()) as url:
            VARIABLE.set("client's")
            async with aio.connect(Desk, url) as desk:
                VARIABLE.set("caller's")
                calls = [CALLS[name](desk, str(number)) for number in range(20)]
                assert set(await asyncio.gather(*calls)) == {"server's"}
                for number in range(3):
                    assert await CALLS[name](desk, str(number)) == "server's"
                assert VARIABLE.get() == "caller's"

    loop.run(main())


def test_handlers_of_batches_have_them_too(loop: Loop) -> None:
    async def main() -> None:
        VARIABLE.set("server's")
        async with serving("loop", Desk()) as url:
            async with aio.connect(Desk, url) as desk:
                values = [str(number) for number in range(100)]
                for command in (desk.plain, desk.at_once):
                    assert set(await asyncio.to_thread(lambda c=command: list(c.map(values)))) == {"server's"}  # type: ignore[misc]

    loop.run(main())


@pytest.mark.parametrize("name", ["plain", "awaited", "at once"])
def test_a_handler_that_had_to_wait_for_its_turn_has_none_of_the_one_before(loop: Loop, name: str) -> None:
    """It is begun from within the end of the other."""

    async def main() -> None:
        VARIABLE.set("server's")
        service = Desk()
        async with serving("loop", service, max_concurrent=1) as url:
            async with aio.connect(Desk, url) as desk:
                running = asyncio.create_task(desk.slow("slow"))
                await service.gates["begun"].pass_through()
                waiting = [asyncio.create_task(CALLS[name](desk, str(number))) for number in range(3)]
                service.gates["go"].open()
                assert await running == "server's"
                assert await asyncio.gather(*waiting) == ["server's"] * 3

    loop.run(main())


def test_what_a_client_exposes_has_those_of_who_connected(loop: Loop) -> None:
    class Host(Service):
        @rpc
        async def begin(self, value: str) -> list[str]:
            listener = current_call().peer.proxy(Listener)
            return [
                await listener.awaited(value),
                await listener.plain.aio(value),
                await listener.awaited(value),
                await listener.plain.aio(value),
            ]

    async def main() -> None:
        async with serving("loop", Host()) as url:
            VARIABLE.set("client's")
            async with aio.connect(Host, url, expose=[Listener()]) as host:
                VARIABLE.set("caller's")
                for value in ("a", "b"):
                    assert await host.begin(value) == ["client's"] * 4
                assert VARIABLE.get() == "caller's"

    loop.run(main())


def test_hooks_and_factories_have_those_of_who_started_the_server(loop: Loop) -> None:
    seen: dict[str, str] = {}
    gone = AsyncGate()

    def on_connect(peer: Peer) -> None:
        seen["on_connect"] = VARIABLE.get()

    def on_disconnect(peer: Peer, error: Exception) -> None:
        seen["on_disconnect"] = VARIABLE.get()
        gone.open()

    def make(peer: Peer) -> Desk:
        seen["factory"] = VARIABLE.get()
        return Desk()

    async def main() -> None:
        VARIABLE.set("server's")
        async with serving("loop", make, on_connect=on_connect, on_disconnect=on_disconnect) as url:
            VARIABLE.set("client's")
            async with aio.connect(Desk, url) as desk:
                assert await desk.plain.aio("x") == "server's"
            await gone.pass_through()
        assert seen == dict.fromkeys(("on_connect", "on_disconnect", "factory"), "server's")

    loop.run(main())


def test_iterators_among_the_arguments_have_those_of_the_caller(loop: Loop) -> None:
    def items() -> Iterator[str]:
        yield seen_and_set("theirs")
        yield seen_and_set("again")

    async def aitems() -> AsyncIterator[str]:
        yield seen_and_set("theirs")
        yield seen_and_set("again")

    async def main() -> None:
        async with serving("loop", Desk()) as url, aio.connect(Desk, url) as desk:
            VARIABLE.set("caller's")
            assert await desk.collect(items()) == ["caller's", "theirs"]
            assert await desk.acollect(aitems()) == ["caller's", "theirs"]
            assert VARIABLE.get() == "caller's"

    loop.run(main())


@pytest.mark.parametrize("colour", ["loop", "threads"])
def test_the_call_goes_with_a_handler_into_threads(loop: Loop, colour: str) -> None:
    def where() -> str:
        assert threading.current_thread() is not threading.main_thread()
        return current_call().command

    def nowhere() -> None:
        current_call()

    async def work() -> str:
        running = asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="inside a handler only"):
            await running.run_in_executor(None, nowhere)  # which takes no context along, in any program
        return await asyncio.to_thread(where)

    async def main() -> None:
        async with serving(colour, Pipes(work=work)) as url, aio.connect(Pipes, url) as pipes:
            assert await pipes.aask("work") == "Pipes.aask"

    loop.run(main())
