"""How calls are given up, by futures, tasks, streams, Ctrl-C and killed processes; what their handlers see of it."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any, Final

import pytest

from tests.ends import Colours, alike, for_servers
from tests.support import PATIENCE, Gate, Log, Program, Running, Tally, until
from typedrpc import (
    CallCancelled,
    Client,
    ConnectionLost,
    DeadlineExceeded,
    Server,
    Service,
    current_call,
    rpc,
)
from typedrpc.common.server import BaseServer

pytestmark = pytest.mark.usefixtures("kept_loop", "no_leaks")
colours = alike

URL: Final = "tcp://127.0.0.1:0"


class Desk(Service):
    """Handlers that note how they learn that nobody wants what they do."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.ends: list[object] = []
        self.gate = Gate()

    @rpc
    def add(self, a: int, b: int) -> int:
        return a + b

    @rpc
    def wait(self) -> str:
        with self.tally.running():
            self.ends.append(current_call().cancelled.wait(PATIENCE))
            return "nobody wants it"

    @rpc
    def poll(self) -> str:
        with self.tally.running():
            cancelled = current_call().cancelled
            while not cancelled:
                cancelled.wait(0.001)
            self.ends.append(bool(cancelled))
            return "nobody wants it"

    @rpc
    def check(self) -> str:
        with self.tally.running():
            cancelled = current_call().cancelled
            try:
                while True:
                    cancelled.check()
                    cancelled.wait(0.001)
            except BaseException as error:
                self.ends.append(error)
                raise

    @rpc
    def ignore(self) -> str:
        """Look at nothing, and come to a result that nobody wants."""
        with self.tally.running():
            self.gate.wait()
            return "nobody wants it"

    @rpc
    def fail(self) -> str:
        """Fail with something else when it is cancelled."""
        with self.tally.running():
            current_call().cancelled.wait(PATIENCE)
            raise LookupError("on the way out")

    @rpc
    def thread_of_its_own(self) -> str:
        """Another thread of the handler's may look as well."""
        with self.tally.running():
            cancelled = current_call().cancelled
            self.ends.append(Running(cancelled.wait, PATIENCE).result())
            return "nobody wants it"

    @rpc
    async def task(self) -> str:
        with self.tally.running():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                self.ends.append(error)
                raise
            finally:
                self.tally.add("finally")
            return ""

    @rpc
    async def slow_finally(self) -> str:
        with self.tally.running():
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                self.tally.add("finally")
            return ""

    @rpc
    async def stubborn(self) -> str:
        """Swallow the cancellation and give a result."""
        with self.tally.running():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                self.ends.append(error)
            return "nobody wants it"

    @rpc
    async def polls(self) -> str:
        """A task may look at the flag too."""
        with self.tally.running():
            try:
                await asyncio.Event().wait()
            finally:
                self.ends.append(bool(current_call().cancelled))
            return ""

    @rpc
    def count(self) -> Iterator[int]:
        with self.tally.running():
            try:
                number = 0
                while True:
                    yield number
                    number += 1
            finally:
                self.tally.add("finally")

    @rpc
    def silence(self) -> Iterator[int]:
        with self.tally.running():
            try:
                current_call().cancelled.wait(PATIENCE)
                yield 1
            finally:
                self.tally.add("finally")

    @rpc
    async def acount(self) -> AsyncIterator[int]:
        with self.tally.running():
            try:
                number = 0
                while True:
                    yield number
                    number += 1
            finally:
                self.tally.add("finally")

    @rpc
    async def asilence(self) -> AsyncIterator[int]:
        with self.tally.running():
            try:
                await asyncio.Event().wait()
                yield 1
            finally:
                self.tally.add("finally")

    @rpc
    def total(self, numbers: Iterator[int]) -> int:
        with self.tally.running():
            try:
                return sum(numbers)
            except BaseException as error:
                self.ends.append(error)
                raise

    @rpc
    async def atotal(self, numbers: AsyncIterator[int]) -> int:
        with self.tally.running():
            try:
                return sum([number async for number in numbers])
            except BaseException as error:
                self.ends.append(error)
                raise

    @rpc
    def back(self) -> str:
        """Wait in a call of the caller's."""
        with self.tally.running():
            try:
                return current_call().peer.proxy(Desk).wait()
            except BaseException as error:
                self.ends.append(error)
                raise

    @rpc
    def use(self, function: Callable[[], str]) -> str:
        """Wait in a callback."""
        with self.tally.running():
            try:
                return function()
            except BaseException as error:
                self.ends.append(error)
                raise


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def server(desk: Desk, colours: Colours) -> Iterator[Server]:
    with colours.serve(desk, url=URL) as server:
        yield server
        desk.gate.open()


@pytest.fixture
def client(server: Server, colours: Colours) -> Iterator[Client[Any]]:
    with colours.connect(server.url) as client:
        yield client


@pytest.fixture
def proxy(client: Client[Any]) -> Desk:
    return client.proxy(Desk)


def core_of(client: Client[Any]) -> Any:
    return client._link.connection.core


def expect_one_late_reply(client: Client[Any]) -> None:
    """What was given up is answered once, which is counted; nothing else is left of it.

    Nobody reads for an idle client: the answer is read with that of the next call.
    """
    core, proxy = core_of(client), client.proxy(Desk)
    until(lambda: proxy.add(1, 2) == 3 and core.late_replies == 1)
    assert [core.calls.calls, core.inflows, core.outflows] == [{}, {}, {}]


# What the handler sees

SEEN: Final[dict[str, object]] = {
    "wait": True,
    "poll": True,
    "check": CallCancelled,
    "thread_of_its_own": True,
    "task": asyncio.CancelledError,
    "stubborn": asyncio.CancelledError,
    "polls": True,
}


def give_up_future(client: Client[Any], desk: Desk, name: str) -> None:
    future: Future[str] = getattr(client.proxy(Desk), name).submit()
    desk.tally.wait_for("running", 1)
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(PATIENCE)


def give_up_task(client: Client[Any], desk: Desk, name: str) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(getattr(client.proxy(Desk), name).aio())
        await asyncio.to_thread(desk.tally.wait_for, "running", 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def give_up_by_time_out(client: Client[Any], desk: Desk, name: str) -> None:
    """A deadline that passes while the handler runs, in whichever of some rounds it does."""
    timeout = 0.01
    while not desk.tally["running, begun"]:
        with pytest.raises(DeadlineExceeded):
            getattr(client.proxy(Desk), name).with_options(timeout=timeout).call()
        timeout *= 3


def give_up_by_loss(client: Client[Any], desk: Desk, name: str) -> None:
    future: Future[str] = getattr(client.proxy(Desk), name).submit()
    desk.tally.wait_for("running", 1)
    client.close()
    assert isinstance(future.exception(PATIENCE), ConnectionLost)


@pytest.mark.parametrize("give_up", [give_up_future, give_up_task, give_up_by_time_out, give_up_by_loss])
@pytest.mark.parametrize("name", SEEN)
def test_what_a_handler_sees(
    client: Client[Any], proxy: Desk, desk: Desk, give_up: Callable[[Client[Any], Desk, str], None], name: str
) -> None:
    """Its flag, its error, or the cancellation of its task, however the call was given up; and nobody is told twice."""
    give_up(client, desk, name)
    desk.tally.wait_for("running", 0)
    expected, ends = SEEN[name], desk.ends
    assert ends
    if isinstance(expected, type):
        assert {type(end) for end in ends} == {expected}
    else:
        assert set(ends) == {expected}
    if give_up in (give_up_future, give_up_task):
        expect_one_late_reply(client)
    if give_up is not give_up_by_loss:
        assert proxy.add(1, 2) == 3


def test_the_finally_of_a_task_may_await(client: Client[Any], proxy: Desk, desk: Desk) -> None:
    give_up_future(client, desk, "slow_finally")
    desk.tally.wait_for("running", 0)
    assert desk.tally["finally"] == 1
    expect_one_late_reply(client)


def test_the_result_of_a_handler_that_looks_at_nothing_is_dropped(client: Client[Any], proxy: Desk, desk: Desk) -> None:
    give_up_future(client, desk, "ignore")
    desk.tally.wait_for("running", 1)
    assert proxy.add(1, 2) == 3
    assert core_of(client).late_replies == 0
    desk.gate.open()
    desk.tally.wait_for("running", 0)
    expect_one_late_reply(client)


def test_what_a_cancelled_handler_raises_is_nobodys(client: Client[Any], proxy: Desk, desk: Desk, log: Log) -> None:
    give_up_future(client, desk, "fail")
    desk.tally.wait_for("running", 0)
    expect_one_late_reply(client)
    assert log.unread == []


def test_it_is_cancelled_once_and_stays_so(client: Client[Any], proxy: Desk, desk: Desk) -> None:
    """A handler that begins to wait after it was cancelled does not wait."""
    future = proxy.ignore.submit()
    desk.tally.wait_for("running", 1)
    assert future.cancel()
    assert future.cancel()
    desk.gate.open()
    expect_one_late_reply(client)


# Streams


@pytest.mark.parametrize("leave", ["close", "break", "collected", "error"])
@pytest.mark.parametrize("name", ["count", "silence", "acount", "asilence"])
def test_a_stream_that_is_left(client: Client[Any], proxy: Desk, desk: Desk, name: str, leave: str) -> None:
    """The producer's ``finally`` runs, whether it waits for credit or for something of its own."""
    command: Any = getattr(proxy, name)
    stream = command.call() if name.startswith("a") else command()
    desk.tally.wait_for("running", 1)
    if "count" in name:
        assert next(stream) == 0
    match leave:
        case "close":
            stream.close()
        case "break":
            with stream:
                pass
        case "error":
            with pytest.raises(KeyError), stream:
                raise KeyError
    del stream
    desk.tally.wait_for("running", 0)
    assert desk.tally["finally"] == 1
    expect_one_late_reply(client)


@pytest.mark.parametrize("name", ["count", "silence", "acount", "asilence"])
def test_a_task_that_is_cancelled_in_a_stream(client: Client[Any], proxy: Desk, desk: Desk, name: str) -> None:
    async def consume() -> None:
        command: Any = getattr(proxy, name)
        async for _ in command() if name.startswith("a") else command.aio():
            await asyncio.sleep(0)

    async def main() -> None:
        task = asyncio.create_task(consume())
        await asyncio.to_thread(desk.tally.wait_for, "running", 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task

    asyncio.run(main())
    desk.tally.wait_for("running", 0)
    assert desk.tally["finally"] == 1
    expect_one_late_reply(client)


@pytest.mark.parametrize("name", ["total", "atotal"])
def test_a_handler_that_waits_for_items_of_a_cancelled_call(
    client: Client[Any], proxy: Desk, desk: Desk, name: str
) -> None:
    began, end, closed = Gate(), Gate(), Gate()

    def numbers() -> Iterator[int]:
        began.open()
        try:
            yield 1
            end.wait()
            yield 2
        finally:
            closed.open()

    async def anumbers() -> AsyncIterator[int]:
        began.open()
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            closed.open()

    future = proxy.total.submit(numbers()) if name == "total" else proxy.atotal.submit(anumbers())
    desk.tally.wait_for("running", 1)
    began.wait()
    assert future.cancel()
    desk.tally.wait_for("running", 0)
    (error,) = desk.ends
    assert isinstance(error, CallCancelled if name == "total" else asyncio.CancelledError | CallCancelled)
    end.open()
    closed.wait()
    expect_one_late_reply(client)


# Calls back


@pytest.mark.parametrize("form", ["proxy", "callback"])
def test_what_is_called_back_is_cancelled_with_the_call(
    server: Server, desk: Desk, form: str, colours: Colours
) -> None:
    """The caller has given up its call: the handler that waits for a call back learns it, and so does the one there."""
    here = Desk()
    with colours.connect(server.url, expose=[here]) as client:
        proxy = client.proxy(Desk)
        future = proxy.back.submit() if form == "proxy" else proxy.use.submit(here.wait)
        desk.tally.wait_for("running", 1)
        here.tally.wait_for("running", 1)
        assert future.cancel()
        desk.tally.wait_for("running", 0)
        here.tally.wait_for("running", 0)
        assert [type(error) for error in desk.ends] == [CallCancelled]
        assert here.ends == [True]


# Calls that were not begun


def given_up(server: BaseServer[Any]) -> int:
    """Calls that came and were given up, most of them before they were begun."""
    link: Any = server.peers[0].link
    return sum(call is None or bool(call.why_cancelled) for call in list(link.connection.core.handled.values()))


def threads_of(server: BaseServer[Any]) -> int:
    """How many plain handlers run at a time where one thread may be lent: that which reads is another one."""
    return 2 if isinstance(server, Server) else 1


def test_a_call_that_waits_for_its_turn_is_not_run(desk: Desk, colours: Colours) -> None:
    with colours.serve(desk, url=URL, max_concurrent=1) as server, colours.connect(server.url) as client:
        proxy = client.proxy(Desk)
        first = proxy.ignore.submit()
        desk.tally.wait_for("running", 1)
        others: list[Future[str]] = [proxy.wait.submit(), proxy.task.submit(), proxy.poll.submit()]
        core = server.peers[0].link.connection.core  # type: ignore[attr-defined]
        until(lambda: core.running == 4)
        for other in others:
            assert other.cancel()
        until(lambda: given_up(server) == 3)
        desk.gate.open()
        assert first.result(PATIENCE) == "nobody wants it"
        assert proxy.add(1, 2) == 3
        until(lambda: proxy.add(1, 2) == 3 and core_of(client).late_replies == 3)
        assert desk.tally["running, begun"] == 1
        assert desk.ends == []


def test_a_call_that_waits_for_a_thread_is_not_run(desk: Desk, colours: Colours) -> None:
    with colours.serve(desk, url=URL, max_workers=1) as server, colours.connect(server.url) as client:
        proxy = client.proxy(Desk)
        count = threads_of(server)
        busy = [proxy.ignore.submit() for _ in range(count)]
        desk.tally.wait_for("running", count)
        others = [proxy.wait.submit() for _ in range(5)]
        for other in others:
            assert other.cancel()
        until(lambda: given_up(server) + core_of(client).late_replies == 5)  # those that were not begun are answered
        desk.gate.open()
        assert [future.result(PATIENCE) for future in busy] == ["nobody wants it"] * count
        until(lambda: proxy.add(1, 2) == 3 and core_of(client).late_replies == 5)
        assert desk.tally["running, begun"] == count


@pytest.mark.parametrize("end", ["cancel", "leave"])
def test_handlers_learn_it_though_they_take_all_the_threads(desk: Desk, log: Log, end: str, colours: Colours) -> None:
    """Where threads read, nobody is left to read for them but the watcher, which does."""
    with colours.serve(desk, url=URL, max_workers=1) as server, colours.connect(server.url) as client:
        proxy = client.proxy(Desk)
        count = threads_of(server)
        futures = [proxy.wait.submit() for _ in range(count)]
        desk.tally.wait_for("running", count)
        waiting = proxy.wait.submit()
        if isinstance(server, Server):
            assert "all 1 threads that may be lent are busy" in log.line()
        if end == "leave":
            client.close()
            assert all(isinstance(future.exception(PATIENCE), ConnectionLost) for future in [*futures, waiting])
        else:
            assert all(future.cancel() for future in [waiting, *futures])
        desk.tally.wait_for("running", 0)
        assert desk.ends == [True] * count


def test_what_waits_for_its_turn_is_not_run_when_the_caller_has_left(desk: Desk, colours: Colours) -> None:
    with colours.serve(desk, url=URL, max_concurrent=1) as server, colours.connect(server.url) as other:
        with colours.connect(server.url) as client:
            proxy = client.proxy(Desk)
            futures = [proxy.ignore.submit()]
            desk.tally.wait_for("running", 1)
            futures += [proxy.wait.submit(), proxy.task.submit()]
            links: list[Any] = [peer.link for peer in server.peers]
            connection = next(link.connection for link in links if link.connection.core.running)
            until(lambda: connection.core.running == 3)
        assert all(isinstance(future.exception(PATIENCE), ConnectionLost) for future in futures)
        until(lambda: connection.handlers.ended, "the server has learned it")
        desk.gate.open()
        assert other.proxy(Desk).add(1, 2) == 3
        desk.tally.wait_for("running", 0)
        assert desk.tally["running, begun"] == 1


# Ctrl-C, and processes that are killed

CTRL_C = """
    import signal
    from tests.support import until
    from tests.both.test_cancelled import Desk
    from typedrpc import connect
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with connect(hear()) as client:
        proxy = client.proxy(Desk)
        for form in ("call", "result", "stream"):
            try:
                if form == "call":
                    proxy.wait()
                elif form == "result":
                    proxy.task.call()
                else:
                    next(proxy.silence())
                say("it returned")
            except KeyboardInterrupt:
                say("interrupted")
            late = int(hear())
            until(lambda: proxy.add(1, 2) == 3 and client._link.connection.core.late_replies == late)
            say("used on")
"""


@for_servers
def test_ctrl_c_in_a_waiting_call(server: Server, desk: Desk) -> None:
    """It is given up: its handler learns it, and the connection is used on."""
    with Program(CTRL_C, measured=False) as program:
        program.say(server.url)
        for late in range(1, 4):
            desk.tally.wait_for("running", 1)
            until(lambda: is_asleep(program.process.pid), "the program waits")
            program.signal(signal.SIGINT)
            assert program.hear() == "interrupted"
            desk.tally.wait_for("running", 0)
            program.say(str(late))
            assert program.hear() == "used on"
        assert program.expect_success() == ""
    assert desk.tally["finally"] == 2


def is_asleep(process: int) -> bool:
    with open(f"/proc/{process}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "S"


CALLS = """
    import asyncio
    import threading
    from tests.both.test_cancelled import Desk
    from typedrpc import connect
    way = hear()
    client = connect(hear())
    proxy = client.proxy(Desk)
    def numbers():
        yield 1
        threading.Event().wait()
    def produced():
        while True:
            yield 1
    async def consume():
        async for _ in proxy.asilence():
            pass
    match way:
        case "total": proxy.total(numbers())
        case "endless": proxy.total(produced())
        case "count" | "silence": [None for _ in getattr(proxy, way)() if way == "silence" or threading.Event().wait()]
        case "asilence": asyncio.run(consume())
        case "acount": next(stream := proxy.acount.call()); threading.Event().wait()
        case _: getattr(proxy, way).call()
"""


@pytest.mark.unmeasured
@for_servers
@pytest.mark.parametrize("way", ["wait", "check", "task", "count", "silence", "acount", "asilence", "total", "endless"])
def test_a_process_that_is_killed_in_its_call(server: Server, desk: Desk, way: str) -> None:
    """Its handlers learn it, whatever they wait for, and the server forgets it."""
    with Program(CALLS, measured=False) as program:
        program.say(way)
        program.say(server.url)
        desk.tally.wait_for("running", 1)
        program.signal(signal.SIGKILL)
        desk.tally.wait_for("running", 0)
        until(lambda: not server.peers)
    if way in ("task", "count", "silence", "acount", "asilence"):
        assert desk.tally["finally"] == 1
