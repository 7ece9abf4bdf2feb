"""Arrays and scalars of numpy.

An array travels as a tuple of its shape and of the bytes of its elements, in C order, little-endian whatever the
machine: ``tuple[tuple[int, ...], memoryview]``. So one of 64 KiB and more travels beside the body: it is not copied if
it is contiguous and little-endian already, and it arrives in the buffer that it was read into. Where the type is a date
or a duration, whose unit the annotation does not say, the unit and how many of it make a step stand between the two:
``tuple[tuple[int, ...], str, int, memoryview]``.

What arrives is contiguous, in the machine's own byte order, and may be written to.

A scalar travels as the bool, int or float that it is equal to; a complex one as its two parts, a date or a duration as
unit, steps in a unit, and number of steps.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from io import BytesIO
from typing import Any, Final, Literal, TypeAlias, get_args, get_origin

import numpy as np

from typedrpc.schema.constraints import Shape
from typedrpc.schema.conversions import Conversion, Refused
from typedrpc.schema.local import LocalNames
from typedrpc.schema.records import shown

# Not "generic": numpy gives it up.
Unit: TypeAlias = Literal["Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as"]
Sizes: TypeAlias = "tuple[int | None, ...] | None"

MAX_DIMENSIONS: Final = 64
"""What numpy can hold."""

MAX_SIZE: Final = 2**62
MAX_STEP: Final = 2**31 - 1

_OF_RECEIVED: Final = type(BytesIO().getbuffer().obj)
"""What owns the memory of a large value that was received."""

_TIMES: Final[dict[type[np.generic], str]] = {np.datetime64: "M8", np.timedelta64: "m8"}
_KNOWN: Final[frozenset[type[np.generic]]] = frozenset(
    {
        *(np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64),
        *(np.float16, np.float32, np.float64, np.complex64, np.complex128),
        *_TIMES,
    }
)
"""The scalars that have the same size everywhere."""

_ADVICE: Final[tuple[tuple[type[np.generic], str], ...]] = (
    (np.object_, "it holds Python objects of any kind; use a list with their type in brackets"),
    (np.void, "a structured array is several arrays in one; send a dataclass that holds one for each field"),
    (np.str_, "use str, or list[str] for an array"),
    (np.bytes_, "use bytes, or list[bytes] for an array"),
)


def find(hint: Any, names: LocalNames | None) -> Conversion | None:
    """The conversion of an array type with its arguments, or of the class of a scalar.

    Raises:
        TypeError: It cannot travel, or does not say what it holds; the text says why.
    """
    cls = get_origin(hint) or hint
    if cls is np.ndarray:
        arguments = get_args(hint)
        dtype = arguments[1] if len(arguments) == 2 else None
        if get_origin(dtype) is not np.dtype:
            raise Refused("it does not say what it holds; write NDArray[np.float32], or another type of its elements")
        return _array(_scalar_class(get_args(dtype)[0]), _sizes(arguments[0]))
    if isinstance(cls, type) and issubclass(cls, np.generic):
        return _scalar(_scalar_class(cls))
    if isinstance(cls, type) and issubclass(cls, np.ndarray):
        raise Refused("only plain arrays travel; use NDArray, with the type of the elements in brackets")
    return None


def _scalar_class(cls: Any) -> type[np.generic]:
    if cls in _KNOWN:
        known: type[np.generic] = cls
        return known
    if not (isinstance(cls, type) and issubclass(cls, np.generic)):
        raise Refused("it does not say what it holds; name one type of the elements, np.float32 say")
    for base, advice in _ADVICE:
        if issubclass(cls, base):
            raise Refused(advice)
    raise Refused(
        f"how large a np.{cls.__name__} is, it does not say, or machines differ; use np.float64 or np.int64, say"
    )


def _sizes(shape: Any) -> Sizes:
    """What the first argument of ``np.ndarray`` says of the sizes: None for any number of them."""
    while hasattr(shape, "__value__"):  # NDArray itself has an alias here
        shape = shape.__value__
    items = get_args(shape)
    if shape is Any or (get_origin(shape) is tuple and len(items) == 2 and items[1] is Ellipsis):
        return None
    if get_origin(shape) is not tuple:
        raise Refused(
            f"nothing is known of the shape {shown(shape)}; write tuple[int, int], with an int for each dimension"
        )
    sizes: list[int | None] = []
    for item in items:
        if get_origin(item) is Literal and len(get_args(item)) == 1 and type(get_args(item)[0]) is int:
            sizes.append(get_args(item)[0])
        elif item is int or item is Any:
            sizes.append(None)
        else:
            raise Refused(
                f"nothing is known of the size {shown(item)}; write int, or put a Shape behind it in an Annotated"
            )
    return tuple(sizes)


def _array(scalar: type[np.generic], sizes: Sizes) -> Conversion:
    name = scalar.__name__.rstrip("_")
    text = f"NDArray[{name}]"
    if sizes is not None:
        items = ("int" if size is None else f"Literal[{size}]" for size in sizes)
        text = f"ndarray[tuple[{', '.join(items) or '()'}], {name}]"
    if scalar in _TIMES:
        times = _Times(scalar, sizes)
        return Conversion(np.ndarray, text, tuple[tuple[int, ...], Unit, int, memoryview], times.encode, times.decode)
    plain = _Plain(scalar, sizes)
    return Conversion(np.ndarray, text, tuple[tuple[int, ...], memoryview], plain.encode, plain.decode)


class _Array:
    """What all arrays have in common."""

    def __init__(self, scalar: type[np.generic], sizes: Sizes) -> None:
        self._scalar = scalar
        self._shape = None if sizes is None else Shape(*sizes)

    def taken(self, array: Any) -> tuple[tuple[int, ...], memoryview]:
        """Shape and bytes of an array."""
        # Where two of C's types have the same size, both have a class, and their arrays mix.
        if array.dtype.type is not self._scalar and array.dtype.newbyteorder("=") != self._scalar:
            raise TypeError(f"its elements are {array.dtype}")
        if "numpy.ma" in sys.modules and isinstance(array, np.ma.MaskedArray):
            raise TypeError("its mask would be lost; send it beside the array")
        self._check(array.shape)
        little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False, subok=False)
        return array.shape, memoryview(little.reshape(-1).view(np.uint8))

    def made(self, shape: tuple[int, ...], data: memoryview, dtype: np.dtype[Any]) -> Any:
        """The array with these bytes, which is in the buffer that they were read into if that is its own."""
        self._check(shape)
        if len(shape) > MAX_DIMENSIONS or not all(0 <= size < MAX_SIZE for size in shape):
            raise ValueError("such a shape is none")
        if math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError(f"{len(data)} bytes are not those of {math.prod(shape)} elements of {dtype}")
        owner = data.obj
        whole = type(owner) in (bytearray, _OF_RECEIVED) and len(memoryview(owner)) == len(data)
        buffer = memoryview(owner) if whole else bytearray(data)
        array = np.frombuffer(buffer, dtype.newbyteorder("<")).reshape(shape)
        if dtype.kind == "b" and (array.view(np.uint8) > 1).any():
            raise ValueError("a byte that is neither True nor False")
        return array.astype(dtype, copy=False)

    def _check(self, shape: tuple[int, ...]) -> None:
        if self._shape is not None and not self._shape.allows(shape):
            raise ValueError(f"its shape is {shape}"[:200])


class _Plain(_Array):
    """Arrays whose type says all."""

    def encode(self, array: Any) -> tuple[tuple[int, ...], memoryview]:
        return self.taken(array)

    def decode(self, wire: tuple[tuple[int, ...], memoryview]) -> Any:
        return self.made(*wire, np.dtype(self._scalar))


class _Times(_Array):
    """Arrays of dates or durations, each with a unit of its own."""

    def encode(self, array: Any) -> tuple[tuple[int, ...], str, int, memoryview]:
        shape, data = self.taken(array)
        unit, step = np.datetime_data(array.dtype)
        return shape, unit, step, data

    def decode(self, wire: tuple[tuple[int, ...], str, int, memoryview]) -> Any:
        shape, unit, step, data = wire
        return self.made(shape, data, _time_type(self._scalar, unit, step))


def _time_type(scalar: type[np.generic], unit: str, step: int) -> np.dtype[Any]:
    """The type with this unit, which is one of `Unit`: numpy reads it as a text, and must not be given any other."""
    if not 1 <= step <= MAX_STEP:
        raise ValueError("such a step is none")
    return np.dtype(f"{_TIMES[scalar]}[{step}{unit}]")


def _scalar(cls: type[Any]) -> Conversion:
    name = cls.__name__.rstrip("_")
    if cls in _TIMES:
        return _time(cls)
    kind = np.dtype(cls).kind
    if kind == "b":
        return Conversion(cls, name, bool, bool, cls)
    if kind in "iu":
        return Conversion(cls, name, int, int, _integer(cls))
    if kind == "f":
        return Conversion(cls, name, float, float, _float(cls))
    part = _float(np.float32 if cls is np.complex64 else np.float64)
    return Conversion(
        cls,
        name,
        tuple[float, float],
        lambda value: (float(value.real), float(value.imag)),
        lambda data: cls(complex(part(data[0]), part(data[1]))),
    )


def _time(cls: type[Any]) -> Conversion:
    def encode(value: Any) -> tuple[str, int, int]:
        return *np.datetime_data(value.dtype), int(value.view(np.int64))

    def decode(data: tuple[str, int, int]) -> Any:
        unit, step, count = data
        return np.int64(count).view(_time_type(cls, unit, step))

    return Conversion(cls, cls.__name__, tuple[Unit, int, int], encode, decode)


def _integer(cls: type[Any]) -> Callable[[int], Any]:
    limits = np.iinfo(cls)
    least, most = int(limits.min), int(limits.max)

    def decode(value: int) -> Any:
        if not least <= value <= most:
            raise ValueError(f"it does not fit into {cls.__name__}")
        return cls(value)

    return decode


def _float(cls: type[Any]) -> Callable[[float], Any]:
    def decode(value: float) -> Any:
        with np.errstate(over="ignore"):
            made = cls(value)
        if float(made) != value and value == value:
            raise ValueError(f"no {cls.__name__} is equal to it")
        return made

    return decode
