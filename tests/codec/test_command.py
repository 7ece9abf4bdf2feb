"""The codec of a command: cheap until it is used, and then for any thread."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Gt

from typedrpc.codec import CodecError, CommandCodec
from typedrpc.codec.records import RecordCoder
from typedrpc.schema import schema_of


@dataclass
class Hit:
    path: str
    line: int
    score: float


def test_one_codec_serves_many_threads_from_its_first_use() -> None:
    def command(a: list[Hit], b: int = 1) -> dict[str, Hit]:
        raise NotImplementedError

    codec = CommandCodec("Store.get", schema_of(command, method=False))
    hits = [Hit("a", 1, 0.5)]
    outcomes: list[object] = []
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        args = codec.unpack_arguments(codec.pack_arguments(hits, b=2))
        outcomes.append((args, codec.unpack_result(codec.pack_result({"a": hits[0]}))))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [(((hits, 2), {}), {"a": hits[0]})] * 4


def test_results_do_not_wait_for_arguments_that_another_thread_prepares(monkeypatch: pytest.MonkeyPatch) -> None:
    def command(a: Hit) -> Hit:
        raise NotImplementedError

    codec = CommandCodec("Store.get", schema_of(command, method=False))
    hit, begun, go_on = Hit("a", 1, 0.5), threading.Event(), threading.Event()
    make, packed = RecordCoder.__init__, []

    def make_slowly(*args: Any) -> None:
        if threading.current_thread() is thread:
            begun.set()
            assert go_on.wait(10)
        make(*args)

    monkeypatch.setattr(RecordCoder, "__init__", make_slowly)
    thread = threading.Thread(target=lambda: packed.append(codec.pack_arguments(hit)))
    thread.start()
    assert begun.wait(10)
    result = codec.pack_result(hit)
    assert codec.unpack_result(result) == hit
    go_on.set()
    thread.join(10)
    assert codec.unpack_arguments(*packed) == ((hit,), {})


def test_a_codec_that_is_not_used_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> Callable[..., Any]:
        raise AssertionError("compiled")

    monkeypatch.setattr("typedrpc.codec.source.Source.__init__", refuse)
    monkeypatch.setattr("typedrpc.codec.base.Coders.of", refuse)

    def command(a: list[Hit]) -> None: ...

    CommandCodec("Store.get", schema_of(command, method=False))


@pytest.mark.parametrize(
    ("hint", "kept"),
    [
        (int, int),
        (float, float),
        (bool, bool),
        (str, str),
        (None, None),
        (bytes, None),
        (list[int], None),
        (int | None, None),
        (Annotated[int, Gt(0)], None),
        (Literal[1, 2], None),
        (Hit, None),
        (Any, None),
        (Iterator[int], None),
    ],
    ids=str,
)
def test_results_that_may_be_packed_later_are_those_that_nobody_can_change(hint: Any, kept: type | None) -> None:
    def command() -> None: ...

    command.__annotations__["return"] = hint
    assert CommandCodec("Store.get", schema_of(command, method=False)).kept_type is kept


def test_results_are_packed_together_as_alone() -> None:
    def command() -> float:
        raise NotImplementedError

    codec = CommandCodec("Store.get", schema_of(command, method=False))
    values = [0.5, 2.0, float("inf")]
    assert codec.pack_results is not None
    assert codec.pack_results(values) == b"\x93" + b"".join(map(codec.pack_result, values))  # type: ignore[arg-type]
    with pytest.raises(CodecError):
        codec.pack_results([0.5, "x"])
