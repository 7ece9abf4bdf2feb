"""The byte vectors that implementers in other languages work from hold here, in both directions."""

import collections
import collections.abc
import datetime
import decimal
import enum
import fractions
import inspect
import ipaddress
import json
import pathlib
import uuid
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar

import annotated_types
import pytest
from typing_extensions import TypeAliasType

from tests.back_to_back import feed, frames, joined, said, take
from tests.support import StubLink
from typedrpc import errors
from typedrpc.authentication import Credentials, Keys
from typedrpc.call import Call, enter_call, leave_call
from typedrpc.codec import CommandCodec, Payload, Segmented, pack_plain, unpack_plain
from typedrpc.command import rpc
from typedrpc.declared import DeclaredErrors
from typedrpc.definition import derived_id
from typedrpc.dispatch import Dispatcher
from typedrpc.failure import PUBLIC_BUILTINS, DeclaredFailure, unpack_failure
from typedrpc.messages import Hello, Limits
from typedrpc.peer import Peer
from typedrpc.protocol import Claimed, Greeted, Protocol, Request, State
from typedrpc.schema import Schema, compatible, nodes, schema_of
from typedrpc.schema.conversions import STANDARD
from typedrpc.service import Service, Table, contract_digest
from typedrpc.wire import PREAMBLE, Flag, Frame, FrameReader, Kind, encode

FOLDER: Final = Path(__file__).parent / "vectors"


class Colour(enum.Enum):
    RED = "r"
    GREEN = "g"


@dataclass(frozen=True)
class Point:
    x: int
    y: float = 0.0


class OutOfStock(Exception):
    def __init__(self, item: str, left: int = 0) -> None:
        super().__init__(f"{item}: only {left} left")
        self.item = item
        self.left = left


DECLARATION: Final = f"OutOfStock{inspect.signature(OutOfStock)}".removesuffix(" -> None")


class Mode(enum.Flag):
    READ = 1
    WRITE = 2


class Pair(NamedTuple):
    a: int
    b: str = ""


class Film(TypedDict):
    title: str
    year: NotRequired[int]


class Earlier:
    @dataclass(frozen=True)
    class Point:
        x: int


class Later:
    @dataclass(frozen=True)
    class Point:
        z: list[dict[str, bytes]]
        y: float
        x: int


T = TypeVar("T")


@dataclass
class Box(Generic[T]):
    item: T


@dataclass
class Tree:
    value: int
    below: list["Tree"] = field(default_factory=lambda: list[Tree]())


@dataclass
class Route:
    first: Box[Point]
    others: list[Tree]


Nested = TypeAliasType("Nested", "int | list[Nested]")

NAMES: Final[dict[str, Any]] = {
    **{name: value for name, value in vars(collections.abc).items() if name in collections.abc.__all__},
    **{name: getattr(collections, name) for name in ("Counter", "OrderedDict", "defaultdict", "deque")},
    **{name: getattr(datetime, name) for name in ("date", "datetime", "time", "timedelta", "timezone")},
    **{cls.__name__: cls for cls in (Box, Colour, Film, Mode, Pair, Point, Route, Tree)},
    **{name: value for name, value in vars(ipaddress).items() if name.startswith("IPv")},
    **{name: getattr(pathlib, name) for name in ("Path", "PurePath", "PurePosixPath", "PureWindowsPath")},
    **{name: getattr(annotated_types, name) for name in ("Gt", "Le", "MaxLen", "MinLen", "MultipleOf", "Predicate")},
    "AbstractSet": collections.abc.Set,
    "Annotated": Annotated,
    "Earlier": Earlier,
    "Later": Later,
    "Any": Any,
    "Decimal": decimal.Decimal,
    "Fraction": fractions.Fraction,
    "Literal": Literal,
    "Nested": Nested,
    "UUID": uuid.UUID,
    "ZoneInfo": zoneinfo.ZoneInfo,
    "inf": float("inf"),
    "numbers": iter([1]),
    "texts": iter(["a"]),
}


def vectors(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / f"{name}.json").read_text(encoding="ascii"))["vectors"]
    assert found
    return found


def name_of(vector: dict[str, Any]) -> str:
    return str(vector.get("name") or vector.get("service") or " ".join(list(map(str, vector.values()))[:2]))


def each(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", vectors(name), ids=name_of)


def hexes(data: object) -> Any:
    """Plain data as JSON has it: bytes and maps stand in objects of their own."""
    match data:
        case bytes():
            return {"bytes": data.hex()}
        case dict():
            return {"map": [[hexes(key), hexes(value)] for key, value in data.items()]}
        case list():
            return [hexes(item) for item in data]
        case _:
            return data


def unhexed(data: Any) -> Any:
    match data:
        case {"bytes": text}:
            return bytes.fromhex(text)
        case {"map": pairs}:
            return {unhexed(key): unhexed(value) for key, value in pairs}
        case list():
            return [unhexed(item) for item in data]
        case _:
            return data


def function_of(signature: str) -> Callable[..., object]:
    """A function with the signature that a text says."""
    namespace: dict[str, Any] = dict(NAMES)
    exec(f"def function{signature}: ...", namespace)
    function: Callable[..., object] = namespace["function"]
    return function


def codec_of(signature: str) -> CommandCodec:
    return CommandCodec("Store.get", schema_of(function_of(signature), method=False))


def plain(payload: Payload) -> tuple[bytes, ...]:
    if isinstance(payload, Segmented):
        return (bytes(payload.body), *map(bytes, payload.segments))
    return (bytes(payload),)


def test_every_file_of_vectors_is_checked() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    for path in FOLDER.iterdir():
        assert path.suffix == ".json"
        assert f'"{path.stem}"' in here


@each("frames")
def test_frames(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["hex"])
    extension = bytes.fromhex(vector.get("extension", ""))
    payload: Payload
    if "segments" in vector:
        payload = Segmented(bytes.fromhex(vector["body"]), [bytes.fromhex(segment) for segment in vector["segments"]])
    else:
        payload = bytes.fromhex(vector["payload"])
    assert joined(encode(vector["kind"], vector["command"], vector["call"], payload, extension)) == data
    (frame,) = frames(data)
    assert (frame.kind, frame.command, frame.call) == (vector["kind"], vector["command"], vector["call"])
    assert (plain(frame.payload), bytes(frame.extension)) == (plain(payload), extension)
    flags = (Flag.EXTENSION if extension else 0) | (Flag.SEGMENTS if "segments" in vector else 0)
    assert flags == vector["flags"] == data[5]


@each("pieces")
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_pieces(vector: dict[str, Any], size: int) -> None:
    data = bytes.fromhex(vector["hex"])
    reader = FrameReader(1 << 20, preamble=False)
    found = [frame for at in range(0, len(data), size) for frame in reader.feed(data[at : at + size])]
    assert reader.fault is None
    assert not reader.in_frame
    for frame, expected in zip(found, vector["frames"], strict=True):
        assert (frame.kind, frame.command, frame.call) == (expected["kind"], expected["command"], expected["call"])
        assert bytes(frame.extension).hex() == expected.get("extension", "")
        parts = [expected["body"], *expected["segments"]] if "segments" in expected else [expected["payload"]]
        assert plain(frame.payload) == tuple(map(bytes.fromhex, parts))


OPENING: Final = bytes.fromhex(vectors("conversation")[0]["hex"])
BEFORE: Final = {"stranger": b"", "greeting": PREAMBLE, "greeted": OPENING, "open": OPENING}


@each("faults")
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_faults(vector: dict[str, Any], size: int) -> None:
    core: Protocol[str] = Protocol(client=False, hello=Hello(Limits()))
    feed(core, BEFORE[vector["state"]])
    if vector["state"] == "open":
        assert core.welcome() is not None
    core.outgoing.clear()
    feed(core, bytes.fromhex(vector["hex"]), size)
    assert core.state is State.CLOSED
    assert core.error is not None
    assert isinstance(core.error.__cause__, errors.ProtocolError)
    if "answer" in vector:
        assert take(core).hex() == vector["answer"]
        return
    # Who has not said a hello is told nothing.
    told = [Kind.GOODBYE] if vector["state"] in ("greeted", "open") else []
    assert [frame.kind for frame in said(core)] == told


@each("messages")
def test_messages(vector: dict[str, Any]) -> None:
    packed, data = bytes.fromhex(vector["hex"]), unhexed(vector["data"])
    assert unpack_plain(packed) == data
    assert pack_plain(data) == packed


@each("errors")
def test_errors(vector: dict[str, Any]) -> None:
    packed, data = bytes.fromhex(vector["hex"]), unhexed(vector["data"])
    assert unpack_plain(packed) == data
    assert pack_plain(data) == packed
    error = unpack_failure(packed, "Store.put")
    declared = DeclaredErrors([OutOfStock] if "declared" in vector else [])
    declared.read(None)
    if isinstance(error, DeclaredFailure):
        assert vector.get("declared", DECLARATION) == DECLARATION
        error = declared.rebuild(error)
    cls = getattr(errors, vector["raises"], None) or {**PUBLIC_BUILTINS, "OutOfStock": OutOfStock}[vector["raises"]]
    assert type(error) is cls
    assert str(error) == vector["text"]
    if isinstance(error, OutOfStock):
        assert vars(error) == vector["fields"]
        again = declared.pack("Store.put", error)
        assert (again == packed) is vector.get("written", True)


@each("contracts")
def test_contracts(vector: dict[str, Any]) -> None:
    rows = []
    for row in vector["commands"]:
        signature = schema_of(function_of(row["signature"]), method=False)
        assert signature.to_data() == row["data"]
        assert Schema.from_data(row["data"]) == signature
        assert json.loads(row["json"]) == row["data"]
        assert signature.fingerprint.hex() == row["fingerprint"]
        assert derived_id(vector["service"], row["command"]) == row["derived_id"]
        rows.append((row["command"], row["id"], signature.fingerprint))
    assert contract_digest(rows).hex() == vector["digest"]


@each("values")
def test_values(vector: dict[str, Any]) -> None:
    codec = codec_of(f"() -> {vector['type']}")
    value = eval(vector["value"], dict(NAMES))
    packed = codec.pack_result(value)
    assert plain(packed) == (bytes.fromhex(vector["hex"]),)
    unpacked = codec.unpack_result(bytes.fromhex(vector["hex"]))
    assert unpacked == value
    assert type(unpacked) is type(value)


def test_the_values_are_of_every_type() -> None:
    seen: set[int] = set()
    found: list[nodes.Node] = []
    left = [schema_of(function_of(f"() -> {vector['type']}"), method=False).result for vector in vectors("values")]
    while left:
        node = left.pop()
        if id(node) not in seen:
            seen.add(id(node))
            found.append(node)
            left += nodes.children(node)
    named = {name for node in found for name in (getattr(node, "name", ""), getattr(node, "kind", ""))}
    # A path of this system is none of others.
    assert named >= {*nodes.SCALARS.values()} | nodes.COLLECTIONS | nodes.MAPPINGS | (STANDARD - {"Path", "PosixPath"})
    kinds = {cls for cls in vars(nodes).values() if isinstance(cls, type) and issubclass(cls, nodes.Node)}
    # Callbacks and streams are no values of a result.
    abstract = {nodes.Node, nodes.IgnoredNode, nodes.CallbackNode, nodes.StreamNode}
    assert {type(node) for node in found} == {cls for cls in kinds if not cls.__name__.startswith("_")} - abstract


def pack(codec: CommandCodec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Payload, list[Any]]:
    if codec.has_callbacks:
        payload, callbacks = codec.pack_with_callbacks(args, kwargs)
        return payload, [*callbacks]
    return codec.pack_arguments(*args, **kwargs), []


@each("arguments")
def test_arguments(vector: dict[str, Any]) -> None:
    codec = codec_of(vector["signature"])
    packed = bytes.fromhex(vector["hex"])
    args, kwargs = eval(f"call({vector['call']})", {**NAMES, "call": lambda *args, **kwargs: (args, kwargs)})
    payload, callbacks = pack(codec, args, kwargs)
    assert plain(payload) == (packed,)

    signature = inspect.signature(function_of(vector["signature"]))
    if codec.has_callbacks:
        unpacked = codec.unpack_with_callbacks(packed, lambda index, callback: callbacks[index][1])
    else:
        unpacked = codec.unpack_arguments(packed)
    assert signature.bind(*unpacked[0], **unpacked[1]) == signature.bind(*args, **kwargs)


@each("evolution")
def test_evolution(vector: dict[str, Any]) -> None:
    writer, reader = codec_of(vector["writer"]), codec_of(vector["reader"])
    differences = compatible(writer.schema, reader.schema)
    assert [list(difference) for difference in differences] == vector["differences"]
    assert vector["safe"] is all(difference.safe for difference in differences)
    if vector["safe"]:
        given, arrives = (
            eval(f"call({text})", {**NAMES, "call": lambda *args, **kwargs: (args, kwargs)})
            for text in (vector["call"], vector["arrives"])
        )
        packed, callbacks = pack(writer, *given)
        assert plain(packed) == (bytes.fromhex(vector["hex"]),)
        unpack = reader.unpack_with_callbacks_of(writer.schema)
        assert unpack(packed, lambda index, callback: callbacks[index][1], lambda index: None) == arrives


@each("authentication")
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_authentication(vector: dict[str, Any], size: int) -> None:
    """Both sides say what the vectors say, byte for byte."""
    nonces = {side: bytes.fromhex(vector[f"{side}_nonce"]) for side in ("client", "server")}
    secret = (vector["name"], bytes.fromhex(vector["secret"])) if "secret" in vector else None
    token = vector.get("token", "")
    client: Protocol[str] = Protocol(
        client=True,
        hello=Hello(Limits(), nonce=nonces["client"]),
        credentials=Credentials(secret=secret, token=token),
    )
    server: Protocol[str] = Protocol(
        client=False, hello=Hello(Limits(), nonce=nonces["server"], methods=tuple(vector["methods"]))
    )
    sides = {"client": (client, server), "server": (server, client)}
    for step in vector["steps"]:
        speaker, listener = sides[step["from"]]
        data = b"".join(map(joined, speaker.outgoing))
        speaker.outgoing.clear()
        assert data.hex() == step["hex"], step["what"]
        for event in feed(listener, data, size):
            if isinstance(event, Claimed):
                claim = server.claim
                assert claim is not None
                assert claim.token == token
                answer = None if secret is None else Keys(dict([secret])).answer(claim, server.hellos())
                server.outgoing += [data for data in (server.accept(answer), server.welcome()) if data is not None]
    assert (client.state, server.state) == (State.OPEN, State.OPEN)


class Greeter(Service):
    @rpc
    def hello(self, name: str) -> str:
        return f"hello {name}"

    @rpc(id=2)
    def add(self, a: int, b: int = 0) -> int:
        return a + b


def test_conversation() -> None:
    """A server says what the vectors say, byte for byte."""
    core: Protocol[str] = Protocol(client=False, hello=Hello(Limits()))
    dispatcher = Dispatcher(Table([Greeter()]))
    peer = Peer(1, "here", None, StubLink())
    expected: list[Frame] = []
    answers: list[Frame] = []
    for step in vectors("conversation"):
        data = bytes.fromhex(step["hex"])
        if step["from"] == "server":
            expected += frames(data, preamble=not expected)
            continue
        for event in feed(core, data):
            if isinstance(event, Request):
                call = dispatcher.begin(core, event, peer)
                answer = call
                if isinstance(call, Call):
                    token = enter_call(call)
                    answer = dispatcher.finish(core, event, call, call.function(*call.args, **call.kwargs))
                    leave_call(token)
                if answer is not None:
                    assert not isinstance(answer, Call)
                    core.outgoing.append(answer)
            elif isinstance(event, Greeted):
                core.outgoing.append(core.welcome() or b"")
        answers += frames(joined(*core.outgoing), preamble=not answers)
        core.outgoing.clear()
    assert sorted(answers, key=str) == sorted(expected, key=str)
    assert core.state is State.CLOSED
    assert str(core.error) == "the peer closed the connection"
