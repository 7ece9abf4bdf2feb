"""What both sides of a connection have agreed about a contract: how to call each command, and what cannot be called.

First one digest is compared. Where it differs, the peer tells its ids and fingerprints, and for commands whose
fingerprints differ the schemas: so the cost of agreeing does not grow with the size of contracts that are equal. Where
two schemas differ in safe ways only, the peer is told ours, and reads our calls by it; we read its results by its.
The asking side is a generator that yields requests and is sent the answers, whoever does the input and output.
"""

from collections.abc import Callable, Generator, Mapping
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, Final, NamedTuple, final

from typedrpc.codec import CodecError, Payload, pack_plain, unpack_plain
from typedrpc.command import Command
from typedrpc.definition import FIRST_RESERVED_ID
from typedrpc.errors import ArgumentTypeError, ContractMismatch, MessageTooLarge, ProtocolError, UnknownCommand
from typedrpc.messages import ProtocolCommand, pack_extension
from typedrpc.options import NO_METADATA, Metadata
from typedrpc.schema import Schema, compatible
from typedrpc.service import Table, contract_digest

MAX_DEPTH: Final = 400
"""How deep an answer may nest: more than the signatures do that a schema can describe."""

MAX_SIGNATURE: Final = 64 * 1024
"""Bytes of a peer's schema that is compared and shown."""

MAX_REASONS: Final = 10
"""Breaking differences that an error lists."""

MAX_ASKED: Final = 64
"""Commands that one question names: an answer that is too large for a message keeps few from being called."""

Question = tuple[int, bytes]
"""A protocol command and its packed arguments."""


def _contract(table: Table, service: str, digest: bytes) -> Any:
    if table.digest(service) == digest:
        return None
    contract = table.contract(service)
    return {name: list(row) for name, row in contract.items()} if contract is not None else {}


def _signatures(table: Table, service: str, names: list[str]) -> Any:
    # A name that is there a million times is answered once.
    return table.signatures(service, dict.fromkeys(names))


def _read_contract_question(args: object) -> tuple[Any, ...]:
    match args:
        case [str(service), bytes(digest), *_]:
            return service, digest
    raise ArgumentTypeError("typedrpc.contract: expected the name of a service and a digest")


def _read_signatures_question(args: object) -> tuple[Any, ...]:
    match args:
        case [str(service), list(names), *_] if all(isinstance(name, str) for name in names):
            return service, names
    raise ArgumentTypeError("typedrpc.signatures: expected the name of a service and a list of command names")


def _read_adapt_question(args: object) -> tuple[Any, ...]:
    match args:
        case [str(service), dict(schemas), *_] if all(isinstance(name, str) for name in schemas):
            return service, schemas
    raise ArgumentTypeError("typedrpc.adapt: expected the name of a service and a map from command names to schemas")


def _no_versions(table: Table, service: str, schemas: dict[str, Any]) -> Any:
    """What is answered where calls by other schemas are not taken: none of them is."""
    return {}


@final
class BuiltinCommand(NamedTuple):
    """A command of the protocol's own.

    Attributes:
        name: What errors call it.
        read: The arguments for ``answer`` from the plain data that the peer sent; raises ``ArgumentTypeError``. More
            items than are asked for are ignored: a later version may send them.
        answer: Called with the table of what is served and these arguments; gives plain data.
    """

    name: str
    read: Callable[[object], tuple[Any, ...]]
    answer: Callable[..., Any]


BUILTIN_COMMANDS: Final[Mapping[int, BuiltinCommand]] = MappingProxyType(
    {
        ProtocolCommand.CONTRACT: BuiltinCommand("typedrpc.contract", _read_contract_question, _contract),
        ProtocolCommand.SIGNATURES: BuiltinCommand("typedrpc.signatures", _read_signatures_question, _signatures),
        ProtocolCommand.ADAPT: BuiltinCommand("typedrpc.adapt", _read_adapt_question, _no_versions),
    }
)
"""What every side serves besides its services: the answering half of agreeing."""


class Route(NamedTuple):
    """How a command is called on one connection.

    Attributes:
        id: The peer's id of it.
        schema: The number of our schema, where the peer has another one.
        unpack_adapted: There, what makes the result of a payload.
        target: Of a callback, the peer's call that it came with and its index there.
    """

    id: int
    schema: int | None = None
    unpack_adapted: Callable[[Payload], Any] | None = None
    target: tuple[int, int] | None = None

    def extension(
        self,
        time_left: float | None,
        parent: int = 0,
        depth: int = 0,
        metadata: Metadata = NO_METADATA,
        key: tuple[int, int, int] | None = None,
    ) -> bytes:
        """The packed extension map of a call; empty where none is needed.

        Args:
            time_left: Seconds that the call has.
            parent: The peer's call in which it is made, if any.
            depth: Calls that it is nested in.
            metadata: What goes beside the arguments.
            key: Names a call that may be sent again, and how often it was.
        """
        return pack_extension(
            time_left=time_left,
            schema=self.schema,
            parent=parent,
            depth=depth,
            target=self.target,
            metadata=metadata,
            key=key,
        )


@final
class Agreement:
    """What can be called of one service of the peer, on one connection."""

    __slots__ = ("_refused", "_routes")

    def __init__(self, routes: Mapping[str, Route], refused: Mapping[str, ContractMismatch]) -> None:
        self._routes = routes
        self._refused = refused

    def route_of(self, command: Command[Any]) -> Route:
        """How a command is called.

        Raises:
            UnknownCommand: The peer does not have it.
            ContractMismatch: The peer has it with a schema that does not agree.
        """
        try:
            return self._routes[command.name]
        except KeyError:
            pass
        refused = self._refused.get(command.name)
        if refused is not None:
            raise ContractMismatch(refused.command, refused.ours, refused.theirs, refused.reasons)
        raise UnknownCommand(command.qualified_name, command.id)


def digest_of(commands: Mapping[str, Command[Any]]) -> bytes:
    """The ``contract_digest`` of the commands of a service, by name, as this side knows them."""
    return contract_digest((name, command.id, command.schema.fingerprint) for name, command in commands.items())


def agreement_of_equals(commands: Mapping[str, Command[Any]]) -> Agreement:
    """What can be called of a service whose digest is the same at the peer."""
    return Agreement({name: Route(command.id) for name, command in commands.items()}, {})


def proceed(
    conversation: Generator[Question, Payload, Agreement], answer: "Payload | MessageTooLarge | UnknownCommand | None"
) -> Question | Agreement:
    """One step of :func:`agree`: give it an answer, None to begin with, for the next question or the agreement.

    Raises:
        ProtocolError: The answer makes no sense.
    """
    try:
        if isinstance(answer, Exception):
            return conversation.throw(answer)
        return next(conversation) if answer is None else conversation.send(answer)
    except StopIteration as done:
        agreement: Agreement = done.value
        return agreement


def agree(service: str, commands: Mapping[str, Command[Any]]) -> Generator[Question, Payload, Agreement]:
    """Find out what can be called of a service.

    Args:
        service: Its name.
        commands: Its commands as this side knows them.

    Yields:
        Questions for the peer; the payload of each answer is to be sent back in, and ``MessageTooLarge`` or
        ``UnknownCommand`` to be thrown where that is raised instead.

    Raises:
        ProtocolError: An answer makes no sense.
    """
    try:
        theirs = _unpack((yield ProtocolCommand.CONTRACT, pack_plain([service, digest_of(commands)])))
    except UnknownCommand:  # the peer exposes nothing at all
        return Agreement({}, {})
    if theirs is None:
        return agreement_of_equals(commands)
    rows = _read_rows(theirs)
    routes = {
        name: Route(rows[name][0])
        for name, command in commands.items()
        if name in rows and rows[name][1] == command.schema.fingerprint
    }
    differing = [name for name in commands if name in rows and name not in routes]
    refused: dict[str, ContractMismatch] = {}
    signatures = yield from _ask(ProtocolCommand.SIGNATURES, service, differing, list)
    versions: dict[str, Schema] = {}
    for name in differing:
        version = _compare(commands[name], signatures)
        if isinstance(version, Schema):
            versions[name] = version
        else:
            refused[name] = version
    numbers = yield from _ask(
        ProtocolCommand.ADAPT,
        service,
        list(versions),
        lambda names: {name: commands[name].schema.to_data() for name in names},
    )
    for name, version in versions.items():
        number = numbers.get(name)
        if type(number) is int and number >= 0:
            routes[name] = _adapted_route(commands[name], rows[name][0], version, number)
        else:
            refused[name] = _mismatch(commands[name], str(version), "the peer does not take such calls")
    return Agreement(routes, refused)


def _ask(
    question: int, service: str, names: list[str], about: Callable[[list[str]], Any]
) -> Generator[Question, Payload, dict[str, Any]]:
    """What the peer answers about each of the named commands, asked for in parts that fit into messages."""
    answers: dict[str, Any] = {}
    parts = [names[start : start + MAX_ASKED] for start in range(0, len(names), MAX_ASKED)]
    while parts:
        part = parts.pop(0)
        try:
            answer = _unpack((yield question, pack_plain([service, about(part)])))
        except MessageTooLarge:
            half = len(part) // 2
            parts[:0] = [part[:half], part[half:]] if half else []
            continue
        if isinstance(answer, dict):
            answers.update((name, answer[name]) for name in part if name in answer)
    return answers


def _adapted_route(command: Command[Any], id: int, version: Schema, number: int) -> Route:
    # Compiled at the first result: a contract may have many commands that nobody calls.
    adapter = lru_cache(1)(partial(command.codec.unpack_result_of, version))
    return Route(id, number, lambda payload: adapter()(payload))


def _mismatch(command: Command[Any], theirs: str, *reasons: str) -> ContractMismatch:
    return ContractMismatch(command.qualified_name, str(command.schema), theirs, reasons)


def _compare(command: Command[Any], answer: Mapping[str, Any]) -> Schema | ContractMismatch:
    """The peer's schema of a command, from its answers, if calls work all the same.

    One that this side cannot read, perhaps a later version's, concerns its command alone.
    """
    if command.name not in answer:
        return _mismatch(command, "a signature that it does not tell")
    data = answer[command.name]
    # A type that is referred to often is printed as often: little data can stand for very much text.
    if (size := len(pack_plain(data))) > MAX_SIGNATURE:
        return _mismatch(command, f"a signature of {size} bytes, which is too long to read")
    try:
        version = Schema.from_data(data)
    except ValueError as error:
        return _mismatch(command, f"a signature that is not understood here ({error})")
    differences = compatible(command.schema, version)
    reasons = [f"{difference.where}: {difference.text}" for difference in differences if not difference.safe]
    return _mismatch(command, str(version), *reasons[:MAX_REASONS]) if reasons else version


def _unpack(payload: Payload) -> Any:
    try:
        return unpack_plain(payload, max_depth=MAX_DEPTH)
    except CodecError as error:
        raise ProtocolError(f"the peer's answer about a contract cannot be read: {error}") from error


def _read_rows(answer: Any) -> dict[str, tuple[int, bytes]]:
    rows = {}
    if isinstance(answer, dict):
        for name, row in answer.items():
            match row:
                case [int(id), bytes(fingerprint)] if isinstance(name, str) and 0 <= id < FIRST_RESERVED_ID:
                    rows[name] = (id, fingerprint)
                case _:
                    raise ProtocolError("the peer's answer about a contract is no table of commands")
        return rows
    raise ProtocolError("the peer's answer about a contract is no map")
