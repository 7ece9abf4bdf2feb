"""Callbacks and calls within calls, between tasks of one event loop, and between tasks and threads."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from threading import get_ident
from typing import Any, NamedTuple

import pytest

from tests.loops import Loop, come_about, serving
from tests.streaming import AsyncGate
from tests.support import PATIENCE, Gate, Log
from typedrpc import (
    BlockingCall,
    CallCancelled,
    DeadlineExceeded,
    NestedTooDeep,
    RemoteError,
    ServerBusy,
    Service,
    aio,
    current_call,
    rpc,
)
from typedrpc.command import remote
from typedrpc.common.loop import kept_loop

pytestmark = pytest.mark.usefixtures("no_leaks")

COLOURS = pytest.mark.parametrize("colour", ["loop", "threads"])
"""Of the server; the client is always of the loop that the test runs on."""


@pytest.fixture(autouse=True, scope="module")
def kept() -> None:
    """The loop of the threads side's async handlers is kept for as long as the process runs: it is no leak."""
    kept_loop()


class Talk(Service):
    """What both ends serve: whatever a test says under a name, awaited or in a thread."""

    def __init__(self) -> None:
        self.does: dict[str, Callable[..., Any]] = {}

    @rpc
    async def go(self, name: str, number: int = 0) -> Any:
        return await self.does[name](number)

    @rpc
    def do(self, name: str, number: int = 0) -> Any:
        return self.does[name](number)

    @rpc
    async def use(self, name: str, function: Callable[[int], int]) -> Any:
        return await self.does[name](function)

    @rpc
    def use_here(self, name: str, function: Callable[[int], int]) -> Any:
        return self.does[name](function)

    @rpc
    async def use_async(self, name: str, function: Callable[[int], Awaitable[int]]) -> Any:
        return await self.does[name](function)

    @rpc
    async def to_and_fro(self, further: int) -> int:
        """Call back, and so on; how many calls were made from here on."""
        return 1 + await caller().to_and_fro(further - 1) if further else 0

    @rpc
    async def mixed(self, further: int) -> int:
        """The same; every other call takes a thread."""
        return 1 + await caller().mixed_here.aio(further - 1) if further else 0

    @rpc
    def mixed_here(self, further: int) -> int:
        return 1 + caller().mixed.call(further - 1) if further else 0

    @rpc
    def to_and_fro_here(self, further: int) -> list[int]:
        """The same in threads; in which."""
        rest = caller().to_and_fro_here(further - 1) if further else []
        return [get_ident(), *rest]


def caller() -> Talk:
    """The caller of the current call."""
    return current_call().peer.proxy(Talk)


class Ends(NamedTuple):
    """Two ends of a connection."""

    here: Talk
    """What the client exposes."""
    there: Talk
    """What the server serves."""
    call: Talk
    """The server, called from here."""
    url: str


@asynccontextmanager
async def two_ends(
    colour: str, *, here: dict[str, Any] | None = None, there: dict[str, Any] | None = None
) -> AsyncIterator[Ends]:
    """A client of the running loop, and a server of either side, that serve each other.

    Args:
        colour: Of the server.
        here: Options of the client.
        there: Options of the server.
    """
    of_server: dict[str, Any] = there or {}
    of_client: dict[str, Any] = here or {}
    async with serving(colour, served := Talk(), **of_server) as url:
        client = await aio.connect(url, expose=[exposed := Talk()], **of_client)
        try:
            yield Ends(exposed, served, client.proxy(Talk), url)
        finally:
            await client.close()


async def use_on(function: Callable[[int], int]) -> list[int]:
    """What a handler does with a plain callback that must not block its loop."""
    return [await remote(function).aio(number) for number in range(3)]


@COLOURS
class TestCallbacks:
    def test_a_plain_one_of_a_task_runs_on_its_loop(self, loop: Loop, colour: str) -> None:
        threads: list[int] = []

        def double(number: int) -> int:
            threads.append(get_ident())
            assert current_call().command.endswith("callback 'function'")
            return 2 * number

        async def main() -> None:
            async with two_ends(colour) as ends:
                ends.there.does["use"] = use_on
                ends.there.does["use here"] = lambda function: [function(number) for number in range(3)]
                assert await ends.call.use("use", double) == [0, 2, 4]
                assert await ends.call.use_here.aio("use here", double) == [0, 2, 4]
                assert threads == [get_ident()] * 6

        loop.run(main())

    def test_a_plain_one_must_not_block_the_loop(self, loop: Loop, colour: str) -> None:
        async def main() -> None:
            async with two_ends(colour) as ends:
                ends.there.does["use"] = use_on
                ends.there.does["echo"] = lambda number: number

                def block(number: int) -> int:
                    with pytest.raises(BlockingCall, match="await"):
                        ends.call.do("echo", number)
                    return number

                assert await ends.call.use("use", block) == [0, 1, 2]

        loop.run(main())

    def test_an_async_one_is_a_task_of_its_own(self, loop: Loop, colour: str) -> None:
        """It may wait for what other tasks do, and call the peer."""
        tasks: list[asyncio.Task[Any] | None] = []

        async def main() -> None:
            mine = asyncio.current_task()
            go = asyncio.Event()

            async def ask(number: int) -> int:
                assert asyncio.get_running_loop() is own
                tasks.append(asyncio.current_task())
                await go.wait()
                async with asyncio.timeout(None), asyncio.TaskGroup() as group:
                    asked = group.create_task(ends.call.do.aio("double", number))
                return int(asked.result())

            own = asyncio.get_running_loop()
            async with two_ends(colour) as ends:
                ends.there.does["use"] = lambda use: asyncio.wait_for(use(21), None)
                ends.there.does["double"] = lambda number: 2 * number
                calling = asyncio.create_task(ends.call.use_async("use", ask))
                await come_about(lambda: tasks)
                assert not calling.done()
                go.set()
                assert await calling == 42
                assert tasks[0] not in (mine, calling, None)

        loop.run(main())

    @pytest.mark.unmeasured
    def test_they_run_one_after_another_in_the_order_in_which_they_were_sent(self, loop: Loop, colour: str) -> None:
        seen: list[int] = []
        running: list[int] = []

        async def note(number: int) -> int:
            running.append(number)
            await asyncio.sleep(0)
            assert running == [number]
            running.remove(number)
            seen.append(number)
            return number

        async def send(use: Callable[[int], Awaitable[int]]) -> None:
            calls = []
            for number in range(100):
                if number % 3:
                    remote(use).notify(number)
                else:
                    calls.append(asyncio.create_task(remote(use).aio(number)))
                    await asyncio.sleep(0)  # it is sent
            assert await asyncio.gather(*calls) == list(range(0, 100, 3))

        async def main() -> None:
            async with two_ends(colour) as ends:
                ends.there.does["send"] = send
                await ends.call.use_async("send", note)
                assert seen == list(range(100))

        loop.run(main())

    @pytest.mark.parametrize("form", ["plain", "async"])
    def test_the_outcome_is_told_after_those_that_were_sent_before_it(self, loop: Loop, colour: str, form: str) -> None:
        seen: list[int] = []

        def note(number: int) -> int:
            seen.append(number)
            return number

        async def note_late(number: int) -> int:
            for _ in range(3):
                await asyncio.sleep(0)
            return note(number)

        async def send(use: Callable[[int], Any]) -> int:
            for number in range(30):
                remote(use).notify(number)
            return len(seen)

        async def fail(use: Callable[[int], Any]) -> None:
            await send(use)
            raise ValueError("after all of them")

        async def main() -> None:
            async with two_ends(colour) as ends:
                ends.there.does.update({"send": send, "fail": fail})
                call = ends.call.use if form == "plain" else ends.call.use_async
                function: Any = note if form == "plain" else note_late
                await call("send", function)
                assert seen == list(range(30))
                seen.clear()
                with pytest.raises(ValueError, match="after all of them"):
                    await call("fail", function)
                assert seen == list(range(30))

        loop.run(main())

    def test_what_one_raises_is_raised_in_the_handler(self, loop: Loop, colour: str, log: Log) -> None:
        class OwnError(Exception):
            pass

        async def fail(number: int) -> int:
            await asyncio.sleep(0)
            raise ValueError("not so") if number else OwnError("secret")

        async def use(function: Callable[[int], Awaitable[int]]) -> list[str]:
            with pytest.raises(ValueError, match="not so"):
                await function(1)
            with pytest.raises(RemoteError) as caught:
                await function(0)
            return [caught.value.type_name]

        async def main() -> None:
            async with two_ends(colour) as ends:
                ends.there.does["use"] = use
                assert await ends.call.use_async("use", fail) == ["OwnError"]
                assert "callback 'function' failed in a call" in log.line()

        loop.run(main())

    def test_they_call_back_and_are_called_back(self, loop: Loop, colour: str) -> None:
        """With a new callback at each level."""
        depths: list[int] = []

        async def main() -> None:
            async with two_ends(colour) as ends:

                async def down(number: int) -> int:
                    depths.append(current_call().depth)
                    return 1 + await ends.call.use_async("use", lambda inner: down(number - 1)) if number else 0

                ends.there.does["use"] = lambda function: asyncio.wait_for(function(0), None)
                assert await ends.call.use_async("use", lambda inner: down(12)) == 12
                assert depths == list(range(1, 26, 2))

        loop.run(main())

    def test_a_kept_one_is_called_when_nobody_waits(self, loop: Loop, colour: str) -> None:
        kept: list[Any] = []

        async def keep(function: Callable[[int], int]) -> None:
            kept.append(function)

        async def call_kept(number: int) -> int:
            return int(await remote(kept[0]).aio(number))

        async def main() -> None:
            async with two_ends(colour) as ends:
                ends.there.does.update({"keep": keep, "call": call_kept})
                await ends.call.use("keep", lambda number: number + 1)
                if colour == "loop":
                    assert await remote(kept[0]).aio(1) == 2
                assert await asyncio.to_thread(kept[0], 2) == 3
                assert await ends.call.go("call", 3) == 4
                kept.clear()

        loop.run(main())


@COLOURS
class TestNested:
    @pytest.mark.parametrize("further", [0, 1, 2, 63])
    def test_to_and_fro(self, loop: Loop, colour: str, further: int) -> None:
        async def main() -> None:
            async with two_ends(colour) as ends:
                assert await ends.call.to_and_fro(further) == further
                assert await ends.call.mixed(further) == further
                assert await ends.call.mixed_here.aio(further) == further

        loop.run(main())

    @pytest.mark.unmeasured
    def test_to_and_fro_several_at_once(self, loop: Loop, colour: str) -> None:
        async def main() -> None:
            async with two_ends(colour) as ends:
                assert await asyncio.gather(*(ends.call.to_and_fro(20) for _ in range(10))) == [20] * 10

        loop.run(main())

    def test_past_the_limit(self, loop: Loop, colour: str) -> None:
        async def main() -> None:
            async with two_ends(colour) as ends:
                for call in (ends.call.to_and_fro, ends.call.mixed):
                    with pytest.raises(NestedTooDeep, match="64 calls are nested in each other"):
                        await call(64)
                    assert await call(63) == 63

        loop.run(main())

    @pytest.mark.parametrize(("here", "there"), [(3, 64), (64, 3), (1, 5), (5, 1)])
    def test_each_end_has_a_limit_of_its_own(self, loop: Loop, colour: str, here: int, there: int) -> None:
        async def main() -> None:
            async with two_ends(colour, here={"max_depth": here}, there={"max_depth": there}) as ends:
                # The server runs depths 0, 2, 4, ...: with a limit of 3 it refuses 4. The client runs 1, 3, 5, ...
                deepest = min(there + there % 2, here + 1 - here % 2) - 1
                assert await ends.call.to_and_fro(deepest) == deepest
                with pytest.raises(NestedTooDeep):
                    await ends.call.to_and_fro(deepest + 1)
                assert await ends.call.to_and_fro(deepest) == deepest

        loop.run(main())

    def test_in_threads_each_runs_in_the_one_that_waits(self, loop: Loop, colour: str) -> None:
        """A plain handler calls its client back, which calls it back, and so on: it takes one thread at each end."""

        async def main() -> None:
            async with two_ends(colour) as ends:
                threads = await ends.call.to_and_fro_here.aio(9)
                assert len(threads) == 10
                assert len(set(threads[::2])) == len(set(threads[1::2])) == 1
                assert len({*threads, get_ident()}) == 3

        loop.run(main())

    def test_a_lock_that_a_handler_holds_is_still_its_own(self, loop: Loop, colour: str) -> None:
        lock = threading.RLock()

        def hold(further: int) -> int:
            assert lock.acquire(blocking=False)
            try:
                return 1 + int(caller().do("pass on", further - 1)) if further else 0
            finally:
                lock.release()

        async def main() -> None:
            async with two_ends(colour) as ends:
                ends.there.does["hold"] = hold
                ends.here.does["pass on"] = lambda further: caller().do("hold", further)
                assert await ends.call.do.aio("hold", 6) == 6

        loop.run(main())

    def test_the_current_call_is_the_right_one_at_every_level(self, loop: Loop, colour: str) -> None:
        seen: list[int] = []

        async def check(further: int) -> None:
            before = current_call()
            seen.append(before.depth)
            assert before.args == ("check", further)
            if further:
                first = caller().go("check", further - 1)
                await asyncio.gather(first, caller().to_and_fro(3))
            assert current_call() is before

        async def main() -> None:
            async with two_ends(colour) as ends:
                ends.here.does["check"] = ends.there.does["check"] = check
                await ends.call.go("check", 6)
                assert seen == list(range(7))
                with pytest.raises(RuntimeError):
                    current_call()

        loop.run(main())

    def test_tasks_that_a_handler_starts_call_its_caller(self, loop: Loop, colour: str) -> None:
        """They have its context, so that their calls are nested in its own."""

        async def depth(number: int) -> int:
            return current_call().depth

        async def spread(number: int) -> list[int]:
            peer = caller()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(peer.go("depth")) for _ in range(number)]
            return [task.result() for task in tasks]

        async def main() -> None:
            async with two_ends(colour) as ends:
                ends.here.does["depth"] = depth
                ends.there.does["spread"] = spread
                assert await ends.call.go("spread", 20) == [1] * 20

        loop.run(main())

    def test_one_way_calls_keep_their_order(self, loop: Loop, colour: str) -> None:
        """Those of a connection run one after another, awaited or in threads, also where each waits."""
        came: list[int] = []
        all_came = AsyncGate()

        def note(number: int) -> None:
            came.append(number)
            if number == 99:
                all_came.open()

        async def note_late(number: int) -> None:
            await asyncio.sleep(0)
            note(number)

        async def send(count: int) -> None:
            peer = caller()
            for number in range(count):
                if number % 2:
                    peer.do.notify("note", number)
                else:
                    peer.go.notify("note late", number)

        async def main() -> None:
            async with two_ends(colour) as ends:
                for end in (ends.here, ends.there):
                    end.does.update({"note": note, "note late": note_late, "send": send})
                await ends.call.go("send", 100)
                await all_came.pass_through()
                assert came == list(range(100))

        loop.run(main())

    def test_one_handler_at_a_time(self, loop: Loop, colour: str) -> None:
        """A turn is kept while a handler waits; what is nested in its call takes none."""
        running: list[int] = []
        most: list[int] = []

        async def enter(number: int) -> int:
            running.append(number)
            most.append(len(running))
            try:
                await asyncio.sleep(0)
                return int(await caller().go("back", number))
            finally:
                running.remove(number)

        async def back(number: int) -> int:
            return int(await caller().go("inner", number))

        async def inner(number: int) -> int:
            return number + 1

        async def main() -> None:
            async with two_ends(colour, there={"max_concurrent": 1}) as ends:
                ends.there.does.update({"enter": enter, "inner": inner})
                ends.here.does["back"] = back
                calls = (ends.call.go("enter", number) for number in range(30))
                assert await asyncio.gather(*calls) == list(range(1, 31))
                assert most == [1] * 30

        loop.run(main())


class TestPool:
    """The threads of an asyncio server, where all of them wait."""

    @pytest.mark.parametrize("max_workers", [0, 1, 3])
    def test_handlers_that_call_back_take_no_further_threads(self, loop: Loop, max_workers: int) -> None:
        """More calls than threads: some stand in line, what is nested runs in the thread that waits for it."""

        async def main() -> None:
            options = {"max_workers": max_workers}
            async with two_ends("loop", here=options, there=options) as ends:
                calls = (ends.call.to_and_fro_here.aio(7) for _ in range(4 * max(1, max_workers)))
                assert [len(threads) for threads in await asyncio.gather(*calls)] == [8] * 4 * max(1, max_workers)

        loop.run(main())

    def test_a_thread_that_answers_is_as_good_as_free(self, loop: Loop) -> None:
        """Who has an answer may call again before the thread that gave it is free."""

        async def call_back(number: int) -> int:
            return sum([await caller().do.aio("add one", each) for each in range(number)])

        async def main() -> None:
            async with two_ends("loop", here={"max_workers": 1}) as ends:
                ends.there.does["call back"] = call_back
                ends.here.does["add one"] = lambda number: number + 1
                assert await ends.call.go("call back", 300) == 45_150

        loop.run(main())

    @pytest.mark.parametrize("max_workers", [1, 3])
    def test_what_a_task_calls_within_a_threads_call_runs_in_that_thread(self, loop: Loop, max_workers: int) -> None:
        """Although it waits in no thread itself; all threads of the server wait at the same time."""

        def enter(number: int) -> list[int]:
            barrier.wait(PATIENCE)
            return [get_ident(), int(caller().go.call("back", number))]

        async def back(number: int) -> int:
            return int(await caller().do.aio("inner", number))

        barrier = threading.Barrier(max_workers)

        async def main() -> None:
            async with two_ends("loop", there={"max_workers": max_workers}) as ends:
                ends.there.does.update({"enter": enter, "inner": lambda number: get_ident()})
                ends.here.does["back"] = back
                for threads in await asyncio.gather(*(ends.call.do.aio("enter") for _ in range(max_workers))):
                    assert len(set(threads)) == 1

        loop.run(main())

    @pytest.mark.parametrize("max_workers", [0, 1, 3])
    def test_nested_calls_for_which_no_thread_is_left_are_refused(self, loop: Loop, max_workers: int) -> None:
        """What they would wait for may wait for them."""
        blocked = threading.Semaphore(0)
        go = Gate()

        def block(number: int) -> None:
            blocked.release()
            go.wait()

        async def call_back(number: int) -> Any:
            return await caller().go("back", number)

        async def back(number: int) -> str:
            with pytest.raises(ServerBusy) as caught:
                await caller().do.aio("inner", number)
            with pytest.raises(ServerBusy):
                await asyncio.wrap_future(caller().do.submit("inner", number))
            return str(caught.value)

        async def map_back(number: int) -> Any:
            return await caller().do.aio("map")

        def map_inner(number: int) -> list[Any]:
            results = caller().do.map(["inner"] * 5, range(5), return_exceptions=True)
            return [str(result) if isinstance(result, ServerBusy) else result for result in results]

        async def tell_back(number: int) -> None:
            await caller().go("tell")

        async def tell(number: int) -> None:
            for each in range(5):
                caller().do.notify("note", each)

        def note(number: int) -> None:
            told.append(number)
            if number == 4:
                all_told.open()

        told: list[int] = []
        all_told = AsyncGate()

        async def main() -> None:
            async with two_ends("loop", there={"max_workers": max_workers}) as ends:
                ends.there.does.update({"block": block, "inner": lambda number: number + 1, "note": note})
                ends.there.does.update({"call back": call_back, "map back": map_back, "tell back": tell_back})
                ends.here.does.update({"back": back, "map": map_inner, "tell": tell})
                blocking = [asyncio.create_task(ends.call.do.aio("block")) for _ in range(max(1, max_workers))]
                for _ in blocking:
                    assert await asyncio.to_thread(blocked.acquire, timeout=PATIENCE)
                said = "no thread is left for a call that is nested in another one; raise max_workers"
                assert await ends.call.go("call back") == said
                assert await ends.call.go("map back") == [said] * 5
                await ends.call.go("tell back")
                assert told == []
                in_line = asyncio.create_task(ends.call.do.aio("inner", 5))
                assert await ends.call.to_and_fro(3) == 3
                assert not in_line.done()
                go.open()
                assert await in_line == 6
                await asyncio.gather(*blocking)
                await all_told.pass_through()
                assert told == list(range(5))
                assert await ends.call.go("map back") == [1, 2, 3, 4, 5]

        loop.run(main())

    @pytest.mark.parametrize("how", ["deadline", "cancelled", "left"])
    def test_what_is_given_up_in_line_for_a_thread_is_not_begun(self, loop: Loop, how: str) -> None:
        begun: list[int] = []
        left: list[object] = []
        entered = AsyncGate()
        go = Gate()

        def block(number: int) -> None:
            entered.open()
            go.wait()

        async def main() -> None:
            options: dict[str, Any] = {"max_workers": 1, "on_disconnect": lambda peer, cause: left.append(cause)}
            async with two_ends("loop", there=options) as ends:
                ends.there.does.update({"block": block, "note": begun.append})
                blocked = asyncio.create_task(ends.call.do.aio("block"))
                await entered.pass_through()
                async with aio.connect(Talk, ends.url) as other:
                    limit: dict[str, Any] = {"timeout": 0.05} if how == "deadline" else {}
                    waiting = asyncio.create_task(other.do.with_options(**limit).aio("note", 1))
                    await asyncio.sleep(0)
                    assert await other.to_and_fro(0) == 0  # it has come by now
                    if how == "cancelled":
                        waiting.cancel()
                        with pytest.raises(asyncio.CancelledError):
                            await waiting
                        assert await other.to_and_fro(0) == 0  # so has that
                    elif how == "deadline":
                        with pytest.raises(DeadlineExceeded):
                            await waiting
                if how == "left":
                    with pytest.raises(ConnectionError):
                        await waiting
                    await come_about(lambda: left)
                go.open()
                await blocked
                await ends.call.do.aio("note", 2)
                assert begun == [2]

        loop.run(main())

    def test_a_thread_waits_for_a_call_of_another_loop(self, loop: Loop) -> None:
        """A plain handler calls on, through a client of its loop, in its thread."""

        async def main() -> None:
            async with two_ends("loop") as behind, two_ends("loop") as ends:
                behind.there.does["answer"] = lambda number: number + 1
                ends.there.does["on"] = lambda number: behind.call.do("answer", number)
                assert await ends.call.do.aio("on", 4) == 5

        loop.run(main())


@COLOURS
def test_what_is_nested_in_a_call_that_is_cancelled_is_cancelled(loop: Loop, colour: str) -> None:
    begun, ended = AsyncGate(), AsyncGate()
    how: list[str] = []

    async def wait(number: int) -> None:
        begun.open()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            how.append("task")
            raise
        finally:
            ended.open()

    def call_back(number: int) -> None:
        try:
            caller().go.call("wait")
        except CallCancelled:
            how.append("thread")

    async def main() -> None:
        async with two_ends(colour) as ends:
            ends.here.does["wait"] = wait
            ends.there.does["call back"] = call_back
            calling = asyncio.create_task(ends.call.do.aio("call back"))
            await begun.pass_through()
            calling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calling
            await ended.pass_through()
            await come_about(lambda: len(how) == 2)
            assert sorted(how) == ["task", "thread"]

    loop.run(main())
