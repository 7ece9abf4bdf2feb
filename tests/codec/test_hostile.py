"""What a peer may send: nothing but the documented errors comes out, for work in proportion to the bytes.

Time is measured by `benchmarks/hostile.py`; here it is calls that are counted, and comparisons.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import gc
import sys
import typing
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it ships no types
import pytest

from tests.codec.both_ways import BothWays
from tests.codec.invented import CONVERTED, Box, Pair, Words, generic
from typedrpc.codec import CodecError, CommandCodec, unpack_plain
from typedrpc.codec.body import EXT_INT
from typedrpc.codec.body import MAX_SAME_HASH as MAX_WIDE
from typedrpc.codec.containers import MAX_SAME_HASH
from typedrpc.errors import ArgumentError
from typedrpc.schema import Parameter, ParameterKind, ScalarNode, Schema
from typedrpc.schema.conversions import MAX_BITS

packb: Any = msgpack.packb
MODULUS = sys.hash_info.modulus


def wide(number: int) -> object:
    """An int beyond 64 bits as it travels."""
    return msgpack.ExtType(EXT_INT, number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True))


def calls_of(function: Callable[[], object]) -> int:
    """How many functions, of Python and of C, run until `function` has returned or raised."""
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before, collects = sys.getprofile(), gc.isenabled()
    gc.disable()  # what it runs is not the function's
    sys.setprofile(profile)
    try:
        function()
    except CodecError:
        pass
    finally:
        sys.setprofile(before)
        if collects:
            gc.enable()
    return count


class Kind(enum.Enum):
    A = 1
    B = 2


class Access(enum.Flag):
    READ = 1
    WRITE = 2


GOOD: list[tuple[Any, Any]] = [
    (int, 1),
    (int, 2**63),
    (float, 1.5),
    (float, 1),
    (str, "ü"),
    (bytes, b"x"),
    (bytearray, b"x"),
    (memoryview, b"x"),
    (Any, {"a": [1, {"b": None}]}),
    (list[int], [1, 2]),
    (list[str | int | None], ["a", 1, None]),
    (list[int] | list[str], [0, [1]]),
    (set[int], [1, 2]),
    (frozenset[tuple[int, str]], [[1, "a"]]),
    (dict[str, int], {"a": 1}),
    (dict[int, list[float]], {1: [1.0]}),
    (dict[date, int], {1: 2}),
    (dict[tuple[int, int], int], [[[1, 2], 3]]),
    (collections.deque[int], [1]),
    (collections.OrderedDict[str, int], {"a": 1}),
    (collections.Counter[str], {"a": 1}),
    (tuple[int, str], [1, "a"]),
    (Kind, "A"),
    (Access, 3),
    (Box[int], [1, [2]]),
    (Pair[str, Box[int] | None], ["a", [1, []]]),
    (Box[int] | Box[str], [0, [1, [2]]]),
    *((typed.hint, None) for typed in CONVERTED),
]


def sample(hint: Any, data: Any) -> Any:
    """Good data for a type, as msgpack unpacks it."""
    values = {date: 5, time: [0, 0, None, None], timedelta: 5, Decimal: "1.5", complex: [0, 0.5], Fraction: [1, 3]}
    values |= {range: [0, 5, 1], Words: ["a"]}
    if data is not None:
        return data
    if hint in values:
        return values[hint]
    return {"UUID": b"x" * 16, "IPv4Address": "1.2.3.4", "IPv4Network": "10.0.0.0/8", "Money": 5}.get(
        hint.__name__, "1.2.3.4" if hint.__name__.startswith("IPv4") else "::1"
    )


@pytest.mark.unmeasured
@pytest.mark.parametrize("index", range(len(GOOD)), ids=[str(hint) for hint, _ in GOOD])
@pytest.mark.parametrize("end", ["good", "bad", "cut"])
def test_twice_the_data_is_twice_the_work(index: int, end: str) -> None:
    hint, data = GOOD[index]
    both = BothWays(generic(list, hint))
    one = sample(hint, data)
    many = one if dataclasses.is_dataclass(typing.get_origin(hint)) else [one]  # records have no arrays of their own
    tail: list[Any] = [msgpack.ExtType(99, b"")] * len(many) if end == "bad" else []

    def work(count: int) -> int:
        payload = packb(many * count + tail)
        payload = payload[:-1] if end == "cut" else payload
        return calls_of(lambda: both.codec.unpack_result(payload))

    if end == "good":
        assert both.codec.unpack_result(packb(many * 3))
    else:
        with pytest.raises(CodecError):
            both.codec.unpack_result(packb(many * 3 + tail)[: -1 if end == "cut" else None])
    work(64)
    small, large = work(64), work(128)
    assert large <= 2 * small + 40


LONG: list[tuple[Any, Callable[[int], Any]]] = [
    (str, lambda size: "x" * size),
    (Decimal, lambda size: "1" * size),
    (Decimal, lambda size: "1" * size + "x"),
    (Fraction, lambda size: [wide(2 ** (size * 4) + 1), wide(2 ** (size * 4) - 3)]),
    (range, lambda size: [0, wide(2 ** (size * 8)), wide(2 ** (size * 4))]),
    (timedelta, lambda size: wide(2 ** (size * 8))),
    (date, lambda size: wide(2 ** (size * 8))),
    (time, lambda size: [wide(2 ** (size * 8)), 0, None, None]),
    (float, lambda size: wide(2 ** (size * 8))),
    (Access, lambda size: wide(2 ** (size * 8))),
    (Kind, lambda size: "A" * size),
    *((typed.hint, lambda size: "/a" * size) for typed in CONVERTED if "Path" in typed.hint.__name__),
    *((typed.hint, lambda size: ":1" * size) for typed in CONVERTED if typed.hint.__name__.startswith("IPv")),
    (datetime, lambda size: msgpack.ExtType(2, bytes(20) + b"x" * size)),
    (Any, lambda size: {"k" * size: msgpack.ExtType(99, b"")}),
    (list[int], lambda size: {"k" * size: 1}),
]


@pytest.mark.parametrize("index", range(len(LONG)))
def test_a_long_value_takes_no_more_calls_than_its_length_and_a_short_error(index: int) -> None:
    hint, made = LONG[index]
    both = BothWays(hint)

    def work(size: int) -> int:
        payload = packb(made(size))
        try:
            both.codec.unpack_result(payload)
        except CodecError as error:
            assert len(str(error)) < 500
        return calls_of(lambda: both.codec.unpack_result(payload))

    work(2000)
    small, large = work(2000), work(4000)
    assert large <= 2 * small + 40


@pytest.mark.parametrize("hint", [Fraction, range])
def test_ints_that_are_divided_have_a_limit(hint: Any) -> None:
    both = BothWays(hint)
    largest = 2**MAX_BITS - 1
    good = {Fraction: Fraction(largest, 7), range: range(-largest, largest, largest)}[hint]
    assert both.arrives(good) == good
    bad = {Fraction: Fraction(largest + 1, 7), range: range(largest + 1)}[hint]
    assert f"an int of more than {MAX_BITS} bits" in both.refuses(bad)
    data = {Fraction: [wide(largest + 1), 7], range: [0, wide(largest + 1), 1]}[hint]
    assert f"an int of more than {MAX_BITS} bits" in both.refuses_payload(packb(data))


# Hashes that a peer has chosen.


def alike(count: int) -> Iterable[int]:
    """Ints beyond 64 bits that all have the hash 0."""
    return (MODULUS * 2**64 * index for index in range(1, count + 1))


CROWDS: list[tuple[Any, Callable[[int], Any]]] = [
    (set[int], lambda count: [*map(wide, alike(count))]),
    (frozenset[int | None], lambda count: [*map(wide, alike(count))]),
    (set[tuple[int, int]], lambda count: [[wide(number), 1] for number in alike(count)]),
    (set[Decimal], lambda count: [*map(str, alike(count))]),
    (dict[Decimal, int], lambda count: {str(number): 1 for number in alike(count)}),
    (dict[tuple[int], int], lambda count: [[[wide(number)], 1] for number in alike(count)]),
    (collections.Counter[Decimal], lambda count: {str(number): 1 for number in alike(count)}),
]


@pytest.mark.parametrize("index", range(len(CROWDS)), ids=[str(hint) for hint, _ in CROWDS])
def test_a_set_of_values_that_have_one_hash_is_refused(index: int) -> None:
    hint, made = CROWDS[index]
    both = BothWays(hint)
    assert len(both.received(packb(made(MAX_SAME_HASH)))) == MAX_SAME_HASH
    assert f"ValueError: more than {MAX_SAME_HASH} of one hash" in both.refuses_payload(packb(made(2 * MAX_SAME_HASH)))


def test_a_map_whose_keys_have_one_hash_is_refused_before_it_is_made() -> None:
    many = {wide(number): None for number in alike(MAX_WIDE + 500)}
    for hint in (dict[int, None], Any, int, list[datetime], list[str], None):
        BothWays(hint).refuses_payload(packb(many))
    optional = Parameter("value", ParameterKind.POSITIONAL_OR_KEYWORD, ScalarNode("int"), False)
    codec = CommandCodec("Test.command", Schema((optional,), ScalarNode("None")))
    with pytest.raises(ArgumentError):
        codec.unpack_arguments(packb(many))
    with pytest.raises(CodecError):
        unpack_plain(packb(many))


@pytest.mark.unmeasured
@pytest.mark.parametrize("hint", [set[int], dict[int, None]])
def test_honest_ints_of_one_hash_arrive(hint: Any) -> None:
    values = [2**power for power in range(3000)]  # 61 hashes, all in all
    there: Any = set(values) if hint == set[int] else dict.fromkeys(values)
    assert BothWays(hint).arrives(there) == there


def test_keys_that_become_one_are_refused_by_the_source_too() -> None:
    both = BothWays(dict[Decimal, int])
    assert (
        both.refuses_payload(packb({"1": 1, "1.0": 2})) == ": expected dict[Decimal, int], got two keys that become one"
    )
    assert "two elements" in BothWays(set[Decimal]).refuses_payload(packb(["1", "1.0"]))


# Depth, and lengths that are announced.


@pytest.mark.unmeasured
@pytest.mark.parametrize("head", [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdc\xff\xff", b"\xde\xff\xff"])
@pytest.mark.parametrize("index", range(0, len(GOOD), 3))
def test_announced_lengths_that_do_not_come(head: bytes, index: int) -> None:
    hint, _ = GOOD[index]
    for payload in (head, head * 20, b"\x91" + head, head + b"\xc0" * 50, head * 600):
        BothWays(generic(list, hint)).refuses_payload(payload)


def test_plain_data_that_is_refused_at_the_end_is_not_written_down() -> None:
    """Its path is made where it is needed: a path for each item would be a kilobyte for each byte."""
    data: Any = [None] * 1000 + [msgpack.ExtType(99, b"")]
    for _ in range(150):
        data = {"k" * 50: data}
    payload = packb(data)
    both = BothWays(Any)
    assert "expected plain data, got ExtType" in both.refuses_payload(payload) or "UnknownExt" in both.refuses_payload(
        payload
    )
    assert calls_of(lambda: both.codec.unpack_result(payload)) < 8000
