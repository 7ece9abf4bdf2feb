"""What the checkers say of contracts with classes of other libraries."""

from typing import Annotated, Generic, Literal, TypeVar, assert_type, reveal_type

import attrs
import msgspec
import numpy as np
import pydantic
from annotated_types import Gt
from numpy.typing import NDArray

from typedrpc.codec import Shape
from typedrpc.command import rpc
from typedrpc.service import Service

T = TypeVar("T")


@attrs.define
class Point:
    x: int
    y: int = 0


@attrs.define
class Box(Generic[T]):
    item: T


class Line(msgspec.Struct):
    start: Point
    end: Point | None = None


class Person(pydantic.BaseModel):
    name: str
    age: Annotated[int, Gt(0)] = pydantic.Field(default=1, lt=150)


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]


@pydantic.dataclasses.dataclass
class Pair:
    a: int
    b: int = 0


Image = Annotated[NDArray[np.uint8], Shape(None, None, 3)]
Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]


class Everything(Service):
    @rpc
    def move(self, point: Point, by: Box[int]) -> Point:
        return Point(point.x + by.item)

    @rpc
    def join(self, lines: list[Line]) -> Line | None:
        return lines[0] if lines else None

    @rpc
    def find(self, person: Person, pair: Pair) -> Page[Person]:
        return Page[Person](items=[person])

    @rpc
    def blur(self, image: Image, by: np.float32) -> NDArray[np.uint8]:
        return image

    @rpc
    def invert(self, matrix: Matrix) -> Matrix | None:
        return matrix

    @rpc
    def when(self, days: NDArray[np.datetime64]) -> np.ndarray[tuple[Literal[2]], np.dtype[np.timedelta64]] | None:
        return None


def calls(everything: Everything, image: NDArray[np.uint8], floats: NDArray[np.float32], matrix: Matrix) -> None:
    assert_type(everything.move(Point(1), Box(2)), Point)
    assert_type(everything.join([Line(Point(1))]), Line | None)
    assert_type(everything.find(Person(name="a"), Pair(1)), Page[Person])
    assert_type(everything.blur(image, np.float32(1)), NDArray[np.uint8])
    assert_type(everything.invert(matrix), Matrix | None)
    reveal_type(everything.find(Person(name="a"), Pair(1)).items)  # R: list[Person] | list[Person]
    everything.move(Point("1"), Box(2))  # E: arg-type | reportArgumentType
    everything.move(Point(1), Box("2"))  # E: arg-type | reportArgumentType
    everything.move(1, Box(2))  # E: arg-type | reportArgumentType
    everything.join([Point(1)])  # E: list-item | reportArgumentType
    everything.find(Person(age=3), Pair(1))  # E: call-arg | reportCallIssue
    everything.find(Person(name="a"), Pair("1"))  # E: arg-type | reportArgumentType
    everything.blur(floats, np.float32(1))  # E: arg-type | reportArgumentType
    everything.blur(image, 1.0)  # E: arg-type | reportArgumentType
    everything.blur([[1]], np.float32(1))  # E: arg-type | reportArgumentType
    everything.invert(floats)  # E: arg-type | reportArgumentType
