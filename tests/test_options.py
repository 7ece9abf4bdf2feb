from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import pytest

from typedrpc.options import (
    DEFAULT_OPTIONS,
    MAX_METADATA,
    MAX_METADATA_ENTRIES,
    UNCHANGED,
    CallOptions,
    changed,
    checked_metadata,
)


def with_changes(options: CallOptions = DEFAULT_OPTIONS, **changes: Any) -> CallOptions:
    return changed(options, **{"timeout": UNCHANGED, "metadata": UNCHANGED, "on_metadata": UNCHANGED} | changes)


class Name(StrEnum):
    TRACE = "trace"


class Blob(bytes):
    pass


def test_options_are_changed_one_by_one() -> None:
    assert with_changes() is DEFAULT_OPTIONS
    timed = with_changes(timeout=2)
    assert timed == CallOptions(timeout=2)
    marked = with_changes(timed, metadata={"a": "b"}, on_metadata=print)
    assert marked == CallOptions(2, {"a": "b"}, print)
    assert with_changes(marked, timeout=None) == CallOptions(None, {"a": "b"}, print)
    assert with_changes(marked, on_metadata=None, metadata={}) == timed


def test_metadata_is_an_immutable_copy() -> None:
    given = {"a": "b"}
    kept = checked_metadata(given)
    given["a"] = "c"
    assert kept == {"a": "b"}
    assert isinstance(kept, MappingProxyType)


def test_subclasses_become_what_they_are_subclasses_of() -> None:
    kept = checked_metadata({Name.TRACE: Name.TRACE, "blob": Blob(b"x")})
    assert kept == {"trace": "trace", "blob": b"x"}
    assert {type(item) for pair in kept.items() for item in pair} == {str, bytes}


@pytest.mark.parametrize(
    "metadata",
    [
        {"é": "x" * (MAX_METADATA - 2)},
        {"a": bytes(MAX_METADATA - 1)},
        {"": ""},
        {str(number): "" for number in range(MAX_METADATA_ENTRIES)},
        MappingProxyType({"a": "b"}),
    ],
)
def test_metadata_within_the_limits(metadata: Mapping[str, str | bytes]) -> None:
    assert checked_metadata(metadata) == metadata


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"é": "x" * (MAX_METADATA - 1)}, "at most 8192 bytes together"),
        ({"a": bytes(MAX_METADATA)}, "at most 8192 bytes together"),
        ({"a": "é" * (MAX_METADATA // 2)}, "at most 8192 bytes together"),
        ({str(number): "" for number in range(MAX_METADATA_ENTRIES + 1)}, "at most 64 entries"),
        ({"a": "\ud800"}, "must be UTF-8, got '\\\\ud800' with a lone surrogate"),
        ({"\udfff": ""}, "must be UTF-8"),
    ],
)
def test_metadata_that_has_a_wrong_value(metadata: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        checked_metadata(metadata)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (None, "metadata must be a mapping of str to str or bytes, got NoneType"),
        ([("a", "b")], "got list"),
        ({1: "a"}, "the keys of metadata must be str, got int"),
        ({b"a": "a"}, "the keys of metadata must be str, got bytes"),
        ({"a": 1}, "the values of metadata must be str or bytes, got int for 'a'"),
        ({"a": bytearray()}, "got bytearray for 'a'"),
        ({"a": None}, "got NoneType for 'a'"),
    ],
)
def test_metadata_of_wrong_types(metadata: object, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        checked_metadata(metadata)


def test_on_metadata_is_a_function() -> None:
    with pytest.raises(TypeError, match="on_metadata must be None or a function, got dict"):
        with_changes(on_metadata={})


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf")])
def test_time_outs_that_are_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout must be None or a number of seconds from 0 up"):
        with_changes(timeout=timeout)
