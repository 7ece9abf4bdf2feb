"""Coroutines whose first step is run at once: to whoever writes one it is a task from its first line on."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from tests.loops import Loop, settled, turns
from tests.support import Log
from typedrpc.aio import starter as module
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


def test_what_needs_a_task_works_in_the_first_step(loop: Loop) -> None:
    async def main() -> None:
        stage = Stage()
        came: list[Any] = []

        async def time_out() -> None:
            try:
                async with asyncio.timeout(0):
                    await asyncio.Event().wait()
            except TimeoutError:
                came.append("timed out")

        async def double(number: int) -> int:
            await asyncio.sleep(0)
            return 2 * number

        async def group() -> None:
            async with asyncio.TaskGroup() as tasks:
                doubled = [tasks.create_task(double(number)) for number in range(3)]
            came.append([task.result() for task in doubled])

        async def fail() -> None:
            raise OSError

        async def group_that_fails() -> None:
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(fail())
                    await asyncio.Event().wait()
            except* OSError:
                came.append("failed")

        for act in (time_out, group, group_that_fails):
            (task,) = await stage.begin(lambda act=act: stage.start(act()))  # type: ignore[misc]
            await task
            assert task.cancelling() == 0
        assert came == ["timed out", [0, 2, 4], "failed"]
        await stage.close()

    loop.run(main())


def test_several_that_begin_in_one_turn_are_tasks_of_their_own(loop: Loop) -> None:
    async def main() -> None:
        stage = Stage()
        go = asyncio.Event()
        began: list[int] = []

        async def act(number: int) -> None:
            began.append(number)
            await go.wait()

        tasks = await stage.begin(*[lambda number=number: stage.start(act(number)) for number in range(5)])
        assert began == list(range(5))
        assert len(set(tasks)) == 5
        tasks[2].cancel()
        await turns()
        assert [task.done() for task in tasks] == [False, False, True, False, False]
        go.set()
        await asyncio.wait(tasks)
        assert [task.cancelled() for task in tasks] == [False, False, True, False, False]
        await stage.close()

    loop.run(main())


def test_what_is_awaited_gives_its_results_and_raises_its_errors(loop: Loop) -> None:
    async def main() -> None:
        stage = Stage()
        results: asyncio.Future[str] = stage.loop.create_future()
        errors: asyncio.Future[str] = stage.loop.create_future()
        came: list[object] = []

        async def act() -> None:
            came.append(await results)
            try:
                await errors
            except OSError as error:
                came.append(error)
            came.append(await asyncio.wait_for(asyncio.shield(results), None))

        (task,) = await stage.begin(lambda: stage.start(act()))
        error = OSError("it went wrong")
        results.set_result("a result")
        await turns()
        errors.set_exception(error)
        await task
        assert came == ["a result", error, "a result"]
        await stage.close()

    loop.run(main())


def test_who_ignores_a_cancellation_goes_on(loop: Loop) -> None:
    async def main() -> None:
        stage = Stage()
        came: list[str] = []

        async def act() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                came.append("cancelled")
            await asyncio.sleep(0)
            came.append("went on")

        (task,) = await stage.begin(lambda: stage.start(act()))
        task.cancel()
        await task
        assert came == ["cancelled", "went on"]
        assert not task.cancelled()
        await stage.close()

    loop.run(main())


def test_a_loop_that_cancels_all_its_tasks_goes_on_with_another_one(loop: Loop) -> None:
    """As `asyncio.run` does at its end, when something may still come."""

    async def main() -> None:
        stage = Stage()
        seen: list[Any] = []

        async def act(wait: bool) -> None:
            seen.append(asyncio.current_task())
            if wait:
                await asyncio.sleep(0)
                seen.append(asyncio.current_task())

        def cancel_all() -> None:
            for task in asyncio.all_tasks(stage.loop) - {own}:
                task.cancel()

        own = asyncio.current_task()
        await stage.begin(lambda: stage.start(act(False)))
        await turns()
        _, task = await stage.begin(cancel_all, lambda: stage.start(act(True)))
        await asyncio.wait([task])
        await turns()
        (task,) = await stage.begin(lambda: stage.start(act(True)))
        await task
        assert seen[-2:] == [task, task]
        assert seen[0] is not task
        await stage.close()

    loop.run(main())


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("within", [False, True], ids=["outside of tasks", "in another task"])
@pytest.mark.parametrize("debug", [False, True])
def test_a_step_that_holds_up_the_loop_is_told_of_with_its_name(
    loop: Loop, within: bool, debug: bool, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    """The first one, and any other; each for itself, whatever it has waited in between."""
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)

    async def main() -> None:
        stage = Stage(debug=debug)
        error: asyncio.Future[None] = stage.loop.create_future()
        error.set_exception(OSError())

        async def act(*seconds: float) -> None:
            for second in seconds:
                clock.now += second
                await asyncio.sleep(0)

        async def wait() -> None:
            await asyncio.sleep(0)
            with suppress(OSError):
                await error
            clock.now += 0.3
            raise asyncio.CancelledError

        async def begin(coroutine: Coroutine[Any, Any, None]) -> None:
            task = stage.start(coroutine) if within else (await stage.begin(lambda: stage.start(coroutine)))[0]
            assert task is not None
            await asyncio.wait([task])

        await begin(act(0.2, 0.09, 0.0999, 0.15))
        await begin(wait())
        assert [log.line() for _ in log.unread] == [told(200), told(150), told(300)] * debug
        await stage.close()

    def told(milliseconds: int) -> str:
        return (
            f"Desk.act held up the event loop for {milliseconds} ms: nothing else ran meanwhile; await what takes "
            "long, or declare the command with def, and it runs in a thread"
        )

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
