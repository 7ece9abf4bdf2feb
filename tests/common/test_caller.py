"""How bound commands reach a peer: `aio` from several loops, agreements in the background, callers of callbacks."""

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from tests.ends import Colours, alike, for_clients
from tests.support import PATIENCE, FakeServer, Gate, Log, RawPeer, Running, Workshop, run_all
from typedrpc import (
    ArgumentTypeError,
    Client,
    ConnectionLost,
    DeadlineExceeded,
    RpcError,
    Service,
    UnknownCommand,
    rpc,
)
from typedrpc.agreement import Agreement
from typedrpc.codec import pack_plain
from typedrpc.command import CallOptions, remote
from typedrpc.common.caller import CallForms
from typedrpc.common.server import BaseServer
from typedrpc.service import commands_of, services_of
from typedrpc.wire import Kind

pytestmark = pytest.mark.usefixtures("no_leaks")
colours = alike

URL = "tcp://127.0.0.1:0"


@pytest.fixture
def workshop() -> Iterator[Workshop]:
    workshop = Workshop()
    yield workshop
    workshop.gates.open_all()


@pytest.fixture
def server(workshop: Workshop, colours: Colours) -> Iterator[BaseServer[Any]]:
    with colours.serve(workshop) as server:
        yield server


@pytest.fixture
def proxy(server: BaseServer[Any], colours: Colours) -> Iterator[Workshop]:
    with colours.connect(Workshop, server.url) as proxy:
        yield proxy


# The way to another connection


class Fake:
    """A connection of which it is written down what is called on it."""

    def __init__(self) -> None:
        self.ended = False
        self.called: list[tuple[int, bytes]] = []

    def call(self, id: int, payload: bytes, what: str, end: float | None, extension: bytes) -> bytes:
        self.called.append((id, extension))
        return pack_plain(0)


class Way:
    """How a command is called on one connection. While somebody finds that out, another thread calls too."""

    unpack_adapted = None

    def __init__(self, id: int, meanwhile: Callable[[], object]) -> None:
        self.id = id
        self._meanwhile = [meanwhile]

    def extension(self, timeout: float | None) -> bytes:
        if self._meanwhile:
            Running(self._meanwhile.pop()).result()
        return bytes([self.id])


class Reconnected(CallForms):
    """Calls on one connection, and when that has ended on another one, where the command has another id."""

    def __init__(self) -> None:
        self.first, self.second = Fake(), Fake()
        self.ways = Way(1, lambda: None), Way(2, lambda: self.call(3, 4))
        self.call: Callable[..., object] = lambda *args: None

    def _resolve(self, command: object, timeout: float | None, /) -> Any:
        return (self.second, self.ways[1]) if self.first.ended else (self.first, self.ways[0])


def test_what_is_known_of_one_connection_is_never_used_on_another() -> None:
    forms = Reconnected()
    forms.call = forms.invoker(Workshop.add, CallOptions())
    forms.call(1, 2)
    forms.first.ended = True
    forms.call(1, 2)
    assert forms.first.called == [(1, b"\x01")]
    assert forms.second.called == [(2, b"\x02")] * 2


# aio


def test_from_several_event_loops_at_once(proxy: Workshop) -> None:
    async def main(base: int) -> list[int]:
        async with asyncio.timeout(PATIENCE):
            return await asyncio.gather(*(proxy.add.aio(base, number) for number in range(50)))

    bases = [0, 1000, 2000, 3000]
    results = run_all([lambda base=base: asyncio.run(main(base)) for base in bases])  # type: ignore[misc]
    assert results == [[base + number for number in range(50)] for base in bases]


def test_the_loop_goes_on_while_a_call_is_awaited(proxy: Workshop, workshop: Workshop) -> None:
    async def main() -> list[str]:
        async with asyncio.timeout(PATIENCE):
            waiting = [asyncio.create_task(proxy.wait.aio(name)) for name in "abc"]
            assert await proxy.add.aio(1, 2) == 3
            for name in "cba":
                await asyncio.to_thread(workshop.started[name].wait)
                workshop.gates[name].open()
            return await asyncio.gather(*waiting)

    assert asyncio.run(main()) == ["a", "b", "c"]


def test_a_task_that_is_cancelled_leaves_the_connection_as_it_was(proxy: Workshop, workshop: Workshop) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE):
            task = asyncio.create_task(proxy.wait.aio("a"))
            await asyncio.to_thread(workshop.started["a"].wait)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await proxy.add.aio(1, 2) == 3
            workshop.gates["a"].open()  # its answer comes, and nobody waits for it
            assert await proxy.add.aio(2, 2) == 4

    asyncio.run(main())
    assert proxy.add(3, 2) == 5


def test_a_loop_that_ends_before_the_answer(proxy: Workshop, workshop: Workshop) -> None:
    async def main() -> None:
        task = asyncio.create_task(proxy.wait.aio("a"))
        await asyncio.to_thread(workshop.started["a"].wait)
        del task

    asyncio.run(main())
    workshop.gates["a"].open()
    assert proxy.add.submit(1, 2).result(PATIENCE) == 3


def test_errors_are_raised_where_it_is_awaited(proxy: Workshop, workshop: Workshop, server: BaseServer[Any]) -> None:
    async def main() -> None:
        wrong: Any = "x"
        with pytest.raises(ArgumentTypeError):
            await proxy.add.aio(wrong)
        with pytest.raises(DeadlineExceeded):
            await proxy.wait.with_options(timeout=0.01).aio("a")
        waiting = asyncio.create_task(proxy.wait.aio("b"))
        await asyncio.to_thread(workshop.started["b"].wait)
        (peer,) = server.peers
        peer.close("enough")
        with pytest.raises(ConnectionLost, match="enough"):
            await waiting

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    workshop.gates.open_all()  # or the server waits for its handlers


def test_on_a_plain_instance(workshop: Workshop) -> None:
    async def main() -> int:
        return await workshop.add.aio(1, 2)

    assert asyncio.run(main()) == 3


def test_nothing_is_sent_before_it_is_awaited(proxy: Workshop, workshop: Workshop) -> None:
    async def main() -> None:
        coroutine = proxy.note.aio("late")
        assert await proxy.add.aio(1, 1) == 2
        assert workshop.notes == []
        await coroutine

    asyncio.run(main())
    assert workshop.notes == ["late"]


# remote, in tests of handlers


def test_remote_of_a_plain_function() -> None:
    def use(number: int) -> int:
        if number < 0:
            raise ValueError("negative")
        return number + 1

    other = remote(use)
    assert other(1) == other.call(1) == other.submit(1).result(PATIENCE) == 2
    assert list(other.map([1, 2])) == [2, 3]
    assert other.with_options(timeout=1)(5) == 6
    assert asyncio.run(other.aio(4)) == 5
    other.notify(3)
    assert isinstance(other.submit(-1).exception(PATIENCE), ValueError)
    with pytest.raises(ValueError, match="negative"):
        other(-1)
    assert remote(other) is other


def test_remote_of_functions_that_are_awaited() -> None:
    async def use(number: int) -> int:
        return number + 1

    for function in (use, lambda number: use(number)):
        other = remote(function)
        assert asyncio.run(other(1)) == asyncio.run(other.with_options(timeout=1)(1)) == 2
        assert asyncio.run(other.aio(1)) == other.call(1) == other.submit(1).result(PATIENCE) == 2
        assert list(other.map([1, 2])) == [2, 3]


def test_map_gives_exceptions_in_place_of_results(proxy: Workshop) -> None:
    wrong: Any = ["one"]
    numbers: Any = [1, *wrong, 3]
    first, second, third = proxy.add.map(numbers, return_exceptions=True)
    assert (first, third) == (1, 3)
    assert isinstance(second, ArgumentTypeError)
    results = proxy.add.map(numbers)
    assert next(results) == 1
    with pytest.raises(ArgumentTypeError):
        next(results)


def test_remote_logs_what_a_one_way_call_raises(log: Log) -> None:
    def use() -> None:
        raise ValueError

    remote(use).notify()
    assert "failed in a one-way call" in log.line()


# What is agreed about in the background


class Listener(Service):
    @rpc
    def on(self, text: str) -> None: ...


COMMANDS = next(iter(services_of(Listener).values()))


def agreements_of(client: Client[Any]) -> Any:
    return client._link.agreements


def test_soon_is_now_where_it_is_known(colours: Colours) -> None:
    with colours.serve(Listener()) as server:
        with colours.connect(server.url) as client:
            client.proxy(Listener).on("")  # it is known
            told: list[Agreement] = []

            def then(agreement: Agreement) -> bool:
                told.append(agreement)
                return False

            agreements = agreements_of(client)
            assert agreements.soon(COMMANDS, then, lambda error: None) is False
            assert told == [agreements.known(COMMANDS)]


@for_clients
def test_soon_asks_once_and_tells_all_in_the_order_in_which_they_came(colours: Colours) -> None:
    asked: list[int] = []
    go_on, all_asked = Gate(), Gate()

    def script(peer: RawPeer) -> None:
        peer.shake_hands()
        question = peer.question()
        asked.append(question.command)
        go_on.wait()
        peer.send_frame(Kind.RESPONSE, 0, question.call, pack_plain(None))
        peer.read_to_end()

    with FakeServer(script) as fake:
        with colours.connect(fake.url) as client:
            told: list[int] = []
            for number in range(20):

                def then(agreement: Agreement, number: int = number) -> bool:
                    told.append(number)
                    if number == 19:
                        all_asked.open()
                    return True

                assert agreements_of(client).soon(COMMANDS, then, lambda error: None) is True
            assert told == []
            go_on.open()
            all_asked.wait()
            assert told == list(range(20))
            assert len(asked) == 1


@for_clients
@pytest.mark.parametrize("end", ["close", "nonsense"])
def test_soon_fails_for_all_where_the_peer_does_not_tell(end: str, log: Log, colours: Colours) -> None:
    go_on = Gate()

    def script(peer: RawPeer) -> None:
        peer.shake_hands()
        question = peer.question()
        go_on.wait()
        if end == "nonsense":
            peer.send_frame(Kind.RESPONSE, 0, question.call, b"\xc1")
            peer.read_to_end()

    with FakeServer(script) as fake:
        with colours.connect(fake.url) as client:
            errors: Future[RpcError] = Future()
            more: Future[RpcError] = Future()
            agreements = agreements_of(client)
            for future in (errors, more):
                agreements.soon(COMMANDS, lambda agreement: True, future.set_result)
            go_on.open()
            assert isinstance(errors.result(PATIENCE), RpcError)
            assert isinstance(more.result(PATIENCE), RpcError)
            if end == "nonsense":
                assert "does not tell its contract" in log.line()
            assert agreements._asking == {}


# Callers of callbacks


class Kept(Service):
    def __init__(self) -> None:
        self.kept: list[Callable[[int], int]] = []

    @rpc
    def keep(self, use: Callable[[int], int]) -> None:
        self.kept.append(use)


def test_what_is_kept_for_a_callback_is_small(colours: Colours) -> None:
    """A peer may send 65535 of them in a call of 200 KB."""
    kept = Kept()
    with colours.serve(kept) as server, colours.connect(Kept, server.url) as proxy:
        for _ in range(3):
            proxy.keep(abs)
        first, second, _ = kept.kept
        assert remote(first).command is remote(second).command
        assert first is not second
        del first, second
        kept.kept.clear()
        gc.collect()


def test_a_callback_is_no_command_of_the_contract(colours: Colours) -> None:
    assert [*commands_of(Kept)] == ["keep"]
    kept = Kept()
    with colours.serve(kept) as server, colours.connect(Kept, server.url) as proxy:
        proxy.keep(abs)
        assert threading.get_ident()
        running = Running(kept.kept[0], -4)
        assert running.result() == 4
        kept.kept.clear()


def test_an_unknown_command_is_told_by_its_name(colours: Colours) -> None:
    with colours.serve(Listener()) as server, colours.connect(server.url) as client:
        with pytest.raises(UnknownCommand, match="Kept"):
            client.proxy(Kept).keep(abs)
