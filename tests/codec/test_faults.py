"""Values in words: never long, never on two lines, and never anybody's code."""

from typing import Any

import pytest

from typedrpc.codec.faults import MAX_TEXT, Fault, cut, short, told, type_name


class Nasty:
    def __repr__(self) -> str:
        raise AssertionError("nobody asks for it")

    __str__ = __repr__


class Text(str):
    __repr__ = Nasty.__repr__


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (True, "True"),
        (1.5, "1.5"),
        (12, "12"),
        (2**256, "an int of 257 bits"),
        (10**10_000, "an int of 33220 bits"),
        ("a\nb", r"'a\nb'"),
        (b"\0", r"b'\x00'"),
        (Nasty(), "Nasty"),
        (Text("a"), "Text"),
        ([1], "list"),
        ("x" * 10**6, "'" + "x" * 156 + "..."),
        (b"x" * 10**6, "b'" + "x" * 155 + "..."),
    ],
    ids=lambda value: type(value).__name__,
)
def test_short(value: Any, text: str) -> None:
    assert short(value) == text


def test_texts_are_cut_to_one_line() -> None:
    assert cut("a\nb") == "a b"
    assert cut("x" * MAX_TEXT) == "x" * MAX_TEXT
    assert cut("x" * (MAX_TEXT + 1)) == "x" * (MAX_TEXT - 3) + "..."
    assert type_name(None) == "None"
    assert type_name(5) == "int"
    assert len(type_name(type("X" * 10_000, (), {})())) == MAX_TEXT


def test_the_path_is_built_from_the_inside_out() -> None:
    fault = Fault("int", "str").within(".price").within("[3]")
    assert fault.path == "[3].price"
    assert fault.depth == 2
    assert str(fault) == "[3].price: expected int, got str"


def test_told() -> None:
    assert told(ValueError("no\nway")) == "ValueError: no way"
    assert told(KeyError()) == "KeyError: "
    assert told(ValueError("x" * 10**6)) == "ValueError: " + "x" * 145 + "..."
    assert told(ValueError(Nasty())) == "ValueError"
