import asyncio
import gc
import inspect
import logging
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import wraps
from typing import Any

import pytest

from typedrpc.command import BoundCommand, Command, FunctionCommand, LocalCaller, find_in_class, rpc
from typedrpc.errors import DefinitionError
from typedrpc.options import CallOptions
from typedrpc.service import FunctionService, Service, make_proxy
from typedrpc.stream import AsyncStream, LocalAsyncStream, LocalStream, Stream


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

    async def aio(
        self, command: Command[Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions, /
    ) -> Any:
        return "aio", command.qualified_name, args, kwargs, options

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
