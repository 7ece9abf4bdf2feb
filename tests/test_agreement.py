import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from typedrpc.agreement import BUILTIN_COMMANDS, MAX_ASKED, MAX_REASONS, Agreement, Question, agree
from typedrpc.codec import CodecError, CommandCodec, pack_plain, unpack_plain
from typedrpc.command import rpc
from typedrpc.definition import FIRST_RESERVED_ID
from typedrpc.errors import ArgumentTypeError, ContractMismatch, MessageTooLarge, ProtocolError, UnknownCommand
from typedrpc.messages import ProtocolCommand
from typedrpc.schema import Schema
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
            step = partial(conversation.send, reply(question))
        except MessageTooLarge as error:
            step = partial(conversation.throw, error)
        try:
            question = step()
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


# Versions


class Wide(Service, name="store"):
    @rpc(id=1)
    def get(self, key: str | None, kind: str = "") -> bytes | None:
        return None

    @rpc(id=9)
    def put(self, key: str, value: bytes, times: int = 1) -> None: ...
    @rpc
    def mode(self) -> Literal["r", "w", "x"]:
        return "r"


def with_versions(table: Table, numbers: object, contract: type[Service] = Store) -> tuple[Agreement, list[int], Any]:
    """What is agreed with a peer that serves this table and gives these numbers; and what it was asked."""
    told: list[Any] = []

    def reply(question: Question) -> bytes:
        if question[0] == ProtocolCommand.ADAPT:
            told.append(unpack_plain(question[1], max_depth=400))
            return pack_plain(numbers)
        return answer(table, question)

    agreement, asked = converse(contract, reply)
    return agreement, asked, told


def test_what_differs_in_safe_ways_is_called_by_a_number() -> None:
    agreement, asked, told = with_versions(Table([Wide()]), {"get": 3, "put": 0})
    assert asked == [ProtocolCommand.CONTRACT, ProtocolCommand.SIGNATURES, ProtocolCommand.ADAPT]
    # All that is told is what can be called so.
    assert told == [["store", {name: STORE[name].schema.to_data() for name in ("get", "put")}]]
    get, put = agreement.route_of(STORE["get"]), agreement.route_of(STORE["put"])
    assert (get.id, get.schema, put.id, put.schema) == (1, 3, 9, 0)
    assert unpack_plain(get.extension(None)) == {-1: 3}
    assert unpack_plain(get.extension(1.5)) == {-1: 3, 1: 1_500_000}
    assert get.unpack_adapted is not None
    theirs = commands_of(Wide)["get"].codec
    for value in (b"x", None):
        assert get.unpack_adapted(theirs.pack_result(value)) == value
    with pytest.raises(ContractMismatch) as raised:
        agreement.route_of(STORE["mode"])
    assert raised.value.reasons == ("the result: Literal['r', 'w', 'x'] cannot be read as Literal['r', 'w']",)


def test_what_agrees_has_no_number() -> None:
    agreement, _ = agree_with(Table([Store()]))
    route = agreement.route_of(STORE["get"])
    assert (route.schema, route.unpack_adapted) == (None, None)
    assert route.extension(None) == b""
    assert unpack_plain(route.extension(1.5)) == {1: 1_500_000}


@pytest.mark.parametrize(
    "numbers", [None, [], {}, {"get": None}, {"get": -1}, {"get": "3"}, {"get": True}, {"get": 3.0}, {"other": 1}, 7]
)
def test_a_peer_that_does_not_take_a_version(numbers: object) -> None:
    agreement, _, _ = with_versions(Table([Wide()]), numbers)
    with pytest.raises(ContractMismatch) as raised:
        agreement.route_of(STORE["get"])
    assert raised.value.theirs == "(key: str | None, kind: str = ...) -> bytes | None"
    assert raised.value.reasons == ("the peer does not take such calls",)


def test_an_answer_about_versions_that_cannot_be_read() -> None:
    def reply(question: Question) -> bytes:
        return b"\xc1" if question[0] == ProtocolCommand.ADAPT else answer(Table([Wide()]), question)

    with pytest.raises(ProtocolError, match="cannot be read"):
        converse(Store, reply)


def test_a_result_is_not_what_the_peers_version_says() -> None:
    agreement, _, _ = with_versions(Table([Wide()]), {"get": 0})
    unpack = agreement.route_of(STORE["get"]).unpack_adapted
    assert unpack is not None
    with pytest.raises(CodecError, match=r"store\.get: result: expected bytes \| None, got str"):
        unpack(pack_plain("x"))


def many(parameters: str, count: int) -> type[Service]:
    namespace: dict[str, Any] = {"Service": Service, "rpc": rpc}
    lines = [f"    @rpc\n    def c{number}(self, {parameters}) -> None: ..." for number in range(count)]
    exec("\n".join(["class Many(Service):", *lines]), namespace)
    found: type[Service] = namespace["Many"]
    return found


@pytest.mark.parametrize(("size", "least"), [(2**20, 2), (1000, 4), (200, 30)])
def test_questions_and_answers_that_are_too_large_are_asked_in_parts(size: int, least: int) -> None:
    ours = many("a: int", MAX_ASKED + 10)
    table = Table([many("a: int, b: str = ''", MAX_ASKED + 10)()])

    def reply(question: Question) -> bytes:
        id, payload = question
        said: Any = unpack_plain(payload, max_depth=400)
        packed = pack_plain(dict.fromkeys(said[1], 0)) if id == ProtocolCommand.ADAPT else answer(table, question)
        if id != ProtocolCommand.CONTRACT and (largest := max(len(payload), len(packed))) > size:
            raise MessageTooLarge("it", largest, size)
        return packed

    agreement, asked = converse(ours, reply)
    assert all(agreement.route_of(command).schema == 0 for command in commands_of(ours).values())
    assert asked.count(ProtocolCommand.SIGNATURES) >= least


def test_a_schema_that_fits_no_message_is_refused_alone() -> None:
    def reply(question: Question) -> bytes:
        if question[0] == ProtocolCommand.SIGNATURES:
            raise MessageTooLarge("it", 5000, 1024)
        return pack_plain({"get": [5, STORE["get"].schema.fingerprint], "put": [6, b"other"]})

    agreement, asked = converse(Store, reply)
    assert asked == [ProtocolCommand.CONTRACT, ProtocolCommand.SIGNATURES]
    assert agreement.route_of(STORE["get"]).id == 5
    with pytest.raises(ContractMismatch, match="a signature that it does not tell"):
        agreement.route_of(STORE["put"])


def test_a_contract_that_fits_no_message() -> None:
    def reply(question: Question) -> bytes:
        raise MessageTooLarge("it", 5000, 1024)

    with pytest.raises(MessageTooLarge):
        converse(Store, reply)


def test_no_more_than_some_reasons_are_given() -> None:
    def contract(hint: str) -> type[Service]:
        namespace: dict[str, Any] = {"Service": Service, "rpc": rpc}
        parameters = ", ".join(f"p{number}: {hint}" for number in range(30))
        exec(f"class Many(Service):\n    @rpc\n    def call(self, {parameters}) -> None: ...\n", namespace)
        found: type[Service] = namespace["Many"]
        return found

    ours = contract("int")
    agreement, asked = agree_with(Table([contract("str")()]), ours)
    assert asked == [ProtocolCommand.CONTRACT, ProtocolCommand.SIGNATURES]
    with pytest.raises(ContractMismatch) as raised:
        agreement.route_of(commands_of(ours)["call"])
    assert len(raised.value.reasons) == MAX_REASONS


def test_the_results_of_versions_are_compiled_when_one_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    compiling = CommandCodec.unpack_result_of

    def compile_and_note(codec: CommandCodec, callee: Schema) -> Any:
        compiled.append(codec.command)
        return compiling(codec, callee)

    monkeypatch.setattr(CommandCodec, "unpack_result_of", compile_and_note)
    agreement, _, _ = with_versions(Table([Wide()]), {"get": 3, "put": 0})
    unpack = agreement.route_of(STORE["get"]).unpack_adapted
    assert unpack is not None
    assert compiled == []
    assert [unpack(b"\xc0"), unpack(b"\xc0")] == [None, None]
    assert compiled == ["store.get"]


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


def test_who_takes_no_calls_by_other_versions_says_so_for_each() -> None:
    question = ["store", {"put": STORE["put"].schema.to_data()}]
    assert unpack_plain(answer(TABLE, (ProtocolCommand.ADAPT, pack_plain(question)))) == {}


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
        (ProtocolCommand.ADAPT, None),
        (ProtocolCommand.ADAPT, ["store"]),
        (ProtocolCommand.ADAPT, ["store", ["put"]]),
        (ProtocolCommand.ADAPT, ["store", {1: []}]),
        (ProtocolCommand.ADAPT, [1, {"put": []}]),
    ],
)
def test_a_question_that_makes_no_sense(id: int, question: object) -> None:
    with pytest.raises(ArgumentTypeError, match=f"{BUILTIN_COMMANDS[id].name}: expected"):
        answer(TABLE, (id, pack_plain(question)))
