"""What both sides of a connection have agreed about a contract: ids as the peer has them, and what cannot be called.

First one digest is compared. Where it differs, the peer tells its ids and fingerprints, and for commands whose
fingerprints differ the signatures: so the cost of agreeing does not grow with the size of contracts that are equal.
The asking side is a generator that yields requests and is sent the answers, whoever does the input and output.
"""

from collections.abc import Callable, Generator, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, final

from typedrpc.codec import CodecError, Payload, pack_plain, unpack_plain
from typedrpc.command import Command
from typedrpc.definition import FIRST_RESERVED_ID
from typedrpc.errors import ArgumentTypeError, ContractMismatch, ProtocolError, UnknownCommand
from typedrpc.messages import ProtocolCommand
from typedrpc.schema import Schema
from typedrpc.service import Table, contract_digest

MAX_DEPTH: Final = 400
"""How deep an answer may nest: more than the signatures do that a schema can describe."""

MAX_SIGNATURE: Final = 64 * 1024
"""Bytes of a peer's signature that is shown in an error."""

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
    }
)
"""What every side serves besides its services: the answering half of agreeing."""


@final
class Agreement:
    """What can be called of one service of the peer, on one connection."""

    __slots__ = ("_ids", "_refused")

    def __init__(self, ids: Mapping[str, int], refused: Mapping[str, ContractMismatch]) -> None:
        self._ids = ids
        self._refused = refused

    def id_of(self, command: Command[Any]) -> int:
        """The peer's id of a command.

        Raises:
            UnknownCommand: The peer does not have it.
            ContractMismatch: The peer has it with a signature that does not agree.
        """
        try:
            return self._ids[command.name]
        except KeyError:
            pass
        refused = self._refused.get(command.name)
        if refused is not None:
            raise ContractMismatch(refused.command, refused.ours, refused.theirs)
        raise UnknownCommand(command.qualified_name, command.id)


def agree(service: str, commands: Mapping[str, Command[Any]]) -> Generator[Question, Payload, Agreement]:
    """Find out what can be called of a service.

    Args:
        service: Its name.
        commands: Its commands as this side knows them.

    Yields:
        Questions for the peer; the payload of each answer is to be sent back in.

    Raises:
        ProtocolError: An answer makes no sense.
    """
    digest = contract_digest((name, command.id, command.schema.fingerprint) for name, command in commands.items())
    theirs = _unpack((yield ProtocolCommand.CONTRACT, pack_plain([service, digest])))
    if theirs is None:
        return Agreement({name: command.id for name, command in commands.items()}, {})
    rows = _read_rows(theirs)
    ids = {}
    differing = []
    for name, command in commands.items():
        if name in rows:
            id, fingerprint = rows[name]
            if fingerprint == command.schema.fingerprint:
                ids[name] = id
            else:
                differing.append(name)
    refused = {}
    if differing:
        answer = _unpack((yield ProtocolCommand.SIGNATURES, pack_plain([service, differing])))
        for name in differing:
            ours = str(commands[name].schema)
            refused[name] = ContractMismatch(commands[name].qualified_name, ours, _read_signature(answer, name))
    return Agreement(ids, refused)


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


def _read_signature(answer: Any, name: str) -> str:
    """The signature in words. One that this side cannot read, perhaps a later version's, concerns its command alone."""
    if not isinstance(answer, dict) or name not in answer:
        return "a signature that it does not tell"
    # A type that is referred to often is printed as often: little data can stand for very much text.
    if (size := len(pack_plain(answer[name]))) > MAX_SIGNATURE:
        return f"a signature of {size} bytes, which is too long to show"
    try:
        return str(Schema.from_data(answer[name]))
    except ValueError as error:
        return f"a signature that is not understood here ({error})"
