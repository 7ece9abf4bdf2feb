"""Callbacks over real sockets: in which thread, in which order, for how long, and how they end."""

import asyncio
import contextlib
import contextvars
import gc
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from itertools import count
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it ships no types
import pytest

from tests.ends import Colours, for_clients, for_servers
from tests.support import (
    PATIENCE,
    FakeServer,
    Gate,
    Gates,
    Log,
    Program,
    RawPeer,
    Running,
    agree,
    failure_of,
    in_time,
    run_all,
    until,
)
from typedrpc import (
    ArgumentTypeError,
    ArgumentValueError,
    Client,
    ConnectionLost,
    DeadlineExceeded,
    MessageTooLarge,
    NestedTooDeep,
    RemoteError,
    Service,
    UnknownCommand,
    connect,
    current_call,
    rpc,
)
from typedrpc.callbacks import ALL_CALLBACKS
from typedrpc.codec import pack_plain
from typedrpc.codec.body import callback_mark
from typedrpc.command import remote
from typedrpc.common import handlers
from typedrpc.common.server import BaseServer
from typedrpc.failure import Code
from typedrpc.messages import ProtocolCommand, pack_extension
from typedrpc.wire import Frame, Kind, encode

pytestmark = pytest.mark.usefixtures("kept_loop", "no_leaks")

Use = Callable[[int], int]


class Room(Service):
    """Handlers that do with callbacks what a test says."""

    def __init__(self) -> None:
        self.scripts: dict[str, Callable[..., Any]] = {}
        self.kept: list[Any] = []
        self.gates = Gates()

    @rpc
    def add(self, a: int, b: int) -> int:
        return a + b

    @rpc
    def each(self, numbers: list[int], use: Callable[[int], int]) -> list[int]:
        return [use(number) for number in numbers]

    @rpc
    def act(self, script: str, use: Callable[[int], int]) -> Any:
        return self.scripts[script](use)

    @rpc
    def run(self, script: str) -> Any:
        return self.scripts[script]()

    @rpc
    def keep(self, *use: Callable[[int], int]) -> int:
        self.kept.extend(use)
        return len(self.kept)

    @rpc
    def by_name(self, /, **use: Callable[[int], int]) -> list[str]:
        return [f"{name} {one(1)}" for name, one in use.items()]

    @rpc
    def ignore(self, use: Callable[[int], int], number: int = 0) -> int:
        return number

    @rpc
    def either(self, use: Callable[[int], int] | int | None = None) -> int | None:
        return use(1) if callable(use) else use

    @rpc
    def ask(self, use: Callable[[int], Awaitable[int]]) -> int:
        async def run() -> int:
            return await use(1) + await use(2)

        return asyncio.run(run())

    @rpc
    def ask_at_once(self, use: Callable[[int], Awaitable[int]]) -> int:
        return remote(use).call(1)

    @rpc
    def keep_async(self, use: Callable[[int], Awaitable[int]]) -> None:
        self.kept.append(use)

    @rpc
    def both(self, first: Callable[[int], int], second: Callable[[int], int]) -> int:
        return first(1) + second(2)


@pytest.fixture
def room() -> Iterator[Room]:
    room = Room()
    yield room
    room.gates.open_all()
    room.kept.clear()


@pytest.fixture
def server(room: Room, colours: Colours) -> Iterator[BaseServer[Any]]:
    with colours.serve(room) as server:
        yield server


@pytest.fixture
def client(server: BaseServer[Any], colours: Colours) -> Iterator[Client[Any]]:
    with colours.connect(server.url) as client:
        yield client


@pytest.fixture
def proxy(client: Client[Any]) -> Room:
    return client.proxy(Room)


def double(number: int) -> int:
    return 2 * number


def groups(client: Client[Any]) -> dict[int, dict[int, Any]]:
    """What a client has offered and the server has not dropped."""
    link: Any = client._link
    callbacks = link.connection.callbacks
    with callbacks._lock:
        return {call: dict(group.offers) for call, group in callbacks.groups.items()}


class Mortal:
    """A callback of which a test can tell when nobody has it any more."""

    def __init__(self) -> None:
        self.gone = Gate()

    def make(self) -> Use:
        def function(number: int) -> int:
            return number + 1

        weakref.finalize(function, self.gone.open).atexit = False
        return function


# Threads


def test_it_runs_in_the_thread_that_waits_for_the_call(proxy: Room) -> None:
    threads: list[int] = []

    def use(number: int) -> int:
        threads.append(threading.get_ident())
        return 2 * number

    assert proxy.each([1, 2, 3], use) == [2, 4, 6]
    assert run_all([lambda: proxy.each([5], use)] * 4) == [[10]] * 4
    assert threads[:3] == [threading.get_ident()] * 3
    assert len(threads) == 7


@pytest.mark.unmeasured
def test_in_each_of_many_threads_its_own(proxy: Room) -> None:
    def call() -> bool:
        seen = set()

        def use(number: int) -> int:
            seen.add(threading.get_ident())
            return number

        for _ in range(20):
            assert proxy.each([1, 2, 3], use) == [1, 2, 3]
        return seen == {threading.get_ident()}

    assert all(run_all([call] * 8))


def test_a_lock_that_the_caller_holds_is_still_its_own(proxy: Room) -> None:
    lock = threading.RLock()

    def use(number: int) -> int:
        assert lock.acquire(blocking=False)
        try:
            return 0 if number == 0 else number + sum(proxy.each([number - 1], use))
        finally:
            lock.release()

    with lock:
        assert proxy.each([10], use) == [55]


def test_other_calls_go_on_while_one_runs(proxy: Room, room: Room) -> None:
    def use(number: int) -> int:
        room.gates["entered"].open()
        room.gates["go on"].wait()
        return number

    calling = Running(proxy.each, [1], use)
    room.gates["entered"].wait()
    assert proxy.add(1, 2) == 3
    assert proxy.each([1], double) == [2]
    assert proxy.add.submit(2, 3).result(PATIENCE) == 5
    room.gates["go on"].open()
    assert calling.result() == [1]


@pytest.mark.parametrize("form", ["submit", "notify", "aio"])
def test_it_runs_in_another_thread_where_none_waits(form: str, proxy: Room, room: Room) -> None:
    threads: list[int] = []
    done = Gate()

    def use(number: int) -> int:
        threads.append(threading.get_ident())
        return number

    def script(use: Use) -> list[int]:
        try:
            return [use(number) for number in range(5)]
        finally:
            done.open()

    room.scripts["a"] = script
    if form == "submit":
        assert proxy.act.submit("a", use).result(PATIENCE) == [0, 1, 2, 3, 4]
    elif form == "aio":
        assert asyncio.run(proxy.act.aio("a", use)) == [0, 1, 2, 3, 4]
    else:
        proxy.act.notify("a", use)
    done.wait()
    assert len(threads) == 5
    assert threading.get_ident() not in threads


# Order


@pytest.mark.parametrize("form", ["call", "submit", "notify"])
def test_one_after_another_in_the_order_in_which_they_were_sent(form: str, proxy: Room, room: Room) -> None:
    seen: list[int] = []
    running: list[int] = []
    done = Gate()

    def use(number: int) -> int:
        running.append(number)
        assert running == [number]
        seen.append(number)
        running.remove(number)
        return number

    def script(use: Use) -> None:
        for number in range(300):
            if number % 7 == 3:
                assert use(number) == number
            elif number % 7 == 5:
                remote(use).submit(number)
            else:
                remote(use).notify(number)
        use(300)
        done.open()

    room.scripts["a"] = script
    getattr(proxy.act, form)("a", use)
    done.wait()
    assert seen == list(range(301))


@pytest.mark.unmeasured
@pytest.mark.parametrize("form", ["call", "submit"])
def test_the_result_comes_after_the_callbacks_that_were_sent_before_it(form: str, proxy: Room, room: Room) -> None:
    seen: list[int] = []

    def use(number: int) -> int:
        if number == 0:
            room.gates["go on"].wait()
        seen.append(number)
        return number

    def script(use: Use) -> int:
        for number in range(100):
            remote(use).notify(number)
        room.gates["go on"].open()
        return len(seen)

    room.scripts["a"] = script
    for _ in range(20):
        seen.clear()
        if form == "call":
            proxy.act("a", use)
        else:
            proxy.act.submit("a", use).result(PATIENCE)
        assert seen == list(range(100))


def test_those_of_a_future_come_before_its_result_also_where_they_block(proxy: Room, room: Room) -> None:
    seen: list[str] = []

    def use(number: int) -> int:
        room.gates["go on"].wait()
        seen.append("callback")
        return number

    def script(use: Use) -> None:
        remote(use).notify(1)

    room.scripts["a"] = script
    future = proxy.act.submit("a", use)
    future.add_done_callback(lambda _: seen.append("result"))
    assert proxy.add.submit(1, 2).result(PATIENCE) == 3  # what came before it is dealt with
    assert not future.done()
    room.gates["go on"].open()
    future.result(PATIENCE)
    assert seen[0] == "callback"


def test_from_several_threads_of_the_handler(proxy: Room, room: Room) -> None:
    threads: list[int] = []
    running: list[int] = []

    def use(number: int) -> int:
        running.append(number)
        assert running == [number]
        threads.append(threading.get_ident())
        running.remove(number)
        return -number

    def script(use: Use) -> list[int]:
        return run_all([lambda number=number: use(number) for number in range(8)])  # type: ignore[misc]

    room.scripts["a"] = script
    for _ in range(10):
        assert proxy.act("a", use) == [-number for number in range(8)]
    assert set(threads) == {threading.get_ident()}
    future = proxy.act.submit("a", use)
    assert future.result(PATIENCE) == [-number for number in range(8)]


@pytest.mark.unmeasured
def test_the_order_is_kept_where_the_call_ends_between_them(proxy: Room, room: Room) -> None:
    """Those that come after the call run in another thread, and after those that ran in the caller's."""
    for _ in range(100):
        seen: list[int] = []
        last = Gate()

        def use(number: int, seen: list[int] = seen, last: Gate = last) -> int:
            seen.append(number)
            if number == 59:
                last.open()
            return number

        def script(use: Use) -> None:
            def send() -> None:
                for number in range(60):
                    remote(use).notify(number)

            room.kept.append(Running(send))

        room.scripts["a"] = script
        proxy.act("a", use)
        last.wait()
        assert seen == list(range(60))
        room.kept.pop().result()


# Errors


class OwnError(Exception):
    pass


@pytest.mark.parametrize("form", ["call", "submit"])
@pytest.mark.parametrize(
    ("raised", "caught", "text"),
    [
        (ValueError("too few"), ValueError, "too few"),
        (KeyError("k"), KeyError, "'k'"),
        (ArgumentValueError("not so"), ArgumentValueError, "not so"),
        (ZeroDivisionError(), ZeroDivisionError, ""),
        (OwnError("secret"), RemoteError, "Room.act: callback 'use' failed at the peer with "),
        (TimeoutError("secret"), RemoteError, "TimeoutError"),
        (SystemExit(3), RemoteError, "SystemExit"),
        (RecursionError("secret"), RemoteError, "RecursionError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_it_raises_is_raised_in_the_handler(
    form: str, raised: BaseException, caught: type[Exception], text: str, proxy: Room, room: Room, log: Log
) -> None:
    seen: Future[Exception] = Future()

    def use(number: int) -> int:
        raise raised

    def script(use: Use) -> str:
        with pytest.raises(caught) as error:
            use(1)
        seen.set_result(error.value)
        return "survived"

    room.scripts["a"] = script
    if form == "submit":
        assert proxy.act.submit("a", use).result(PATIENCE) == "survived"
    elif isinstance(raised, SystemExit):
        with pytest.raises(SystemExit):  # the thread's own, as it runs there
            proxy.act("a", use)
        assert proxy.add(1, 2) == 3
    else:
        assert proxy.act("a", use) == "survived"
    error = seen.result(PATIENCE)  # the handler may still be on its way out of the call
    assert text in str(error)
    if isinstance(error, RemoteError):
        assert "secret" not in str(error)
        if isinstance(raised, SystemExit) and form == "call":
            return  # it was raised here too, and is not logged
        line = log.line()
        assert line.startswith("Room.act: callback 'use' failed in a call, error id ")
        assert error.error_id
        assert error.error_id in line


def test_what_the_handler_does_not_catch_travels_back(proxy: Room, log: Log) -> None:
    def fail(number: int) -> int:
        raise ValueError(f"not {number}")

    with pytest.raises(ValueError, match="not 7") as caught:
        proxy.each([7], fail)
    assert str(caught.value.__cause__) == "Room.each failed at the peer with ValueError"

    def crash(number: int) -> int:
        raise OwnError

    with pytest.raises(RemoteError, match=r"Room\.each failed at the peer with"):
        proxy.each([7], crash)
    assert "callback 'use' failed in a call" in log.line()
    assert "Room.each failed in a call" in log.line()


def test_an_error_in_a_one_way_one_is_logged_where_it_runs(proxy: Room, room: Room, log: Log) -> None:
    def crash(number: int) -> int:
        raise OwnError("mine")

    room.scripts["a"] = lambda use: remote(use).notify(1)
    proxy.act("a", crash)
    assert log.line().startswith("Room.act: callback 'use' failed in a one-way call, error id ")


def test_arguments_and_results_are_checked_at_both_ends(proxy: Room, room: Room, log: Log) -> None:
    def script(use: Any) -> list[str]:
        texts = []
        for arguments in [("x",), (), (1, 2)]:
            with pytest.raises(TypeError) as caught:
                use(*arguments)
            texts.append(str(caught.value))
        with pytest.raises(TypeError):
            use(number=1)
        return texts

    room.scripts["a"] = script
    assert proxy.act("a", double) == [
        "Room.act: callback 'use': argument 'arg1': expected int, got str",
        "Room.act: callback 'use': argument 'arg1' is missing",
        "Room.act: callback 'use': takes 1 positional argument, 2 were given",
    ]
    wrong: Any = str
    with pytest.raises(RemoteError):
        proxy.each([1], wrong)
    assert "callback 'use' does not keep to its annotations" in log.line()
    assert "Room.each failed" in log.line()


def test_one_that_cannot_be_called_so_fails_when_it_is_called(proxy: Room) -> None:
    def two(a: int, b: int) -> int:
        return a

    import functools

    hidden: Any = functools.partial(two)  # which is not looked into before
    with pytest.raises(TypeError):
        proxy.each([1], hidden)


def test_a_result_that_is_too_large(server: BaseServer[Any], room: Room, log: Log, colours: Colours) -> None:
    def script(use: Any) -> str:
        with pytest.raises(MessageTooLarge, match=r"the result of Room\.big: callback 'use'"):
            use()
        return "fine"

    class Big(Service, name="Room"):
        @rpc
        def big(self, use: Callable[[], bytes]) -> str:
            return str(script(use))

    with (
        colours.serve(Big(), max_message_size=2000) as server,
        colours.connect(Big, server.url) as proxy,
    ):
        assert proxy.big(lambda: bytes(5000)) == "fine"
    assert "the result of Room.big: callback 'use'" in log.line()


# Deadlines


def test_a_deadline_of_the_call_passes_in_a_callback(proxy: Room, room: Room) -> None:
    """The thread comes out of its callback first; the callback keeps working for the handler."""

    def is_called_in_time(timeout: float) -> bool:
        entered, results = Gate(), Future[int]()

        def use(number: int) -> int:
            entered.open()
            room.gates["go on"].wait()
            return number

        def script(use: Use) -> None:
            results.set_result(use(3))

        room.scripts["a"] = script
        calling = Running(proxy.act.with_options(timeout=timeout), "a", use)
        until(lambda: entered.is_open or calling.done, "the callback, or the end of the call")
        if not entered.is_open:
            return False
        assert not calling.done
        room.gates["go on"].open()
        assert results.result(PATIENCE) == 3
        calling.error()
        return True

    in_time(is_called_in_time)
    assert proxy.add(1, 2) == 3


def test_a_deadline_of_a_callback(proxy: Room, room: Room) -> None:
    def use(number: int) -> int:
        room.gates["go on"].wait()
        return number

    def script(use: Use) -> str:
        try:
            with pytest.raises(DeadlineExceeded, match=r"Room\.act: callback 'use': no answer in time"):
                remote(use).with_options(timeout=0.02)(1)
        finally:
            room.gates["go on"].open()
        return "late"

    room.scripts["a"] = script
    assert proxy.act("a", use) == "late"


def test_no_time_left_for_a_callback(proxy: Room, room: Room) -> None:
    seen: list[int] = []

    def use(number: int) -> int:
        seen.append(number)
        return number

    def script(use: Use) -> str:
        with pytest.raises(DeadlineExceeded):
            remote(use).with_options(timeout=0)(1)
        return str(use(2))

    room.scripts["a"] = script
    assert proxy.act("a", use) == "2"
    assert seen == [2]


# After the call


def test_a_handler_may_keep_it(proxy: Room, room: Room, client: Client[Any]) -> None:
    threads: list[int] = []

    def use(number: int) -> int:
        threads.append(threading.get_ident())
        return 2 * number

    proxy.keep(use)
    # The client is idle: nobody calls, and somebody reads all the same.
    assert [room.kept[0](number) for number in range(20)] == [2 * number for number in range(20)]
    assert run_all([lambda number=number: room.kept[0](number) for number in range(8)]) == [  # type: ignore[misc]
        2 * number for number in range(8)
    ]
    assert threading.get_ident() not in threads
    # In a later handler it runs in the thread that waits for that.
    threads.clear()
    room.scripts["later"] = lambda: room.kept[0](21)
    assert proxy.run("later") == 42
    assert threads == [threading.get_ident()]
    assert len(groups(client)) == 1
    room.kept.clear()


def test_after_a_future_and_after_a_one_way_call(proxy: Room, room: Room) -> None:
    kept = Gate()
    proxy.keep.submit(double).result(PATIENCE)
    assert room.kept[0](4) == 8

    def script(use: Use) -> None:
        room.kept.append(use)
        kept.open()

    room.scripts["a"] = script
    proxy.act.notify("a", double)
    kept.wait()
    assert room.kept[1](5) == 10


def test_after_the_connection(room: Room, log: Log, colours: Colours) -> None:
    gone = Mortal()
    with colours.serve(room) as server:
        with colours.connect(Room, server.url) as proxy:
            proxy.keep(gone.make())
        gone.gone.wait()
        with pytest.raises(ConnectionLost):
            room.kept[0](1)
        with pytest.raises(ConnectionLost):
            remote(room.kept[0]).notify(1)
        with pytest.raises(ConnectionLost):
            remote(room.kept[0]).submit(1)
        room.kept.clear()


def test_the_connection_ends_in_a_callback(room: Room, log: Log, colours: Colours) -> None:
    lost: Future[BaseException] = Future()

    def script(use: Use) -> None:
        try:
            use(1)
        except BaseException as error:
            lost.set_result(error)

    room.scripts["a"] = script
    with colours.serve(room) as server, colours.connect(server.url) as client:

        def use(number: int) -> int:
            client.close()
            return number

        with pytest.raises(ConnectionLost):
            client.proxy(Room).act("a", use)
        assert isinstance(lost.result(PATIENCE), ConnectionLost)


@for_servers
def test_in_another_process_that_is_killed(room: Room, colours: Colours) -> None:
    program = """
        from tests.both.test_callbacks import Room
        from typedrpc import connect
        client = connect(Room, hear())
        client.proxy(Room).keep(lambda number: number + 1)
        say("kept")
        hear()
    """
    with colours.serve(room) as server, Program(program) as child:
        child.say(server.url)
        assert child.hear() == "kept"
        assert room.kept[0](1) == 2
        child.process.kill()
        child.process.wait(PATIENCE)

        def call_on() -> None:
            while True:
                room.kept[0](1)

        with pytest.raises(ConnectionLost):
            call_on()
        room.kept.clear()


@pytest.mark.unmeasured
def test_called_often(proxy: Room, room: Room, client: Client[Any]) -> None:
    seen: list[int] = []

    def use(number: int) -> int:
        seen.append(number)
        return number

    def script(use: Use) -> int:
        return sum(use(number) for number in range(2000)) + sum(remote(use).map(range(500)))

    room.scripts["a"] = script
    assert proxy.act("a", use) == sum(range(2000)) + sum(range(500))
    assert seen == [*range(2000), *range(500)]


# Nested


def test_one_that_calls_back_and_is_called_back(proxy: Room, room: Room) -> None:
    """A to B to A and so on, each time with a new callback."""
    depths: list[int] = []

    def use(number: int) -> int:
        depths.append(current_call().depth)
        if number == 0:
            return 0
        return 1 + proxy.each([number - 1], lambda inner: use(inner))[0]

    assert proxy.each([25], use) == [25]
    assert depths == list(range(1, 52, 2))
    assert run_all([lambda: proxy.each([12], use)] * 6) == [[12]] * 6


def test_too_deep(proxy: Room, client: Client[Any]) -> None:
    def use(number: int) -> int:
        return proxy.each([number], use)[0]

    with pytest.raises((NestedTooDeep, RemoteError)):
        proxy.each([1], use)
    assert proxy.each([1], double) == [2]


def test_nested_in_a_future(proxy: Room) -> None:
    def use(number: int) -> int:
        return number if number == 0 else 1 + proxy.each([number - 1], use)[0]

    futures = [proxy.each.submit([10], use) for _ in range(5)]
    assert [future.result(PATIENCE) for future in futures] == [[10]] * 5


def test_the_server_gives_callbacks_to_its_client(room: Room, colours: Colours) -> None:
    class Listener(Service):
        @rpc
        def on(self, use: Callable[[int], int]) -> int:
            return use(1) + 100

        @rpc
        def hold(self, use: Callable[[int], int]) -> None:
            held.append(use)

    held: list[Use] = []
    threads: list[int] = []

    def use(number: int) -> int:
        threads.append(threading.get_ident())
        return number + 1

    def script() -> int:
        threads.append(threading.get_ident())
        return current_call().peer.proxy(Listener).on(use)

    room.scripts["a"] = script
    room.scripts["hold"] = lambda: current_call().peer.proxy(Listener).hold(gone.make())
    gone = Mortal()
    with colours.serve(room) as server, colours.connect(Room, server.url, expose=[Listener()]) as proxy:
        assert proxy.run("a") == 102
        assert len(set(threads)) == 1
        proxy.run("hold")
        assert held[0](5) == 6
        held.clear()
        gone.gone.wait()
        # From outside any call too.
        peer = server.peers[-1]
        assert peer.proxy(Listener).on(use) == 102
        assert threads[-1] == threading.get_ident()


# Lifetime


@pytest.mark.parametrize("form", ["call", "submit", "notify", "aio"])
def test_it_is_forgotten_when_the_handler_has_returned(form: str, proxy: Room, client: Client[Any]) -> None:
    mortal = Mortal()
    if form == "aio":
        asyncio.run(proxy.ignore.aio(mortal.make()))
    else:
        outcome = getattr(proxy.ignore, form)(mortal.make())
        if form == "submit":
            outcome.result(PATIENCE)
    mortal.gone.wait()
    assert groups(client) == {}


def test_it_is_forgotten_when_the_handler_has_failed(proxy: Room, client: Client[Any], room: Room) -> None:
    def script(use: Use) -> None:
        use(1)
        raise ValueError("no")

    room.scripts["a"] = script
    mortal = Mortal()
    with pytest.raises(ValueError, match="no"):
        proxy.act("a", mortal.make())
    mortal.gone.wait()
    assert groups(client) == {}


def test_it_is_forgotten_when_the_last_reference_goes(proxy: Room, room: Room, client: Client[Any]) -> None:
    first, second = Mortal(), Mortal()
    proxy.keep(first.make(), second.make())
    assert [len(offers) for offers in groups(client).values()] == [2]
    another = remote(room.kept[0])
    del room.kept[0]
    assert another(1) == 2
    assert not first.gone.is_open
    del another
    first.gone.wait()
    assert [[*offers] for offers in groups(client).values()] == [[1]]
    assert room.kept[0](5) == 6
    assert not second.gone.is_open
    room.kept.clear()
    second.gone.wait()
    assert groups(client) == {}


def test_it_is_forgotten_when_a_cycle_is_collected(proxy: Room, room: Room, client: Client[Any]) -> None:
    mortal = Mortal()
    proxy.keep(mortal.make())
    cycle: list[Any] = [room.kept.pop()]
    cycle.append(cycle)
    del cycle
    gc.collect()
    mortal.gone.wait()
    assert groups(client) == {}


def test_refused_calls_leave_nothing(proxy: Room, client: Client[Any], server: BaseServer[Any], log: Log) -> None:
    connection = client._link.connection
    mortals = []

    def mortal() -> Use:
        mortals.append(Mortal())
        return mortals[-1].make()

    with pytest.raises(ArgumentTypeError):
        proxy.ignore(mortal(), "x")  # type: ignore[arg-type]
    with pytest.raises(DeadlineExceeded):
        proxy.ignore.with_options(timeout=0)(mortal())
    with pytest.raises(DeadlineExceeded):
        proxy.ignore.with_options(timeout=0).submit(mortal()).result(PATIENCE)
    for one in mortals:
        one.gone.wait()
    assert groups(client) == {}
    assert not connection.ended


class Renamed(Service, name="Room"):
    @rpc(id=1)
    def ignore(self, use: Callable[[int], int], number: int = 0) -> int:
        return number


def call_unknown(proxy: Room, form: str, use: Use) -> None:
    outcome = getattr(proxy.ignore, form)(use)
    if form == "submit":
        outcome.result(PATIENCE)


@pytest.mark.parametrize("form", ["call", "submit", "notify"])
def test_a_call_that_the_peer_refuses_unseen_leaves_nothing(
    form: str, proxy: Room, client: Client[Any], server: BaseServer[Any], room: Room, log: Log
) -> None:
    """The callee does not have the command, whatever was agreed."""
    entry = server._dispatcher._table.entries.pop(Room.ignore.id)
    mortal = Mortal()
    try:
        if form == "notify":
            proxy.ignore.notify(mortal.make())
            assert "a one-way call was dropped" in log.line()
        else:
            with pytest.raises(UnknownCommand):
                call_unknown(proxy, form, mortal.make())
            gc.collect()  # a future that failed is in the frame of who asked it
        mortal.gone.wait()
        assert groups(client) == {}
    finally:
        server._dispatcher._table.entries[Room.ignore.id] = entry


@pytest.mark.parametrize("form", ["call", "submit", "notify"])
def test_bad_arguments_that_the_peer_finds_leave_nothing(
    form: str, proxy: Room, client: Client[Any], room: Room, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pack(args: Any, kwargs: Any) -> Any:
        payload, functions = original(args, kwargs)
        assert isinstance(payload, bytes)
        return payload.replace(b"good", b"g\xffod"), functions

    codec = Room.act.codec
    original = codec.pack_with_callbacks
    monkeypatch.setattr(codec, "pack_with_callbacks", pack)
    mortal = Mortal()
    if form == "notify":
        proxy.act.notify("good", mortal.make())
        assert "a one-way call was dropped" in log.line()
    elif form == "submit":
        with pytest.raises(ArgumentValueError):
            proxy.act.submit("good", mortal.make()).result(PATIENCE)
    else:
        with pytest.raises(ArgumentValueError):
            proxy.act("good", mortal.make())
    mortal.gone.wait()
    assert groups(client) == {}


def test_a_call_that_is_not_sent_leaves_nothing(room: Room, log: Log, colours: Colours) -> None:
    mortals = [Mortal() for _ in range(6)]
    room.scripts["wait"] = lambda: room.gates["go on"].wait()
    with colours.serve(room, max_calls=1, max_message_size=2000) as server:
        with colours.connect(server.url) as client:
            proxy = client.proxy(Room)
            blocking = proxy.run.submit("wait")
            for form, mortal in zip(["__call__", "submit"], mortals, strict=False):
                with pytest.raises(DeadlineExceeded, match="no room for another call in time"):
                    getattr(proxy.ignore.with_options(timeout=0.01), form)(mortal.make())
            for form, mortal in zip(["__call__", "submit", "notify"], mortals[2:5], strict=True):
                with pytest.raises(MessageTooLarge):
                    getattr(proxy.act, form)("x" * 3000, mortal.make())
            assert groups(client) == {}
            room.gates["go on"].open()
            blocking.result(PATIENCE)
        with pytest.raises(ConnectionLost):
            proxy.ignore(mortals[5].make())
        for mortal in mortals:
            mortal.gone.wait()


def test_a_message_refused_for_a_limit_that_was_lowered_leaves_nothing(
    proxy: Room, client: Client[Any], server: BaseServer[Any], room: Room, log: Log
) -> None:
    """The client does not know of the new limit yet."""
    core = client._link.connection.core
    limits = core.peer_limits
    peer = server.peers[-1]  # the one before may not have left quite
    mortals = [Mortal() for _ in range(3)]
    peer.set_limit(max_message_size=2000)
    proxy.add(1, 2)
    core.peer_limits = limits
    with pytest.raises(MessageTooLarge):
        proxy.act("x" * 3000, mortals[0].make())
    with pytest.raises(MessageTooLarge):
        proxy.act.submit("x" * 3000, mortals[1].make()).result(PATIENCE)
    proxy.act.notify("x" * 3000, mortals[2].make())
    for mortal in mortals:
        mortal.gone.wait()
    assert groups(client) == {}


def test_the_end_of_the_connection_drops_all(room: Room, colours: Colours) -> None:
    mortals = [Mortal() for _ in range(10)]
    with colours.serve(room) as server, colours.connect(server.url) as client:
        proxy = client.proxy(Room)
        for mortal in mortals:
            proxy.keep(mortal.make())
        assert len(groups(client)) == 10
        client.close()
        for mortal in mortals:
            mortal.gone.wait()
        assert groups(client) == {}
        room.kept.clear()


def test_call_ids_that_wrap_skip_live_callbacks(proxy: Room, room: Room, client: Client[Any]) -> None:
    proxy.keep(double)
    (origin,) = groups(client)
    calls = client._link.connection.core.calls
    calls.next_number = count(0xFFFF_FFFD, 2).__next__
    numbers: set[int] = set()

    def use(number: int) -> int:
        numbers.update(groups(client))
        return number

    for _ in range(6):
        assert proxy.each([1], use) == [1]
        assert proxy.ignore.submit(use).result(PATIENCE) == 0
    assert room.kept[0](3) == 6
    assert origin < calls.new_id() < 0xFFFF_FFFD
    assert {1, 0xFFFF_FFFD} <= numbers


@pytest.mark.unmeasured
def test_dropped_at_any_moment(room: Room, colours: Colours) -> None:
    """The garbage collector runs all the time, in every thread, with callbacks in cycles."""
    threshold = gc.get_threshold()

    class Cycle:
        def __init__(self, use: Use) -> None:
            self.use = use
            self.own = self

        def __del__(self) -> None:
            gc.collect(0)

    room.scripts["cycle"] = lambda use: Cycle(use).use(1)
    with colours.serve(room) as server:
        with colours.connect(Room, server.url) as proxy:
            try:
                gc.set_threshold(1, 1, 1)

                def work() -> int:
                    count = 0
                    for number in range(15):
                        assert proxy.act("cycle", double) == 2
                        assert proxy.act.submit("cycle", double).result(PATIENCE) == 2
                        proxy.act.notify("cycle", double)
                        proxy.keep(double)
                        room.kept.clear()
                        assert proxy.add(number, 1) == number + 1
                        count += 1
                    return count

                assert run_all([work] * 4) == [15] * 4
            finally:
                gc.set_threshold(*threshold)
            last = Mortal()
            gc.collect()
            proxy.ignore(last.make())
            last.gone.wait()


@for_servers
def test_a_client_drops_callbacks_of_its_server_at_any_moment(room: Room, colours: Colours) -> None:
    """Also while it holds the lock that its threads are started under."""

    class Listener(Service):
        @rpc
        def hold(self, use: Callable[[int], int]) -> int:
            cycle: list[Any] = [use]
            cycle.append(cycle)
            return use(1)

    room.scripts["a"] = lambda: current_call().peer.proxy(Listener).hold(double)
    with (
        colours.serve(room) as server,
        contextlib.closing(connect(Room, server.url, expose=[Listener()])) as client,
    ):
        with client as proxy:
            assert proxy.run("a") == 2

            def collect() -> None:
                with client._runtime_lock:
                    gc.collect()

            Running(collect).result()
            assert proxy.run("a") == 2


# What may be given


def test_optional_ones_and_other_types_beside(proxy: Room) -> None:
    assert proxy.either() is None
    assert proxy.either(None) is None
    assert proxy.either(7) == 7
    assert proxy.either(double) == 2
    assert proxy.either(use=lambda number: number + 5) == 6
    assert proxy.either.submit(double).result(PATIENCE) == 2
    assert list(proxy.either.map([double, 3, None])) == [2, 3, None]


def test_any_number_of_them(proxy: Room, room: Room) -> None:
    assert proxy.keep(double, double, abs) == 3
    assert [use(-3) for use in room.kept] == [-6, -6, 3]
    assert proxy.by_name(a=double, b=lambda number: number + 7) == ["a 2", "b 8"]
    assert proxy.by_name() == []
    assert proxy.both(double, second=double) == 6
    assert proxy.both(first=double, second=abs) == 4


class Scale:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def apply(self, number: int) -> int:
        return self.factor * number

    def __call__(self, number: int) -> int:
        return self.factor * number


def test_methods_and_objects(proxy: Room) -> None:
    assert proxy.each([1, 2], Scale(3).apply) == [3, 6]
    assert proxy.each([1, 2], Scale(4)) == [4, 8]
    assert proxy.each([-1, 2], abs) == [1, 2]


def test_a_callback_may_be_passed_on(room: Room, colours: Colours) -> None:
    """A handler gives the one that it got to another server."""
    with (
        colours.serve(room) as server,
        colours.serve(Room()) as behind,
        colours.connect(Room, server.url) as proxy,
        colours.connect(Room, behind.url) as further,
    ):
        room.scripts["on"] = lambda use: further.each([1, 2], use)
        threads = []

        def use(number: int) -> int:
            threads.append(threading.get_ident())
            return number + 1

        assert proxy.act("on", use) == [2, 3]
        assert threads == [threading.get_ident()] * 2


def test_a_command_of_a_proxy_as_a_callback(room: Room, colours: Colours) -> None:
    with (
        colours.serve(room) as server,
        colours.serve(Room()) as other,
        colours.connect(Room, server.url) as proxy,
        colours.connect(Room, other.url) as further,
    ):
        room.scripts["a"] = lambda: 5
        wrapped: Callable[[int], int] = lambda number: further.add(number, 1)  # noqa: E731
        assert proxy.each([1, 2], wrapped) == [2, 3]


# Async ones


def test_an_async_function_from_a_plain_thread(proxy: Room) -> None:
    loops: list[Any] = []

    async def use(number: int) -> int:
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return 10 * number

    assert proxy.ask(use) == 30
    assert proxy.ask_at_once(use) == 10
    assert proxy.ask.submit(use).result(PATIENCE) == 30
    assert len(set(loops)) == 1  # one is kept for all


def test_an_async_function_from_its_own_loop(proxy: Room) -> None:
    async def main() -> None:
        loops: list[Any] = []
        lock = asyncio.Lock()

        async def use(number: int) -> int:
            loops.append(asyncio.get_running_loop())
            async with lock:
                return 10 * number

        async with asyncio.timeout(PATIENCE):
            assert await proxy.ask.aio(use) == 30
            assert await asyncio.gather(*(proxy.ask.aio(use) for _ in range(5))) == [30] * 5
            assert await asyncio.wrap_future(proxy.ask.submit(use)) == 30
        assert set(loops) == {asyncio.get_running_loop()}

    asyncio.run(main())


def test_a_blocking_call_on_a_loop_runs_async_callbacks_elsewhere(proxy: Room) -> None:
    """That loop stands still meanwhile."""

    async def main() -> None:
        own = asyncio.get_running_loop()
        loops: list[Any] = []

        async def use(number: int) -> int:
            loops.append(asyncio.get_running_loop())
            return number

        assert proxy.ask(use) == 3
        assert own not in loops

    asyncio.run(main())


def test_a_loop_that_is_closed_meanwhile(proxy: Room, room: Room, log: Log) -> None:
    async def use(number: int) -> int:
        return number

    async def main() -> None:
        await proxy.keep_async.aio(use)

    asyncio.run(main())
    with pytest.raises(RemoteError):
        remote(room.kept[0]).call(1)
    assert "callback 'use' failed in a call" in log.line()


def test_a_loop_that_ends_while_the_callback_runs(proxy: Room, room: Room, log: Log) -> None:
    errors: Future[BaseException] = Future()

    def call() -> None:
        try:
            remote(room.kept[0]).call(1)
        except BaseException as error:
            errors.set_result(error)

    async def main() -> None:
        entered = asyncio.Event()

        async def use(number: int) -> int:
            entered.set()
            await asyncio.Event().wait()
            return number

        await proxy.keep_async.aio(use)
        room.kept.append(Running(call))
        await entered.wait()

    asyncio.run(main())
    assert isinstance(errors.result(PATIENCE), RemoteError)
    assert "callback 'use' failed in a call" in log.line()
    room.kept.pop().result()


def test_what_an_async_one_raises(proxy: Room, log: Log) -> None:
    async def fail(number: int) -> int:
        await asyncio.sleep(0)
        raise ValueError("not so")

    async def late(number: int) -> int:
        raise TimeoutError

    with pytest.raises(ValueError, match="not so"):
        proxy.ask(fail)
    with pytest.raises(RemoteError):
        proxy.ask(late)
    assert "callback 'use' failed" in log.line()
    assert "Room.ask failed" in log.line()


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


def test_context_variables(proxy: Room) -> None:
    """Where the caller's thread runs the callback, its variables are there; a coroutine has a copy of them."""
    seen: list[str] = []

    def use(number: int) -> int:
        seen.append(VARIABLE.get())
        assert current_call().command == "Room.each: callback 'use'"
        return number

    async def use_async(number: int) -> int:
        seen.append(VARIABLE.get())
        VARIABLE.set("changed")
        assert current_call().command == "Room.ask: callback 'use'"
        return number

    token = VARIABLE.set("mine")
    try:
        proxy.each([1], use)
        proxy.ask(use_async)
        assert seen == ["mine"] * 3
        assert VARIABLE.get() == "mine"
        proxy.each.submit([1], use).result(PATIENCE)
        assert seen[3] == "unset"
    finally:
        VARIABLE.reset(token)


def test_an_async_callback_in_its_other_forms(proxy: Room, room: Room) -> None:
    async def use(number: int) -> int:
        return number + 1

    proxy.keep_async(use)
    (kept,) = room.kept
    other = remote(kept)
    forms = [other(1), other.aio(2), other.with_options(timeout=PATIENCE)(3), kept(4)]

    async def main() -> list[int]:
        return [await form for form in forms]

    assert asyncio.run(asyncio.wait_for(main(), PATIENCE)) == [2, 3, 4, 5]
    assert [other.call(5), other.submit(6).result(PATIENCE), *other.map([7])] == [6, 7, 8]
    room.kept.clear()


def test_a_plain_function_where_an_awaitable_is_asked_for(proxy: Room) -> None:
    async def answer(number: int) -> int:
        return number + 1

    assert proxy.ask(lambda number: answer(number)) == 5


def test_an_async_callback_calls_its_peer(proxy: Room) -> None:
    async def use(number: int) -> int:
        return await proxy.add.aio(number, 100)

    assert proxy.ask(use) == 203

    async def main() -> int:
        async with asyncio.timeout(PATIENCE):
            return await proxy.ask.aio(use)

    assert asyncio.run(main()) == 203


# Other forms


def test_the_other_forms_of_a_callback(proxy: Room, room: Room) -> None:
    seen: list[int] = []

    def use(number: int) -> int:
        seen.append(number)
        return number + 1

    def script(use: Use) -> list[Any]:
        other = remote(use)
        other.notify(1)
        return [
            other.submit(2).result(PATIENCE),
            asyncio.run(other.aio(3)),
            list(other.map([4, 5])),
            other.with_options(timeout=PATIENCE)(6),
            other.call(7),
        ]

    room.scripts["a"] = script
    assert proxy.act("a", use) == [3, 4, [5, 6], 7, 8]
    assert seen == [1, 2, 3, 4, 5, 6, 7]


@for_servers
def test_what_a_handler_gets(proxy: Room, room: Room) -> None:
    def script(use: Any) -> list[str]:
        return [repr(use), use.__name__, repr(remote(use) is use)]

    room.scripts["a"] = script
    assert proxy.act("a", double) == [
        "<bound command Room.act: callback 'use' of a function of the caller>",
        "Room.act: callback 'use'",
        "True",
    ]


# Interrupts and forks


@for_servers
def test_ctrl_c_in_a_callback_comes_out_of_the_call(room: Room, colours: Colours) -> None:
    program = """
        import os, signal
        from tests.both.test_callbacks import Room
        from typedrpc import connect
        def use(number):
            if number == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return number
        with connect(Room, hear()) as proxy:
            try:
                proxy.each([1, 2, 3], use)
            except KeyboardInterrupt:
                say("interrupted")
            say(proxy.add(1, 2))
    """
    with colours.serve(room) as server, Program(program, measured=False) as child:
        child.say(server.url)
        assert child.hear() == "interrupted"
        assert child.hear() == "3"
        child.expect_success()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_callback_in_a_forked_child(room: Room) -> None:
    program = """
        import gc, os
        from tests.both.test_callbacks import Room
        from typedrpc import Server, connect, ConnectionLost
        room = Room()
        with Server(room, url="tcp://127.0.0.1:0") as server, connect(Room, server.url) as proxy:
            proxy.keep(lambda number: number + 1)
            child = os.fork()
            if not child:
                status = 1
                try:
                    room.kept[0](1)
                except ConnectionLost as error:
                    room.kept.clear()
                    gc.collect()
                    status = 0 if "fork" in str(error) else 2
                finally:
                    os._exit(status)
            say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            say(room.kept[0](1))
            room.kept.clear()
    """
    with Program(program, measured=False) as child:
        assert child.hear() == "0"
        assert child.hear() == "2"
        code, _, errors = child.finish()
        assert code == 0, errors


# Peers that do as they like


def callback_request(peer: RawPeer, call: int, extension: bytes, payload: bytes, kind: int = Kind.REQUEST) -> None:

    data = encode(kind, ProtocolCommand.CALLBACK, call, payload, extension)
    assert isinstance(data, bytes)
    peer.send(data)


def target(call: int, index: int) -> bytes:
    return pack_extension(target=(call, index))


@for_servers
@pytest.mark.parametrize(
    "extension",
    [
        b"",
        target(1, 0),
        target(1, 65535),
        target(0, 0),
        target(0xFFFF_FFFF, 3),
        pack_extension(schema=0, target=(1, 0)),
    ],
)
def test_a_call_of_what_is_not_there_is_refused(extension: bytes, server: BaseServer[Any], log: Log) -> None:
    with RawPeer.dial(server.url) as peer:
        peer.shake_hands()
        callback_request(peer, 1, extension, pack_plain([1]))
        code, _ = failure_of(peer.read_frame())
        assert code == Code.UNKNOWN_COMMAND
        callback_request(peer, 0, extension, pack_plain([1]), Kind.NOTIFY)
        assert "a one-way call was dropped" in log.line()
        callback_request(peer, 3, extension, pack_plain([1]))
        assert failure_of(peer.read_frame())[0] == Code.UNKNOWN_COMMAND


@for_servers
def test_releases_of_anything(server: BaseServer[Any]) -> None:
    with RawPeer.dial(server.url) as peer:
        peer.shake_hands()
        for call in (0, 1, 2, 0xFFFF_FFFF):
            for index in (0, 1, ALL_CALLBACKS):
                peer.send_frame(Kind.RELEASE, index, call, b"")
        peer.send_frame(Kind.REQUEST, Room.add.id, 1, pack_plain([1, 2]))
        assert peer.read_frame().payload == pack_plain(3)


def packed(data: object) -> bytes:
    given: Any = msgpack.packb(data)
    return bytes(given)


def ask_for_callbacks(peer: RawPeer) -> Frame:
    """As a server: the client's call of a command of :class:`Room`, which has come with callbacks."""
    agree(peer)
    return peer.question()


@for_clients
def test_a_callback_that_was_not_given(log: Log, colours: Colours) -> None:
    """The client answers each, whatever it is asked for, and goes on."""
    answers: list[int] = []

    def script(peer: RawPeer) -> None:
        question = ask_for_callbacks(peer)
        for index, call in enumerate(
            [(question.call, 1), (question.call, ALL_CALLBACKS), (question.call + 2, 0), (0, 0)]
        ):
            callback_request(peer, 2 + 2 * index, target(*call), pack_plain([1]))
            answers.append(failure_of(peer.read_frame())[0])
        for payload in (pack_plain([]), pack_plain(["x"]), pack_plain([1, 2]), b"\xc1", pack_plain({1: 2})):
            callback_request(peer, 20, target(question.call, 0), payload)
            failure_of(peer.read_frame())
        callback_request(peer, 22, pack_extension(target=(question.call, 0), schema=5), pack_plain([1]))
        failure_of(peer.read_frame())
        callback_request(peer, 24, target(question.call, 0), pack_plain([4]))
        assert peer.read_frame().payload == pack_plain(8)
        peer.send_frame(Kind.RELEASE, 7, question.call, b"")
        peer.send_frame(Kind.RELEASE, 0, question.call, b"")
        callback_request(peer, 26, target(question.call, 0), pack_plain([4]))
        answers.append(failure_of(peer.read_frame())[0])
        peer.send_frame(Kind.RESPONSE, 0, question.call, pack_plain([8]))
        peer.read_to_end()

    with FakeServer(script) as fake, colours.connect(Room, fake.url) as proxy:
        assert proxy.each([4], double) == [8]
    assert answers == [Code.UNKNOWN_COMMAND] * 5


@for_clients
def test_a_release_does_not_undo_what_was_called_before_it(room: Room, colours: Colours) -> None:
    seen: list[int] = []

    def use(number: int) -> int:
        if number == 0:
            room.gates["go on"].wait()
        seen.append(number)
        return number

    def script(peer: RawPeer) -> None:
        question = ask_for_callbacks(peer)
        for number in range(50):
            callback_request(peer, 0, target(question.call, 0), pack_plain([number]), Kind.NOTIFY)
        peer.send_frame(Kind.RELEASE, ALL_CALLBACKS, question.call, b"")
        # Its answer says that all of this was read.
        peer.send_frame(Kind.PING, 0, 0, b"")
        peer.send_frame(Kind.RESPONSE, 0, question.call, pack_plain(0))
        assert peer.read_frame().kind == Kind.PONG
        room.gates["go on"].open()
        peer.read_to_end()

    for form in ("call", "submit"):
        seen.clear()
        room.gates = Gates()
        with FakeServer(script) as fake, colours.connect(Room, fake.url) as proxy:
            if form == "call":
                proxy.ignore(use)
            else:
                # The ping is answered while the first callback blocks, by a thread that is lent for that.
                proxy.ignore.submit(use).result(PATIENCE)
        assert seen == list(range(50))


@pytest.mark.unmeasured
@for_clients
@pytest.mark.parametrize("form", ["call", "submit"])
def test_a_flood_of_one_way_callbacks_is_bounded(
    form: str, monkeypatch: pytest.MonkeyPatch, room: Room, colours: Colours
) -> None:
    """While one runs, so many are read and no more; then they are run, and the rest is read."""
    monkeypatch.setattr(handlers, "HELD_BYTES", 100_000)
    count = 20_000
    blocked = Gate()
    seen: list[int] = []

    class Flood(Service):
        @rpc
        def flood(self, use: Callable[[bytes, int], None]) -> None: ...

    def use(data: bytes, number: int) -> None:
        if number == 0:
            room.gates["go on"].wait()
        seen.append(number)

    def script(peer: RawPeer) -> None:
        question = ask_for_callbacks(peer)
        frames = []
        for number in range(count):
            extension = pack_extension(target=(question.call, 0), parent=question.call if number % 2 else 0)
            arguments = pack_plain([bytes(1000), number])
            frames.append(encode(Kind.NOTIFY, ProtocolCommand.CALLBACK, 0, arguments, extension))
        frames.append(encode(Kind.RESPONSE, 0, question.call, pack_plain(None)))
        view = memoryview(b"".join(frame for frame in frames if isinstance(frame, bytes)))
        peer.sock.settimeout(0.3)
        while view:
            try:
                view = view[peer.sock.send(view[:65536]) :]
            except TimeoutError:  # the other side has stopped reading
                blocked.open()
                room.gates["go on"].open()
        room.gates["go on"].open()
        peer.sock.settimeout(PATIENCE)
        peer.read_to_end()

    with FakeServer(script) as fake:
        with colours.connect(fake.url, max_message_size=2000) as client:
            proxy = client.proxy(Flood)
            if form == "call":
                proxy.flood(use)
            else:
                proxy.flood.submit(use).result(PATIENCE)
            assert blocked.is_open
            assert seen == list(range(count))
            link: Any = client._link
            threads = link.connection.handlers
            assert (threads._in_series, threads._in_series_bytes) == (0, 0)


@for_servers
def test_one_index_twice(server: BaseServer[Any], log: Log) -> None:
    with RawPeer.dial(server.url) as peer:
        peer.shake_hands()
        mark = callback_mark(3)
        peer.send_frame(Kind.REQUEST, Room.both.id, 1, packed([mark, mark]))
        released = []
        while (frame := peer.read_frame()).kind == Kind.RELEASE:
            released.append(frame.command)
        assert ALL_CALLBACKS in released
        assert "got number 3, which was given before" in failure_of(frame)[1]


@for_servers
@pytest.mark.unmeasured
def test_as_many_as_there_are_indices(server: BaseServer[Any], room: Room) -> None:
    with RawPeer.dial(server.url) as peer:
        peer.shake_hands()
        peer.send_frame(Kind.REQUEST, Room.keep.id, 3, packed([[callback_mark(index) for index in range(65535)]]))
        while (frame := peer.read_frame()).kind == Kind.RELEASE:
            pass
        assert frame.payload == pack_plain(65535)
        room.kept.clear()
        assert {peer.read_frame().command for _ in range(65535)} == set(range(65535))


class Newer(Service, name="Room"):
    @rpc
    def ignore(self, use: Callable[[int], int], number: int = 0, also: Callable[[int], int] | None = None) -> int:
        return number


@pytest.mark.parametrize("form", ["call", "submit", "notify"])
def test_one_that_the_callee_does_not_know_is_dropped_at_once(
    form: str, server: BaseServer[Any], room: Room, colours: Colours
) -> None:
    mortal = Mortal()
    with colours.connect(server.url) as client:
        proxy = client.proxy(Newer)
        outcome = getattr(proxy.ignore, form)(double, 5, mortal.make())
        assert form == "notify" or (outcome.result(PATIENCE) if form == "submit" else outcome) == 5
        mortal.gone.wait()
        last = Mortal()
        proxy.ignore(last.make())
        last.gone.wait()
        assert groups(client) == {}
