"""Coders: one for each node, and one place for each kind."""

from dataclasses import dataclass
from typing import Any

import pytest

from typedrpc.codec import base
from typedrpc.codec.base import Coder, Coders, coder_for
from typedrpc.codec.source import Source
from typedrpc.schema import CollectionNode, EnumNode, LiteralNode, Node, RecordNode, ScalarNode, children, node_of
from typedrpc.schema import nodes as node_module


@dataclass
class Point:
    x: int


def test_every_kind_of_node_has_a_coder() -> None:
    kinds = {
        kind
        for kind in vars(node_module).values()
        if isinstance(kind, type) and issubclass(kind, Node) and kind is not Node
    }
    assert kinds == set(base._registry)
    assert {ScalarNode, LiteralNode, CollectionNode, EnumNode, RecordNode} < kinds


def test_a_kind_has_one_coder() -> None:
    with pytest.raises(AssertionError, match="ScalarNode has a coder already"):
        coder_for(ScalarNode)(Coder)


def test_a_node_has_one_coder_within_a_codec() -> None:
    coders = Coders()
    node = node_of(tuple[Point, list[Point]])
    first, second = children(node)
    assert coders.of(first) is coders.of(children(second)[0])
    assert Coders().of(first) is not coders.of(first)


def emitted(hint: Any, way: Any) -> str:
    out = Source("test")
    outcome = Coders().of(node_of(hint)).emit_column(out, way, "value")
    return "\n".join(["", *out._lines, outcome])


def test_a_column_of_scalars_is_checked_at_the_speed_of_c() -> None:
    for hint in (int, str, int | None, bool | str | None):
        for way in ("pack", "unpack"):
            text = emitted(hint, way)
            assert "for " not in text
            assert "{*map(type, value)} <= only_" in text or "[*map(type, value)].count(" in text
            assert text.endswith("\nvalue")


def test_a_column_is_built_anew_where_an_item_is_converted() -> None:
    assert "append" not in emitted(list[int], "unpack")
    assert "append" in emitted(tuple[int, ...], "unpack")
    assert "append" not in emitted(tuple[int, ...], "pack")
    assert "append" in emitted(set[int], "pack")
