"""Versions of a contract against each other, both ways round, over a socket: what is safe works, the rest is refused.

`CHANGES` is the table; docs/evolution.md refers to its rows by name.
"""

import collections
import itertools
import os
import queue
import re
import sys
import types
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, Flag
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, NotRequired, TypedDict

import pytest

from tests.common.test_fork import Child
from tests.support import PATIENCE, ROOT, Log
from typedrpc import ContractMismatch, Server, Service, connect, rpc
from typedrpc.schema import compatible
from typedrpc.service import commands_of

pytestmark = [
    pytest.mark.usefixtures("no_leaks"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]

URL: Final = "tcp://127.0.0.1:0"
HEAD: Final[dict[str, Any]] = {
    "Annotated": Annotated,
    "Callable": Callable,
    "Any": Any,
    "Awaitable": Awaitable,
    "Enum": Enum,
    "Flag": Flag,
    "Iterable": Iterable,
    "Literal": Literal,
    "Mapping": Mapping,
    "NamedTuple": NamedTuple,
    "NotRequired": NotRequired,
    "Sequence": Sequence,
    "Service": Service,
    "TypedDict": TypedDict,
    "collections": collections,
    "dataclass": dataclass,
    "field": field,
    "queue": queue,
    "rpc": rpc,
    "shown": lambda values: tuple(value(1) if callable(value) else value for value in values),  # what callbacks give
    "Gt": type("Gt", (), {"__module__": "annotated_types", "__init__": lambda self, it: setattr(self, "gt", it)}),
}

SERVICE: Final = """
class Shop(Service):
    def __init__(self):
        self.seen = queue.SimpleQueue()
    @rpc
    def call{parameters} -> {result}:
        self.seen.put(repr(shown({seen})))
        return {value}
    @rpc
    def other(self, number: int) -> int:
        return number + 1
"""


_serial = itertools.count()


class Version(NamedTuple):
    """One version of the command.

    Attributes:
        parameters: Of the function, after ``self``.
        result: Its type.
        value: What it returns, an expression of its parameters.
        classes: The source of classes that it uses.
        calls: Calls that a client makes, as the arguments in brackets.
    """

    parameters: str
    calls: tuple[str, ...] = ("(1)",)
    result: str = "str"
    value: str = ""
    classes: str = ""

    def namespace(self) -> dict[str, Any]:
        names = [
            part.strip().lstrip("*").partition(":")[0] for part in split(self.parameters) if part.strip().strip("*/")
        ]
        source = SERVICE.format(
            parameters=f"(self{', ' if self.parameters else ''}{self.parameters})",
            result=self.result,
            seen=f"({', '.join(names)}{',' if names else ''})",
            value=self.value or f"repr(shown(({', '.join(names)}{',' if names else ''})))",
        )
        # A module of its own, where string annotations find their names.
        module = types.ModuleType(f"tests.version_{next(_serial)}")
        sys.modules[module.__name__] = module
        module.__dict__.update(HEAD)
        exec(self.classes, module.__dict__)
        exec(source, module.__dict__)
        return module.__dict__


def split(parameters: str) -> list[str]:
    """At the commas that are not within brackets."""
    parts, depth = [""], 0
    for character in parameters:
        depth += (character in "[({") - (character in "])}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


class Change(NamedTuple):
    """What changed from one version to the next.

    Attributes:
        name: In words, as docs/evolution.md has it.
        old, new: The two versions.
        old_client: Whether clients with the old version can call servers with the new one: the reprs of what they get,
            or a piece of the reason why not.
        new_client: The same for clients with the new version and servers with the old one.
    """

    name: str
    old: Version
    new: Version
    old_client: tuple[str, ...] | str
    new_client: tuple[str, ...] | str


POINT: Final = "@dataclass\nclass Point:\n    "
LINE: Final = "\n@dataclass\nclass Line:\n    points: list[Point]\n    by_name: dict[str, 'Point | None']"
TREE: Final = "@dataclass\nclass Tree:\n    value: {}\n    left: 'Tree | None' = None{}"
COLOUR: Final = "class Colour(Enum):\n    RED = 1\n    GREEN = 2"
POINTS: Final = ("(Point(1, 2))", "(a=Point(x=1, y=2))")
XY: Final = "x: int\n    y: int"

CHANGES: Final = [
    Change(
        "a parameter with a default is added",
        Version("a: int", ("(1)", "(a=1)")),
        Version("a: int, b: str = 'b'", ("(1)", "(1, 'x')", "(a=1, b='y')")),
        ("(1, 'b')", "(1, 'b')"),
        ("(1,)", "(1,)", "(1,)"),
    ),
    Change(
        "a parameter without a default is added",
        Version("a: int"),
        Version("a: int, b: str", ("(1, 'b')",)),
        "parameter 'b': it is required, and the caller does not give it",
        "parameter 'b': the callee does not take it",
    ),
    Change(
        "parameters are put in another order",
        Version("a: int, b: str, c: float = 0.5", ("(1, 'x')", "(b='x', a=1)", "(1, 'x', c=2.5)")),
        Version("c: float = 0.5, *, b: str, a: int", ("(b='x', a=1)", "(2.5, b='x', a=1)")),
        ("(0.5, 'x', 1)", "(0.5, 'x', 1)", "(2.5, 'x', 1)"),
        ("(1, 'x', 0.5)", "(1, 'x', 2.5)"),
    ),
    Change(
        "a parameter is renamed",
        Version("a: int"),
        Version("b: int"),
        "parameter 'a': the callee does not take it",
        "parameter 'a': it is required, and the caller does not give it",
    ),
    Change(
        "a parameter gets a default",
        Version("a: int, b: int", ("(1, 2)", "(b=2, a=1)")),
        Version("a: int, b: int = 7", ("(1)",)),
        ("(1, 2)", "(1, 2)"),
        "parameter 'b': the callee requires it, and the caller may leave it out",
    ),
    Change(
        "parameters become keyword-only",
        Version("a: int, b: int = 0", ("(1)", "(1, 2)", "(b=2, a=1)")),
        Version("*, a: int, b: int = 0", ("(a=1)", "(a=1, b=2)")),
        ("(1, 0)", "(1, 2)", "(1, 2)"),
        ("(1, 0)", "(1, 2)"),
    ),
    Change(
        "parameters become positional-only",
        Version("a: int = 0, b: int = 0", ("(1, 2)",)),
        Version("a: int = 0, b: int = 0, /", ("()", "(1)", "(1, 2)")),
        "parameter 'b': it goes by position, and the caller may leave out 'a'",
        ("(0, 0)", "(1, 0)", "(1, 2)"),
    ),
    Change(
        "*args are added",
        Version("a: int", ("(1)", "(a=1)")),
        Version("a: int, *more: int", ("(1)", "(1, 2)")),
        ("(1, ())", "(1, ())"),
        "parameter '*more': the callee does not take it",
    ),
    Change(
        "an optional parameter is added before *args",
        Version("a: int, *more: int", ("(1, 2, 3)",)),
        Version("a: int, b: int = 0, *more: int", ("(1, 2, 3)",)),
        "parameter '*more': it goes by position, and the caller may leave out 'b'",
        "parameter 'b': the callee does not take it, or takes it among '*more'",
    ),
    Change(
        "an optional parameter is added before **kwargs",
        Version("a: int, **more: int", ("(1, b=2)",)),
        Version("a: int, b: int = 0, **more: int", ("(1, c=2)", "(1, b=5)")),
        "parameter 'b': the caller may give it among '**more'",
        "parameter 'b': the callee does not take it, or takes it among '**more'",
    ),
    Change(
        "int becomes float",
        Version("a: int", ("(1)", "(a=2)")),
        Version("a: float", ("(1.5)",)),
        ("(1.0,)", "(2.0,)"),
        "parameter 'a': float cannot be read as int",
    ),
    Change(
        "a type becomes a union with it",
        Version("a: int", ("(1)", "(a=2)")),
        Version("a: int | str", ("('x')",)),
        ("(1,)", "(2,)"),
        "parameter 'a': str cannot be read as int",
    ),
    Change(
        "None is allowed",
        Version("a: bytes", ("(b'x')",)),
        Version("a: bytes | None = None", ("(None)",)),
        ("(b'x',)",),
        "parameter 'a': None cannot be read as bytes",
    ),
    Change(
        "list becomes Sequence",
        Version("a: list[int]", ("([1, 2])", "(a=[])")),
        Version("a: Sequence[int]", ("((1, 2))",)),
        ("([1, 2],)", "([],)"),
        "parameter 'a': Sequence[int] cannot be read as list[int]",
    ),
    Change(
        "dict becomes Mapping",
        Version("a: dict[str, int]", ("({'x': 1})",)),
        Version("a: Mapping[str, int | None]", ("({'x': None})",)),
        ("({'x': 1},)",),
        "parameter 'a': Mapping[str, int | None] cannot be read as dict[str, int]",
    ),
    Change(
        "a value is added to a Literal",
        Version("a: Literal['r', 'w']", ("('r')", "(a='w')")),
        Version("a: Literal['r', 'w', 'x']", ("('x')",)),
        ("('r',)", "('w',)"),
        "parameter 'a': Literal['r', 'w', 'x'] cannot be read as Literal['r', 'w']",
    ),
    Change(
        "a member is added to an enum",
        Version("a: Colour", ("(Colour.RED)", "(a=Colour.GREEN)"), value="a.name", classes=COLOUR),
        Version("a: Colour", ("(Colour.BLUE)",), value="a.name", classes=COLOUR + "\n    BLUE = 3"),
        ("RED", "GREEN"),
        "parameter 'a': the reader's Colour has no BLUE",
    ),
    Change(
        "a member is added to a flag",
        Version("a: Right", ("(Right.R | Right.W)",), value="str(a.value)", classes="class Right(Flag): R = 1; W = 2"),
        Version("a: Right", ("(Right.X)",), value="str(a.value)", classes="class Right(Flag): R = 1; W = 2; X = 4"),
        ("3",),
        "parameter 'a': the reader's Right has no X, or another bit for it",
    ),
    Change(
        "a field with a default is added",
        Version("a: Point", POINTS, classes=POINT + XY),
        Version("a: Point", ("(Point(1, 2, 3))", "(a=Point(1, 2))"), classes=POINT + XY + "\n    z: int = 9"),
        ("(Point(x=1, y=2, z=9),)",) * 2,
        ("(Point(x=1, y=2),)",) * 2,
    ),
    Change(
        "a field without a default is added",
        Version("a: Point", POINTS, classes=POINT + XY),
        Version("a: Point", ("(Point(1, 2, b'z'))",), classes=POINT + XY + "\n    z: bytes"),
        "parameter 'a'.z: it is required, and the writer does not have it",
        ("(Point(x=1, y=2),)",),
    ),
    Change(
        "a field is put in another place",
        Version("a: Point", ("(Point(1, '2'))", "(a=Point(1, '2'))"), classes=POINT + "x: int\n    y: str = ''"),
        Version("a: Point", ("(Point('2', 1))",), classes=POINT + "y: str\n    x: int"),
        ("(Point(y='2', x=1),)",) * 2,
        ("(Point(x=1, y='2'),)",),
    ),
    Change(
        "a field is renamed",
        Version("a: Point", POINTS, classes=POINT + XY),
        Version("a: Point", ("(Point(1, 2))",), classes=POINT + "x: int\n    w: int"),
        "parameter 'a'.w: it is required, and the writer does not have it",
        "parameter 'a'.y: it is required, and the writer does not have it",
    ),
    Change(
        "a field is added to a class in collections of a class",
        Version("a: Line", ("(Line([Point(1, 2)], {'p': None}))",), classes=POINT + XY + LINE),
        Version("a: Line", ("(Line([], {'p': Point(1, 2, 3)}))",), classes=POINT + XY + "\n    z: int = 9" + LINE),
        ("(Line(points=[Point(x=1, y=2, z=9)], by_name={'p': None}),)",),
        ("(Line(points=[], by_name={'p': Point(x=1, y=2)}),)",),
    ),
    Change(
        "a field is added to a recursive class",
        Version("a: Tree", ("(Tree(1, Tree(2)))",), classes=TREE.format("int", "")),
        Version("a: Tree", ("(Tree(1, None, 'x'))",), classes=TREE.format("int", "\n    label: str = 'l'")),
        ("(Tree(value=1, left=Tree(value=2, left=None, label='l'), label='l'),)",),
        ("(Tree(value=1, left=None),)",),
    ),
    Change(
        "the type of a field of a recursive class is widened",
        Version("a: Tree", ("(Tree(1, Tree(2)))",), classes=TREE.format("int", "")),
        Version("a: Tree", ("(Tree(1))",), classes=TREE.format("float", "")),
        ("(Tree(value=1.0, left=Tree(value=2.0, left=None)),)",),
        "parameter 'a'.value: float cannot be read as int",
    ),
    Change(
        "a class is renamed",
        Version("a: Point", ("(Point(1, 2))",), classes=POINT + XY),
        Version("a: Place", ("(Place(1, 2))",), classes=POINT.replace("Point", "Place") + XY),
        ("(Place(x=1, y=2),)",),
        ("(Point(x=1, y=2),)",),
    ),
    Change(
        "a dataclass becomes a NamedTuple",
        Version("a: Point", POINTS, classes=POINT + XY),
        Version("a: Point", ("(Point(1, 2))",), classes="class Point(NamedTuple):\n    y: int\n    x: int = 0"),
        ("(Point(y=2, x=1),)",) * 2,
        ("(Point(x=2, y=1),)",),
    ),
    Change(
        "a member is added to a union with an index",
        Version("a: list[int] | list[str]", ("([1])", "(['a'])")),
        Version("a: list[bytes] | list[int] | list[str]", ("([b'x'])",)),
        ("([1],)", "(['a'],)"),
        "parameter 'a': list[bytes] cannot be read as list[int] | list[str]",
    ),
    Change(
        "a member of a union gets a field, and the union an index",
        Version("a: Point | int", ("(Point(1, 2))", "(5)"), classes=POINT + XY),
        Version("a: Point | int | list[int]", ("([1])",), classes=POINT + XY + "\n    z: int = 9"),
        ("(Point(x=1, y=2, z=9),)", "(5,)"),
        "parameter 'a': list[int] cannot be read as Point | int",
    ),
    Change(
        "a key that may be missing is added to a TypedDict",
        Version("a: O", ("({'x': 1})",), classes="class O(TypedDict):\n    x: int"),
        Version("a: O", ("({'x': 1, 'y': 2})",), classes="class O(TypedDict):\n    x: int\n    y: NotRequired[int]"),
        ("({'x': 1},)",),
        ("({'x': 1},)",),
    ),
    Change(
        "a key of a TypedDict becomes required",
        Version("a: O", ("({})",), classes="class O(TypedDict):\n    x: NotRequired[int]"),
        Version("a: O", ("({'x': 1})",), classes="class O(TypedDict):\n    x: int"),
        "parameter 'a'.x: it has to be there, and the writer may leave it out",
        ("({'x': 1},)",),
    ),
    Change(
        "a constraint is loosened",
        Version("a: Annotated[int, Gt(5)]", ("(6)", "(a=7)")),
        Version("a: Annotated[int, Gt(0)]", ("(6)",)),
        ("(6,)", "(7,)"),
        "parameter 'a': it has to fit Gt(5), which the writer does not see to",
    ),
    Change(
        "a constraint is added",
        Version("a: int"),
        Version("a: Annotated[int, Gt(0)]"),
        "parameter 'a': it has to fit Gt(0), which the writer does not see to",
        ("(1,)",),
    ),
    Change(
        "a type is replaced by another",
        Version("a: int"),
        Version("a: str", ("('1')",)),
        "parameter 'a': int cannot be read as str",
        "parameter 'a': str cannot be read as int",
    ),
    Change(
        "the result is widened",
        Version("a: int", result="int", value="a"),
        Version("a: int", result="int | None", value="a"),
        "the result: None cannot be read as int",
        ("1",),
    ),
    Change(
        "the result is narrowed",
        Version("a: int", result="float", value="a / 2"),
        Version("a: int", result="int", value="a"),
        ("1.0",),
        "the result: float cannot be read as int",
    ),
    Change(
        "a field with a default is added to the result",
        Version("a: int", result="list[Point]", value="[Point(a, 2)]", classes=POINT + XY),
        Version("a: int", result="list[Point]", value="[Point(a, 2, 3)]", classes=POINT + XY + "\n    z: int = 9"),
        ("[Point(x=1, y=2)]",),
        ("[Point(x=1, y=2, z=9)]",),
    ),
    Change(
        "an optional callback is added",
        Version("a: int", ("(1)", "(a=1)")),
        Version(
            "a: int, use: Callable[[int], int] | None = None",
            ("(1)", "(1, lambda number: number + 5)", "(a=1, use=abs)"),
        ),
        ("(1, None)", "(1, None)"),
        ("(1,)", "(1,)", "(1,)"),
    ),
    Change(
        "None is allowed instead of a callback",
        Version("use: Callable[[int], int]", ("(lambda number: number + 5)", "(use=abs)")),
        Version("use: Callable[[int], int] | None", ("(None)",)),
        ("(6,)", "(1,)"),
        "parameter 'use': None cannot be read as",
    ),
    Change(
        "a callback is allowed instead of a value",
        Version("use: int", ("(3)", "(use=4)")),
        Version("use: int | Callable[[int], int]", ("(lambda number: number)",)),
        ("(3,)", "(4,)"),
        "parameter 'use': Callable[[int], int] cannot be read as int",
    ),
    Change(
        "what a callback takes is widened",
        Version("use: Callable[[int], int]", ("(abs)",)),
        Version("use: Callable[[float], int]", ("(round)",)),
        "parameter 'use': ",
        "parameter 'use': ",
    ),
    Change(
        "a callback is awaited",
        Version("use: Callable[[int], int]", ("(abs)",)),
        Version("use: Callable[[int], Awaitable[int]]", ("(abs)",)),
        "parameter 'use': ",
        "parameter 'use': ",
    ),
    Change(
        "None becomes a result",
        Version("a: int", result="None", value="None"),
        Version("a: int", result="int", value="a"),
        "the result: int cannot be read as None",
        "the result: None cannot be read as int",
    ),
]

DIRECTIONS: Final = [
    pytest.param(change, change.old, change.new, change.old_client, id=f"{change.name}, old client")
    for change in CHANGES
] + [
    pytest.param(change, change.new, change.old, change.new_client, id=f"{change.name}, new client")
    for change in CHANGES
]


def taken_apart(call: str, names: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that stand in brackets."""
    arguments: Callable[..., Any] = lambda *args, **kwargs: (args, kwargs)  # noqa: E731  # for eval
    found: tuple[tuple[Any, ...], dict[str, Any]] = eval(f"arguments{call}", {**names, "arguments": arguments})
    return found


def text_of(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


@pytest.mark.parametrize(("change", "ours", "theirs", "outcome"), DIRECTIONS)
def test_versions_against_each_other(
    change: Change, ours: Version, theirs: Version, outcome: tuple[str, ...] | str
) -> None:
    here, there = ours.namespace(), theirs.namespace()
    calls = [taken_apart(call, here) for call in ours.calls]
    service = there["Shop"]()
    with Server(service, url=URL) as server, connect(here["Shop"], server.url) as shop:
        if isinstance(outcome, str):
            signatures = [str(commands_of(names["Shop"])["call"].schema) for names in (here, there)]
            (args, kwargs), *_ = calls
            forms: list[Callable[[], object]] = [
                lambda: shop.call(*args, **kwargs),
                lambda: shop.call.submit(*args, **kwargs).result(PATIENCE),
                lambda: shop.call.notify(*args, **kwargs),
                lambda: shop.call.with_options(timeout=PATIENCE)(*args, **kwargs),
                lambda: list(shop.call.map(*([value] for value in args))),
            ]
            for refused in forms if args else forms[:-1]:
                with pytest.raises(ContractMismatch) as raised:
                    refused()
                assert raised.value.command == "Shop.call"
                assert [raised.value.ours, raised.value.theirs] == signatures
                assert outcome in str(raised.value)
            assert service.seen.empty()
        else:
            assert len(calls) == len(outcome)
            timed = shop.call.with_options(timeout=PATIENCE)
            for (args, kwargs), result in zip(calls, outcome, strict=True):
                assert text_of(shop.call(*args, **kwargs)) == result
                assert text_of(shop.call(*args, **kwargs)) == result
                assert text_of(timed(*args, **kwargs)) == result
                assert text_of(shop.call.submit(*args, **kwargs).result(PATIENCE)) == result
                if not kwargs and args:
                    columns = [[value, value] for value in args]
                    assert [text_of(one) for one in shop.call.map(*columns)] == [result, result]
                seen = service.seen.get(timeout=PATIENCE)
                while not service.seen.empty():
                    assert service.seen.get() == seen
                shop.call.notify(*args, **kwargs)
                assert service.seen.get(timeout=PATIENCE) == seen
        assert shop.other(1) == 2


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_compatible_says_what_happens(change: Change) -> None:
    old, new = (commands_of(names.namespace()["Shop"])["call"].schema for names in (change.old, change.new))
    for writer, reader, outcome in ((old, new, change.old_client), (new, old, change.new_client)):
        breaking = [f"{found.where}: {found.text}" for found in compatible(writer, reader) if not found.safe]
        assert any(outcome in text for text in breaking) if isinstance(outcome, str) else not breaking


def test_the_table_has_every_row_once() -> None:
    assert len({change.name for change in CHANGES}) == len(CHANGES) >= 30


# Contracts with several commands and several versions

BIG: Final = 100
DIFFERENT: Final = (3, 50, 99)


def big(version: int) -> type[Service]:
    """A service with many commands, of which few differ between two versions."""
    lines = ["class Big(Service):"]
    for number in range(BIG):
        more = ", second_number: int = 5" if version == 2 or (version and number in DIFFERENT) else ""
        lines += [
            "    @rpc",
            f"    def c{number}(self, a: int{more}) -> int: return a + {number}{' + second_number' if more else ''}",
        ]
    namespace = dict(HEAD)
    exec("\n".join(lines), namespace)
    found: type[Service] = namespace["Big"]
    return found


@pytest.mark.parametrize("newer", [0, 1])
def test_a_service_with_many_commands_of_which_few_differ(newer: int) -> None:
    server_class: Any = big(1 - newer)
    with Server(server_class(), url=URL) as server, connect(big(newer), server.url) as proxy:
        for number in range(BIG):
            more = 5 if number in DIFFERENT and not newer else 0
            assert getattr(proxy, f"c{number}")(1) == 1 + number + more
        (peer,) = server.peers
        assert len(peer.versions.rows) == len(DIFFERENT)


def test_a_peer_that_takes_small_messages_only(log: Log) -> None:
    """All that differs is more than one message holds, and is agreed about in parts."""
    server_class: Any = big(2)
    with (
        Server(server_class(), url=URL, max_message_size=2500) as server,
        connect(big(0), server.url, max_message_size=2500) as proxy,
    ):
        assert [getattr(proxy, f"c{number}")(1) for number in range(BIG)] == [number + 6 for number in range(BIG)]
    assert "typedrpc.signatures" in log.line()


def shop_of(name: str, new: bool) -> dict[str, Any]:
    (change,) = [change for change in CHANGES if change.name == name]
    return (change.new if new else change.old).namespace()


def test_two_clients_of_different_versions_at_one_server() -> None:
    name = "a field with a default is added to the result"
    old, new = shop_of(name, False), shop_of(name, True)
    with (
        Server(new["Shop"](), url=URL) as server,
        connect(old["Shop"], server.url) as first,
        connect(new["Shop"], server.url) as second,
    ):
        for _ in range(3):
            assert text_of(first.call(1)) == "[Point(x=1, y=2)]"
            assert text_of(second.call(1)) == "[Point(x=1, y=2, z=3)]"


def test_two_versions_of_a_contract_on_one_connection() -> None:
    change = next(change for change in CHANGES if change.name == "int becomes float")
    third = change.old._replace(parameters="a: bool").namespace()
    old, new = change.old.namespace(), change.new.namespace()
    with Server(new["Shop"](), url=URL) as server, connect(server.url) as client:
        proxies = [client.proxy(names["Shop"]) for names in (old, new, third, old)]
        for _ in range(2):
            assert [proxy.call(True) for proxy in (proxies[2], proxies[1])] == ["(1.0,)", "(1.0,)"]
            assert proxies[0].call(4) == proxies[3].call(4) == "(4.0,)"
        (peer,) = server.peers
        assert len(peer.versions.rows) == 2


def test_connections_share_what_is_compiled() -> None:
    from typedrpc import dispatch

    old, new = shop_of("int becomes float", False), shop_of("int becomes float", True)
    with Server(new["Shop"](), url=URL) as server:
        with connect(old["Shop"], server.url) as shop:
            assert shop.call(1) == "(1.0,)"
        before = dispatch._adapter.cache_info().misses
        for _ in range(3):
            with connect(old["Shop"], server.url) as shop:
                assert shop.call(1) == "(1.0,)"
        assert dispatch._adapter.cache_info().misses == before
    assert dispatch._adapter.cache_info().maxsize == dispatch.MAX_ADAPTERS


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_agrees_anew() -> None:
    """Its numbers are those of its own connection."""
    name = "a field with a default is added to the result"
    old, new = shop_of(name, False), shop_of(name, True)
    with Server(new["Shop"](), url=URL) as server, connect(server.url) as client:
        client.proxy(shop_of(name, False)["Shop"])
        shop: Any = client.proxy(old["Shop"])

        def call() -> None:
            assert text_of(shop.call(1)) == "[Point(x=1, y=2)]"
            assert text_of(shop.call.submit(1).result(PATIENCE)) == "[Point(x=1, y=2)]"
            assert shop.other(1) == 2

        call()
        Child(call).finish()
        call()


def test_large_values_travel_beside_the_body_between_versions() -> None:
    old = Version("a: bytes, b: bytes = b''", ("()",), result="bytes", value="a")
    new = Version("a: bytes | None, c: int = 0", ("()",), result="bytes", value="a")
    large = bytes(200_000)
    with Server(new.namespace()["Shop"](), url=URL) as server, connect(old.namespace()["Shop"], server.url) as shop:
        assert shop.call(large, large) == large  # what is ignored has a segment, too
        assert shop.call(b"x", large) == b"x"
        assert shop.call(large) == large


def test_large_values_in_what_is_ignored() -> None:
    """Each has to be taken from beside the body, wherever it is."""
    fields = "\n    rest: dict[str, list[bytes | None]] = field(default_factory=dict)\n    more: bytes = b''"
    keys = "\n    rest: NotRequired[list[bytes]]"
    keyed = "\nclass O(TypedDict):\n    x: int"
    large = bytes(100_000)
    old = Version("a: list[Point], o: O", result="list[Point]", value="a", classes=POINT + XY + keyed)
    new = Version(
        "a: list[Point], o: O",
        result="list[Point]",
        value="[Point(1, 2, {'a': [bytes(100_000)]}, bytes(70_000))] * 3",
        classes=POINT + XY + fields + keyed + keys,
    )
    first, second = old.namespace(), new.namespace()
    full = second["Point"](1, 2, {"a": [large, None], "b": [b"", large]}, large)
    with Server(first["Shop"](), url=URL) as server, connect(second["Shop"], server.url) as shop:
        assert shop.call([full, full], {"x": 1, "rest": [large, b"x"]}) == [second["Point"](1, 2)] * 2
    with Server(second["Shop"](), url=URL) as server, connect(first["Shop"], server.url) as shop:
        assert shop.call([first["Point"](1, 2)], {"x": 1}) == [first["Point"](1, 2)] * 3


def test_arguments_that_do_not_fit_are_refused_by_the_callers_version() -> None:
    old, new = shop_of("a constraint is loosened", False), shop_of("a constraint is loosened", True)
    with Server(new["Shop"](), url=URL) as server, connect(old["Shop"], server.url) as shop:
        with pytest.raises(ValueError, match=r"Shop\.call: argument 'a': expected .*Gt\(5\).*, got 3"):
            shop.call(3)
        with pytest.raises(TypeError, match=r"Shop\.call: argument 'a'"):
            shop.call("3")


def test_a_number_that_no_float_is_equal_to() -> None:
    """What is safe by its types, and what Python itself would not convert without loss."""
    old, new = shop_of("int becomes float", False), shop_of("int becomes float", True)
    with Server(new["Shop"](), url=URL) as server, connect(old["Shop"], server.url) as shop:
        with pytest.raises(ValueError, match="no float is equal to it"):
            shop.call(2**53 + 1)
        assert shop.call(2**53) == "(9007199254740992.0,)"


@pytest.fixture(autouse=True)
def quiet(log: Log) -> None:
    """Nothing of all this is worth a line in the log."""


# docs/evolution.md

PAGE: Final = (ROOT / "docs" / "evolution.md").read_text(encoding="utf-8")


def test_the_page_has_the_changes_that_are_tested() -> None:
    rows = re.findall(r"(?m)^\| (.*?) \| (works|refused) \| (works|refused) \|$", PAGE)
    assert rows == [
        (change.name, *("refused" if isinstance(outcome, str) else "works" for outcome in change[3:]))
        for change in CHANGES
    ]


def test_the_page_shows_an_error_as_it_is() -> None:
    change = next(change for change in CHANGES if change.name == "a type is replaced by another")
    with (
        Server(change.new.namespace()["Shop"](), url=URL) as server,
        connect(change.old.namespace()["Shop"], server.url) as shop,
        pytest.raises(ContractMismatch) as raised,
    ):
        shop.call(1)
    assert f"```\n{raised.value}\n```" in PAGE


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_the_test_on_the_page_finds_what_breaks(
    change: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording, checking = re.findall(r"(?s)```python\n(.*?)```", PAGE)
    namespace: dict[str, Any] = {}
    exec(recording, namespace)
    (tmp_path / "shop-1.0.json").write_text(namespace["record"](change.old.namespace()["Shop"]))
    shop = types.ModuleType("shop")
    shop.__dict__.update(change.new.namespace())
    monkeypatch.setitem(sys.modules, "shop", shop)
    namespace = {"__file__": str(tmp_path / "test_shop.py")}
    exec(checking, namespace)
    if isinstance(change.old_client, str):
        with pytest.raises(AssertionError):
            namespace["test_clients_of_version_1_can_still_call"]()
    else:
        namespace["test_clients_of_version_1_can_still_call"]()
