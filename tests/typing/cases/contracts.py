"""The contracts that the other files call, with what the checkers must say of implementations, right and wrong."""

from abc import abstractmethod
from collections.abc import Callable, Coroutine
from typing import assert_type, reveal_type

from typing_extensions import override

from typedrpc.command import BoundCommand, Command, FunctionCommand, rpc
from typedrpc.service import FunctionService, Service


class Greeter(Service):
    @rpc
    def hello(self, name: str) -> str:
        """Greet somebody."""
        return f"hello {name}"

    @rpc(id=2)
    def add(self, a: int, b: int = 0) -> int:
        return a + b

    @rpc
    def all_kinds(self, a: int, /, b: str = "", *args: float, key: bool, **rest: bytes) -> list[str]:
        return [str(a), b, *map(str, args), str(key), *rest]

    @rpc
    def three(self, a: int, b: str, c: float) -> str:
        return f"{a}{b}{c}"

    @rpc
    def five(self, a: int, b: int, c: int, d: int, e: int) -> int:
        return a + b + c + d + e

    @rpc
    def nothing(self) -> None: ...

    @rpc
    async def slow(self, name: str) -> str:
        return name

    def helper(self) -> int:
        return self.add(1)


class Store(Service, name="store"):
    @rpc
    @abstractmethod
    def get(self, key: str) -> bytes | None: ...

    @rpc(id=7)
    @abstractmethod
    def put(self, key: str, *, replace: bool = True) -> None: ...


class DiskStore(Store):
    @override
    @rpc
    def get(self, key: str) -> bytes | None:
        return None

    @override
    @rpc
    def put(self, key: str, *, replace: bool = True) -> None: ...


class WiderStore(Store):
    @rpc
    def get(self, key: str | bytes, default: bytes = b"") -> bytes:
        return default

    @rpc
    def put(self, key: str, *, replace: bool = True, sync: bool = False) -> None: ...


class WrongParameter(Store):
    @rpc
    def get(self, key: int) -> bytes | None: ...  # E: override | reportIncompatibleVariableOverride


class WrongResult(Store):
    @rpc
    def get(self, key: str) -> str | None: ...  # E: override | reportIncompatibleVariableOverride


class RenamedParameter(Store):
    @rpc
    def get(self, name: str) -> bytes | None: ...  # E: override | reportIncompatibleVariableOverride


class MissingParameter(Store):
    @rpc
    def get(self) -> bytes | None: ...  # E: override | reportIncompatibleVariableOverride


class ExtraParameter(Store):
    @rpc
    def get(self, key: str, version: int) -> bytes | None: ...  # E: override | reportIncompatibleVariableOverride


class NotKeywordOnly(Store):
    @rpc
    def put(self, key: str, replace: bool = True) -> None: ...


class NowRequired(Store):
    @rpc
    def put(self, key: str, *, replace: bool) -> None: ...  # E: override | reportIncompatibleVariableOverride


class OtherColour(Store):
    @rpc
    async def get(self, key: str) -> bytes | None: ...  # E: override | reportIncompatibleVariableOverride


class WithoutRpc(Store):
    def get(self, key: str) -> bytes | None: ...  # E: override | reportIncompatibleVariableOverride


class NotThere(Store):
    @override
    @rpc
    def gett(self, key: str) -> bytes | None: ...  # E: misc |


class Unfinished(Store):
    @rpc
    def get(self, key: str) -> bytes | None: ...


Store()  # E: abstract | reportAbstractUsage
Unfinished()  # E: abstract | reportAbstractUsage
DiskStore()
WiderStore()


class BadDecorations(Service):
    @rpc("id")  # E: call-overload | reportArgumentType
    def text_id(self) -> None: ...

    @rpc(id="2")  # E: call-overload | reportArgumentType
    def id_as_text(self) -> None: ...

    @rpc(number=2)  # E: call-overload | reportCallIssue
    def unknown_option(self) -> None: ...


# The commands on the class

reveal_type(Greeter.hello)  # R: Command[def (name: str) -> str] | Command[(name: str) -> str]
reveal_type(Greeter.add)  # R: Command[def (a: int, b: int =) -> int] | Command[(a: int, b: int = 0) -> int]
assert_type(Greeter.hello(Greeter(), "Robert"), str)
Greeter.hello(Greeter(), 1)  # E: arg-type | reportArgumentType
Greeter.hello("Robert")  # E: call-arg | reportCallIssue


def takes_any_command(command: Command[Callable[..., object]]) -> None: ...


def takes_text_to_nothing(command: Command[Callable[[str], None]]) -> None: ...


takes_any_command(Greeter.hello)
takes_text_to_nothing(Greeter.hello)  # E: arg-type | reportArgumentType
takes_text_to_nothing("hello")  # E: arg-type | reportArgumentType


# The local instance

assert_type(Greeter().hello("Robert"), str)
assert_type(DiskStore().get("key"), bytes | None)
assert_type(WiderStore().get(b"key", default=b""), bytes)
assert_type(Greeter().helper(), int)
Greeter().hello(1)  # E: arg-type | reportArgumentType


# Functions without a class

greet = FunctionService("greet")


@greet.rpc
def hello(name: str) -> str:
    return f"hello {name}"


@greet.rpc(id=3)
def bye(times: int = 1) -> list[str]:
    return ["bye"] * times


@greet.rpc(id="3")  # E: call-overload | reportArgumentType
def wrong_id() -> None: ...


reveal_type(hello)  # R: FunctionCommand[def (name: str) -> str] | FunctionCommand[(name: str) -> str]
reveal_type(bye)  # R: FunctionCommand[def (times: int =) -> list[str]] | FunctionCommand[(times: int = 1) -> list[str]]
assert_type(hello("Robert"), str)
assert_type(bye(times=2), list[str])
hello(1)  # E: arg-type | reportArgumentType
hello()  # E: call-arg | reportCallIssue
hello("Robert", loud=True)  # E: call-arg | reportCallIssue
takes_any_command(hello)
FunctionService()  # E: call-arg | reportCallIssue


# What is assignable to what

bound: BoundCommand[Callable[[str], object]] = Greeter().hello
function: Callable[[str], str] = Greeter().hello
narrower: BoundCommand[Callable[[int], str]] = Greeter().hello  # E: assignment | reportAssignmentType
command: FunctionCommand[Callable[[str], str]] = hello
coloured: BoundCommand[Callable[[str], Coroutine[object, object, str]]] = Greeter().slow
