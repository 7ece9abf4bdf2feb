"""Arrays and scalars of numpy: every type of element, every layout, and what a peer may not say."""

import json
import math
import tracemalloc
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

import pytest
from typing_extensions import TypeAliasType

from tests.schema.adapters.trips import codec_of, faults, refused, refused_on_arrival, trip, trip_either_way
from typedrpc import ArgumentValueError, Server, Service, connect, rpc
from typedrpc.codec import Segmented, Shape
from typedrpc.schema import Schema, node_of, schema_of
from typedrpc.wire import Kind, encode

pytest.importorskip("numpy", reason="numpy is not here: pip install 'typedrpc[adapters]'")
import annotated_types
import numpy as np
from numpy.typing import NDArray

ScalarT = TypeVar("ScalarT", bound=np.generic)
unbound: Any = ScalarT
AnyShape = TypeAliasType("AnyShape", tuple[Any, ...])
ndarray: Any = np.ndarray  # with arguments that type checkers refuse too

INTEGERS: list[Any] = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
NUMBERS: list[Any] = [*INTEGERS, np.float16, np.float32, np.float64, np.complex64, np.complex128]
PLAIN = [np.bool_, *NUMBERS]
TIMES = ["M8[ns]", "M8[D]", "M8[25s]", "m8[us]", "m8[Y]"]
LARGE = 64 << 20


def hint_of(scalar: Any) -> Any:
    return NDArray[scalar]


def same(arrived: Any, sent: Any) -> None:
    """What arrives is equal in values, shape and type, and fit to be worked with."""
    assert type(arrived) is np.ndarray
    assert arrived.dtype == sent.dtype.newbyteorder("=")
    assert arrived.shape == sent.shape
    assert arrived.tobytes() == sent.astype(sent.dtype.newbyteorder("=")).tobytes()
    assert arrived.flags.c_contiguous
    assert arrived.flags.aligned
    assert arrived.flags.writeable
    assert arrived.dtype.isnative


@pytest.mark.unmeasured
@pytest.mark.parametrize("scalar", PLAIN, ids=lambda scalar: scalar.__name__)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (5,), (2, 3), (0, 3), (3, 0, 2), (2, 3, 4), (70_000,), (300, 300)])
def test_every_type_in_every_shape(scalar: Any, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(1).integers(0, 100, shape).astype(scalar)
    same(trip(hint_of(scalar), array), array)


@pytest.mark.parametrize("dtype", TIMES)
@pytest.mark.parametrize("shape", [(), (0,), (4,), (2, 2), (20_000,)])
def test_dates_and_durations_keep_their_unit(dtype: str, shape: tuple[int, ...]) -> None:
    array: Any = np.full(math.prod(shape), 5).astype("i8").view(dtype).reshape(shape)
    if shape:
        array[:1] = np.array("NaT", dtype)
    same(trip(hint_of(array.dtype.type), array), array)


@pytest.mark.parametrize("scalar", [np.float32, np.float64, np.complex64, np.float16])
def test_special_values(scalar: Any) -> None:
    array = np.array([math.nan, math.inf, -math.inf, -0.0, np.finfo(scalar).tiny], scalar)
    same(trip(hint_of(scalar), array), array)


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "columns first": lambda array: np.asfortranarray(array),
    "transposed": lambda array: array.T,
    "every second": lambda array: array[::2, ::3],
    "backwards": lambda array: array[::-1, ::-1],
    "repeated": lambda array: np.broadcast_to(array[0], (4, array.shape[1])),
    "big-endian": lambda array: array.astype(array.dtype.newbyteorder(">")),
    "little-endian": lambda array: array.astype(array.dtype.newbyteorder("<")),
    "unaligned": lambda array: np.frombuffer(b"x" + array.tobytes(), array.dtype, offset=1).reshape(array.shape),
    "read-only": lambda array: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape),
    "a matrix": lambda array: array.view(np.matrix),
}


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sizes", [(6, 9), (200, 300)])
def test_every_layout(layout: str, sizes: tuple[int, int]) -> None:
    array = LAYOUTS[layout](np.arange(math.prod(sizes), dtype=np.float64).reshape(sizes))
    arrived = trip_either_way(NDArray[np.float64], array)
    assert np.array_equal(arrived, array)
    same(arrived, np.asarray(array))


def test_on_the_wire_it_is_little_endian_in_c_order() -> None:
    array = np.asfortranarray(np.array([[1, 2], [3, 4]], ">u2"))
    payload = codec_of(NDArray[np.uint16]).pack_result(array)
    assert payload == b"\x92\x92\x02\x02\xc4\x08" + b"\1\0\2\0\3\0\4\0"


def test_a_large_array_is_sent_without_a_copy() -> None:
    array = np.zeros((1024, LARGE // 8192))
    codec = codec_of(NDArray[np.float64])
    codec.pack_result(array)  # compiles
    tracemalloc.start()
    try:
        frame = encode(Kind.RESPONSE, 0, 1, codec.pack_result(array))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert isinstance(frame, tuple)
    assert np.shares_memory(np.frombuffer(frame[-1], np.uint8), array)


def test_a_large_array_arrives_in_the_buffer_that_it_was_read_into() -> None:
    codec = codec_of(NDArray[np.uint8])
    payload = codec.pack_result(np.zeros(LARGE, np.uint8))
    assert isinstance(payload, Segmented)
    received = bytearray(LARGE)
    array = codec.unpack_result(Segmented(payload.body, [received]))
    array[5] = 7
    assert received[5] == 7


def test_a_small_array_owns_what_it_holds() -> None:
    codec = codec_of(NDArray[np.uint8])
    payload = codec.pack_result(np.zeros(5, np.uint8))
    codec.unpack_result(payload)[0] = 1
    assert codec.unpack_result(payload)[0] == 0


def test_a_buffer_that_is_not_all_its_own_is_copied() -> None:
    whole = bytearray(b"abcd")
    conversion: Any = node_of(NDArray[np.uint8]).conversion  # type: ignore[attr-defined]
    array = conversion.decode(((2,), memoryview(whole)[1:3]))
    array[0] = 0
    assert whole == b"abcd"


@pytest.mark.parametrize(
    ("hint", "value", "said"),
    [
        (NDArray[np.float32], np.zeros(3), "TypeError: its elements are float64"),
        (NDArray[np.float64], np.zeros(3, "i8"), "TypeError: its elements are int64"),
        (NDArray[np.int64], np.zeros(3, "M8[s]"), "TypeError: its elements are datetime64[s]"),
        (NDArray[np.datetime64], np.zeros(3, "m8[s]"), "TypeError: its elements are timedelta64[s]"),
        (NDArray[np.float64], np.zeros(3, object), "TypeError: its elements are object"),
        (NDArray[np.float64], np.ma.masked_array([1.0, 2.0], [True, False]), "TypeError: its mask would be lost"),
        (np.ndarray[tuple[int, int], np.dtype[np.float64]], np.zeros(3), "ValueError: its shape is (3,)"),
        (np.ndarray[tuple[int], np.dtype[np.float64]], np.zeros((3, 1)), "ValueError: its shape is (3, 1)"),
        (np.ndarray[tuple[Literal[3], int], np.dtype[np.float64]], np.zeros((2, 1)), "ValueError: its shape is (2, 1)"),
    ],
)
def test_type_and_shape_are_checked_before_anything_is_sent(hint: Any, value: object, said: str) -> None:
    assert said in refused(hint, value)


@pytest.mark.parametrize("value", [1.0, [1.0], b"", None, np.float64(1), memoryview(b"")])
def test_only_arrays_are_arrays(value: object) -> None:
    assert refused(NDArray[np.float64], value).startswith("result: expected NDArray[float64], got ")


Image = Annotated[NDArray[np.uint8], Shape(4, None, 3)]


def test_a_shape_is_checked_on_both_sides() -> None:
    for columns in (0, 1, 50_000):
        array = np.ones((4, columns, 3), np.uint8)
        same(trip(Image, array), array)
    for shape in ((4, 5), (3, 5, 3), (4, 5, 4), (4, 5, 3, 1), ()):
        array = np.zeros(shape, np.uint8)
        expected = "result: expected Annotated[NDArray[uint8], Shape(4, None, 3)], got "
        assert refused(Image, array).startswith(expected)
        assert refused_on_arrival(Image, NDArray[np.uint8], array).startswith(expected)
    matrix = np.ndarray[tuple[int, Literal[2]], np.dtype[np.float64]]
    same(trip(matrix, np.zeros((5, 2))), np.zeros((5, 2)))
    assert "its shape is (2, 5)" in refused_on_arrival(matrix, NDArray[np.float64], np.zeros((2, 5)))


def test_shapes_compare_and_print() -> None:
    assert Shape(1, None) == Shape(1, None) != Shape(1)
    assert hash(Shape(1, None)) == hash(Shape(1, None))
    assert repr(Shape(480, None)) == "Shape(480, None)"
    assert Shape().allows(())
    for wrong in (-1, 1.0, "3", True):
        with pytest.raises(TypeError, match="Shape takes sizes"):
            Shape(wrong)  # type: ignore[arg-type]
    assert node_of(Image) == node_of(Image)
    assert node_of(Image) != node_of(NDArray[np.uint8])


def test_its_schema_travels() -> None:
    def function(image: Image, days: NDArray[np.datetime64], by: np.float32) -> np.complex64:
        return np.complex64(by)

    schema = schema_of(function, method=False)
    arrived = Schema.from_data(json.loads(json.dumps(schema.to_data())))
    assert arrived == schema
    assert arrived.fingerprint == schema.fingerprint


def test_other_constraints_stand_beside_a_shape() -> None:
    def is_finite(array: Any) -> bool:
        return bool(np.isfinite(array).all())

    hint = Annotated[NDArray[np.float64], Shape(None), annotated_types.Predicate(is_finite), annotated_types.MinLen(1)]
    same(trip(hint, np.ones(3)), np.ones(3))
    assert "got " in refused(hint, np.array([math.nan]))
    assert "got " in refused(hint, np.ones(0))


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (NDArray[np.float32], "NDArray[float32]"),
        (NDArray[np.bool_], "NDArray[bool]"),
        (np.ndarray[Any, np.dtype[np.int8]], "NDArray[int8]"),
        (np.ndarray[tuple[int, ...], np.dtype[np.int8]], "NDArray[int8]"),
        (np.ndarray[tuple[int, Any], np.dtype[np.int8]], "ndarray[tuple[int, int], int8]"),
        (np.ndarray[tuple[()], np.dtype[np.int8]], "ndarray[tuple[()], int8]"),
        (Image, "Annotated[NDArray[uint8], Shape(4, None, 3)]"),
        (np.float32, "float32"),
        (np.datetime64, "datetime64"),
    ],
)
def test_how_it_prints(hint: Any, text: str) -> None:
    assert str(node_of(hint)) == text


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (np.ndarray, "it does not say what it holds; write NDArray[np.float32]"),
        (np.ndarray[Any, Any], "it does not say what it holds"),
        (np.ndarray[Any, np.dtype[Any]], "it does not say what it holds; name one type of the elements"),
        (ndarray[Any, np.dtype[unbound]], "it does not say what it holds; name one type of the elements"),
        (NDArray[np.object_], "it holds Python objects of any kind"),
        (NDArray[np.void], "a structured array is several arrays in one; send a dataclass"),
        (NDArray[np.str_], "use str, or list[str] for an array"),
        (np.bytes_, "use bytes, or list[bytes] for an array"),
        (NDArray[np.floating[Any]], "it does not say"),
        (NDArray[np.number], "how large a np.number is, it does not say, or machines differ"),
        (np.longdouble, "how large a np.longdouble is, it does not say, or machines differ"),
        (ndarray[int, np.dtype[np.int8]], "nothing is known of the shape int"),
        (ndarray[tuple[int, str], np.dtype[np.int8]], "nothing is known of the size str"),
        (np.ndarray[tuple[Literal[1, 2]], np.dtype[np.int8]], "nothing is known of the size Literal[1, 2]"),
        (np.matrix, "only plain arrays travel"),
        (np.random.Generator, "its attributes have no declared types"),
        (dict[NDArray[np.int8], int], "the key NDArray[int8] cannot be hashed"),
        (Annotated[list[int], Shape(3)], "list[int] has no shape; only arrays have"),
        (Annotated[int, Shape(3)], "int has no shape; only arrays have"),
    ],
)
def test_what_cannot_travel(hint: Any, text: str) -> None:
    assert text in faults(hint)


Sent = tuple[tuple[int, ...], memoryview]
SentTimes = tuple[tuple[int, ...], str, int, memoryview]


@pytest.mark.parametrize(
    ("hint", "sent_as", "value"),
    [
        (NDArray[np.int32], Sent, ((3,), memoryview(bytes(11)))),
        (NDArray[np.int32], Sent, ((3,), memoryview(bytes(16)))),
        (NDArray[np.int32], Sent, ((-1,), memoryview(b""))),
        (NDArray[np.int32], Sent, ((-1, -3), memoryview(bytes(12)))),
        (NDArray[np.int32], Sent, ((2**62,), memoryview(bytes(12)))),
        (NDArray[np.int32], Sent, ((2**61, 2**61, 0), memoryview(b""))),
        (NDArray[np.int32], Sent, ((2**5000,) * 60, memoryview(b""))),
        (NDArray[np.int32], Sent, ((1,) * 65, memoryview(bytes(4)))),
        (NDArray[np.int32], Sent, ((2**70_000, 0), memoryview(b""))),
        (NDArray[np.bool_], Sent, ((3,), memoryview(b"\0\1\2"))),
        (NDArray[np.datetime64], SentTimes, ((1,), "s],O", 1, memoryview(bytes(8)))),
        (NDArray[np.datetime64], SentTimes, ((1,), "B", 1, memoryview(bytes(8)))),
        (NDArray[np.datetime64], SentTimes, ((1,), "s", 0, memoryview(bytes(8)))),
        (NDArray[np.datetime64], SentTimes, ((1,), "s", 2**31, memoryview(bytes(8)))),
        (NDArray[np.datetime64], SentTimes, ((1,), "generic", 1, memoryview(bytes(8)))),
        (np.int8, int, 128),
        (np.uint64, int, -1),
        (np.uint64, int, 2**64),
        (np.float32, float, 0.1),
        (np.float16, float, 1e10),
        (np.complex64, tuple[float, float], (0.0, 1e300)),
        (np.bool_, int, 1),
        (np.datetime64, tuple[str, int, int], ("s", 1, 2**63)),
        (np.datetime64, tuple[str, int, int], ("s],O", 1, 1)),
    ],
)
def test_what_a_peer_may_not_say(hint: Any, sent_as: Any, value: object) -> None:
    assert "expected" in refused_on_arrival(hint, sent_as, value)


def test_an_empty_array_with_a_huge_size_costs_nothing() -> None:
    payload = codec_of(Sent).pack_result(((0, 2**50), memoryview(b"")))
    assert codec_of(NDArray[np.int8]).unpack_result(payload).shape == (0, 2**50)


SCALARS = [
    *(scalar(value) for scalar in NUMBERS for value in (0, 1, 100)),
    *(kind(edge) for kind in INTEGERS for edge in (np.iinfo(kind).min, np.iinfo(kind).max)),
    *(
        kind(value)
        for kind in (np.float16, np.float32, np.float64)
        for value in (0.1, -0.0, math.inf, np.finfo(kind).max)
    ),
    *(np.complex64(0.1 + 2j), np.complex128(0.1 - 2j), np.bool_(True), np.bool_(False)),
    *(np.datetime64("2024-02-29T12:00:00.000001"), np.datetime64("2024-02", "M"), np.datetime64("NaT", "s")),
    *(np.timedelta64(5, "D"), np.timedelta64(7, ("s", 25)), np.timedelta64("NaT", "ns")),
]


@pytest.mark.parametrize("value", SCALARS, ids=repr)
def test_scalars(value: Any) -> None:
    arrived = trip(type(value), value)
    assert type(arrived) is type(value)
    assert arrived.dtype == value.dtype
    assert arrived.tobytes() == value.tobytes()


def test_nan_is_a_float_of_every_width() -> None:
    for scalar in (np.float16, np.float32, np.float64):
        assert np.isnan(trip(scalar, scalar(math.nan)))


def test_scalars_are_not_the_builtin_types() -> None:
    assert refused(np.float32, 1.5) == "result: expected float32, got float"
    assert refused(np.int64, np.int32(1)) == "result: expected int64, got int32"
    assert refused(np.bool_, True) == "result: expected bool, got bool"
    assert trip_either_way(float, np.float64(1.5)) == 1.5  # for the type checkers too it is one
    assert trip(dict[np.int64, np.float32], {np.int64(1): np.float32(2)}) == {1: 2}


def test_unions_tell_them_apart() -> None:
    hint = NDArray[np.float32] | NDArray[np.int64] | np.float32 | list[float] | bytes | str | None
    values: tuple[Any, ...] = (
        np.ones(3, "f4"),
        np.ones(30_000, "i8"),
        np.float32(1),
        [1.0],
        b"x",
        bytes(70_000),
        "x",
        None,
    )
    for value in values:
        arrived = trip_either_way(hint, value)
        assert type(arrived) is type(value)
        assert np.array_equal(arrived, value)
        assert not isinstance(value, np.ndarray) or arrived.dtype == value.dtype
    optional = NDArray[np.float32] | None
    assert trip(optional, None) is None
    same(trip(optional, np.ones(3, "f4")), np.ones(3, "f4"))


def test_numpy_itself_may_be_of_either_sort() -> None:
    """``NDArray`` is an alias of its own kind in newer versions."""
    plain = np.ndarray[tuple[Any, ...], np.dtype[np.uint8]]
    assert node_of(NDArray[np.uint8]) == node_of(plain)
    assert node_of(ndarray[AnyShape, np.dtype[np.uint8]]) == node_of(plain)
    same(trip(Annotated[plain, Shape(2)], np.zeros(2, np.uint8)), np.zeros(2, np.uint8))


class Lab(Service):
    @rpc
    def scale(self, image: NDArray[np.float32], by: np.float32) -> NDArray[np.float32]:
        image *= by  # it may be written to
        return image

    @rpc
    def mean(self, image: Annotated[NDArray[np.uint8], Shape(None, None, 3)]) -> list[np.float64]:
        return list(image.mean(axis=(0, 1)))


def test_over_a_socket() -> None:
    with Server(Lab(), url="tcp://127.0.0.1:0") as server, connect(Lab, server.url) as lab:
        for size in (0, 10, 1000):
            image = np.arange(size * 1000, dtype=np.float32).reshape(size, 1000)
            same(lab.scale(image, np.float32(2)), image * 2)
        assert lab.mean(np.full((2, 4, 3), 7, np.uint8)) == [7.0, 7.0, 7.0]
        with pytest.raises(ArgumentValueError, match=r"argument 'image': expected Annotated\[NDArray\[uint8\], Shape"):
            lab.mean(np.zeros((2, 2), np.uint8))
        future = lab.scale.submit(image := np.ones((1000, 1000), np.float32), np.float32(3))
        image[:] = 5
        same(future.result(30), np.full((1000, 1000), 3, np.float32))
