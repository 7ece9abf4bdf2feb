"""Exceptions that a command declares: what may be declared, and how it arrives."""

from __future__ import annotations

import re
import socket
import traceback
from abc import abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pytest

from tests.runners import Runner
from tests.support import PATIENCE, Gate, Log
from typedrpc import (
    ArgumentError,
    ArgumentMissing,
    ArgumentValueError,
    ContractMismatch,
    DefinitionError,
    FunctionService,
    MessageTooLarge,
    RemoteError,
    RpcError,
    ServerBusy,
    Service,
    rpc,
)
from typedrpc.codec import pack_plain, unpack_plain
from typedrpc.declared import NO_ERRORS, DeclaredErrors
from typedrpc.failure import DeclaredFailure, unpack_failure
from typedrpc.service import Table, bind, commands_of, make_proxy

COMMAND = "Shop.buy"


class OutOfStock(Exception):
    def __init__(self, item: str, left: int = 0) -> None:
        super().__init__(f"{item}: only {left} left")
        self.item, self.left = item, left


class SoldToday(OutOfStock):
    def __init__(self, item: str, when: str) -> None:
        super().__init__(item)
        self.when = when


class SoldAtNoon(SoldToday):
    def __init__(self, item: str) -> None:
        super().__init__(item, "noon")


@dataclass(frozen=True)
class Refused(Exception):
    why: str
    codes: list[int] = field(default_factory=list)


class Late(TimeoutError):
    def __init__(self, seconds: float) -> None:
        super().__init__(f"{seconds} s late")
        self.seconds = seconds


class Bare(Exception):
    pass


def there_and_back(at_callee: DeclaredErrors, error: Exception, at_caller: DeclaredErrors | None = None) -> Exception:
    """What a handler raises as its caller gets it."""
    for errors in (at_callee, at_caller or at_callee):
        errors.read(None)
    payload = at_callee.pack(COMMAND, error)
    assert payload is not None
    failure = unpack_failure(payload, COMMAND)
    assert isinstance(failure, DeclaredFailure)
    return (at_caller or at_callee).rebuild(failure)


# The list

OWN = "is typedrpc's own, and callers would take it for theirs: derive a class from Exception"
PYTHONS = "is Python's own, and callers would take it for theirs: derive a class from it and declare that"


@pytest.mark.parametrize(
    ("raises", "faults"),
    [
        (OutOfStock, [f"raises= takes a list of classes of exceptions, got {OutOfStock!r}"]),
        ("OutOfStock", ["raises= takes a list of classes of exceptions, got 'OutOfStock'"]),
        ({OutOfStock}, [f"raises= takes a list of classes of exceptions, got { ({OutOfStock})!r}"]),
        (None, ["raises= takes a list of classes of exceptions, got None"]),
        (["OutOfStock"], ["raises: 'OutOfStock' is no class"]),
        ([OutOfStock("a")], [f"raises: {OutOfStock('a')!r} is no class"]),
        ([list[int]], ["raises: list[int] is no class"]),
        ([int], ["raises: int is no exception: derive it from Exception"]),
        (
            [SystemExit],
            ["raises: SystemExit does not derive from Exception: what ends a program is nothing to tell a caller"],
        ),
        ([ValueError], ["raises: ValueError arrives as itself in any case: leave it out"]),
        ([ArgumentError], ["raises: ArgumentError arrives as itself in any case: leave it out"]),
        ([ArgumentMissing], ["raises: ArgumentMissing arrives as itself in any case: leave it out"]),
        ([RpcError], [f"raises: RpcError {OWN}"]),
        ([ServerBusy], [f"raises: ServerBusy {OWN}"]),
        ([Exception], [f"raises: Exception {PYTHONS}"]),
        ([TimeoutError], [f"raises: TimeoutError {PYTHONS}"]),
        ([ConnectionError], [f"raises: ConnectionError {PYTHONS}"]),
        ([type("a b", (OutOfStock,), {})], ["raises: a class is declared by its name, and 'a b' is none"]),
        (
            [OutOfStock, type("OutOfStock", (Exception,), {})],
            ["raises: two classes are named OutOfStock, by which they travel: rename one"],
        ),
        (
            [int, KeyError, OutOfStock, None],
            [
                "raises: int is no exception: derive it from Exception",
                "raises: KeyError arrives as itself in any case: leave it out",
                "raises: None is no class",
            ],
        ),
        ([], []),
        ((OutOfStock, Refused, Late), []),
        ([OutOfStock, OutOfStock], []),
        ([type("Mine", (ArgumentValueError,), {}), type("ValueError", (Exception,), {})], []),
    ],
)
def test_what_may_be_declared(raises: object, faults: list[str]) -> None:
    assert DeclaredErrors(raises).faults == faults


def test_the_nearest_declared_base_counts() -> None:
    errors = DeclaredErrors([SoldToday, OutOfStock, Late])
    assert errors.find(OutOfStock) is OutOfStock
    assert errors.find(SoldToday) is SoldToday
    assert errors.find(SoldAtNoon) is SoldToday
    assert errors.find(TimeoutError) is None
    assert errors.find(KeyboardInterrupt) is None
    assert NO_ERRORS.find(OutOfStock) is None


def test_what_is_not_declared_is_not_packed() -> None:
    assert DeclaredErrors([OutOfStock]).pack(COMMAND, Refused("no")) is None
    assert NO_ERRORS.pack(COMMAND, OutOfStock("apple")) is None


def test_what_travels() -> None:
    errors = DeclaredErrors([OutOfStock])
    errors.read(None)
    payload = errors.pack(COMMAND, SoldToday("apple", "noon"))
    assert payload is not None
    fields = pack_plain({"item": "apple", "left": 0})
    assert unpack_plain(payload) == [12, "apple: only 0 left", ["OutOfStock", fields]]


@pytest.mark.parametrize(
    "error", [OutOfStock("apple", 3), Refused("no", [1, 2]), Late(1.5)], ids=lambda error: type(error).__name__
)
def test_a_declared_error_there_and_back(error: Exception) -> None:
    again = there_and_back(DeclaredErrors([Late, OutOfStock, Refused]), error)
    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert str(again) == str(error)
    assert type(again.__cause__) is RemoteError
    assert (again.__cause__.command, again.__cause__.type_name) == (COMMAND, type(error).__name__)
    assert str(again.__cause__) == f"Shop.buy failed at the peer with {type(error).__name__}"
    assert again.__suppress_context__
    assert traceback.format_exception(again)


def named(cls: type[Exception], name: str) -> type[Exception]:
    """A class that goes by another name."""
    return type(name, (cls,), {})


def test_what_the_caller_does_not_declare_arrives_as_remote() -> None:
    again = there_and_back(DeclaredErrors([OutOfStock]), OutOfStock("apple", 3), DeclaredErrors([Refused]))
    assert type(again) is RemoteError
    assert (again.command, again.type_name, again.error_id) == (COMMAND, "OutOfStock", "")
    assert str(again) == (
        "Shop.buy failed at the peer with OutOfStock: apple: only 3 left "
        "(the contract here does not declare it: see raises= of Shop.buy)"
    )


def test_fields_that_cannot_be_read_here_arrive_as_remote() -> None:
    other = named(Late, "OutOfStock")
    again = there_and_back(DeclaredErrors([OutOfStock]), OutOfStock("apple", 3), DeclaredErrors([other]))
    assert type(again) is RemoteError
    assert (again.command, again.type_name) == (COMMAND, "OutOfStock")
    assert str(again) == (
        "Shop.buy failed at the peer with OutOfStock: apple: only 3 left "
        "(its fields cannot be read here: Shop.buy: error OutOfStock: expected a field 'seconds', got none)"
    )


@pytest.mark.parametrize("name", ["ValueError", "SystemExit", "os", "", "builtins.ValueError", "Bare", "Late.x"])
def test_no_class_is_looked_up_that_is_not_declared(name: str) -> None:
    errors = DeclaredErrors([OutOfStock])
    errors.read(None)
    again = errors.rebuild(DeclaredFailure(COMMAND, name, "", pack_plain({})))
    assert type(again) is RemoteError


# In contracts


def faults_of(make: Callable[[], object]) -> list[str]:
    with pytest.raises(DefinitionError) as caught:
        make()
    return list(caught.value.faults)


def test_all_faults_of_a_definition_are_told_together() -> None:
    def make() -> None:
        class Broken(Service):
            @rpc(id=-1, raises=[int, Bare])  # type: ignore[list-item]  # what the test is about
            def buy(self, item: socket.socket) -> None: ...

    id_fault, list_fault, type_fault, class_fault = faults_of(make)
    assert id_fault == "buy: id -1 is out of range: ids go from 0 to 65279 (0xFEFF)"
    assert list_fault == "buy: raises: int is no exception: derive it from Exception"
    assert type_fault.startswith("buy: parameter 'item': socket cannot travel")
    assert class_fault.startswith("buy: raises: Bare cannot travel: its constructor takes any arguments")


def test_a_function_service_tells_its_faults_too() -> None:
    shop = FunctionService("shop")

    def buy() -> None: ...

    assert faults_of(lambda: shop.rpc(raises=[ValueError])(buy)) == [
        "raises: ValueError arrives as itself in any case: leave it out"
    ]
    assert shop.rpc(raises=[OutOfStock])(buy).errors.classes == (OutOfStock,)


class LateNames(Exception):
    def __init__(self, item: DefinedLater) -> None:
        self.item = item


class LateShop(Service):
    @rpc(raises=[LateNames, OutOfStock])
    def buy(self) -> None: ...


@dataclass
class DefinedLater:
    name: str


class NeverShop(Service):
    class NeverNames(Exception):
        def __init__(self, item: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    @rpc(raises=[NeverNames])
    def buy(self) -> None: ...

    @rpc
    def look(self) -> None: ...


def test_names_that_do_not_resolve_at_definition_are_read_when_the_service_is_served() -> None:
    command = commands_of(LateShop)["buy"]
    Table([LateShop()])
    assert command.is_resolved
    assert command.errors.is_read


def test_names_that_never_resolve_are_faults_then() -> None:
    fault = "raises, in NeverNames: an annotation does not resolve: name 'Nowhere' is not defined"
    caller: Any = object()
    command = commands_of(NeverShop)["buy"]
    assert not command.is_resolved
    for make in (
        lambda: Table([NeverShop()]),
        lambda: make_proxy(NeverShop, caller),
        lambda: bind(command, caller),
        lambda: command.errors,
    ):
        (only,) = faults_of(make)
        assert only.endswith(fault)


def test_local_classes_with_annotations_as_text_are_found() -> None:
    @dataclass
    class Detail:
        text: str

    class Local(Exception):
        def __init__(self, detail: Detail, more: list[Detail]) -> None: ...

    class LocalShop(Service):
        @rpc(raises=[Local])
        def buy(self) -> Later: ...  # type: ignore[empty-body]

        @rpc(raises=[Local])
        def sell(self) -> None: ...

    @dataclass
    class Later:
        text: str

    assert commands_of(LocalShop)["sell"].is_resolved
    buy = commands_of(LocalShop)["buy"]
    before = buy.is_resolved
    Table([LocalShop()])
    assert (before, buy.is_resolved, buy.errors.is_read) == (False, True, True)


def test_what_is_raised_is_no_part_of_the_schema() -> None:
    class One(Service, name="s"):
        @rpc
        def buy(self) -> int: ...  # type: ignore[empty-body]

    class Two(Service, name="s"):
        @rpc(raises=[OutOfStock])
        def buy(self) -> int: ...  # type: ignore[empty-body]

    assert commands_of(One)["buy"].schema.fingerprint == commands_of(Two)["buy"].schema.fingerprint
    assert Table([One()]).digest("s") == Table([Two()]).digest("s")


class Contract(Service, name="shop"):
    @rpc(raises=[OutOfStock])
    @abstractmethod
    def buy(self, item: str) -> int: ...


def test_an_implementation_raises_what_the_contract_declares() -> None:
    class Silent(Contract):
        @rpc
        def buy(self, item: str) -> int: ...  # type: ignore[empty-body]

    class Narrower(Contract):
        @rpc(raises=[SoldToday])
        def buy(self, item: str) -> int: ...  # type: ignore[empty-body]

    for cls in (Silent, Narrower):
        found = cls.__dict__["buy"]
        assert found.errors is Contract.buy.errors
        assert found.errors.classes == (OutOfStock,)


def test_an_implementation_cannot_declare_more_than_its_contract() -> None:
    def make() -> None:
        class Wider(Contract):
            @rpc(raises=[OutOfStock, Refused, Late])
            def buy(self, item: str) -> int: ...  # type: ignore[empty-body]

    assert faults_of(make) == [
        "buy: the contract shop.buy does not declare Refused and Late: declare it there, where callers see it"
    ]


# From end to end


def must_not_come() -> NoReturn:
    raise AssertionError("a call that must fail did not")


class Shop(Service):
    """Raises whatever a test says."""

    def __init__(self, error: BaseException | Callable[[], Any] | None = None) -> None:
        self.error = error
        self.called = Gate()

    def fail(self) -> None:
        self.called.open()
        if callable(self.error):
            self.error()
        elif self.error is not None:
            raise self.error

    @rpc(raises=[OutOfStock, Refused, Late])
    def buy(self, item: str) -> int:
        self.fail()
        return len(item)

    @rpc
    def sell(self, item: str) -> int:
        self.fail()
        return len(item)

    @rpc(raises=[OutOfStock])
    def trickle(self) -> list[int]:
        self.fail()
        return []


class Twin(Service, name="Shop"):
    """The same service as another program knows it; the tests give it another ``raises=``."""

    @rpc
    def buy(self, item: str) -> int: ...  # type: ignore[empty-body]


def twin(*raises: type[Exception]) -> type[Any]:
    class AnotherTwin(Service, name="Shop"):
        @rpc(raises=raises)
        def buy(self, item: str) -> int: ...  # type: ignore[empty-body]

    return AnotherTwin


def forms(command: Any) -> list[Callable[[], Any]]:
    """The forms of a call that tell how it ended."""

    def by_callback() -> Any:
        done = Gate()
        future: Future[Any] = command.submit("apple")
        future.add_done_callback(lambda _: done.open())
        done.wait()
        return future.result(PATIENCE)

    return [
        lambda: command("apple"),
        lambda: command.call("apple"),
        lambda: command.with_options(timeout=PATIENCE)("apple"),
        lambda: command.submit("apple").result(PATIENCE),
        by_callback,
        lambda: list(command.map(["apple"])),
    ]


def caught(call: Callable[[], Any]) -> Exception:
    try:
        call()
    except Exception as error:
        return error
    must_not_come()


pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.mark.parametrize(
    "error", [OutOfStock("apple", 3), Refused("no", [1, 2]), Late(1.5)], ids=lambda error: type(error).__name__
)
def test_a_declared_error_arrives_with_its_fields(log: Log, runner: Runner, error: Exception) -> None:
    with runner.talk(Shop(error), debug=True) as talk:
        for call in forms(talk.proxy(Shop).buy):
            arrived = caught(call)
            assert type(arrived) is type(error)
            assert vars(arrived) == vars(error)
            assert str(arrived) == str(error)
            assert type(arrived.__cause__) is RemoteError
            assert str(arrived.__cause__) == f"Shop.buy failed at the peer with {type(error).__name__}"
            assert arrived.__suppress_context__


def test_a_function_declares_errors_too(runner: Runner) -> None:
    shop = FunctionService("shop")

    @shop.rpc(raises=[OutOfStock])
    def buy(item: str) -> int:
        raise OutOfStock(item, 3)

    with runner.talk(shop) as talk:
        for call in forms(talk.proxy(buy)):
            arrived = caught(call)
            assert isinstance(arrived, OutOfStock)
            assert (arrived.item, arrived.left) == ("apple", 3)


def test_an_error_of_a_derived_class_arrives_as_the_nearest_declared_one(log: Log, runner: Runner) -> None:
    with runner.talk(Shop(SoldAtNoon("apple"))) as talk:
        arrived = caught(lambda: talk.proxy(Shop).buy("apple"))
        assert type(arrived) is OutOfStock
        assert vars(arrived) == {"item": "apple", "left": 0}


def test_an_implementation_raises_what_its_contract_declares(runner: Runner) -> None:
    class Local(Contract):
        @rpc
        def buy(self, item: str) -> int:
            raise OutOfStock(item, 3)

    with runner.talk(Local()) as talk:
        for proxy in (talk.proxy(Contract), talk.proxy(Local)):
            for call in forms(proxy.buy):
                arrived = caught(call)
                assert type(arrived) is OutOfStock
                assert arrived.left == 3


def test_a_command_that_does_not_declare_it_fails(log: Log, runner: Runner) -> None:
    with runner.talk(Shop(OutOfStock("secret"))) as talk:
        for call in forms(talk.proxy(Shop).sell):
            arrived = caught(call)
            assert type(arrived) is RemoteError
            assert arrived.type_name == "OutOfStock"
            assert arrived.error_id
            assert "secret" not in str(arrived)
            assert arrived.error_id in log.line()


def test_what_the_caller_does_not_declare(log: Log, runner: Runner) -> None:
    with runner.talk(Shop(OutOfStock("apple", 3))) as talk:
        for contract in (Twin, twin(Refused)):
            for call in forms(talk.proxy(contract).buy):
                arrived = caught(call)
                assert type(arrived) is RemoteError
                assert (arrived.command, arrived.type_name, arrived.error_id) == ("Shop.buy", "OutOfStock", "")
                assert "apple: only 3 left (the contract here does not declare it" in str(arrived)
                assert arrived.__cause__ is None
                assert arrived.__suppress_context__ or arrived.__context__ is None


def test_fields_may_be_added_with_defaults(log: Log, runner: Runner) -> None:
    class Newer(Exception):
        def __init__(self, item: str, left: float = -1, *, where: str = "here", more: int | None = None) -> None:
            self.item, self.left, self.where, self.more = item, left, where, more

    Newer.__name__ = "OutOfStock"
    with runner.talk(Shop(OutOfStock("apple", 3))) as talk:
        arrived = caught(lambda: talk.proxy(twin(Newer)).buy("apple"))
        assert type(arrived) is Newer
        assert vars(arrived) == {"item": "apple", "left": 3.0, "where": "here", "more": None}
    newer = twin(Newer)

    class Serves(newer):  # type: ignore[misc, valid-type]
        @rpc
        def buy(self, item: str) -> int:
            raise Newer(item, 2, where="there", more=1)

    class Older(Exception):
        def __init__(self, where: str, missing: int = 7) -> None:
            self.where, self.missing = where, missing

    Older.__name__ = "OutOfStock"
    with runner.talk(Serves()) as talk:
        arrived = caught(lambda: talk.proxy(twin(Older)).buy("apple"))
        assert vars(arrived) == {"where": "there", "missing": 7}
        refused = caught(lambda: talk.proxy(Shop).buy("apple"))
        assert type(refused) is RemoteError
        assert "error OutOfStock.left: expected int, got float)" in str(refused)


def test_another_version_of_a_command_raises_what_is_declared(log: Log, runner: Runner) -> None:
    class Wider(Service, name="Shop"):
        @rpc(raises=[OutOfStock])
        def buy(self, item: str, count: int = 1) -> int: ...  # type: ignore[empty-body]

    with runner.talk(Shop(OutOfStock("apple", 3))) as talk:
        for call in forms(talk.proxy(Wider).buy):
            assert isinstance(caught(call), OutOfStock)


def test_the_contract_of_other_commands_does_not_matter(runner: Runner) -> None:
    class Other(Service, name="Shop"):
        @rpc(raises=[OutOfStock])
        def buy(self, item: int) -> int: ...  # type: ignore[empty-body]

    with runner.talk(Shop()) as talk:
        assert isinstance(caught(lambda: talk.proxy(Other).buy(1)), ContractMismatch)


def wrong(**fields: object) -> Exception:
    error = OutOfStock("apple")
    vars(error).update(fields)
    return error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (wrong(left="secret"), "error OutOfStock.left: expected int, got str"),
        (wrong(item="\udc80secret"), "error OutOfStock.item: expected str, got a lone surrogate"),
    ],
)
def test_fields_that_do_not_fit_are_the_handlers_fault(log: Log, runner: Runner, error: Exception, text: str) -> None:
    with runner.talk(Shop(error)) as talk:
        arrived = caught(lambda: talk.proxy(Shop).buy("apple"))
        assert type(arrived) is RemoteError
        assert arrived.type_name == "OutOfStock"
        assert re.fullmatch("[0-9a-f]{8}", arrived.error_id)
        assert "secret" not in str(arrived)
        assert log.line().startswith("an error that Shop.buy declares arrives as a RemoteError only: Shop.buy: " + text)
        assert arrived.error_id in log.line()


def test_any_text_travels_where_only_the_fields_count(log: Log, runner: Runner) -> None:
    class Odd(Exception):
        def __init__(self, kind: int = 0) -> None:
            self.kind = kind

        def __str__(self) -> str:
            if self.kind == 1:
                raise RuntimeError("no text")
            return ["snow\N{SNOWMAN}\udc80", "", "x" * 1_000_000][self.kind]

    for kind, text in enumerate(["with Odd: snow\N{SNOWMAN}\\udc80 (", "with Odd: <Odd> (", "xxx... ("]):

        class Serves(twin(Odd)):  # type: ignore[misc]
            @rpc
            def buy(self, item: str, kind: int = kind) -> int:
                raise Odd(kind)

        with runner.talk(Serves()) as talk:
            assert isinstance(caught(lambda: talk.proxy(twin(Odd)).buy("apple")), Odd)
            arrived = caught(lambda: talk.proxy(Twin).buy("apple"))
            assert type(arrived) is RemoteError
            assert text in str(arrived)
            assert len(str(arrived)) < 5000


def test_an_error_may_be_as_large_as_a_message_and_no_larger(log: Log, runner: Runner) -> None:
    for size, fits in ((100_000, True), (400_000, False)):
        with runner.talk(Shop(OutOfStock("x" * size)), accepts=300_000) as talk:
            for call in forms(talk.proxy(Shop).buy):
                arrived = caught(call)
                assert type(arrived) is (OutOfStock if fits else MessageTooLarge)
                if isinstance(arrived, MessageTooLarge):
                    assert arrived.what == "the error that a call ended with"
                    assert arrived.size > size > arrived.limit == 300_000
            assert isinstance(caught(lambda: talk.proxy(Twin).buy("a")), RemoteError | MessageTooLarge)


def test_a_one_way_call_logs_it(log: Log, runner: Runner) -> None:
    shop = Shop(OutOfStock("apple"))
    with runner.talk(shop) as talk:
        talk.proxy(Shop).buy.notify("apple")
        shop.called.wait()
        assert log.line().startswith("Shop.buy failed in a one-way call, error id ")
        shop.error = None
        assert talk.proxy(Shop).buy("apple") == 5


def test_a_local_instance_raises_it_as_it_is() -> None:
    error = OutOfStock("apple")
    assert caught(lambda: Shop(error).buy("apple")) is error


# Errors of nested calls


class Inner(Service):
    @rpc(raises=[OutOfStock, Refused])
    def ask(self, item: str) -> int:
        match item:
            case "stock":
                raise OutOfStock(item, 3)
            case "refuse":
                raise Refused(item)
            case "value":
                raise ArgumentValueError("of the inner handler")
        return 0


@contextmanager
def nested(runner: Runner) -> Iterator[tuple[Any, Shop, Any]]:
    """A proxy of the inner service for handlers of the outer one, that one, and a proxy of it."""
    outer = Shop()
    with runner.talk(Inner(), outer) as talk:
        yield talk.proxy(Inner), outer, talk.proxy(Shop)


def test_a_declared_error_of_a_nested_call_travels_where_the_outer_command_declares_it(
    log: Log, runner: Runner
) -> None:
    with nested(runner) as (inner, outer, proxy):
        outer.error = lambda: inner.ask("stock")
        arrived = caught(lambda: proxy.buy("apple"))
        assert type(arrived) is OutOfStock
        assert vars(arrived) == {"item": "stock", "left": 3}
        assert str(arrived.__cause__) == "Shop.buy failed at the peer with OutOfStock"
        outer.error = lambda: inner.ask("refuse")
        assert isinstance(caught(lambda: proxy.buy("apple")), Refused)
        arrived = caught(lambda: proxy.trickle())
        assert type(arrived) is RemoteError
        assert arrived.type_name == "Refused"
        assert arrived.error_id in log.line()


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda inner: inner.ask(1), "ArgumentTypeError"),
        (lambda inner: inner.ask(), "ArgumentMissing"),
        (lambda inner: inner.ask("\ud800"), "ArgumentValueError"),
        (lambda inner: inner.ask("value"), "ArgumentValueError"),
        (lambda inner: inner.ask.submit("value").result(PATIENCE), "ArgumentValueError"),
        (lambda inner: inner.ask.submit(1).result(PATIENCE), "ArgumentTypeError"),
        (lambda inner: inner.ask.notify(1), "ArgumentTypeError"),
        (lambda inner: list(inner.ask.map([1])), "ArgumentTypeError"),
    ],
)
def test_an_argument_error_of_a_nested_call_is_not_the_callers(
    log: Log, runner: Runner, call: Callable[[Any], object], name: str
) -> None:
    with nested(runner) as (inner, outer, proxy):

        def instead() -> None:
            try:
                call(inner)
            except ArgumentError as error:
                raise ArgumentValueError("one's own") from error

        outer.error = lambda: call(inner)
        arrived = caught(lambda: proxy.sell("apple"))
        assert type(arrived) is RemoteError
        assert arrived.type_name == name
        assert arrived.error_id in log.line()
        outer.error = instead
        arrived = caught(lambda: proxy.sell("apple"))
        assert type(arrived) is ArgumentValueError
        assert str(arrived) == "one's own"
        assert str(arrived.__cause__) == "Shop.sell failed at the peer with ArgumentValueError"
