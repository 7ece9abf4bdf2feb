"""Deadlines and cancellation through several servers: A calls B, which calls C, in every way in which handlers wait.

Work that still runs is counted at each server, and the tests wait for the counts to come to zero. How many milliseconds
that takes is measured by ``make prove``.
"""

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any, Final

import pytest

from tests.ends import Colours, alike, for_clients
from tests.support import PATIENCE, FakeServer, Forwarder, Gate, RawPeer, Running, Tally, until
from typedrpc import (
    CallCancelled,
    DeadlineExceeded,
    RpcError,
    Service,
    current_call,
    deadline,
    rpc,
)
from typedrpc.common.agreements import AGREE_TIME
from typedrpc.wire import Kind

pytestmark = [pytest.mark.usefixtures("kept_loop", "no_leaks"), pytest.mark.unmeasured]
colours = alike

URL: Final = "tcp://127.0.0.1:0"
LIMIT: Final = 0.1


class Stage(Service):
    """One of several servers in a row: each command goes on to the next of them, and waits at the last one."""

    def __init__(self, next_one: "Stage | None" = None) -> None:
        self.next_one = next_one
        self.tally = Tally()
        self.errors: list[BaseException] = []
        self.left: list[float] = []

    def note(self) -> None:
        """What the handler sees of its deadline."""
        end = current_call().deadline
        self.left.append(-1.0 if end is None else end - monotonic())

    @rpc
    def look(self) -> list[float]:
        """The seconds that are left here and at the servers behind; -1 for no limit."""
        self.note()
        return [self.left.pop(), *(self.next_one.look() if self.next_one else ())]

    @rpc
    async def alook(self) -> list[float]:
        self.note()
        return [self.left.pop(), *(await self.next_one.alook() if self.next_one else ())]

    @rpc
    def items(self) -> Iterator[float]:
        """The same as a stream."""
        self.note()
        yield self.left.pop()
        if self.next_one:
            yield from self.next_one.items()

    # How handlers wait

    @rpc
    def call(self) -> None:
        """In a nested call; at the last server, for its cancellation."""
        with self.watched():
            if self.next_one:
                self.next_one.call()
            else:
                current_call().cancelled.wait()
                current_call().cancelled.check()

    @rpc
    def future(self) -> None:
        """For the future of a nested call."""
        with self.watched():
            if self.next_one:
                self.next_one.future.submit().result(PATIENCE)
            else:
                while not current_call().cancelled.wait(0.01):
                    pass
                current_call().cancelled.check()

    @rpc
    def consume(self) -> None:
        """In the iteration of a stream of the next server, which yields nothing."""
        with self.watched():
            for _ in self.silence():
                pass

    @rpc
    def silence(self) -> Iterator[int]:
        """A stream without an item: it passes on what the next server yields, which is nothing."""
        with self.watched():
            if self.next_one:
                yield from self.next_one.silence()
            else:
                current_call().cancelled.wait()
                current_call().cancelled.check()

    @rpc
    def produce(self) -> Iterator[bytes]:
        """In the yield of an endless stream, of which nobody takes more than a window."""
        with self.watched():
            if self.next_one:
                yield from self.next_one.produce()
            while True:
                yield bytes(8192)

    @rpc
    def take(self, items: Iterator[int]) -> int:
        """In the iteration of an argument, of which the caller gives nothing."""
        with self.watched():
            return self.next_one.take(items) if self.next_one else sum(items)

    @rpc
    def pipe(self, items: Iterator[int]) -> Iterator[int]:
        """In both."""
        with self.watched():
            yield from self.next_one.pipe(items) if self.next_one else items

    @rpc
    async def acall(self) -> None:
        """The same in tasks."""
        with self.watched():
            if self.next_one:
                await self.next_one.acall()
            else:
                await asyncio.Event().wait()

    @rpc
    async def asilence(self) -> AsyncIterator[int]:
        with self.watched():
            if self.next_one:
                async for item in self.next_one.asilence():
                    yield item
            else:
                await asyncio.Event().wait()

    @rpc
    async def aproduce(self) -> AsyncIterator[bytes]:
        with self.watched():
            if self.next_one:
                async for item in self.next_one.aproduce():
                    yield item
            while True:
                yield bytes(8192)

    @rpc
    async def atake(self, items: AsyncIterator[int]) -> int:
        with self.watched():
            if self.next_one:
                return await self.next_one.atake(items)
            return sum([item async for item in items])

    @rpc
    async def mixed(self) -> None:
        """A task that calls a handler in a thread, which calls a task."""
        with self.watched():
            if self.next_one:
                await self.next_one.call.aio()
            else:
                await asyncio.Event().wait()

    def watched(self) -> "Watched":
        return Watched(self)


class Watched:
    """Counts a handler while it runs, and notes what it ended with."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._counting = stage.tally.running()

    def __enter__(self) -> None:
        self._counting.__enter__()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            self._stage.errors.append(error)
        self._counting.__exit__(None, None, None)


class Row:
    """Servers B and C, and A's proxy of B."""

    def __init__(self, proxy: Stage, b: Stage, c: Stage, a_to_b: Any, b_to_c: Any) -> None:
        self.proxy = proxy
        self.b = b
        self.c = c
        self.links = [a_to_b, b_to_c]

        self.end = Gate()
        """When it opens, arguments end."""

    def never(self) -> Iterator[int]:
        """An argument without an item."""
        self.end.wait()
        yield from ()

    def wait_until_none_runs(self) -> None:
        self.b.tally.wait_for("running", 0)
        self.c.tally.wait_for("running", 0)


@pytest.fixture
def row(colours: Colours) -> Iterator[Row]:
    c = Stage()
    with colours.serve(c, url=URL) as at_c, colours.connect(at_c.url) as b_to_c:
        b = Stage(b_to_c.proxy(Stage))
        with colours.serve(b, url=URL) as at_b, colours.connect(at_b.url) as a_to_b:
            row = Row(a_to_b.proxy(Stage), b, c, a_to_b, b_to_c)
            yield row
            row.end.open()


async def anever() -> AsyncIterator[int]:
    await asyncio.Event().wait()
    yield 0


def start(row: Row, name: str) -> Any:
    """Begin a call of one of the ways to wait, and wait until it ends."""
    command = getattr(row.proxy, name)
    match name:
        case "call" | "future" | "consume":
            return command()
        case "silence" | "produce":
            return next(skipping(command()))
        case "take":
            return command(row.never())
        case "pipe":
            return next(command(row.never()))
        case "acall" | "mixed":
            return command.call()
        case _:
            return asyncio.run(start_async(command, name))


async def start_async(command: Any, name: str) -> Any:
    async with asyncio.timeout(PATIENCE):
        if name == "atake":
            return await command(anever())
        async for _ in command():
            await asyncio.sleep(0)
        return None


def skipping(items: Iterator[Any]) -> Iterator[Any]:
    """Iterates to the end, and gives nothing on the way."""
    for _ in items:
        pass
    yield "the stream came to its end"


WAYS: Final = [
    "call",
    "future",
    "consume",
    "silence",
    "produce",
    "take",
    "pipe",
    "acall",
    "asilence",
    "aproduce",
    "atake",
    "mixed",
]


@pytest.mark.parametrize("way", WAYS)
def test_a_deadline_ends_the_work_at_all_servers(row: Row, way: str) -> None:
    for limit in (LIMIT, 10 * LIMIT, PATIENCE / 2):
        with pytest.raises(DeadlineExceeded), deadline(limit):
            start(row, way)
        row.wait_until_none_runs()
        expect_no_calls(row)
        if row.b.tally["running, begun"] and row.c.tally["running, begun"]:
            break
    else:
        pytest.fail("the handlers do not begin")


@pytest.mark.parametrize("way", ["call", "future", "acall", "mixed"])
def test_a_cancel_ends_the_work_at_all_servers(row: Row, way: str) -> None:
    """What waits at B learns that its own call was cancelled, and at C it is the same."""
    future = getattr(row.proxy, way).submit()
    row.c.tally.wait_for("running", 1)
    assert future.cancel()
    row.wait_until_none_runs()
    if way in ("call", "future"):
        assert [type(error) for error in row.b.errors + row.c.errors] == [CallCancelled] * 2
    elif way == "acall":
        assert [type(error) for error in row.b.errors + row.c.errors] == [asyncio.CancelledError] * 2
    expect_no_calls(row)


@pytest.mark.parametrize("way", ["silence", "produce", "pipe"])
def test_a_closed_stream_ends_the_work_at_all_servers(row: Row, way: str) -> None:
    command = getattr(row.proxy, way)
    stream = command(row.never()) if way == "pipe" else command()
    row.c.tally.wait_for("running", 1)
    stream.close()
    row.wait_until_none_runs()
    expect_no_calls(row)


@pytest.mark.parametrize("way", ["call", "future", "silence", "acall", "asilence"])
def test_a_lost_caller_ends_the_work_at_all_servers(row: Row, way: str) -> None:
    running = Running(start, row, way)
    row.c.tally.wait_for("running", 1)
    row.links[0].close()
    assert isinstance(running.error(), RpcError)
    row.wait_until_none_runs()


def expect_no_calls(row: Row) -> None:
    """A stream that a cancelled handler has left is closed a moment later, when it is collected."""
    for client in row.links:
        calls = client._link.connection.core.calls.calls
        until(lambda calls=calls: not calls)  # type: ignore[misc]


# What is left


@pytest.mark.parametrize("name", ["look", "alook", "items"])
def test_what_is_left_travels_from_call_to_call(row: Row, name: str) -> None:
    command = getattr(row.proxy, name)

    def seen() -> list[float]:
        return list(command()) if name == "items" else command.call() if name == "alook" else command()

    assert seen() == [-1, -1]
    with deadline(PATIENCE):
        at_b, at_c = seen()
    assert PATIENCE - 10 < at_c <= at_b <= PATIENCE
    with deadline(3 * PATIENCE), deadline(2 * PATIENCE):
        at_b, at_c = seen()
        assert PATIENCE < at_c <= at_b <= 2 * PATIENCE
        with deadline(PATIENCE):
            assert max(seen()) <= PATIENCE
        with deadline(100 * PATIENCE):
            assert max(seen()) <= 2 * PATIENCE, "an inner block lengthens nothing"
        assert max(seen()) > PATIENCE
    assert seen() == [-1, -1]


def test_a_time_out_shortens_a_block_and_does_not_lengthen_it(row: Row) -> None:
    with deadline(PATIENCE):
        assert max(row.proxy.look.with_options(timeout=PATIENCE / 2)()) <= PATIENCE / 2
        assert PATIENCE / 2 < max(row.proxy.look.with_options(timeout=10 * PATIENCE)()) <= PATIENCE


def test_one_block_for_several_calls(row: Row) -> None:
    """They have the seconds together: each sees less than the one before."""
    with deadline(PATIENCE):
        seen = [row.proxy.look()[0] for _ in range(5)]
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) == 5


def test_the_default_of_a_client(row: Row, colours: Colours) -> None:
    """It counts where nobody says another number; streams are left alone by it, and bound by what is said for them."""
    with (
        colours.serve(Stage(row.b.next_one), url=URL) as server,
        colours.connect(server.url, call_timeout=PATIENCE) as client,
    ):
        proxy = client.proxy(Stage)
        at_server, at_b = proxy.look()
        assert PATIENCE - 10 < at_b <= at_server <= PATIENCE
        assert max(proxy.look.submit().result(PATIENCE)) <= PATIENCE
        assert max(asyncio.run(awaited(proxy))) <= PATIENCE
        assert min(proxy.look.with_options(timeout=2 * PATIENCE)()) > PATIENCE
        with deadline(PATIENCE / 2):
            assert max(proxy.look()) <= PATIENCE / 2
        assert list(proxy.items()) == [-1, -1]
        assert all(0 < left <= PATIENCE for left in proxy.items.with_options(timeout=PATIENCE)())
        with deadline(PATIENCE):
            assert all(0 < left <= PATIENCE for left in proxy.items())


async def awaited(proxy: Stage) -> list[float]:
    return await proxy.alook()


def test_a_default_ends_a_call_and_no_stream(row: Row, colours: Colours) -> None:
    stage = Stage()
    with colours.serve(stage, url=URL) as server, colours.connect(server.url, call_timeout=0.05) as client:
        proxy = client.proxy(Stage)
        stream = proxy.silence()
        stage.tally.wait_for("running", 1)
        with pytest.raises(DeadlineExceeded):
            proxy.call()
        stage.tally.wait_for("running", 1)
        stream.close()
        stage.tally.wait_for("running", 0)
        with pytest.raises(DeadlineExceeded):
            list(proxy.silence.with_options(timeout=0.05)())
        stage.tally.wait_for("running", 0)


def test_a_time_out_covers_the_whole_of_a_stream(row: Row) -> None:
    """Not the time between two items: items come all the time, and it ends all the same."""
    with pytest.raises(DeadlineExceeded):
        for _ in row.proxy.produce.with_options(timeout=0.1)():
            pass
    row.wait_until_none_runs()


# Wherever context variables go


def test_tasks_have_the_deadline_of_the_block_that_starts_them(row: Row) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE):
            with deadline(PATIENCE):
                inside = asyncio.create_task(row.proxy.look.aio())
                several = asyncio.gather(row.proxy.alook.aio(), row.proxy.look.aio())
            outside = asyncio.create_task(row.proxy.look.aio())
            for left in (await inside, *await several):
                assert 0 < min(left) <= max(left) <= PATIENCE
            assert await outside == [-1, -1]

    asyncio.run(main())


def test_threads_have_it_with_a_copied_context(row: Row) -> None:
    async def in_threads() -> list[float]:
        with deadline(PATIENCE):
            return await asyncio.to_thread(row.proxy.look)

    assert 0 < max(asyncio.run(in_threads())) <= PATIENCE
    with ThreadPoolExecutor(1) as pool, deadline(PATIENCE):
        context = contextvars.copy_context()
        assert 0 < max(pool.submit(context.run, row.proxy.look).result(PATIENCE)) <= PATIENCE
        assert pool.submit(contextvars.Context().run, row.proxy.look).result(PATIENCE) == [-1, -1]


class Spread(Service):
    """A handler that calls from threads and tasks of its own."""

    def __init__(self, next_one: Stage) -> None:
        self.next_one = next_one

    @rpc
    def in_a_thread(self) -> list[float]:
        context = contextvars.copy_context()
        left: list[float] = Running(context.run, self.next_one.look).result()
        return left

    @rpc
    async def in_tasks(self) -> list[float]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._look()) for _ in range(2)]
        return [left for task in tasks for left in task.result()]

    async def _look(self) -> list[float]:
        return await self.next_one.look.aio()


def test_a_handler_gives_it_to_its_threads_and_tasks(row: Row, colours: Colours) -> None:
    assert row.b.next_one is not None
    with colours.serve(Spread(row.b.next_one), url=URL) as server, colours.connect(Spread, server.url) as proxy:
        with deadline(PATIENCE):
            for left in (proxy.in_a_thread(), proxy.in_tasks.call()):
                assert 0 < min(left) <= max(left) <= PATIENCE
        assert proxy.in_a_thread() == [-1]
        assert proxy.in_tasks.call() == [-1, -1]


def test_a_handler_has_no_more_than_its_caller(row: Row, colours: Colours) -> None:
    """Whatever it says itself."""

    class Generous(Service):
        @rpc
        def look(self) -> list[float]:
            assert row.b.next_one is not None
            with deadline(100 * PATIENCE):
                return row.b.next_one.look.with_options(timeout=200 * PATIENCE)()

    with colours.serve(Generous(), url=URL) as server, colours.connect(server.url) as client:
        proxy = client.proxy(Generous)
        assert max(proxy.look.with_options(timeout=PATIENCE)()) <= PATIENCE
        assert PATIENCE < max(proxy.look()) <= 100 * PATIENCE


# When it has passed


FORMS: Final = ["call", "submit", "aio", "stream", "astream", "argument", "notify"]


@pytest.mark.parametrize("how", ["block", "time-out"])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_past_its_deadline_is_not_sent(row: Row, form: str, how: str, colours: Colours) -> None:
    with colours.serve(stage := Stage(), url=URL) as server, Forwarder(server.url) as between:
        with colours.connect(between.url) as client:
            proxy = client.proxy(Stage)
            proxy.look()
            timeout = 0.0 if how == "time-out" else None
            with deadline(0) if how == "block" else contextlib.nullcontext():
                for _ in range(3):
                    with pytest.raises(DeadlineExceeded, match="the deadline has passed, the call was not sent"):
                        make(proxy, form, timeout)
            proxy.look()
        sent = [frame for frame in between.frames() if frame.kind in (Kind.REQUEST, Kind.NOTIFY)]
        assert [frame.command for frame in sent if frame.command < 0xFF00] == [Stage.look.id] * 2
    assert stage.tally["running, begun"] == 0


def make(proxy: Stage, form: str, timeout: float | None) -> None:
    async def awaited() -> None:
        if form == "aio":
            await proxy.acall.with_options(timeout=timeout)()
        else:
            async for _ in proxy.asilence.with_options(timeout=timeout)():
                pass

    match form:
        case "call":
            proxy.call.with_options(timeout=timeout)()
        case "submit":
            proxy.call.with_options(timeout=timeout).submit()
        case "stream":
            proxy.silence.with_options(timeout=timeout)()
        case "argument":
            proxy.take.with_options(timeout=timeout)(iter([1]))
        case "notify":
            proxy.call.with_options(timeout=timeout).notify()
        case _:
            asyncio.run(awaited())


def test_a_block_that_ends_while_a_call_runs_leaves_the_connection_as_it_was(row: Row) -> None:
    with deadline(0.05):
        with pytest.raises(DeadlineExceeded):
            row.proxy.call()
        with pytest.raises(DeadlineExceeded, match="not sent"):
            row.proxy.look()
    assert row.proxy.look() == [-1, -1]
    row.wait_until_none_runs()


@for_clients
def test_what_is_asked_before_a_call_has_no_more_time_than_the_block(colours: Colours) -> None:
    """The server never tells its contract, and the 10 s that it has otherwise are not waited for."""

    def script(peer: RawPeer) -> None:
        peer.shake_hands()
        peer.question()
        peer.read_to_end()

    with FakeServer(script) as fake, colours.connect(fake.url) as client:
        start = monotonic()
        with pytest.raises(DeadlineExceeded, match="the contract Stage"), deadline(0.05):
            client.proxy(Stage).look()
        assert monotonic() - start < AGREE_TIME / 2


def test_code_that_calls_nothing_is_not_interrupted() -> None:
    gate = Gate()
    with deadline(0):
        gate.open()
        gate.wait()


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_a_deadline_that_is_none(seconds: float) -> None:
    with pytest.raises(ValueError, match="number of seconds from 0 up"), deadline(seconds):
        pass
