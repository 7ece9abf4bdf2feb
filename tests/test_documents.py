"""What docs/protocol.md and docs/limits.md say is what the code does."""

import importlib
import inspect
import re
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

import pytest

from typedrpc import Server, codec, connect, errors
from typedrpc.agreement import BUILTIN_COMMANDS
from typedrpc.codec import MAX_SEGMENTS, SEGMENT_THRESHOLD, body
from typedrpc.definition import FIRST_RESERVED_ID
from typedrpc.failure import _TEXT_ERRORS, MAX_ARGUMENTS, MAX_TEXT, MAX_TRACE, PUBLIC_BUILTINS, Code
from typedrpc.messages import MAX_REASON, MAX_TIME_LEFT, MIN_MESSAGE_SIZE, Extension, ProtocolCommand
from typedrpc.protocol import HELLO_LIMIT, MAX_PING
from typedrpc.schema import conversions, data, node_of, nodes, widening
from typedrpc.schema.constraints import MAX_TEXT as constraint_text
from typedrpc.wire import KNOWN_FLAGS, MAX_FRAME_SIZE, PREAMBLE, VERSION, Flag, Kind

DOCS: Final = Path(__file__).resolve().parent.parent / "docs"
PROTOCOL: Final = (DOCS / "protocol.md").read_text(encoding="utf-8")
LIMITS: Final = (DOCS / "limits.md").read_text(encoding="utf-8")


def tables(text: str) -> Iterator[list[list[str]]]:
    """The tables of a document, as rows of cells, with their heads."""
    for block in re.findall(r"(?m)(?:^ *\|.*\n)+", text):
        rows = [[cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in block.splitlines()]
        yield [rows[0], *rows[2:]]


def table(text: str, *head: str) -> dict[str, list[str]]:
    """The rows of the table whose head begins so, by their first cell."""
    (found,) = [rows for rows in tables(text) if tuple(rows[0][: len(head)]) == head]
    rows = {row[0]: row[1:] for row in found[1:]}
    assert len(rows) == len(found) - 1
    return rows


def members(of: type) -> dict[str, int]:
    if issubclass(of, IntEnum):
        return {member.name: int(member) for member in of}
    return {name: value for name, value in vars(of).items() if name.isupper()}


def reserved(of: type) -> set[str]:
    """The names that a comment in the source calls reserved."""
    return set(re.findall(r"(?m)^ +([A-Z]+)\b.*= .*# reserved", inspect.getsource(of)))


@pytest.mark.parametrize(
    ("head", "of", "reserved_at"),
    [
        (("kind", "value"), Kind, 1),
        (("flag", "value"), Flag, 1),
        (("extension", "key"), Extension, 1),
        (("error", "code"), Code, 1),
        (("command", "id"), ProtocolCommand, None),
    ],
)
def test_numbers_are_those_of_the_code(head: tuple[str, str], of: type, reserved_at: int | None) -> None:
    rows = table(PROTOCOL, *head)
    assert {name: int(row[0], 0) for name, row in rows.items()} == members(of)
    if reserved_at is not None:
        assert {name for name, row in rows.items() if row[reserved_at] == "reserved"} == reserved(of)


def test_what_is_reserved_is_listed_with_its_purpose() -> None:
    listed = {name for cell in table(PROTOCOL, "reserved", "meant for") for name in cell.split(", ")}
    assert listed == reserved(Kind) | reserved(Flag) | reserved(Extension) | reserved(Code)


def test_the_flags_that_are_not_reserved_are_known() -> None:
    known = sum(value for name, value in members(Flag).items() if name not in reserved(Flag))
    assert known == KNOWN_FLAGS


def test_the_commands_of_the_protocol_are_served() -> None:
    assert set(members(ProtocolCommand).values()) == {*BUILTIN_COMMANDS, ProtocolCommand.CALLBACK}
    assert min(BUILTIN_COMMANDS) == FIRST_RESERVED_ID == 0xFF00


def test_the_errors_are_raised_as_the_page_says() -> None:
    for name, (code, _, details, *raised) in table(PROTOCOL, "error", "code").items():
        if details == "`[]`":
            assert _TEXT_ERRORS[int(code)] is getattr(errors, raised[0].strip("`")), name
        else:
            assert int(code) not in _TEXT_ERRORS, name


def test_the_builtins_are_those_of_the_code() -> None:
    (sentence,) = re.findall(r"(?s)^BUILTIN is for .*?and no others: (.*?)\.", PROTOCOL, re.MULTILINE)
    assert re.findall(r"`(\w+)`", sentence) == sorted(PUBLIC_BUILTINS)


def test_the_extensions_of_msgpack_are_those_of_the_code() -> None:
    codes = {name: int(row[0]) for name, row in table(PROTOCOL, "msgpack extension").items()}
    known = {name.removeprefix("EXT_").lower(): code for name, code in vars(body).items() if name.startswith("EXT_")}
    assert codes == known


def test_the_types_are_those_of_the_code() -> None:
    rows = {row[0]: " ".join(row) for row in next(t for t in tables(PROTOCOL) if t[0] == ["type", "is"])[1:]}
    words = {kind: set(re.findall(r'[`"](\w+)[`"]', text)) for kind, text in rows.items()}
    scalars, collections, _, mappings, literals, *_ = words.values()
    assert scalars == set(nodes.SCALARS.values())
    assert collections == nodes.COLLECTIONS
    assert mappings == nodes.MAPPINGS
    assert literals - {"Literal", "True", "False"} == nodes.LITERAL_TYPES == set(data._LITERAL_READERS)
    constraints = set(re.findall(r"`(\w+)`", rows['`["Annotated", type, [[constraint, text], ...]]`']))
    assert constraints == nodes.CONSTRAINTS.keys()
    assert f"cut after {constraint_text} characters" in PROTOCOL
    heads = {re.findall(r"\w+", kind)[0] for kind in rows if kind.startswith("`[")}
    assert heads == {"list", "fixed", "dict", "Literal", "Union", "Annotated", "as", "callback", "stream", "ref"}


def test_the_definitions_are_those_of_the_code() -> None:
    rows = next(t for t in tables(PROTOCOL) if t[0] == ["definition", "is"])[1:]
    heads = [re.findall(r"\w+", row[0])[0] for row in rows]
    known = re.findall(r'case \["(\w+)", str\(name\)', inspect.getsource(data.NodeReader._definition))
    assert heads == known


def test_the_types_known_by_name_are_those_of_the_code() -> None:
    rows = {
        name: row[1].strip("`").replace("\\|", "|")
        for row in next(t for t in tables(PROTOCOL) if t[0] == ["name", "as", "which is"])[1:]
        for name in re.findall(r"`(\w+)`", row[0])
    }
    assert rows.keys() == conversions.STANDARD
    for name, travels_as in rows.items():
        module = importlib.import_module(conversions._STANDARD[name][0])
        node = converted(getattr(module, name))
        assert (node.name, str(node.wire)) == (name, travels_as)


def converted(cls: type) -> nodes.ConvertedNode:
    node = node_of(cls)
    assert isinstance(node, nodes.ConvertedNode)
    return node


def test_the_values_by_type_are_the_same_in_the_page_and_in_the_package() -> None:
    page = {row[0] for row in next(t for t in tables(PROTOCOL) if t[0] == ["type", "form"])[1:]}
    assert codec.__doc__
    (table,) = re.findall(r"(?ms)^={30}[ =]+\n(.*?)^={30}", codec.__doc__)
    package = re.sub(r"(?m)^(.{32}).*\n", lambda line: " ".join(line[1].split()) + " ", table)
    words = {word.lower() for cell in page for word in re.findall(r"\w+", cell)}
    renamed = {"as": "converted", "collections": "list", "mappings": "dict"}
    assert {renamed.get(word, word) for word in words} <= {word.lower() for word in re.findall(r"\w+", package)}


def test_the_wider_collections_are_those_of_the_code() -> None:
    rows = {kind: {kind, *row[0].split(", ")} for kind, row in table(PROTOCOL, "collection or mapping").items()}
    assert rows == {kind: names for kind, names in widening.WIDER.items() if names != {kind}}
    assert widening.WIDER.keys() == nodes.COLLECTIONS | nodes.MAPPINGS


@pytest.mark.parametrize(
    "phrase",
    [
        PREAMBLE.hex(" "),
        f"The version is {VERSION}.",
        f"No length exceeds 0x{MAX_FRAME_SIZE:X}.",
        f"its own limit before it keeps anything\nof the payload: {HELLO_LIMIT} before the peer's hello",
        f"there are more than {MAX_SEGMENTS} segments",
        f"integer, {MIN_MESSAGE_SIZE} to {MAX_FRAME_SIZE}",
        f"One of more than {MAX_PING} bytes is a fault",
        f"up to {MAX_PING} bytes",
        f"at most {MAX_REASON} characters",
        f"0 to {MAX_TIME_LEFT * 1_000_000} ",
        f"Text has at most {MAX_TEXT} characters, a traceback {MAX_TRACE}",
        f"Arguments are plain data, {MAX_ARGUMENTS} at most",
        f"from {SEGMENT_THRESHOLD} bytes on",
    ],
)
def test_the_page_names_the_sizes_of_the_code(phrase: str) -> None:
    assert phrase in PROTOCOL


UNITS: Final = {"": 1, "s": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
EXPONENTS: Final = {"ms": "e-3", "µs": "e-6"}


def number(text: str) -> float:
    value, _, unit = text.partition(" ")
    if unit in EXPONENTS:
        return float(value + EXPONENTS[unit])  # as Python reads the literal
    return int(value, 8) if value.startswith("0") else int(value) * UNITS[unit]


def limits() -> Iterator[tuple[str, str, str]]:
    """Limit, value and constant, where there are such."""
    for rows in tables(LIMITS):
        for row in rows[1:]:
            constants = re.findall(r"`([\w.]+)`", row[-1]) if row[-1].startswith("`") else []
            values = re.findall(r"\d+(?: (?:[KMG]iB|[mµ]?s)\b)?", row[1])
            for value, constant in zip(values, constants, strict=bool(constants)):
                yield row[0], value, constant


@pytest.mark.parametrize(("limit", "value", "constant"), list(limits()))
def test_a_limit_is_that_of_the_code(limit: str, value: str, constant: str) -> None:
    module, _, name = constant.rpartition(".")
    assert number(value) == getattr(importlib.import_module(f"typedrpc.{module}"), name)


def test_every_argument_that_limits_something_is_named() -> None:
    named = {
        name
        for row in table(LIMITS, "limit", "default", "argument").values()
        for name in re.findall(r"`(\w+)`", row[1])
    }
    no_limits = {"services", "url", "ids", "debug", "contract", "expose"}
    no_limits |= {"tls", "secret", "token", "check_token", "authorize", "guard", "allow_users", "retry"}
    no_limits |= {"on_connect", "on_disconnect", "on_connect_failed", "on_call", "on_result"}
    parameters: dict[str, Any] = {**inspect.signature(Server).parameters, **inspect.signature(connect).parameters}
    assert parameters.keys() - no_limits <= named
