"""Boundary tables: each edge of a width in each place where such a value can stand."""

import collections
import decimal
import math
import pathlib
import sys
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, NamedTuple

import pytest
from typing_extensions import TypedDict

from tests.codec.both_ways import BothWays, same
from tests.codec.invented import asked
from typedrpc.schema.conversions import MAX_BITS

POWERS = [0, 5, 7, 8, 15, 16, 24, 31, 32, 33, 53, 61, 62, 63, 64, 65, 71, 72, 127, 128, 255, 256, 2039, 2040, 4096]
INTS = sorted({sign * (2**power + step) for power in POWERS for step in (-1, 0, 1) for sign in (1, -1)} | {0})


@dataclass(frozen=True)
class Held:
    value: int
    more: list[float]


class Row(NamedTuple):
    value: int


class Keyed(TypedDict):
    value: int


@dataclass
class Text:
    value: str


class TextKeyed(TypedDict):
    value: str


INT_PLACES: dict[str, tuple[Any, Any]] = {
    "int": (int, lambda value: value),
    "list": (list[int], lambda value: [value, 0, value]),
    "set": (set[int], lambda value: {value, 1}),
    "frozenset": (frozenset[int], lambda value: frozenset({value})),
    "tuple": (tuple[int, str], lambda value: (value, "")),
    "key": (dict[int, str], lambda value: {value: "x"}),
    "key of pairs": (dict[tuple[int, int], int], lambda value: {(value, -value): value}),
    "value": (dict[str, int], lambda value: {"": value}),
    "Counter": (collections.Counter[int], lambda value: collections.Counter({value: value})),
    "deque": (collections.deque[int], lambda value: collections.deque([value])),
    "dataclass": (Held, lambda value: Held(value, [])),
    "NamedTuple": (Row, Row),
    "TypedDict": (Keyed, lambda value: {"value": value}),
    "Any": (Any, lambda value: value),
    "within Any": (Any, lambda value: {value: [value]}),
    "optional": (int | None, lambda value: value),
    "union": (int | str | list[int], lambda value: [value]),
    "tagged union": (list[int] | list[str], lambda value: [value]),
    "beside float": (int | float, lambda value: value),
    "constrained": (Annotated[int, asked("MultipleOf", 1)], lambda value: value),
    "range": (range, lambda value: range(value, -value, value or 1)),
    "Fraction": (Fraction, lambda value: Fraction(value, 3)),
    "Decimal": (Decimal, Decimal),
}


@pytest.mark.parametrize("place", INT_PLACES)
def test_ints_of_every_width_in_every_place(place: str) -> None:
    hint, made = INT_PLACES[place]
    both = BothWays(hint)
    for value in INTS:
        if place in ("range", "Fraction") and value.bit_length() > MAX_BITS:
            assert both.refuses(made(value)).endswith(f"ValueError: an int of more than {MAX_BITS} bits")
        else:
            assert same(both.arrives(made(value)), made(value)), value


@pytest.mark.parametrize("place", INT_PLACES)
def test_the_source_takes_what_64_bits_hold(place: str) -> None:
    hint, made = INT_PLACES[place]
    if place == "tagged union":  # either of two lists is left to the walk
        return
    for value in (-(2**63), -1, 0, 1, 2**63 - 1, 2**64 - 1):
        wide = place in ("range", "key of pairs") and value > 2**63  # its negative has more than 64 bits
        assert wide or BothWays(hint).taken(made(value)), value


def test_timedeltas_of_every_width() -> None:
    both = BothWays(timedelta)
    for value in INTS:
        if abs(value) < 2**66:
            assert same(both.arrives(timedelta(0, 0, value)), timedelta(0, 0, value))
    assert same(both.arrives(timedelta.min), timedelta.min)
    assert same(both.arrives(timedelta.resolution), timedelta.resolution)


FLOATS = [
    *(0.0, -0.0, math.inf, -math.inf, math.nan, -math.nan),
    *(5e-324, -5e-324, sys.float_info.min, sys.float_info.max, -sys.float_info.max, sys.float_info.epsilon),
    *(math.nextafter(sys.float_info.min, 0), math.nextafter(1, 0), math.nextafter(1, 2), 2.0**53, 2.0**63, 2.0**64),
    *(0.1, 1e22, 1e23, -1e-7, 3.4028235677973366e38, 1.401298464324817e-45),
]
FLOAT_PLACES: dict[str, tuple[Any, Any]] = {
    "float": (float, lambda value: value),
    "list": (list[float], lambda value: [value, value]),
    "tuple": (tuple[float, ...], lambda value: (value,)),
    "key": (dict[float, float], lambda value: {value: value}),
    "set": (set[float], lambda value: {value}),
    "dataclass": (Held, lambda value: Held(1, [value])),
    "Any": (Any, lambda value: {"a": [value], value: None}),
    "complex": (complex, lambda value: complex(value, -value)),
    "union": (float | int | None, lambda value: value),
    "tagged union": (list[float] | list[int], lambda value: [value]),
    "deque": (collections.deque[float], lambda value: collections.deque([value])),
}


@pytest.mark.parametrize("place", FLOAT_PLACES)
def test_floats_of_every_kind_in_every_place(place: str) -> None:
    hint, made = FLOAT_PLACES[place]
    both = BothWays(hint)
    for value in FLOATS:
        assert same(both.arrives(made(value)), made(value)), value
        assert both.taken(made(value)) or place == "tagged union"


TEXTS = ["", "\0", "a\0b", "\x7f", "\x80", "ÿ", "\u07ff", "\u0800", "\uffff", "\U00010000", "\U0010ffff", "\ufeff"]
TEXTS += ["👩‍👩‍👧", "🏳️‍🌈", "שלום", "مرحبا", "\u202eabc\u202c", "e\u0301", "\r\n\u2028", "'\"\\{}%", "日本語" * 100]
TEXTS += ["x" * length for length in (31, 32, 255, 256, 65535, 65536)]
TEXTS += ["ü" * length for length in (15, 16, 127, 128, 32767, 32768)]
TEXT_PLACES: dict[str, tuple[Any, Any]] = {
    "str": (str, lambda value: value),
    "list": (list[str], lambda value: [value]),
    "set": (set[str], lambda value: {value}),
    "key": (dict[str, int], lambda value: {value: 1}),
    "key of pairs": (dict[tuple[str], str], lambda value: {(value,): value}),
    "value": (dict[int, str], lambda value: {1: value}),
    "dataclass": (Text, Text),
    "TypedDict": (TextKeyed, lambda value: {"value": value}),
    "Any": (Any, lambda value: value),
    "within Any": (Any, lambda value: {value: [value]}),
    "union": (str | bytes | None, lambda value: value),
    "tagged union": (list[str] | list[int], lambda value: [value]),
    "constrained": (Annotated[str, asked("MaxLen", 10**6)], lambda value: value),
    "path": (pathlib.PurePosixPath, pathlib.PurePosixPath),
    "Counter": (collections.Counter[str], lambda value: collections.Counter({value: 1})),
}


@pytest.mark.parametrize("place", TEXT_PLACES)
def test_text_of_every_kind_in_every_place(place: str) -> None:
    hint, made = TEXT_PLACES[place]
    both = BothWays(hint)
    for value in TEXTS:
        assert same(both.arrives(made(value)), made(value)), value
        assert both.taken(made(value)) or place == "tagged union"


@pytest.mark.parametrize("place", TEXT_PLACES)
@pytest.mark.parametrize("text", ["\ud800", "ab\udc80", "\ud83d\ude00"], ids=ascii)
def test_lone_surrogates_are_refused_in_every_place(place: str, text: str) -> None:
    hint, made = TEXT_PLACES[place]
    refused = BothWays(hint).refuses(made(text))
    at = 2 if text.startswith("ab") else 0
    assert refused.endswith(f"got a lone surrogate at index {at}")


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 31, 32, 33, 255, 256, 257, 65535, 65536, 65537])
def test_fixed_tuples_and_records_next_to_long_values(length: int) -> None:
    """The heads of msgpack's arrays, maps, texts and bins change their form at these lengths."""
    row: Any = (b"x" * length, "x" * length, [None] * length, dict.fromkeys(range(length)))
    codec = BothWays(tuple[bytes, str, list[None], dict[int, None]]).codec
    assert codec.unpack_result(codec.pack_result(row)) == row
    if length < 256:
        kinds: Any = tuple[(int,) * length] if length else tuple[()]  # type: ignore[misc]
        assert same(BothWays(kinds).arrives((7,) * length), (7,) * length)


@pytest.mark.parametrize("exponent", [0, 1, 308, 309, 6144, 999_999_999, -999_999_999])
def test_decimals_of_every_size(exponent: int) -> None:
    for value in (Decimal((0, (1, 5), exponent)), Decimal((1, (0,), exponent)), Decimal((0, (9,) * 50, exponent))):
        assert same(BothWays(Decimal).arrives(value), value)
    assert same(BothWays(Decimal).arrives(Decimal("-Infinity")), Decimal("-Infinity"))
    for special in ("NaN", "-NaN", "sNaN", "NaN123"):
        assert same(BothWays(Decimal).arrives(Decimal(special)), Decimal(special))
    assert decimal.getcontext().prec == 28
