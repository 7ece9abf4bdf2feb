"""Results: the payload is the value."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it ships no types
import pytest

from typedrpc.codec import CodecError, CommandCodec
from typedrpc.codec.result import ResultCoder
from typedrpc.schema import Schema, node_of

packb: Any = msgpack.packb


@dataclass
class Hit:
    path: str
    line: int
    score: float


def codec_of(hint: Any) -> CommandCodec:
    return CommandCodec("Store.get", Schema((), node_of(hint)))


def test_none_is_one_byte() -> None:
    codec = codec_of(None)
    assert codec.pack_result(None) == b"\xc0"
    for payload in (b"\xc0", bytearray(b"\xc0"), memoryview(b"\xc0")):
        assert codec.unpack_result(payload) is None
    with pytest.raises(CodecError, match=r"Store\.get: result: expected None, got int"):
        codec.pack_result(0)
    with pytest.raises(CodecError, match=r"Store\.get: result: expected None, got bool"):
        codec.unpack_result(b"\xc2")


def test_an_error_carries_what_a_program_may_want_to_know() -> None:
    with pytest.raises(CodecError) as caught:
        codec_of(list[Hit]).pack_result([Hit("a", 1, 0.5), Hit("b", "2", 0.5)])  # type: ignore[arg-type]
    error = caught.value
    assert (error.command, error.path, error.expected, error.got) == ("Store.get", "result[1].line", "int", "str")
    assert str(error) == "Store.get: result[1].line: expected int, got str"
    assert isinstance(error, ValueError)


def test_a_generator_is_a_result_for_iterable() -> None:
    def results() -> Iterator[int]:
        yield from (1, 2)

    codec = codec_of(Iterable[int])
    assert codec.unpack_result(codec.pack_result(results())) == [1, 2]
    with pytest.raises(CodecError, match=r"result\[1\]: expected int, got str"):
        codec.pack_result(iter([1, "x"]))


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", b"\xc0\xc0", b"\x91" * 100_000 + b"\xc0", b"\xa5abc", b"\x81\x80\x01", None, "text"]
)
def test_a_bad_payload_is_a_codec_error(payload: Any) -> None:
    for hint in (None, int, list[int], bytes, Hit | None):
        with pytest.raises(CodecError):
            codec_of(hint).unpack_result(payload)


USUAL: list[tuple[Any, Any]] = [
    (int, 5),
    (str, "a"),
    (bytes, b"a"),
    (bytes, b"x" * 70_000),
    (float, 1),
    (list[int], [1, 2**70]),
    (list[float], [1, 2.0]),
    (dict[str, float], {"a": 1}),
    (dict[int, str], {1: "a"}),
    (Hit, Hit("a", 1, 0.5)),
    (list[Hit], [Hit("a", 1, 0.5)]),
    (list[Hit | None], [Hit("a", 1, 0.5), None]),
    (dict[str, list[tuple[int, str]]], {"a": [(1, "b")]}),
    (set[int], {1}),
    (Hit | int | None, None),
    (list[int] | set[int] | None, None),
    (Iterable[int], iter([1])),
    (dict[tuple[int, int], Hit], {(1, 2): Hit("a", 1, 0.5)}),
]


@pytest.mark.parametrize(("hint", "value"), USUAL, ids=[f"{i}-{hint}" for i, (hint, _) in enumerate(USUAL)])
def test_usual_results_never_need_the_walk(hint: Any, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def walk(*args: object) -> None:
        raise AssertionError("the walk was needed")

    monkeypatch.setattr(ResultCoder, "_pack_slowly", walk)
    monkeypatch.setattr(ResultCoder, "_unpack_slowly", walk)
    codec = codec_of(hint)
    codec.unpack_result(codec.pack_result(value))
