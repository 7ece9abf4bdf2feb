"""Collections, tuples and mappings: what is accepted, what it becomes, and where a fault is."""

import array
import collections
import collections.abc
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import msgpack  # type: ignore[import-untyped]  # it ships no types
import pytest

from tests.codec.both_ways import BothWays, same
from typedrpc.codec import CodecError, CommandCodec
from typedrpc.codec.containers import COLLECTION_TYPES, MAPPING_TYPES
from typedrpc.schema import COLLECTIONS, MAPPINGS, Schema, node_of

packb: Any = msgpack.packb


def codec_of(hint: Any) -> CommandCodec:
    return CommandCodec("Test.command", Schema((), node_of(hint)))


def trip(hint: Any, value: object) -> Any:
    codec = codec_of(hint)
    return codec.unpack_result(codec.pack_result(value))


class Pair(NamedTuple):
    x: int
    y: str


class Same(str):
    """Text that is equal to itself alone."""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class OwnList(list[int]):
    pass


class OwnSequence(Sequence[int]):
    def __getitem__(self, index: Any) -> Any:
        return [7, 8][index]

    def __len__(self) -> int:
        return 2


class OwnMapping(Mapping[str, int]):
    def __getitem__(self, key: str) -> int:
        return {"a": 1}[key]

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


class OwnIterable:
    def __iter__(self) -> Iterator[int]:
        return iter([1, 2])


@dataclass(frozen=True)
class Key:
    x: int


def numbers() -> Iterator[int]:
    yield from (1, 2)


Abc = collections.abc
ACCEPTED: list[tuple[Any, Any, Any]] = [
    (list[int], [1, 2], [1, 2]),
    (list[int], OwnList([1]), [1]),
    (list[int], [True, 2], [1, 2]),
    (list[list[int]], [[1], OwnList([2]), []], [[1], [2], []]),
    (tuple[int, ...], (1, 2), (1, 2)),
    (tuple[int, ...], (), ()),
    (tuple[int, str], (1, "a"), (1, "a")),
    (tuple[int, str], Pair(1, "a"), (1, "a")),
    (tuple[int, list[float]], (1, [1, 2.0]), (1, [1.0, 2.0])),
    (tuple[()], (), ()),
    (list[tuple[()]], [(), ()], [(), ()]),
    (list[tuple[int, str]], [(1, "a"), Pair(2, "b")], [(1, "a"), (2, "b")]),
    (list[tuple[int]], [(1,)], [(1,)]),
    (set[int], {1, 2}, {1, 2}),
    (set[int], set(), set()),
    (set[float], {1, 2.5}, {1.0, 2.5}),
    (set[tuple[int, str]], {(1, "a")}, {(1, "a")}),
    (frozenset[str], frozenset("ab"), frozenset("ab")),
    (set[frozenset[int]], {frozenset({1}), frozenset()}, {frozenset({1}), frozenset()}),
    (set[Key], {Key(1), Key(2)}, {Key(1), Key(2)}),
    (Abc.Sequence[int], [1, 2], [1, 2]),
    (Abc.Sequence[int], (1, 2), [1, 2]),
    (Abc.Sequence[int], range(3), [0, 1, 2]),
    (Abc.Sequence[int], b"ab", [97, 98]),
    (Abc.Sequence[int], array.array("i", [1, 2]), [1, 2]),
    (Abc.Sequence[int], collections.deque([1]), [1]),
    (Abc.Sequence[int], OwnSequence(), [7, 8]),
    (Abc.Sequence[str], "abc", ["a", "b", "c"]),
    (Abc.Sequence[Abc.Sequence[str]], ("ab", ["c"]), [["a", "b"], ["c"]]),
    (Abc.MutableSequence[int], bytearray(b"a"), [97]),
    (Abc.MutableSequence[int], [1], [1]),
    (Abc.Collection[int], {1}, [1]),
    (Abc.Collection[int], {1: 2}.values(), [2]),
    (Abc.Collection[int], (1,), [1]),
    (Abc.Iterable[int], numbers(), [1, 2]),
    (Abc.Iterable[int], [1], [1]),
    (Abc.Iterable[int], {1: "x"}, [1]),
    (Abc.Iterable[int], OwnIterable(), [1, 2]),
    (Abc.Iterable[str], "ab", ["a", "b"]),
    (Abc.Iterable[float], iter([1, 2.0]), [1.0, 2.0]),
    (list[Abc.Iterable[int]], [numbers(), (3,)], [[1, 2], [3]]),
    (Abc.Iterable[Abc.Iterable[int]], iter([numbers()]), [[1, 2]]),
    (Abc.Set[int], {1}, {1}),
    (Abc.Set[int], frozenset({1}), {1}),
    (Abc.Set[int], {1: 2}.keys(), {1}),
    (Abc.MutableSet[int], {1}, {1}),
    (dict[str, int], {"a": 1}, {"a": 1}),
    (dict[str, int], collections.OrderedDict(a=1), {"a": 1}),
    (dict[str, int], collections.Counter("a"), {"a": 1}),
    (dict[str, int], {"a": True}, {"a": 1}),
    (dict[int, str], {True: "x", 2: "y"}, {1: "x", 2: "y"}),
    (dict[float, str], {1: "x", 2.0: "y"}, {1.0: "x", 2.0: "y"}),
    (dict[bool, None], {True: None, False: None}, {True: None, False: None}),
    (dict[None, int], {None: 1}, {None: 1}),
    (dict[str | None, int], {None: 1, "a": 2}, {None: 1, "a": 2}),
    (dict[bytes, int], {b"a": 1}, {b"a": 1}),
    (dict[str, list[int]], {"a": [1], "b": []}, {"a": [1], "b": []}),
    (dict[str, tuple[int, ...]], {"a": (1,)}, {"a": (1,)}),
    (dict[tuple[int, str], int], {(1, "a"): 2}, {(1, "a"): 2}),
    (dict[tuple[int, str], int], {}, {}),
    (dict[tuple[int, ...], list[int]], {(): [], (1,): [2]}, {(): [], (1,): [2]}),
    (dict[frozenset[int], int], {frozenset({1}): 2}, {frozenset({1}): 2}),
    (dict[datetime, int], {datetime(2020, 1, 1): 2}, {datetime(2020, 1, 1): 2}),
    (dict[Key, Key], {Key(1): Key(2)}, {Key(1): Key(2)}),
    (dict[str | tuple[int, int], int], {"a": 1, (1, 2): 2}, {"a": 1, (1, 2): 2}),
    (Abc.Mapping[str, int], {"a": 1}, {"a": 1}),
    (Abc.Mapping[str, int], types.MappingProxyType({"a": 1}), {"a": 1}),
    (Abc.Mapping[str, int], OwnMapping(), {"a": 1}),
    (Abc.Mapping[tuple[int], int], types.MappingProxyType({(1,): 1}), {(1,): 1}),
    (Abc.MutableMapping[str, int], collections.defaultdict(int, a=1), {"a": 1}),
    (Abc.MutableMapping[str, int], collections.UserDict(a=1), {"a": 1}),
]


@pytest.mark.parametrize(("hint", "value", "back"), ACCEPTED, ids=[f"{i}-{h}" for i, (h, _, _) in enumerate(ACCEPTED)])
def test_what_fits_arrives_as_the_annotation_says(hint: Any, value: Any, back: Any) -> None:
    arrived = trip(hint, value)
    assert arrived == back
    assert type(arrived) is type(back)
    assert repr(arrived) == repr(back) or isinstance(back, set | frozenset)  # the types within are right too


REFUSED: list[tuple[Any, Any, str]] = [
    (list[int], (1,), "result: expected list[int], got tuple"),
    (list[int], {1}, "result: expected list[int], got set"),
    (list[int], range(3), "result: expected list[int], got range"),
    (list[int], [1, "2"], "result[1]: expected int, got str"),
    (list[list[int]], [[1], [2, None]], "result[1][1]: expected int, got None"),
    (list[str], "abc", "result: expected list[str], got str"),
    (tuple[int, ...], [1], "result: expected tuple[int, ...], got list"),
    (tuple[int, ...], (1, "2"), "result[1]: expected int, got str"),
    (tuple[int, str], (1,), "result: expected tuple[int, str], got tuple of 1 items"),
    (tuple[int, str], (1, "a", 2), "result: expected tuple[int, str], got tuple of 3 items"),
    (tuple[int, str], (1, 2), "result[1]: expected str, got int"),
    (tuple[int, str], [1, "a"], "result: expected tuple[int, str], got list"),
    (tuple[()], (1,), "result: expected tuple[()], got tuple of 1 items"),
    (set[int], frozenset({1}), "result: expected set[int], got frozenset"),
    (set[int], [1], "result: expected set[int], got list"),
    (set[int], {"a"}, "result{'a'}: expected int, got str"),
    (set[tuple[int, int]], {(1, "a")}, "result{tuple}[1]: expected int, got str"),
    (frozenset[int], {1}, "result: expected frozenset[int], got set"),
    (set[str], {Same("a"), Same("a")}, "result: expected set[str], got two elements that become one"),
    (set[tuple[str]], {(Same("a"),), (Same("a"),)}, "got two elements that become one"),
    (Abc.Sequence[int], {1}, "result: expected Sequence[int], got set"),
    (Abc.Sequence[int], numbers(), "result: expected Sequence[int], got generator"),
    (Abc.Sequence[int], "a", "result[0]: expected int, got str"),
    (Abc.MutableSequence[int], (1,), "result: expected MutableSequence[int], got tuple"),
    (Abc.Collection[int], numbers(), "result: expected Collection[int], got generator"),
    (Abc.Iterable[int], 5, "result: expected Iterable[int], got int"),
    (Abc.Iterable[int], iter([1, "x"]), "result[1]: expected int, got str"),
    (list[Abc.Iterable[int]], [iter([1, "x"])], "result[0][1]: expected int, got str"),
    (Abc.Set[int], [1], "result: expected AbstractSet[int], got list"),
    (Abc.MutableSet[int], frozenset({1}), "result: expected MutableSet[int], got frozenset"),
    (dict[str, int], [("a", 1)], "result: expected dict[str, int], got list"),
    (dict[str, int], types.MappingProxyType({"a": 1}), "result: expected dict[str, int], got mappingproxy"),
    (dict[str, int], {"a": "x"}, "result['a']: expected int, got str"),
    (dict[str, int], {1: 1}, "result[key 1]: expected str, got int"),
    (dict[str, dict[int, str]], {"a": {1: b""}}, "result['a'][1]: expected str, got bytes"),
    (dict[tuple[int], int], {(1,): "x"}, "result[tuple]: expected int, got str"),
    (dict[tuple[int], int], {("x",): 1}, "result[key tuple][0]: expected int, got str"),
    (dict[str, int], {Same("a"): 1, Same("a"): 2}, "result: expected dict[str, int], got two keys that become one"),
    (dict[tuple[str], int], dict.fromkeys([(Same("a"),), (Same("a"),)], 1), "got two keys that become one"),
    (dict[str, int], {"x" * 500: "y"}, "result['" + "x" * 59 + "]: expected int, got str"),
    (Abc.MutableMapping[str, int], OwnMapping(), "result: expected MutableMapping[str, int], got OwnMapping"),
    (Abc.Mapping[str, int], 5, "result: expected Mapping[str, int], got int"),
]


@pytest.mark.parametrize(
    ("hint", "value", "text"), REFUSED, ids=[f"{i}-{t}"[:70] for i, (_, _, t) in enumerate(REFUSED)]
)
def test_what_does_not_fit_is_refused_with_its_place(hint: Any, value: Any, text: str) -> None:
    with pytest.raises(CodecError) as caught:
        codec_of(hint).pack_result(value)
    assert text in str(caught.value)


BAD: list[tuple[Any, Any, str]] = [
    (list[int], {}, "result: expected list[int], got dict"),
    (list[int], [1, "2"], "result[1]: expected int, got str"),
    (list[int], 5, "result: expected list[int], got int"),
    (tuple[int, ...], "ab", "result: expected tuple[int, ...], got str"),
    (tuple[int, ...], [1, None], "result[1]: expected int, got None"),
    (tuple[int, str], [1], "result: expected tuple[int, str], got list of 1 items"),
    (tuple[int, str], [1, "a", 2], "result: expected tuple[int, str], got list of 3 items"),
    (tuple[int, str], "ab", "result: expected tuple[int, str], got str"),
    (tuple[()], [0], "result: expected tuple[()], got list of 1 items"),
    (list[tuple[()]], [[0]], "result[0]: expected tuple[()], got list of 1 items"),
    (set[int], [1, 1], "result: expected set[int], got two elements that become one"),
    (set[int], [1, "a"], "result{'a'}: expected int, got str"),
    (set[int | bool], [1, True], "two elements that become one"),
    (frozenset[int], [1, 1], "result: expected frozenset[int], got two elements that become one"),
    (Abc.Set[int], [2, 2], "result: expected AbstractSet[int], got two elements that become one"),
    (dict[str, int], [], "result: expected dict[str, int], got list"),
    (dict[str, int], {"a": 1, "b": "x"}, "result['b']: expected int, got str"),
    (dict[str, int], {1: 1}, "result[key 1]: expected str, got int"),
    (dict[str, list[int]], {"a": [None]}, "result['a'][0]: expected int, got None"),
    (dict[float, int], {1: 1, 2.0: 2, 3: "x"}, "result[3]: expected int, got str"),
    (dict[float, int], {2**53 + 1: 1}, "result[key 9007199254740993]: expected float, got 9007199254740993, which no"),
    (dict[tuple[int], int], {}, "result: expected dict[tuple[int], int], got dict"),
    (dict[tuple[int], int], [[[1], 2], [[1], 3]], "two keys that become one"),
    (
        dict[tuple[int], int],
        [[[1]]],
        "result: expected dict[tuple[int], int], got an array of something else than pairs",
    ),
    (dict[tuple[int], int], [5], "an array of something else than pairs"),
    (dict[tuple[int], int], [{"a": 1, "b": 2}], "an array of something else than pairs"),
    (dict[tuple[int], int], [[["x"], 2]], "result[key list][0]: expected int, got str"),
]


@pytest.mark.parametrize(("hint", "data", "text"), BAD, ids=[f"{i}-{text}"[:70] for i, (_, _, text) in enumerate(BAD)])
def test_bad_data_of_a_peer_is_refused_with_its_place(hint: Any, data: Any, text: str) -> None:
    with pytest.raises(CodecError) as caught:
        codec_of(hint).unpack_result(packb(data))
    assert text in str(caught.value)


@dataclass(frozen=True)
class Holder:
    items: list[int]


def test_elements_that_cannot_be_hashed_after_all() -> None:
    """A frozen dataclass has a hash, which fails where it holds a list."""
    for hint, data in ((set[Holder], [[1]]), (dict[Holder, int], [[[[1]], 2]])):
        with pytest.raises(CodecError, match="TypeError: unhashable type: 'list'"):
            codec_of(hint).unpack_result(packb(data))


def test_a_map_with_keys_that_cannot_be_hashed() -> None:
    with pytest.raises(CodecError, match="expected one msgpack value, got TypeError: unhashable type"):
        codec_of(dict[str, int]).unpack_result(b"\x81\x90\x01")


def test_a_list_within_itself_ends() -> None:
    loop: Any = []
    loop.append(loop)
    for hint in (list[list[list[int]]], Abc.Iterable[Abc.Iterable[int]], list[Abc.Sequence[str] | int]):
        with pytest.raises(CodecError):
            codec_of(hint).pack_result(loop)


def test_what_is_ready_is_handed_over_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[object] = []

    def packer(value: object) -> bytes:
        handed.append(value)
        return b"\xc0"

    for hint, value in (
        (list[int], [1]),
        (list[float], [1.0]),
        (dict[str, float], {"a": 1.0}),
        (tuple[int, str], (1, "a")),
        (list[list[int]], [[1]]),
        (list[tuple[int, int]], [(1, 2)]),
        (dict[str, list[int]], {"a": [1]}),
        (Abc.Sequence[int], (1,)),
        (list[int | None], [1, None]),
    ):
        codec = codec_of(hint)
        pack = codec.pack_result
        scope = pack.__globals__
        monkeypatch.setitem(scope, "take_packer", lambda: packer)
        monkeypatch.setitem(scope, "give_packer", lambda packer: None)
        pack(value)
        assert handed.pop() is value


def test_the_tables_of_schema_and_codec_agree() -> None:
    assert set(COLLECTION_TYPES) == set(COLLECTIONS)
    assert set(MAPPING_TYPES) == set(MAPPINGS)


# Containers of the collections module.


class OwnDeque(collections.deque[int]):
    pass


class OwnCounter(collections.Counter[str]):
    pass


class OwnOrdered(collections.OrderedDict[str, int]):
    pass


EXACT: list[tuple[Any, Any]] = [
    (deque[int], deque()),
    (deque[int], deque([1, 2])),
    (deque[deque[float]], deque([deque([1.0]), deque()])),
    (deque[bytes], deque([b"", bytes(70_000)])),
    (OrderedDict[str, int], OrderedDict()),
    (OrderedDict[str, int], OrderedDict([("b", 1), ("a", 2)])),
    (OrderedDict[tuple[int, int], str], OrderedDict([((2, 1), "b"), ((1, 2), "a")])),
    (OrderedDict[str, list[float]], OrderedDict([("x", [1.0])])),
    (defaultdict[str, int], defaultdict(None, {"a": 1})),
    (defaultdict[frozenset[int], int], defaultdict(None, {frozenset({1}): 1})),
    (Counter[str], Counter("hello")),
    (Counter[tuple[int, str]], Counter({(1, "a"): 2, (0, "b"): -1})),
    (Counter[int], Counter({5: 2**70})),
    (dict[str, Counter[str]], {"a": Counter()}),
]


@pytest.mark.parametrize(("hint", "value"), EXACT, ids=[str(hint) for hint, _ in EXACT])
def test_containers_of_collections_arrive_as_they_were(hint: Any, value: Any) -> None:
    both = BothWays(hint)
    assert same(both.arrives(value), value)
    assert both.taken(value) or value == Counter({5: 2**70})
    assert same(BothWays(list[hint]).arrives([value]), [value])
    assert same(BothWays(hint | None).arrives(value), value)


def test_the_default_of_a_defaultdict_stays_behind() -> None:
    arrived = BothWays(defaultdict[str, list[int]]).arrives(defaultdict(list, {"a": [1]}))
    assert (type(arrived), arrived.default_factory, arrived) == (defaultdict, None, {"a": [1]})


def test_the_length_that_a_deque_may_have_stays_behind() -> None:
    arrived = BothWays(deque[int]).arrives(deque([1, 2, 3], maxlen=2))
    assert (type(arrived), arrived.maxlen, list(arrived)) == (deque, None, [2, 3])


@pytest.mark.parametrize(
    ("hint", "value", "back"),
    [
        (deque[int], OwnDeque([1]), deque([1])),
        (deque[float], deque([1, 2.5]), deque([1.0, 2.5])),
        (Counter[str], OwnCounter("a"), Counter("a")),
        (dict[str, int], OrderedDict(a=1), {"a": 1}),
        (dict[str, int], Counter("a"), {"a": 1}),
        (OrderedDict[str, int], OwnOrdered(b=1, a=2), OrderedDict(b=1, a=2)),
        (Mapping[str, int], defaultdict(int, a=1), {"a": 1}),
        (Sequence[int], deque([1]), [1]),
        (Abc.Iterable[int], deque([1]), [1]),
    ],
)
def test_subclasses_and_relatives_arrive_as_the_annotation_says(hint: Any, value: Any, back: Any) -> None:
    assert same(BothWays(hint).arrives(value), back)


@pytest.mark.parametrize(
    ("hint", "value", "text"),
    [
        (deque[int], [1], ": expected deque[int], got list"),
        (deque[int], deque([1, "x"]), "[1]: expected int, got str"),
        (list[int], deque([1]), ": expected list[int], got deque"),
        (OrderedDict[str, int], {"a": 1}, ": expected OrderedDict[str, int], got dict"),
        (defaultdict[str, int], {"a": 1}, ": expected defaultdict[str, int], got dict"),
        (Counter[str], {"a": 1}, ": expected Counter[str], got dict"),
        (Counter[str], Counter({"a": 1.5}), "['a']: expected int, got float"),
        (Counter[str], Counter({1: 1}), "[key 1]: expected str, got int"),
    ],
)
def test_other_containers_are_refused(hint: Any, value: Any, text: str) -> None:
    assert BothWays(hint).refuses(value) == text


@pytest.mark.parametrize(
    ("hint", "data", "text"),
    [
        (deque[int], {}, ": expected deque[int], got dict"),
        (deque[int], ["x"], "[0]: expected int, got str"),
        (OrderedDict[str, int], [], ": expected OrderedDict[str, int], got list"),
        (OrderedDict[tuple[int, int], int], [[[1, 2], 1], [[1, 2], 2]], ": expected OrderedDict[tuple[int, int], int]"),
        (Counter[str], {"a": "b"}, "['a']: expected int, got str"),
        (defaultdict[str, int], {1: 1}, "[key 1]: expected str, got int"),
    ],
)
def test_bad_data_for_them_is_refused(hint: Any, data: Any, text: str) -> None:
    assert BothWays(hint).refuses_payload(packb(data)).startswith(text)


@pytest.mark.unmeasured
@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 31, 32, 255, 256, 65535, 65536])
def test_containers_of_every_length(length: int) -> None:
    pairs: Any = {str(index): index for index in range(length)}
    counted = range(length)
    values: list[tuple[Any, Any]] = [
        (list[int], [*counted]),
        (tuple[int, ...], tuple(counted)),
        (set[int], set(counted)),
        (deque[int], deque(counted)),
        (dict[str, int], pairs),
        (OrderedDict[str, int], OrderedDict(pairs)),
        (Counter[str], Counter(pairs)),
        (defaultdict[str, int], defaultdict(None, pairs)),
        (str, "x" * length),
        (str, "ü" * length),
        (bytes, b"x" * length),
        (Any, [*counted]),
        (Any, pairs),
    ]
    if length < 1000:
        values += [(dict[tuple[int, int], int], {(index, -index): index for index in counted})]
        values += [(dict[bytes | None, list[str]], {bytes([index % 256, index // 256]): [""] for index in counted})]
    for hint, value in values:
        codec = codec_of(hint)
        arrived = codec.unpack_result(codec.pack_result(value))
        assert type(arrived) is type(value)
        assert arrived == value


@pytest.mark.parametrize("head", ["list[", "dict[str, ", "tuple[float, ", "dict[tuple[str, int], "])
def test_what_nests_as_deep_as_a_schema_may(head: str) -> None:
    """Python takes 20 loops within each other, and 100 levels of indent."""
    depth = 30 if head.startswith("dict[tuple") else 60
    value: Any = 7
    for _ in range(depth):
        value = {"list[": [value], "dict[str, ": {"a": value}, "tuple[float, ": (0.5, value)}.get(
            head, {("a", 1): value}
        )
    assert trip(eval(head * depth + "int" + "]" * depth), value) == value
