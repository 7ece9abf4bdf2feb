"""Callbacks: their numbers travel, the functions stay, and what cannot be called so is refused before it is sent."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it ships no types
import pytest

from typedrpc.codec import MAX_CALLBACKS, CallbackCodec, CommandCodec, CompanionCodec, Segmented
from typedrpc.codec.arguments import ArgumentsCoder
from typedrpc.codec.body import EXT_CALLBACK, CallbackReader
from typedrpc.codec.faults import Fault
from typedrpc.errors import ArgumentError, ArgumentMissing, ArgumentTypeError, ArgumentValueError
from typedrpc.schema import schema_of

packb: Any = msgpack.packb


def codec_of(function: Callable[..., Any], name: str = "Chat.train") -> CommandCodec:
    return CommandCodec(name, schema_of(function, method=False))


def mark(index: int) -> object:
    return msgpack.ExtType(EXT_CALLBACK, index.to_bytes(2, "big"))


def train(steps: int, progress: Callable[[float], None]) -> None: ...
def maybe(progress: Callable[[float], None] | None = None) -> None: ...
def either(value: int | str | Callable[[int], int]) -> None: ...
def each(*progress: Callable[[float], None]) -> None: ...
def named(**progress: Callable[[float], None] | int) -> None: ...
def later(ask: Callable[[str], Awaitable[bool]]) -> None: ...
def two(done: Callable[[], None], failed: Callable[[str], None], *, other: Callable[[], int] | None = None) -> None: ...
def tagged(value: list[int] | set[int] | Callable[[int], int]) -> None: ...
def beside_bytes(data: bytes, done: Callable[[], None]) -> None: ...


def f(*args: Any) -> None: ...
def g(*args: Any) -> None: ...
def h(*args: Any) -> None: ...


# A call, what travels, the functions by their index, with the parameters that they are given for.
CALLS: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any, list[tuple[str, Any]]]] = [
    (train, (1, f), {}, [1, mark(0)], [("progress", f)]),
    (train, (1,), {"progress": f}, [1, mark(0)], [("progress", f)]),
    (maybe, (), {}, [], []),
    (maybe, (None,), {}, [None], []),
    (maybe, (f,), {}, [mark(0)], [("progress", f)]),
    (either, (1,), {}, [1], []),
    (either, ("a",), {}, ["a"], []),
    (either, (f,), {}, [mark(0)], [("value", f)]),
    (each, (), {}, [], []),
    (each, (f, g, f), {}, [[mark(0), mark(1), mark(2)]], [("progress", f), ("progress", g), ("progress", f)]),
    (named, (), {"b": f, "a": 1, "c": g}, [{"b": mark(0), "a": 1, "c": mark(1)}], [("progress", f), ("progress", g)]),
    (later, (f,), {}, [mark(0)], [("ask", f)]),
    (two, (f, g), {}, [mark(0), mark(1)], [("done", f), ("failed", g)]),
    (two, (f,), {"other": h, "failed": g}, [mark(0), mark(1), mark(2)], [("done", f), ("failed", g), ("other", h)]),
    (tagged, ([1],), {}, [[1, [1]]], []),
    (tagged, (f,), {}, [[0, mark(0)]], [("value", f)]),
]


class Stub:
    """What the handler gets, for this test."""

    def __init__(self, index: int, callback: CompanionCodec) -> None:
        self.index = index
        self.callback = callback


@pytest.mark.parametrize(("function", "args", "kwargs", "data", "given"), CALLS)
def test_numbers_travel_and_functions_stay(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], data: Any, given: list[tuple[str, Any]]
) -> None:
    codec = codec_of(function)
    assert codec.has_callbacks
    payload, callbacks = codec.pack_with_callbacks(args, kwargs)
    assert payload == packb(data)
    assert [called for _, called in callbacks] == [called for _, called in given]
    assert [callback.name for callback, _ in callbacks] == [f"Chat.train: callback {name!r}" for name, _ in given]
    stubs: list[Stub] = []

    def make(index: int, callback: CompanionCodec) -> Stub:
        stubs.append(Stub(index, callback))
        return stubs[-1]

    def restored(value: Any) -> Any:
        return callbacks[value.index][1] if isinstance(value, Stub) else value

    for unpack in (codec.unpack_with_callbacks, unpack_walk(codec)):
        stubs.clear()
        got_args, got_kwargs = unpack(payload, make)
        bound = tuple(map(restored, got_args)), {name: restored(value) for name, value in got_kwargs.items()}
        assert bound[1].items() <= kwargs.items()
        assert [*bound[0], *bound[1].values()] == [*args, *kwargs.values()] or function is two
        assert [stub.index for stub in stubs] == [*range(len(given))]
        # One object for each parameter, at both ends of a process that has both.
        assert all(stub.callback is callback for stub, (callback, _) in zip(stubs, callbacks, strict=True))


def unpack_walk(codec: CommandCodec) -> Callable[..., Any]:
    return lambda payload, make: codec._arguments._unpack_slowly(payload, CallbackReader(make))


@pytest.mark.parametrize(("function", "args", "kwargs", "data", "given"), CALLS)
def test_the_source_does_it_without_the_walk(
    function: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    data: Any,
    given: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("walked")

    monkeypatch.setattr(ArgumentsCoder, "_pack_slowly", refuse)
    monkeypatch.setattr(ArgumentsCoder, "_unpack_slowly", refuse)
    codec = codec_of(function)
    payload, callbacks = codec.pack_with_callbacks(args, kwargs)
    assert len(callbacks) == len(given)
    codec.unpack_with_callbacks(payload, Stub)


def test_a_command_without_callbacks_has_nothing_of_them() -> None:
    def plain(a: int, b: bytes = b"") -> None: ...

    codec = codec_of(plain)
    assert not codec.has_callbacks
    for function in (codec.pack_arguments, codec.unpack_arguments):
        assert "callbacks" not in function.__code__.co_varnames


def test_a_callback_has_a_codec_of_its_own() -> None:
    (callback, _), *_ = codec_of(train).pack_with_callbacks((1, f), {})[1]
    assert isinstance(callback, CallbackCodec)
    assert str(callback.codec.schema) == "(arg1: float, /) -> None"
    assert callback.codec.unpack_arguments(callback.codec.pack_arguments(1)) == ((1.0,), {})
    assert not callback.is_async
    with pytest.raises(ArgumentTypeError) as caught:
        callback.codec.pack_arguments("x")
    assert str(caught.value) == "Chat.train: callback 'progress': argument 'arg1': expected float, got str"
    with pytest.raises(ArgumentTypeError, match="callback 'progress': takes 1 positional argument, 2 were given"):
        callback.codec.pack_arguments(1, 2)
    with pytest.raises(ArgumentTypeError, match="is positional-only"):
        callback.codec.pack_arguments(arg1=1)
    (asked, _), *_ = codec_of(later).pack_with_callbacks((f,), {})[1]
    assert isinstance(asked, CallbackCodec)
    assert asked.is_async
    assert asked.codec.unpack_result(asked.codec.pack_result(True)) is True
    with pytest.raises(ValueError, match=r"Chat\.train: callback 'ask': result: expected bool, got int"):
        asked.codec.pack_result(5)


def test_two_parameters_of_one_alias_are_told_apart() -> None:
    namespace: dict[str, Any] = {"Callable": Callable}
    exec(
        "from typing_extensions import TypeAliasType\nReport = TypeAliasType('Report', Callable[[int], None])",
        namespace,
    )
    exec("def take(first: Report, second: Report | None = None) -> None: ...", namespace)
    codec = codec_of(namespace["take"])
    _, callbacks = codec.pack_with_callbacks((f, g), {})
    assert [callback.name for callback, _ in callbacks] == [
        "Chat.train: callback 'first'",
        "Chat.train: callback 'second'",
    ]


class Methods:
    def none(self) -> None: ...
    def one(self, a: int) -> None: ...
    def default(self, a: int, b: int = 1) -> None: ...
    def by_name(self, a: int, *, b: int) -> None: ...
    async def waits(self, a: int) -> None: ...

    @classmethod
    def of_class(cls, a: int) -> None: ...

    @staticmethod
    def static(a: int) -> None: ...


class Called:
    def __call__(self, a: int) -> None: ...


class CalledAsync:
    async def __call__(self, a: int) -> None: ...


class Odd:
    """Whose attributes raise."""

    def __call__(self, a: int) -> None: ...

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


async def waits(a: int) -> None: ...
def one(a: int) -> None: ...
def keyword(a: int, *, b: int) -> None: ...
def by(a: int, *, b: int) -> None: ...
def with_default(a: int, *, b: int = 1) -> None: ...


FITTING: list[Any] = [
    one,
    f,
    with_default,
    lambda a: None,
    lambda a, b=1: None,
    lambda *a: None,
    Methods().one,
    Methods().default,
    Methods().of_class,
    Methods.of_class,
    Methods.static,
    Called(),
    Odd(),
    functools.partial(keyword, b=1),
    functools.partial(lambda a, b: None, 1),
    functools.lru_cache(one),
    functools.wraps(one)(f),
    [].append,
    print,
    int,
]


@pytest.mark.parametrize("function", FITTING, ids=itertools.count())
def test_what_can_be_called_so_is_taken(function: Any) -> None:
    for command in (train, two_arguments):
        _, ((_, given),) = codec_of(command).pack_with_callbacks((1, function), {})
        assert given is function


def two_arguments(steps: int, progress: Callable[[float], Awaitable[None]] | int) -> None: ...


NOT_CALLED_SO: list[tuple[Any, str]] = [
    (5, "int"),
    (None, "None"),
    ("print", "str"),
    (object(), "object"),
    (lambda: None, "<lambda>, which cannot be called with 1 positional argument"),
    (lambda a, b: None, "<lambda>, which cannot be called with 1 positional argument"),
    (lambda a, b, *c: None, "<lambda>, which cannot be called with 1 positional argument"),
    (keyword, "keyword, which has to be given an argument by name"),
    (Methods().none, "none, which cannot be called with 1 positional argument"),
    (Methods.one, "one, which cannot be called with 1 positional argument"),
    (Methods().by_name, "by_name, which has to be given an argument by name"),
]
IS_ASYNC: list[tuple[Any, str]] = [
    (waits, "waits"),
    (Methods().waits, "waits"),
    (functools.partial(waits, 1), "partial"),
    (CalledAsync(), "CalledAsync"),
]


@pytest.mark.parametrize(("value", "got"), NOT_CALLED_SO, ids=itertools.count())
def test_what_cannot_be_called_so_is_refused_at_the_caller(value: Any, got: str) -> None:
    with pytest.raises(ArgumentTypeError) as caught:
        codec_of(train).pack_with_callbacks((1, value), {})
    assert str(caught.value) == f"Chat.train: argument 'progress': expected Callable[[float], None], got {got}"


def test_the_number_of_arguments_is_said() -> None:
    with pytest.raises(ArgumentTypeError, match=r"got one, which cannot be called with 0 positional arguments$"):
        codec_of(two).pack_with_callbacks((one, f), {})


@pytest.mark.parametrize(("value", "name"), IS_ASYNC, ids=itertools.count())
def test_an_async_function_needs_an_async_callback(value: Any, name: str) -> None:
    with pytest.raises(ArgumentTypeError) as caught:
        codec_of(train).pack_with_callbacks((1, value), {})
    assert str(caught.value) == (
        "Chat.train: argument 'progress': expected Callable[[float], None], "
        f"got {name}, which is async; annotate Callable[[float], Awaitable[None]]"
    )
    _, ((_, given),) = codec_of(two_arguments).pack_with_callbacks((1, value), {})
    assert given is value


def test_a_fault_has_its_place_and_all_are_told() -> None:
    with pytest.raises(ArgumentTypeError) as caught:
        codec_of(each).pack_with_callbacks((f, 5, f, by), {})
    assert str(caught.value).splitlines() == [
        "Chat.train: 2 faults",
        "- argument 'progress'[1]: expected Callable[[float], None], got int",
        "- argument 'progress'[3]: expected Callable[[float], None], got by, which has to be given an argument by name",
    ]
    with pytest.raises(
        ArgumentTypeError, match=r"argument 'progress'\['a'\]: expected Callable\[\[float\], None\] \| int"
    ):
        codec_of(named).pack_with_callbacks((), {"a": "x"})
    with pytest.raises(ArgumentMissing, match="argument 'progress' is missing"):
        codec_of(train).pack_with_callbacks((1,), {})


def test_functions_that_the_source_has_given_up_are_not_given_twice() -> None:
    class Int(int):
        pass

    def command(done: Callable[[], None], count: int, failed: Callable[[], None]) -> None: ...

    payload, callbacks = codec_of(command).pack_with_callbacks((f, Int(3), g), {})  # a subclass is left to the walk
    assert payload == packb([mark(0), 3, mark(1)])
    assert [function for _, function in callbacks] == [f, g]


class Record(dict[str, int]):
    def __call__(self, a: int) -> int:
        return a


def test_a_value_that_is_also_callable_goes_by_what_it_is_first() -> None:
    def command(first: dict[str, int] | Callable[[int], int], second: list[int] | Callable[[int], int]) -> None: ...

    codec = codec_of(command)
    payload, callbacks = codec.pack_with_callbacks((Record(a=1), Record()), {})
    assert payload == packb([{"a": 1}, mark(0)])
    assert len(callbacks) == 1
    # Where it does not fit as a dict, it is a function.
    wrong: Any = Record()
    wrong["a"] = "x"
    payload, callbacks = codec.pack_with_callbacks((wrong, f), {})
    assert payload == packb([mark(0), mark(1)])
    assert [function for _, function in callbacks] == [wrong, f]


def test_one_value_of_a_union_given_twice_is_two_callbacks() -> None:
    def command(*each: dict[str, int] | Callable[[int], int]) -> None: ...

    wrong: Any = Record()
    wrong["a"] = "x"  # no dict of this type, so both members are tried
    codec = codec_of(command)
    payload, callbacks = codec.pack_with_callbacks((wrong, wrong), {})
    assert payload == packb([[mark(0), mark(1)]])
    assert [function for _, function in callbacks] == [wrong, wrong]
    with pytest.raises(ArgumentTypeError) as caught:
        codec.pack_with_callbacks((wrong, 5, wrong), {})
    text = "Chat.train: argument 'each'[1]: expected Callable[[int], int] | dict[str, int], got int"
    assert str(caught.value) == text


FEW = 10


@pytest.mark.unmeasured
def test_the_indices_of_all_callbacks_travel() -> None:
    codec = codec_of(each)
    payload, callbacks = codec.pack_with_callbacks((f,) * MAX_CALLBACKS, {})
    assert len(callbacks) == MAX_CALLBACKS
    (args, _) = codec.unpack_with_callbacks(payload, lambda index, callback: index)
    assert args == (*range(MAX_CALLBACKS),)


def test_a_call_has_so_many_callbacks_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typedrpc.codec.callbacks.MAX_CALLBACKS", FEW)
    codec = codec_of(each)
    payload, callbacks = codec.pack_with_callbacks((f,) * FEW, {})
    assert len(callbacks) == FEW
    (args, _) = codec.unpack_with_callbacks(payload, lambda index, callback: index)
    assert args == (*range(FEW),)
    with pytest.raises(ArgumentValueError) as caught:
        codec.pack_with_callbacks((f,) * (FEW + 1), {})
    text = "Chat.train: argument 'progress'[10]: expected at most 10 callbacks and streams in a call, got more"
    assert str(caught.value) == text


def test_callbacks_go_beside_segments() -> None:
    codec = codec_of(beside_bytes)
    payload, callbacks = codec.pack_with_callbacks((b"x" * 70_000, f), {})
    assert isinstance(payload, Segmented)
    assert len(callbacks) == 1
    assert codec.unpack_with_callbacks(payload, lambda index, callback: index) == ((b"x" * 70_000, 0), {})


def test_without_being_told_what_to_do_callbacks_are_not_taken() -> None:
    codec = codec_of(maybe)
    assert codec.pack_arguments() == packb([])
    assert codec.unpack_arguments(packb([None])) == ((None,), {})
    with pytest.raises(AssertionError, match=r"Chat\.train was given functions or streams"):
        codec.pack_arguments(f)
    with pytest.raises(ArgumentValueError, match="argument 'progress': expected no callback or stream, got one"):
        codec.unpack_arguments(packb([mark(0)]))


# What a peer may send: ``(function, payload, error)``.
BAD: list[tuple[Any, Any, str]] = [
    (train, [1, 0], "argument 'progress': expected Callable[[float], None], got int"),
    (train, [1, None], "argument 'progress': expected Callable[[float], None], got None"),
    (train, [1, msgpack.ExtType(4, b"")], "got UnknownExtension"),
    (train, [1, msgpack.ExtType(4, b"\0")], "got UnknownExtension"),
    (train, [1, msgpack.ExtType(4, b"\0\0\0")], "got UnknownExtension"),
    (train, [1, msgpack.ExtType(5, b"\0\0")], "got UnknownExtension"),
    (train, [mark(0), mark(1)], "argument 'steps': expected int, got CallbackIndex"),
    (train, [1], "argument 'progress' is missing"),
    (either, [[0]], "got list"),
    (tagged, [mark(0)], "got CallbackIndex without the index of a member"),
    (tagged, [[1, mark(0)]], "got CallbackIndex"),
    (two, [mark(7), mark(7)], "argument 'failed': expected a callback or stream of its own, got number 7"),
    (each, [[mark(0), mark(0)]], "argument 'progress'[1]: expected a callback or stream of its own, got number 0"),
    (each, [[mark(0), mark(1), 5]], "Chat.train: argument 'progress'[2]: expected Callable[[float], None], got int"),
    (each, [mark(0)], "argument 'progress'"),
    (train, {0: 1, 1: mark(0), 2: mark(1)}, "got a parameter 2"),
    (train, mark(0), "expected an array or a map of arguments, got CallbackIndex"),
]


@pytest.mark.parametrize(("function", "data", "text"), BAD)
def test_payloads_that_hold_no_callbacks_of_this_command(function: Any, data: Any, text: str) -> None:
    made: list[int] = []

    def make(index: int, callback: CompanionCodec) -> object:
        made.append(index)
        return object()

    with pytest.raises(ArgumentError) as caught:
        codec_of(function).unpack_with_callbacks(packb(data), make)
    assert text in str(caught.value)
    assert "faults" not in str(caught.value)
    assert len(made) == len(set(made))


def test_numbers_may_come_in_any_order() -> None:
    codec = codec_of(two)
    payload = packb({1: mark(0), 0: mark(65535)})
    assert codec.unpack_with_callbacks(payload, lambda index, callback: index) == ((65535, 0), {})


def test_what_the_source_has_made_is_not_made_again_by_the_walk() -> None:
    def command(done: Callable[[], None], count: int, failed: Callable[[], None]) -> None: ...

    made: list[int] = []

    def make(index: int, callback: CompanionCodec) -> object:
        made.append(index)
        return index

    huge = msgpack.ExtType(1, (2**70).to_bytes(9, "big"))
    payload = packb({0: mark(0), 1: huge, 2: mark(1)})
    assert codec_of(command).unpack_with_callbacks(payload, make) == ((0, 2**70, 1), {})
    with pytest.raises(ArgumentTypeError, match="argument 'count'"):
        codec_of(command).unpack_with_callbacks(packb([mark(0), "x", mark(1)]), make)
    assert made == [0, 1, 0, 1]


def test_what_make_raises_comes_through() -> None:
    def make(index: int, callback: CompanionCodec) -> object:
        raise RuntimeError("no room")

    with pytest.raises(RuntimeError, match="no room"):
        codec_of(train).unpack_with_callbacks(packb([1, mark(0)]), make)


def take_from(given: list[Any], index: int, callback: CompanionCodec) -> Any:
    return given[index]


def test_a_codec_with_callbacks_serves_many_threads() -> None:
    codec = codec_of(two)
    start = threading.Barrier(4)
    outcomes: list[bool] = []

    def work(number: int) -> None:
        own: list[Any] = [functools.partial(f, number) for _ in range(3)]
        start.wait(10)
        for _ in range(200):
            payload, callbacks = codec.pack_with_callbacks((own[0], own[1]), {"other": own[2]})
            given = [function for _, function in callbacks]
            args, kwargs = codec.unpack_with_callbacks(payload, functools.partial(take_from, given))
            outcomes.append((args, kwargs) == ((own[0], own[1]), {"other": own[2]}))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert outcomes == [True] * 800


# Another version of the command at the caller.


def told() -> tuple[list[int], Callable[[int, CompanionCodec], Any], list[int], Callable[[int], object]]:
    made: list[int] = []
    dropped: list[int] = []

    def make(index: int, callback: CompanionCodec) -> object:
        made.append(index)
        return index, callback

    return made, make, dropped, dropped.append


def test_callbacks_of_another_version() -> None:
    def older(progress: Callable[[float], None], steps: int, *more: Callable[[], None]) -> None: ...
    def newer(
        steps: float, progress: Callable[[float], None] | None = None, *others: Callable[[], None], flag: bool = False
    ) -> None: ...

    writer, reader = codec_of(older), codec_of(newer)
    payload, callbacks = writer.pack_with_callbacks((f, 3), {})
    made, make, dropped, drop = told()
    (steps, (index, callback)), kwargs = reader.unpack_with_callbacks_of(writer.schema)(payload, make, drop)
    assert (steps, index, kwargs) == (3.0, 0, {})
    assert (made, dropped) == ([0], [])
    # The codec is the one that callers of the same version get.
    assert callback is reader.pack_with_callbacks((1, f), {})[1][0][0]
    assert callback.name == callbacks[0][0].name
    payload, _ = writer.pack_with_callbacks((f, 3, g, h), {})
    args, _ = reader.unpack_with_callbacks_of(writer.schema)(payload, make, drop)
    assert [argument[1].name for argument in args[1:]] == [
        "Chat.train: callback 'progress'",
        "Chat.train: callback 'others'",
        "Chat.train: callback 'others'",
    ]
    with pytest.raises(ArgumentValueError, match="got number 0, which was given before"):
        reader.unpack_with_callbacks_of(writer.schema)(packb([mark(0), 1, [mark(0)]]), make, drop)
    with pytest.raises(ArgumentValueError, match="expected no callback"):
        reader.unpack_arguments_of(writer.schema)(payload)


def test_callbacks_that_nobody_takes_are_dropped() -> None:
    def older(
        steps: int, done: Callable[[], None] | None = None, progress: Callable[[float], None] | None = None
    ) -> None: ...
    def newer(steps: int) -> None: ...
    def other(steps: int, progress: Callable[[float], None] | None = None) -> None: ...

    writer = codec_of(older)
    payload, _ = writer.pack_with_callbacks((1, f, g), {})
    made, make, dropped, drop = told()
    assert codec_of(newer).unpack_with_callbacks_of(writer.schema)(payload, make, drop) == ((1,), {})
    assert (made, dropped) == ([], [0, 1])
    dropped.clear()
    codec_of(other).unpack_with_callbacks_of(writer.schema)(payload, make, drop)
    assert (made, dropped) == ([1], [0])
    dropped.clear()
    # One that is both dropped and given is refused, and none is told of twice.
    for data in ([1, mark(0), mark(0)], {0: "x", 1: mark(0)}):
        with pytest.raises(ArgumentError):
            codec_of(other).unpack_with_callbacks_of(writer.schema)(packb(data), make, drop)
    assert dropped == [0, 0]
    # Who is not told may leave them alone.
    assert codec_of(newer).unpack_arguments_of(writer.schema)(payload) == ((1,), {})


def test_versions_without_callbacks_ask_for_none() -> None:
    def older(steps: int) -> None: ...
    def newer(steps: int, progress: Callable[[float], None] | None = None) -> None: ...

    writer = codec_of(older)
    made, make, dropped, drop = told()
    unpack = codec_of(newer).unpack_with_callbacks_of(writer.schema)
    assert unpack(writer.pack_arguments(1), make, drop) == ((1,), {})
    assert codec_of(newer).unpack_arguments_of(writer.schema)(writer.pack_arguments(1)) == ((1,), {})
    assert (made, dropped) == ([], [])


def test_a_callback_where_data_of_any_kind_is_ignored_concerns_nobody() -> None:
    def older(steps: int, other: int = 0) -> None: ...
    def newer(steps: int) -> None: ...

    unpack = codec_of(newer).unpack_arguments_of(codec_of(older).schema)
    for _ in range(2):  # nothing is kept from one call to the next
        assert unpack(packb([1, [mark(0), mark(0)]])) == ((1,), {})


def test_a_reader_refuses_a_callback_that_was_used() -> None:
    codec = codec_of(train)
    reader = CallbackReader(lambda index, callback: index)
    payload, _ = codec.pack_with_callbacks((1, f), {})
    assert codec._arguments._unpack_slowly(payload, reader) == ((1, 0), {})
    copy = reader.copy()
    with pytest.raises(Fault):
        copy._use(0)
    copy._use(1)
    reader._use(1)
