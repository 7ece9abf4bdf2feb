import asyncio
import gc
import inspect
import logging
import math
import weakref
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from functools import wraps
from typing import Any

import pytest

from typedrpc.command import BoundCommand, Command, FunctionCommand, LocalCaller, find_in_class, rpc
from typedrpc.errors import DefinitionError
from typedrpc.options import CallOptions
from typedrpc.service import FunctionService, Service, make_proxy
from typedrpc.stream import AsyncStream, LocalAsyncStream, LocalStream, Stream

PATIENCE = 20


class Greeter(Service):
    greeted: list[str]

    @rpc
    def hello(self, name: str) -> str:
        """Greet somebody."""
        return f"hello {name}"

    @rpc(id=2)
    def add(self, a: int, b: int = 0) -> int:
        return a + b

    @rpc
    def fail(self, text: str) -> None:
        raise ValueError(text)

    @rpc
    def note(this, first: str, /, *args: int, self: str = "", **kwargs: int) -> str:
        return f"{first} {args} {self} {kwargs}"

    @rpc
    def total(self, a: int, b: int, c: int, d: int, e: int) -> int:
        return a + b + c + d + e


class Table(Service):
    """Commands of every colour."""

    @rpc
    def rows(self, count: int) -> Iterator[int]:
        yield from range(count)

    @rpc
    async def arows(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            await asyncio.sleep(0)
            yield number

    @rpc
    async def slow(self, number: int) -> int:
        await asyncio.sleep(0)
        if number < 0:
            raise ValueError(f"{number} is negative")
        return number

    @rpc
    def root(self, number: int) -> float:
        if number < 0:
            raise ValueError(f"{number} is negative")
        return math.sqrt(number)


class Recorder:
    """A caller that answers every call with what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, CallOptions]] = []
        self.notified: list[object] = []
        self.streamed: list[object] = []
        self.problem: Exception | None = None

    def invoker(self, command: Command[Any], options: CallOptions, /) -> Callable[..., Any]:
        self.asked.append((command.qualified_name, options))
        if self.problem is not None:
            raise self.problem
        return lambda *args, **kwargs: (command.qualified_name, args, kwargs)

    def submit(
        self, command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions, /
    ) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result((command.qualified_name, args, kwargs, options))
        return future

    def notify(
        self, command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions, /
    ) -> None:
        self.notified.append((command.qualified_name, args, kwargs, options))

    def awaiter(self, command: Command[Any], options: CallOptions, /) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            return "aio", command.qualified_name, args, kwargs, options

        return awaited

    def map(
        self,
        command: Command[Any],
        iterables: tuple[Iterable[Any], ...],
        options: CallOptions,
        return_exceptions: bool,
        /,
    ) -> Iterator[Any]:
        return iter([(command.qualified_name, *items, return_exceptions) for items in zip(*iterables, strict=False)])

    def stream(
        self, command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions, /
    ) -> Stream[Any]:
        self.streamed.append(("stream", command.qualified_name, args, kwargs, options))
        return LocalStream(iter([1, 2]))

    def astream(
        self, command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions, /
    ) -> AsyncStream[Any]:
        self.streamed.append(("astream", command.qualified_name, args, kwargs, options))
        return LocalAsyncStream(iter([1, 2]))

    def __repr__(self) -> str:
        return "<recorder>"


def untyped(value: Any) -> Any:
    """What the recorder answers is not what the contract promises."""
    return value


# The local instance


def test_a_local_instance_runs_the_function() -> None:
    greeter = Greeter()
    assert greeter.hello("Robert") == "hello Robert"
    assert greeter.add(1, b=2) == 3
    assert greeter.add.call(1) == 1
    assert Greeter.hello(greeter, "Robert") == "hello Robert"
    with pytest.raises(ValueError, match="no"):
        greeter.fail("no")


def test_parameters_named_like_our_own_do_not_collide() -> None:
    expected = "x (1, 2) me {'instance': 3, 'command': 4, 'function': 5}"
    greeter = Greeter()
    kwargs = {"instance": 3, "command": 4, "function": 5}
    assert greeter.note("x", 1, 2, self="me", **kwargs) == expected
    assert greeter.note.call("x", 1, 2, self="me", **kwargs) == expected
    assert greeter.note.submit("x", 1, 2, self="me", **kwargs).result() == expected
    assert Greeter.note(greeter, "x", 1, 2, self="me", **kwargs) == expected
    greeter.note.notify("x", 1, 2, self="me", **kwargs)


def test_submit_on_a_local_instance_is_done() -> None:
    future = Greeter().add.submit(1, b=2)
    assert future.done()
    assert future.result() == 3
    assert isinstance(Greeter().fail.submit("no").exception(), ValueError)


def test_notify_on_a_local_instance_logs_what_is_raised(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="typedrpc"):
        Greeter().fail.notify("lost without the log")
    (record,) = caplog.records
    assert record.getMessage() == "Greeter.fail failed in a one-way call"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "lost without the log"


def test_map_on_a_local_instance() -> None:
    greeter = Greeter()
    assert list(greeter.add.map([1, 2, 3])) == [1, 2, 3]
    assert list(greeter.add.map([1, 2, 3], [10, 20])) == [11, 22]
    assert list(greeter.total.map([1], [2], [3], [4], [5])) == [15]
    results = greeter.fail.map(["a", "b"])
    with pytest.raises(ValueError, match="a"):
        next(results)


def test_map_wants_an_iterable() -> None:
    with pytest.raises(TypeError, match="at least one iterable"):
        Greeter().hello.map()  # type: ignore[call-overload]


def test_options_of_a_local_instance_change_nothing() -> None:
    assert Greeter().add.with_options(timeout=0.0)(1, 2) == 3


def test_an_override_calls_the_command_it_overrides() -> None:
    class Polite(Greeter):
        @rpc
        def hello(self, name: str) -> str:
            return super().hello(name) + ", " + Greeter.hello(self, "again")

    assert Polite().hello("Robert") == "hello Robert, hello again"


def test_services_may_have_slots_and_need_no_super_init() -> None:
    class Counter(Service):
        __slots__ = ("count",)

        def __init__(self, count: int) -> None:
            self.count = count

        @rpc
        def next(self) -> int:
            self.count += 1
            return self.count

    assert Counter(4).next() == 5
    assert not hasattr(Counter(4), "__dict__")


# The local instance, in other colours


def test_a_stream_of_a_local_instance() -> None:
    table = Table()
    for stream in (table.rows(3), table.rows.call(3), table.arows.call(3), table.rows.submit(3).result(PATIENCE)):
        assert isinstance(stream, Stream)
        assert list(stream) == [0, 1, 2]
    assert list(Table.rows(table, 2)) == [0, 1]
    assert table.arows.submit(1).done()
    assert list(table.arows.submit(1).result()) == [0]
    assert [list(stream) for stream in table.rows.map([1, 2])] == [[0], [0, 1]]
    assert [list(stream) for stream in table.arows.map([1, 2])] == [[0], [0, 1]]


def test_an_async_stream_of_a_local_instance() -> None:
    async def main() -> None:
        table = Table()
        for stream in (table.arows(3), table.arows.aio(3), table.rows.aio(3), Table.arows(table, 3)):
            assert isinstance(stream, AsyncStream)
            assert [item async for item in stream] == [0, 1, 2]

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_a_coroutine_command_of_a_local_instance() -> None:
    async def main() -> list[int]:
        table = Table()
        blocking = [table.slow.call(3), table.slow.submit(4).result(PATIENCE)]
        return [await table.slow(1), await table.slow.aio(2), *blocking, await Table.slow(table, 5)]

    assert asyncio.run(asyncio.wait_for(main(), PATIENCE)) == [1, 2, 3, 4, 5]
    assert Table().slow.call(6) == 6
    assert list(Table().slow.map([7, 8])) == [7, 8]
    assert isinstance(Table().slow.submit(-1).exception(PATIENCE), ValueError)


def test_notify_runs_a_coroutine_to_its_end(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="typedrpc"):
        Table().slow.notify(-1)
    assert [record.getMessage() for record in caplog.records] == ["Table.slow failed in a one-way call"]


@pytest.mark.parametrize("proxied", [False, True])
def test_a_stream_cannot_be_called_one_way(proxied: bool) -> None:
    recorder = Recorder()
    table = make_proxy(Table, recorder) if proxied else Table()
    for command in (table.rows, table.arows):
        with pytest.raises(TypeError, match=r"Table\.a?rows streams its result and cannot be called one-way"):
            command.notify(1)
    assert recorder.notified == []


@pytest.mark.parametrize("form", ["root", "slow"])
def test_map_gives_exceptions_in_place_of_results(form: str) -> None:
    results = list(getattr(Table(), form).map([4, -1, 0], return_exceptions=True))
    assert [str(result) for result in results if isinstance(result, ValueError)] == ["-1 is negative"]
    assert isinstance(results[1], ValueError)
    failing = getattr(Table(), form).map([4, -1, 0])
    next(failing)
    with pytest.raises(ValueError, match="-1 is negative"):
        next(failing)


def test_map_over_streams_gives_exceptions_in_their_place() -> None:
    class Broken(Recorder):
        def stream(self, command: Command[Any], args: tuple[Any, ...], *rest: Any) -> Stream[Any]:
            if args == (2,):
                raise LookupError("no such rows")
            return LocalStream(iter(args))

    rows = make_proxy(Table, Broken()).rows
    first, second, third = rows.map([1, 2, 3], return_exceptions=True)
    assert isinstance(second, LookupError)
    assert [list(stream) for stream in (first, third) if isinstance(stream, Stream)] == [[1], [3]]
    with pytest.raises(LookupError, match="no such rows"):
        list(rows.map([1, 2, 3]))


def test_map_over_streams_starts_each_when_it_is_asked_for() -> None:
    recorder = Recorder()
    streams = make_proxy(Table, recorder).arows.map([1, 2])
    assert recorder.streamed == []
    assert list(next(streams)) == [1, 2]
    assert recorder.streamed == [("stream", "Table.arows", (1,), {}, CallOptions())]


def test_what_a_command_does_is_known_of_its_declaration() -> None:
    class Own(Table):
        @rpc
        def rows(self, count: int) -> Iterator[int]:
            return iter([count])

    colours = {name: (command.streams, command.is_async) for name, command in Own.rows.siblings.items()}
    assert colours == {
        "rows": (True, False),
        "arows": (True, True),
        "slow": (False, True),
        "root": (False, False),
    }
    assert list(Own().rows(5)) == [5]
    assert (Own.rows.streams, Own.rows.is_async) == (True, False)


def test_a_faulty_command_of_a_plain_class_is_called_as_it_is() -> None:
    class Plain:
        @rpc
        def rows(self, count):  # type: ignore[no-untyped-def]
            return count

        @rpc
        async def slow(self, count):  # type: ignore[no-untyped-def]
            return count

    assert Plain().rows(2) == 2
    assert not Plain.rows.streams
    assert Plain().slow.call(2) == 2


def test_functions_of_a_service_in_other_colours() -> None:
    service = FunctionService("rows")

    @service.rpc
    def rows(count: int) -> Iterator[int]:
        yield from range(count)

    @service.rpc
    async def arows(count: int) -> AsyncIterator[int]:
        yield count

    @service.rpc
    async def slow(count: int) -> int:
        return count

    assert isinstance(rows(2), Stream)
    assert list(rows(2)) == [0, 1]
    assert isinstance(arows(2), AsyncStream)
    assert asyncio.run(slow(3)) == 3


# What a command and a bound command say of themselves


def test_a_command_on_the_class() -> None:
    command = Greeter.hello
    assert isinstance(command, Command)
    assert (command.service_name, command.name, command.qualified_name) == ("Greeter", "hello", "Greeter.hello")
    assert str(command.schema) == "(name: str) -> str"
    assert command.codec is command.codec
    assert command.__name__ == "hello"  # type: ignore[attr-defined]
    assert command.__doc__ == "Greet somebody."
    assert str(inspect.signature(command)) == "(self, name: str) -> str"
    assert repr(Greeter.add) == "<command Greeter.add, id 2>"


def test_a_bound_command_looks_like_its_function() -> None:
    bound = Greeter().hello
    assert bound.__name__ == "hello"
    assert bound.__doc__ == "Greet somebody."
    assert inspect.getdoc(bound) == "Greet somebody."
    assert str(inspect.signature(bound)) == "(name: str) -> str"
    assert inspect.unwrap(bound) is Greeter.hello.function
    assert bound.command is Greeter.hello
    assert Greeter().add.__doc__ is None
    assert str(BoundCommand.__doc__).startswith("A command of one instance")


def test_bound_commands_say_whose_they_are() -> None:
    assert repr(make_proxy(Greeter, Recorder()).hello) == "<bound command Greeter.hello of <recorder>>"
    assert repr(Greeter().hello).startswith("<bound command Greeter.hello of <")
    assert repr(LocalCaller(5)) == "5"


def test_a_bound_command_has_no_other_attributes() -> None:
    bound = Greeter().hello
    with pytest.raises(AttributeError, match="'BoundCommand' object has no attribute 'submitt'"):
        _ = bound.submitt  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        bound.note = 1  # type: ignore[attr-defined]


def test_a_wrapped_function_is_described_as_what_it_wraps() -> None:
    def doubled(function: Callable[[Any, int], int]) -> Callable[[Any, int], int]:
        @wraps(function)
        def wrapper(self: Any, a: int) -> int:
            return 2 * function(self, a)

        return wrapper

    class Doubler(Service):
        @rpc
        @doubled
        def same(self, a: int) -> int:
            return a

    assert Doubler().same(4) == 8
    assert str(Doubler.same.schema) == "(a: int) -> int"


# The proxy's side


def test_the_invoker_is_asked_for_once() -> None:
    recorder = Recorder()
    greeter = make_proxy(Greeter, recorder)
    hello = greeter.hello
    assert recorder.asked == []
    assert untyped(hello("Robert")) == ("Greeter.hello", ("Robert",), {})
    assert untyped(hello.call(name="Robert")) == ("Greeter.hello", (), {"name": "Robert"})
    assert recorder.asked == [("Greeter.hello", CallOptions())]
    assert greeter.hello is hello


def test_the_colours_of_a_proxy() -> None:
    recorder = Recorder()
    table = make_proxy(Table, recorder)
    options = CallOptions(metadata={"a": "b"})
    timed = [command.with_options(metadata={"a": "b"}) for command in (table.rows, table.arows)]
    for command in timed:
        assert isinstance(command(1), AsyncStream if command is timed[1] else Stream)
        assert isinstance(command.call(2), Stream)
        assert isinstance(command.aio(3), AsyncStream)
        assert isinstance(command.submit(count=4).result(PATIENCE), Stream)
    assert recorder.streamed == [
        ("stream", "Table.rows", (1,), {}, options),
        ("stream", "Table.rows", (2,), {}, options),
        ("astream", "Table.rows", (3,), {}, options),
        ("stream", "Table.rows", (), {"count": 4}, options),
        ("astream", "Table.arows", (1,), {}, options),
        ("stream", "Table.arows", (2,), {}, options),
        ("astream", "Table.arows", (3,), {}, options),
        ("stream", "Table.arows", (), {"count": 4}, options),
    ]
    assert recorder.asked == []


def test_a_coroutine_command_of_a_proxy() -> None:
    recorder = Recorder()
    slow = make_proxy(Table, recorder).slow
    expected: object = ("aio", "Table.slow", (1,), {}, CallOptions())
    assert untyped(asyncio.run(slow(1))) == expected
    assert untyped(asyncio.run(slow.aio(1))) == expected
    assert recorder.asked == []
    assert untyped(slow.call(2)) == untyped(slow.call(2)) == ("Table.slow", (2,), {})
    assert recorder.asked == [("Table.slow", CallOptions())]


def test_an_invoker_that_cannot_be_had_is_asked_for_again() -> None:
    recorder = Recorder()
    hello = make_proxy(Greeter, recorder).hello
    recorder.problem = LookupError("no contract")
    with pytest.raises(LookupError, match="no contract"):
        hello("Robert")
    recorder.problem = None
    assert untyped(hello("Robert")) == ("Greeter.hello", ("Robert",), {})


def test_the_other_call_forms_go_to_the_caller() -> None:
    recorder = Recorder()
    greeter = make_proxy(Greeter, recorder)
    timed = greeter.add.with_options(timeout=2)
    expected = ("Greeter.add", (1,), {"b": 2}, CallOptions(timeout=2))
    assert untyped(timed.submit(1, b=2).result()) == expected
    timed.notify(1, b=2)
    assert recorder.notified == [expected]
    mapped = [("Greeter.add", 1, 3, False), ("Greeter.add", 2, 4, False)]
    assert untyped(list(greeter.add.map([1, 2], [3, 4]))) == mapped
    assert untyped(list(greeter.add.map([1], return_exceptions=True))) == [("Greeter.add", 1, True)]
    assert untyped(asyncio.run(timed.aio(1, b=2))) == ("aio", *expected)
    assert recorder.asked == []


def test_a_command_called_on_the_class_reaches_the_proxys_peer() -> None:
    greeter = make_proxy(Greeter, Recorder())
    assert untyped(Greeter.add(greeter, 1, b=2)) == ("Greeter.add", (1,), {"b": 2})


def test_options_make_another_bound_command() -> None:
    recorder = Recorder()
    hello = make_proxy(Greeter, recorder).hello
    timed = hello.with_options(timeout=0.5)
    timed("a")
    timed.with_options()("b")
    timed.with_options(timeout=None)("c")
    hello("d")
    assert [options.timeout for _, options in recorder.asked] == [0.5, 0.5, None, None]


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), float("inf")])
def test_time_outs_that_are_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout must be None or a number of seconds"):
        Greeter().hello.with_options(timeout=timeout)


def test_a_time_out_is_a_number() -> None:
    with pytest.raises(TypeError):
        Greeter().hello.with_options(timeout="1")  # type: ignore[arg-type]


def test_a_bound_command_that_was_never_called_leaves_no_cycle() -> None:
    gc.disable()
    try:
        recorder = Recorder()
        gone = weakref.ref(recorder)
        hello = make_proxy(Greeter, recorder).hello
        del recorder
        assert gone() is not None
        del hello
        assert gone() is None
    finally:
        gc.enable()


def test_metadata_is_checked_at_once() -> None:
    hello = Greeter().hello
    with pytest.raises(TypeError, match="the values of metadata must be str or bytes"):
        hello.with_options(metadata={"a": 1})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="at most 8192 bytes"):
        hello.with_options(metadata={"a": bytes(8192)})
    with pytest.raises(TypeError, match="on_metadata must be None or a function"):
        hello.with_options(on_metadata=5)  # type: ignore[arg-type]
    assert hello.with_options(metadata={"a": b"b"}, on_metadata=print)("Robert") == "hello Robert"


# Definition


def test_abstract_commands() -> None:
    class Store(Service):
        @rpc
        @abstractmethod
        def get(self, key: str) -> bytes: ...

        @abstractmethod
        @rpc
        def put(self, key: str) -> None: ...

    class Half(Store):
        @rpc
        def get(self, key: str) -> bytes:
            return b""

    assert Store.__abstractmethods__ == {"get", "put"}
    with pytest.raises(TypeError, match="abstract"):
        Half()  # type: ignore[abstract]

    class Whole(Half):
        @rpc
        def put(self, key: str) -> None: ...

    assert Whole().get("x") == b""


def test_rpc_outside_a_service_leaves_a_function_that_can_be_called() -> None:
    class Plain:
        @rpc
        def twice(self, a: int) -> int:
            return 2 * a

    assert Plain().twice(4) == 8
    assert repr(Plain.twice) == "<command twice, id -1>"


def test_a_function_command_is_called_as_the_function_it_is() -> None:
    service = FunctionService("greet")

    @service.rpc
    def hello(name: str, self: str = "") -> str:
        """Greet."""
        return f"hello {name}{self}"

    class Holder:
        greeting = hello

    assert isinstance(hello, FunctionCommand)
    assert hello("Robert", self="!") == "hello Robert!"
    assert hello.__doc__ == "Greet."
    assert str(inspect.signature(hello)) == "(name: str, self: str = '') -> str"
    assert Holder().greeting("Robert") == "hello Robert"
    assert Holder.greeting is hello


def test_signatures_of_commands_with_faults() -> None:
    class Plain:
        @rpc
        def broken(self, a) -> int:  # type: ignore[no-untyped-def]
            return 1

    with pytest.raises(DefinitionError, match="broken: parameter 'a' has no annotation") as caught:
        _ = Plain.broken.schema
    assert len(caught.value.faults) == 1


def test_what_a_class_has_under_a_name() -> None:
    assert find_in_class(Greeter, "hello") is Greeter.hello
    assert find_in_class(Greeter, "mro") is None
