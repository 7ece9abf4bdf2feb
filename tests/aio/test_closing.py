"""What `close()` gives: it goes on by itself, and may be awaited."""

import asyncio
import threading

import pytest

from tests.loops import Loop, turns
from tests.support import Running
from typedrpc.aio.closing import Closing

pytestmark = pytest.mark.usefixtures("no_leaks")


def test_it_goes_on_although_nobody_awaits_it(loop: Loop) -> None:
    async def main() -> None:
        closed = asyncio.Event()

        async def close() -> None:
            closed.set()

        Closing.start(close(), asyncio.get_running_loop())
        await closed.wait()

    loop.run(main())


def test_it_may_be_awaited_by_several_and_later(loop: Loop) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def wait(closing: Closing) -> bool:
            await closing
            return go.is_set()

        async def close() -> None:
            await go.wait()

        closing = Closing.start(close(), asyncio.get_running_loop())
        waiting = [asyncio.create_task(wait(closing)) for _ in range(3)]
        await turns()
        assert not any(task.done() for task in waiting)
        go.set()
        assert await asyncio.gather(*waiting) == [True] * 3
        await closing

    loop.run(main())


def test_who_is_cancelled_while_he_awaits_it_does_not_end_it(loop: Loop) -> None:
    async def main() -> None:
        go, closed = asyncio.Event(), asyncio.Event()

        async def close() -> None:
            await go.wait()
            closed.set()

        async def wait() -> None:
            await closing

        closing = Closing.start(close(), asyncio.get_running_loop())
        waiting = asyncio.create_task(wait())
        await turns()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        go.set()
        await closing
        assert closed.is_set()

    loop.run(main())


def test_it_is_started_from_any_thread_and_runs_on_its_loop(loop: Loop) -> None:
    async def main() -> None:
        own, ran = asyncio.get_running_loop(), asyncio.Event()
        where: list[int] = []

        async def close() -> None:
            where.append(threading.get_ident())
            ran.set()

        closing = Running(lambda: Closing.start(close(), own)).result()
        await closing
        assert ran.is_set()
        assert where == [threading.get_ident()]

    loop.run(main())


def test_what_goes_wrong_reaches_who_awaits_it(loop: Loop) -> None:
    async def main() -> None:
        async def close() -> None:
            raise OSError("it went wrong")

        with pytest.raises(OSError, match="it went wrong"):
            await Closing.start(close(), asyncio.get_running_loop())

    loop.run(main())


def test_one_that_is_over(loop: Loop) -> None:
    async def main() -> None:
        closing = Closing.done()
        await closing
        await closing

    loop.run(main())


def test_where_the_loop_is_closed_nothing_is_left_to_be_done(loop: Loop) -> None:
    async def begin() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    begun: list[None] = []

    async def close() -> None:
        begun.append(None)

    closed = loop.run(begin())
    closing = Closing.start(close(), closed)

    async def wait() -> None:
        await closing

    loop.run(wait())
    assert begun == []
