"""There and back, for the tests of the adapters."""

from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from typedrpc.codec import CodecError, CommandCodec, Payload
from typedrpc.codec.base import Coders
from typedrpc.codec.body import Packing, open_payload, pack_body
from typedrpc.codec.result import ResultCoder
from typedrpc.schema import Schema, SignatureFaults, node_of


def _no_walk(value: object) -> NoReturn:
    raise AssertionError("the generated source gave up")


def source_of(hint: Any) -> tuple[Callable[[Any], Payload], Callable[[Payload], Any]]:
    """Functions that pack and unpack by the generated source alone."""
    coder: Any = ResultCoder("Test.command", Schema((), node_of(hint)), Coders())
    coder._pack_slowly = coder._unpack_slowly = _no_walk
    return coder.compile_pack(), coder.compile_unpack()


def codec_of(hint: Any) -> CommandCodec:
    return CommandCodec("Test.command", Schema((), node_of(hint)))


def walk(hint: Any, value: object) -> Any:
    """A value there and back by the walk alone."""
    coder, packing = Coders().of(node_of(hint)), Packing()
    data, segments = open_payload(packing.payload(pack_body(coder.pack(value, packing))))
    return coder.unpack(data, segments)


def trip(hint: Any, value: object) -> Any:
    """A value there and back by the walk, and then by the generated source."""
    walk(hint, value)
    pack, unpack = source_of(hint)
    return unpack(pack(value))


def trip_either_way(hint: Any, value: object) -> Any:
    """A value there and back by the walk, and then by the generated source, which may give up."""
    walk(hint, value)
    codec = codec_of(hint)
    return codec.unpack_result(codec.pack_result(value))


def refused(hint: Any, value: object) -> str:
    """What is said of a value that does not fit."""
    with pytest.raises(CodecError) as caught:
        codec_of(hint).pack_result(value)
    return f"{caught.value.path}: expected {caught.value.expected}, got {caught.value.got}"


def refused_on_arrival(hint: Any, sent_as: Any, value: object) -> str:
    """What is said of a value that a peer sends as another type."""
    payload = codec_of(sent_as).pack_result(value)
    with pytest.raises(CodecError) as caught:
        codec_of(hint).unpack_result(payload)
    return f"{caught.value.path}: expected {caught.value.expected}, got {caught.value.got}"


def faults(hint: Any) -> str:
    """Why a type cannot travel."""
    with pytest.raises(SignatureFaults) as caught:
        node_of(hint)
    return str(caught.value)
