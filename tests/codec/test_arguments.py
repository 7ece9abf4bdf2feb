"""Arguments: bound as Python binds them, sent as the format says, and every fault of a call in one error."""

import enum
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgpack  # type: ignore[import-untyped]  # it ships no types
import pytest

from typedrpc.codec import CommandCodec, Segmented
from typedrpc.codec.arguments import ArgumentsCoder
from typedrpc.codec.body import segment_mark
from typedrpc.codec.faults import Fault
from typedrpc.errors import ArgumentError, ArgumentMissing, ArgumentTypeError, ArgumentValueError
from typedrpc.schema import Parameter, ParameterKind, ScalarNode, Schema, schema_of

packb: Any = msgpack.packb
MISSING = object()


@dataclass
class Item:
    name: str
    price: float

    def __post_init__(self) -> None:
        if self.price == -1:
            raise ValueError("negative price")


class Colour(enum.Enum):
    RED = 1


def codec_of(function: Callable[..., Any], name: str = "Store.put") -> CommandCodec:
    return CommandCodec(name, schema_of(function, method=False))


def nothing() -> None: ...
def add(a: int, b: int = 0) -> None: ...
def many(a: int, b: str = "b", c: float = 0.5, d: bool = False) -> None: ...
def only(a: int, b: int = 1, /) -> None: ...
def named(*, a: int, b: int = 1) -> None: ...
def star(*items: int) -> None: ...
def starred(a: int, b: int = 1, *items: int, c: int = 2, d: int) -> None: ...
def double(a: int, /, b: int = 1, **more: int) -> None: ...
def all_kinds(a: int, /, b: int = 1, *rest: str, c: int, d: int = 2, **more: bool) -> None: ...


# A call, what travels, and what the handler is called with.
CALLS: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any, tuple[Any, ...], dict[str, Any]]] = [
    (nothing, (), {}, [], (), {}),
    (add, (1, 2), {}, [1, 2], (1, 2), {}),
    (add, (1,), {}, [1], (1,), {}),
    (add, (), {"a": 1}, [1], (1,), {}),
    (add, (), {"b": 2, "a": 1}, [1, 2], (1, 2), {}),
    (add, (1,), {"b": 2}, [1, 2], (1, 2), {}),
    (many, (1, "x", 1.5, True), {}, [1, "x", 1.5, True], (1, "x", 1.5, True), {}),
    (many, (1, "x"), {}, [1, "x"], (1, "x"), {}),
    (many, (1,), {"c": 1.5}, {0: 1, 2: 1.5}, (1,), {"c": 1.5}),
    (many, (1,), {"d": True}, {0: 1, 3: True}, (1,), {"d": True}),
    (many, (1, "x"), {"d": True}, {0: 1, 1: "x", 3: True}, (1, "x"), {"d": True}),
    (only, (1,), {}, [1], (1,), {}),
    (only, (1, 2), {}, [1, 2], (1, 2), {}),
    (named, (), {"a": 1}, [1], (), {"a": 1}),
    (named, (), {"b": 2, "a": 1}, [1, 2], (), {"a": 1, "b": 2}),
    (star, (), {}, [], (), {}),
    (star, (1, 2), {}, [[1, 2]], (1, 2), {}),
    (starred, (1,), {"d": 4}, {0: 1, 4: 4}, (1,), {"d": 4}),
    (starred, (1, 2, 3, 4), {"c": 5, "d": 6}, [1, 2, [3, 4], 5, 6], (1, 2, 3, 4), {"c": 5, "d": 6}),
    (starred, (1, 2, 3), {"d": 6}, {0: 1, 1: 2, 2: [3], 4: 6}, (1, 2, 3), {"d": 6}),
    (double, (1,), {}, [1], (1,), {}),
    (double, (1, 2), {"x": 3}, [1, 2, {"x": 3}], (1, 2), {"x": 3}),
    (double, (1,), {"a": 3}, {0: 1, 2: {"a": 3}}, (1,), {"a": 3}),
    (double, (1,), {"b": 3, "c": 4}, [1, 3, {"c": 4}], (1, 3), {"c": 4}),
    (all_kinds, (1,), {"c": 3}, {0: 1, 3: 3}, (1,), {"c": 3}),
    (
        all_kinds,
        (1, 2, "x"),
        {"c": 3, "d": 4, "z": True},
        [1, 2, ["x"], 3, 4, {"z": True}],
        (1, 2, "x"),
        {"c": 3, "d": 4, "z": True},
    ),
]


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "data", "back_args", "back_kwargs"),
    CALLS,
    ids=[f"{call[0].__name__}-{call[1]}-{call[2]}" for call in CALLS],
)
def test_arguments_travel_by_the_number_of_their_parameter(
    function: Any, args: Any, kwargs: Any, data: Any, back_args: Any, back_kwargs: Any
) -> None:
    codec = codec_of(function)
    payload = codec.pack_arguments(*args, **kwargs)
    assert payload == packb(data)
    arrived = codec.unpack_arguments(payload)
    assert arrived == (back_args, back_kwargs)
    assert type(arrived[0]) is tuple
    assert codec.unpack_arguments(memoryview(bytearray(packb(data)))) == (back_args, back_kwargs)
    if isinstance(data, list):  # a map does as well
        assert codec.unpack_arguments(packb(dict(enumerate(data)))) == (back_args, back_kwargs)


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "data", "back_args", "back_kwargs"),
    CALLS,
    ids=[f"{call[0].__name__}-{call[1]}-{call[2]}" for call in CALLS],
)
def test_usual_calls_never_need_the_walk(
    function: Any, args: Any, kwargs: Any, data: Any, back_args: Any, back_kwargs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def walk(*args: object) -> None:
        raise AssertionError("the walk was needed")

    monkeypatch.setattr(ArgumentsCoder, "_pack_slowly", walk)
    monkeypatch.setattr(ArgumentsCoder, "_unpack_slowly", walk)
    codec = codec_of(function)
    assert codec.unpack_arguments(codec.pack_arguments(*args, **kwargs)) == (back_args, back_kwargs)


def put(key: str, items: list[Item], *, mode: Literal["r", "w"] = "r", colour: Colour = Colour.RED) -> None: ...
def tagged(a: int, /, *rest: int, **more: float) -> None: ...


WRONG: list[tuple[Any, tuple[Any, ...], dict[str, Any], type[ArgumentError], str]] = [
    (add, ("x",), {}, ArgumentTypeError, "Store.put: argument 'a': expected int, got str"),
    (add, (1,), {"b": None}, ArgumentTypeError, "Store.put: argument 'b': expected int, got None"),
    (add, (), {}, ArgumentMissing, "Store.put: argument 'a' is missing"),
    (add, (), {"b": 1}, ArgumentMissing, "Store.put: argument 'a' is missing"),
    (add, (1, 2, 3), {}, ArgumentTypeError, "Store.put: takes 2 positional arguments, 3 were given"),
    (star, (), {"x": 1}, ArgumentTypeError, "Store.put: unknown argument 'x'"),
    (nothing, (1,), {}, ArgumentTypeError, "Store.put: takes 0 positional arguments, 1 was given"),
    (double, (1, 2, 3), {}, ArgumentTypeError, "Store.put: takes 2 positional arguments, 3 were given"),
    (named, (1,), {"a": 1}, ArgumentTypeError, "Store.put: takes 0 positional arguments, 1 was given"),
    (add, (1,), {"c": 1}, ArgumentTypeError, "Store.put: unknown argument 'c'"),
    (add, (1,), {"x y": 1}, ArgumentTypeError, "Store.put: unknown argument 'x y'"),
    (add, (1,), {"a": 1}, ArgumentTypeError, "Store.put: argument 'a' was given twice"),
    (double, (1, 2), {"b": 1}, ArgumentTypeError, "Store.put: argument 'b' was given twice"),
    (only, (), {"a": 1}, ArgumentTypeError, "- argument 'a' is positional-only and was given by name"),
    (only, (1,), {"b": 1}, ArgumentTypeError, "Store.put: argument 'b' is positional-only and was given by name"),
    (named, (), {"a": "x"}, ArgumentTypeError, "Store.put: argument 'a': expected int, got str"),
    (star, (1, "x"), {}, ArgumentTypeError, "Store.put: argument 'items'[1]: expected int, got str"),
    (tagged, (1,), {"x": "y"}, ArgumentTypeError, "Store.put: argument 'more'['x']: expected float, got str"),
    (tagged, (1,), {"x": 10**400}, ArgumentValueError, "argument 'more'['x']: expected float, got an int of 1329 bits"),
    (put, ("k", [Item("a", 1)] * 3 + [Item("b", "free")]), {}, ArgumentTypeError,  # type: ignore[arg-type]
     "Store.put: argument 'items'[3].price: expected float, got str"),
    (put, ("k", []), {"mode": "x"}, ArgumentTypeError, "argument 'mode': expected Literal['r', 'w'], got 'x'"),
    (put, ("k", []), {"colour": "RED"}, ArgumentTypeError, "argument 'colour': expected Colour, got str"),
    (put, ("\ud800", []), {}, ArgumentValueError, "argument 'key': expected str, got a lone surrogate at index 0"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "kind", "text"), WRONG, ids=[f"{w[0].__name__}-{w[4]}"[:80] for w in WRONG]
)
def test_a_wrong_call_is_refused(function: Any, args: Any, kwargs: Any, kind: type[ArgumentError], text: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        codec_of(function).pack_arguments(*args, **kwargs)
    assert type(caught.value) is kind
    assert text in str(caught.value)


def test_all_wrong_arguments_come_together() -> None:
    with pytest.raises(ArgumentTypeError) as caught:
        codec_of(put).pack_arguments(1, None, mode=2, surplus=3)
    assert str(caught.value).split("\n") == [
        "Store.put: 4 faults",
        "- unknown argument 'surplus'",
        "- argument 'key': expected str, got int",
        "- argument 'items': expected list[Item], got None",
        "- argument 'mode': expected Literal['r', 'w'], got 2",
    ]


@pytest.mark.parametrize(
    ("args", "kwargs", "kind"),
    [
        ((), {}, ArgumentMissing),
        (("\ud800", "\ud800"), {}, ArgumentValueError),
        (("\ud800",), {}, ArgumentMissing),
        ((1,), {}, ArgumentTypeError),
        ((1, "\ud800"), {}, ArgumentTypeError),
    ],
)
def test_the_kind_of_the_error_for_several_faults(args: Any, kwargs: Any, kind: type[ArgumentError]) -> None:
    def two(a: str, b: str) -> None: ...

    with pytest.raises(ArgumentError, match="2 faults") as caught:
        codec_of(two).pack_arguments(*args, **kwargs)
    assert type(caught.value) is kind


def test_the_list_of_faults_is_cut() -> None:
    def wide(**kwargs: int) -> None: ...
    def narrow() -> None: ...

    with pytest.raises(ArgumentTypeError) as caught:
        codec_of(narrow).pack_arguments(**{f"name{i}": i for i in range(100)})
    lines = str(caught.value).split("\n")
    assert lines[0] == "Store.put: 100 faults"
    assert lines[-1] == "- and 80 more"
    assert len(lines) == 22
    with pytest.raises(ArgumentTypeError) as caught:
        codec_of(wide).pack_arguments(**{"x" * 10_000: "y"})
    assert len(str(caught.value)) < 1000


def test_the_order_of_keyword_arguments_is_kept() -> None:
    codec = codec_of(lambda_of(kwargs=int))
    names = ["z", "a", "m"]
    _, kwargs = codec.unpack_arguments(codec.pack_arguments(**dict.fromkeys(names, 1)))
    assert list(kwargs) == names


def lambda_of(**annotations: Any) -> Callable[..., Any]:
    """A function with these ``**kwargs``."""

    def function(**kwargs: Any) -> None: ...

    function.__annotations__ = {**annotations, "return": None}
    return function


def test_iterators_are_read_once() -> None:
    def command(a: Iterable[int], b: Iterable[int] | None = None, *c: Iterable[str]) -> None: ...

    codec = codec_of(command)
    args, _ = codec.unpack_arguments(codec.pack_arguments(iter([1, 2]), iter([3]), iter("ab"), "cd"))
    assert args == ([1, 2], [3], ["a", "b"], ["c", "d"])
    with pytest.raises(ArgumentTypeError, match=r"argument 'a'\[1\]: expected int, got str"):
        codec.pack_arguments(iter([1, "x"]))
    with pytest.raises(ArgumentTypeError, match=r"argument 'b'\[1\]: expected int, got str"):
        codec.pack_arguments([], iter([1, "x"]))
    with pytest.raises(ArgumentTypeError, match=r"argument 'c'\[0\]\[1\]: expected str, got int"):
        codec.pack_arguments([], None, iter(["x", 1]))


def test_an_error_of_the_callers_own_iterator_is_the_callers() -> None:
    def command(a: Iterable[int]) -> None: ...

    def failing() -> Iterator[int]:
        yield 1
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        codec_of(command).pack_arguments(failing())


PAYLOADS: list[tuple[Any, bytes, type[ArgumentError], str]] = [
    (add, b"", ArgumentValueError, "Store.put: the arguments: expected one msgpack value, got ValueError"),
    (add, b"\xc1", ArgumentValueError, "the arguments: expected one msgpack value, got FormatError"),
    (add, b"\x92\x01\x02\x03", ArgumentValueError, "the arguments: expected one msgpack value, got ExtraData"),
    (add, b"\x92\x01", ArgumentValueError, "the arguments: expected one msgpack value, got ValueError"),
    (add, b"\x91" * 100_000, ArgumentValueError, "the arguments: expected one msgpack value, got StackError"),
    (add, b"\x91" * 100_000 + b"\xc0", ArgumentValueError, "the arguments: expected one msgpack value, got StackError"),
    (add, b"\x81\x91\x01\x02", ArgumentValueError, "expected one msgpack value, got TypeError: unhashable type"),
    (add, b"\xdd\xff\xff\xff\xff", ArgumentValueError, "the arguments: expected one msgpack value, got ValueError"),
    (add, packb(5), ArgumentTypeError, "the arguments: expected an array or a map of arguments, got 5"),
    (add, packb(None), ArgumentTypeError, "the arguments: expected an array or a map of arguments, got None"),
    (nothing, packb(None), ArgumentTypeError, "the arguments: expected an array or a map of arguments, got None"),
    (nothing, packb([1]), ArgumentTypeError, "the arguments: expected at most 0 arguments, got 1"),
    (add, packb([1, 2, 3]), ArgumentTypeError, "the arguments: expected at most 2 arguments, got 3"),
    (add, packb([]), ArgumentMissing, "Store.put: argument 'a' is missing"),
    (add, packb({1: 2}), ArgumentMissing, "Store.put: argument 'a' is missing"),
    (add, packb({0: 1, 2: 2}), ArgumentTypeError, "expected numbers of parameters, got a parameter 2"),
    (add, packb({0: 1, -1: 2}), ArgumentTypeError, "expected numbers of parameters, got a parameter -1"),
    (add, packb({False: 1}), ArgumentTypeError, "expected numbers of parameters, got a parameter False"),
    (add, packb({"a": 1}), ArgumentTypeError, "expected numbers of parameters, got a parameter 'a'"),
    (add, packb(["x", 2]), ArgumentTypeError, "Store.put: argument 'a': expected int, got str"),
    (add, packb(["x", None]), ArgumentTypeError, "Store.put: 2 faults\n- argument 'a': expected int, got str\n- arg"),
    (star, packb([5]), ArgumentTypeError, "argument 'items': expected tuple[int, ...], got int"),
    (star, packb([[1, "x"]]), ArgumentTypeError, "argument 'items'[1]: expected int, got str"),
    (starred, packb({0: 1, 2: [3], 4: 4}), ArgumentTypeError, "expected the arguments before it, got 'items' alone"),
    (only, packb({1: 1}), ArgumentMissing, "Store.put: argument 'a' is missing"),
    (double, packb([1, 2, {"b": 3}]), ArgumentTypeError, "expected names of no parameter, got 'b'"),
    (double, packb([1, 2, {3: 3}]), ArgumentTypeError, "argument 'more'[key 3]: expected str, got int"),
    (put, packb(["k", ["a", -1.0]]), ArgumentValueError, "argument 'items'[0]: expected Item, got fields it refuses"),
]


@pytest.mark.parametrize(
    ("function", "payload", "kind", "text"), PAYLOADS, ids=[f"{i}-{p[3]}"[:70] for i, p in enumerate(PAYLOADS)]
)
def test_a_bad_payload_is_refused(function: Any, payload: bytes, kind: type[ArgumentError], text: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        codec_of(function).unpack_arguments(payload)
    assert type(caught.value) is kind
    assert text in str(caught.value)


def test_each_fault_among_records_of_any_number_is_told() -> None:
    def command(*items: Item) -> None: ...

    codec = codec_of(command)
    payload = codec.pack_arguments(Item("a", 1.0), Item("b", 2.0))
    assert payload == packb([["a", 1.0, "b", 2.0]])
    assert codec.unpack_arguments(payload) == ((Item("a", 1.0), Item("b", 2.0)), {})
    with pytest.raises(ArgumentError) as caught:
        codec.unpack_arguments(packb([["a", "x", "b", 2.0, 5, 3.0]]))
    told = "- argument 'items'[0].price: expected float, got str\n- argument 'items'[2].name: expected str, got int"
    assert str(caught.value) == f"Store.put: 2 faults\n{told}"
    with pytest.raises(ArgumentError, match="got list of 3 items for records of 2 fields"):
        codec.unpack_arguments(packb([["a", 1.0, "b"]]))


def test_optional_positional_only_arguments_cannot_have_a_gap() -> None:
    def command(a: int = 1, b: int = 2, /) -> None: ...

    with pytest.raises(ArgumentTypeError, match="expected the arguments before it, got 'b' alone"):
        codec_of(command).unpack_arguments(packb({1: 5}))


def test_a_payload_that_is_no_buffer_is_an_argument_error() -> None:
    for payload in (None, 5, "text", Segmented(b"", []), Segmented(b"\x92\x01\x02", [b"x"])):
        with pytest.raises(ArgumentValueError):
            codec_of(add).unpack_arguments(payload)  # type: ignore[arg-type]  # that is the point


def test_what_msgpack_refuses_in_the_end_is_an_argument_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does with more than 4 GiB in one value."""

    def refuse(value: object) -> bytes:
        raise Fault("a value that msgpack can hold", "ValueError: too long", is_type=False)

    monkeypatch.setattr("typedrpc.codec.arguments.pack_body", refuse)
    with pytest.raises(
        ArgumentValueError, match="the arguments: expected a value that msgpack can hold, got ValueError"
    ):
        codec_of(add).pack_arguments(True)


def test_names_of_parameters_never_collide_with_those_of_the_generator() -> None:
    names = ["self", "pack", "unpack", "missing", "misfit", "type", "len", "dict", "payload", "segments", "unpackb"]
    names += ["take_packer", "give_packer", "v_0", "a_0", "list", "zip", "enumerate", "Exception", "class_", "__x"]
    parameters = tuple(
        Parameter(name, ParameterKind.POSITIONAL_OR_KEYWORD, ScalarNode("int"), required=False) for name in names
    )
    codec = CommandCodec("Test.command", Schema(parameters, ScalarNode("None")))
    values = list(range(len(names)))
    assert codec.unpack_arguments(codec.pack_arguments(*values)) == (tuple(values), {})
    assert codec.unpack_arguments(codec.pack_arguments(**dict(zip(names, values, strict=True)))) == (tuple(values), {})
    last = {names[-1]: 5}
    assert codec.unpack_arguments(codec.pack_arguments(**last)) == ((), last)


def test_every_choice_of_optional_arguments() -> None:
    def command(a: int = 0, b: int = 1, *, c: int = 2, d: int = 3) -> Mapping[str, int]:
        return {"a": a, "b": b, "c": c, "d": d}

    codec = codec_of(command)
    for names in itertools.chain.from_iterable(itertools.combinations("abcd", length) for length in range(5)):
        given = dict.fromkeys(names, 9)
        args, kwargs = codec.unpack_arguments(codec.pack_arguments(**given))
        assert command(*args, **kwargs) == command(**given)


def test_large_bytes_in_arguments_go_beside_the_body() -> None:
    def command(a: bytes, b: list[bytes], c: int = 1) -> None: ...

    codec = codec_of(command)
    large, larger = b"x" * 65536, b"y" * 100_000
    payload = codec.pack_arguments(large, [b"small", larger])
    assert isinstance(payload, Segmented)
    assert payload.segments[0] is large
    assert payload.segments[1] is larger
    assert len(payload.body) < 40
    arrived = Segmented(payload.body, [bytearray(large), memoryview(larger)])
    args, kwargs = codec.unpack_arguments(arrived)
    assert (args, kwargs) == ((large, [b"small", larger]), {})
    assert type(args[0]) is bytes
    for segments in ([large], [large, larger, b"further"], []):
        with pytest.raises(ArgumentValueError, match=r"segment \d, which is not there|1 that nothing refers to"):
            codec.unpack_arguments(Segmented(payload.body, [*segments]))
    with pytest.raises(ArgumentValueError, match="got segment 0, which is not there"):
        codec.unpack_arguments(payload.body)
    twice = packb([msgpack.ExtType(3, b"\0\0\0\0"), [msgpack.ExtType(3, b"\0\0\0\0")]])
    with pytest.raises(
        ArgumentValueError, match=r"argument 'b'\[0\]: expected bytes, got segment 0, which is not there"
    ):
        codec.unpack_arguments(Segmented(twice, [large]))


def test_all_wrong_arguments_of_a_variadic_parameter_are_told() -> None:
    def command(*a: int, **k: int) -> None: ...

    codec = CommandCodec("Test.command", schema_of(command, method=False))
    with pytest.raises(ArgumentTypeError) as caught:
        codec.pack_arguments("x", 1, None, q="y", r=1.5, s=2)
    assert str(caught.value).splitlines() == [
        "Test.command: 4 faults",
        "- argument 'a'[0]: expected int, got str",
        "- argument 'a'[2]: expected int, got None",
        "- argument 'k'['q']: expected int, got str",
        "- argument 'k'['r']: expected int, got float",
    ]

    def wider(*a: int | str | None, **k: float | str) -> None: ...

    payload = CommandCodec("Test.wider", schema_of(wider, method=False)).pack_arguments("x", 1, None, q="y", r=1.5)
    with pytest.raises(ArgumentTypeError) as arrived:
        codec.unpack_arguments(payload)
    assert str(arrived.value).count("\n- argument") == 4


def test_a_fault_beside_a_segment_is_one_fault() -> None:
    def command(*items: bytes, **more: bytes) -> None: ...

    codec = codec_of(command)
    for data, where in (([[segment_mark(0), 5]], "'items'[1]"), ({1: {"a": segment_mark(0), "b": 5}}, "'more'['b']")):
        with pytest.raises(ArgumentTypeError) as caught:
            codec.unpack_arguments(Segmented(packb(data), [b"x" * 70_000]))
        assert str(caught.value) == f"Store.put: argument {where}: expected bytes, got int"
