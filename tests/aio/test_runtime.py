"""What the connections of one side have in common."""

import asyncio
import logging
from contextvars import copy_context

import pytest

from tests.loops import Loop, settled
from tests.support import PATIENCE, Gate, Tally
from typedrpc.aio import starter
from typedrpc.aio.runtime import Runtime
from typedrpc.common.workers import Workers
from typedrpc.wire import RECEIVE_SIZE

pytestmark = pytest.mark.usefixtures("no_leaks")


def test_it_belongs_to_the_loop_that_runs(loop: Loop) -> None:
    async def main() -> None:
        runtime = Runtime(Workers("under-test", 1), 1)
        assert runtime.loop is asyncio.get_running_loop()

    loop.run(main())


def test_what_is_read_comes_into_one_buffer(loop: Loop) -> None:
    async def main() -> None:
        runtime = Runtime(Workers("under-test", 1), 1)
        assert len(runtime.buffer) == RECEIVE_SIZE
        runtime.view[:3] = b"abc"
        assert runtime.buffer[:3] == b"abc"

    loop.run(main())


def test_plain_handlers_have_as_many_threads_as_it_is_told(loop: Loop) -> None:
    async def main() -> None:
        workers, go, tally = Workers("under-test", 0), Gate(), Tally()
        runtime = Runtime(workers, 2)

        def job() -> None:
            with tally.running():
                go.wait()

        for _ in range(3):
            runtime.pool.run(job)
        tally.wait_for("running", 2)
        assert tally["running, begun"] == 2
        go.open()
        tally.wait_for("running, begun", 3)
        assert workers.close(PATIENCE) == 0

    loop.run(main())


@pytest.mark.parametrize("debug", [False, True])
def test_who_holds_up_the_loop_is_told_of_where_it_debugs(
    loop: Loop, debug: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(starter, "SLOW_TIME", 0.0)

    async def main() -> None:
        runtime = Runtime(Workers("under-test", 1), 1, debug=debug)

        async def act() -> None:
            pass

        done = runtime.loop.create_future()
        runtime.loop.call_soon(lambda: done.set_result(runtime.starter.start(act(), copy_context(), "Desk.act")))
        assert await done is None
        runtime.starter.close()
        await settled()

    with caplog.at_level(logging.WARNING, "typedrpc"):
        loop.run(main())
    assert [record.getMessage()[:30] for record in caplog.records] == ["Desk.act held up the event loo"] * debug
