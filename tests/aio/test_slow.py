"""Handlers that hold up the event loop are told of by name where the server is debugged, step by step."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.loops import Loop, serving
from tests.streaming import AsyncGate, Pipes
from tests.support import Log
from typedrpc import aio
from typedrpc.aio import starter


class Clock:
    """The time that steps are measured with, which passes when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(starter, "monotonic", clock)
    return clock


def scripts_of(clock: Clock) -> dict[str, Callable[..., Any]]:
    """Handlers that hold up the loop for 200 ms."""

    def hold_up(seconds: float = 0.2) -> None:
        clock.now += seconds

    async def first() -> None:
        hold_up()

    async def first_of_two() -> None:
        hold_up()
        await asyncio.sleep(0)

    async def second() -> None:
        await asyncio.sleep(0)
        hold_up()

    async def second_fails() -> None:
        await asyncio.sleep(0)
        hold_up()
        raise KeyError("k")

    async def quick() -> None:
        hold_up(0.05)
        await asyncio.sleep(0)
        hold_up(0.05)

    async def waits() -> None:
        """What passes while it waits is not its own."""
        asyncio.get_running_loop().call_soon(hold_up)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def items() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(0)
        hold_up()
        yield 2

    return {
        "first": first,
        "first of two": first_of_two,
        "second": second,
        "second fails": second_fails,
        "quick": quick,
        "waits": waits,
        "items": items,
    }


async def call(pipes: Pipes, name: str) -> None:
    if name == "items":
        assert [item async for item in pipes.aproduce(name)] == [1, 2]
    elif name == "second fails":
        with pytest.raises(KeyError):
            await pipes.aask(name)
    else:
        await pipes.aask(name)


@pytest.mark.parametrize("name", ["first", "first of two", "second", "second fails", "items"])
def test_one_that_takes_200_ms_is_told_of(loop: Loop, log: Log, clock: Clock, name: str) -> None:
    async def main() -> None:
        async with serving("loop", Pipes(**scripts_of(clock)), debug=True) as url, aio.connect(Pipes, url) as pipes:
            await call(pipes, name)

    loop.run(main())
    command = "Pipes.aproduce" if name == "items" else "Pipes.aask"
    assert log.line() == (
        f"{command} held up the event loop for 200 ms: nothing else ran meanwhile; await what takes long, or declare "
        "the command with def, and it runs in a thread"
    )


@pytest.mark.parametrize("name", ["quick", "waits"])
def test_one_that_does_not_is_not(loop: Loop, log: Log, clock: Clock, name: str) -> None:
    async def main() -> None:
        async with serving("loop", Pipes(**scripts_of(clock)), debug=True) as url, aio.connect(Pipes, url) as pipes:
            await call(pipes, name)

    loop.run(main())


def test_nothing_is_told_without_debug(loop: Loop, log: Log, clock: Clock) -> None:
    async def main() -> None:
        async with serving("loop", Pipes(**scripts_of(clock))) as url, aio.connect(Pipes, url) as pipes:
            for name in scripts_of(clock):
                await call(pipes, name)

    loop.run(main())


def test_one_that_had_to_wait_for_its_turn_is_told_of(loop: Loop, log: Log, clock: Clock) -> None:
    """It begins where the one before it ends, which is in a task."""
    begun, go = AsyncGate(), AsyncGate()

    async def wait() -> None:
        begun.open()
        await go.pass_through()

    async def main() -> None:
        scripts = {**scripts_of(clock), "wait": wait}
        async with serving("loop", Pipes(**scripts), debug=True, max_concurrent=1) as url:
            async with aio.connect(Pipes, url) as pipes:
                running = asyncio.create_task(pipes.aask("wait"))
                await begun.pass_through()
                behind = [asyncio.create_task(pipes.aask(name)) for name in ("first", "second")]
                go.open()
                await asyncio.gather(running, *behind)

    loop.run(main())
    for _ in range(2):
        assert log.line().startswith("Pipes.aask held up the event loop for 200 ms")
