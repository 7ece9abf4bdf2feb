import logging
from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any, cast

import pytest

from tests.back_to_back import Pair, frames, joined
from tests.support import StubLink
from typedrpc.agreement import MAX_SIGNATURE, agree
from typedrpc.answers import Answers, Kept, Running
from typedrpc.call import Call, current_call, enter_call, leave_call
from typedrpc.codec import Payload, pack_plain, unpack_plain
from typedrpc.codec.arguments import AdaptedArgumentsCoder
from typedrpc.command import rpc
from typedrpc.dispatch import MAX_NESTING, Dispatcher
from typedrpc.errors import (
    ArgumentMissing,
    ArgumentTypeError,
    ArgumentValueError,
    ConnectionLost,
    DeadlineExceeded,
    MessageTooLarge,
    NestedTooDeep,
    RemoteError,
    ServerBusy,
    UnknownCommand,
)
from typedrpc.failure import unpack_failure
from typedrpc.messages import Limits, ProtocolCommand, pack_extension
from typedrpc.peer import Peer
from typedrpc.protocol import Outgoing, Request
from typedrpc.service import Service, Table, commands_of
from typedrpc.wire import Kind


@dataclass
class Even:
    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ZeroDivisionError("an odd number")


class Secret(Exception):
    pass


class Shop(Service):
    def __init__(self) -> None:
        self.calls: list[Call] = []

    @rpc
    def add(self, a: int, b: int = 0) -> int:
        self.calls.append(current_call())
        return a + b

    @rpc
    def fail(self, kind: str) -> None:
        raise {"public": OverflowError("int too big to convert"), "secret": Secret("42"), "exit": SystemExit(1)}[kind]

    @rpc
    def lie(self) -> int:
        return "no int"  # type: ignore[return-value]  # what the test is about

    @rpc
    def blob(self, size: int) -> bytes:
        return bytes(size)

    @rpc
    def half(self, number: Even) -> int:
        return number.number // 2

    @rpc
    def some(self, count: int, fault: str) -> Iterable[int]:
        yield from range(count)
        if fault == "public":
            raise ValueError("in the middle")
        if fault == "secret":
            raise Secret("42")


COMMANDS = commands_of(Shop)


class Counter:
    """Serves a shop to a client's core, without threads: what is asked is answered at once."""

    def __init__(self, *, debug: bool = False, accepts: Limits | None = None, max_depth: int = MAX_NESTING) -> None:
        self.shop = Shop()
        self.dispatcher = Dispatcher(Table([self.shop]), debug=debug, max_depth=max_depth)
        self.pair = Pair(client=accepts).open()
        self.server: Any = object()
        self.peer = Peer(1, "here", cast(Any, self.server), StubLink())

    def send(self, id: int, payload: Payload, *, one_way: bool = False, extension: bytes = b"") -> Outgoing | None:
        """Make a call; the bytes that answer it."""
        client = self.pair.client
        if one_way:
            data = client.notify(id, payload, "what", extension)
        else:
            data = client.request(client.new_call(), id, payload, "what", extension)
        (request,) = self.pair.to_server(data)
        assert isinstance(request, Request)
        answer = self.handle(request)
        assert self.pair.server.running == 0, "every call is answered"
        return answer

    def handle(self, request: Request) -> Outgoing | None:
        core, dispatcher = self.pair.server, self.dispatcher
        call = dispatcher.begin(core, request, self.peer)
        if not isinstance(call, Call):
            return call
        token = enter_call(call)
        try:
            result = call.function(*call.args, **call.kwargs)
        except BaseException as error:
            return dispatcher.fail(core, request, call, error)
        else:
            return dispatcher.finish(core, request, call, result)
        finally:
            leave_call(token)

    def ask(self, id: int, payload: Payload, **options: Any) -> Any:
        """Make a call; the payload of its response, or its error raised."""
        answer = self.send(id, payload, **options)
        assert answer is not None
        (frame,) = frames(joined(answer))
        if frame.kind == Kind.ERROR:
            raise unpack_failure(frame.payload, "Shop")
        return frame.payload

    def call(self, name: str, *args: Any) -> Any:
        command = COMMANDS[name]
        return command.codec.unpack_result(self.ask(command.id, command.codec.pack_arguments(*args)))


def test_a_call_is_led_to_its_handler() -> None:
    counter = Counter()
    assert counter.call("add", 1) == 1
    assert counter.call("add", 1, 2) == 3
    assert counter.call("some", 3, "") == [0, 1, 2]


def test_what_a_handler_knows_of_its_call() -> None:
    counter = Counter()
    command = COMMANDS["add"]
    counter.call("add", 1)
    before = monotonic()
    counter.ask(command.id, command.codec.pack_arguments(1), extension=pack_extension(time_left=5.0))
    first, second = counter.shop.calls
    assert (first.command, first.peer, first.server, first.deadline) == ("Shop.add", counter.peer, counter.server, None)
    assert repr(first) == "<call of Shop.add from <peer 1 at here>>"
    assert second.deadline is not None
    assert before + 5.0 <= second.deadline <= monotonic() + 5.0


def test_outside_a_handler_there_is_no_call() -> None:
    with pytest.raises(RuntimeError, match="inside a handler only"):
        current_call()


def test_an_unknown_command() -> None:
    with pytest.raises(UnknownCommand) as raised:
        Counter().ask(0xFEFF, b"\x90")
    assert raised.value.id == 0xFEFF


@pytest.mark.parametrize(
    ("name", "payload", "error"),
    [
        ("add", b"", ArgumentValueError),
        ("add", b"\xc1", ArgumentValueError),
        ("add", b"\x91" * 100_000, ArgumentValueError),
        ("add", b"\x90", ArgumentMissing),
        ("add", b"\x91\xa1a", ArgumentTypeError),
        ("add", b"\x93\x01\x02\x03", ArgumentTypeError),
        ("add", b"\x91\x01\x00", ArgumentValueError),
        ("half", b"\x91\x91\x01", ArgumentValueError),
    ],
)
def test_a_bad_payload_is_an_error_for_its_call(name: str, payload: bytes, error: type[Exception]) -> None:
    counter = Counter()
    with pytest.raises(error, match=f"Shop.{name}"):
        counter.ask(COMMANDS[name].id, payload)
    assert counter.call("add", 1) == 1


def test_no_time_left() -> None:
    counter = Counter()
    command = COMMANDS["add"]
    with pytest.raises(DeadlineExceeded, match=r"Shop\.add: no time was left"):
        counter.ask(command.id, command.codec.pack_arguments(1), extension=pack_extension(time_left=0.0))
    assert counter.shop.calls == []


@pytest.mark.parametrize("max_depth", [1, 3, MAX_NESTING])
def test_a_call_that_is_nested_too_deep_is_refused(max_depth: int) -> None:
    counter = Counter(max_depth=max_depth)
    add = COMMANDS["add"].id
    deepest = counter.send(add, pack_plain([1]), extension=pack_extension(depth=max_depth - 1))
    assert frames(joined(deepest or b""))[0].kind == Kind.RESPONSE
    assert counter.shop.calls[-1].depth == max_depth - 1
    for depth in (max_depth, 2**32 - 1):
        answer = counter.send(add, pack_plain([1]), extension=pack_extension(parent=2, depth=depth))
        (refusal,) = frames(joined(answer or b""))
        error = unpack_failure(refusal.payload, "what")
        assert type(error) is NestedTooDeep
        assert str(error) == f"Shop.add: {depth} calls are nested in each other, which is the limit"
    assert len(counter.shop.calls) == 1


def test_a_one_way_call_that_is_nested_too_deep_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    counter = Counter(max_depth=1)
    assert counter.send(COMMANDS["add"].id, pack_plain([1]), one_way=True, extension=pack_extension(depth=1)) is None
    assert [record.getMessage()[:48] for record in caplog.records] == [
        "a one-way call was dropped: Shop.add: 1 calls ar"
    ]
    assert counter.shop.calls == []


def test_a_handler_that_lets_too_deep_nesting_through_hands_it_on(caplog: pytest.LogCaptureFixture) -> None:
    """The others of typedrpc's own say at each caller that its handler failed; this one is the same at each."""
    counter = Counter()
    request = Request(COMMANDS["add"].id, 1, pack_plain([1]))
    call = counter.dispatcher.begin(counter.pair.server, request, counter.peer)
    assert isinstance(call, Call)

    def answer_to(error: Exception) -> Exception:
        (frame,) = frames(joined(counter.dispatcher.fail(counter.pair.server, request, call, error) or b""))
        return unpack_failure(frame.payload, "Shop.add")

    error = answer_to(NestedTooDeep("Store.get: 64 calls are nested in each other, which is the limit"))
    assert type(error) is NestedTooDeep
    assert str(error) == "Store.get: 64 calls are nested in each other, which is the limit"
    assert caplog.records == []
    busy = answer_to(ServerBusy("no room"))
    assert isinstance(busy, RemoteError)
    assert busy.type_name == "ServerBusy"


def test_a_callback_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    counter = Counter()
    answer = counter.send(ProtocolCommand.CALLBACK, pack_plain([1]), extension=pack_extension(target=(3, 0)))
    error = unpack_failure(frames(joined(answer or b""))[0].payload, "what")
    assert isinstance(error, UnknownCommand)
    assert str(error) == "the peer has no command 'callback 0 of call 3' (id 0xff03)"
    answer = counter.send(ProtocolCommand.CALLBACK, pack_plain([1]))
    assert isinstance(unpack_failure(frames(joined(answer or b""))[0].payload, "what"), UnknownCommand)
    # With any other command it has no meaning.
    add = COMMANDS["add"].id
    answer = counter.send(add, pack_plain([1]), extension=pack_extension(target=(3, 0)))
    assert frames(joined(answer or b""))[0].kind == Kind.RESPONSE


def test_a_public_exception_arrives_as_itself_and_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(OverflowError, match=r"^int too big to convert$"):
        Counter().call("fail", "public")
    assert caplog.records == []


@pytest.mark.parametrize(("kind", "name"), [("secret", "Secret"), ("exit", "SystemExit")])
def test_an_undeclared_exception_is_logged_and_its_caller_told_an_error_id(
    caplog: pytest.LogCaptureFixture, kind: str, name: str
) -> None:
    with pytest.raises(RemoteError) as raised:
        Counter().call("fail", kind)
    error = raised.value
    assert error.type_name == name
    (record,) = caplog.records
    assert record.name == "typedrpc"
    assert record.levelno == logging.ERROR
    assert record.getMessage() == f"Shop.fail failed in a call, error id {error.error_id}"
    assert record.exc_info is not None
    assert str(error) == f"Shop failed at the peer with {name} (error id {error.error_id}, see the peer's log)"


def test_in_debug_mode_the_caller_is_told_the_traceback() -> None:
    with pytest.raises(RemoteError, match="Traceback") as raised:
        Counter(debug=True).call("fail", "secret")
    assert "Secret: 42" in str(raised.value)
    with pytest.raises(OverflowError, match=r"^int too big to convert$"):
        Counter(debug=True).call("fail", "public")


def test_a_result_that_does_not_fit_its_annotation(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RemoteError, match=r"Shop\.lie: result: expected int, got str"):
        Counter().call("lie")
    (record,) = caplog.records
    assert "does not keep to its annotations" in record.getMessage()


def test_a_result_that_is_too_large(caplog: pytest.LogCaptureFixture) -> None:
    counter = Counter(accepts=Limits(max_message_size=2000))
    with pytest.raises(MessageTooLarge) as raised:
        counter.call("blob", 5000)
    assert raised.value.what == "the result of Shop.blob"
    assert raised.value.limit == 2000
    assert len(caplog.records) == 1
    assert counter.call("blob", 5) == bytes(5)


def test_a_generator_that_raises_is_a_handler_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    counter = Counter()
    with pytest.raises(ValueError, match=r"^in the middle$"):
        counter.call("some", 2, "public")
    assert caplog.records == []
    with pytest.raises(RemoteError) as raised:
        counter.call("some", 2, "secret")
    assert raised.value.type_name == "Secret"
    assert raised.value.error_id in caplog.text
    assert counter.call("some", 1, "") == [0]


# One-way calls


def test_a_one_way_call_is_handled_and_not_answered() -> None:
    counter = Counter()
    command = COMMANDS["add"]
    assert counter.send(command.id, command.codec.pack_arguments(1, 2), one_way=True) is None
    assert len(counter.shop.calls) == 1


@pytest.mark.parametrize("kind", ["public", "secret"])
def test_a_one_way_call_that_fails_is_logged_in_any_case(caplog: pytest.LogCaptureFixture, kind: str) -> None:
    command = COMMANDS["fail"]
    assert Counter().send(command.id, command.codec.pack_arguments(kind), one_way=True) is None
    (record,) = caplog.records
    assert record.getMessage().startswith("Shop.fail failed in a one-way call, error id ")


@pytest.mark.parametrize(
    ("id", "payload", "extension"),
    [
        (0xFEFF, b"\x90", b""),
        (COMMANDS["add"].id, b"\x90", b""),
        (COMMANDS["add"].id, b"\xc1", b""),
        (COMMANDS["add"].id, b"\x91\x01", pack_extension(time_left=0.0)),
    ],
)
def test_a_one_way_call_that_cannot_be_handled_is_logged(
    caplog: pytest.LogCaptureFixture, id: int, payload: bytes, extension: bytes
) -> None:
    assert Counter().send(id, payload, one_way=True, extension=extension) is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("a one-way call was dropped: ")


# The protocol's own commands


def test_contracts_are_agreed_upon() -> None:
    counter = Counter()
    conversation = agree("Shop", COMMANDS)
    id, payload = next(conversation)
    with pytest.raises(StopIteration) as done:
        conversation.send(counter.ask(id, payload))
    assert done.value.value.route_of(COMMANDS["add"]).id == COMMANDS["add"].id


def test_signatures_are_told() -> None:
    told = unpack_plain(Counter().ask(ProtocolCommand.SIGNATURES, pack_plain(["Shop", ["add"]])))
    assert told == {"add": COMMANDS["add"].schema.to_data()}


@pytest.mark.parametrize("id", [ProtocolCommand.CONTRACT, ProtocolCommand.SIGNATURES, ProtocolCommand.ADAPT])
@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (b"", ArgumentValueError),
        (b"\xc1", ArgumentValueError),
        (b"\x91" * 100_000, ArgumentValueError),
        (b"\xc0", ArgumentTypeError),
        (b"\x90", ArgumentTypeError),
        (b"\x92\x01\x02", ArgumentTypeError),
    ],
)
def test_a_bad_question_is_refused_without_a_word_in_the_log(
    caplog: pytest.LogCaptureFixture, id: int, payload: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"^typedrpc\.(contract|signatures|adapt): "):
        Counter().ask(id, payload)
    assert caplog.records == []


# Callers with another version


def schema(*parameters: list[Any], result: Any = "int") -> Any:
    return [[*parameters], result, []]


A: list[Any] = ["a", 1, "int", True]
B: list[Any] = ["b", 1, "int", False]


def test_a_call_by_a_schema_of_the_callers() -> None:
    counter = Counter()
    for _ in range(2):
        numbers = counter.ask(
            ProtocolCommand.ADAPT,
            pack_plain(["Shop", {"add": schema(["extra", 3, "str", False], ["a", 3, "bool", True])}]),
        )
        assert unpack_plain(numbers) == {"add": 0}
    for arguments in (["ignored", True], {1: True}):
        extension = pack_extension(schema=0, time_left=60.0)
        answer = counter.ask(COMMANDS["add"].id, pack_plain(arguments), extension=extension)
        assert unpack_plain(answer) == 1
        call = counter.shop.calls[-1]
        assert (call.command, call.args, call.kwargs) == ("Shop.add", (1,), {})
        assert type(call.args[0]) is int
        assert call.deadline is not None
    assert counter.call("add", 1, 2) == 3


@pytest.mark.parametrize(
    ("told", "takes"),
    [
        (COMMANDS["add"].schema.to_data(), True),
        (schema(B, ["a", 3, "int", True]), True),
        (schema(A, B, result="float"), True),
        (schema(A, B, ["c", 1, "str", False]), True),
        (schema(A), True),
        (schema(B), False),
        (schema(A, B, result="str"), False),
        (schema(["a", 1, "str", True]), False),
        (schema(A, ["c", 3, "str", True]), False),
        (None, False),
        ("int", False),
        ([[], "int"], False),
    ],
)
def test_which_schemas_are_taken(told: Any, takes: bool) -> None:
    counter = Counter()
    numbers = unpack_plain(counter.ask(ProtocolCommand.ADAPT, pack_plain(["Shop", {"add": told, "none": told}])))
    assert numbers == ({"add": 0} if takes else {})
    assert len(counter.peer.versions.rows) == takes


def test_a_schema_that_is_too_long_is_not_taken() -> None:
    counter = Counter()
    for size, takes in ((MAX_SIGNATURE // 2, True), (MAX_SIGNATURE + 1000, False)):
        names = [[f"{number:0>100}x".replace("0", "o"), 3, "int", False] for number in range(size // 110)]
        told = schema(A, *names)
        assert (len(pack_plain(told)) <= MAX_SIGNATURE) is takes
        numbers = unpack_plain(counter.ask(ProtocolCommand.ADAPT, pack_plain(["Shop", {"add": told}])))
        assert bool(numbers) is takes


def test_a_number_that_was_not_agreed_about_is_an_error_for_its_call() -> None:
    counter = Counter()
    payload = pack_plain(["Shop", {"add": schema(A)}])
    assert unpack_plain(counter.ask(ProtocolCommand.ADAPT, payload)) == {"add": 0}
    for id, number in (
        (COMMANDS["add"].id, 1),
        (COMMANDS["blob"].id, 0),
        (ProtocolCommand.CONTRACT, 0),
    ):
        with pytest.raises(RemoteError, match=f"the schema {number} was not agreed about on this connection"):
            counter.ask(id, b"\x91\x01", extension=pack_extension(schema=number))
    assert counter.call("add", 1) == 1


def test_a_bad_payload_by_a_schema_of_the_callers() -> None:
    counter = Counter()
    counter.ask(ProtocolCommand.ADAPT, pack_plain(["Shop", {"add": schema(A)}]))
    id, extension = COMMANDS["add"].id, pack_extension(schema=0)
    for payload, error in (
        (b"", ArgumentValueError),
        (b"\xc1", ArgumentValueError),
        (b"\x90", ArgumentMissing),
        (b"\x91\xa1a", ArgumentTypeError),
        (b"\x92\x01\x02", ArgumentTypeError),
        (b"\x81\x05\x02", ArgumentTypeError),
    ):
        with pytest.raises(error, match=r"Shop\.add"):
            counter.ask(id, payload, extension=extension)
    assert unpack_plain(counter.ask(id, b"\x91\x05", extension=extension)) == 5


def test_a_version_that_turns_out_to_nest_too_deep_is_an_error_for_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """How much of the stack is left depends on where a call is handled."""

    def too_deep(codec: object, *rest: object) -> None:
        raise RecursionError

    counter = Counter()
    told = schema(A, ["deep", 3, "int", False])
    counter.ask(ProtocolCommand.ADAPT, pack_plain(["Shop", {"add": told}]))
    monkeypatch.setattr(AdaptedArgumentsCoder, "compile_unpack", too_deep)
    with pytest.raises(ArgumentValueError, match=r"Shop\.add: the types of the caller nest too deep"):
        counter.ask(COMMANDS["add"].id, b"\x91\x01", extension=pack_extension(schema=0))
    assert counter.call("add", 1) == 1


def test_a_call_that_is_begun_just_after_its_caller_has_left_is_not_run() -> None:
    counter = Counter()
    add = COMMANDS["add"]
    data = counter.pair.client.request(1, add.id, add.codec.pack_arguments(1, 2), "what")
    (request,) = counter.pair.to_server(data)
    assert isinstance(request, Request)
    counter.pair.server.close(ConnectionLost("gone"))
    # Nor is it answered: a goodbye may be on its way, before which its caller must not hear that he has given it up.
    assert counter.dispatcher.begin(counter.pair.server, request, counter.peer) is None
    assert counter.pair.server.running == 0
    assert counter.pair.server.handled == {}


def test_a_call_that_is_over_just_before_it_is_waited_for_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counter, answers = Counter(), Answers()
    core, sent = counter.pair.server, []
    core.visit = visit = answers.enter("", b"session", 0, lambda make: sent.append(make()))
    assert visit is not None
    running = answers.begin(visit.session, "Shop.add", (0, 0, 0), lambda kept: None)
    assert isinstance(running, Running)
    of = Answers.begin

    def begin(self: Answers, *args: Any) -> Any:
        found = of(self, *args)
        running.settle(Kept(False, b"\x03"))
        return found

    monkeypatch.setattr(Answers, "begin", begin)
    counter.dispatcher.answers = answers
    add = COMMANDS["add"]
    assert counter.send(add.id, add.codec.pack_arguments(1, 2), extension=pack_extension(key=(0, 1))) is None
    assert [frame.kind for frame in frames(joined(sent[0]))] == [Kind.RESPONSE]
    assert core.handled == {}
