"""A coverage-guided fuzzer of the codec: whatever a peer sends, only the codec's own errors come out.

::

    make fuzz                                   # half a minute, and half a minute of the protocol
    make fuzz FUZZ_SECONDS=7200
    python benchmarks/fuzz_codec.py --seconds 600 --corpus folder
    python benchmarks/fuzz_codec.py crash-0123abcd        # what a finding does, with its traceback

The first byte of an input chooses the type, the second what is unpacked; the others are the payload. It is a finding
when anything but the documented error is raised, when the generated source takes a payload otherwise than the walk,
when the value that arrived cannot be sent back, and when one input takes more than 10 seconds or 2 GiB. A corpus that
is kept makes the next run start where this one has ended.

Needs atheris (the extra ``fuzz``), which comes for some versions of CPython on Linux and macOS alone.

Exit code: 0 when nothing was found, libFuzzer's otherwise; 2 without atheris.
"""

import argparse
import collections
import enum
import sys
import tempfile
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from importlib import import_module
from ipaddress import IPv4Address, IPv6Network
from pathlib import Path, PurePosixPath, PureWindowsPath
from random import Random
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypeVar
from uuid import UUID

import msgpack  # type: ignore[import-untyped]  # it ships no types
from typing_extensions import TypedDict

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

try:
    atheris: Any = import_module("atheris")
except ImportError:
    print("the fuzzer needs atheris: pip install 'typedrpc[fuzz]', on a version of CPython that it comes for")
    sys.exit(2)

with atheris.instrument_imports(include=["typedrpc"]):
    from typedrpc.codec import CodecError, Payload, Segmented
    from typedrpc.errors import ArgumentError

from tests.codec.both_ways import BothWays, same  # noqa: E402
from tests.codec.invented import asked  # noqa: E402

packb: Any = msgpack.packb
ItemT = TypeVar("ItemT")


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Mode(enum.IntFlag):
    A = 1
    B = 4


@dataclass
class Tree:
    value: int
    children: "list[Tree]" = field(default_factory=list)
    parent: "Tree | None" = None


@dataclass(frozen=True)
class Box(Generic[ItemT]):
    item: ItemT
    data: bytes = b""


class Place(NamedTuple):
    x: int
    y: float = 0.0


class Movie(TypedDict):
    title: str
    year: NotRequired[int]
    more: "NotRequired[list[Movie]]"


EXAMPLES: list[tuple[Any, Any]] = [
    (int | str | bytes | float | bool | None, 2**70),
    (Any, {"a": [1, 2.5, None, {"b": b"x"}], 5: True}),
    (Tree, Tree(1, [Tree(2)], Tree(3))),
    (Movie, {"title": "x", "year": 1, "more": [{"title": "y"}]}),
    (Box[int] | Box[str] | Place | list[float], Box("x")),
    (dict[tuple[int, str], set[Place]], {(1, "a"): {Place(1)}}),
    (list[datetime | date | time | timedelta], [datetime(2024, 1, 1), date(2024, 1, 1), time(1), timedelta(1)]),
    (tuple[Decimal, Fraction, complex, range, UUID], (Decimal(1), Fraction(1, 3), 1j, range(3), UUID(int=5))),
    (list[PurePosixPath | PureWindowsPath | IPv4Address | IPv6Network], [PurePosixPath("/a"), IPv4Address("1.2.3.4")]),
    (dict[Decimal, collections.deque[bytearray]], {Decimal(1): collections.deque([bytearray(b"x")])}),
    (collections.OrderedDict[Colour, memoryview], collections.OrderedDict({Colour.RED: memoryview(b"x")})),
    (collections.Counter[frozenset[int]], collections.Counter([frozenset({1})])),
    (collections.defaultdict[str, Access | Mode | None], collections.defaultdict(None, a=Access.READ, b=Mode.A)),
    (Literal["a", 1, True, b"x"] | Colour, Colour.BLUE),
    (list[Annotated[int, asked("Ge", 0), asked("MultipleOf", 3)] | Annotated[str, asked("MinLen", 1)]], [3, "x"]),
    (list[bytes] | dict[bytes, Any], [b"x" * 70_000, b"y"]),
]
# Two sides of one result: the body alone, and a body with segments beside it.
WAYS = ("result", "arguments", "segments")


def instrumented(unpack: Any) -> None:
    """Lets the fuzzer see which lines of generated source run."""
    for name, value in list(unpack.__globals__.items()):
        if isinstance(value, types.FunctionType) and value.__code__.co_filename.startswith("<typedrpc"):
            unpack.__globals__[name] = atheris.instrument_func(value)


def targets() -> list[BothWays]:
    """The codecs, with their generated source under the eyes of the fuzzer."""
    found = [BothWays(hint) for hint, _ in EXAMPLES]
    for both in found:
        for function in (both.codec.unpack_result, both.codec.unpack_arguments, both.unpack_source):
            instrumented(function)
        both.codec.unpack_result = atheris.instrument_func(both.codec.unpack_result)
        both.codec.unpack_arguments = atheris.instrument_func(both.codec.unpack_arguments)
        both.unpack_source = atheris.instrument_func(both.unpack_source)
    return found


def examples(found: list[BothWays]) -> Iterator[bytes]:
    """Inputs to begin with: good payloads of every type."""
    for index, (both, (_, value)) in enumerate(zip(found, EXAMPLES, strict=True)):
        for way, payload in enumerate((both.codec.pack_result(value), both.codec.pack_arguments(value))):
            body = payload.body if isinstance(payload, Segmented) else payload
            yield bytes([index, 2 if isinstance(payload, Segmented) else way]) + bytes(body)


def attack(found: list[BothWays], data: bytes) -> None:
    """Unpacks one input. Whatever this raises is a finding."""
    if len(data) < 2:
        return
    both, way = found[data[0] % len(found)], WAYS[data[1] % len(WAYS)]
    payload: Payload = Segmented(data[2:], [b"x" * 70_000, b"y"]) if way == "segments" else data[2:]
    try:
        if way == "arguments":
            (value,), _ = both.codec.unpack_arguments(payload)
        else:
            value = both.received(payload)
    except (ArgumentError, CodecError):
        return
    try:
        again = both.codec.unpack_result(both.codec.pack_result(value))
    except CodecError as error:
        if "nests too deeply" not in str(error) and "msgpack can hold" not in str(error):
            raise
    else:
        assert same(again, value), (again, value)


LEAVES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**63,
    1.5,
    float("nan"),
    "",
    "a",
    "UTC",
    "\0",
    b"",
    b"x",
    [],
    {},
    {"a": 1},
    [0, 1],
    [1, [1]],
)
EXTENSIONS = (msgpack.ExtType(1, b"\x01" + bytes(9)), msgpack.ExtType(2, bytes(20)), msgpack.ExtType(3, bytes(4)))


def changed(value: Any, random: Random) -> Any:
    """msgpack data with one change somewhere in it."""
    if isinstance(value, list) and value and random.random() < 0.8:
        at = random.randrange(len(value))
        match random.randrange(6):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return value[:at] + value[random.randrange(len(value)) :]
            case _:
                return [*value[:at], changed(value[at], random), *value[at + 1 :]]
    if isinstance(value, dict) and value and random.random() < 0.8:
        key = random.choice([*value])
        rest = {other: item for other, item in value.items() if other is not key}
        return rest if random.random() < 0.2 else rest | {key: changed(value[key], random)}
    match random.randrange(4):
        case 0:
            return random.choice(EXTENSIONS)
        case 1:
            return [value]
        case _:
            return random.choice(LEAVES)


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Changes bytes, or what they stand for: most changed bytes are no msgpack any more, and go no further."""
    random = Random(seed)
    if random.random() < 0.5:
        try:
            value = msgpack.unpackb(data[2:], strict_map_key=False)
            new = data[:2] + packb(changed(value, random))
        except Exception:  # no msgpack, or keys that cannot be sent back
            new = data
        if new != data and len(new) <= max_size:
            return bytes(new)
    return bytes(atheris.Mutate(data, max_size))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=int, default=60, help="how long it runs (%(default)s)")
    parser.add_argument("--corpus", type=Path, help="where inputs that found something new are kept")
    parser.add_argument("inputs", nargs="*", type=Path, help="inputs that are run once, instead of fuzzing")
    options = parser.parse_args(arguments)
    found = targets()
    for one in options.inputs:
        attack(found, one.read_bytes())
    if options.inputs:
        return
    with tempfile.TemporaryDirectory() as folder:
        seeds = Path(folder, "seeds")
        seeds.mkdir()
        for index, example in enumerate(examples(found)):
            (seeds / str(index)).write_bytes(example)
        corpus = options.corpus or Path(folder, "corpus")
        corpus.mkdir(parents=True, exist_ok=True)
        limits = [f"-max_total_time={options.seconds}", "-max_len=4096", "-timeout=10", "-rss_limit_mb=2048"]
        atheris.Setup(
            [sys.argv[0], *limits, "-print_final_stats=1", str(corpus), str(seeds)],
            lambda data: attack(found, data),
            custom_mutator=mutate,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
