"""The signature of a command as data: it prints, compares, travels, and has a fingerprint."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable
from functools import cached_property
from typing import Any, Final, NamedTuple

from typedrpc.schema.data import Data, NodeReader, NodeWriter, as_text
from typedrpc.schema.graphs import Companion, bare, companion_of, misplaced_companion
from typedrpc.schema.hints import HintReader, SignatureFaults
from typedrpc.schema.local import LocalNames
from typedrpc.schema.nodes import CollectionNode, IgnoredNode, Node, StreamNode, UnionNode, same_graphs
from typedrpc.schema.records import Scope


class ParameterKind(enum.IntEnum):
    """How a parameter may be given; the values are those of `inspect`."""

    POSITIONAL_ONLY = 0
    POSITIONAL_OR_KEYWORD = 1
    VAR_POSITIONAL = 2
    KEYWORD_ONLY = 3
    VAR_KEYWORD = 4

    @property
    def stars(self) -> str:
        """What stands before the name."""
        return {ParameterKind.VAR_POSITIONAL: "*", ParameterKind.VAR_KEYWORD: "**"}.get(self, "")

    @property
    def variadic(self) -> bool:
        """Whether it takes any number of arguments."""
        return self in (ParameterKind.VAR_POSITIONAL, ParameterKind.VAR_KEYWORD)

    @property
    def by_name(self) -> bool:
        """Whether it may be given by its name."""
        return self in (ParameterKind.POSITIONAL_OR_KEYWORD, ParameterKind.KEYWORD_ONLY)


class Parameter(NamedTuple):
    """One parameter of a command.

    The default is no part of it, only whether there is one: an argument that is not given is not sent, and the callee's
    default counts. `node` is the type of one argument, also for ``*args`` and ``**kwargs``, which are never required.
    """

    name: str
    kind: ParameterKind
    node: Node
    required: bool

    def __str__(self) -> str:
        stars = self.kind.stars
        default = "" if self.required or stars else " = ..."
        return f"{stars}{self.name}: {self.node}{default}"


class Schema:
    """A command as data: its parameters, without ``self``, and its result.

    ``str(schema)`` is the signature as Python writes it. Immutable; two schemas are equal where their parts are.

    Attributes:
        parameters: In the order of declaration.
        result: The type of the result.
    """

    def __init__(self, parameters: tuple[Parameter, ...], result: Node) -> None:
        self.parameters: Final = parameters
        self.result: Final = result

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schema):
            return NotImplemented
        if len(self.parameters) != len(other.parameters):
            return False
        both = list(zip(self.parameters, other.parameters, strict=True))
        if any((a.name, a.kind, a.required) != (b.name, b.kind, b.required) for a, b in both):
            return False
        # In one go: parameters may share what they are made of.
        return same_graphs([*((a.node, b.node) for a, b in both), (self.result, other.result)])

    def __hash__(self) -> int:
        return hash((self.parameters, self.result))

    def __repr__(self) -> str:
        return f"<Schema {self}>"

    def __str__(self) -> str:
        parts: list[str] = []
        slash_due = star_due = False
        for parameter in self.parameters:
            if parameter.kind is ParameterKind.POSITIONAL_ONLY:
                slash_due = True
            elif slash_due:
                parts.append("/")
                slash_due = False
            if parameter.kind is ParameterKind.VAR_POSITIONAL:
                star_due = True
            elif parameter.kind is ParameterKind.KEYWORD_ONLY and not star_due:
                parts.append("*")
                star_due = True
            parts.append(str(parameter))
        if slash_due:
            parts.append("/")
        return f"({', '.join(parts)}) -> {self.result}"

    def to_data(self) -> list[Data]:
        """The signature as strings, ints, bools and lists: ``[parameters, result, definitions]``.

        A parameter is ``[name, kind, node, required]``; nodes are described in `typedrpc.schema.data`.
        """
        writer = NodeWriter()
        parameters: list[Data] = [
            [parameter.name, int(parameter.kind), writer.write(parameter.node), parameter.required]
            for parameter in self.parameters
        ]
        return [parameters, writer.write(self.result), writer.definitions]

    @classmethod
    def from_data(cls, data: object) -> Schema:
        """The signature that `data`, which may come from a peer, describes.

        Raises:
            ValueError: It describes none.
        """
        match data:
            case [list(parameters), result, definitions]:
                reader = NodeReader(definitions)
                try:
                    signature = cls(tuple(_parameter(item, reader) for item in parameters), reader.read(result))
                    reader.check()
                    if reader.has_companions:
                        _check_companions(signature)
                except RecursionError:  # how much of the stack is left depends on who calls
                    raise ValueError("a type nests too deep") from None
            case _:
                raise ValueError("a signature is in no known form")
        _check_order(signature.parameters)
        return signature

    @cached_property
    def has_callbacks(self) -> bool:
        """Whether some parameter takes what goes with a call: a function that the handler can call, or a stream."""
        return any(companion_of(parameter.node) for parameter in self.parameters)

    @cached_property
    def has_streams(self) -> bool:
        """Whether some parameter takes a stream."""
        return any(isinstance(companion_of(parameter.node), StreamNode) for parameter in self.parameters)

    @cached_property
    def fingerprint(self) -> bytes:
        """8 bytes: the first of SHA-256 over ``to_data()`` as JSON, ASCII only, without spaces.

        The same in every process and on every version of Python.
        """
        import hashlib  # imported when used, with json: 6 ms of the import
        import json

        text = json.dumps(self.to_data(), ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("ascii")).digest()[:8]


def schema_of(
    function: Callable[..., object],
    *,
    method: bool,
    names: LocalNames | None = None,
    owner: type[Any] | None = None,
) -> Schema:
    """The signature of a function from its annotations.

    Args:
        function: Any function; string annotations are resolved.
        method: Leave the first parameter, ``self``, out.
        names: The names of the functions that it is local to, for string annotations.
        owner: The class that it stands in, for the same.

    Raises:
        SignatureFaults: Something is not annotated or cannot travel; all the faults together.
        UnresolvedNames: An annotation names something that is not defined (yet), and nothing else is wrong.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError) as error:
        raise SignatureFaults([f"its parameters cannot be read: {error}"]) from error
    if method:
        if not parameters or parameters[0].kind not in (0, 1):
            raise SignatureFaults(["a command of a class takes self as its first parameter"])
        del parameters[0]
    reader = HintReader(names, Scope.of_function(function, names, owner))
    hints = {name: reader.evaluate(hint) for name, hint in inspect.get_annotations(inspect.unwrap(function)).items()}
    read: list[Parameter] = []
    for parameter in parameters:
        kind = ParameterKind(parameter.kind)
        stars = kind.stars
        where = f"parameter '{stars}{parameter.name}'"
        if parameter.name not in hints:
            reader.faults.append(
                f"{where} has no annotation; give it the type of {'each' if stars else 'its'} argument"
            )
            continue
        required = parameter.default is parameter.empty and not stars
        node = reader.read(hints[parameter.name], where, parameter=True)
        read.append(Parameter(parameter.name, kind, node, required))
    if "return" not in hints:
        reader.faults.append("the result has no annotation; write '-> None' where there is none")
    result = reader.read(hints.get("return"), "the result", result=True)
    if (fault := fault_of_colour(function, result)) is not None:
        reader.faults.append(f"{fault[0]}: {fault[1]}")
    reader.check()
    return Schema(tuple(read), result)


def fault_of_colour(function: Callable[..., object], result: Node) -> tuple[str, str] | None:
    """Why a function gives something else than its result is declared to be, since it is async or yields.

    Args:
        function: The function.
        result: The declared result, its own or that of its contract.

    Returns:
        What is wrong, and what to write instead; None where nothing is.
    """
    core = bare(result)
    if isinstance(core, IgnoredNode):
        return None  # it was refused
    if inspect.iscoroutinefunction(function):
        if not isinstance(core, StreamNode):
            return None
        remedy = "write def, or yield in it" if core.is_async else "write def"
        return f"async def without yield gives a coroutine, not {core}", remedy
    if inspect.isasyncgenfunction(function):
        if isinstance(core, StreamNode) and core.is_async:
            return None
        return f"async def with yield gives an AsyncIterator, not {result}", "annotate AsyncIterator[...]"
    if inspect.isgeneratorfunction(function):
        members = core.members if isinstance(core, UnionNode) else (core,)
        if any(_takes_generator(bare(member)) for member in members):
            return None
        remedy = "write async def" if isinstance(core, StreamNode) else "annotate Iterator[...]"
        return f"def with yield gives an Iterator, not {result}", remedy
    return None


def _takes_generator(node: Node) -> bool:
    if isinstance(node, StreamNode):
        return not node.is_async
    return isinstance(node, CollectionNode) and node.kind == "Iterable"  # which travels whole


def _parameter(data: object, reader: NodeReader) -> Parameter:
    match data:
        case [str(name), int(kind), node, bool(required)] if name.isidentifier() and not isinstance(kind, bool):
            read = ParameterKind(kind)
            if required and read in (ParameterKind.VAR_POSITIONAL, ParameterKind.VAR_KEYWORD):
                raise ValueError("a variadic parameter cannot be required")
            return Parameter(as_text(name, "a parameter"), read, reader.read(node), required)
        case _:
            raise ValueError("a parameter is in no known form")


def _check_companions(signature: Schema) -> None:
    """Raises ValueError where a callback or a stream stands where none may: within a type, beside another."""
    seen: set[int] = set()  # parameters may share what they are made of
    for parameter in signature.parameters:
        if found := misplaced_companion(parameter.node, parameter=True, seen=seen):
            raise ValueError(f"{_sort(found)} stands within a type, or beside another")
    if found := misplaced_companion(signature.result, result=True, seen=seen):
        raise ValueError(f"{_sort(found)} stands in a result")


def _sort(node: Companion) -> str:
    return "a stream" if isinstance(node, StreamNode) else "a callback"


def _check_order(parameters: tuple[Parameter, ...]) -> None:
    """Raises ValueError where Python would refuse the parameters."""
    kinds = [parameter.kind for parameter in parameters]
    variadic = (ParameterKind.VAR_POSITIONAL, ParameterKind.VAR_KEYWORD)
    if kinds != sorted(kinds) or any(kinds.count(kind) > 1 for kind in variadic):
        raise ValueError("parameters are not in the order of their kinds")
    if len({parameter.name for parameter in parameters}) != len(parameters):
        raise ValueError("two parameters have one name")
    required = [p.required for p in parameters if p.kind <= ParameterKind.POSITIONAL_OR_KEYWORD]
    if required != sorted(required, reverse=True):
        raise ValueError("a required parameter follows an optional one")
