"""Classes of exceptions taken apart into the fields that travel."""

from __future__ import annotations

import dataclasses
import functools
import socket
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from typing import Any, Final, Generic, TypeVar

import pytest

from typedrpc.schema import RecordNode, SignatureFaults, UnresolvedNames, errors_of

T = TypeVar("T")


class Plain(Exception):
    def __init__(self, item: str, left: int = 0, *, when: float | None = None) -> None:
        super().__init__(item, left, when)
        self.item, self.left, self.when = item, left, when


class Inherits(Plain):
    """Has the constructor of its base."""


class Empty(Exception):
    def __init__(self) -> None:
        super().__init__("nothing to say")


class NoneGiven(Exception):
    def __init__(self, nothing: None, /, first: list[Item]) -> None:
        self.nothing, self.first = nothing, first


@dataclass
class Item:
    name: str


@dataclass
class Data(Exception):
    item: Item
    tags: list[str] = field(default_factory=list)
    note: str = field(default="", kw_only=True)
    made: int = field(init=False, default=0)
    seed: InitVar[int] = 0


@dataclass(frozen=True, slots=True)
class Frozen(Exception):
    item: str


@dataclass
class MoreData(Data):
    more: int = 0


class OfData(MoreData):
    """Has the constructor of a dataclass."""


class OwnConstructor(Data):
    def __init__(self, code: int) -> None:
        super().__init__(Item(str(code)))
        self.code = code


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Wrapped(Exception):
    @wrapped
    def __init__(self, code: int) -> None:
        self.code = code


def node(cls: type[Exception]) -> RecordNode:
    (only,) = errors_of([cls], None)
    assert only.cls is cls
    assert only.name == cls.__name__
    return only


@pytest.mark.parametrize(
    ("cls", "fields"),
    [
        (Plain, ["item: str", "left?: int", "when=?: float | None"]),
        (Inherits, ["item: str", "left?: int", "when=?: float | None"]),
        (Empty, []),
        (NoneGiven, ["nothing: None", "first: list[Item]"]),
        (Data, ["item: Item", "tags?: list[str]", "note=?: str"]),
        (Frozen, ["item: str"]),
        (MoreData, ["item: Item", "tags?: list[str]", "note=?: str", "more=?: int"]),
        (OfData, ["item: Item", "tags?: list[str]", "note=?: str", "more=?: int"]),
        (OwnConstructor, ["code: int"]),
        (Wrapped, ["code: int"]),
    ],
)
def test_the_fields_are_what_the_constructor_takes(cls: type[Exception], fields: list[str]) -> None:
    """``=`` behind a field that is given by name, ``?`` behind one that may be left out."""
    found = [
        f"{one.name}{'=' if one.argument else ''}{'' if one.required else '?'}: {one.node}" for one in node(cls).fields
    ]
    assert found == fields


class Bare(Exception):
    pass


class Stars(Exception):
    def __init__(self, code: int, *args: str, **more: int) -> None: ...


class NoTypes(Exception):
    def __init__(self, code: int, text, more) -> None:  # type: ignore[no-untyped-def]  # what the test is about
        ...


class OfC(OSError):
    pass


class Generic_(Exception, Generic[T]):
    def __init__(self, value: T) -> None:
        self.value = value


class New(Exception):
    def __new__(cls, *args: Any) -> New:
        return super().__new__(cls)

    def __init__(self, code: int) -> None: ...


class Reserved(Exception):
    def __init__(self, args: int) -> None: ...


class Sockets(Exception):
    def __init__(self, peer: socket.socket, other: list[socket.socket]) -> None: ...


class Unreadable(Exception):
    def __init__(self, code: 1 / 0) -> None:  # type: ignore[valid-type]  # what the test is about
        ...


@dataclass
class DataSocket(Exception):
    peer: socket.socket


@dataclass
class DataFinal(Exception):
    peer: Final = 1


_WAYS = "give it an __init__ with annotated parameters, or make it a @dataclass"


@pytest.mark.parametrize(
    ("cls", "fault"),
    [
        (Bare, f"raises: Bare cannot travel: its constructor takes any arguments; {_WAYS}"),
        (OfC, f"raises: OfC cannot travel: its constructor takes any arguments; {_WAYS}"),
        (Stars, "raises: Stars cannot travel: its constructor takes *args and **more, and what travels needs a name; "),
        (
            NoTypes,
            "raises: NoTypes cannot travel: no annotation says the type of its constructor's 'text' and 'more'; ",
        ),
        (Generic_, "raises: Generic_ cannot travel: it is generic"),
        (New, "raises: New cannot travel: its __new__ is its own"),
        (
            Reserved,
            "raises: Reserved cannot travel: its field 'args' has the name of something that every exception has",
        ),
        (Unreadable, "raises: Unreadable cannot travel: an annotation in it cannot be evaluated: ZeroDivisionError"),
        (DataSocket, "raises, in DataSocket.peer: socket cannot travel: "),
        (DataFinal, "raises: DataFinal cannot travel: its field 'peer' is Final and says no type"),
    ],
)
def test_what_cannot_travel_is_refused_in_words(cls: type[Exception], fault: str) -> None:
    with pytest.raises(SignatureFaults) as caught:
        errors_of([cls], None)
    (only,) = caught.value.faults
    assert only.startswith(fault)


def test_the_faults_of_all_classes_are_told_together() -> None:
    with pytest.raises(SignatureFaults) as caught:
        errors_of([Bare, Plain, Sockets], None)
    places = [fault.partition(": ")[0] for fault in caught.value.faults]
    assert places == ["raises", "raises, in Sockets.peer", "raises, in Sockets.other, in list[socket]"]


def test_a_name_that_is_not_defined_yet_can_be_read_later() -> None:
    class Early(Exception):
        def __init__(self, code: Later) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(UnresolvedNames, match=r"raises, in Early: .*'Later' is not defined"):
        errors_of([Early], None)
    Early.__init__.__globals__["Later"] = int
    try:
        assert str(node(Early).fields[0].node) == "int"
    finally:
        del Early.__init__.__globals__["Later"]


def test_a_dataclass_of_exceptions_may_hold_another() -> None:
    @dataclasses.dataclass
    class Outer(Exception):
        inner: Frozen

    with pytest.raises(UnresolvedNames):
        errors_of([dataclasses.make_dataclass("Late", [("x", "Nowhere")], bases=(Exception,))], None)
    assert str(node(Outer).fields[0].node) == "Frozen"
