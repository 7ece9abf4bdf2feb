"""Signatures: read from functions, printed, and told apart by their fingerprints."""

import functools
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, make_dataclass
from types import FunctionType
from typing import Annotated, Any

import pytest
from annotated_types import MaxLen

from typedrpc.schema import (
    Field,
    Parameter,
    ParameterKind,
    RecordNode,
    Schema,
    SignatureFaults,
    UnresolvedNames,
    node_of,
    schema_of,
)


@dataclass
class Point:
    x: int
    y: int = 0


def everything(
    self: object, a: int, /, b: "str", c: bool = True, *args: float, d: Point, e: None = None, **kwargs: bytes
) -> list[str]:
    raise NotImplementedError


def test_a_signature_has_every_kind_of_parameter() -> None:
    signature = schema_of(everything, method=True)
    assert str(signature) == (
        "(a: int, /, b: str, c: bool = ..., *args: float, d: Point, e: None = ..., **kwargs: bytes) -> list[str]"
    )
    assert [(p.kind.name, p.required) for p in signature.parameters] == [
        ("POSITIONAL_ONLY", True),
        ("POSITIONAL_OR_KEYWORD", True),
        ("POSITIONAL_OR_KEYWORD", False),
        ("VAR_POSITIONAL", False),
        ("KEYWORD_ONLY", True),
        ("KEYWORD_ONLY", False),
        ("VAR_KEYWORD", False),
    ]
    assert Schema.from_data(signature.to_data()) == signature


def test_signatures_print_as_python_writes_them() -> None:
    def only(a: int, /) -> None: ...
    def named(*, a: int) -> None: ...
    def none() -> None: ...

    assert str(schema_of(only, method=False)) == "(a: int, /) -> None"
    assert str(schema_of(named, method=False)) == "(*, a: int) -> None"
    assert str(schema_of(none, method=False)) == "() -> None"


def test_all_the_faults_of_a_signature_come_together() -> None:
    def command(self, a, b: object, *c, d: list, **e):  # type: ignore[no-untyped-def,type-arg]
        ...

    with pytest.raises(SignatureFaults) as caught:
        schema_of(command, method=True)
    assert caught.value.faults == [
        "parameter 'a' has no annotation; give it the type of its argument",
        (
            "parameter 'b': object cannot travel: it says nothing of what travels; name the type, or a union of the "
            "types, or Any for plain data"
        ),
        "parameter '*c' has no annotation; give it the type of each argument",
        "parameter 'd': list cannot travel: it does not say what it holds; give the types in brackets, as in list[int]",
        "parameter '**e' has no annotation; give it the type of each argument",
        "the result has no annotation; write '-> None' where there is none",
    ]


def test_a_method_needs_self() -> None:
    def bare() -> None: ...
    def star(*args: int) -> None: ...

    for function in (bare, star):
        with pytest.raises(SignatureFaults, match="takes self as its first parameter"):
            schema_of(function, method=True)


def test_a_function_without_a_readable_signature_is_a_fault() -> None:
    with pytest.raises(SignatureFaults, match="its parameters cannot be read: no signature found for builtin"):
        schema_of(iter, method=False)


def test_an_annotation_that_is_no_expression_is_a_fault() -> None:
    def command(x: int) -> None: ...

    command.__annotations__["x"] = "1 +"
    with pytest.raises(SignatureFaults, match="an annotation cannot be evaluated: SyntaxError"):
        schema_of(command, method=False)


def test_a_class_that_is_not_there_yet_is_a_name_error() -> None:
    late = make_dataclass("Late", [("x", "NotThereYet")])
    with pytest.raises(UnresolvedNames, match="in Late: an annotation does not resolve: name 'NotThereYet' is not"):
        node_of(late)

    def command(x: "NotThereYet") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(NameError, match="name 'NotThereYet' is not defined"):
        schema_of(command, method=False)


FINGERPRINT = "94edbc4c47a1b824"


def test_fingerprints_do_not_depend_on_the_process() -> None:
    program = (
        "from dataclasses import dataclass\n"
        "from typing import Literal\n"
        "from typedrpc.schema import schema_of\n"
        "@dataclass\n"
        "class P:\n"
        "    x: int | str | None\n"
        "    ü: Literal['b', 'ä', 1]\n"
        "def f(a: set[str | bytes], *b: P, c: frozenset[int] = frozenset()) -> dict[str, P]: ...\n"
        "print(schema_of(f, method=False).fingerprint.hex())\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in (1, 2)
    }
    assert outputs == {FINGERPRINT}


def test_fingerprints_tell_apart_what_travels_apart() -> None:
    def one(a: int, b: str = "") -> None: ...
    def renamed(a: int, c: str = "") -> None: ...
    def reordered(b: str = "", *, a: int) -> None: ...
    def required(a: int, b: str) -> None: ...
    def by_name(a: int, *, b: str = "") -> None: ...
    def retyped(a: int, b: str | None = "") -> None: ...
    def result(a: int, b: str = "") -> int: ...  # type: ignore[empty-body]
    def shorter(a: int) -> None: ...
    def same(a: int, b: str = "another") -> None: ...

    functions = (one, renamed, reordered, required, by_name, retyped, result, shorter)
    schemas = [schema_of(function, method=False) for function in functions]
    assert len({schema.fingerprint for schema in schemas}) == len(schemas)
    assert len(set(schemas)) == len(schemas)
    assert schema_of(same, method=False).fingerprint == schemas[0].fingerprint
    assert schema_of(same, method=False) == schemas[0]
    assert hash(schema_of(same, method=False)) == hash(schemas[0])


def test_schemas_are_compared_in_the_whole() -> None:
    def ring(length: int) -> RecordNode:
        nodes = [RecordNode("Ring") for _ in range(length)]
        for number, node in enumerate(nodes):
            node.complete((Field("next", nodes[(number + 1) % length], True),))
        return nodes[0]

    def schema(length: int) -> Schema:
        return Schema((Parameter("x", ParameterKind.POSITIONAL_OR_KEYWORD, ring(length), True),), ring(length))

    assert schema(2) == schema(3)
    assert schema(2) != Schema((), ring(2))
    assert schema(2) != "a schema"
    assert repr(schema(2)) == "<Schema (x: Ring) -> Ring>"


def test_what_a_wrapper_wraps_is_read() -> None:
    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: object) -> object:
            return function(*args)

        return wrapper

    @decorate
    def command(a: "Point", b: int = 0) -> "list[Point]": ...  # type: ignore[empty-body]

    assert str(schema_of(command, method=False)) == "(a: Point, b: int = ...) -> list[Point]"


def test_a_bound_method_and_its_class() -> None:
    class Holder:
        Inner = Point

        def list(self, inner: "Inner") -> "list[Inner]": ...  # type: ignore[empty-body,valid-type]

    with pytest.raises(UnresolvedNames, match="'Inner'"):
        schema_of(Holder.list, method=True)
    assert str(schema_of(Holder.list, method=True, owner=Holder)) == "(inner: Point) -> list[Point]"


def plain() -> Any: ...


def generator() -> Iterator[int]:
    yield 1


async def coroutine() -> Any: ...


async def async_generator() -> AsyncIterator[int]:
    yield 1


def giving(function: Callable[..., Any], hint: Any) -> Callable[..., Any]:
    copy = FunctionType(function.__code__, globals())
    copy.__annotations__ = {"return": hint}
    return copy


AN_ITERATOR = "def with yield gives an Iterator, not"
AN_ASYNC_ITERATOR = "async def with yield gives an AsyncIterator, not"
COLOURS: list[tuple[Callable[..., Any], Any, str | None]] = [
    (plain, int, None),
    (plain, Iterator[int], None),
    (plain, AsyncIterator[int], None),
    (generator, Iterator[int], None),
    (generator, Annotated[Iterator[int], "rows"], None),
    (generator, Iterable[int], None),
    (generator, Iterable[int] | None, None),
    (generator, Annotated[Iterable[int], MaxLen(3)], None),
    (generator, AsyncIterator[int], f"{AN_ITERATOR} AsyncIterator[int]: write async def"),
    (generator, int, f"{AN_ITERATOR} int: annotate Iterator[...]"),
    (generator, list[int], f"{AN_ITERATOR} list[int]: annotate Iterator[...]"),
    (generator, None, f"{AN_ITERATOR} None: annotate Iterator[...]"),
    (coroutine, int, None),
    (coroutine, Iterable[int], None),
    (coroutine, Iterator[int], "async def without yield gives a coroutine, not Iterator[int]: write def"),
    (
        coroutine,
        AsyncIterator[int],
        "async def without yield gives a coroutine, not AsyncIterator[int]: write def, or yield in it",
    ),
    (async_generator, AsyncIterator[int], None),
    (async_generator, Iterator[int], f"{AN_ASYNC_ITERATOR} Iterator[int]: annotate AsyncIterator[...]"),
    (async_generator, Iterable[int], f"{AN_ASYNC_ITERATOR} Iterable[int]: annotate AsyncIterator[...]"),
    (async_generator, int, f"{AN_ASYNC_ITERATOR} int: annotate AsyncIterator[...]"),
]


@pytest.mark.parametrize(("function", "hint", "fault"), COLOURS)
def test_what_a_function_is_fits_what_it_declares(function: Callable[..., Any], hint: Any, fault: str | None) -> None:
    command = giving(function, hint)
    if fault is None:
        assert schema_of(command, method=False).result == node_of_result(hint)
    else:
        with pytest.raises(SignatureFaults) as caught:
            schema_of(command, method=False)
        assert caught.value.faults == [fault]


def node_of_result(hint: Any) -> Any:
    return schema_of(giving(plain, hint), method=False).result


@pytest.mark.parametrize("function", [coroutine, async_generator, generator])
def test_a_result_that_is_refused_says_nothing_of_the_colour(function: Callable[..., Any]) -> None:
    with pytest.raises(SignatureFaults) as caught:
        schema_of(giving(function, object), method=False)
    assert len(caught.value.faults) == 1
    with pytest.raises(UnresolvedNames):
        schema_of(giving(function, "Nowhere"), method=False)


def test_a_function_without_a_declared_result_is_told_of_that() -> None:
    async def rows():  # type: ignore[no-untyped-def]  # that is the test
        yield 1

    with pytest.raises(SignatureFaults) as caught:
        schema_of(rows, method=False)
    assert caught.value.faults[0] == "the result has no annotation; write '-> None' where there is none"
