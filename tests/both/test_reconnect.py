"""What becomes of a client whose server goes away and comes back: connections that are made anew, calls sent again.

A client is used in three ways: one of threads, one of an event loop by its tasks, and one of an event loop by threads.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

import pytest

from tests.ends import LoopThread, loop_thread
from tests.support import (
    PATIENCE,
    Gate,
    Running,
    Tally,
    Workshop,
    run_all,
    serving_process,
    until,
)
from typedrpc import (
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    Peer,
    Retry,
    RpcError,
    Server,
    Service,
    aio,
    connect,
    current_call,
    rpc,
)
from typedrpc.protocol import State

pytestmark = pytest.mark.usefixtures("kept_loop")

QUICK: Final = Retry(first_delay=0.001, max_delay=0.01, total=PATIENCE)
"""Tried again soon, for as long as a test may take."""


class Listener(Service):
    def __init__(self) -> None:
        self.heard = Tally()

    @rpc
    def hear(self, text: str) -> str:
        self.heard.add(text)
        return text


class Desk(Service):
    """One run of a server, with a number."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.notes = Tally()
        self.started = Gate()
        self.gate = Gate()

    @rpc
    def run(self) -> int:
        return self.number

    @rpc(idempotent=True)
    def look(self) -> int:
        return self.number

    @rpc
    def double(self, number: int) -> int:
        return 2 * number

    @rpc
    def store(self, data: bytes) -> int:
        return len(data)

    @rpc
    def note(self, text: str) -> None:
        self.notes.add(text)

    @rpc
    def count(self, end: int) -> Iterator[int]:
        yield from range(end)

    @rpc
    def total(self, numbers: Iterator[int]) -> int:
        return sum(numbers)

    @rpc
    def apply(self, function: Callable[[int], int]) -> int:
        return function(self.number)

    @rpc
    def stay(self) -> int:
        self.started.open()
        self.gate.wait()
        return self.number

    @rpc
    def tell(self, text: str) -> str:
        return current_call().peer.proxy(Listener).hear(text)


class Here:
    """A client that is used in one of the ways.

    Attributes:
        client: The client.
        proxy: Of the contract.
    """

    def __init__(self, client: Any, proxy: Any, loop: LoopThread | None) -> None:
        self.client = client
        self.proxy = proxy
        self._loop = loop

    def __call__(self, command: str, *args: Any, timeout: float | None = None) -> Any:
        """Call a command, and wait for its result."""
        bound = getattr(self.proxy, command)
        if timeout is not None:
            bound = bound.with_options(timeout=timeout)
        return self._loop.run(_await(bound, args)) if self._loop is not None else bound(*args)

    def submit(self, command: str, *args: Any) -> Future[Any]:
        bound = getattr(self.proxy, command)
        if self._loop is None:
            future: Future[Any] = bound.submit(*args)
            return future
        return asyncio.run_coroutine_threadsafe(_await_future(bound, args), self._loop.loop)

    def items(self, *args: Any) -> list[int]:
        """What `count` streams."""
        if self._loop is None:
            return list(self.proxy.count(*args))

        async def take() -> list[int]:
            return [item async for item in self.proxy.count.aio(*args)]

        return self._loop.run(take())

    def notify(self, *args: Any) -> None:
        if self._loop is None:
            self.proxy.note.notify(*args)
        else:
            self._loop.run(_notify(self.proxy, args))

    def close(self) -> None:
        if isinstance(self.client, aio.Client):
            closing = self.client.close()
            if self._loop is not None:
                self._loop.run(_wait(closing))
        else:
            self.client.close()


async def _await(bound: Any, args: tuple[Any, ...]) -> Any:
    return await bound.aio(*args)


async def _await_future(bound: Any, args: tuple[Any, ...]) -> Any:
    return await asyncio.wrap_future(bound.submit(*args))


async def _notify(proxy: Any, args: tuple[Any, ...]) -> None:
    proxy.note.notify(*args)


async def _wait(closing: Any) -> None:
    await closing


WAYS: Final = ["threads", "loop", "threads of a loop"]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Any:
    return request.param


@contextlib.contextmanager
def connected(way: str, *target: Any, **options: Any) -> Iterator[Here]:
    if way == "threads":
        client: Any = connect(*target, **options)
        with client as proxy:
            yield Here(client, proxy, None)
        return
    with loop_thread() as thread:

        async def start() -> tuple[Any, Any]:
            client = await aio.connect(*target, **options)
            return client, await client.__aenter__()

        client, proxy = thread.run(start())
        try:
            yield Here(client, proxy, thread if way == "loop" else None)
        finally:
            thread.run(_wait(client.close()))


@contextlib.contextmanager
def desk(number: int = 0, url: str = "tcp://127.0.0.1:0", **options: Any) -> Iterator[tuple[Desk, Server]]:
    service = Desk(number)
    with Server(service, url=url, **options) as server:
        try:
            yield service, server
        finally:
            service.gate.open()


@pytest.fixture
def url() -> str:
    """An address where nobody listens, yet."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"tcp://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(params=[None, QUICK], ids=["by default", "with retry"])
def retry(request: pytest.FixtureRequest) -> Any:
    return request.param


class TestRestart:
    """The server has gone and come back while the client did nothing."""

    @pytest.mark.parametrize("form", ["call", "submit", "stream", "notify", "streams", "callback"])
    def test_a_call_after_it_dials_again(self, way: str, retry: Retry | None, form: str, url: str) -> None:
        with contextlib.ExitStack() as stack:
            with desk(1, url):
                here = stack.enter_context(connected(way, Desk, url, retry=retry))
                assert here("run") == 1
            service, server = stack.enter_context(desk(2, url))
            if form == "call":
                assert here("run") == 2
                assert here("store", bytes(2_000_000)) == 2_000_000
            elif form == "submit":
                assert here.submit("run").result(PATIENCE) == 2
            elif form == "stream":
                assert here.items(3) == [0, 1, 2]
            elif form == "notify":
                assert here("run") == 2  # where nobody reads, a one-way call does not find out
                here.notify("hello")
                service.notes.wait_for("hello", 1)
            elif form == "streams":
                assert here("total", iter([1, 2, 3])) == 6
            elif form == "callback":
                assert here("apply", lambda number: number + 1) == 3
            assert len(server.peers) == 1
            assert here("run") == 2

    @pytest.mark.parametrize("form", ["call", "submit", "stream", "notify", "streams", "callback", "proxy"])
    def test_so_does_whatever_comes_once_the_loss_is_known(self, way: str, form: str, url: str) -> None:
        with contextlib.ExitStack() as stack:
            with desk(1, url):
                here = stack.enter_context(connected(way, Desk, url, on_disconnect=lambda peer, error: None))
                assert here("run") == 1
            until(lambda: here.client._link.connection.ended)
            service, _ = stack.enter_context(desk(2, url))
            if form == "call":
                assert here("run") == 2
            elif form == "submit":
                assert here.submit("run").result(PATIENCE) == 2
            elif form == "stream":
                assert here.items(3) == [0, 1, 2]
            elif form == "notify":
                here.notify("hello")
                service.notes.wait_for("hello", 1)
            elif form == "streams":
                assert here("total", iter([1, 2, 3])) == 6
            elif form == "callback":
                assert here("apply", lambda number: number + 1) == 3
            else:
                here.proxy = here.client.proxy(Desk)
                assert here("run") == 2

    def test_map(self, way: str, retry: Retry | None, url: str) -> None:
        if way == "loop":
            pytest.skip("a map blocks")
        with contextlib.ExitStack() as stack:
            with desk(1, url):
                here = stack.enter_context(connected(way, Desk, url, retry=retry))
                assert list(here.proxy.double.map(range(3))) == [0, 2, 4]
            stack.enter_context(desk(2, url))
            assert list(here.proxy.double.map(range(100))) == [2 * number for number in range(100)]

    def test_where_nobody_listens_both_reasons_are_told(self, way: str, url: str) -> None:
        with contextlib.ExitStack() as stack:
            with desk(1, url):
                here = stack.enter_context(connected(way, Desk, url))
                assert here("run") == 1
            causes = []
            for form in (lambda: here("run"), lambda: here.submit("run").result(PATIENCE), lambda: here.items(3)):
                with pytest.raises(ConnectionLost, match="server is closing") as caught:
                    form()
                assert type(caught.value) is ConnectionLost
                if caught.value.__cause__ is not None:
                    assert "nothing listens there" in str(caught.value)
                causes.append(caught.value.__cause__)
            assert isinstance(causes[-1], ConnectFailed)
            stack.enter_context(desk(2, url))
            assert here("run") == 2

    def test_a_process_that_is_killed(self, way: str) -> None:
        with contextlib.ExitStack() as stack:
            with serving_process() as (url, program):
                here = stack.enter_context(connected(way, Workshop, url, on_disconnect=lambda peer, error: None))
                before = here("process")
                program.process.kill()
                until(lambda: here.client._link.connection.ended)
            with Server(Workshop(), url=url):
                assert here("process") != before

    def test_another_version_of_the_contract(self, way: str, url: str) -> None:
        class OtherDesk(Service, name="Desk"):
            @rpc
            def run(self, more: int = 5) -> float:
                return more + 0.5

        with contextlib.ExitStack() as stack:
            with desk(1, url):
                here = stack.enter_context(connected(way, Desk, url))
                assert here("run") == 1
            with Server(OtherDesk(), url=url):
                with pytest.raises(RpcError, match=r"Desk\.run: the contracts differ"):
                    here("run")
                with pytest.raises(RpcError, match="no command"):
                    here("look")
            stack.enter_context(desk(2, url))
            assert here("run") == 2

    def test_the_peer_is_that_of_the_current_connection(self, way: str, url: str) -> None:
        with contextlib.ExitStack() as stack:
            with desk(1, url):
                here = stack.enter_context(connected(way, Desk, url))
                before = here.client.peer
            stack.enter_context(desk(2, url))
            assert here("run") == 2
            assert here.client.peer is not before
            with pytest.raises(ConnectionLost):
                before.proxy(Desk)

    def test_what_this_side_has_closed_was_not_lost(self, way: str) -> None:
        with desk() as (_, server), connected(way, Desk, server.url) as here:
            here.client.peer.close("enough")
            for _ in range(2):
                with pytest.raises(ConnectionLost, match="closed on this side: enough"):
                    here("run")

    def test_a_closed_client_never_dials(self, way: str, retry: Retry | None, url: str) -> None:
        with contextlib.ExitStack() as stack:
            with desk(1, url):
                here = stack.enter_context(connected(way, Desk, url, retry=retry))
                assert here("run") == 1
            here.close()
            _, server = stack.enter_context(desk(2, url, on_connect=lambda peer: pytest.fail("it dialled")))
            for form in (lambda: here("run"), lambda: here.items(3), lambda: here.notify("hello")):
                with pytest.raises(ConnectionLost):
                    form()
            assert not server.peers


class TestHooks:
    def test_they_are_told_of_each_connection(self, way: str, url: str) -> None:
        told = Tally()
        peers: list[Peer] = []

        def on_connect(peer: Peer) -> None:
            peers.append(peer)
            told.add("connected")

        with contextlib.ExitStack() as stack:
            with desk(1, url):
                here = stack.enter_context(
                    connected(
                        way,
                        Desk,
                        url,
                        on_connect=on_connect,
                        on_disconnect=lambda peer, error: told.add(f"lost {peers.index(peer)}"),
                        on_connect_failed=lambda error: told.add("failed"),
                    )
                )
            told.wait_for("lost 0", 1)
            with pytest.raises(ConnectionLost):
                here("run")
            assert told["failed"] == 1
            with desk(2, url):
                assert here("run") == 2
                assert told["connected"] == 2
                assert here.client.peer is peers[1]
            told.wait_for("lost 1", 1)

    def test_one_that_turns_the_server_away(self, way: str, retry: Retry | None, url: str) -> None:
        def on_connect(peer: Peer) -> None:
            if told["connected"]:
                peer.close("not you again")
            told.add("connected")

        told = Tally()
        with contextlib.ExitStack() as stack:
            with desk(1, url):
                here = stack.enter_context(connected(way, Desk, url, on_connect=on_connect, retry=retry))
                assert here("run") == 1
            stack.enter_context(desk(2, url))
            with pytest.raises(ConnectionLost, match="not you again"):
                here("run")
            assert told["connected"] == 2

    def test_one_may_call(self, way: str, url: str) -> None:
        numbers: list[int] = []
        with contextlib.ExitStack() as stack:
            with desk(1, url):
                here = stack.enter_context(
                    connected(way, Desk, url, on_connect=lambda peer: numbers.append(peer.proxy(Desk).run()))
                )
                assert here("run") == 1
            stack.enter_context(desk(2, url))
            assert here("run") == 2
            assert numbers == [1, 2]

    def test_one_may_call_by_the_proxy_of_the_client(self, url: str) -> None:
        numbers: list[int] = []
        with contextlib.ExitStack() as stack:
            with desk(1, url):
                client: Any = stack.enter_context(connect(url))
                proxy = client.proxy(Desk)
                client.on_connect(lambda peer: numbers.append(proxy.run()))
            stack.enter_context(desk(2, url))
            assert proxy.run() == 2
            assert numbers == [2]

    def test_a_client_that_is_called_dials_without_being_asked(self, way: str, url: str) -> None:
        listener = Listener()
        with contextlib.ExitStack() as stack:
            with desk(1, url):
                here = stack.enter_context(connected(way, Desk, url, expose=[listener], retry=QUICK))
                assert here("tell", "one") == "one"
            _, server = stack.enter_context(desk(2, url))
            until(lambda: server.peers)
            assert server.peers[0].exposes(Listener)
            assert server.peers[0].proxy(Listener).hear("two") == "two"
            assert here("tell", "three") == "three"
            assert len(server.peers) == 1


def test_closing_ends_the_calls_of_a_connection_that_was_replaced(way: str, url: str) -> None:
    with contextlib.ExitStack() as stack:
        service, server = stack.enter_context(desk(1, url))
        _, other = stack.enter_context(desk(2))
        here = stack.enter_context(connected(way, Desk, [url, other.url]))
        waiting = Running(here, "stay")
        service.started.wait()
        closing = Running(server.close, PATIENCE)
        until(lambda: here.client._link.connection.core.state is State.DRAINING)
        assert here("run") == 2
        assert not waiting.done
        here.close()
        assert isinstance(waiting.error(), ConnectionLost)
        service.gate.open()
        closing.result()


def test_who_cannot_write_waits_for_what_another_thread_is_about_to_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is the goodbye, which says that the call did not run."""
    monkeypatch.setattr("typedrpc.sync.connection.GOODBYE_TIME", PATIENCE)
    with Server(Workshop(), url=f"unix://{tmp_path / 'socket'}") as server, connect(server.url) as client:
        proxy = client.proxy(Workshop)
        assert proxy.add(1) == 1
        connection: Any = client._link.connection
        assert connection.role.try_take()
        server.peers[0].close("that is enough")
        until(lambda: not server.peers)
        calling = Running(proxy.add, 3, 4)
        until(lambda: connection.role.parked)
        connection.stop_leading()
        assert calling.result() == 7


class TestManyAtOnce:
    @pytest.mark.parametrize("count", [100])
    def test_one_dials_for_all(self, way: str, retry: Retry | None, count: int, url: str) -> None:
        with contextlib.ExitStack() as stack:
            with desk(1, url):
                here = stack.enter_context(
                    connected(way, Desk, url, retry=retry, on_disconnect=lambda peer, error: None)
                )
                assert here("run") == 1
            until(lambda: here.client._link.connection.ended)
            told = Tally()
            with contextlib.ExitStack() as inner:
                inner.enter_context(desk(2, url, on_connect=lambda peer: told.add("connected")))
                if way == "loop":
                    futures = [here.submit("run") for _ in range(count)]
                    assert [future.result(PATIENCE) for future in futures] == [2] * count
                else:
                    barrier = threading.Barrier(count)

                    def call() -> Any:
                        barrier.wait(PATIENCE)
                        return here("run")

                    assert run_all([call] * count) == [2] * count
                assert told["connected"] == 1

    def test_submitted_calls_are_sent_again_in_order(self, way: str, url: str) -> None:
        with contextlib.ExitStack() as stack:
            with desk(1, url):
                here = stack.enter_context(connected(way, Desk, url, retry=QUICK))
                assert here("run") == 1
            futures = [Running(here, "double", number) for number in range(20)]
            stack.enter_context(desk(2, url))
            assert [future.result() for future in futures] == [2 * number for number in range(20)]


class TestWaiting:
    def test_a_client_with_retry_waits_for_a_server_that_is_not_up_yet(self, way: str, url: str) -> None:
        failed = Gate()
        with contextlib.ExitStack() as stack:
            connecting = Running(
                lambda: stack.enter_context(
                    connected(way, Desk, url, retry=QUICK, on_connect_failed=lambda error: failed.open())
                )
            )
            failed.wait()
            server = stack.enter_context(contextlib.ExitStack())
            server.enter_context(desk(3, url))
            assert connecting.result()("run") == 3

    @pytest.mark.parametrize("form", ["call", "submit", "stream"])
    def test_so_does_a_call(self, way: str, form: str, url: str) -> None:
        failed = Gate()
        with contextlib.ExitStack() as stack:
            with desk(1, url):
                here = stack.enter_context(
                    connected(way, Desk, url, retry=QUICK, on_connect_failed=lambda error: failed.open())
                )
                assert here("run") == 1
            until(lambda: here.client._link.connection.ended)
            if form == "call":
                waiting: Any = Running(here, "run")
            elif form == "submit":
                waiting = Running(lambda: here.submit("run").result(PATIENCE))
            else:
                waiting = Running(here.items, 2)
            failed.wait()
            assert not waiting.done
            stack.enter_context(desk(2, url))
            assert waiting.result() == ([0, 1] if form == "stream" else 2)

    def test_not_past_its_deadline(self, way: str, url: str) -> None:
        with contextlib.ExitStack() as stack:
            with desk(1, url):
                here = stack.enter_context(connected(way, Desk, url, retry=QUICK))
                assert here("run") == 1
            with pytest.raises(DeadlineExceeded, match=r"Desk\.run: there was no connection in time"):
                here("run", timeout=0.1)
            future = here.proxy.run.with_options(timeout=0.1).submit
            if way != "loop":
                with pytest.raises(DeadlineExceeded, match=r"Desk\.run"):
                    future().result(PATIENCE)
            stack.enter_context(desk(2, url))
            assert here("run") == 2

    def test_not_longer_than_it_is_told(self, way: str, url: str) -> None:
        failed = Tally()
        retry = Retry(attempts=3, first_delay=0.001)
        with contextlib.ExitStack() as stack:
            with desk(1, url):
                here = stack.enter_context(
                    connected(way, Desk, url, retry=retry, on_connect_failed=lambda error: failed.add("failed"))
                )
                assert here("run") == 1
            until(lambda: here.client._link.connection.ended)
            with pytest.raises(ConnectionLost, match="nothing listens there"):
                here("run")
            assert failed["failed"] == 3

    def test_a_client_that_is_closed_meanwhile(self, way: str, url: str) -> None:
        failed = Gate()
        with contextlib.ExitStack() as stack:
            with desk(1, url):
                here = stack.enter_context(
                    connected(way, Desk, url, retry=Retry(), on_connect_failed=lambda error: failed.open())
                )
                assert here("run") == 1
            waiting = [Running(here, "run"), Running(lambda: here.submit("run").result(PATIENCE))]
            failed.wait()
            here.close()
            for one in waiting:
                assert isinstance(one.error(), ConnectionLost)

    def test_a_task_that_is_cancelled(self, url: str) -> None:
        async def main() -> None:
            failed = asyncio.Event()
            loop = asyncio.get_running_loop()
            with contextlib.ExitStack() as stack:
                with desk(1, url):
                    client = await aio.connect(
                        Desk,
                        url,
                        retry=QUICK,
                        on_connect_failed=lambda error: loop.call_soon_threadsafe(failed.set),
                    )
                    proxy = await client.__aenter__()
                    assert await proxy.run.aio() == 1
                waiting = asyncio.create_task(proxy.run.aio())
                async with asyncio.timeout(PATIENCE):
                    await failed.wait()
                    waiting.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await waiting
                    stack.enter_context(desk(2, url))
                    assert await proxy.run.aio() == 2
                    await client.close()

        asyncio.run(main())


class TestAddresses:
    def test_the_first_that_answers(self, way: str, url: str) -> None:
        failed: list[RpcError] = []
        with desk(1) as (_, server), connected(way, Desk, [url, server.url], on_connect_failed=failed.append) as here:
            assert here("run") == 1
            assert [error.url for error in failed if isinstance(error, ConnectFailed)] == [url]

    def test_the_next_time_it_begins_with_the_one_that_worked(self, way: str, url: str) -> None:
        failed: list[RpcError] = []
        with contextlib.ExitStack() as stack:
            with desk(1) as (_, server):
                other = server.url
                here = stack.enter_context(connected(way, Desk, [url, other], on_connect_failed=failed.append))
                assert here("run") == 1
            stack.enter_context(desk(2, other))
            assert here("run") == 2
            assert len(failed) == 1

    def test_another_one_takes_over(self, way: str, url: str) -> None:
        with contextlib.ExitStack() as stack:
            with desk(1) as (_, server):
                here = stack.enter_context(connected(way, Desk, (server.url, url)))
                assert here("run") == 1
            stack.enter_context(desk(2, url))
            assert here("run") == 2
            assert url in repr(here.client)

    def test_none(self, way: str, url: str) -> None:
        with pytest.raises(ConnectFailed, match="nothing listens there"), connected(way, Desk, [url, url]):
            pass

    def test_one_that_is_no_url_is_told_before_any_is_dialled(self, way: str) -> None:
        with desk(1) as (_, server):
            with pytest.raises(ConnectFailed, match="ftp"), connected(way, Desk, [server.url, "ftp://host"]):
                pass
            assert not server.peers
