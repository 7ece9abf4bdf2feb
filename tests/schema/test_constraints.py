"""What ``Annotated`` asks of values: which constraints are known, which types they fit, what is refused."""

import datetime
import decimal
import uuid
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal, NewType, Optional, cast

import annotated_types as at
import pytest
from typing_extensions import Doc, TypeAliasType, TypedDict

from typedrpc.schema import ConstrainedNode, Schema, SignatureFaults, node_of
from typedrpc.schema.constraints import MAX_TEXT


def is_even(value: int) -> bool:
    return value % 2 == 0


class Checker:
    """Callable, and without a name."""

    def __call__(self, value: object) -> bool:
        return True

    def __repr__(self) -> str:
        return "Checker()"


Positive = Annotated[int, at.Gt(0)]
Number = NewType("Number", int)
Alias = TypeAliasType("Alias", Annotated[int, at.Ge(1)])

UNDERSTOOD: list[tuple[Any, str]] = [
    (Annotated[int, at.Gt(0)], "Annotated[int, Gt(0)]"),
    (Annotated[int, at.Ge(0)], "Annotated[int, Ge(0)]"),
    (Annotated[int, at.Lt(0)], "Annotated[int, Lt(0)]"),
    (Annotated[int, at.Le(0)], "Annotated[int, Le(0)]"),
    (Annotated[float, at.Gt(0.5)], "Annotated[float, Gt(0.5)]"),
    (Annotated[bool, at.Ge(True)], "Annotated[bool, Ge(True)]"),
    (Annotated[str, at.Ge("a")], "Annotated[str, Ge('a')]"),
    (Annotated[bytes, at.Ge(b"a")], "Annotated[bytes, Ge(b'a')]"),
    (
        Annotated[datetime.datetime, at.Ge(datetime.datetime(2000, 1, 1))],
        "Annotated[datetime, Ge(datetime.datetime(2000, 1, 1, 0, 0))]",
    ),
    (Annotated[int, at.Interval(gt=0, le=10)], "Annotated[int, Gt(0), Le(10)]"),
    (Annotated[int, at.Interval(ge=0, lt=10)], "Annotated[int, Ge(0), Lt(10)]"),
    (Annotated[int, at.Interval()], "int"),
    (Annotated[int, at.MultipleOf(3)], "Annotated[int, MultipleOf(3)]"),
    (Annotated[float, at.MultipleOf(0.5)], "Annotated[float, MultipleOf(0.5)]"),
    (Annotated[str, at.MinLen(1)], "Annotated[str, MinLen(1)]"),
    (Annotated[str, at.MaxLen(5)], "Annotated[str, MaxLen(5)]"),
    (Annotated[bytes, at.Len(1, 5)], "Annotated[bytes, MinLen(1), MaxLen(5)]"),
    (Annotated[bytearray, at.Len(2)], "Annotated[bytearray, MinLen(2)]"),
    (Annotated[memoryview, at.MaxLen(2)], "Annotated[memoryview, MaxLen(2)]"),
    (Annotated[list[int], at.MinLen(1)], "Annotated[list[int], MinLen(1)]"),
    (Annotated[deque[int], at.MinLen(1)], "Annotated[deque[int], MinLen(1)]"),
    (Annotated[tuple[int, ...], at.MaxLen(1)], "Annotated[tuple[int, ...], MaxLen(1)]"),
    (Annotated[tuple[int, str], at.MaxLen(2)], "Annotated[tuple[int, str], MaxLen(2)]"),
    (Annotated[dict[str, int], at.MinLen(1)], "Annotated[dict[str, int], MinLen(1)]"),
    (Annotated[Counter[str], at.MinLen(1)], "Annotated[Counter[str], MinLen(1)]"),
    (Annotated[Mapping[str, int], at.MinLen(1)], "Annotated[Mapping[str, int], MinLen(1)]"),
    (Annotated[int, at.Predicate(is_even)], "Annotated[int, Predicate(is_even)]"),
    (Annotated[int, at.Predicate(Checker())], "Annotated[int, Predicate(Checker())]"),
    (Annotated[str, at.Predicate(str.isdigit)], "Annotated[str, Predicate(str.isdigit)]"),
    (at.LowerCase[str], "Annotated[str, Predicate(str.islower)]"),
    (Annotated[list[int], at.Predicate(bool)], "Annotated[list[int], Predicate(bool)]"),
    (Annotated[decimal.Decimal, at.Gt(decimal.Decimal(0))], "Annotated[Decimal, Gt(Decimal('0'))]"),
    (Annotated[Fraction, at.MultipleOf(Fraction(1, 2))], "Annotated[Fraction, MultipleOf(Fraction(1, 2))]"),
    (Annotated[datetime.date, at.Ge(datetime.date.min)], "Annotated[date, Ge(datetime.date(1, 1, 1))]"),
    (Annotated[Number, at.Gt(0)], "Annotated[int, Gt(0)]"),
    # Nested
    (Annotated[Positive, at.Lt(10)], "Annotated[int, Gt(0), Lt(10)]"),
    (Annotated[Alias, at.Lt(10)], "Annotated[int, Ge(1), Lt(10)]"),
    (list[Positive], "list[Annotated[int, Gt(0)]]"),
    (Annotated[list[Positive], at.MinLen(1)], "Annotated[list[Annotated[int, Gt(0)]], MinLen(1)]"),
    (dict[Annotated[str, at.MinLen(1)], Positive], "dict[Annotated[str, MinLen(1)], Annotated[int, Gt(0)]]"),
    (Optional[Positive], "Annotated[int, Gt(0)] | None"),  # noqa: UP045
    (Annotated[int | None, at.Predicate(Checker())], "Annotated[int | None, Predicate(Checker())]"),
    # Passed over
    (Annotated[int, "words", 3, None, object(), [], {"ge": 0}], "int"),
    (Annotated[int, Doc("words"), at.doc("words")], "int"),
    (Annotated[float, at.Unit("m")], "float"),
    (Annotated[int, "words", at.Gt(0), "more"], "Annotated[int, Gt(0)]"),
    (Annotated[int, at.Gt], "int"),
]


@pytest.mark.parametrize(("hint", "text"), UNDERSTOOD, ids=[str(i) for i, _ in enumerate(UNDERSTOOD)])
def test_what_is_understood(hint: Any, text: str) -> None:
    node = node_of(hint)
    assert str(node) == text
    copy = Schema.from_data(Schema((), node).to_data()).result
    assert copy == node
    assert str(copy) == text


@dataclass
class Point:
    x: int


class Options(TypedDict):
    x: int


NO_LENGTH = "has no length for MinLen(1)"
NOT_COMPARABLE = "cannot be compared with the argument of Gt(0); in a union, write it at the member"

REFUSED: list[tuple[Any, str]] = [
    (Annotated[int, at.MinLen(1)], f"int {NO_LENGTH}"),
    (Annotated[Point, at.MinLen(1)], f"Point {NO_LENGTH}"),
    (Annotated[int | str, at.MinLen(1)], f"int | str {NO_LENGTH}"),
    (Annotated[int, at.Len(1, 2)], f"int {NO_LENGTH}"),
    (Annotated[str, at.MultipleOf(2)], "str is no number for MultipleOf(2)"),
    (Annotated[int, at.MultipleOf(0)], "nothing is a multiple of 0"),
    (Annotated[list[int], at.Gt(0)], f"list[int] {NOT_COMPARABLE}"),
    (Annotated[int | None, at.Gt(0)], f"int | None {NOT_COMPARABLE}"),
    (Annotated[Point, at.Gt(0)], f"Point {NOT_COMPARABLE}"),
    (Annotated[Any, at.Gt(0)], f"Any {NOT_COMPARABLE}"),
    (Annotated[None, at.Gt(0)], f"None {NOT_COMPARABLE}"),
    (Annotated[Literal[1, 2], at.Gt(0)], f"Literal[1, 2] {NOT_COMPARABLE}"),
    (Annotated[int, at.Interval(gt=0), at.MinLen(1)], f"int {NO_LENGTH}"),
    (Annotated[datetime.datetime, at.Timezone(None)], "nothing here checks Timezone; use a Predicate"),
    (Annotated[int, at.Predicate(3)], "the predicate 3 cannot be called"),  # type: ignore[arg-type]
    (Annotated[int, at.Gt("a")], "int does not go with the argument of Gt('a'): '<' not supported between"),
    (Annotated[str, at.Le(3)], "str does not go with the argument of Le(3)"),
    (Annotated[int, at.MultipleOf(cast(Any, "a"))], "int does not go with the argument of MultipleOf('a')"),
    (Annotated[str, at.MinLen(cast(Any, "a"))], "the argument of MinLen('a') is no int"),
    (list[Annotated[int, at.MinLen(1)]], "in list[Annotated[int, MinLen(min_length=1)]]: Annotated[int, MinLen"),
]


@pytest.mark.parametrize(("hint", "words"), REFUSED, ids=[str(i) for i, _ in enumerate(REFUSED)])
def test_what_is_refused(hint: Any, words: str) -> None:
    with pytest.raises(SignatureFaults) as caught:
        node_of(hint, "parameter 'x'")
    (fault,) = caught.value.faults
    assert fault.startswith("parameter 'x'")
    assert words in fault


def test_a_constraint_has_its_argument_beside_the_text() -> None:
    node = node_of(Annotated[int, at.Gt(0), at.Predicate(is_even)])
    assert isinstance(node, ConstrainedNode)
    assert [(one.kind, one.text, one.argument) for one in node.constraints] == [
        ("gt", "0", 0),
        ("predicate", "is_even", is_even),
    ]
    copy = Schema.from_data(Schema((), node).to_data()).result
    assert isinstance(copy, ConstrainedNode)
    assert [one.argument for one in copy.constraints] == [None, None]


def test_a_long_argument_is_cut() -> None:
    node = node_of(Annotated[str, at.Lt("x" * 1000)])
    assert isinstance(node, ConstrainedNode)
    assert len(node.constraints[0].text) == MAX_TEXT
    assert node.constraints[0].argument == "x" * 1000
    assert Schema.from_data(Schema((), node).to_data()).result == node


def test_the_order_of_constraints_is_that_of_the_annotation() -> None:
    assert node_of(Annotated[int, at.Gt(0), at.Lt(9)]) != node_of(Annotated[int, at.Lt(9), at.Gt(0)])


def test_constraints_of_a_converted_type_are_for_its_values() -> None:
    limit = uuid.UUID(int=7)
    node = node_of(Annotated[uuid.UUID, at.Ge(limit)])
    assert str(node) == f"Annotated[UUID, Ge(UUID('{limit}'))]"


def test_of_a_type_that_cannot_travel_the_constraints_say_nothing() -> None:
    with pytest.raises(SignatureFaults) as caught:
        node_of(Annotated[object, at.Gt(0)])
    assert len(caught.value.faults) == 1
    with pytest.raises(SignatureFaults) as caught:
        node_of(Annotated[int | object, at.Gt(0)])
    assert len(caught.value.faults) == 1


def test_what_only_pydantic_checks_is_refused_outside_of_a_model() -> None:
    pydantic = pytest.importorskip("pydantic", reason="pydantic is not here: pip install 'typedrpc[adapters]'")
    with pytest.raises(SignatureFaults, match="nothing here checks the pattern of a Field; use a Predicate"):
        node_of(Annotated[str, pydantic.Field(pattern="^a")])
    model = pydantic.create_model("Model", name=(Annotated[str, pydantic.Field(pattern="^a", max_length=3)], ...))
    node: Any = node_of(model)
    assert str(node.fields[0].node) == "Annotated[str, MaxLen(3)]"
