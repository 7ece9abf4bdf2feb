"""Coroutines whose first step is run at once: to whoever writes one it is a task from its first line on."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from tests.loops import Loop, settled, turns
from typedrpc.aio.starter import Starter

VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="unset")


class Stage:
    """Starts coroutines on the running loop as a connection does, which is outside of any task."""

    def __init__(self, *, debug: bool = False) -> None:
        self.loop = asyncio.get_running_loop()
        self.starter = Starter(self.loop, debug=debug)

    async def begin(self, *acts: Callable[[], object]) -> list[Any]:
        """What some functions return that are called in one turn of the loop, one after another."""
        done: asyncio.Future[list[Any]] = self.loop.create_future()
        self.loop.call_soon(lambda: done.set_result([act() for act in acts]))
        return await done

    def start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
        return self.starter.start(coroutine, copy_context(), "Desk.act")

    async def close(self) -> None:
        self.starter.close()
        await settled()


def test_the_first_step_is_run_at_once_and_the_task_stays_the_same(loop: Loop) -> None:
    async def main() -> None:
        stage = Stage()
        seen: list[Any] = []

        async def act() -> None:
            seen.append(asyncio.current_task())
            await asyncio.sleep(0)
            seen.append(asyncio.current_task())

        def start() -> Any:
            task = stage.start(act())
            assert len(seen) == 1
            assert asyncio.current_task() is None
            return task

        (task,) = await stage.begin(start)
        await task
        assert seen == [task, task]
        assert task.get_name() == "Desk.act"
        await stage.close()

    loop.run(main())


def test_what_does_not_wait_takes_no_task(loop: Loop) -> None:
    async def main() -> None:
        stage = Stage()
        seen: list[Any] = []

        async def act() -> None:
            seen.append(asyncio.current_task())

        assert await stage.begin(*[lambda: stage.start(act())] * 3) == [None] * 3
        assert len(set(seen)) == 1  # the one in reserve
        await stage.close()

    loop.run(main())


@pytest.mark.parametrize("warm", [False, True], ids=["new task", "task that waits"])
@pytest.mark.parametrize("within", [False, True], ids=["outside of tasks", "in another task"])
def test_a_cancellation_in_the_same_turn_reaches_what_is_waited_for(loop: Loop, warm: bool, within: bool) -> None:
    """Neither is the coroutine lost, nor does it go on while what it waits for has not ended."""

    async def main() -> None:
        stage = Stage()
        inner: list[asyncio.Task[Any]] = []
        ended: list[bool] = []

        async def act() -> None:
            inner.append(asyncio.create_task(asyncio.Event().wait()))
            try:
                await inner[0]
            finally:
                ended.append(inner[0].cancelled())

        async def nothing() -> None:
            pass

        def start() -> Any:
            task = stage.start(act())
            assert task is not None
            task.cancel("enough")
            return task

        if warm:
            await stage.begin(lambda: stage.start(nothing()))
            await turns()
        task = start() if within else (await stage.begin(start))[0]
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == [True]
        assert task.cancelled()
        await stage.close()

    loop.run(main())


@pytest.mark.parametrize("warm", [False, True], ids=["new task", "task that waits"])
def test_who_cancels_himself_in_the_first_step_is_cancelled_where_he_waits(loop: Loop, warm: bool) -> None:
    async def main() -> None:
        stage = Stage()
        reached: list[str] = []

        async def act(wait: bool) -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            if wait:
                try:
                    await asyncio.Event().wait()
                finally:
                    reached.append("waited")
            reached.append("ended")

        async def innocent() -> None:
            await asyncio.sleep(0)
            reached.append("innocent")

        async def nothing() -> None:
            pass

        if warm:
            await stage.begin(lambda: stage.start(nothing()))
            await turns()
        (task,) = await stage.begin(lambda: stage.start(act(True)))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert reached == ["waited"]
        if warm:
            await stage.begin(lambda: stage.start(nothing()))
            await turns()
        # One that ends without waiting leaves a task that is cancelled, which the next one is not to get.
        ended, following = await stage.begin(lambda: stage.start(act(False)), lambda: stage.start(innocent()))
        assert ended is None
        await following
        assert reached == ["waited", "ended", "innocent"]
        await stage.close()

    loop.run(main())


def test_context_variables_stay_in_the_coroutine(loop: Loop) -> None:
    async def main() -> None:
        stage = Stage()
        seen: list[str] = []

        async def act(value: str) -> None:
            seen.append(VARIABLE.get())
            VARIABLE.set(value)
            await asyncio.sleep(0)
            seen.append(VARIABLE.get())

        VARIABLE.set("mine")
        tasks = await stage.begin(lambda: stage.start(act("a")), lambda: stage.start(act("b")))
        await asyncio.gather(*tasks)
        assert seen == ["mine", "mine", "a", "b"]
        assert VARIABLE.get() == "mine"
        await stage.close()

    loop.run(main())
