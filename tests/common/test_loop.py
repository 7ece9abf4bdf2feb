"""Coroutines that threads run."""

import asyncio
import contextvars
import gc
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import Gate, Program, Running, run_all
from typedrpc.common import loop as module
from typedrpc.common.loop import _kept, blocking_call, in_loop, running_loop


class Loop:
    """An event loop in a thread of its own, which a test stops."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.running = Running(self.loop.run_forever)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.running.result()


@pytest.fixture
def own() -> Iterator[Loop]:
    own = Loop()
    yield own
    if own.loop.is_running():
        own.stop()
    own.loop.close()


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


def test_there_is_a_running_loop_within_one_only() -> None:
    async def main() -> bool:
        return running_loop() is asyncio.get_running_loop()

    assert running_loop() is None
    assert asyncio.run(main())


def test_it_runs_on_the_given_loop_and_otherwise_on_the_one_that_is_kept(own: Loop) -> None:
    async def where() -> Any:
        return asyncio.get_running_loop()

    assert in_loop(where, own.loop)() is own.loop
    kept = in_loop(where, None)()
    assert kept is _kept.get()
    assert kept is not own.loop
    assert run_all([in_loop(where, None)] * 4) == [kept] * 4


def test_values_are_given_at_once_and_errors_raised(own: Loop) -> None:
    async def fail() -> None:
        raise TimeoutError("its own")

    assert in_loop(double, own.loop)(4) == 8
    assert in_loop(lambda: 5, own.loop)() == 5
    assert in_loop(lambda: double(3), own.loop)() == 6
    with pytest.raises(TimeoutError, match="its own"):
        in_loop(fail, own.loop)()
    with pytest.raises(ZeroDivisionError):
        in_loop(lambda: 1 // 0, own.loop)()


def test_it_waits_longer_than_it_takes_to_look(own: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_TIME", 0.001)
    looks = 0
    enough = Gate()

    class Counting:
        def is_running(self) -> bool:
            nonlocal looks
            looks += 1
            if looks == 3:
                enough.open()
            return own.loop.is_running()

        def __getattr__(self, name: str) -> Any:
            return getattr(own.loop, name)

    async def slow() -> int:
        await asyncio.to_thread(enough.wait)
        return 7

    counting: Any = Counting()
    assert in_loop(slow, counting)() == 7
    assert looks >= 3


def test_a_loop_that_is_closed(own: Loop) -> None:
    own.stop()
    own.loop.close()
    with pytest.raises(RuntimeError, match="the event loop of an async function is closed"):
        in_loop(double, own.loop)(1)
    gc.collect()  # no coroutine was left unawaited


def test_a_loop_that_has_stopped(own: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_TIME", 0.001)
    own.stop()
    with pytest.raises(RuntimeError, match="the event loop of an async function has stopped"):
        in_loop(double, own.loop)(1)
    gc.collect()


def test_a_loop_that_stops_meanwhile(own: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_TIME", 0.001)
    entered = Gate()

    async def never() -> None:
        entered.open()
        await asyncio.Event().wait()

    running = Running(in_loop(never, own.loop))
    entered.wait()
    own.stop()
    error = running.error()
    assert isinstance(error, RuntimeError)
    assert str(error) == "the event loop of an async function has stopped"
    for task in asyncio.all_tasks(own.loop):
        task.cancel()
    own.loop.run_until_complete(asyncio.sleep(0))


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


def test_context_variables_are_those_of_the_thread(own: Loop) -> None:
    async def change() -> str:
        before = VARIABLE.get()
        VARIABLE.set("changed")
        return before

    token = VARIABLE.set("mine")
    try:
        assert in_loop(change, own.loop)() == "mine"
        assert VARIABLE.get() == "mine"
    finally:
        VARIABLE.reset(token)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_has_a_loop_of_its_own() -> None:
    program = """
        import os, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        from typedrpc.common.loop import in_loop
        async def where():
            return os.getpid()
        assert in_loop(where, None)() == os.getpid()
        def beget(body):
            child = os.fork()
            if not child:
                os._exit(body())
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        def look():
            return 0 if in_loop(where, None)() == os.getpid() else 1
        say(beget(lambda: look() or beget(look)))
    """
    with Program(program) as child:
        assert child.hear() == "0"
        child.expect_success()


@pytest.mark.parametrize(
    ("what", "instead", "right"),
    [
        ("Shop.buy", "await proxy.{}.aio(...)", "await proxy.buy.aio(...)"),
        ("Shop.buy: callback 'ask'", "await proxy.{}.aio(...)", "await remote(ask).aio(...)"),
        ("Shop.buy: callback 'ask'", "gather(*map(proxy.{}.aio, ...))", "gather(*map(remote(ask).aio, ...))"),
        ("a stream", "async for item in ...", "async for item in ..."),
    ],
)
def test_a_call_that_would_block_says_what_to_write(what: str, instead: str, right: str) -> None:
    error = blocking_call(what, instead)
    assert str(error) == f"{what}: this would block the thread of the event loop that it waits for; write `{right}`"


def test_the_kept_loop_is_one_for_all_threads() -> None:
    start = threading.Barrier(8)

    def get() -> Any:
        start.wait(10)
        return _kept.get()

    assert len(set(run_all([get] * 8))) == 1


def test_no_task_ends_the_kept_loop() -> None:
    """A task that would end a program, or stops the loop, would leave all other handlers waiting for ever."""
    ended = threading.Event()

    async def end() -> None:
        async def leave() -> None:
            raise SystemExit(3)

        task = asyncio.create_task(leave())
        task.add_done_callback(lambda task: ended.set() if isinstance(task.exception(), SystemExit) else None)

    async def stop() -> None:
        asyncio.get_running_loop().stop()

    in_loop(end, None)()
    assert ended.wait(10)
    assert in_loop(double, None)(2) == 4
    in_loop(stop, None)()
    assert in_loop(double, None)(3) == 6
