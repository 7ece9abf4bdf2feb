"""Interleavings that happen once in a million times, brought about on purpose: threads are held where they may be."""

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest

from tests.streaming import AsyncGate, Pipes, connection_of, connections_of, expect_empty, joined
from tests.support import PATIENCE, Gate, Log, Running, until
from typedrpc import Server, ServerBusy, Service, connect, current_call, rpc
from typedrpc.common import apart, caller, sending
from typedrpc.common import loop as loop_module
from typedrpc.common.sending import Sender
from typedrpc.sync.connection import Connection
from typedrpc.sync.handling import HandlerThreads
from typedrpc.sync.writer import Writer
from typedrpc.wire import HEADER_SIZE, Kind, unpack_header

pytestmark = pytest.mark.usefixtures("kept_loop", "no_leaks")

URL = "tcp://127.0.0.1:0"


class TellingLock:
    """Tells when a thread has to wait for it."""

    def __init__(self, waits: Gate) -> None:
        self._lock = threading.Lock()
        self._waits = waits
        self.release = self._lock.release

    def acquire(self, blocking: bool = True) -> bool:
        if self._lock.acquire(blocking=False):
            return True
        if not blocking:
            return False
        self._waits.open()
        return self._lock.acquire()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()


@pytest.mark.parametrize("shape", ["result", "argument"])
def test_items_that_the_watcher_sends_come_before_the_end(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watcher has taken out what lay about, and not sent it yet, when the producer comes to its end."""
    taken, go = Gate(), Gate()
    post = Sender._post

    def held(self: Sender, payload: Any) -> None:
        taken.open()
        go.wait()
        post(self, payload)

    def produce() -> Iterator[int]:
        yield from range(3)
        taken.wait()

    # Nothing but the watcher sends what lies about, however slow this machine is.
    monkeypatch.setattr(sending, "QUICK_TIME", inf)
    monkeypatch.setattr(sending, "HOLD_TIME", inf)
    monkeypatch.setattr(Sender, "_post", held)
    monkeypatch.setattr(sending, "threading", SimpleNamespace(Lock=lambda: TellingLock(go)))
    with joined() as pair:
        made: list[int] = []

        def noted() -> Iterator[int]:
            for item in produce():
                made.append(item)
                yield item

        def consume() -> list[int]:
            try:
                if shape == "result":
                    return list(pair.pipes.produce("items"))
                return list(pair.pipes.consume("all", noted()))
            finally:
                go.open()

        pair.service.scripts.update(items=noted, all=list)
        assert Running(consume).result() == made


def kind_of(data: Any) -> int:
    return int(unpack_header(data[:HEADER_SIZE])[1]) if type(data) is bytes else 0


def call_of(data: bytes) -> int:
    return int(unpack_header(data[:HEADER_SIZE])[4])


@pytest.mark.parametrize("form", ["call", "stream"])
def test_a_cancel_that_overtakes_its_call(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A nested call is in the table and not sent yet when the call that it is made within is cancelled."""
    last, middle = Pipes(), Pipes()
    seen: list[bool] = []
    sending, cancelled, sent = Gate(), Gate(), Gate()

    def wait() -> Any:
        seen.append(current_call().cancelled.wait(PATIENCE))
        return []

    last.scripts["wait"] = wait
    with Server(last, url=URL) as at_last, connect(at_last.url) as to_last:
        proxy, connection = to_last.proxy(Pipes), connection_of(to_last)
        middle.scripts["go on"] = lambda: proxy.ask("wait") if form == "call" else list(proxy.produce("wait"))
        with Server(middle, url=URL) as at_middle, connect(at_middle.url) as client:
            write_whole, post = Writer.write_whole, Connection.post

            def held(self: Writer, data: Any, *args: Any, **more: Any) -> bool:
                if self is connection._writer and kind_of(data) == Kind.REQUEST:
                    sending.open()
                    cancelled.wait()
                    found = write_whole(self, data, *args, **more)
                    (far,) = connections_of(at_last)
                    until(lambda: far.core.last_accepted == call_of(data), "the call")
                    sent.open()
                    return found
                return write_whole(self, data, *args, **more)

            def telling(self: Connection, data: Any) -> None:
                post(self, data)
                if self is connection and kind_of(data) == Kind.CANCEL:
                    cancelled.open()

            monkeypatch.setattr(Writer, "write_whole", held)
            monkeypatch.setattr(Connection, "post", telling)
            future = client.proxy(Pipes).ask.submit("go on")
            sending.wait()
            assert future.cancel()
            sent.wait()
            # What runs it has seen the cancel, unless that came before it began.
            expect_empty(connection, connection_of(client), *connections_of(at_last))
            assert seen in ([True], [])


def test_an_async_argument_whose_call_is_over_before_its_task_begins() -> None:
    async def never() -> AsyncIterator[int]:
        await asyncio.Event().wait()
        yield 0

    async def refuse(items: AsyncIterator[int]) -> None:
        raise ValueError("no")

    async def main() -> None:
        with pytest.raises(ValueError, match="no"):
            # The loop does not turn meanwhile.
            pair.pipes.aconsume.submit("refuse", never()).result(PATIENCE)
        for _ in range(5):
            await asyncio.sleep(0)  # now it has begun
        async with asyncio.timeout(PATIENCE):
            while len(asyncio.all_tasks()) > 1:
                await asyncio.sleep(0)

    with joined() as pair:
        pair.service.scripts["refuse"] = refuse
        asyncio.run(main())


def test_a_kept_loop_that_could_not_be_started_is_started_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = loop_module._KeptLoop()
    monkeypatch.setattr(loop_module, "_run", lambda loop: loop.run_forever())  # this one is to end with the test

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            kept.get()
    loop = kept.get()
    try:
        assert asyncio.run_coroutine_threadsafe(asyncio.sleep(0, "runs"), loop).result(PATIENCE) == "runs"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        until(lambda: not loop.is_running(), "the end of the loop")
        loop.close()


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), OSError(24, "Too many open files")])
def test_async_handlers_without_a_loop_are_refused_and_leave_nothing(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> Any:
        raise error

    async def three() -> int:
        return 3

    with joined() as pair:
        pair.service.scripts["three"] = three
        with monkeypatch.context() as patch:
            patch.setattr(apart, "kept_loop", refuse)
            with pytest.raises(ServerBusy):
                pair.pipes.aask.call("three")
            pair.expect_empty()
        assert pair.pipes.aask.call("three") == 3


def test_what_an_async_handler_was_given_goes_with_its_call() -> None:
    """Not when the garbage collector comes by."""
    calls: list[weakref.ref[Any]] = []

    class Told:
        pass

    async def note() -> None:
        told = Told()
        current_call().args = (told,)
        calls.append(weakref.ref(told))

    with joined() as pair:
        pair.service.scripts["note"] = note
        pair.pipes.aask.call("note")
        gc.disable()
        try:
            pair.pipes.aask.call("note")
            until(lambda: calls[1]() is None, "the end of what it was given")
        finally:
            gc.enable()


@pytest.mark.parametrize("form", ["stream", "argument"])
def test_what_has_no_thread_leaves_nothing_in_the_tables(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*anything: object) -> Any:
        raise RuntimeError("can't start new thread")

    async def none() -> AsyncIterator[int]:
        nothing: list[int] = []
        for item in nothing:
            yield item

    async def total(items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])

    async def main() -> None:
        if form == "stream":
            pair.pipes.aproduce("none")
        else:
            await asyncio.to_thread(pair.pipes.aconsume.call, "total", none())

    with joined() as pair:
        pair.service.scripts.update(none=none, total=total)
        assert pair.pipes.add(1, 2) == 3
        with monkeypatch.context() as patch:
            patch.setattr(HandlerThreads, "expect", refuse)
            patch.setattr(caller, "kept_loop", refuse)
            with pytest.raises(RuntimeError):
                asyncio.run(main())
        pair.expect_empty()
        assert pair.pipes.add(1, 2) == 3


def test_all_are_told_that_a_call_was_cancelled_also_after_one_that_fails(log: Log) -> None:
    told: list[str] = []
    began, over = Gate(), Gate()

    def fail() -> None:
        told.append("fails")
        raise RuntimeError("can't start new thread")

    def wait() -> None:
        current_call().on_cancel("first", lambda: told.append("first"))
        current_call().on_cancel("second", fail)
        current_call().on_cancel("third", lambda: told.append("third"))
        began.open()
        current_call().cancelled.wait(PATIENCE)
        over.open()

    with joined() as pair:
        pair.service.scripts["wait"] = wait
        future = pair.pipes.ask.submit("wait")
        began.wait()
        assert future.cancel()
        over.wait()
        assert pair.pipes.add(1, 2) == 3
    assert sorted(told) == ["fails", "first", "third"]
    assert "could not be told that Pipes.ask was cancelled" in log.line()


def test_the_outcome_of_an_async_handler_in_a_batch_is_not_held_back_by_the_others() -> None:
    """The caller's contract does not say that the handler is async, so that its calls share frames."""
    gone = AsyncGate()

    class There(Service, name="Steps"):
        @rpc
        async def step(self, number: int) -> int:
            if number:
                await gone.pass_through()
            return number

    class Here(Service, name="Steps"):
        @rpc
        def step(self, number: int) -> int:
            raise NotImplementedError

    with Server(There(), url=URL) as server, connect(server.url) as client:
        results = client.proxy(Here).step.map([0, 0, 0, 0, 1, 1, 1, 0, 1, 1, 0, 1])
        try:
            found = Running(lambda: [next(results) for _ in range(4)])
            until(lambda: found.done, "what is done")
        finally:
            gone.open()
        assert [*found.result(), *results] == [0, 0, 0, 0, 1, 1, 1, 0, 1, 1, 0, 1]
