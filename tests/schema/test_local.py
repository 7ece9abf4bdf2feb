# mypy: disable-error-code="empty-body"
# (no test here calls a command)
"""Contracts, and the classes that they name, within functions and class bodies, where all annotations are strings."""

from __future__ import annotations

import gc
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import pytest
from typing_extensions import TypedDict

from tests.support import Running
from typedrpc.command import Command, rpc
from typedrpc.errors import DefinitionError
from typedrpc.schema import SignatureFaults, UnresolvedNames, is_local, node_of, running_around, schema_of
from typedrpc.service import FunctionService, Service, Table, make_proxy

T = TypeVar("T")


@dataclass
class Point:
    """The one of the module, which a local class of the same name hides."""

    x: int


@dataclass
class Segment:
    start: Point


def resolved(command: Command[Any]) -> bool:
    return command.is_resolved


def text(command: Command[Any]) -> str:
    return str(command.schema)


def test_a_contract_and_its_classes_within_a_function() -> None:
    @dataclass
    class Item:
        name: str
        parts: list[Item] | None = None

    class Pair(NamedTuple):
        first: Item

    class Keyed(TypedDict):
        pair: Pair

    class Shop(Service):
        @rpc
        def get(self, key: str) -> Item | None: ...
        @rpc
        def put(self, item: list[Item], keyed: Keyed) -> None: ...

    assert resolved(Shop.get)
    assert text(Shop.get) == "(key: str) -> Item | None"
    assert text(Shop.put) == "(item: list[Item], keyed: Keyed) -> None"


def test_a_local_class_hides_that_of_the_module_where_it_is_local_only() -> None:
    @dataclass
    class Point:
        label: str

    class Shop(Service):
        @rpc
        def get(self, point: Point) -> Segment: ...

    assert Shop.get.schema.parameters[0].node == node_of(Point)
    # Segment stands in the module, and means the Point of the module.
    assert Shop.get.schema.result == node_of(Segment)
    assert "'label'" in str(Shop.get.schema.to_data())
    assert "'x'" in str(Shop.get.schema.to_data())


def test_what_is_defined_after_the_contract_is_found_when_it_is_used() -> None:
    class Shop(Service):
        @rpc
        def get(self) -> Late: ...
        @rpc
        def put(self, items: list[Late]) -> None: ...

    assert not resolved(Shop.get)

    @dataclass
    class Late:
        inner: list[Later]

    @dataclass
    class Later:
        x: int

    Table([Shop()])
    assert resolved(Shop.get)
    assert text(Shop.put) == "(items: list[Late]) -> None"


def test_what_a_function_that_has_returned_never_defined_is_reported() -> None:
    def make() -> type[Service]:
        class Shop(Service):
            @rpc
            def get(self, key: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

        return Shop

    shop = make()
    with pytest.raises(DefinitionError, match=r"Shop\.get: an annotation does not resolve: name 'Nowhere' is not"):
        Table([shop()])


def test_a_name_behind_the_contract_is_gone_with_its_function() -> None:
    """The limit that the documentation of the module names, and what the error says."""

    def make() -> type[Service]:
        class Shop(Service):
            @rpc
            def get(self) -> Late: ...

        @dataclass
        class Late:
            x: int

        return Shop

    with pytest.raises(DefinitionError, match="name 'Late' is not defined"):
        Table([make()()])


def test_a_name_that_the_command_itself_uses_is_found_in_its_closure() -> None:
    def make() -> Any:
        class Shop(Service):
            @rpc
            def get(self) -> Late:
                return Late(1)

        @dataclass
        class Late:
            x: int

        return Shop

    assert text(make().get) == "() -> Late"


def test_what_was_found_is_kept_while_something_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> Any:
        @dataclass
        class Local:
            x: int

        class Shop(Service):
            @rpc
            def get(self, a: Local) -> OfTheModule: ...  # type: ignore[name-defined]  # noqa: F821

        return Shop

    shop = make()
    assert not resolved(shop.get)
    monkeypatch.setattr(sys.modules[__name__], "OfTheModule", int, raising=False)
    assert text(shop.get) == "(a: Local) -> int"


def test_each_call_of_a_function_has_its_own_classes() -> None:
    def make(field: type, inner: Callable[[], Any]) -> Any:
        class Shop(Service):
            @rpc
            def get(self) -> Late: ...

        found = inner()

        @dataclass
        class Late:
            x: field  # type: ignore[valid-type]

        Late.__annotations__["x"] = field
        Late.__dataclass_fields__["x"].type = field
        return (found, Shop.get.schema) if found else Shop.get.schema

    inner, outer = make(int, lambda: make(str, lambda: None))
    assert [str(schema.result.fields[0].node) for schema in (inner, outer)] == ["str", "int"]


def test_a_deeper_call_of_the_same_function_is_not_taken_for_the_one_around_the_contract() -> None:
    def recurse(contract: Any) -> Any:
        if contract is None:

            class Shop(Service):
                @rpc
                def get(self) -> Late: ...

            return recurse(Shop)

        @dataclass
        class Late:
            x: int

        other = [contract]
        del contract
        return other[0].get.schema

    with pytest.raises(DefinitionError, match="'Late'"):
        recurse(None)


def test_functions_within_functions() -> None:
    @dataclass
    class Outer:
        x: int

    def inner() -> Any:
        @dataclass
        class Inner:
            outer: Outer

        class Shop(Service):
            @rpc
            def get(self, inner: Inner) -> Outer: ...

        return Shop

    assert text(inner().get) == "(inner: Inner) -> Outer"


def test_the_names_of_a_class_body() -> None:
    class Shop(Service):
        Kind = list[int]

        @dataclass
        class Item:
            x: int

        @rpc
        def list(self) -> list[Item]: ...
        @rpc
        def get(self, kind: Kind, item: Item, point: Point) -> Shop.Item: ...

    assert text(Shop.list) == "() -> list[Item]"
    assert text(Shop.get) == "(kind: list[int], item: Item, point: Point) -> Item"


class AtModuleLevel(Service):
    @dataclass
    class Point:
        label: str

    @rpc
    def get(self) -> Point: ...


def test_the_class_body_comes_before_the_module() -> None:
    assert AtModuleLevel.get.schema.result == node_of(AtModuleLevel.Point)
    assert not is_local(AtModuleLevel.get.function)


def test_an_implementation_within_a_function() -> None:
    def contract_and_implementation() -> tuple[Any, Any]:
        @dataclass
        class Item:
            x: int

        class Shop(Service):
            @rpc
            def get(self) -> Item: ...

        class DiskShop(Shop):
            @rpc
            def get(self) -> Item: ...

        return Shop, DiskShop

    shop, disk = contract_and_implementation()
    assert disk.get.has_schema_of(shop.get)
    assert make_proxy(disk, untyped(None)) is not None


def test_an_implementation_that_names_what_comes_later() -> None:
    class Shop(Service):
        @rpc
        def get(self) -> Late: ...

    class DiskShop(Shop):
        @rpc
        def get(self) -> Late: ...

    @dataclass
    class Late:
        x: int

    assert make_proxy(DiskShop, untyped(None)) is not None


def untyped(value: Any) -> Any:
    return value


def test_functions_of_a_function_service() -> None:
    shop = FunctionService("shop")

    @dataclass
    class Item:
        x: int

    @shop.rpc
    def get() -> Item: ...

    @shop.rpc
    def late() -> Late: ...

    @dataclass
    class Late:
        x: int

    assert resolved(get)
    assert not resolved(late)
    Table([shop])
    assert text(late) == "() -> Late"


def test_a_generator_is_a_function_too() -> None:
    def make() -> Iterator[Any]:
        @dataclass
        class Item:
            x: int

        class Shop(Service):
            @rpc
            def get(self) -> Item: ...

        yield Shop

    assert text(next(make()).get) == "() -> Item"


def test_generic_and_nested_strings_within_a_function() -> None:
    @dataclass
    class Item:
        x: int

    @dataclass
    class Box(Generic[T]):
        item: T
        next: Box[T] | None = None
        others: list["Box[T]"] | None = None  # noqa: UP037

    class Shop(Service):
        @rpc
        def get(self) -> Box[Item]: ...

    assert text(Shop.get) == "() -> Box[Item]"
    node: Any = Shop.get.schema.result
    assert [str(field.node) for field in node.fields] == ["Item", "Box[Item] | None", "list[Box[Item]] | None"]


def test_a_recursive_alias_within_a_function() -> None:
    Json = dict[str, "Json"] | list["Json"] | int  # type: ignore[misc]

    class Shop(Service):
        @rpc
        def get(self) -> Json: ...  # pyright: ignore[reportInvalidTypeForm]

    assert text(Shop.get) == "() -> dict[str, Json] | int | list[Json]"


def test_neither_a_frame_nor_its_values_are_kept() -> None:
    class Heavy:
        pass

    def make() -> tuple[Any, weakref.ref[Heavy]]:
        heavy = Heavy()

        @dataclass
        class Item:
            x: int

        class Shop(Service):
            @rpc
            def get(self) -> Item: ...

        return Shop, weakref.ref(heavy)

    gc.disable()
    try:
        shop, heavy = make()
        assert heavy() is None
        assert resolved(shop.get)
    finally:
        gc.enable()


def test_another_thread_does_not_see_the_function() -> None:
    class Shop(Service):
        @rpc
        def get(self) -> Late: ...

    @dataclass
    class Late:
        x: int

    def resolve() -> object:
        try:
            return Shop.get.schema
        except DefinitionError as error:
            return error

    assert "name 'Late' is not defined" in str(Running(resolve).result())
    assert text(Shop.get) == "() -> Late"


def test_running_around_finds_nothing_for_what_is_not_local() -> None:
    assert running_around(text, sys._getframe()) is None
    assert running_around(len, sys._getframe()) is None


def test_a_module_that_is_still_being_imported() -> None:
    module: Any = types.ModuleType("half")

    class Shop(Service):
        @rpc
        def get(self) -> module.Later: ...  # pyright: ignore[reportInvalidTypeForm]
        @rpc
        def put(self, item: HoldsLater) -> None: ...

    @dataclass
    class HoldsLater:
        later: list[module.Later]  # pyright: ignore[reportInvalidTypeForm]

    assert not resolved(Shop.get)
    words = "an annotation does not resolve: module 'half' has no attribute 'Later'"
    with pytest.raises(DefinitionError) as caught:
        Table([Shop()])
    assert caught.value.faults == (f"Shop.get: {words}", f"Shop.put: parameter 'item', in HoldsLater: {words}")
    module.Later = int
    assert text(Shop.get) == "() -> int"
    assert text(Shop.put) == "(item: HoldsLater) -> None"


def test_a_name_that_does_not_resolve_hides_no_other_fault() -> None:
    def command(a: Nowhere, b: object, c: NorThis) -> list[Nowhere]: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(SignatureFaults) as caught:
        schema_of(command, method=False)
    (fault,) = caught.value.faults
    assert fault.startswith("parameter 'b': object cannot travel")
    assert caught.value.unresolved == [
        "an annotation does not resolve: name 'Nowhere' is not defined",
        "an annotation does not resolve: name 'NorThis' is not defined",
    ]

    def only_missing(a: Nowhere) -> set[NorThis]: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(UnresolvedNames, match=r"'Nowhere' is not defined; .*'NorThis' is not defined"):
        schema_of(only_missing, method=False)


def test_faults_are_reported_at_definition_and_names_with_them_at_first_use() -> None:
    with pytest.raises(DefinitionError) as caught:

        class Shop(Service):
            @rpc
            def get(self, a: Nowhere) -> object: ...  # type: ignore[name-defined]  # noqa: F821

    (fault,) = caught.value.faults
    assert fault.startswith("get: the result: object cannot travel")

    @rpc
    def get(self: Any, a: Nowhere) -> object: ...  # type: ignore[name-defined]  # noqa: F821

    final = get.find_faults(final=True)
    assert len(final) == 2
    assert final[0].startswith("the result: object cannot travel")
    assert final[1] == "an annotation does not resolve: name 'Nowhere' is not defined"
