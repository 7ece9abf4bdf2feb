"""What a client and a server say to each other, whatever carries it: every test runs over every runner.

Only what is the same everywhere stands here. What needs a socket, a thread or a process is tested beside it.
"""

import enum
import logging
import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, cast

import pytest

from tests.runners import Runner, Talk
from tests.support import Gate, Workshop
from typedrpc import (
    ArgumentError,
    ArgumentMissing,
    ArgumentTypeError,
    ArgumentValueError,
    ConnectionLost,
    ContractMismatch,
    DeadlineExceeded,
    DefinitionError,
    FunctionService,
    MessageTooLarge,
    ProtocolError,
    RemoteError,
    RpcError,
    Service,
    UnknownCommand,
    current_call,
    rpc,
)


class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"


@dataclass(frozen=True)
class Item:
    name: str
    price: float = 1.5
    tags: frozenset[str] = frozenset()


@dataclass
class Order:
    items: list[Item]
    colour: Colour | None = None
    notes: dict[str, int] = field(default_factory=dict)


class Shop(Service):
    """One command for each way in which arguments bind, and for values of many kinds."""

    @rpc
    def many(self, a: int, /, b: str = "b", *rest: float, key: bool, more: int = 7, **others: str) -> str:
        return repr((a, b, rest, key, more, others))

    @rpc
    def cheapest(self, order: Order) -> Item | None:
        return min(order.items, key=lambda item: item.price, default=None)

    @rpc
    def turn(self, value: int | str | list[Colour] | None) -> tuple[int | str | list[Colour] | None, str]:
        return value, type(value).__name__

    @rpc
    def big(self, number: int) -> int:
        return number * number

    @rpc
    def later(self, when: datetime) -> datetime:
        return when.replace(year=when.year + 1)

    @rpc
    def total(self, numbers: Iterable[int], weights: Mapping[str, float], words: Sequence[str]) -> float:
        return sum(numbers) * sum(weights.values()) + len(words)

    @rpc
    def mode(self, mode: Literal["fast", "safe"]) -> Literal[1, 2]:
        return 1 if mode == "fast" else 2

    @rpc
    def nothing(self) -> None:
        return None

    @rpc
    def untimely(self) -> Iterable[int]:
        yield 1
        yield 2


def untyped(value: object) -> Any:
    """A value of which no checker knows anything: the run time is to judge it."""
    return value


class TestCalls:
    def test_arguments_bind_as_in_python(self, runner: Runner) -> None:
        with runner.talk(Shop()) as talk:
            remote, local = talk.proxy(Shop), Shop()
            assert remote.many(1, key=True) == local.many(1, key=True)
            assert remote.many(1, "x", 2.5, 3, key=False, more=9, z="z", y="y") == local.many(
                1, "x", 2.5, 3.0, key=False, more=9, z="z", y="y"
            )
            assert remote.many(1, b="kw", key=True) == local.many(1, b="kw", key=True)

    def test_values_arrive_as_annotated(self, runner: Runner) -> None:
        with runner.talk(Shop()) as talk:
            shop = talk.proxy(Shop)
            cheap = Item("nail", 0.5, frozenset({"iron"}))
            assert shop.cheapest(Order([Item("hammer"), cheap], Colour.RED, {"n": 1})) == cheap
            assert shop.cheapest(Order([])) is None
            assert shop.turn(5) == (5, "int")
            assert shop.turn("5") == ("5", "str")
            assert shop.turn(None) == (None, "NoneType")
            assert shop.turn([Colour.BLUE]) == ([Colour.BLUE], "list")
            assert shop.big(10**40) == 10**80
            assert shop.later(datetime(2020, 1, 2, 3, 4, 5, 6, UTC)) == datetime(2021, 1, 2, 3, 4, 5, 6, UTC)
            assert shop.total(range(4), {"a": 0.5}, ("x", "y")) == 5.0
            assert shop.mode("safe") == 2
            shop.nothing()
            assert list(shop.untimely()) == [1, 2]

    def test_every_form_of_a_call(self, runner: Runner) -> None:
        with runner.talk(Workshop()) as talk:
            workshop = talk.proxy(Workshop)
            assert workshop.add(1, b=2) == 3
            assert workshop.add.call(1, b=2) == 3
            assert workshop.add.submit(1, b=2).result() == 3
            assert workshop.add.with_options(timeout=20)(1, b=2) == 3
            assert workshop.add.with_options(timeout=20).submit(1, b=2).result() == 3
            assert list(workshop.add.map([1, 2, 3], [4, 5, 6])) == [5, 7, 9]

    def test_map_ends_with_the_shortest_and_keeps_order(self, runner: Runner) -> None:
        def forever() -> Iterator[int]:
            number = 0
            while True:
                yield number
                number += 1

        with runner.talk(Workshop()) as talk:
            workshop = talk.proxy(Workshop)
            assert list(workshop.add.map(range(300), forever())) == [2 * number for number in range(300)]
            assert list(workshop.add.map([], forever())) == []
            results = workshop.add.map(forever(), forever())
            assert [next(results) for _ in range(5)] == [0, 2, 4, 6, 8]

    def test_map_raises_where_the_call_that_failed_stands(self, runner: Runner) -> None:
        with runner.talk(Failing()) as talk:
            results = talk.proxy(Failing).invert.map([4, 0, 2])
            assert next(results) == 0.25
            with pytest.raises(ZeroDivisionError):
                next(results)

    def test_one_way_calls_run_in_order(self, runner: Runner) -> None:
        workshop = Workshop()
        with runner.talk(workshop) as talk:
            proxy = talk.proxy(Workshop)
            for number in range(500):
                proxy.note.notify(str(number))
            assert workshop.wait_for_notes(500) == [str(number) for number in range(500)]

    def test_a_result_that_nobody_wants_is_not_sent(self, runner: Runner, caplog: pytest.LogCaptureFixture) -> None:
        workshop = Workshop()
        with runner.talk(workshop) as talk, caplog.at_level(logging.WARNING):
            talk.proxy(Failing)
            talk.proxy(Workshop).add.notify(1)
            talk.proxy(Workshop).note.notify("end")
            assert workshop.wait_for_notes(1) == ["end"]
            assert talk.proxy(Workshop).add(1) == 1
        assert caplog.messages == []

    def test_large_values(self, runner: Runner) -> None:
        with runner.talk(Workshop()) as talk:
            workshop = talk.proxy(Workshop)
            for size in (0, 65_535, 65_536, 65_537, 3_000_000):
                data = bytes([size % 251]) * size
                assert workshop.echo(data) == data
                assert workshop.swallow(data) == size
                assert workshop.spell("x", size) == "x" * size


class TestContracts:
    def test_a_contract_and_its_implementation_apart(self, runner: Runner) -> None:
        with runner.talk(DiskStore()) as talk:
            store = talk.proxy(Store)
            assert store.get("k") == b"disk k"
            assert talk.proxy(DiskStore).compact() == 3

    def test_several_contracts_on_one_connection(self, runner: Runner) -> None:
        with runner.talk(DiskStore(), Workshop(), greet) as talk:
            assert talk.proxy(Workshop).add(1) == 1
            assert talk.proxy(Store).get("k") == b"disk k"
            assert talk.proxy(hello)("Robert") == "hello Robert"
            assert talk.proxy(bye).submit(times=2).result() == "bye bye"

    def test_a_contract_that_is_not_served(self, runner: Runner) -> None:
        with runner.talk(Workshop()) as talk:
            store = talk.proxy(Store)
            with pytest.raises(UnknownCommand) as caught:
                store.get("k")
            assert (caught.value.command, caught.value.id) == ("store.get", Store.get.id)
            for form in (store.get.submit, store.get.notify, store.get.with_options(timeout=9)):
                with pytest.raises(UnknownCommand, match=r"store\.get"):
                    form("k")
            with pytest.raises(UnknownCommand):
                list(store.get.map(["k"]))
            assert talk.proxy(Workshop).add(1) == 1

    def test_a_function_that_is_not_served(self, runner: Runner) -> None:
        with runner.talk(Workshop()) as talk:
            with pytest.raises(UnknownCommand, match=r"greet\.hello"):
                talk.proxy(hello)("Robert")
            assert talk.proxy(Workshop).add(1) == 1

    def test_other_ids_are_told_to_the_client(self, runner: Runner) -> None:
        ids = {"Workshop.add": 1, "store.get": 2, "Workshop.note": 0xFEFF}
        workshop = Workshop()
        with runner.talk(workshop, DiskStore(), ids=ids) as talk:
            assert talk.proxy(Workshop).add(2, 3) == 5
            assert talk.proxy(Store).get("k") == b"disk k"
            talk.proxy(Workshop).note.notify("n")
            assert workshop.wait_for_notes(1) == ["n"]
            assert talk.proxy(Workshop).echo(b"same") == b"same"

    def test_commands_that_differ_are_refused_and_others_work(self, runner: Runner) -> None:
        with runner.talk(NewGauge()) as talk:
            gauge = talk.proxy(OldGauge)
            assert gauge.same(4) == 4
            with pytest.raises(ContractMismatch) as caught:
                gauge.read("a")
            error = caught.value
            assert error.command == "Gauge.read"
            assert error.ours == "(name: str) -> int"
            assert error.theirs == "(name: str, unit: str) -> float"
            assert error.ours in str(error)
            assert error.theirs in str(error)
            with pytest.raises(ContractMismatch):
                gauge.read.submit("a")
            with pytest.raises(UnknownCommand, match=r"Gauge\.gone"):
                gauge.gone()
            assert gauge.same.submit(5).result() == 5

    @pytest.mark.unmeasured
    def test_the_first_and_the_last_of_many_commands(self, runner: Runner) -> None:
        service = FunctionService("wide")

        def number(value: int) -> int:
            return value + 1

        commands = []
        for index in range(3000):
            number.__name__ = f"number_{index}"
            commands.append(service.rpc(id=index)(number))
        with runner.talk(service) as talk:
            assert talk.proxy(commands[0])(1) == 2
            assert talk.proxy(commands[-1])(2) == 3

    def test_what_is_no_contract(self, runner: Runner) -> None:
        with runner.talk(Workshop()) as talk:
            for wrong in (int, "Workshop", None, Workshop()):
                with pytest.raises((DefinitionError, TypeError)):
                    talk.proxy(untyped(wrong))
            assert talk.proxy(Workshop).add(1) == 1


class TestCurrentCall:
    def test_a_handler_sees_its_call(self, runner: Runner) -> None:
        class Nosy(Service):
            @rpc
            def look(self) -> tuple[str, bool, bool]:
                call = current_call()
                peers.append(call.peer)
                servers.append(call.server)
                return call.command, call.deadline is None, repr(call) == f"<call of Nosy.look from {call.peer!r}>"

        peers: list[Any] = []
        servers: list[Any] = []
        with runner.talk(Nosy()) as talk:
            nosy = talk.proxy(Nosy)
            assert nosy.look() == ("Nosy.look", True, True)
            assert nosy.look.with_options(timeout=20)() == ("Nosy.look", False, True)
            assert peers[0] is peers[1]
            assert servers[0] is peers[0].server
        with pytest.raises(RuntimeError, match="inside a handler"):
            current_call()

    def test_a_handler_ends_its_connection(self, runner: Runner) -> None:
        class Bouncer(Service):
            @rpc
            def leave(self) -> None:
                current_call().peer.close("you had enough")

        with runner.talk(Bouncer()) as talk:
            with pytest.raises(ConnectionLost, match="you had enough"):
                talk.proxy(Bouncer).leave()
            bouncer = talk.proxy(Bouncer)  # which is another connection
            with pytest.raises(ConnectionLost, match="you had enough"):
                bouncer.leave()


class TestWrongArguments:
    @pytest.mark.parametrize(
        ("call", "error", "text"),
        [
            (
                lambda workshop: workshop.add("1"),
                ArgumentTypeError,
                "Workshop.add: argument 'a': expected int, got str",
            ),
            (lambda workshop: workshop.add(1.5), ArgumentTypeError, "argument 'a': expected int, got float"),
            (lambda workshop: workshop.add(1, 2, 3), ArgumentTypeError, "Workshop.add"),
            (lambda workshop: workshop.add(1, c=3), ArgumentTypeError, "'c'"),
            (lambda workshop: workshop.add(1, a=3), ArgumentTypeError, "'a'"),
            (lambda workshop: workshop.add(), ArgumentMissing, "'a'"),
            (lambda workshop: workshop.spell("\ud800", 1), ArgumentValueError, "'text'"),
        ],
    )
    def test_they_raise_at_the_caller(
        self, runner: Runner, call: Callable[[Any], Any], error: type[ArgumentError], text: str
    ) -> None:
        with runner.talk(Workshop()) as talk:
            workshop = talk.proxy(Workshop)
            with pytest.raises(error, match=re.escape(text)):
                call(workshop)
            assert workshop.add(1) == 1

    def test_all_forms_check(self, runner: Runner) -> None:
        with runner.talk(Workshop()) as talk:
            add = untyped(talk.proxy(Workshop).add)
            for form in (
                add,
                add.call,
                add.submit,
                add.notify,
                add.with_options(timeout=9),
                add.with_options(timeout=9).submit,
            ):
                with pytest.raises(ArgumentTypeError):
                    form("1")
            with pytest.raises(ArgumentTypeError):
                list(add.map([1, "2"]))
            assert add(1) == 1


class Refusal(Exception):
    """What no contract declares."""


class Failing(Service):
    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    @rpc
    def fail(self) -> None:
        if self.error is not None:
            raise self.error

    @rpc
    def invert(self, number: int) -> float:
        return 1 / number

    @rpc
    def open(self, path: str) -> str:
        with open(path) as file:
            return file.read()

    @rpc
    def lie(self, what: str) -> int:
        return cast(int, {"text": "text", "none": None, "float": 1.5}[what])

    @rpc
    def trickle(self) -> Iterable[int]:
        yield 1
        raise Refusal("secret-text")


PUBLIC = [
    ValueError("no such thing"),
    KeyError("key"),
    OverflowError("int too big to convert"),
    IndexError("list index out of range", 7),
    ZeroDivisionError(),
    NotImplementedError("later"),
    TypeError("two", 2, None, 1.5, b"bytes"),
    LookupError("ümlaut \N{SNOWMAN}"),
    PermissionError(13, "Permission denied", "/etc/shadow"),
    ArgumentError("not these together"),
    ArgumentTypeError("no such thing"),
    ArgumentValueError("too many: 3"),
    ArgumentMissing("give one of a and b"),
]

UNDECLARED = [
    Refusal("secret-text"),
    RuntimeError("secret-text"),
    TimeoutError("secret-text"),
    ConnectionResetError("secret-text"),
    ConnectionLost("secret-text"),
    DeadlineExceeded("secret-text"),
    UnknownCommand("secret-text", 1),
    type("Mine", (ArgumentValueError,), {})("secret-text"),
    StopIteration("secret-text"),
    UnicodeDecodeError("utf-8", b"secret-text", 0, 1, "secret-text"),
    RecursionError("secret-text"),
    MemoryError("secret-text"),
    SystemExit("secret-text"),
    KeyboardInterrupt("secret-text"),
    GeneratorExit("secret-text"),
    BaseExceptionGroup("secret-text", [ValueError("secret-text")]),
]


class TestFailingHandlers:
    @pytest.mark.parametrize("error", PUBLIC, ids=lambda error: type(error).__name__)
    def test_a_builtin_arrives_as_itself(
        self, runner: Runner, error: Exception, caplog: pytest.LogCaptureFixture
    ) -> None:
        with runner.talk(Failing(error)) as talk:
            failing = talk.proxy(Failing)
            for call in (failing.fail, failing.fail.submit().result):
                with pytest.raises(type(error)) as caught:
                    call()
                assert type(caught.value) is type(error)
                assert caught.value.args == error.args
                assert str(caught.value) == str(error)
                cause = caught.value.__cause__
                assert isinstance(cause, RemoteError)
                assert (cause.command, cause.type_name) == ("Failing.fail", type(error).__name__)
            assert failing.invert(2) == 0.5
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []

    def test_an_os_error_keeps_its_file_name(self, runner: Runner) -> None:
        with runner.talk(Failing()) as talk:
            with pytest.raises(FileNotFoundError) as caught:
                talk.proxy(Failing).open("/nowhere/at/all")
            assert caught.value.filename == "/nowhere/at/all"
            assert caught.value.errno == 2
            assert str(caught.value) == "[Errno 2] No such file or directory: '/nowhere/at/all'"

    @pytest.mark.parametrize("error", UNDECLARED, ids=lambda error: type(error).__name__)
    def test_anything_else_says_no_more_than_its_name(
        self, runner: Runner, error: BaseException, caplog: pytest.LogCaptureFixture
    ) -> None:
        with runner.talk(Failing(error)) as talk:
            failing = talk.proxy(Failing)
            with pytest.raises(RemoteError) as caught:
                failing.fail()
            remote = caught.value
            assert (remote.command, remote.type_name) == ("Failing.fail", type(error).__name__)
            assert re.fullmatch("[0-9a-f]{8}", remote.error_id)
            for word in ("secret-text", "Traceback", "File", ".py"):
                assert word not in str(remote)
                assert word not in repr(remote)
            assert remote.__cause__ is None
            (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
            assert remote.error_id in record.getMessage()
            assert record.exc_info
            assert record.exc_info[1] is error
            assert failing.invert(2) == 0.5

    def test_debug_tells_the_traceback(self, runner: Runner) -> None:
        with runner.talk(Failing(Refusal("secret-text")), debug=True) as talk:
            failing = talk.proxy(Failing)
            with pytest.raises(RemoteError, match=r"(?s)Traceback.*Refusal: secret-text"):
                failing.fail()
            assert failing.invert(2) == 0.5

    def test_a_failed_one_way_call_is_logged(self, runner: Runner, caplog: pytest.LogCaptureFixture) -> None:
        workshop = Workshop()
        with runner.talk(Failing(ValueError("nobody hears")), workshop) as talk:
            talk.proxy(Failing).fail.notify()
            talk.proxy(Workshop).note.notify("next")
            workshop.wait_for_notes(1)
        (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert "Failing.fail failed in a one-way call" in record.getMessage()

    @pytest.mark.parametrize("what", ["text", "none", "float"])
    def test_a_result_that_does_not_fit(self, runner: Runner, what: str, caplog: pytest.LogCaptureFixture) -> None:
        with runner.talk(Failing()) as talk:
            failing = talk.proxy(Failing)
            with pytest.raises(RemoteError, match=r"Failing\.lie.*expected int"):
                failing.lie(what)
            assert failing.invert(2) == 0.5
        (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert "does not keep to its annotations" in record.getMessage()

    def test_an_exception_while_the_result_is_packed(self, runner: Runner, caplog: pytest.LogCaptureFixture) -> None:
        with runner.talk(Failing()) as talk:
            failing = talk.proxy(Failing)
            with pytest.raises(RemoteError) as caught:
                failing.trickle()
            assert caught.value.type_name == "Refusal"
            assert "secret-text" not in str(caught.value)
            assert failing.invert(2) == 0.5
        (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert caught.value.error_id in record.getMessage()

    def test_nothing_of_one_call_clings_to_the_next(self, runner: Runner) -> None:
        with runner.talk(Failing(Refusal("secret-text"))) as talk:
            failing = talk.proxy(Failing)
            errors = []
            for _ in range(3):
                with pytest.raises(RemoteError) as caught:
                    failing.fail()
                errors.append(caught.value)
            assert len({id(error) for error in errors}) == 3
            assert len({error.error_id for error in errors}) == 3


@dataclass
class Even:
    """Refuses odd numbers, and fails over 13 in a way that it should not."""

    number: int

    def __post_init__(self) -> None:
        if self.number == 13:
            raise Refusal("secret-text")
        if self.number % 2:
            raise ValueError(f"{self.number} is odd")


class Halving(Service):
    @rpc
    def halve(self, even: Even) -> Even:
        return make_even(even.number // 2)


def make_even(number: int) -> Even:
    """One that may be odd: what a peer may send, and what a handler may return."""
    even = Even(0)
    even.number = number
    return even


class TestValidatingDataclasses:
    def test_a_value_that_its_class_refuses(self, runner: Runner) -> None:
        with runner.talk(Halving()) as talk:
            halving = talk.proxy(Halving)
            assert halving.halve(Even(4)) == Even(2)
            with pytest.raises(ArgumentValueError, match="3 is odd"):
                halving.halve(make_even(3))
            with pytest.raises(ProtocolError, match="5 is odd"):
                halving.halve(Even(10))
            assert halving.halve(Even(4)) == Even(2)

    def test_a_class_that_fails_over_a_value(self, runner: Runner) -> None:
        with runner.talk(Halving()) as talk:
            halving = talk.proxy(Halving)
            with pytest.raises(RpcError) as caught:
                halving.halve(make_even(13))
            assert not isinstance(caught.value, ConnectionLost)
            assert halving.halve(Even(4)) == Even(2)


class TestSizes:
    def test_arguments_that_are_too_large(self, runner: Runner) -> None:
        with runner.talk(Workshop(), max_message_size=100_000) as talk:
            workshop = talk.proxy(Workshop)
            for call in (
                workshop.swallow,
                workshop.swallow.submit,
                workshop.swallow.notify,
                workshop.swallow.with_options(timeout=9),
            ):
                with pytest.raises(MessageTooLarge) as caught:
                    call(bytes(100_001))
                assert caught.value.limit == 100_000
                assert caught.value.size > 100_000
                assert "Workshop.swallow" in caught.value.what
                assert workshop.swallow(bytes(99_000)) == 99_000

    def test_a_result_that_is_too_large(self, runner: Runner) -> None:
        with runner.talk(Workshop(), accepts=100_000) as talk:
            workshop = talk.proxy(Workshop)
            for call in (workshop.blob, lambda size: workshop.blob.submit(size).result()):
                with pytest.raises(MessageTooLarge) as caught:
                    call(100_001)
                assert caught.value.limit == 100_000
                assert "the result of Workshop.blob" in caught.value.what
                assert len(workshop.blob(99_000)) == 99_000

    def test_an_error_with_a_long_text(self, runner: Runner) -> None:
        with runner.talk(Failing(ValueError("x" * 10_000_000, *range(100))), accepts=100_000) as talk:
            failing = talk.proxy(Failing)
            with pytest.raises(ValueError, match="x" * 1000) as caught:
                failing.fail()
            assert len(str(caught.value)) < 10_000
            assert failing.invert(2) == 0.5


class TestDeadlines:
    def test_a_call_that_takes_too_long(self, runner: Runner) -> None:
        workshop = Workshop()
        with runner.talk(workshop) as talk:
            proxy = talk.proxy(Workshop)
            with pytest.raises(DeadlineExceeded, match=r"Workshop\.wait"):
                proxy.wait.with_options(timeout=0.05)("a")
            with pytest.raises(TimeoutError):
                proxy.wait.with_options(timeout=0.05).submit("b").result()
            # The late answers are dropped, and the connection goes on.
            workshop.gates.open_all()
            assert proxy.add(1) == 1
            assert proxy.wait("a") == "a"
            assert list(proxy.add.map(range(100))) == list(range(100))

    def test_no_time_at_all(self, runner: Runner) -> None:
        with runner.talk(Workshop()) as talk:
            add = talk.proxy(Workshop).add
            with pytest.raises(DeadlineExceeded):
                add.with_options(timeout=0)(1)
            with pytest.raises(DeadlineExceeded):
                add.with_options(timeout=0).submit(1).result()
            assert add(1) == 1

    @pytest.mark.parametrize("timeout", [1e-9, 3e6, 1e10, 1e15, 1e300])
    def test_times_that_are_out_of_the_ordinary(self, runner: Runner, timeout: float) -> None:
        with runner.talk(Workshop()) as talk:
            add = talk.proxy(Workshop).add
            timed = add.with_options(timeout=timeout)
            forms: list[Callable[[], int]] = [
                lambda: timed(1),
                lambda: timed.submit(1).result(),
                lambda: next(timed.map([1])),
            ]
            for call in forms:
                if timeout < 1:
                    with pytest.raises(DeadlineExceeded):
                        call()
                else:
                    assert call() == 1
            assert add(2) == 2


class TestEnds:
    def test_calls_after_the_end(self, runner: Runner) -> None:
        with runner.talk(Workshop()) as talk:
            workshop = talk.proxy(Workshop)
            assert workshop.add(1) == 1
            talk.close()
            talk.close()
            for call in (
                lambda: workshop.add(1),
                lambda: workshop.add.submit(1),
                lambda: workshop.note.notify("n"),
                lambda: list(workshop.add.map([1])),
                lambda: workshop.add.with_options(timeout=9)(1),
                lambda: talk.proxy(Store),
            ):
                with pytest.raises(ConnectionLost, match="closed on this side"):
                    call()

    def test_calls_that_wait_at_the_end(self, runner: Runner) -> None:
        workshop = Workshop()
        with runner.talk(workshop) as talk:
            waiting = [talk.proxy(Workshop).wait.submit(name) for name in "abc"]
            workshop.started["a"].wait()
            talk.close()
            for future in waiting:
                with pytest.raises(ConnectionLost, match="closed on this side"):
                    future.result()
            workshop.gates["a"].open()
            workshop.gates["b"].open()
            workshop.gates["c"].open()


class TestConcurrency:
    def test_a_blocked_handler_holds_nobody_up(self, runner: Runner) -> None:
        workshop = Workshop()
        with runner.talk(workshop) as talk:
            proxy = talk.proxy(Workshop)
            blocked = proxy.wait.submit("gate")
            workshop.started["gate"].wait()
            assert proxy.add(1) == 1
            assert list(proxy.add.map(range(50))) == list(range(50))
            proxy.note.notify("passed")
            workshop.wait_for_notes(1)
            assert not blocked.done()
            workshop.gates["gate"].open()
            assert blocked.result() == "gate"

    def test_a_blocked_one_way_call_holds_up_one_way_calls_alone(self, runner: Runner) -> None:
        entered, gate = Gate(), Gate()

        class Slow(Service):
            def __init__(self) -> None:
                self.seen: list[int] = []

            @rpc
            def step(self, number: int) -> None:
                if number == 0:
                    entered.open()
                    gate.wait()
                self.seen.append(number)

            @rpc
            def count(self) -> int:
                return len(self.seen)

        slow = Slow()
        with runner.talk(slow) as talk:
            proxy = talk.proxy(Slow)
            for number in range(3):
                proxy.step.notify(number)
            entered.wait()
            assert proxy.count() == 0
            gate.open()
            proxy.step(9)
        assert sorted(slow.seen) == [0, 1, 2, 9]
        assert [number for number in slow.seen if number != 9] == [0, 1, 2]


class Store(Service, name="store"):
    @rpc
    @abstractmethod
    def get(self, key: str) -> bytes | None: ...


class DiskStore(Store):
    @rpc
    def get(self, key: str) -> bytes | None:
        return f"disk {key}".encode()

    @rpc
    def compact(self) -> int:
        return 3


class OldGauge(Service, name="Gauge"):
    @rpc
    def read(self, name: str) -> int:
        return 1

    @rpc
    def same(self, number: int) -> int:
        return number

    @rpc
    def gone(self) -> None: ...


class NewGauge(Service, name="Gauge"):
    @rpc
    def read(self, name: str, unit: str) -> float:
        return 1.5

    @rpc
    def same(self, number: int) -> int:
        return number


greet = FunctionService("greet")


@greet.rpc
def hello(name: str) -> str:
    return f"hello {name}"


@greet.rpc
def bye(*, times: int = 1) -> str:
    return " ".join(["bye"] * times)


def test_the_peer_of_a_client(runner: Runner) -> None:
    with runner.talk(Workshop()) as talk:
        assert talk.peer.server is None
        assert str(talk.peer.id) in repr(talk.peer)
        talk.peer.close("enough")
        with pytest.raises(ConnectionLost, match="enough"):
            add_one(talk)


def add_one(talk: Talk) -> int:
    return talk.proxy(Workshop).add(1)
