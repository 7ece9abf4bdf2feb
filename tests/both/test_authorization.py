"""Who may call what: ``@rpc(requires=...)`` with ``authorize``, and ``guard`` for the rest."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Final

import pytest

from tests.ends import Colours, alike, for_both, for_servers
from tests.support import Gate, Log, RawPeer, Tally, failure_of, until
from typedrpc import (
    Call,
    DefinitionError,
    FunctionService,
    Identity,
    PermissionDenied,
    RemoteError,
    Server,
    Service,
    current_call,
    rpc,
)
from typedrpc.command import Command
from typedrpc.failure import Code
from typedrpc.wire import Kind

pytestmark = pytest.mark.usefixtures("kept_loop", "no_leaks")
colours = alike

ANN: Final = bytes(range(32))
BOB: Final = ANN[::-1]
SECRETS: Final = {"ann": ANN, "bob": BOB}


class Desk(Service):
    """Commands of every shape; those that count what ran show that nothing did."""

    def __init__(self) -> None:
        self.ran = Tally()

    @rpc
    def free(self, value: int = 0) -> int:
        self.ran.add("free")
        return value

    @rpc(requires="admin")
    def close_down(self, value: int = 0) -> int:
        self.ran.add("close_down")
        return value

    @rpc(requires="admin")
    def count(self, end: int) -> Iterator[int]:
        self.ran.add("count")
        yield from range(end)

    @rpc(requires="admin")
    def ask(self, question: Callable[[str], str]) -> str:
        self.ran.add("ask")
        return question("really?")

    @rpc(requires="admin")
    async def later(self, value: int = 0) -> int:
        self.ran.add("later")
        await asyncio.sleep(0)
        return value

    @rpc(requires="admin")
    async def ticks(self, end: int) -> AsyncIterator[int]:
        self.ran.add("ticks")
        for number in range(end):
            yield number

    @rpc(requires="admin")
    def take(self, numbers: Iterator[int]) -> int:
        self.ran.add("take")
        return sum(numbers)


def is_ann(identity: Identity | None, command: Command[Any]) -> bool:
    assert command.requires == "admin"
    return identity is not None and identity.name == "ann"


CALLS: Final[dict[str, tuple[Callable[[Any], object], object]]] = {
    "a call": (lambda desk: desk.close_down.call(7), 7),
    "with a time-out": (lambda desk: desk.close_down.with_options(timeout=30.0).call(7), 7),
    "a future": (lambda desk: desk.close_down.submit(7).result(30.0), 7),
    "a map": (lambda desk: list(desk.close_down.map([1, 2, 3])), [1, 2, 3]),
    "a stream": (lambda desk: list(desk.count.call(3)), [0, 1, 2]),
    "a callback": (lambda desk: desk.ask.call(lambda question: "yes"), "yes"),
    "async": (lambda desk: desk.later.call(7), 7),
    "an async stream": (lambda desk: list(desk.ticks.call(3)), [0, 1, 2]),
    "a stream in": (lambda desk: desk.take.call(iter([1, 2])), 3),
}


@pytest.mark.parametrize("name", CALLS)
def test_who_may_call_what_requires_something(colours: Colours, name: str) -> None:
    call, result = CALLS[name]
    desk = Desk()
    with colours.serve(desk, secret=SECRETS, authorize=is_ann) as server:
        with colours.connect(Desk, server.url, secret=("bob", BOB)) as proxy:
            with pytest.raises(PermissionDenied, match="it requires 'admin', which this caller may not"):
                call(proxy)
            assert proxy.free.call(1) == 1  # the connection goes on
        with colours.connect(Desk, server.url, secret=("ann", ANN)) as proxy:
            assert call(proxy) == result
    ran = {name for name in ("close_down", "count", "ask", "later", "ticks", "take") if desk.ran[name]}
    assert len(ran) == 1


@pytest.mark.parametrize("name", CALLS)
def test_it_is_asked_each_time(colours: Colours, name: str) -> None:
    call, result = CALLS[name]
    allowed = [True]
    with (
        colours.serve(Desk(), authorize=lambda identity, command: allowed[0]) as server,
        colours.connect(Desk, server.url) as proxy,
    ):
        assert call(proxy) == result
        allowed[0] = False
        with pytest.raises(PermissionDenied):
            call(proxy)


def test_a_one_way_call_is_dropped(log: Log, colours: Colours) -> None:
    desk = Desk()
    with (
        colours.serve(desk, authorize=lambda identity, command: False) as server,
        colours.connect(Desk, server.url) as proxy,
    ):
        proxy.close_down.notify(1)
        assert proxy.free.call() == 0
        assert "a one-way call was dropped: Desk.close_down: it requires 'admin'" in log.line()
    assert desk.ran["close_down"] == 0


@for_servers
def test_it_is_asked_before_the_arguments_are_looked_at(colours: Colours) -> None:
    """Whoever may not call a command learns nothing of what it would say to his arguments."""
    with (
        colours.serve(Desk(), authorize=lambda identity, command: False) as server,
        RawPeer.dial(server.url) as peer,
    ):
        peer.shake_hands()
        peer.send_frame(Kind.REQUEST, Desk.close_down.id, 1, b"\xc1 no arguments at all")
        assert failure_of(peer.read_frame())[0] == Code.DENIED
        peer.send_frame(Kind.REQUEST, Desk.free.id, 3, b"\xc1 no arguments at all")
        assert failure_of(peer.read_frame())[0] == Code.ARGUMENT_VALUE


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (lambda: 1 / 0, "authorize failed"),
        (lambda: asyncio.sleep(0), "authorize failed"),
        (lambda: None, ""),
        (lambda: 0, ""),
    ],
    ids=["raises", "gives a coroutine", "None", "0"],
)
def test_what_is_no_yes_is_a_no(log: Log, colours: Colours, answer: Callable[[], object], line: str) -> None:
    desk = Desk()
    with (
        colours.serve(desk, authorize=lambda identity, command: answer()) as server,
        colours.connect(Desk, server.url) as proxy,
    ):
        with pytest.raises(PermissionDenied, match="it requires 'admin'"):
            proxy.close_down.call()
        if line:
            assert line in log.line()
    assert desk.ran["close_down"] == 0


def test_what_authorize_says_arrives(colours: Colours) -> None:
    def authorize(identity: Identity | None, command: Command[Any]) -> object:
        raise PermissionDenied(f"not {command.qualified_name}, not today")

    with (
        colours.serve(Desk(), authorize=authorize) as server,
        colours.connect(Desk, server.url) as proxy,
        pytest.raises(PermissionDenied, match=r"not Desk\.close_down, not today") as caught,
    ):
        proxy.close_down.call()
    assert isinstance(caught.value, PermissionError)


def test_a_service_for_each_client(colours: Colours) -> None:
    made: list[Desk] = []

    def make() -> Desk:
        made.append(Desk())
        return made[-1]

    with colours.serve(make, secret=SECRETS, authorize=is_ann, guard=lambda call: None) as server:
        with colours.connect(Desk, server.url, secret=("bob", BOB)) as proxy, pytest.raises(PermissionDenied):
            proxy.close_down.call()
        with colours.connect(Desk, server.url, secret=("ann", ANN)) as proxy:
            assert proxy.close_down.call(3) == 3
    assert [desk.ran["close_down"] for desk in made] == [0, 1]


def test_a_command_that_requires_something_needs_somebody_to_ask(colours: Colours) -> None:
    functions = FunctionService("functions")

    @functions.rpc(requires="writer")
    def write() -> None: ...

    with pytest.raises(DefinitionError) as caught:
        colours.serve(Desk(), functions).__enter__()
    assert "functions.write requires 'writer': give the server authorize=" in caught.value.faults
    assert len(caught.value.faults) == 7


def test_an_implementation_requires_what_its_contract_does(colours: Colours) -> None:
    class Contract(Service):
        @rpc(requires="reader")
        def read(self) -> int:
            raise NotImplementedError

        @rpc(requires="reader")
        def write(self) -> int:
            raise NotImplementedError

    class Implementation(Contract):
        @rpc
        def read(self) -> int:
            return 1

        @rpc(requires="writer")
        def write(self) -> int:
            return 2

    asked: list[str | None] = []

    def authorize(identity: Identity | None, command: Command[Any]) -> bool:
        asked.append(command.requires)
        return True

    with (
        colours.serve(Implementation(), authorize=authorize) as server,
        colours.connect(Contract, server.url) as proxy,
    ):
        assert (proxy.read.call(), proxy.write.call()) == (1, 2)
    assert asked == ["reader", "writer"]


class Open(Service):
    @rpc
    def read(self, number: int = 0) -> int:
        return number


class Restricted(Open):
    @rpc(requires="reader")
    def read(self, number: int = 0) -> int:
        return number


def make_open() -> Open:
    return Restricted()


def test_what_only_the_implementation_requires_counts(colours: Colours) -> None:
    with pytest.raises(DefinitionError, match=r"Open\.read requires 'reader'"):
        colours.serve(Restricted()).__enter__()
    for served in (Restricted(), Restricted, make_open):
        with (
            colours.serve(served, authorize=lambda identity, command: command.requires != "reader") as server,
            colours.connect(Open, server.url) as proxy,
        ):
            with pytest.raises(PermissionDenied, match="it requires 'reader'"):
                proxy.read.call()
            with pytest.raises(PermissionDenied, match="it requires 'reader'"):
                list(proxy.read.map([1, 2, 3]))
    with colours.serve(make_open) as server, colours.connect(Open, server.url) as proxy:
        with pytest.raises(PermissionDenied):  # nobody could know before it was made
            proxy.read.call()


@pytest.mark.parametrize("option", ["authorize", "guard"])
def test_they_are_plain_functions(colours: Colours, option: str) -> None:
    async def decide(*args: object) -> bool:
        return True

    options: dict[str, Any] = {"authorize": is_ann, option: decide}
    with pytest.raises(DefinitionError, match=f"{option} takes plain functions"):
        colours.serve(Desk(), **options).__enter__()


# The guard


def guard_of(allowed: dict[str, bool], seen: list[tuple[str, int]]) -> Callable[[Call], None]:
    def guard(call: Call) -> None:
        assert current_call().command == call.command
        seen.append((call.command, threading.get_ident()))
        if not allowed.get(call.command.partition(".")[2], True):
            raise PermissionDenied(f"{call.command}: not on a Sunday")

    return guard


@pytest.mark.parametrize("name", CALLS)
def test_the_guard_is_asked_before_each_handler(colours: Colours, name: str) -> None:
    call, result = CALLS[name]
    desk, seen = Desk(), list[tuple[str, int]]()
    allowed = {"free": False}
    with (
        colours.serve(desk, authorize=lambda identity, command: True, guard=guard_of(allowed, seen)) as server,
        colours.connect(Desk, server.url) as proxy,
    ):
        assert call(proxy) == result
        assert len(seen) == (3 if name == "a map" else 1)
        ran = [command for command in CALLED if desk.ran[command]]
        assert [command for command, _ in seen] == [f"Desk.{ran[0]}"] * len(seen)
        before = desk.ran[ran[0]]
        allowed[ran[0]] = False
        with pytest.raises(PermissionDenied, match="not on a Sunday"):
            call(proxy)
        assert desk.ran[ran[0]] == before
        with pytest.raises(PermissionDenied, match=r"Desk\.free: not on a Sunday"):
            proxy.free.call()


CALLED: Final = ("close_down", "count", "ask", "later", "ticks", "take")


def test_one_call_of_a_map_that_is_refused_harms_no_other(colours: Colours) -> None:
    def guard(call: Call) -> None:
        if call.args == (2,):
            raise PermissionDenied("not 2")

    with (
        colours.serve(Desk(), authorize=lambda identity, command: True, guard=guard) as server,
        colours.connect(Desk, server.url) as proxy,
    ):
        results = list(proxy.free.map([1, 2, 3], return_exceptions=True))
    assert results[::2] == [1, 3]
    assert isinstance(results[1], PermissionDenied)
    assert str(results[1]) == "not 2"


def test_a_one_way_call_that_the_guard_refuses(log: Log, colours: Colours) -> None:
    desk = Desk()

    def guard(call: Call) -> None:
        if call.id == 0:
            raise PermissionDenied("nothing one-way")

    with (
        colours.serve(desk, authorize=lambda identity, command: True, guard=guard) as server,
        colours.connect(Desk, server.url) as proxy,
    ):
        proxy.close_down.notify()
        assert log.line() == "Desk.close_down was denied: nothing one-way"
        assert proxy.close_down.call(2) == 2
    assert desk.ran["close_down"] == 1


@pytest.mark.parametrize(
    "fail",
    [lambda call: dict[str, Any]()["nobody"], lambda call: asyncio.sleep(0)],
    ids=["raises", "gives a coroutine"],
)
def test_a_guard_that_fails_lets_nobody_through(
    log: Log, colours: Colours, fail: Callable[[Call], Coroutine[Any, Any, None]]
) -> None:
    desk = Desk()
    with (
        colours.serve(desk, authorize=lambda identity, command: True, guard=fail) as server,
        colours.connect(Desk, server.url) as proxy,
    ):
        with pytest.raises(PermissionDenied) as caught:
            proxy.free.call()
        assert str(caught.value) == "Desk.free: not allowed"
        assert log.line() == "the guard failed for Desk.free: it was denied"
    assert desk.ran["free"] == 0


def test_a_refusal_of_the_guard_without_words(colours: Colours) -> None:
    def guard(call: Call) -> None:
        raise PermissionDenied

    with (
        colours.serve(Desk(), authorize=is_ann, guard=guard) as server,
        colours.connect(Desk, server.url) as proxy,
        pytest.raises(PermissionDenied, match=r"Desk\.free: not allowed"),
    ):
        proxy.free.call()


def test_hooks_see_what_the_guard_refuses(colours: Colours) -> None:
    outcomes: list[object] = []

    def guard(call: Call) -> None:
        raise PermissionDenied("no")

    with (
        colours.serve(
            Desk(), authorize=is_ann, guard=guard, on_result=lambda call, outcome: outcomes.append(outcome.error)
        ) as server,
        colours.connect(Desk, server.url) as proxy,
    ):
        with pytest.raises(PermissionDenied):
            proxy.free.call()
        until(lambda: outcomes)
    assert [isinstance(error, PermissionDenied) for error in outcomes] == [True]


class Asker(Service):
    """Calls somebody else for its caller."""

    def __init__(self, other: Any) -> None:
        self._other = other

    @rpc
    def pass_on(self) -> int:
        return int(self._other.close_down.call())


@for_both
def test_what_a_handler_was_refused_elsewhere_is_not_its_callers(log: Log, colours: Colours) -> None:
    with (
        colours.serve(Desk(), authorize=lambda identity, command: False) as back,
        colours.connect(Desk, back.url) as desk,
        colours.serve(Asker(desk), guard=lambda call: None) as front,
        colours.connect(Asker, front.url) as asker,
    ):
        with pytest.raises(RemoteError, match="PermissionDenied"):
            asker.pass_on.call()
        assert "Asker.pass_on failed" in log.line()


def test_the_guard_runs_where_the_handler_does(colours: Colours) -> None:
    """What it waits for holds up nobody else, the event loop of an asyncio server neither."""
    gate, begun = Gate(), Gate()

    def guard(call: Call) -> None:
        if call.args == (1,):
            begun.open()
            gate.wait()

    with (
        colours.serve(Desk(), authorize=is_ann, guard=guard) as server,
        colours.connect(Desk, server.url) as proxy,
    ):
        slow = proxy.free.submit(1)
        begun.wait()
        assert proxy.free.call(2) == 2
        assert not slow.done()
        gate.open()
        assert slow.result(30.0) == 1


def test_callbacks_are_not_guarded_and_neither_is_what_a_client_exposes(colours: Colours) -> None:
    """Both are asked for by the side that guards: what a client exposes, it lets its server call."""
    desk = Desk()

    class Back(Service):
        @rpc
        def call_back(self, question: Callable[[str], str]) -> str:
            exposed: Any = current_call().peer.proxy(Desk)
            return f"{question('free?')} {exposed.close_down.call(5)}"

    commands: list[str] = []
    with (
        colours.serve(Back(), guard=lambda call: commands.append(call.command)) as server,
        colours.connect(Back, server.url, expose=[desk]) as proxy,
    ):
        assert proxy.call_back.call(lambda question: "yes") == "yes 5"
    assert commands == ["Back.call_back"]


def test_a_server_without_either_asks_nobody() -> None:
    class Free(Service):
        @rpc
        def add(self, a: int, b: int) -> int:
            return a + b

    with Server(Free(), url="tcp://127.0.0.1:0") as server:
        dispatcher = server._dispatcher
        assert dispatcher._guard is None
        function = dispatcher._make_row(Free.add.id).function
        assert dispatcher._guarded(function) is function
        assert dispatcher._restricted == {}
