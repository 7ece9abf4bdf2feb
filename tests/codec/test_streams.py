"""Streams: of those among the arguments a number travels; items travel one by one, each checked at both ends."""

from __future__ import annotations

import collections.abc
import io
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

import msgpack  # type: ignore[import-untyped]  # it ships no types
import pytest
from annotated_types import Gt
from hypothesis import given
from hypothesis import strategies as st

from tests.codec.both_ways import same
from tests.codec.invented import TYPES, mutated, thorough
from typedrpc.codec import (
    CallbackCodec,
    CodecError,
    CommandCodec,
    CompanionCodec,
    Segmented,
    StreamCodec,
)
from typedrpc.codec.arguments import ArgumentsCoder
from typedrpc.codec.body import EXT_CALLBACK, CallbackReader
from typedrpc.errors import ArgumentError, ArgumentMissing, ArgumentTypeError, ArgumentValueError
from typedrpc.schema import schema_of

packb: Any = msgpack.packb


@dataclass
class Point:
    x: int
    y: float = 0.0


@dataclass
class NewPoint:
    y: float = 0.0
    x: float = 0.0
    z: int = 7


def codec_of(function: Callable[..., Any], name: str = "Store.put") -> CommandCodec:
    return CommandCodec(name, schema_of(function, method=False))


def mark(index: int) -> object:
    return msgpack.ExtType(EXT_CALLBACK, index.to_bytes(2, "big"))


def put(table: str, rows: Iterator[int]) -> None: ...
def maybe(rows: Iterator[int] | None = None) -> None: ...
def follow(rows: AsyncIterator[int]) -> None: ...
def each(*rows: Iterator[int]) -> None: ...
def named(**rows: AsyncIterator[int] | int) -> None: ...
def both(rows: Iterator[int], done: Callable[[], None], *, more: AsyncIterator[str] | None = None) -> Iterator[int]:
    raise NotImplementedError


def tagged(value: list[int] | set[int] | Iterator[int]) -> None: ...
def either(value: int | str | Iterator[int]) -> None: ...
def beside_bytes(data: bytes, rows: Iterator[bytes]) -> None: ...
def rows() -> Iterator[int]:
    raise NotImplementedError


def points() -> AsyncIterator[Point]:
    raise NotImplementedError


def plain() -> list[int]:
    raise NotImplementedError


def done() -> None: ...


async def numbers() -> AsyncIterator[int]:
    yield 1


class Own:
    """An iterator by its methods alone."""

    def __iter__(self) -> Own:
        return self

    def __next__(self) -> int:
        return 1


class OwnAsync:
    def __aiter__(self) -> OwnAsync:
        return self

    async def __anext__(self) -> int:
        return 1


class Registered: ...


collections.abc.Iterator.register(Registered)  # pyright: ignore[reportAttributeAccessIssue]  # an ABC

a, b, c, d = iter([1]), (x for x in [1]), numbers(), OwnAsync()

# A call, what travels, the iterators and functions by their index, with the parameters that they are given for.
CALLS: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any, list[tuple[str, Any]]]] = [
    (put, ("t", a), {}, ["t", mark(0)], [("argument 'rows'", a)]),
    (put, ("t",), {"rows": b}, ["t", mark(0)], [("argument 'rows'", b)]),
    (maybe, (), {}, [], []),
    (maybe, (None,), {}, [None], []),
    (maybe, (b,), {}, [mark(0)], [("argument 'rows'", b)]),
    (follow, (c,), {}, [mark(0)], [("argument 'rows'", c)]),
    (follow, (d,), {}, [mark(0)], [("argument 'rows'", d)]),
    (each, (), {}, [], []),
    (each, (a, b, a), {}, [[mark(0), mark(1), mark(2)]], [("argument 'rows'", x) for x in (a, b, a)]),
    (named, (), {"b": c, "a": 1}, [{"b": mark(0), "a": 1}], [("argument 'rows'", c)]),
    (both, (a, done), {}, [mark(0), mark(1)], [("argument 'rows'", a), ("callback 'done'", done)]),
    (
        both,
        (a, done),
        {"more": c},
        [mark(0), mark(1), mark(2)],
        [("argument 'rows'", a), ("callback 'done'", done), ("argument 'more'", c)],
    ),
    (tagged, ([1],), {}, [[1, [1]]], []),
    (tagged, (b,), {}, [[0, mark(0)]], [("argument 'value'", b)]),
    (either, (1,), {}, [1], []),
    (either, (b,), {}, [mark(0)], [("argument 'value'", b)]),
]


class Stub:
    """What the handler gets, for this test."""

    def __init__(self, index: int, codec: CompanionCodec) -> None:
        self.index = index
        self.codec = codec


def unpack_walk(codec: CommandCodec) -> Callable[..., Any]:
    return lambda payload, make: codec._arguments._unpack_slowly(payload, CallbackReader(make))


@pytest.mark.parametrize(("function", "args", "kwargs", "data", "given"), CALLS, ids=itertools.count())
def test_numbers_travel_and_iterators_stay(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], data: Any, given: list[tuple[str, Any]]
) -> None:
    codec = codec_of(function)
    assert codec.has_callbacks
    payload, companions = codec.pack_with_callbacks(args, kwargs)
    assert payload == packb(data)
    assert [value for _, value in companions] == [value for _, value in given]
    assert [taken.name for taken, _ in companions] == [f"Store.put: {name}" for name, _ in given]
    stubs: list[Stub] = []

    def make(index: int, taken: CompanionCodec) -> Stub:
        stubs.append(Stub(index, taken))
        return stubs[-1]

    for unpack in (codec.unpack_with_callbacks, unpack_walk(codec)):
        stubs.clear()
        got_args, got_kwargs = unpack(payload, make)
        arrived = [value for value in (*got_args, *got_kwargs.values()) if isinstance(value, Stub)]
        assert {stub.index for stub in arrived} == {*range(len(given))}
        assert [stub.index for stub in stubs] == [*range(len(given))]
        # One object for each parameter, at both ends of a process that has both.
        assert all(stub.codec is taken for stub, (taken, _) in zip(stubs, companions, strict=True))


@pytest.mark.parametrize(
    ("function", "args", "kwargs"), [row[:3] for row in CALLS if d not in row[1]], ids=itertools.count()
)
def test_the_source_does_it_without_the_walk(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("walked")

    monkeypatch.setattr(ArgumentsCoder, "_pack_slowly", refuse)
    monkeypatch.setattr(ArgumentsCoder, "_unpack_slowly", refuse)
    codec = codec_of(function)
    payload, _ = codec.pack_with_callbacks(args, kwargs)
    codec.unpack_with_callbacks(payload, Stub)


def test_a_stream_among_the_arguments_has_a_codec_of_its_own() -> None:
    (stream, _), (callback, _), (more, _) = codec_of(both).pack_with_callbacks((a, done), {"more": c})[1]
    assert isinstance(stream, StreamCodec)
    assert isinstance(callback, CallbackCodec)
    assert isinstance(more, StreamCodec)
    assert repr(more) == "<StreamCodec Store.put: argument 'more'>"
    assert (stream.is_async, more.is_async) == (False, True)
    assert stream.pack_item(5) == packb(5)
    assert more.unpack_item(more.pack_item("x")) == "x"
    with pytest.raises(CodecError) as caught:
        stream.pack_item("x")
    assert str(caught.value) == "Store.put: argument 'rows': item: expected int, got str"
    with pytest.raises(CodecError, match=r"^Store\.put: argument 'more': item: expected str, got int$"):
        more.unpack_item(packb(5))


def test_nothing_is_compiled_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr("typedrpc.codec.result.Source", refuse)
    stream = codec_of(rows).result_stream
    assert stream is not None
    with pytest.raises(AssertionError, match="compiled"):
        _ = stream.pack_item
    monkeypatch.undo()
    assert stream.pack_item is stream.pack_item


def test_a_result_that_is_a_stream() -> None:
    codec = codec_of(points)
    stream = codec.result_stream
    assert stream is not None
    assert stream is codec.result_stream
    assert (stream.name, stream.is_async) == ("Store.put: result", True)
    assert not codec.has_callbacks
    payload = stream.pack_item(Point(1))
    assert payload == packb([1, 0.0])
    assert stream.unpack_item(payload) == Point(1)
    with pytest.raises(CodecError) as caught:
        stream.pack_item(Point("x"))  # type: ignore[arg-type]
    assert str(caught.value) == "Store.put: result: item.x: expected int, got str"
    assert (caught.value.command, caught.value.path) == ("Store.put: result", "item.x")
    # The response after the items is empty.
    assert codec.pack_result(None) == packb(None)
    assert codec.unpack_result(packb(None)) is None
    values: list[Any] = [[], numbers(), iter([])]
    for wrong in values:
        with pytest.raises(CodecError, match=r"Store\.put: result: expected None, got"):
            codec.pack_result(wrong)
    with pytest.raises(CodecError, match=r"Store\.put: result: expected None, got list"):
        codec.unpack_result(packb([]))
    assert codec_of(plain).result_stream is None
    assert codec_of(put).result_stream is None


@pytest.mark.parametrize("payload", [b"", b"\xc1", packb(1) * 2, packb("x"), packb([1]), b"\x92"])
def test_payloads_that_hold_no_item(payload: bytes) -> None:
    stream = codec_of(rows).result_stream
    assert stream is not None
    with pytest.raises(CodecError):
        stream.unpack_item(payload)


def test_large_items_go_beside_their_body() -> None:
    def large() -> Iterator[bytes]:
        raise NotImplementedError

    stream = codec_of(large).result_stream
    assert stream is not None
    payload = stream.pack_item(b"x" * 70_000)
    assert isinstance(payload, Segmented)
    assert stream.unpack_item(payload) == b"x" * 70_000


def test_items_have_constraints_of_their_own() -> None:
    def positive() -> Iterator[Annotated[int, Gt(0)]]:
        raise NotImplementedError

    stream = codec_of(positive).result_stream
    assert stream is not None
    assert stream.unpack_item(stream.pack_item(1)) == 1
    with pytest.raises(CodecError, match="item: expected Annotated"):
        stream.pack_item(0)


def streams_of(hint: Any) -> tuple[CommandCodec, StreamCodec, StreamCodec]:
    """A command that takes and gives a stream of these items, with the codecs of both."""

    def command(rows: Any) -> Any: ...

    command.__annotations__.update({"rows": AsyncIterator[hint], "return": Iterator[hint]})
    codec = codec_of(command)
    (taken, _), *_ = codec.pack_with_callbacks((c,), {})[1]
    assert isinstance(taken, StreamCodec)
    assert codec.result_stream is not None
    return codec, taken, codec.result_stream


@thorough(40)
@given(st.data())
def test_items_of_every_type_arrive_as_they_were(data: st.DataObject) -> None:
    typed = data.draw(TYPES)
    codec, *streams = streams_of(typed.hint)
    unpack = codec.unpack_result_of(codec.schema)
    for value in data.draw(st.lists(typed.values, min_size=1, max_size=4)):
        for stream in streams:
            assert same(stream.unpack_item(stream.pack_item(value)), value)
        assert same(unpack(streams[1].pack_item(value)), value)


@thorough(40)
@given(st.data())
def test_whatever_a_peer_sends_is_an_item_or_a_codec_error(data: st.DataObject) -> None:
    typed = data.draw(TYPES)
    _, stream, _ = streams_of(typed.hint)
    payload = stream.pack_item(data.draw(typed.values))
    body = payload.body if isinstance(payload, Segmented) else payload
    with suppress(CodecError):
        stream.unpack_item(data.draw(mutated(bytes(body))))


ITERATORS: list[Any] = [
    iter([1]),
    iter(()),
    (x for x in [1]),
    map(int, "1"),
    zip([1], strict=True),
    itertools.count(),
    io.StringIO("a"),
    Own(),
    Registered(),
]
ASYNC_ITERATORS: list[Any] = [numbers(), OwnAsync()]


@pytest.mark.parametrize("value", ITERATORS, ids=lambda value: type(value).__name__)
def test_every_iterator_is_taken_as_it_is(value: Any) -> None:
    for command, args in ((put, ("t", value)), (maybe, (value,)), (either, (value,)), (each, (value,))):
        _, ((stream, given),) = codec_of(command).pack_with_callbacks(args, {})
        assert given is value
        assert isinstance(stream, StreamCodec)
    if isinstance(value, type(iter([]))):
        assert [*value] == [1]  # nobody has looked into it


@pytest.mark.parametrize("value", ASYNC_ITERATORS, ids=lambda value: type(value).__name__)
def test_every_async_iterator_is_taken_as_it_is(value: Any) -> None:
    _, ((_, given),) = codec_of(follow).pack_with_callbacks((value,), {})
    assert given is value
    _, ((_, given),) = codec_of(named).pack_with_callbacks((), {"x": value})
    assert given is value


class OnlyNext:
    def __next__(self) -> int:
        return 1


class OnlyAsyncIterable:
    def __aiter__(self) -> AsyncIterator[int]:
        return numbers()


NO_ITERATORS: list[tuple[Any, str]] = [
    ([1], "list; give iter(...) of it"),
    ((1,), "tuple; give iter(...) of it"),
    ("abc", "str; give iter(...) of it"),
    ({}, "dict; give iter(...) of it"),
    (range(3), "range; give iter(...) of it"),
    (numbers(), "async_generator, which is async"),
    (OwnAsync(), "OwnAsync, which is async"),
    (OnlyNext(), "OnlyNext"),
    (rows, "function"),
    (list, "type"),
    (5, "int"),
    (None, "None"),
]


@pytest.mark.parametrize(("value", "got"), NO_ITERATORS, ids=itertools.count())
def test_what_is_no_iterator_is_refused_at_the_caller(value: Any, got: str) -> None:
    with pytest.raises(ArgumentTypeError) as caught:
        codec_of(put).pack_with_callbacks(("t", value), {})
    assert str(caught.value) == f"Store.put: argument 'rows': expected Iterator[int], got {got}"


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (OnlyAsyncIterable(), "OnlyAsyncIterable; give aiter(...) of it"),
        ([1], "list, which is not async"),
        (iter([1]), "list_iterator, which is not async"),
        ((x for x in [1]), "generator, which is not async"),
        (numbers, "function"),
        (None, "None"),
    ],
    ids=itertools.count(),
)
def test_what_is_no_async_iterator_is_refused_at_the_caller(value: Any, got: str) -> None:
    with pytest.raises(ArgumentTypeError) as caught:
        codec_of(follow).pack_with_callbacks((value,), {})
    assert str(caught.value) == f"Store.put: argument 'rows': expected AsyncIterator[int], got {got}"


def test_a_fault_has_its_place_and_all_are_told() -> None:
    with pytest.raises(ArgumentTypeError) as caught:
        codec_of(each).pack_with_callbacks((a, [1], b, 5), {})
    assert str(caught.value).splitlines() == [
        "Store.put: 2 faults",
        "- argument 'rows'[1]: expected Iterator[int], got list; give iter(...) of it",
        "- argument 'rows'[3]: expected Iterator[int], got int",
    ]
    with pytest.raises(ArgumentTypeError, match=r"'rows'\['a'\]: expected AsyncIterator\[int\] \| int, got str"):
        codec_of(named).pack_with_callbacks((), {"a": "x"})
    with pytest.raises(ArgumentMissing, match="argument 'rows' is missing"):
        codec_of(put).pack_with_callbacks(("t",), {})


def test_iterators_that_the_source_has_given_up_are_not_given_twice() -> None:
    class Text(str):
        __slots__ = ()

    def command(first: Iterator[int], text: str, second: Iterator[int]) -> None: ...

    payload, given = codec_of(command).pack_with_callbacks((a, Text("x"), b), {})  # a subclass is left to the walk
    assert payload == packb([mark(0), "x", mark(1)])
    assert [value for _, value in given] == [a, b]


class Records(list[int]):
    """A list that is an iterator, too."""

    def __next__(self) -> int:
        return 1


def test_a_value_that_is_also_an_iterator_goes_by_what_it_is_first() -> None:
    codec = codec_of(tagged)
    payload, given = codec.pack_with_callbacks((Records([1]),), {})
    assert (payload, given) == (packb([[1, [1]]]), [])
    wrong: Any = Records()
    wrong.append("x")
    payload, given = codec.pack_with_callbacks((wrong,), {})
    assert payload == packb([[0, mark(0)]])
    assert [value for _, value in given] == [wrong]


def test_a_plain_iterable_is_read_whole_beside_an_async_stream() -> None:
    def command(value: AsyncIterator[int] | Iterable[int]) -> None: ...

    codec = codec_of(command)
    assert codec.pack_with_callbacks((iter([1, 2]),), {}) == (packb([[1, 2]]), [])
    payload, ((_, value),) = codec.pack_with_callbacks((c,), {})
    assert (payload, value) == (packb([mark(0)]), c)


def test_a_call_has_so_many_streams_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    few = 10
    monkeypatch.setattr("typedrpc.codec.streams.MAX_CALLBACKS", few)
    codec = codec_of(each)
    payload, given = codec.pack_with_callbacks((a,) * few, {})
    assert len(given) == few
    assert codec.unpack_with_callbacks(payload, lambda index, stream: index)[0] == (*range(few),)
    with pytest.raises(ArgumentValueError) as caught:
        codec.pack_with_callbacks((a,) * (few + 1), {})
    text = "Store.put: argument 'rows'[10]: expected at most 10 callbacks and streams in a call, got more"
    assert str(caught.value) == text


def test_streams_go_beside_segments() -> None:
    codec = codec_of(beside_bytes)
    payload, given = codec.pack_with_callbacks((b"x" * 70_000, a), {})
    assert isinstance(payload, Segmented)
    assert len(given) == 1
    assert codec.unpack_with_callbacks(payload, lambda index, stream: index) == ((b"x" * 70_000, 0), {})


def test_without_being_told_what_to_do_streams_are_not_taken() -> None:
    codec = codec_of(maybe)
    assert codec.pack_arguments() == packb([])
    assert codec.unpack_arguments(packb([None])) == ((None,), {})
    with pytest.raises(AssertionError, match=r"Store\.put was given functions or streams"):
        codec.pack_arguments(a)
    with pytest.raises(ArgumentValueError, match="argument 'rows': expected no callback or stream, got one"):
        codec.unpack_arguments(packb([mark(0)]))


# What a peer may send: ``(function, payload, error)``.
BAD: list[tuple[Any, Any, str]] = [
    (put, ["t", 0], "argument 'rows': expected Iterator[int], got int"),
    (put, ["t", [1]], "argument 'rows': expected Iterator[int], got list"),
    (put, ["t", None], "argument 'rows': expected Iterator[int], got None"),
    (put, ["t", msgpack.ExtType(4, b"\0")], "got UnknownExtension"),
    (put, [mark(0), mark(1)], "argument 'table': expected str, got CallbackIndex"),
    (put, ["t"], "argument 'rows' is missing"),
    (either, [[0]], "got list"),
    (tagged, [mark(0)], "got CallbackIndex without the index of a member"),
    (both, [mark(7), mark(7)], "argument 'done': expected a callback or stream of its own, got number 7"),
    (each, [[mark(0), mark(0)]], "argument 'rows'[1]: expected a callback or stream of its own, got number 0"),
    (each, [[mark(0), mark(1), 5]], "Store.put: argument 'rows'[2]: expected Iterator[int], got int"),
]


@pytest.mark.parametrize(("function", "data", "text"), BAD, ids=itertools.count())
def test_payloads_that_hold_no_streams_of_this_command(function: Any, data: Any, text: str) -> None:
    made: list[int] = []

    def make(index: int, stream: CompanionCodec) -> object:
        made.append(index)
        return object()

    with pytest.raises(ArgumentError) as caught:
        codec_of(function).unpack_with_callbacks(packb(data), make)
    assert text in str(caught.value)
    assert len(made) == len(set(made))


def test_a_codec_of_streams_serves_many_threads() -> None:
    codec = codec_of(both)
    start = threading.Barrier(4)
    outcomes: list[bool] = []

    def work(number: int) -> None:
        own = iter([number])
        start.wait(10)
        for _ in range(100):
            _, ((stream, given), _) = codec.pack_with_callbacks((own, done), {})
            assert isinstance(stream, StreamCodec)
            outcomes.append(given is own and stream.unpack_item(stream.pack_item(number)) == number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert outcomes == [True] * 400


# Another version of the command at the other side.


def told() -> tuple[Callable[[int, CompanionCodec], Any], list[int], Callable[[int], object]]:
    dropped: list[int] = []
    return (lambda index, stream: (index, stream)), dropped, dropped.append


def test_arguments_of_another_version_are_read_by_the_callers_items() -> None:
    def older(rows: Iterator[Point], table: str, *more: Iterator[int]) -> None: ...
    def newer(
        table: str, rows: AsyncIterator[NewPoint] | None = None, *others: Iterator[float], flag: bool = False
    ) -> None: ...

    writer, reader = codec_of(older), codec_of(newer)
    payload, ((written, _), (other, _)) = writer.pack_with_callbacks((a, "t", b), {})
    assert isinstance(written, StreamCodec)
    assert isinstance(other, StreamCodec)
    make, dropped, drop = told()
    (table, (index, rows), (second, more)), kwargs = reader.unpack_with_callbacks_of(writer.schema)(payload, make, drop)
    assert (table, index, second, kwargs, dropped) == ("t", 0, 1, {}, [])
    assert (rows.name, more.name) == ("Store.put: argument 'rows'", "Store.put: argument 'others'")
    assert (rows.is_async, more.is_async) == (True, False)
    assert rows.unpack_item(written.pack_item(Point(1, 2.0))) == NewPoint(x=1.0, y=2.0, z=7)
    arrived = more.unpack_item(other.pack_item(3))
    assert (arrived, type(arrived)) == (3.0, float)
    with pytest.raises(CodecError, match=r"Store\.put: argument 'rows': item"):
        rows.unpack_item(packb([1]))
    # Callers of the same version go on as before.
    (own, _), *_ = reader.pack_with_callbacks(("t", c), {})[1]
    assert isinstance(own, StreamCodec)
    assert own.unpack_item(own.pack_item(NewPoint(1.0))) == NewPoint(1.0)


def test_streams_that_nobody_takes_are_dropped() -> None:
    def older(steps: int, rows: Iterator[int] | None = None, more: Iterator[str] | None = None) -> None: ...
    def newer(steps: int) -> None: ...
    def other(steps: int, more: Iterator[str] | None = None) -> None: ...

    writer = codec_of(older)
    payload, _ = writer.pack_with_callbacks((1, a, b), {})
    make, dropped, drop = told()
    assert codec_of(newer).unpack_with_callbacks_of(writer.schema)(payload, make, drop) == ((1,), {})
    assert dropped == [0, 1]
    dropped.clear()
    (_, (index, _)), _ = codec_of(other).unpack_with_callbacks_of(writer.schema)(payload, make, drop)
    assert (index, dropped) == (1, [0])


def test_results_of_another_version_are_read_by_the_callees_items() -> None:
    def older() -> AsyncIterator[Point]:
        raise NotImplementedError

    def newer() -> Iterator[NewPoint]:
        raise NotImplementedError

    callee, caller = codec_of(older), codec_of(newer)
    assert callee.result_stream is not None
    unpack = caller.unpack_result_of(callee.schema)
    assert unpack(callee.result_stream.pack_item(Point(1, 2.0))) == NewPoint(x=1.0, y=2.0, z=7)
    with pytest.raises(CodecError, match=r"^Store\.put: result: item: expected NewPoint, got None$"):
        unpack(packb(None))


@pytest.mark.parametrize("callee", [plain, put])
def test_a_stream_does_not_become_something_else(callee: Any) -> None:
    with pytest.raises(CodecError):
        codec_of(rows).unpack_result_of(codec_of(callee).schema)
    with pytest.raises(CodecError):
        codec_of(callee).unpack_result_of(codec_of(rows).schema)
