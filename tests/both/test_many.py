"""Many calls at once: thousands in flight on one connection, futures by the thousand, room at the peer."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, CancelledError, Future, as_completed, wait
from contextlib import AbstractContextManager
from time import monotonic
from typing import Any, Final

import pytest

from tests.ends import Colours, alike, for_both
from tests.support import PATIENCE, Gates, Log, Running, Tally, until
from typedrpc import (
    CallCancelled,
    Client,
    ConnectionLost,
    DeadlineExceeded,
    Server,
    Service,
    current_call,
    deadline,
    rpc,
)
from typedrpc.common.client import BaseClient
from typedrpc.common.server import BaseServer
from typedrpc.common.streams import StreamInLine

pytestmark = pytest.mark.usefixtures("kept_loop", "no_leaks")
colours = alike

URL: Final = "tcp://127.0.0.1:0"
MANY: Final = 10_000


class Crowd(Service):
    """Handlers that wait for the test, counted."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.gates = Gates()
        self._open = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None  # of those who hold

    @rpc
    def add(self, a: int, b: int) -> int:
        return a + b

    @rpc
    async def hold(self, number: int) -> int:
        """Wait, as a task, until the test opens; how it ended is counted."""
        self._loop = asyncio.get_running_loop()
        with self.tally.running():
            try:
                await self._open.wait()
            except asyncio.CancelledError:
                self.tally.add("cancelled")
                raise
            self.tally.add("done")
            return number

    def open(self) -> None:
        """Let go all who hold."""
        if self._loop is None:
            self._open.set()
            return
        with contextlib.suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(self._open.set)

    @rpc
    def wait(self, name: str) -> str:
        """Wait in a thread until the test opens the gate."""
        with self.tally.running():
            self.gates[name].wait()
            return name

    @rpc
    def stay(self) -> str:
        """Stay, in a thread, until the call is cancelled."""
        with self.tally.running():
            assert current_call().cancelled.wait(PATIENCE)
            return "too late"

    @rpc
    async def total(self, numbers: AsyncIterator[int]) -> int:
        return sum([number async for number in numbers])

    @rpc
    def left(self) -> float:
        """The seconds that the caller leaves it."""
        end = current_call().deadline
        assert end is not None
        return end - monotonic()

    @rpc
    def through(self, number: int) -> int:
        """Call the caller back."""
        return current_call().peer.proxy(Crowd).add(number, 1)


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    crowd = Crowd()
    yield crowd
    crowd.open()
    crowd.gates.open_all()


@pytest.fixture
def server(crowd: Crowd, colours: Colours) -> Iterator[Server]:
    with colours.serve(crowd, url=URL, max_calls=2 * MANY) as server:
        yield server
        crowd.open()
        crowd.gates.open_all()


@pytest.fixture
def client(server: Server, colours: Colours) -> Iterator[Client[Any]]:
    with colours.connect(server.url) as client:
        yield client


@pytest.fixture
def proxy(client: Client[Any]) -> Crowd:
    return client.proxy(Crowd)


def room_of(client: Client[Any]) -> Any:
    link: Any = client._link
    return link.connection._room


def core_of(end: Any) -> Any:
    """The core of a client's connection, or of that of a server's only client."""
    link = end._link if isinstance(end, BaseClient) else end.peers[0].link
    return link.connection.core


def expect_nothing_left(client: Client[Any], server: BaseServer[Any]) -> None:
    """Neither end knows of any call, and there is room for as many as before.

    Nobody reads for an idle client: late answers are read with that of the next call.
    """
    proxy = client.proxy(Crowd)
    for core in (core_of(client), core_of(server)):
        until(lambda core=core: not (core.calls.calls or core.inflows or core.outflows))  # type: ignore[misc]
        until(lambda core=core: not (core.running or core.handled))  # type: ignore[misc]
    core, room = core_of(client), room_of(client)
    until(lambda: proxy.add(1, 2) == 3 and room._given_up == core.late_replies)
    assert room.waiting == 0


# In flight


@for_both
@pytest.mark.unmeasured
def test_10_000_calls_are_in_flight_on_one_connection(
    client: Client[Any], server: Server, proxy: Crowd, crowd: Crowd
) -> None:
    """All handlers run at the same moment, and a call beside them is answered."""
    futures = [proxy.hold.submit(number) for number in range(MANY)]
    crowd.tally.wait_for("running", MANY)
    assert len(core_of(client).calls) == MANY
    assert core_of(server).running == MANY
    assert proxy.add(1, 2) == 3
    assert not any(future.done() for future in futures)
    crowd.open()
    assert [future.result(PATIENCE) for future in futures] == list(range(MANY))
    crowd.tally.wait_for("running", 0)
    assert core_of(client).late_replies == 0
    expect_nothing_left(client, server)


@for_both
@pytest.mark.unmeasured
def test_10_000_awaited_calls_are_in_flight(client: Client[Any], server: Server, proxy: Crowd, crowd: Crowd) -> None:
    async def main() -> list[int]:
        async with asyncio.timeout(PATIENCE):
            calls = [asyncio.ensure_future(proxy.hold(number)) for number in range(MANY)]
            await asyncio.to_thread(crowd.tally.wait_for, "running", MANY)
            crowd.open()
            return await asyncio.gather(*calls)

    assert asyncio.run(main()) == list(range(MANY))
    expect_nothing_left(client, server)


@for_both
@pytest.mark.unmeasured
@pytest.mark.parametrize(("when", "count"), [("running", MANY), ("at once", 2000)])
def test_futures_of_which_every_second_is_cancelled(
    client: Client[Any], server: Server, proxy: Crowd, crowd: Crowd, when: str, count: int
) -> None:
    """The others get their results. The handlers of those that were cancelled end; their answers are only counted."""
    futures = [proxy.hold.submit(number) for number in range(count)]
    if when == "running":
        crowd.tally.wait_for("running", count)
    told: list[Future[int]] = []
    for future in futures[1::2]:
        future.add_done_callback(told.append)
        assert future.cancel()
    assert len(told) == count // 2
    assert proxy.add(1, 2) == 3  # sent behind all of that: who has answered it knows what was given up
    crowd.open()
    assert [future.result(PATIENCE) for future in futures[::2]] == list(range(0, count, 2))
    for future in futures[1::2]:
        assert future.cancelled()
        with pytest.raises(CancelledError):
            future.result(0)
    crowd.tally.wait_for("running", 0)
    begun = crowd.tally["running, begun"]
    assert count // 2 <= begun <= count
    assert (crowd.tally["done"], crowd.tally["cancelled"]) == (count // 2, begun - count // 2)
    if when == "running":
        assert begun == count
    expect_nothing_left(client, server)
    assert core_of(client).late_replies == count // 2
    assert proxy.add(1, 2) == 3


@pytest.mark.unmeasured
def test_calls_one_after_another_of_which_every_second_is_given_up(
    client: Client[Any], server: Server, proxy: Crowd
) -> None:
    """Ids, tables and room last."""
    for number in range(2000):
        future = proxy.add.submit(number, 1)
        if number % 2 and future.cancel():
            assert future.cancelled()
        else:
            assert future.result(PATIENCE) == number + 1
    expect_nothing_left(client, server)


# Futures


def test_as_completed(proxy: Crowd, crowd: Crowd) -> None:
    futures = {proxy.wait.submit(name): name for name in "abc"}
    crowd.tally.wait_for("running", 3)
    completed = as_completed(futures, PATIENCE)
    for name in "cab":
        crowd.gates[name].open()
        future = next(completed)
        assert (futures[future], future.result(0)) == (name, name)
    assert next(completed, None) is None


def test_wait(proxy: Crowd, crowd: Crowd) -> None:
    futures = [proxy.wait.submit(name) for name in "abc"]
    crowd.gates["b"].open()
    done, waiting = wait(futures, PATIENCE, FIRST_COMPLETED)
    assert done == {futures[1]}
    assert waiting == {futures[0], futures[2]}
    assert wait(futures, 0, ALL_COMPLETED).not_done == waiting
    futures[0].cancel()
    crowd.gates["c"].open()
    done, waiting = wait(futures, PATIENCE)
    assert done == set(futures)
    assert not waiting
    assert [future.cancelled() for future in futures] == [True, False, False]


def test_wait_for_one_that_is_cancelled(proxy: Crowd, crowd: Crowd) -> None:
    """Who waits for a future in another thread is told at once, as with the futures of an executor."""
    future = proxy.wait.submit("a")
    crowd.tally.wait_for("running", 1)
    waiting = Running(lambda: wait([future], PATIENCE).done)
    assert future.cancel()
    assert waiting.result() == {future}


def test_gather(proxy: Crowd, crowd: Crowd) -> None:
    """Awaitables and wrapped futures beside each other, with an error among them; in the order in which they stand."""
    wrong: Any = "x"

    async def main() -> list[Any]:
        async with asyncio.timeout(PATIENCE):
            crowd.gates["a"].open()
            outcomes: Any = await asyncio.gather(
                proxy.add.aio(1, 2),
                asyncio.wrap_future(proxy.wait.submit("a")),
                proxy.add.aio(1, wrong),
                proxy.hold.with_options(timeout=0.001)(1),
                return_exceptions=True,
            )
            return list(outcomes)

    three, name, refused, late = asyncio.run(main())
    assert (three, name) == (3, "a")
    assert isinstance(refused, TypeError)
    assert isinstance(late, DeadlineExceeded)


def test_a_task_group_cancels_the_others(proxy: Crowd, crowd: Crowd) -> None:
    """When one call fails, those beside it are cancelled, and their handlers end."""

    async def main() -> None:
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(held(number))
            await asyncio.to_thread(crowd.tally.wait_for, "running", 10)
            raise KeyError("enough")

    async def held(number: int) -> int:
        return await proxy.hold(number)

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(main())
    assert caught.group_contains(KeyError)
    crowd.tally.wait_for("running", 0)
    assert crowd.tally["cancelled"] == 10


@pytest.mark.parametrize("name", ["stay", "hold"])
def test_a_running_future_can_be_cancelled(
    client: Client[Any], server: Server, proxy: Crowd, crowd: Crowd, name: str
) -> None:
    """Unlike that of an executor; then its handler, in a thread or a task, ends."""
    future: Future[Any] = proxy.stay.submit() if name == "stay" else proxy.hold.submit(1)
    crowd.tally.wait_for("running", 1)
    assert not future.done()
    assert future.cancel()
    assert future.cancel(), "again, which changes nothing"
    assert future.cancelled()
    assert future.done()
    with pytest.raises(CancelledError):
        future.result(0)
    crowd.tally.wait_for("running", 0)
    expect_nothing_left(client, server)
    assert core_of(client).late_replies == 1


def test_a_future_that_is_done_cannot_be_cancelled(proxy: Crowd) -> None:
    future = proxy.add.submit(1, 2)
    assert future.result(PATIENCE) == 3
    assert not future.cancel()
    assert not future.cancelled()


@pytest.mark.unmeasured
def test_cancelled_and_answered_at_the_same_time(client: Client[Any], server: Server, proxy: Crowd) -> None:
    """Whoever is first counts, and the caller is told once."""
    for number in range(500):
        future = proxy.add.submit(number, 1)
        told: list[Future[int]] = []
        future.add_done_callback(told.append)
        cancelling = Running(future.cancel)
        try:
            assert future.result(PATIENCE) == number + 1
            assert cancelling.result() is False
        except CancelledError:
            assert cancelling.result() is True
        assert told == [future]
    expect_nothing_left(client, server)


# Room


def few(colours: Colours, crowd: Crowd, calls: int) -> AbstractContextManager[BaseServer[Any]]:
    return colours.serve(crowd, url=URL, max_calls=calls)


def fill(proxy: Crowd, crowd: Crowd, calls: int) -> list[Future[int]]:
    """As many calls as the caller makes of those that the peer takes: one place is kept for who reads for himself."""
    futures = [proxy.hold.submit(number) for number in range(calls - 1)]
    crowd.tally.wait_for("running", calls - 1)
    return futures


def test_a_call_past_the_limit_waits_at_the_caller(crowd: Crowd, colours: Colours) -> None:
    with few(colours, crowd, 4) as server, colours.connect(server.url) as client:
        proxy = client.proxy(Crowd)
        futures = fill(proxy, crowd, 4)
        room = room_of(client)
        for form in (proxy.add.submit, proxy.add.call):
            waiting: Running[Any] = Running(form, 1, 2)
            until(lambda: room.waiting == 1)
            assert core_of(server).running == 3
            assert futures.pop().cancel()
            result = waiting.result()
            assert (result.result(PATIENCE) if isinstance(result, Future) else result) == 3
            futures += fill_up(proxy, crowd)
        crowd.open()
        wait(futures, PATIENCE)


def fill_up(proxy: Crowd, crowd: Crowd) -> list[Future[int]]:
    future = proxy.hold.submit(0)
    crowd.tally.wait_for("running", 3)
    return [future]


@pytest.mark.parametrize("way", ["with_options", "deadline", "call_timeout"])
@pytest.mark.parametrize("form", ["call", "submit", "aio"])
def test_waiting_for_room_ends_with_the_deadline(crowd: Crowd, form: str, way: str, colours: Colours) -> None:
    """Nothing of the call was sent then."""
    timeout = 0.05
    with (
        few(colours, crowd, 4) as server,
        colours.connect(server.url, call_timeout=timeout if way == "call_timeout" else None) as client,
    ):
        proxy = client.proxy(Crowd)
        hold = proxy.hold.with_options(timeout=PATIENCE)
        futures = [hold.submit(number) for number in range(3)]
        crowd.tally.wait_for("running", 3)
        add = proxy.add.with_options(timeout=timeout) if way == "with_options" else proxy.add

        def make() -> object:
            match form:
                case "call":
                    with block():
                        return add(1, 2)
                case "submit":
                    with block():
                        return add.submit(1, 2).result(PATIENCE)
                case _:
                    return asyncio.run(awaited())

        async def awaited() -> int:
            with block():
                result: int = await add.aio(1, 2)
                return result

        def block() -> contextlib.AbstractContextManager[None]:
            return deadline(timeout) if way == "deadline" else contextlib.nullcontext()

        with pytest.raises(DeadlineExceeded, match="no room"):
            make()
        assert core_of(server).running == 3
        assert len(core_of(client).calls) == 3
        crowd.open()
        assert {future.result(PATIENCE) for future in futures} == {0, 1, 2}


def test_nested_calls_do_not_wait_for_room(crowd: Crowd, colours: Colours) -> None:
    """The client has no room left for calls of the server's; one that is nested in one of its own is made at once."""
    exposed = Crowd()
    with (
        few(colours, crowd, 4) as server,
        colours.connect(server.url, expose=[exposed], max_calls=2) as client,
    ):
        back = server.peers[0].proxy(Crowd)
        held = back.hold.submit(1)
        exposed.tally.wait_for("running", 1)
        top_level = back.add.with_options(timeout=0.02)
        with pytest.raises(DeadlineExceeded, match="no room"):
            top_level.submit(1, 2)
        assert client.proxy(Crowd).through(5) == 6
        exposed.open()
        assert held.result(PATIENCE) == 1


def test_an_awaited_call_that_waits_for_room_does_not_hold_up_its_loop(crowd: Crowd, colours: Colours) -> None:
    with few(colours, crowd, 4) as server, colours.connect(server.url) as client:
        proxy = client.proxy(Crowd)

        async def main() -> list[int]:
            async with asyncio.timeout(PATIENCE):
                calls = [asyncio.ensure_future(proxy.hold(number)) for number in range(20)]
                await asyncio.to_thread(crowd.tally.wait_for, "running", 3)
                crowd.open()
                results: list[int] = await asyncio.gather(*calls)
                return results

        assert asyncio.run(main()) == list(range(20))
        assert crowd.tally["running, begun"] == 20


def test_a_cancelled_task_that_waits_for_room_makes_no_call(crowd: Crowd, colours: Colours) -> None:
    with few(colours, crowd, 4) as server, colours.connect(server.url) as client:
        proxy = client.proxy(Crowd)
        futures = fill(proxy, crowd, 4)

        async def main() -> None:
            async with asyncio.timeout(PATIENCE):
                task = asyncio.ensure_future(proxy.hold(4))
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

        asyncio.run(main())
        crowd.open()
        wait(futures, PATIENCE)
        assert proxy.add(1, 2) == 3
        assert crowd.tally["running, begun"] == 3


def test_a_cancelled_handler_that_waits_for_room_elsewhere_stops(crowd: Crowd, log: Log, colours: Colours) -> None:
    """A handler calls another server, which has no room: it is told when its own call is cancelled."""
    middle = Middle()
    with few(colours, crowd, 4) as far, colours.connect(far.url) as link, colours.serve(middle, url=URL) as server:
        middle.proxy = link.proxy(Crowd)
        futures = fill(middle.proxy, crowd, 4)
        room = room_of(link)
        with colours.connect(Middle, server.url) as proxy:
            future = proxy.pass_on.submit(1)
            until(lambda: room.waiting == 1)
            assert future.cancel()
            middle.tally.wait_for("running", 0)
        assert [type(error) for error in middle.errors] == [CallCancelled]
        crowd.open()
        wait(futures, PATIENCE)
        assert crowd.tally["running, begun"] == 3


class Middle(Service):
    def __init__(self) -> None:
        self.proxy: Crowd
        self.tally = Tally()
        self.errors: list[BaseException] = []

    @rpc
    def pass_on(self, number: int) -> int:
        with self.tally.running():
            try:
                return self.proxy.hold.call(number)
            except BaseException as error:
                self.errors.append(error)
                raise


def test_many_threads_wait_for_room_and_all_get_it(crowd: Crowd, colours: Colours) -> None:
    with few(colours, crowd, 2) as server, colours.connect(server.url) as client:
        proxy = client.proxy(Crowd)
        start = threading.Barrier(50)

        def call(number: int) -> int:
            start.wait(PATIENCE)
            future = proxy.add.submit(number, 0)
            if number % 3 == 0:
                future.cancel()
                return -1
            result: int = future.result(PATIENCE)
            return result

        running = [Running(call, number) for number in range(50)]
        assert [one.result() for one in running] == [-1 if number % 3 == 0 else number for number in range(50)]
        expect_nothing_left(client, server)


@pytest.mark.parametrize("end", ["answered", "cancelled", "lost"])
def test_tasks_wait_for_room_in_line(crowd: Crowd, end: str, colours: Colours) -> None:
    """Several loops and threads share four places: each call is made once; who leaves the line leaves his place."""
    with few(colours, crowd, 4) as server, colours.connect(server.url) as client:
        proxy = client.proxy(Crowd)
        held = fill(proxy, crowd, 4)
        room = room_of(client)

        async def main() -> list[Any]:
            async with asyncio.timeout(PATIENCE):
                tasks = [asyncio.ensure_future(proxy.add.aio(number, 1)) for number in range(40)]
                await asyncio.sleep(0)
                if end == "cancelled":
                    for task in tasks[::2]:
                        task.cancel()
                crowd.tally.add("in line")
                return await asyncio.gather(*tasks, return_exceptions=True)

        loops = [Running(lambda: asyncio.run(main())) for _ in range(3)]
        crowd.tally.wait_for("in line", 3)  # before that, there may be 60 on the way up as well
        until(lambda: room.waiting == (60 if end == "cancelled" else 120))
        if end == "lost":
            client.close()
        else:
            crowd.open()
        for one in loops:
            for number, result in enumerate(one.result()):
                if end == "lost":
                    assert isinstance(result, ConnectionLost)
                elif end == "cancelled" and number % 2 == 0:
                    assert isinstance(result, asyncio.CancelledError)
                else:
                    assert result == number + 1
        assert room.waiting == 0
        assert not room._line
        wait(held, PATIENCE)


def test_arguments_of_awaited_calls_that_need_their_loop(crowd: Crowd, colours: Colours) -> None:
    """The items of the calls that were made come from the loop in which others wait for room."""

    async def numbers() -> AsyncIterator[int]:
        for number in range(10):
            await asyncio.sleep(0)
            yield number

    with few(colours, crowd, 4) as server, colours.connect(server.url) as client:
        proxy = client.proxy(Crowd)

        async def main() -> list[int]:
            async with asyncio.timeout(PATIENCE):
                results: list[int] = await asyncio.gather(*(proxy.total(numbers()) for _ in range(30)))
                return results

        assert asyncio.run(main()) == [45] * 30


def test_a_task_whose_time_is_over_in_line_makes_no_call(crowd: Crowd, colours: Colours) -> None:
    """The time in line counts, and what is left of it is the call's."""
    with few(colours, crowd, 4) as server, colours.connect(server.url) as client:
        proxy = client.proxy(Crowd)
        held = fill(proxy, crowd, 4)

        async def main() -> None:
            async with asyncio.timeout(PATIENCE):
                waiting = asyncio.ensure_future(proxy.left.with_options(timeout=PATIENCE).aio())
                await asyncio.sleep(0)  # its time begins before that of the next one
                with pytest.raises(DeadlineExceeded, match="no room"):
                    await proxy.add.with_options(timeout=0.05).aio(1, 2)
                crowd.open()
                assert 0 < await waiting < PATIENCE - 0.05

        asyncio.run(main())
        wait(held, PATIENCE)


class Doubler(Service):
    """An async stream over another."""

    @rpc
    async def double(self, items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            yield 2 * item


async def counted(limit: int) -> AsyncIterator[int]:
    for number in range(limit):
        await asyncio.sleep(0)
        yield number


class TestStreamsInLine:
    """Streams that are opened where the peer has no room: the loop goes on, which their arguments need."""

    def test_all_get_their_turn(self, colours: Colours) -> None:
        async def one(proxy: Doubler) -> list[int]:
            return [item async for item in proxy.double(counted(3))]

        async def main(proxy: Doubler) -> list[list[int]]:
            async with asyncio.timeout(PATIENCE):
                return await asyncio.gather(*(one(proxy) for _ in range(20)))

        with colours.serve(Doubler(), url=URL, max_calls=3) as server, colours.connect(Doubler, server.url) as proxy:
            assert asyncio.run(main(proxy)) == [[0, 2, 4]] * 20

    def test_one_that_is_left_before_its_turn_is_not_sent(self, colours: Colours) -> None:
        async def main(proxy: Doubler) -> None:
            endless = [proxy.double(counted(10**9)) for _ in range(2)]
            assert [await anext(stream) for stream in endless] == [0, 0]
            waiting = proxy.double(counted(3))
            assert isinstance(waiting, StreamInLine)
            await waiting.aclose()
            await waiting.aclose()
            with pytest.raises(StopAsyncIteration):
                await anext(waiting)
            dropped = proxy.double(counted(3))
            assert "double" in repr(dropped)
            del dropped
            asked = proxy.double(counted(3))
            task = asyncio.ensure_future(anext(asked))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            for stream in endless:
                await stream.aclose()
            assert [item async for item in proxy.double(counted(3))] == [0, 2, 4]

        with colours.serve(Doubler(), url=URL, max_calls=3) as server, colours.connect(Doubler, server.url) as proxy:
            asyncio.run(main(proxy))

    def test_a_deadline_passes_in_line(self, colours: Colours) -> None:
        async def main(proxy: Doubler) -> None:
            endless = [proxy.double(counted(10**9)) for _ in range(2)]
            assert [await anext(stream) for stream in endless] == [0, 0]
            with pytest.raises(DeadlineExceeded):
                await anext(proxy.double.with_options(timeout=0.05)(counted(3)))
            for stream in endless:
                await stream.aclose()

        with colours.serve(Doubler(), url=URL, max_calls=3) as server, colours.connect(Doubler, server.url) as proxy:
            asyncio.run(main(proxy))
