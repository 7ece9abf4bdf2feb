"""What the checkers must say of calls through a proxy, in every call form."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import assert_type, reveal_type

from contracts import DiskStore, Greeter, Store, bye, greet, hello

from typedrpc.command import Caller, rpc
from typedrpc.service import Service, bind, make_proxy


def calls(caller: Caller) -> None:
    greeter = make_proxy(Greeter, caller)
    store = make_proxy(Store, caller)
    assert_type(greeter, Greeter)
    assert_type(store, Store)
    assert_type(make_proxy(DiskStore, caller), DiskStore)
    make_proxy(int, caller)  # E: type-var | reportArgumentType
    make_proxy(greet, caller)  # E: arg-type | reportArgumentType

    # The call
    reveal_type(greeter.hello)  # R: BoundCommand[def (name: str) -> str] | BoundCommand[(name: str) -> str]
    assert_type(greeter.hello("Robert"), str)
    assert_type(greeter.hello(name="Robert"), str)
    assert_type(greeter.add(1), int)
    assert_type(greeter.add(1, b=2), int)
    assert_type(greeter.nothing(), None)
    assert_type(store.get("key"), bytes | None)
    store.put("key", replace=False)
    greeter.hello(1)  # E: arg-type | reportArgumentType
    greeter.hello()  # E: call-arg | reportCallIssue
    greeter.hello("Robert", 2)  # E: call-arg | reportCallIssue
    greeter.hello("Robert", loud=True)  # E: call-arg | reportCallIssue
    greeter.hello("Robert", name="Robert")  # E: misc | reportCallIssue
    greeter.add(1.5)  # E: arg-type | reportArgumentType
    greeter.add(1, b="2")  # E: arg-type | reportArgumentType
    greeter.add(1, 2, 3)  # E: call-arg | reportCallIssue
    greeter.goodbye("Robert")  # E: attr-defined | reportAttributeAccessIssue
    store.get(b"key")  # E: arg-type | reportArgumentType
    store.put("key", False)  # E: call-arg | reportCallIssue
    store.put("key", replace="no")  # E: arg-type | reportArgumentType
    number: int = greeter.hello("Robert")  # E: assignment | reportAssignmentType

    # Every kind of parameter
    assert_type(greeter.all_kinds(1, key=True), list[str])
    greeter.all_kinds(1, "b", 1.5, 2, key=False, more=b"x")
    greeter.all_kinds(1, b="b", key=False)
    greeter.all_kinds(a=1, key=True)  # E: call-arg, arg-type | reportCallIssue
    greeter.all_kinds(1)  # E: call-arg | reportCallIssue
    greeter.all_kinds(1, "b", "c", key=True)  # E: arg-type | reportArgumentType
    greeter.all_kinds(1, key=True, more="x")  # E: arg-type | reportArgumentType

    # .call
    assert_type(greeter.hello.call("Robert"), str)
    assert_type(greeter.slow.call("Robert"), str)
    greeter.hello.call(1)  # E: call-overload, arg-type | reportArgumentType, reportCallIssue
    greeter.hello.call()  # E: call-overload, call-arg | reportCallIssue
    greeter.slow.call(1)  # E: call-overload, arg-type | reportArgumentType, reportCallIssue

    # .submit
    assert_type(greeter.hello.submit("Robert"), Future[str])
    assert_type(greeter.hello.submit("Robert").result(), str)
    assert_type(greeter.slow.submit("Robert"), Future[str])
    assert_type(greeter.nothing.submit(), Future[None])
    assert_type(store.get.submit(key="key"), Future[bytes | None])
    greeter.hello.submit(1)  # E: call-overload, arg-type | reportArgumentType, reportCallIssue
    greeter.hello.submit()  # E: call-overload, call-arg | reportCallIssue
    greeter.hello.submit("Robert", loud=True)  # E: call-overload, call-arg | reportCallIssue

    # .notify
    greeter.hello.notify("Robert")
    greeter.slow.notify("Robert")
    greeter.add.notify(1, b=2)
    greeter.hello.notify(1)  # E: arg-type | reportArgumentType
    greeter.hello.notify()  # E: call-arg | reportCallIssue
    text: str = greeter.hello.notify("Robert")  # E: func-returns-value, assignment | reportAssignmentType

    # .map
    assert_type(greeter.hello.map(["a", "b"]), Iterator[str])
    assert_type(greeter.add.map([1, 2]), Iterator[int])
    assert_type(greeter.add.map([1, 2], range(2)), Iterator[int])
    assert_type(greeter.three.map([1], ("a",), {1.5}), Iterator[str])
    assert_type(greeter.five.map([1], [2], [3], [4], [5]), Iterator[int])
    assert_type(greeter.slow.map(["a"]), Iterator[str])
    greeter.hello.map([1])  # E: list-item | reportArgumentType
    greeter.hello.map("a", "b")  # E: call-arg, misc, call-overload | reportCallIssue
    greeter.add.map([1], ["a"])  # E: list-item | reportArgumentType
    greeter.three.map([1], ["a"])  # E: call-arg, misc, call-overload | reportCallIssue, reportArgumentType
    greeter.hello.map(5)  # E: arg-type, call-overload | reportArgumentType, reportCallIssue
    greeter.hello.map()  # E: call-arg, call-overload | reportCallIssue
    greeter.nothing.map([1])  # E: misc, arg-type | reportCallIssue, reportAttributeAccessIssue

    # .map with the exceptions
    assert_type(greeter.hello.map(["a", "b"], return_exceptions=True), Iterator[str | Exception])
    assert_type(greeter.hello.map(["a", "b"], return_exceptions=False), Iterator[str])
    assert_type(greeter.hello.map(["a", "b"], return_exceptions=bool(text)), Iterator[str | Exception])
    assert_type(greeter.add.map([1, 2], range(2), return_exceptions=True), Iterator[int | Exception])
    assert_type(greeter.three.map([1], ("a",), {1.5}, return_exceptions=True), Iterator[str | Exception])
    assert_type(greeter.five.map([1], [2], [3], [4], [5], return_exceptions=True), Iterator[int | Exception])
    assert_type(greeter.slow.map(["a"], return_exceptions=True), Iterator[str | Exception])
    greeter.hello.map(["a"], return_exceptions=1)  # E: call-overload | reportArgumentType, reportCallIssue
    greeter.hello.map(["a"], True)  # E: call-overload | reportArgumentType, reportCallIssue
    greeter.hello.map([1], return_exceptions=True)  # E: call-overload, list-item | reportArgumentType, reportCallIssue
    greeter.hello.map(["a"], exceptions=True)  # E: call-overload | reportCallIssue

    # .with_options
    assert_type(greeter.hello.with_options(timeout=0.5)("Robert"), str)
    assert_type(greeter.hello.with_options(timeout=None).submit("Robert"), Future[str])
    assert_type(greeter.hello.with_options().with_options(timeout=1).call("Robert"), str)
    greeter.hello.with_options(timeout="1")  # E: arg-type | reportArgumentType
    greeter.hello.with_options(1)  # E: call-arg, misc | reportCallIssue
    greeter.hello.with_options(time_out=1)  # E: call-arg | reportCallIssue
    greeter.hello.with_options(timeout=1)(1)  # E: arg-type | reportArgumentType
    assert_type(greeter.hello.with_options(metadata={"a": "b", "c": b"d"})("Robert"), str)
    assert_type(greeter.hello.with_options(metadata={}, on_metadata=print).call("Robert"), str)
    seen: list[Mapping[str, str | bytes]] = []
    tokens: dict[str, str] = {}
    greeter.hello.with_options(metadata=tokens, on_metadata=seen.append, timeout=None)
    greeter.hello.with_options(on_metadata=None)
    greeter.hello.with_options(on_metadata=lambda reply: seen.append(reply))
    greeter.hello.with_options(metadata={"a": 1})  # E: dict-item | reportArgumentType
    greeter.hello.with_options(metadata={1: "a"})  # E: dict-item | reportArgumentType
    greeter.hello.with_options(metadata="a")  # E: arg-type | reportArgumentType
    greeter.hello.with_options(metadata=None)  # E: arg-type | reportArgumentType
    greeter.hello.with_options(metadata=[("a", "b")])  # E: arg-type | reportArgumentType
    greeter.hello.with_options(on_metadata=seen)  # E: arg-type | reportArgumentType
    greeter.hello.with_options(on_metadata=seen.clear)  # E: arg-type | reportArgumentType
    greeter.hello.without_options()  # E: attr-defined | reportAttributeAccessIssue

    # A command without a proxy around it
    assert_type(bind(hello, caller)("Robert"), str)
    assert_type(bind(bye, caller).submit(times=2), Future[list[str]])
    assert_type(bind(Greeter.add, caller).map([1], [2]), Iterator[int])
    bind(hello, caller)(1)  # E: arg-type | reportArgumentType
    bind(len, caller)  # E: arg-type | reportArgumentType

    # As a function
    function: Callable[[str], str] = greeter.hello
    wrong: Callable[[int], str] = greeter.hello  # E: assignment | reportAssignmentType
    assert_type(list(map(greeter.hello, ["a"])), list[str])
    print(number, text, function, wrong)


class Anything(Service):
    """A command may have any name."""

    @rpc
    def name(self) -> str:
        return ""

    @rpc
    def id(self) -> int:
        return 1

    @rpc
    def command(self, self_: int, command: str, args: float) -> bool:
        return True


def odd_names(anything: Anything) -> None:
    assert_type(anything.name(), str)
    assert_type(anything.id(), int)
    assert_type(anything.command(1, command="", args=1.0), bool)
