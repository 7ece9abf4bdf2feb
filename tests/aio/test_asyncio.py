"""What an asyncio programmer expects of calls: task groups, timeouts, cancellation, and handlers that are tasks."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import pytest

from tests.loops import Loop, come_about, serving, turns
from tests.streaming import AsyncGate, Pipes
from tests.support import FakeServer, Gate, RawPeer, agree
from typedrpc import DeadlineExceeded, RemoteError, aio, connect, current_call, deadline
from typedrpc.common.loop import kept_loop
from typedrpc.common.room import NoRoom
from typedrpc.wire import Kind

pytestmark = pytest.mark.usefixtures("no_leaks")

COLOURS = pytest.mark.parametrize("colour", ["loop", "threads"])
"""Of the server."""


@pytest.fixture(autouse=True, scope="module")
def kept() -> None:
    """The loop of the threads side's async handlers is kept for as long as the process runs: it is no leak."""
    kept_loop()


class Waiting:
    """Handlers that wait until the test lets them, and write down how they ended."""

    def __init__(self) -> None:
        self.begun = AsyncGate()
        self.go = AsyncGate()
        self.ended = AsyncGate()
        self.calls = 0
        self.how = ""

    async def awaited(self) -> str:
        self.calls += 1
        self.begun.open()
        try:
            await self.go.pass_through()
        except asyncio.CancelledError:
            self.how = "cancelled"
            raise
        else:
            self.how = "done"
            return "done"
        finally:
            self.ended.open()

    def plain(self) -> str:
        self.calls += 1
        self.begun.open()
        self.how = "cancelled" if current_call().cancelled.wait(30) else "done"
        self.ended.open()
        return self.how


@asynccontextmanager
async def pipes(colour: str, scripts: dict[str, Callable[..., Any]], **options: Any) -> AsyncIterator[Pipes]:
    """A proxy of a server that does what scripts say."""
    async with serving(colour, Pipes(**scripts), **options) as url, aio.connect(Pipes, url) as proxy:
        yield proxy


@COLOURS
class TestManyAtOnce:
    def test_a_task_group(self, loop: Loop, colour: str) -> None:
        async def main() -> None:
            async with pipes(colour, {}) as proxy:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(proxy.add.aio(number, 1)) for number in range(10)]
                assert [task.result() for task in tasks] == list(range(1, 11))

        loop.run(main())

    def test_a_call_that_fails_in_a_task_group_cancels_the_others(self, loop: Loop, colour: str) -> None:
        first, second = Waiting(), Waiting()

        async def fail() -> None:
            await first.begun.pass_through()
            await second.begun.pass_through()
            raise ValueError("enough")

        async def main() -> None:
            scripts = {"first": first.awaited, "second": second.plain, "fail": fail}
            async with pipes(colour, scripts) as proxy:

                async def call_all() -> None:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(proxy.aask("first"))
                        group.create_task(proxy.ask.aio("second"))
                        group.create_task(proxy.aask("fail"))

                with pytest.raises(ExceptionGroup) as caught:
                    await call_all()
                (error,) = caught.value.exceptions
                assert isinstance(error, ValueError)
                await first.ended.pass_through()
                await second.ended.pass_through()
                assert (first.how, second.how) == ("cancelled", "cancelled")
                assert await proxy.add.aio(1, 1) == 2

        loop.run(main())

    def test_gather(self, loop: Loop, colour: str) -> None:
        async def fail() -> None:
            raise KeyError("k")

        async def main() -> None:
            async with pipes(colour, {"fail": fail}) as proxy:
                assert await asyncio.gather(*(proxy.add.aio(n, n) for n in range(50))) == [2 * n for n in range(50)]
                results = await asyncio.gather(proxy.add.aio(1, 2), proxy.aask("fail"), return_exceptions=True)
                assert results[0] == 3
                assert isinstance(results[1], KeyError)

        loop.run(main())

    def test_who_is_first_is_first(self, loop: Loop, colour: str) -> None:
        gates = [AsyncGate() for _ in range(3)]

        async def answer(number: int) -> int:
            await gates[number].pass_through()
            return number

        async def main() -> None:
            scripts = {str(number): lambda number=number: answer(number) for number in range(3)}
            async with pipes(colour, scripts) as proxy:
                calls = [proxy.aask(str(number)) for number in range(3)]
                order = [2, 0, 1]
                gates[order[0]].open()
                came = []
                for following in asyncio.as_completed(calls):
                    came.append(await following)
                    if len(came) < 3:
                        gates[order[len(came)]].open()
                assert came == order

        loop.run(main())


@COLOURS
class TestCancellation:
    @pytest.mark.parametrize("form", ["awaited", "plain"])
    def test_a_timeout_reaches_the_handler_and_is_its_own(self, loop: Loop, colour: str, form: str) -> None:
        waiting = Waiting()

        async def main() -> None:
            async with pipes(colour, {"wait": getattr(waiting, form)}) as proxy:

                async def call() -> Any:
                    return await (proxy.aask("wait") if form == "awaited" else proxy.ask.aio("wait"))

                async def call_for_a_while() -> None:
                    async with asyncio.timeout(None) as limit:
                        task = asyncio.create_task(call())
                        await waiting.begun.pass_through()
                        limit.reschedule(0)
                        await task

                with pytest.raises(TimeoutError) as caught:
                    await call_for_a_while()
                assert not isinstance(caught.value, DeadlineExceeded)
                await waiting.ended.pass_through()
                assert waiting.how == "cancelled"
                own = asyncio.current_task()
                assert own is not None
                assert own.cancelling() == 0
                assert await proxy.add.aio(1, 1) == 2

        loop.run(main())

    def test_wait_for(self, loop: Loop, colour: str) -> None:
        waiting = Waiting()

        async def main() -> None:
            async with pipes(colour, {"wait": waiting.awaited}) as proxy:
                assert await asyncio.wait_for(proxy.add.aio(1, 1), 30) == 2
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(proxy.aask("wait"), 0.05)
                assert await proxy.add.aio(2, 2) == 4
                if waiting.calls:  # on a slow machine it was not even sent
                    await waiting.ended.pass_through()
                    assert waiting.how == "cancelled"

        loop.run(main())

    def test_before_it_is_sent(self, loop: Loop, colour: str) -> None:
        waiting = Waiting()

        async def main() -> None:
            async with pipes(colour, {"wait": waiting.awaited}) as proxy:
                task = asyncio.create_task(proxy.aask.aio("wait"))
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert await proxy.add.aio(1, 1) == 2
                assert waiting.calls == 0

        loop.run(main())

    def test_in_the_turn_in_which_it_is_sent(self, loop: Loop, colour: str) -> None:
        waiting = Waiting()

        async def main() -> None:
            async with pipes(colour, {"wait": waiting.awaited}, max_concurrent=1) as proxy:
                task = asyncio.create_task(proxy.aask("wait"))
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert await proxy.add.aio(1, 1) == 2  # so it has ended, if it had begun
                assert waiting.how in ("", "cancelled")

        loop.run(main())

    def test_while_it_is_in_flight(self, loop: Loop, colour: str) -> None:
        waiting = Waiting()

        async def main() -> None:
            async with pipes(colour, {"wait": waiting.awaited}) as proxy:
                task = asyncio.create_task(proxy.aask("wait"))
                await waiting.begun.pass_through()
                task.cancel("why not")
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert task.cancelled()
                await waiting.ended.pass_through()
                assert waiting.how == "cancelled"

        loop.run(main())

    def test_while_it_waits_for_room(self, loop: Loop, colour: str) -> None:
        first, second = Waiting(), Waiting()

        async def main() -> None:
            scripts = {"first": first.awaited, "second": second.awaited}
            async with pipes(colour, scripts, max_calls=2) as proxy:
                running = asyncio.create_task(proxy.aask("first"))
                await first.begun.pass_through()
                in_line = asyncio.create_task(proxy.aask("second"))
                behind = asyncio.create_task(proxy.add.aio(3, 4))
                await turns()
                in_line.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await in_line
                assert not behind.done()
                first.go.open()
                assert await running == "done"
                assert await behind == 7
                assert second.calls == 0

        loop.run(main())

    @pytest.mark.parametrize("side", ["loop", "threads"])
    def test_while_it_waits_for_room_nothing_is_kept_of_the_attempt(self, loop: Loop, colour: str, side: str) -> None:
        """An exception would keep all that was made for a call; thousands of calls may stand in line."""
        first = Waiting()

        async def main(proxy: Pipes) -> None:
            running = asyncio.create_task(proxy.aask("first"))
            await first.begun.pass_through()
            behind = asyncio.create_task(proxy.add.aio(3, 4))
            await turns()
            assert not behind.done()
            assert [type(each) for each in gc.get_objects() if isinstance(each, NoRoom)] == []
            first.go.open()
            assert await running == "done"
            assert await behind == 7

        async def both() -> None:
            async with serving(colour, Pipes(first=first.awaited), max_calls=2) as url:
                if side == "loop":
                    async with aio.connect(Pipes, url) as proxy:
                        await main(proxy)
                else:
                    client = await asyncio.to_thread(connect, url)
                    await main(await asyncio.to_thread(client.proxy, Pipes))
                    await asyncio.to_thread(client.close)

        loop.run(both())

    def test_room_that_somebody_was_given_and_does_not_take(self, loop: Loop, colour: str) -> None:
        """Cancelled in the very turn in which it was roused, it leaves the room to who is behind it."""
        first, second = Waiting(), Waiting()

        async def main() -> None:
            scripts = {"first": first.awaited, "second": second.awaited}
            async with pipes(colour, scripts, max_calls=2) as proxy:
                running = asyncio.create_task(proxy.aask("first"))
                await first.begun.pass_through()
                in_line = asyncio.create_task(proxy.aask("second"))
                behind = asyncio.create_task(proxy.add.aio(3, 4))
                await turns()
                running.add_done_callback(lambda task: in_line.cancel())
                first.go.open()
                await running
                with pytest.raises(asyncio.CancelledError):
                    await in_line
                assert await behind == 7

        loop.run(main())

    def test_a_task_that_takes_its_cancellation_back_calls_again(self, loop: Loop, colour: str) -> None:
        waiting = Waiting()

        async def main() -> None:
            async with pipes(colour, {"wait": waiting.awaited}) as proxy:

                async def stubborn() -> int:
                    own = asyncio.current_task()
                    assert own is not None
                    try:
                        await proxy.aask("wait")
                    except asyncio.CancelledError:
                        assert own.cancelling() == 1
                        assert own.uncancel() == 0
                    async with asyncio.timeout(30):
                        return await proxy.add.aio(20, 1)

                task = asyncio.create_task(stubborn())
                await waiting.begun.pass_through()
                task.cancel()
                assert await task == 21

        loop.run(main())

    def test_a_cancellation_from_outside_passes_a_timeout(self, loop: Loop, colour: str) -> None:
        waiting = Waiting()

        async def main() -> None:
            async with pipes(colour, {"wait": waiting.awaited}) as proxy:

                async def limited() -> None:
                    async with asyncio.timeout(30):
                        await proxy.aask("wait")

                task = asyncio.create_task(limited())
                await waiting.begun.pass_through()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert task.cancelling() == 1

        loop.run(main())

    def test_a_call_that_is_shielded_goes_on(self, loop: Loop, colour: str) -> None:
        waiting = Waiting()

        async def main() -> None:
            async with pipes(colour, {"wait": waiting.awaited}) as proxy:
                call = asyncio.create_task(proxy.aask("wait"))

                async def shielded() -> Any:
                    return await asyncio.shield(call)

                task = asyncio.create_task(shielded())
                await waiting.begun.pass_through()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                waiting.go.open()
                assert await call == "done"
                assert waiting.how == "done"

        loop.run(main())

    def test_a_stream_whose_consumer_is_cancelled_ends_at_its_producer(self, loop: Loop, colour: str) -> None:
        begun, ended = AsyncGate(), AsyncGate()

        async def items() -> AsyncIterator[int]:
            try:
                yield 1
                begun.open()
                await AsyncGate().pass_through()
            finally:
                ended.open()

        async def main() -> None:
            async with pipes(colour, {"items": items}) as proxy:

                async def consume() -> None:
                    async for item in proxy.aproduce("items"):
                        assert item == 1

                task = asyncio.create_task(consume())
                await begun.pass_through()
                await turns()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await ended.pass_through()
                assert await proxy.add.aio(1, 1) == 2

        loop.run(main())


def test_a_call_that_waits_for_the_contract_to_be_told_is_cancelled(loop: Loop) -> None:
    """The others that wait for it are told all the same, and the call is not sent."""
    asked, go = AsyncGate(), Gate()
    commands: list[int] = []

    def script(peer: RawPeer) -> None:
        peer.shake_hands()
        question = peer.question()
        commands.append(question.command)
        asked.open()
        go.wait()

    async def main() -> None:
        with FakeServer(script) as server:
            async with aio.connect(server.url) as client:
                proxy = client.proxy(Pipes)
                first = asyncio.create_task(proxy.add.aio(1, 2))
                second = asyncio.create_task(proxy.add.aio(3, 4))
                await asked.pass_through()
                first.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await first
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await asyncio.shield(second)
                second.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await second
                go.open()

    loop.run(main())
    assert len(commands) == 1


def test_a_call_that_waits_until_the_peer_reads_is_cancelled(loop: Loop) -> None:
    go = Gate()
    kinds: list[int] = []

    def script(peer: RawPeer) -> None:
        agree(peer)
        go.wait()
        kinds.extend(frame.kind for frame in peer.read_frames_to_end())

    async def main() -> None:
        with FakeServer(script) as server:
            client = await aio.connect(Pipes, server.url)
            async with client as proxy:
                link: Any = client.peer.link
                outlet = link.connection.outlet
                outlet.pause()  # as the transport does when it is full
                task = asyncio.create_task(proxy.add.aio(1, 2))
                await turns()
                assert not task.done()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                outlet.resume()
                go.open()

    loop.run(main())
    assert Kind.REQUEST not in kinds


@pytest.mark.parametrize("nested", [False, True])
def test_a_call_that_waits_until_the_peer_reads_has_its_deadline(loop: Loop, nested: bool) -> None:
    go = Gate()
    kinds: list[int] = []

    def script(peer: RawPeer) -> None:
        agree(peer)
        go.wait()
        kinds.extend(frame.kind for frame in peer.read_frames_to_end())

    async def main() -> None:
        with FakeServer(script) as server:
            client = await aio.connect(Pipes, server.url)
            async with client as proxy:
                link: Any = client.peer.link
                outlet = link.connection.outlet
                outlet.pause()  # as the transport does when it is full
                timeout = None if nested else 0.01
                with (
                    deadline(0.01) if nested else nullcontext(),
                    pytest.raises(DeadlineExceeded, match=r"Pipes.add: the peer did not read in time"),
                ):
                    await proxy.add.with_options(timeout=timeout).aio(1, 2)
                outlet.resume()
                go.open()

    loop.run(main())
    assert Kind.REQUEST not in kinds


@COLOURS
class TestProducersThatCancelThemselves:
    """What they had before that arrives, as with any other exception, and nothing follows the end of the stream."""

    @staticmethod
    async def produce() -> AsyncIterator[int]:
        yield 1
        yield 2
        raise asyncio.CancelledError

    def test_of_a_result(self, loop: Loop, colour: str) -> None:
        async def main() -> None:
            async with pipes(colour, {"go": self.produce}) as proxy:
                items = proxy.aproduce("go")
                assert [await anext(items), await anext(items)] == [1, 2]
                with pytest.raises(RemoteError):
                    await anext(items)

        loop.run(main())

    def test_of_an_argument(self, loop: Loop, colour: str) -> None:
        came: list[int] = []

        async def consume(items: AsyncIterator[int]) -> None:
            while True:
                came.append(await anext(items))

        async def main() -> None:
            async with pipes(colour, {"consume": consume}) as proxy:
                with pytest.raises(asyncio.CancelledError):
                    await proxy.aconsume("consume", self.produce())

        loop.run(main())
        assert came == [1, 2]


@COLOURS
class TestHandlers:
    def test_a_handler_is_a_task_from_its_first_line(self, loop: Loop, colour: str) -> None:
        async def work() -> list[str]:
            before = asyncio.current_task()
            assert before is not None
            async with asyncio.timeout(30):
                await asyncio.sleep(0)
            assert asyncio.current_task() is before
            async with asyncio.TaskGroup() as group:
                inner = group.create_task(asyncio.sleep(0, "inner"))
            return [before.get_name(), inner.result(), current_call().command]

        async def main() -> None:
            async with pipes(colour, {"work": work}) as proxy:
                assert await proxy.aask("work") == ["Pipes.aask", "inner", "Pipes.aask"]

        loop.run(main())

    def test_a_timeout_in_the_first_line_ends_it(self, loop: Loop, colour: str) -> None:
        async def work() -> str:
            try:
                async with asyncio.timeout(0):
                    await asyncio.Event().wait()
            except TimeoutError:
                own = asyncio.current_task()
                assert own is not None
                return f"late, {own.cancelling()}"
            return "?"

        async def main() -> None:
            async with pipes(colour, {"work": work}) as proxy:
                assert await proxy.aask("work") == "late, 0"

        loop.run(main())

    def test_who_cancels_himself_has_failed_to_his_caller(self, loop: Loop, colour: str) -> None:
        async def work() -> None:
            own = asyncio.current_task()
            assert own is not None
            own.cancel()
            await asyncio.sleep(0)

        async def main() -> None:
            async with pipes(colour, {"work": work}) as proxy:
                for _ in range(3):
                    with pytest.raises(RemoteError, match="failed at the peer with CancelledError"):
                        await proxy.aask("work")
                own = asyncio.current_task()
                assert own is not None
                assert own.cancelling() == 0
                assert await proxy.add.aio(1, 1) == 2

        loop.run(main())

    def test_tasks_of_a_handler_outlive_it_with_its_call(self, loop: Loop, colour: str) -> None:
        go, over = AsyncGate(), AsyncGate()
        kept: set[asyncio.Task[None]] = set()
        seen: list[str] = []

        async def later() -> None:
            await go.pass_through()
            seen.append(current_call().command)
            over.open()

        async def work() -> str:
            kept.add(asyncio.create_task(later()))
            return "begun"

        async def main() -> None:
            async with pipes(colour, {"work": work}) as proxy:
                assert await proxy.aask("work") == "begun"
                assert seen == []
                go.open()
                await over.pass_through()
                assert seen == ["Pipes.aask"]
                await come_about(lambda: all(task.done() for task in kept))

        loop.run(main())

    def test_what_a_handler_shields_goes_on_when_it_is_cancelled(self, loop: Loop, colour: str) -> None:
        inner = Waiting()
        ended = AsyncGate()
        tasks: list[asyncio.Task[Any]] = []

        async def work() -> None:
            tasks.append(asyncio.create_task(inner.awaited()))
            try:
                await asyncio.shield(tasks[0])
            finally:
                ended.open()

        async def main() -> None:
            async with pipes(colour, {"work": work}) as proxy:
                task = asyncio.create_task(proxy.aask("work"))
                await inner.begun.pass_through()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await ended.pass_through()
                assert not tasks[0].done()
                inner.go.open()
                await inner.ended.pass_through()
                assert inner.how == "done"
                await come_about(tasks[0].done)

        loop.run(main())

    def test_a_handler_that_refuses_to_be_cancelled_goes_on(self, loop: Loop, colour: str) -> None:
        waiting, over = Waiting(), AsyncGate()

        async def work() -> str:
            try:
                await waiting.awaited()
            except asyncio.CancelledError:
                own = asyncio.current_task()
                assert own is not None
                own.uncancel()
            await asyncio.sleep(0)
            over.open()
            return "anyway"

        async def main() -> None:
            async with pipes(colour, {"work": work}) as proxy:
                task = asyncio.create_task(proxy.aask("work"))
                await waiting.begun.pass_through()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await over.pass_through()
                assert await proxy.add.aio(1, 1) == 2

        loop.run(main())
