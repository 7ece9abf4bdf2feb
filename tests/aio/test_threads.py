"""Functions in threads of their own, awaited."""

import asyncio
import threading
from contextvars import ContextVar

import pytest

from tests.loops import Loop, come_about, turns
from tests.support import Gate
from typedrpc.aio.threads import in_thread

pytestmark = pytest.mark.usefixtures("no_leaks")

VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="unset")


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "typedrpc-aside"]


def test_it_runs_elsewhere_while_the_loop_goes_on(loop: Loop) -> None:
    async def main() -> None:
        go = Gate()

        def wait() -> int:
            go.wait()
            return threading.get_ident()

        waiting = asyncio.create_task(in_thread(wait))
        await turns()
        assert not waiting.done()
        go.open()
        assert await waiting != threading.get_ident()
        await come_about(lambda: not names())

    loop.run(main())


def test_it_runs_in_the_context_of_who_awaits_it(loop: Loop) -> None:
    async def main() -> None:
        VARIABLE.set("mine")
        assert await in_thread(VARIABLE.get) == "mine"
        await in_thread(lambda: VARIABLE.set("theirs"))
        assert VARIABLE.get() == "mine"

    loop.run(main())


@pytest.mark.parametrize("error", [OSError("it went wrong"), KeyboardInterrupt("so did this")], ids=type)
def test_what_it_raises_is_raised(loop: Loop, error: BaseException) -> None:
    async def main() -> BaseException | None:
        def fail() -> None:
            raise error

        try:
            await in_thread(fail)
        except BaseException as raised:
            return raised
        return None

    assert loop.run(main()) is error


@pytest.mark.parametrize("fails", [False, True])
def test_one_that_nobody_awaits_any_more_ends_by_itself(loop: Loop, fails: bool) -> None:
    async def main() -> None:
        go, begun = Gate(), Gate()

        def wait() -> None:
            begun.open()
            go.wait()
            if fails:
                raise OSError

        waiting = asyncio.create_task(in_thread(wait))
        await come_about(lambda: begun.is_open)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        go.open()
        await come_about(lambda: not names())
        await turns()

    loop.run(main())


def test_one_that_outlives_its_loop_ends_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[object] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    go = Gate()

    async def main() -> None:
        begun = Gate()

        def wait() -> None:
            begun.open()
            go.wait()

        waiting = asyncio.create_task(in_thread(wait))
        await come_about(lambda: begun.is_open)
        waiting.cancel()

    asyncio.run(main())
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "typedrpc-aside"]
    go.open()
    thread.join(30)
    assert raised == []


def test_what_raises_stop_iteration_does_not_hang(loop: Loop) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await in_thread(iter(()).__next__)

    loop.run(main())
