import contextlib
from collections.abc import Callable
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from typedrpc.agreement import BUILTIN_COMMANDS, Agreement, Question, agree
from typedrpc.codec import pack_plain, unpack_plain
from typedrpc.command import rpc
from typedrpc.definition import FIRST_RESERVED_ID
from typedrpc.errors import ArgumentTypeError, ContractMismatch, ProtocolError, UnknownCommand
from typedrpc.messages import ProtocolCommand
from typedrpc.service import Service, Table, commands_of

DEEP = 60  # levels of a type: near the most that a schema may have


class Store(Service, name="store"):
    @rpc(id=1)
    def get(self, key: str) -> bytes | None:
        return None

    @rpc(id=2)
    def put(self, key: str, value: bytes) -> None: ...
    @rpc
    def mode(self) -> Literal["r", "w"]:
        return "r"


class Older(Service, name="store"):
    @rpc(id=1)
    def get(self, key: str) -> bytes | None:
        return None

    @rpc(id=2)
    def put(self, key: str, value: str, times: int = 1) -> None:
        """Another signature."""


class Moved(Service, name="store"):
    @rpc(id=11)
    def get(self, key: str) -> bytes | None:
        return None

    @rpc(id=12)
    def put(self, key: str, value: bytes) -> None: ...
    @rpc
    def mode(self) -> Literal["r", "w"]:
        return "r"

    @rpc
    def more(self) -> int:
        return 0


class Strange(Service, name="strange"):
    @rpc
    def get(self) -> None: ...


STORE = commands_of(Store)


def answer(table: Table, question: Question) -> bytes:
    """What a peer answers that serves this table."""
    id, payload = question
    builtin = BUILTIN_COMMANDS[id]
    return pack_plain(builtin.answer(table, *builtin.read(unpack_plain(payload))))


def agree_with(table: Table, contract: type[Service] = Store) -> tuple[Agreement, list[int]]:
    """What is agreed with a peer that serves this table, and which questions it took."""
    return converse(contract, lambda question: answer(table, question))


def converse(contract: type[Service], reply: Callable[[Question], bytes]) -> tuple[Agreement, list[int]]:
    commands = commands_of(contract)
    conversation = agree(next(iter(commands.values())).service_name, commands)
    asked = []
    question = next(conversation)
    while True:
        asked.append(question[0])
        try:
            question = conversation.send(reply(question))
        except StopIteration as done:
            return done.value, asked


def ids_of(agreement: Agreement) -> dict[str, int]:
    return {name: agreement.route_of(command).id for name, command in STORE.items()}


def test_equal_contracts_take_one_question() -> None:
    agreement, asked = agree_with(Table([Store()]))
    assert asked == [ProtocolCommand.CONTRACT]
    assert ids_of(agreement) == {name: command.id for name, command in STORE.items()}


def test_the_peers_ids_count() -> None:
    agreement, asked = agree_with(Table([Moved()]))
    assert asked == [ProtocolCommand.CONTRACT]
    assert ids_of(agreement) == {"get": 11, "put": 12, "mode": STORE["mode"].id}
    agreement, asked = agree_with(Table([Store()], {"store.get": 7}))
    assert asked == [ProtocolCommand.CONTRACT]
    assert ids_of(agreement)["get"] == 7


def test_a_signature_that_differs_is_refused_for_its_command_alone() -> None:
    agreement, asked = agree_with(Table([Older()]))
    assert asked == [ProtocolCommand.CONTRACT, ProtocolCommand.SIGNATURES]
    assert agreement.route_of(STORE["get"]).id == 1
    errors = []
    for _ in range(2):
        with pytest.raises(ContractMismatch) as raised:
            agreement.route_of(STORE["put"])
        errors.append(raised.value)
    assert errors[0] is not errors[1]
    assert errors[0].command == "store.put"
    assert errors[0].ours == "(key: str, value: bytes) -> None"
    assert errors[0].theirs == "(key: str, value: str, times: int = ...) -> None"
    with pytest.raises(UnknownCommand) as unknown:
        agreement.route_of(STORE["mode"])
    assert (unknown.value.command, unknown.value.id) == ("store.mode", STORE["mode"].id)


def test_a_service_that_the_peer_does_not_have() -> None:
    agreement, asked = agree_with(Table([Strange()]))
    assert asked == [ProtocolCommand.CONTRACT]
    for command in STORE.values():
        with pytest.raises(UnknownCommand):
            agreement.route_of(command)


def deep_service(leaf: str) -> type[Service]:
    namespace: dict[str, Any] = {"Service": Service, "rpc": rpc}
    hint = "list[" * DEEP + leaf + "]" * DEEP
    source = f"class Deep(Service):\n    @rpc\n    def dig(self, a: {hint}) -> None: ...\n"
    exec(source, namespace)
    deep: type[Service] = namespace["Deep"]
    return deep


def test_signatures_nest_deeper_than_other_plain_data() -> None:
    ours, theirs = deep_service("int"), deep_service("str")
    agreement, _ = agree_with(Table([theirs()]), ours)
    with pytest.raises(ContractMismatch) as raised:
        agreement.route_of(commands_of(ours)["dig"])
    assert "list[str]" in raised.value.theirs


# Answers that make no sense


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"\xc1",
        b"\x91" * 1000 + b"\xc0",
        pack_plain(True),
        pack_plain([]),
        pack_plain("store"),
        pack_plain({"get": None}),
        pack_plain({"get": []}),
        pack_plain({"get": [1]}),
        pack_plain({"get": [1, b"", 0]}),
        pack_plain({"get": ["1", bytes(8)]}),
        pack_plain({"get": [1, "fingerprint"]}),
        pack_plain({"get": [-1, bytes(8)]}),
        pack_plain({"get": [FIRST_RESERVED_ID, bytes(8)]}),
        pack_plain({"get": [1 << 20_000, bytes(8)]}),
        pack_plain({1: [1, bytes(8)]}),
    ],
)
def test_an_answer_that_makes_no_sense(reply: bytes) -> None:
    with pytest.raises(ProtocolError, match="the peer's answer about a contract"):
        converse(Store, lambda question: reply)


@pytest.mark.parametrize(
    ("signatures", "theirs"),
    [
        (None, "a signature that it does not tell"),
        ([], "a signature that it does not tell"),
        ({}, "a signature that it does not tell"),
        ({"put": ["x" * 70_000]}, "a signature of 70006 bytes, which is too long to read"),
        ({"put": None}, "a signature that is not understood here (a signature is in no known form)"),
        ({"put": [[], "quaternion", []]}, "a signature that is not understood here (no type is named 'quaternion')"),
        ({"put": [[], "None", []]}, "() -> None"),
    ],
)
def test_a_signature_that_cannot_be_read_concerns_its_command_alone(signatures: object, theirs: str) -> None:
    replies = {
        ProtocolCommand.CONTRACT: pack_plain({"get": [5, STORE["get"].schema.fingerprint], "put": [6, b"other"]}),
        ProtocolCommand.SIGNATURES: pack_plain(signatures),
    }
    agreement, _ = converse(Store, lambda question: replies[question[0]])
    assert agreement.route_of(STORE["get"]).id == 5
    with pytest.raises(ContractMismatch) as raised:
        agreement.route_of(STORE["put"])
    assert raised.value.theirs == theirs


def test_an_answer_about_signatures_that_cannot_be_read_at_all() -> None:
    replies = {ProtocolCommand.CONTRACT: pack_plain({"put": [6, b"other"]}), ProtocolCommand.SIGNATURES: b"\xc1"}
    with pytest.raises(ProtocolError, match="cannot be read"):
        converse(Store, lambda question: replies[question[0]])


DATA = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 2**40)
    | st.binary(max_size=8)
    | st.sampled_from(["put", "list", "int"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["get", "put", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(DATA, DATA)
def test_no_answer_raises_anything_else(first: object, second: object) -> None:
    replies = {ProtocolCommand.CONTRACT: pack_plain(first), ProtocolCommand.SIGNATURES: pack_plain(second)}
    try:
        agreement, _ = converse(Store, lambda question: replies[question[0]])
    except ProtocolError:
        return
    for command in STORE.values():
        with contextlib.suppress(UnknownCommand, ContractMismatch):
            assert 0 <= agreement.route_of(command).id < FIRST_RESERVED_ID


# The answering half

TABLE = Table([Store()])
DIGEST = TABLE.digest("store")


@pytest.mark.parametrize(
    ("question", "reply"),
    [
        (["store", DIGEST], None),
        (["store", DIGEST, "more, from a later version"], None),
        (["elsewhere", DIGEST], {}),
        (["elsewhere", b""], {}),
        (["store", b""], {name: [row.id, row.schema.fingerprint] for name, row in STORE.items()}),
    ],
)
def test_the_question_about_a_contract(question: object, reply: object) -> None:
    assert unpack_plain(answer(TABLE, (ProtocolCommand.CONTRACT, pack_plain(question)))) == reply


@pytest.mark.parametrize(
    ("question", "reply"),
    [
        (["store", []], {}),
        (["store", [], "more, from a later version"], {}),
        (["elsewhere", ["put"]], {}),
        (["store", ["drop"]], {}),
        (["store", ["put", "drop"]], {"put": STORE["put"].schema.to_data()}),
    ],
)
def test_the_question_about_signatures(question: object, reply: object) -> None:
    assert unpack_plain(answer(TABLE, (ProtocolCommand.SIGNATURES, pack_plain(question)))) == reply


def test_a_name_that_is_asked_for_again_and_again_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    table = Table([Store()])
    monkeypatch.setattr(table, "signatures", lambda service, names: asked.extend(names))
    answer(table, (ProtocolCommand.SIGNATURES, pack_plain(["store", ["put"] * 10_000])))
    assert asked == ["put"]


@pytest.mark.parametrize(
    ("id", "question"),
    [
        (ProtocolCommand.CONTRACT, None),
        (ProtocolCommand.CONTRACT, {}),
        (ProtocolCommand.CONTRACT, []),
        (ProtocolCommand.CONTRACT, ["store"]),
        (ProtocolCommand.CONTRACT, ["store", "digest"]),
        (ProtocolCommand.CONTRACT, [b"store", b"digest"]),
        (ProtocolCommand.SIGNATURES, None),
        (ProtocolCommand.SIGNATURES, ["store"]),
        (ProtocolCommand.SIGNATURES, ["store", "put"]),
        (ProtocolCommand.SIGNATURES, ["store", {"put": 1}]),
        (ProtocolCommand.SIGNATURES, ["store", ["put", 1]]),
        (ProtocolCommand.SIGNATURES, [1, ["put"]]),
    ],
)
def test_a_question_that_makes_no_sense(id: int, question: object) -> None:
    with pytest.raises(ArgumentTypeError, match=f"{BUILTIN_COMMANDS[id].name}: expected"):
        answer(TABLE, (id, pack_plain(question)))
