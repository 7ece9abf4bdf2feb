"""Exceptions that are declared, as maps of their fields."""

import datetime
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from typedrpc.codec import SEGMENT_THRESHOLD, CodecError, ErrorCodec, pack_plain, unpack_plain
from typedrpc.schema import errors_of


class OutOfStock(Exception):
    def __init__(self, item: str, left: int = 0, *, note: str = "") -> None:
        super().__init__(f"{item}: only {left} left")
        self.item, self.left, self.note = item, left, note


class Gaps(Exception):
    def __init__(self, a: int = 1, b: int = 2, c: int = 3, /, d: int = 4) -> None:
        self.a, self.b, self.c, self.d = a, b, c, d


@dataclass
class Data(Exception):
    raw: bytes
    view: bytearray
    at: datetime.datetime
    choice: int | str | list[int]
    numbers: Sequence[int]


class Unprintable:
    def __repr__(self) -> str:
        raise AssertionError("no")


class Picky(Exception):
    def __init__(self, code: int) -> None:
        if code < 0:
            raise RuntimeError("no such code" if code == -1 else Unprintable())
        self._code = code

    @property
    def code(self) -> int:
        if self._code == 13:
            raise KeyError("unlucky")
        return self._code


class Forgets(Exception):
    def __init__(self, code: int) -> None: ...


@dataclass
class Deep(Exception):
    below: "list[Deep]"


def codec(cls: type[Exception]) -> ErrorCodec:
    return ErrorCodec("Shop.buy", errors_of([cls], None)[0])


def packed(cls: type[Exception], error: Exception) -> Any:
    return unpack_plain(codec(cls).pack(error))


def test_fields_travel_by_name() -> None:
    assert packed(OutOfStock, OutOfStock("apple", note="x")) == {"item": "apple", "left": 0, "note": "x"}


def test_an_exception_is_made_by_its_constructor() -> None:
    error = codec(OutOfStock).unpack(codec(OutOfStock).pack(OutOfStock("apple", 3, note="x")))
    assert type(error) is OutOfStock
    assert vars(error) == {"item": "apple", "left": 3, "note": "x"}
    assert error.args == ("apple: only 3 left",)


def test_values_of_many_kinds_there_and_back() -> None:
    at = datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.UTC)
    large = bytes(range(256)) * (SEGMENT_THRESHOLD // 128)
    given = Data(large, bytearray(large), at, [1, 2], (1, 1 << 100))
    data = codec(Data).pack(given)
    assert isinstance(data, bytes)
    error = codec(Data).unpack(data)
    assert isinstance(error, Data)
    assert (error.raw, error.at, error.choice, error.numbers) == (large, at, [1, 2], [1, 1 << 100])
    assert type(error.view) is bytearray
    assert error.view == large
    assert error.args == (large, error.view, at, [1, 2], [1, 1 << 100])


def test_a_derived_class_travels_as_the_declared_one() -> None:
    class More(OutOfStock):
        def __init__(self) -> None:
            super().__init__("apple", 3)
            self.more = 1

    assert packed(OutOfStock, More()) == {"item": "apple", "left": 3, "note": ""}


def test_fields_that_are_not_known_and_fields_that_are_not_there() -> None:
    error = codec(OutOfStock).unpack(pack_plain({"item": "apple", "added": [1, {"a": None}], 5: 6}))
    assert isinstance(error, OutOfStock)
    assert vars(error) == {"item": "apple", "left": 0, "note": ""}


@pytest.mark.parametrize("given", [{}, {"a": 5}, {"a": 5, "b": 6}, {"a": 5, "d": 8}, {"d": 8}])
def test_arguments_after_a_gap_are_given_by_name(given: dict[str, int]) -> None:
    error = codec(Gaps).unpack(pack_plain(given))
    assert vars(error) == {"a": 1, "b": 2, "c": 3, "d": 4, **given}


@pytest.mark.parametrize(
    ("cls", "data", "text"),
    [
        (OutOfStock, pack_plain({"left": 1}), "error OutOfStock: expected a field 'item', got none"),
        (OutOfStock, pack_plain({"item": 1}), "error OutOfStock.item: expected str, got int"),
        (OutOfStock, pack_plain({"item": "a", "left": "b"}), "error OutOfStock.left: expected int, got str"),
        (OutOfStock, pack_plain(["apple"]), "error OutOfStock: expected a map of fields, got list"),
        (OutOfStock, pack_plain(None), "error OutOfStock: expected a map of fields, got None"),
        (OutOfStock, b"", "error OutOfStock: expected one msgpack value, got ValueError"),
        (OutOfStock, b"\x80\x80", "error OutOfStock: expected one msgpack value, got ExtraData"),
        (Data, pack_plain({"raw": b"", "view": 1}), "error Data.view: expected bytearray, got int"),
        (Data, b"\x81\xa3raw\xc7\x04\x03\x00\x00\x00\x00", "error Data.raw: expected bytes, got segment 0"),
        (Picky, pack_plain({"code": -1}), "error Picky: expected fields that it takes, got RuntimeError: no such code"),
        (Picky, pack_plain({"code": -2}), "error Picky: expected fields that it takes, got RuntimeError"),
        (Gaps, pack_plain({"a": 5, "c": 6}), "error Gaps: expected fields that it takes, got TypeError"),
        (Deep, b"\x81\xa5below" + b"\x91" * 2000 + b"\x90", "error Deep: expected one msgpack value, got "),
    ],
)
def test_what_cannot_be_read_says_where(cls: type[Exception], data: bytes, text: str) -> None:
    with pytest.raises(CodecError) as caught:
        codec(cls).unpack(data)
    assert str(caught.value).startswith(f"Shop.buy: {text}")


def deep(levels: int) -> Deep:
    error = Deep([])
    for _ in range(levels):
        error = Deep([error])
    return error


def test_data_on_which_the_stack_runs_out() -> None:
    reads = codec(Deep)
    (fingerprint,) = packed(Deep, Deep([]))[""].values()
    data = b"\x82\xa0\x81\xa5below\xc4\x08" + fingerprint + b"\xa5below" + b"\x91" * 400 + b"\x90"
    assert isinstance(reads.unpack(data), Deep)
    limit, depth = sys.getrecursionlimit(), len(inspect.stack(0))
    sys.setrecursionlimit(depth + 100)
    try:
        with pytest.raises(CodecError, match="error Deep: expected a value that nests less deeply"):
            reads.unpack(data)
    finally:
        sys.setrecursionlimit(limit)


@dataclass
class Before:
    x: int
    y: int


@dataclass
class After:
    y: int
    x: int


def of_field(hint: Any) -> type[Exception]:
    """A class of exceptions with a field of this type."""

    class Failure(Exception):
        def __init__(self, value: Any) -> None:
            self.value = value

    Failure.__init__.__annotations__["value"] = hint
    return Failure


@pytest.mark.parametrize(
    ("theirs", "value", "ours"),
    [
        (Before, Before(1, 2), After),
        (list[Before], [Before(1, 2)], list[After]),
        (dict[str, Before], {"a": Before(1, 2)}, dict[str, After]),
        (Before | None, Before(1, 2), After | None),
        (tuple[int, Before], (0, Before(1, 2)), tuple[int, After]),
        (list[int] | list[str], ["a"], list[bytes] | list[str]),
        (Before, Before(1, 2), tuple[int, int]),
        (tuple[int, int], (1, 2), Before),
    ],
)
def test_one_version_of_a_type_is_not_taken_for_another(theirs: Any, value: object, ours: Any) -> None:
    """The fields of a record, and the members of a union, travel by their place."""
    writes, reads = codec(of_field(theirs)), codec(of_field(ours))
    data = writes.pack(of_field(theirs)(value))
    assert vars(writes.unpack(data)) == {"value": value}
    with pytest.raises(CodecError, match=r"error Failure\.value: expected .*, got"):
        reads.unpack(data)


@pytest.mark.parametrize(
    ("theirs", "value", "ours", "read"),
    [
        (int, 1, float, 1.0),
        (int, 1, int | None, 1),
        (list[int], [1], list[float], [1.0]),
        (list[int], [1], list[int | None], [1]),
        (dict[str, bytes], {"a": b"b"}, dict[str, bytes], {"a": b"b"}),
    ],
)
def test_a_type_that_its_values_tell_may_become_wider(theirs: Any, value: object, ours: Any, read: object) -> None:
    data = codec(of_field(theirs)).pack(of_field(theirs)(value))
    assert unpack_plain(data) == {"value": value}
    assert vars(codec(of_field(ours)).unpack(data)) == {"value": read}


def changed(error: Exception, **fields: object) -> Exception:
    vars(error).update(fields)
    return error


@pytest.mark.parametrize(
    ("cls", "error", "text"),
    [
        (OutOfStock, changed(OutOfStock("a"), item=1), "error OutOfStock.item: expected str, got int"),
        (OutOfStock, changed(OutOfStock("a"), left=None), "error OutOfStock.left: expected int, got None"),
        (OutOfStock, OutOfStock("\ud800"), "error OutOfStock.item: expected str, got "),
        (Forgets, Forgets(1), "error Forgets.code: expected an attribute that keeps what the constructor was given, "),
        (
            Picky,
            Picky(13),
            "error Picky.code: expected an attribute that keeps what the constructor was given, got Key",
        ),
        (Deep, deep(100_000), "error Deep"),
    ],
)
def test_what_cannot_be_packed_says_where(cls: type[Exception], error: Exception, text: str) -> None:
    with pytest.raises(CodecError) as caught:
        codec(cls).pack(error)
    assert str(caught.value).startswith(f"Shop.buy: {text}")
