import copy
import functools
import hashlib
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import pytest

from typedrpc.command import Caller, Command, Proxy, rpc
from typedrpc.definition import FIRST_RESERVED_ID, derived_id
from typedrpc.errors import DefinitionError
from typedrpc.service import (
    Entry,
    FunctionService,
    Service,
    Table,
    bind,
    commands_of,
    contract_digest,
    make_proxy,
    service_name_of,
    services_of,
)

if TYPE_CHECKING:
    from typedrpc.elsewhere import Nowhere  # type: ignore[import-not-found]

NO_CALLER = cast(Caller, None)


class Greeter(Service):
    kind = "a greeter"

    @rpc
    def hello(self, name: str) -> str:
        return f"hello {name}"

    @rpc(id=2)
    def add(self, a: int, b: int = 0) -> int:
        return a + b

    def helper(self) -> int:
        return 1

    def _hidden(self) -> int:
        return 2


class Store(Service, name="store"):
    @rpc
    @abstractmethod
    def get(self, key: str) -> bytes | None: ...

    @rpc(id=7)
    @abstractmethod
    def put(self, key: str, value: bytes, *, replace: bool = True) -> None: ...


class DiskStore(Store):
    def __init__(self, root: str) -> None:  # does not call super().__init__
        self.root = root

    @rpc
    def get(self, key: str) -> bytes | None:
        return f"{self.root}/{key}".encode()

    @rpc
    def put(self, key: str, value: bytes, *, replace: bool = True, sync: bool = False) -> None: ...

    @rpc
    def compact(self) -> int:
        return 0


def untyped(value: Any) -> Any:
    """What a caller of these tests answers is not what the contract promises."""
    return value


def faults_of(define: Callable[[], object]) -> tuple[str, ...]:
    with pytest.raises(DefinitionError) as caught:
        define()
    return caught.value.faults


# Names and ids


def test_service_names() -> None:
    assert service_name_of(Greeter) == "Greeter"
    assert service_name_of(Store) == "store"
    assert service_name_of(Greeter()) == "Greeter"
    assert service_name_of(DiskStore("")) == "DiskStore"
    assert service_name_of(FunctionService("greet")) == "greet"

    class Only(Store): ...

    class Empty(Service): ...

    assert service_name_of(Only) == "store"
    assert service_name_of(Empty) == "Empty"


def test_ids_are_explicit_or_derived_from_the_names() -> None:
    assert Greeter.add.id == 2
    assert Greeter.hello.id == derived_id("Greeter", "hello")
    assert Store.get.id == derived_id("store", "get")


def test_an_implementation_keeps_name_id_and_signature_of_its_contract() -> None:
    assert DiskStore.put.qualified_name == "store.put"
    assert DiskStore.put.id == 7
    assert DiskStore.put.declaration is Store.put
    assert DiskStore.put.schema is Store.put.schema
    assert DiskStore.put.codec is Store.put.codec
    assert DiskStore.compact.qualified_name == "DiskStore.compact"


def test_an_implementation_may_repeat_the_id_and_no_other() -> None:
    class Same(DiskStore):
        @rpc(id=7)
        def put(self, key: str, value: bytes, *, replace: bool = True, sync: bool = False) -> None: ...

    assert Same.put.id == 7

    def define() -> None:
        class Other(Store):
            @rpc(id=8)
            def put(self, key: str, value: bytes, *, replace: bool = True) -> None: ...

    assert faults_of(define) == (
        "put: the contract store.put has the id 7, which an implementation cannot change: leave id=8 out",
    )


def test_the_contract_that_declares_first_counts_through_several_subclasses() -> None:
    class Cached(DiskStore):
        @rpc
        def get(self, key: str) -> bytes | None:
            return super().get(key)

    assert Cached.get.declaration is Store.get
    assert Cached("r").get("k") == b"r/k"
    (entry,) = [entry for entry in Table([Cached("r")]).entries.values() if entry.command is Store.get]
    assert entry.function("k") == b"r/k"


def test_a_subclass_may_extend_the_service_of_its_base() -> None:
    class Wider(Greeter, name="Greeter"):
        @rpc
        def bye(self) -> str:
            return "bye"

    assert {name: set(commands) for name, commands in services_of(Wider).items()} == {
        "Greeter": {"hello", "add", "bye"}
    }


def test_services_with_generic_names_of_commands() -> None:
    class Odd(Service):
        @rpc
        def name(self) -> str:
            return "name"

        @rpc
        def id(self) -> int:
            return 1

        @rpc
        def register(self) -> int:
            return 2

        @rpc
        def mro(self) -> int:
            return 3

        @rpc
        def _hidden(self) -> int:
            return 4

    assert set(commands_of(Odd)) == {"name", "id", "register", "mro", "_hidden"}
    proxy = make_proxy(Odd, Echo())
    assert isinstance(proxy, Odd)
    assert untyped([proxy.name(), proxy.id(), proxy.register(), proxy.mro(), proxy._hidden()]) == [
        "Odd.name",
        "Odd.id",
        "Odd.register",
        "Odd.mro",
        "Odd._hidden",
    ]


# Several contracts in one class


class A(Service):
    @rpc
    def ping(self) -> str:
        return "A"

    @rpc
    def only_a(self) -> int:
        return 1


class B(Service):
    @rpc
    def ping(self) -> str:
        return "B"

    @rpc
    def only_b(self, x: int) -> int:
        return x


class Both(A, B):
    @rpc
    def ping(self) -> str:
        return "Both"


class Neither(A, B): ...


def test_a_class_may_implement_two_contracts() -> None:
    assert {name: set(commands) for name, commands in services_of(Both).items()} == {
        "A": {"ping", "only_a"},
        "B": {"ping", "only_b"},
    }
    assert services_of(Both)["B"]["ping"] is B.ping
    table = Table([Both()])
    assert table.services["A"]["ping"].function() == "Both"
    assert table.services["B"]["ping"].function() == "Both"
    assert commands_of(Both)["ping"] is Both.ping


def test_the_first_base_implements_a_command_of_both() -> None:
    table = Table([Neither()])
    assert table.services["A"]["ping"].function() == "A"
    assert table.services["B"]["ping"].function() == "A"
    assert commands_of(Neither)["ping"] is A.ping
    assert make_proxy(Neither, Echo()).ping() == "A.ping"


def test_a_base_that_does_not_fit_the_other_contract_is_refused() -> None:
    class C(Service):
        @rpc
        def ping(self, loud: bool) -> str:
            return "C"

    def define() -> None:
        class Misfit(A, C):  # type: ignore[misc]
            pass

    (fault,) = faults_of(define)
    assert fault.startswith("ping: it does not fit its contract C.ping: the contract allows the call (loud=...)")


def test_two_contracts_of_one_service_name_and_command_name() -> None:
    class Left(Service, name="same"):
        @rpc
        def ping(self) -> str:
            return ""

    class Right(Service, name="same"):
        @rpc
        def ping(self) -> str:
            return ""

    def define() -> None:
        class Two(Left, Right): ...

    assert faults_of(define) == ("ping: two base classes declare same.ping: give one of them another name=",)


def test_a_protocol_and_other_bases_beside_the_contract() -> None:
    class Named(Protocol):
        def helper(self) -> int: ...

    class Keyworded:
        def __init_subclass__(cls, *, colour: str, **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)
            cls.colour = colour

        colour: str

    class Loud(Greeter, Keyworded, Named, colour="red"): ...

    assert Loud.colour == "red"
    assert Loud().hello("x") == "hello x"
    with pytest.raises(TypeError):
        type("Typo", (Greeter,), {}, nam="typo")


# Faults of a definition


FAULTY = """
class Bad(Greeter):
    @rpc(id=2)
    def same_id(self) -> None: ...

    @rpc(id=0xFF00)
    def unannotated(self, x, *rest): ...

    @rpc
    def untyped(self, x: object) -> slice: ...

    @rpc
    @staticmethod
    def static() -> int: ...

    @rpc
    @classmethod
    def of_class(cls) -> int: ...

    @rpc
    @property
    def some_property(self) -> int: ...

    @rpc
    async def coroutine(self) -> AsyncIterator[int]: ...

    @rpc
    def stream(self) -> AsyncIterator[int]:
        yield 1

    @rpc
    async def async_stream(self) -> Iterator[int]:
        yield 1

    @rpc
    def twice(self) -> int: ...

    @rpc(id=40)
    def twice(self) -> int: ...

    @rpc
    def without_self() -> int: ...

    @rpc
    def __len__(self) -> int: ...

    number = rpc(5)

    def hello(self, name: str) -> str: ...

    add = None
"""


def test_all_faults_of_a_class_are_reported_together() -> None:
    with pytest.raises(DefinitionError) as caught:
        exec(FAULTY, dict(globals()))
    assert isinstance(caught.value, TypeError)
    faults = caught.value.faults
    expected = [
        "unannotated: id 65280 is out of range",
        "unannotated: parameter 'x' has no annotation",
        "unannotated: parameter '*rest' has no annotation",
        "unannotated: the result has no annotation",
        "untyped: parameter 'x': object cannot travel",
        "untyped: the result: slice cannot travel",
        "static: a staticmethod cannot be a command",
        "of_class: a classmethod cannot be a command",
        "some_property: a property cannot be a command",
        "coroutine: async def without yield gives a coroutine, not AsyncIterator[int]: write def, or yield in it",
        "stream: def with yield gives an Iterator, not AsyncIterator[int]: write async def",
        "async_stream: async def with yield gives an AsyncIterator, not Iterator[int]: annotate AsyncIterator[...]",
        "twice: the class has two commands of this name",
        "without_self: it has no 'self'",
        "__len__: a name that begins with two underscores",
        "number: @rpc goes above a function made with def",
        "hello: it implements the command Greeter.hello: put @rpc above it",
        "add: it implements the command Greeter.add: put @rpc above it",
    ]
    for words in expected:
        assert any(fault.startswith(words) for fault in faults), (words, faults)
    assert any("Greeter.add and Bad.same_id both have the id 2 (0x0002)" in fault for fault in faults)
    text = str(caught.value)
    assert all(fault in text for fault in faults)
    assert text.startswith(f"Bad: {len(faults)} faults")


def test_one_fault_of_a_kind_once() -> None:
    def define() -> None:
        class Bad(Service):
            @rpc
            def f(self, x) -> None: ...  # type: ignore[no-untyped-def]

    (fault,) = faults_of(define)
    assert fault.startswith("f: parameter 'x' has no annotation")


def test_a_bad_service_name() -> None:
    def define() -> None:
        class Bad(Service, name=cast(str, ["x"])):
            @rpc
            def f(self, x) -> None: ...  # type: ignore[no-untyped-def]

    assert len(faults_of(define)) == 2
    assert faults_of(lambda: FunctionService("")) == ("a service name is a str of printable characters, got ''",)


def test_a_name_without_effect() -> None:
    def define() -> None:
        class Renamed(Greeter, name="other"): ...

    assert faults_of(define) == ("name='other' has no effect: the class declares no command of its own",)


def test_an_id_clash_proposes_ids_that_are_free() -> None:
    def define() -> None:
        class Clash(Service):
            @rpc(id=5)
            def a(self) -> None: ...

            @rpc(id=5)
            def b(self) -> None: ...

            @rpc(id=6)
            def c(self) -> None: ...

            @rpc(id=5)
            def d(self) -> None: ...

    assert faults_of(define) == (
        "Clash.a and Clash.b both have the id 5 (0x0005): give one of them a free one, as @rpc(id=7)",
        "Clash.a and Clash.d both have the id 5 (0x0005): give one of them a free one, as @rpc(id=8)",
    )


def test_a_clash_of_derived_ids() -> None:
    seen: dict[int, str] = {}
    names = (f"c{n}" for n in range(FIRST_RESERVED_ID))
    first, second = next(
        (seen[id], name) for name in names if seen.setdefault(id := derived_id("Clash", name), name) != name
    )

    def nothing(self: object) -> None: ...

    (fault,) = faults_of(lambda: type("Clash", (Service,), {first: rpc(nothing), second: rpc(nothing)}))
    assert f"Clash.{first} and Clash.{second} both have the id {derived_id('Clash', first)}" in fault
    id = (derived_id("Clash", first) + 1) % FIRST_RESERVED_ID
    assert fault.endswith(f"as @rpc(id={id})")
    fixed = type("Clash", (Service,), {first: rpc(nothing), second: rpc(id=id)(nothing)})
    assert len(Table([fixed()]).entries) == 2


def test_commands_of_other_classes_are_not_borrowed() -> None:
    def define() -> None:
        class Borrower(Service):
            hello = Greeter.hello
            alias = hello

    assert faults_of(define) == (
        "hello: it is the command Greeter.hello already: define a function of its own",
        "alias: it is the command Greeter.hello already: define a function of its own",
    )
    assert Greeter.hello.qualified_name == "Greeter.hello"


def test_an_alias_within_the_class() -> None:
    def define() -> None:
        class Aliased(Service):
            @rpc
            def a(self) -> None: ...

            b = a

    assert faults_of(define) == ("b: it is the command Aliased.a already: define a function of its own",)


def test_function_commands_do_not_become_methods() -> None:
    functions = FunctionService("functions")

    @functions.rpc
    def f(x: int) -> int:
        return x

    def define() -> None:
        class Holder(Service):
            g = f

    assert faults_of(define) == ("g: a command of a FunctionService, functions.f, cannot be a command of a class",)


def test_commands_in_a_class_that_is_no_service() -> None:
    class Mixin:
        @rpc
        def ping(self) -> str:
            return ""

    def define() -> None:
        class Mixed(Mixin, Service): ...

    (fault,) = faults_of(define)
    assert fault.startswith("ping: ")
    assert fault.endswith("Mixin, which has this command, does not derive from Service")


def test_a_plain_method_in_front_of_a_command() -> None:
    class Mixin:
        def hello(self, name: str) -> str:
            return ""

    def define() -> None:
        class Mixed(Mixin, Greeter): ...  # type: ignore[misc]

    assert faults_of(define) == ("hello: it implements the command Greeter.hello: put @rpc above it",)


def test_an_implementation_must_be_callable_as_its_contract() -> None:
    def define() -> None:
        class Bad(Store):
            @rpc
            def get(self, name: str) -> bytes | None: ...  # type: ignore[override]

            @rpc
            def put(self, key: str, value: bytes, extra: int) -> None: ...  # type: ignore[override]

    first, second = faults_of(define)
    assert first == (
        "get: it does not fit its contract store.get: the contract allows the call (key=...), the implementation does "
        "not: missing a required argument: 'name'"
    )
    assert "put: it does not fit its contract store.put" in second
    assert "missing a required argument: 'extra'" in second


TO_DEF = "the contract is def, the implementation is async def without yield: write def"
OTHER_KIND = "the implementation is another kind of function: async def with yield gives an AsyncIterator"


def test_an_implementation_keeps_the_colour() -> None:
    def define() -> None:
        class Bad(Store):
            @rpc
            async def get(self, key: str) -> bytes | None: ...  # type: ignore[override]

    assert faults_of(define) == (f"get: it does not fit its contract store.get: {TO_DEF}",)


class Streams(Service):
    @rpc
    async def slow(self, name: str) -> str:
        return name

    @rpc
    @abstractmethod
    def rows(self) -> Iterator[int]: ...

    @rpc
    @abstractmethod
    def follow(self) -> AsyncIterator[int]: ...

    @rpc
    def both(self, rows: Iterator[str], more: AsyncIterator[str]) -> Iterator[str]:
        return rows


def test_streams_and_async_commands_are_declared_and_implemented() -> None:
    class Implemented(Streams):
        @rpc
        async def slow(self, name: str) -> str:
            return name * 2

        @rpc
        def rows(self) -> Iterator[int]:
            yield 1

        @rpc
        async def follow(self) -> AsyncIterator[int]:
            yield 1

    assert str(Implemented.follow.schema) == "() -> AsyncIterator[int]"
    assert str(Streams.both.schema) == "(rows: Iterator[str], more: AsyncIterator[str]) -> Iterator[str]"
    assert len(Table([Implemented()]).entries) == 4
    assert "follow" in dir(make_proxy(Implemented, NO_CALLER))


def test_an_implementation_of_a_stream_keeps_the_colour() -> None:
    def define() -> None:
        class Bad(Streams):
            @rpc
            def slow(self, name: str) -> str:  # type: ignore[override]
                return name

            @rpc
            async def rows(self) -> AsyncIterator[int]:  # type: ignore[override]
                yield 1

            @rpc
            async def follow(self) -> AsyncIterator[int]:  # type: ignore[override]
                raise NotImplementedError

    fits = "it does not fit its contract Streams"
    assert faults_of(define) == (
        f"slow: {fits}.slow: the contract is async def, the implementation is def: write async def",
        f"rows: {fits}.rows: {OTHER_KIND}, not Iterator[int]",
        f"follow: {fits}.follow: {TO_DEF}",
    )


def test_the_colour_is_looked_at_again_when_the_contract_is_read() -> None:
    class Late(Service):
        @rpc
        @abstractmethod
        def rows(self) -> "Iterator[DefinedLater]": ...

        @rpc
        @abstractmethod
        def count(self) -> "DefinedLater": ...

    class Bad(Late):
        @rpc
        async def rows(self) -> AsyncIterator[Any]:  # type: ignore[override]
            yield 1

        @rpc
        def count(self) -> Any: ...

    class Below(Bad): ...

    class Mended(Bad):
        @rpc
        def rows(self) -> Iterator[Any]:  # type: ignore[override]
            yield 1

    @dataclass
    class DefinedLater:
        x: int

    text = f"rows: it does not fit its contract Late.rows: {OTHER_KIND}, not Iterator[DefinedLater]"
    for _ in range(2):
        for cls in (Bad, Below):
            assert faults_of(lambda cls=cls: services_of(cls)) == (text,)  # type: ignore[misc]
    with pytest.raises(DefinitionError, match="def with yield gives an AsyncIterator"):
        Table([Bad()])
    for _ in range(2):
        assert [*services_of(Mended)] == ["Late"]
    assert len(Table([Mended()]).entries) == 2


def test_an_implementation_may_take_what_cannot_travel() -> None:
    class Lenient(Store):
        @rpc
        def get(self, key: object) -> bytes | None:
            return repr(key).encode()

        @rpc
        def put(self, *args: Any, **kwargs: Any) -> None: ...

    assert Lenient().get(5) == b"5"
    assert str(Lenient.get.schema) == "(key: str) -> bytes | None"


def test_a_class_that_is_made_again_by_a_decorator() -> None:
    @dataclass(slots=True)
    class Slotted(Service, name="slotted"):
        count: int

        @rpc
        def next(self) -> int:
            self.count += 1
            return self.count

    assert Slotted.next.qualified_name == "slotted.next"
    assert Slotted(3).next() == 4
    assert Table([Slotted(3)]).services["slotted"]["next"].function() == 4

    @dataclass(slots=True)
    class Implemented(Store):
        size: int

        @rpc
        def get(self, key: str) -> bytes | None:
            return bytes(self.size)

        @rpc
        def put(self, key: str, value: bytes, *, replace: bool = True) -> None: ...

    assert Table([Implemented(3)]).services["store"]["get"].function("k") == b"\0\0\0"


# Names that do not resolve yet


class Later(Service):
    @rpc
    def get(self) -> "Found":
        return Found("x")

    @rpc
    def known(self) -> int:
        return 1


later = FunctionService("later")


@later.rpc
def find(found: "Found") -> None: ...


@dataclass
class Found:
    text: str


def test_names_may_be_defined_after_the_contract() -> None:
    assert "Found" in str(Later.get.schema)
    assert str(services_of(later)["later"]["find"].schema) == "(found: Found) -> None"
    assert set(Table([Later(), later]).services) == {"Later", "later"}
    assert isinstance(make_proxy(Later, NO_CALLER), Later)


def test_names_that_never_resolve_are_faults_when_served_and_when_connected() -> None:
    class Lost(Service):
        @rpc
        def get(self) -> "Nowhere": ...

    class Heir(Lost):
        @rpc
        def fine(self) -> None: ...

    lost = FunctionService("lost")

    @lost.rpc
    def get() -> "Nowhere": ...

    words = "get: an annotation does not resolve: name 'Nowhere' is not defined"
    assert faults_of(lambda: Table([Lost()])) == (f"Lost.{words}",)
    assert faults_of(lambda: Table([Heir()])) == (f"Lost.{words}",)
    assert faults_of(lambda: Table([lost])) == (f"lost.{words}",)
    assert faults_of(lambda: make_proxy(Lost, NO_CALLER)) == (f"Lost.{words}",)
    assert faults_of(lambda: services_of(Lost)) == (f"Lost.{words}",)
    assert faults_of(lambda: bind(get, NO_CALLER)) == (words.removeprefix("get: "),)
    assert faults_of(lambda: Lost.get.schema) == (words.removeprefix("get: "),)
    assert set(commands_of(Lost)) == {"get"}


def test_a_name_that_turns_out_to_be_unsupported() -> None:
    namespace: dict[str, Any] = {"Service": Service, "rpc": rpc}
    source = "class S(Service):\n    @rpc\n    def f(self) -> 'T': ...\n    @rpc\n    def g(self) -> 'T': ...\n"
    exec(source, namespace)
    namespace["T"] = slice
    faults = faults_of(lambda: Table([namespace["S"]()]))
    assert [fault.partition(":")[0] for fault in faults] == ["S.f", "S.g"]


# Functions without a class


def test_a_function_service() -> None:
    greet = FunctionService("greet")

    @greet.rpc
    def hello(name: str) -> str:
        return f"hello {name}"

    @greet.rpc(id=9)
    def bye() -> str:
        return "bye"

    assert repr(greet) == "<FunctionService 'greet'>"
    assert dict(commands_of(greet)) == {"hello": hello, "bye": bye}
    assert hello.id == derived_id("greet", "hello")
    table = Table([greet])
    assert table.entries[9].function() == "bye"
    assert table.services["greet"]["hello"].function("x") == "hello x"
    assert bind(hello, Echo())("x") == "greet.hello"
    with pytest.raises(TypeError):
        commands_of(greet)["other"] = hello  # type: ignore[index]


def test_the_service_of_a_command() -> None:
    greet = FunctionService("greet")

    @greet.rpc
    def hello(name: str) -> None: ...

    assert services_of(hello) == {"greet": {"hello": hello}}

    @greet.rpc
    def bye() -> None: ...

    assert services_of(hello) == services_of(greet) == {"greet": {"hello": hello, "bye": bye}}
    assert services_of(DiskStore.get) == services_of(Store) == {"store": {"get": Store.get, "put": Store.put}}
    assert services_of(DiskStore.compact) == {"DiskStore": {"compact": DiskStore.compact}}

    class Plain:
        @rpc
        def f(self) -> None: ...

    assert faults_of(lambda: services_of(Plain.f)) == ("it is neither a subclass of Service nor a FunctionService",)


def test_faults_of_functions_are_reported_at_decoration() -> None:
    greet = FunctionService("greet")

    @greet.rpc(id=9)
    def hello(name: str) -> None: ...

    def define() -> None:
        @greet.rpc(id=-1)
        def broken(a, *b):  # type: ignore[no-untyped-def]
            ...

    with pytest.raises(DefinitionError) as caught:
        define()
    assert caught.value.subject == "greet.broken"
    assert len(caught.value.faults) == 4

    def clash() -> None:
        @greet.rpc(id=9)
        def other() -> None: ...

    assert faults_of(clash) == (
        "greet.hello and greet.other both have the id 9 (0x0009): give one of them a free one, as @rpc(id=10)",
    )

    def again() -> None:
        @greet.rpc
        def hello() -> None: ...

    assert faults_of(again) == ("the service has another command of this name",)
    assert faults_of(lambda: greet.rpc(lambda: None))[0].startswith("the result has no annotation")
    assert set(commands_of(greet)) == {"hello"}


# Proxies


class Echo:
    """A caller whose calls answer with the name of the command."""

    def invoker(self, command: Command[Any], options: object, /) -> Callable[..., Any]:
        return lambda *args, **kwargs: command.qualified_name

    def _unused(self, *args: Any) -> Any:
        raise AssertionError

    awaiter = submit = notify = map = stream = astream = _unused

    def __repr__(self) -> str:
        return "<echo>"


def test_a_proxy_of_an_abstract_contract() -> None:
    store = make_proxy(Store, Echo())
    assert isinstance(store, Store)
    assert isinstance(store, Service)
    assert not isinstance(store, Greeter)
    assert untyped(store.get("x")) == "store.get"
    assert repr(store) == "<proxy of Store via <echo>>"
    assert type(store) is type(make_proxy(Store, Echo()))
    with pytest.raises(TypeError, match="abstract"):
        Store()  # type: ignore[abstract]


def test_a_proxy_keeps_its_bound_commands() -> None:
    greeter = make_proxy(Greeter, Echo())
    assert "hello" not in vars(greeter)
    assert greeter.hello is greeter.hello
    assert vars(greeter)["hello"] is greeter.hello


def test_a_proxy_has_only_commands() -> None:
    greeter = make_proxy(Greeter, Echo())
    words = "is not a command of Greeter: a proxy has only what @rpc stands above"
    with pytest.raises(AttributeError, match=f"'helper' {words}"):
        greeter.helper()
    with pytest.raises(AttributeError, match=f"'_hidden' {words}"):
        greeter._hidden()
    with pytest.raises(AttributeError, match=f"'kind' {words}"):
        _ = greeter.kind
    with pytest.raises(AttributeError, match="Greeter has no command 'nothing'"):
        greeter.nothing()  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="cannot set 'kind': a proxy of Greeter has only commands"):
        greeter.kind = "x"
    assert {"hello", "add"} <= set(dir(greeter))
    assert not {"helper", "kind", "_hidden"} & set(dir(greeter))


def test_a_copy_of_a_proxy_is_a_proxy() -> None:
    greeter = copy.copy(make_proxy(Greeter, Echo()))
    assert greeter.hello("x") == "Greeter.hello"


def test_commands_of_a_proxy() -> None:
    assert commands_of(make_proxy(DiskStore.__mro__[1], Echo())) == commands_of(Store)


def test_a_class_whose_implementation_takes_more_is_no_contract_for_a_proxy() -> None:
    expected = ("put: its signature is not that of the contract store.put: take the class that declares it",)
    assert faults_of(lambda: make_proxy(DiskStore, Echo())) == expected
    (fault,) = faults_of(lambda: bind(DiskStore.put, Echo()))
    assert expected[0].endswith(fault)
    assert untyped(bind(DiskStore.get, Echo())("x")) == "store.get"

    class Faithful(Store):
        @rpc
        def get(self, key: str) -> bytes | None: ...

        @rpc
        def put(self, key: str, value: bytes, *, replace: bool = False) -> None: ...

    assert untyped(make_proxy(Faithful, Echo()).get("x")) == "store.get"

    class Vague(Store):
        @rpc
        def get(self, key: object) -> bytes | None: ...

    assert len(faults_of(lambda: make_proxy(Vague, Echo()))) == 1


@pytest.mark.parametrize("subject", [int, Greeter(), FunctionService("x"), len, make_proxy(Greeter, NO_CALLER)])
def test_what_is_no_contract(subject: Any) -> None:
    assert faults_of(lambda: make_proxy(subject, Echo())) == ("a proxy is made from a subclass of Service",)


def test_a_proxys_class_is_no_contract() -> None:
    proxy_class = type(make_proxy(Greeter, NO_CALLER))
    assert issubclass(proxy_class, Proxy)
    assert len(faults_of(lambda: make_proxy(proxy_class, Echo()))) == 1


def test_only_commands_of_services_are_bound() -> None:
    class Plain:
        @rpc
        def f(self) -> None: ...

    (fault,) = faults_of(lambda: bind(Plain.f, Echo()))
    assert fault == "it belongs to no service: its class does not derive from Service"


@pytest.mark.parametrize("look", [commands_of, services_of, service_name_of])
@pytest.mark.parametrize("subject", [5, int, Service])
def test_what_is_no_service(look: Callable[[object], object], subject: object) -> None:
    assert faults_of(lambda: look(subject)) == ("it is neither a subclass of Service nor a FunctionService",)


def test_an_init_subclass_that_keeps_us_out() -> None:
    class Selfish(Service):
        def __init_subclass__(cls) -> None: ...

    class Lost(Selfish):
        @rpc
        def f(self) -> None: ...

    expected = ("an __init_subclass__ of its bases does not call super's",)
    assert faults_of(lambda: Table([Lost()])) == expected
    assert faults_of(lambda: make_proxy(Lost, NO_CALLER)) == expected


# Tables


def test_a_table() -> None:
    greeter = Greeter()
    table = Table([greeter, DiskStore("/r")])
    assert set(table.services) == {"Greeter", "store", "DiskStore"}
    entry: Entry = table.entries[2]
    assert entry is table.services["Greeter"]["add"]
    assert entry.command is Greeter.add
    assert entry.function(1, b=2) == 3
    assert entry.id == 2
    assert repr(entry) == "<entry 0x0002 Greeter.add>"
    assert table.entries[7].command is Store.put
    assert len(table.entries) == 5
    assert [entry.id for entry in table.entries.values()] == list(table.entries)
    assert Table([]).entries == {}


def test_what_a_table_says_of_its_contracts() -> None:
    table = Table([Greeter()])
    fingerprint = Greeter.hello.schema.fingerprint
    contract = table.contract("Greeter")
    assert contract is not None
    assert contract["hello"] == (Greeter.hello.id, fingerprint)
    assert set(contract) == {"hello", "add"}
    assert table.contract("nobody") is None
    assert table.digest("nobody") is None
    assert table.signatures("Greeter", ["hello", "nothing"]) == {"hello": Greeter.hello.schema.to_data()}
    assert table.signatures("nobody", ["hello"]) == {}


def test_the_digest_of_a_contract() -> None:
    rows = [("b", 258, b"87654321"), ("a", 1, b"12345678")]
    text = b"a\0\x00\x0112345678" + b"b\0\x01\x0287654321"
    assert contract_digest(rows) == contract_digest(reversed(rows)) == hashlib.sha256(text).digest()[:16]
    table = Table([Greeter()])
    commands = services_of(Greeter)["Greeter"].values()
    ours = contract_digest((command.name, command.id, command.schema.fingerprint) for command in commands)
    assert table.digest("Greeter") == ours
    assert table.digest("Greeter") is table.digest("Greeter")
    assert Table([Greeter()], ids={"Greeter.add": 3}).digest("Greeter") != ours


def test_services_whose_ids_clash() -> None:
    class Other(Service):
        @rpc(id=2)
        def mine(self) -> None: ...

    with pytest.raises(DefinitionError) as caught:
        Table([Greeter(), Other()])
    assert str(caught.value) == (
        "services served together: Greeter.add and Other.mine both have the id 2 (0x0002): "
        'give one of them a free one, as ids={"Other.mine": 3}'
    )
    table = Table([Greeter(), Other()], ids={"Other.mine": 3})
    assert table.entries[3].command is Other.mine
    assert table.entries[3].id == 3
    assert Other.mine.id == 2


def test_all_faults_of_a_table_are_reported_together() -> None:
    class Other(Service):
        @rpc(id=2)
        def mine(self) -> None: ...

    class Lost(Service):
        @rpc
        def get(self) -> "Nowhere": ...

    proxy = make_proxy(Greeter, Echo())
    subjects: list[Any] = [Greeter(), Greeter(), Other(), Lost(), Greeter, 5, proxy, Service()]
    ids: dict[str, Any] = {"Greeter.bye": 3, "Greeter.hello": 0xFF00}
    faults = faults_of(lambda: Table(subjects, ids=ids))
    assert [fault for fault in faults if "<" not in fault] == [
        "two services have the name 'Greeter': give one of their classes another name=",
        "Lost.get: an annotation does not resolve: name 'Nowhere' is not defined",
        "5 is neither an instance of a Service subclass nor a FunctionService",
        "it is neither a subclass of Service nor a FunctionService",
        "ids: no command 'Greeter.bye' is served",
        "ids: Greeter.hello: id 65280 is out of range: ids go from 0 to 65279 (0xFEFF)",
        'Greeter.add and Other.mine both have the id 2 (0x0002): give one of them a free one, as ids={"Other.mine": 3}',
    ]
    assert [fault for fault in faults if "<" in fault] == [
        f"{Greeter!r} is neither an instance of a Service subclass nor a FunctionService",
        f"{proxy!r} is a proxy: what it stands for is served by the peer",
    ]


def big_service(count: int) -> Any:
    """A class of commands that answer with their id, which are all explicit."""

    def command(id: int) -> Command[Any]:
        def answer(self: object) -> int:
            return id

        return rpc(id=id)(answer)

    return type("Big", (Service,), {f"c{id}": command(id) for id in range(count)})


@pytest.mark.unmeasured
def test_thousands_of_commands() -> None:
    table = Table([big_service(4_000)()])
    assert len(table.entries) == 4_000
    assert table.entries[0].function() == 0
    assert table.entries[3_999].function() == 3_999


def test_no_id_is_left_to_propose(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rest(Service):
        @rpc(id=0)
        def more(self) -> None: ...

    monkeypatch.setattr("typedrpc.definition.FIRST_RESERVED_ID", 10)
    (fault,) = faults_of(lambda: Table([big_service(10)(), Rest()]))
    assert fault == "Big.c0 and Rest.more both have the id 0 (0x0000) and no id is free"


def test_service_has_no_public_names() -> None:
    assert [name for name in vars(Service) if not name.startswith("_")] == []
    assert [name for name in dir(Service()) if not name.startswith("_")] == []


def _passing(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


@pytest.mark.parametrize("decorator", [staticmethod, classmethod, property, _passing])
def test_a_decorator_above_rpc(decorator: Any) -> None:
    with pytest.raises(DefinitionError, match="stands above @rpc, which must be the outermost decorator"):

        class Covered(Service):
            @decorator  # type: ignore[untyped-decorator]  # any of them
            @rpc
            def hello(self, name: str) -> str:
                return name


def test_the_colour_does_not_hide_the_other_faults() -> None:
    with pytest.raises(DefinitionError) as caught:

        class Slow(Service):
            @rpc
            async def hello(self, name, *args) -> AsyncIterator[int]:  # type: ignore[no-untyped-def]  # that is the test
                raise NotImplementedError

    assert len(caught.value.faults) == 3
    assert "async def" in str(caught.value)
