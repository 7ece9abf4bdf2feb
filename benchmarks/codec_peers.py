"""The libraries that `codec.py` compares: how each encodes and decodes a value of a given type, set up to be fast.

No library but typedrpc and msgpack has to be installed. What is not installed cannot be looked into by type checkers
either, so each is imported by name and is `Any` to them.
"""

import functools
import importlib
import importlib.util
import operator
import pickle
import types
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from importlib.metadata import version
from io import BytesIO
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from codec_values import Subject

from typedrpc.codec import CommandCodec, Received, Segmented
from typedrpc.schema import schema_of


class Coding(NamedTuple):
    """How one library encodes and decodes one value.

    Attributes:
        value: What is encoded: the value of the row, or the same made of the library's own classes.
        encode: From the value to what is sent.
        decode: From what is received to the value.
        received: What is received for what is sent.
    """

    value: Any
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    received: Callable[[Any], Any] = lambda sent: sent


class Library(NamedTuple):
    """A library, or one of the ways in which it can be used.

    Attributes:
        packages: What has to be installed.
        of: Makes the coding of a subject. Raises whatever the library does where it cannot express the type.
        used: How it is used, in words.
    """

    packages: tuple[str, ...]
    of: Callable[[Subject], Coding]
    used: str

    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [name for name in self.packages if importlib.util.find_spec(name) is None]

    def versions(self) -> list[str]:
        """The packages with their versions."""
        return [f"{name} {version(name)}" for name in self.packages]


def _typedrpc(subject: Subject) -> Coding:
    def command() -> Any: ...

    command.__annotations__["return"] = subject.hint
    codec = CommandCodec("benchmark", schema_of(command, method=False))

    def received(sent: Any) -> Any:
        if not isinstance(sent, Segmented):
            return sent
        return Segmented(sent.body, [_as_received(segment) for segment in sent.segments])

    return Coding(subject.value, codec.pack_result, codec.unpack_result, received)


def _as_received(data: Any) -> Received:
    buffer = BytesIO()
    buffer.write(data)
    return Received(buffer)


def _msgspec(subject: Subject) -> Coding:
    msgspec: Any = importlib.import_module("msgspec")
    return Coding(subject.value, msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(subject.hint).decode)


def _msgspec_struct(subject: Subject) -> Coding:
    msgspec: Any = importlib.import_module("msgspec")
    structs: dict[type, type] = {}
    # In a union it needs a tag, and beside a list it cannot be an array.
    options = {"tag": True} if subject.has_unions else {"array_like": True}

    def struct(cls: type) -> type:
        if cls not in structs:
            hints = get_type_hints(cls)
            members = [(field.name, replaced(hints[field.name], struct)) for field in fields(cls)]
            structs[cls] = msgspec.defstruct(cls.__name__, members, **options)
        return structs[cls]

    hint = replaced(subject.hint, struct)
    value = rebuilt(subject.value, structs)
    return Coding(value, msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(hint).decode)


def replaced(hint: Any, struct: Callable[[type], type]) -> Any:
    """The hint with another class for each dataclass in it."""
    if is_dataclass(hint) and isinstance(hint, type):
        return struct(hint)
    if not (arguments := get_args(hint)):
        return hint
    inner = [replaced(argument, struct) for argument in arguments]
    origin: Any = get_origin(hint)
    return functools.reduce(operator.or_, inner) if origin is types.UnionType else origin[tuple(inner)]


def rebuilt(value: Any, structs: dict[type, type]) -> Any:
    """The value with an instance of another class for each dataclass in it."""
    if isinstance(value, list):
        return [rebuilt(item, structs) for item in value]
    if type(value) in structs:
        return structs[type(value)](*(rebuilt(field, structs) for field in vars(value).values()))
    return value


def _cattrs(subject: Subject) -> Coding:
    preconf: Any = importlib.import_module("cattrs.preconf.msgpack")
    strategies: Any = importlib.import_module("cattrs.strategies")
    converter = preconf.make_converter(detailed_validation=False)
    strategies.configure_union_passthrough(int | str | None, converter)
    hint = subject.hint
    return Coding(
        subject.value,
        lambda value: converter.dumps(value, unstructure_as=hint),
        lambda data: converter.loads(data, hint),
    )


def _mashumaro(subject: Subject) -> Coding:
    codecs: Any = importlib.import_module("mashumaro.codecs.msgpack")
    encoder, decoder = codecs.MessagePackEncoder(subject.hint), codecs.MessagePackDecoder(subject.hint)
    return Coding(subject.value, encoder.encode, decoder.decode)


def _pydantic_json(subject: Subject) -> Coding:
    pydantic: Any = importlib.import_module("pydantic")
    # JSON has no bytes.
    config = {"config": {"ser_json_bytes": "base64", "val_json_bytes": "base64"}} if subject.hint is bytes else {}
    adapter = pydantic.TypeAdapter(subject.hint, **config)
    return Coding(subject.value, adapter.dump_json, adapter.validate_json)


def _pydantic_msgpack(subject: Subject) -> Coding:
    pydantic: Any = importlib.import_module("pydantic")
    msgpack: Any = importlib.import_module("msgpack")
    adapter = pydantic.TypeAdapter(subject.hint)
    pack, dump, validate, unpack = msgpack.Packer().pack, adapter.dump_python, adapter.validate_python, msgpack.unpackb
    return Coding(subject.value, lambda value: pack(dump(value)), lambda data: validate(unpack(data)))


def _pickle(subject: Subject) -> Coding:
    return Coding(subject.value, functools.partial(pickle.dumps, protocol=pickle.HIGHEST_PROTOCOL), pickle.loads)


def _msgpack(subject: Subject) -> Coding:
    msgpack: Any = importlib.import_module("msgpack")
    return Coding(subject.plain, msgpack.Packer().pack, msgpack.unpackb)


TYPEDRPC = Library(("msgpack",), _typedrpc, "CommandCodec.pack_result and unpack_result, a dataclass as an array")

PEERS = {
    "msgspec": Library(("msgspec",), _msgspec, "msgpack.Encoder and Decoder(type), dataclasses as maps"),
    "msgspec structs": Library(
        ("msgspec",), _msgspec_struct, "the same with Structs for the dataclasses: as arrays, in unions as tagged maps"
    ),
    "cattrs": Library(
        ("cattrs", "msgpack"), _cattrs, "preconf.msgpack, detailed_validation=False, dataclasses as maps"
    ),
    "mashumaro": Library(
        ("mashumaro", "msgpack"), _mashumaro, "MessagePackEncoder and MessagePackDecoder, dataclasses as maps"
    ),
    "pydantic json": Library(
        ("pydantic",), _pydantic_json, "TypeAdapter.dump_json and validate_json: its native form; bytes in base64"
    ),
    "pydantic msgpack": Library(
        ("pydantic", "msgpack"), _pydantic_msgpack, "TypeAdapter.dump_python and validate_python around msgpack"
    ),
    "pickle": Library((), _pickle, "the highest protocol, unchecked"),
    "msgpack": Library(("msgpack",), _msgpack, "Packer and unpackb, unchecked, with a list for each dataclass"),
}
"""By the name of the column."""
