"""Generated source: readable in tracebacks, gone when it is not needed, and without a name that could collide."""

import gc
import linecache
import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from typedrpc.codec import CommandCodec
from typedrpc.codec.source import Source
from typedrpc.errors import ArgumentTypeError
from typedrpc.schema import schema_of


@dataclass
class Item:
    name: str


def command(key: str, items: Iterable[Item] = ()) -> None: ...


def source_of(function: Callable[..., Any]) -> str:
    return "".join(linecache.getlines(function.__code__.co_filename))


def test_the_source_stands_in_tracebacks() -> None:
    codec = CommandCodec("Store.put", schema_of(command, method=False))

    def failing() -> Iterator[Item]:
        yield Item("a")
        raise LookupError

    linecache.checkcache()
    with pytest.raises(LookupError) as caught:
        codec.pack_arguments("key", failing())
    frames = [frame for frame in traceback.extract_tb(caught.value.__traceback__) if "typedrpc" in frame.filename]
    assert re.fullmatch(r"<typedrpc \d+: pack the arguments of Store\.put>", frames[0].filename)
    assert re.fullmatch(r"items_\d+ = listed_\d+\(items_\d+\)", frames[0].line or "")
    with pytest.raises(ArgumentTypeError) as refused:
        codec.pack_arguments(1)
    text = "".join(traceback.format_exception(refused.value))
    assert "return _pack_slowly_" in text


def test_the_source_is_readable() -> None:
    codec = CommandCodec("Store.put", schema_of(command, method=False))
    text = source_of(codec.pack_arguments)
    assert re.search(r"def pack\(key_\d+=missing_\d+, items_\d+=missing_\d+, /, \*extra_\d+, \*\*unknown_\d+\):", text)
    assert re.search(r"if type\(key_\d+\) is not str:", text)
    assert re.search(r"if type\(v_\d+\) is not Item_\d+:", text)


def test_functions_are_generated_when_they_are_first_used() -> None:
    codec = CommandCodec("Store.put", schema_of(command, method=False))
    assert not [name for name in vars(codec) if "pack" in name]
    assert codec.pack_arguments is codec.pack_arguments
    assert [name for name in vars(codec) if "pack" in name] == ["pack_arguments"]


def test_the_source_goes_with_the_function() -> None:
    codec = CommandCodec("Store.put", schema_of(command, method=False))
    filename = codec.unpack_arguments.__code__.co_filename
    assert filename in linecache.cache
    del codec
    gc.collect()
    assert filename not in linecache.cache


def test_names_are_numbered_and_constants_shared() -> None:
    out = Source("test")
    marker = object()
    assert out.constant(int) == "int"
    assert out.constant(Item) == out.constant(Item) != "Item"
    assert out.constant(marker) == out.constant(marker)
    assert out.constant(marker).startswith("constant_")
    assert out.types(frozenset({int, str})) == out.types(frozenset({str, int}))
    assert out.fresh("x") != out.fresh("x")

    class int_:
        __name__ = "not an identifier"

    assert out.constant(int_()).startswith("constant_")
    with pytest.raises(AssertionError):
        out.fresh("no identifier")


def test_helpers_are_written_once_and_may_call_themselves() -> None:
    out = Source("test")

    def countdown() -> str:
        def emit() -> None:
            with out.block("if n == 0:"):
                out.line("return []")
            out.line(f"return [n, *{countdown()}(n - 1)]")

        return out.helper("countdown", "countdown", "n", emit)

    with out.block("def main(n):"):
        out.line(f"return {countdown()}(n) + {countdown()}(0)")
    assert out.build("main")(3) == [3, 2, 1]


def test_a_line_can_be_put_in_before_others() -> None:
    out = Source("test")
    with out.block("def main():"):
        mark = out.mark()
        out.line("return x")
        out.insert(mark, "x = 5")
    assert out.build("main")() == 5
