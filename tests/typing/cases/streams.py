"""What the checkers say of streams: of contracts and implementations of them, and of their calls in every form."""

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, assert_type, reveal_type

from typing_extensions import override

from typedrpc.command import BoundCommand, Caller, Command, remote, rpc
from typedrpc.service import FunctionService, Service, bind, make_proxy
from typedrpc.stream import AsyncStream, Stream

# Contracts in all shapes, and implementations

Doubled = AsyncIterator[float]


class Table(Service):
    @rpc
    @abstractmethod
    def rows(self, pattern: str, limit: int = 0) -> Iterator[int]: ...

    @rpc
    @abstractmethod
    def put(self, rows: Iterator[int], name: str = "") -> int: ...

    @rpc
    @abstractmethod
    def double(self, rows: Iterator[int]) -> Iterator[float]: ...

    @rpc
    @abstractmethod
    def count(self, pattern: str) -> int: ...


class AsyncTable(Service):
    @rpc
    @abstractmethod
    def rows(self, pattern: str, limit: int = 0) -> AsyncIterator[int]: ...

    @rpc
    @abstractmethod
    async def put(self, rows: AsyncIterator[int], name: str = "") -> int: ...

    @rpc
    @abstractmethod
    def double(self, rows: AsyncIterator[int]) -> AsyncIterator[float]: ...

    @rpc
    @abstractmethod
    async def count(self, pattern: str) -> int: ...


class OwnTable(Table):
    @override
    @rpc
    def rows(self, pattern: str, limit: int = 0) -> Iterator[int]:
        yield limit

    @override
    @rpc
    def put(self, rows: Iterator[int], name: str = "") -> int:
        return assert_type(sum(rows), int)

    @override
    @rpc
    def double(self, rows: Iterator[int]) -> Iterator[float]:
        reveal_type(rows)  # R: Iterator[int] | Iterator[int]
        for row in rows:
            yield row * 2.0

    @override
    @rpc
    def count(self, pattern: str) -> int:
        # A local instance calls them as a proxy does.
        assert_type(self.rows(pattern), Stream[int])
        assert_type(OwnTable.rows(self, pattern), Stream[int])
        return sum(1 for _ in self.rows(pattern))


class OwnAsyncTable(AsyncTable):
    @override
    @rpc
    async def rows(self, pattern: str, limit: int = 0) -> AsyncIterator[int]:
        yield limit

    @override
    @rpc
    async def put(self, rows: AsyncIterator[int], name: str = "") -> int:
        return sum([row async for row in rows])

    @override
    @rpc
    async def double(self, rows: AsyncIterator[int]) -> AsyncIterator[float]:
        reveal_type(rows)  # R: AsyncIterator[int] | AsyncIterator[int]
        async for row in rows:
            yield row * 2.0

    @override
    @rpc
    async def count(self, pattern: str) -> int:
        assert_type(self.rows(pattern), AsyncStream[int])
        assert_type(AsyncTable.rows(self, pattern), AsyncStream[int])
        return len([row async for row in self.rows(pattern)])


class ReturnedTable(Table):
    """An implementation may return an iterator instead of yielding."""

    @rpc
    def rows(self, pattern: str, limit: int = 0) -> Generator[int, None, None]:
        yield limit

    @rpc
    def double(self, rows: Iterable[int]) -> Iterator[int]:
        return map(abs, rows)


class OtherItems(Table):
    @rpc
    def rows(self, pattern: str, limit: int = 0) -> Iterator[str]:  # E: override | reportIncompatibleVariableOverride
        yield pattern

    @rpc
    def put(self, rows: Iterator[str], name: str = "") -> int:  # E: override | reportIncompatibleVariableOverride
        return 0


class Whole(Table):
    @rpc
    def rows(self, pattern: str, limit: int = 0) -> list[int]:  # E: override | reportIncompatibleVariableOverride
        return []

    @rpc
    def put(self, rows: list[int], name: str = "") -> int:  # E: override | reportIncompatibleVariableOverride
        return 0


class OtherColour(Table):
    @rpc
    async def rows(self, pattern: str) -> AsyncIterator[int]:  # E: override | reportIncompatibleVariableOverride
        yield 1

    @rpc
    async def put(self, rows: Iterator[int], name: str = "") -> int:  # E: override | reportIncompatibleVariableOverride
        return 0


class OtherAsyncColour(AsyncTable):
    @rpc
    def rows(self, pattern: str, limit: int = 0) -> Iterator[int]:  # E: override | reportIncompatibleVariableOverride
        yield limit


class WithoutYield(AsyncTable):
    @rpc
    async def double(self, rows: Doubled) -> Doubled:  # E: override | reportIncompatibleVariableOverride
        return rows


OwnTable()
OwnAsyncTable()
Table()  # E: abstract | reportAbstractUsage
AsyncTable()  # E: abstract | reportAbstractUsage


# The commands themselves

some_command: Command[Callable[[str], Iterator[int]]] = Table.rows
wrong_command: Command[Callable[[str], Iterator[str]]] = Table.rows  # E: assignment | reportAssignmentType
Table.rows(OwnTable(), 1)  # E: call-overload | reportArgumentType, reportCallIssue
Table.rows("a*")  # E: call-overload | reportCallIssue


# Functions without a class

log = FunctionService("log")


@log.rpc
def tail(of: str) -> Iterator[str]:
    yield of


@log.rpc
async def atail(name: str) -> AsyncIterator[str]:
    yield name


@log.rpc
async def size(name: str) -> int:
    return 0


reveal_type(tail)  # R: FunctionCommand[def (of: str) -> Iterator[str]] | FunctionCommand[(of: str) -> Iterator[str]]
assert_type(tail("a"), Stream[str])
assert_type(atail("a"), AsyncStream[str])
reveal_type([size("a")])  # R: list[Coroutine[Any, Any, int]] | list[CoroutineType[Any, Any, int]]
tail(1)  # E: call-overload | reportArgumentType, reportCallIssue
atail()  # E: call-overload | reportCallIssue


# Calls


def calls(caller: Caller) -> None:
    table = make_proxy(Table, caller)

    assert_type(table.rows("a*"), Stream[int])
    assert_type(table.rows(pattern="a*", limit=3), Stream[int])
    assert_type(table.rows.call("a*"), Stream[int])
    assert_type(table.rows.submit("a*"), Future[Stream[int]])
    assert_type(table.rows.aio("a*"), AsyncStream[int])
    assert_type(table.rows.map(["a*"]), Iterator[Stream[int]])
    assert_type(table.rows.map(["a*"], [3]), Iterator[Stream[int]])
    assert_type(table.rows.map(["a*"], return_exceptions=True), Iterator[Stream[int] | Exception])
    assert_type(table.rows.with_options(timeout=5)("a*"), Stream[int])
    assert_type(bind(tail, caller)("a"), Stream[str])
    assert_type(bind(atail, caller)("a"), AsyncStream[str])
    assert_type(bind(atail, caller).call("a"), Stream[str])
    table.rows(1)  # E: call-overload | reportArgumentType, reportCallIssue
    table.rows()  # E: call-overload | reportCallIssue
    table.rows("a*", depth=1)  # E: call-overload | reportCallIssue
    table.rows.call(1)  # E: call-overload, arg-type | reportArgumentType, reportCallIssue
    table.rows.submit()  # E: call-overload, call-arg | reportCallIssue
    table.rows.aio(1)  # E: call-overload, arg-type | reportArgumentType, reportCallIssue
    table.rows.map([1])  # E: call-overload, list-item | reportArgumentType, reportCallIssue

    # Streams go out as arguments
    assert_type(table.put(iter([1, 2])), int)
    assert_type(table.put((number for number in [1, 2]), name="a"), int)
    assert_type(table.put(table.rows("a*")), int)
    assert_type(table.put.submit(iter([1])), Future[int])
    assert_type(table.double(iter([1])), Stream[float])
    assert_type(table.double(row for row in table.rows("a*")), Stream[float])
    table.put.notify(iter([1]))
    table.put([1, 2])  # E: arg-type | reportArgumentType
    table.put(iter(["a"]))  # E: arg-type, list-item | reportArgumentType
    table.put(table.rows)  # E: arg-type | reportArgumentType
    table.put(table.rows.aio("a*"))  # E: arg-type | reportArgumentType
    table.put(table.double(iter([1])))  # E: arg-type | reportArgumentType
    table.double("a*")  # E: call-overload | reportArgumentType, reportCallIssue

    # What a stream is
    with table.rows("a*") as rows:
        assert_type(rows, Stream[int])
        for row in rows:
            assert_type(row, int)
        assert_type(next(rows), int)
        assert_type(next(rows, None), int | None)
        rows.close()
        rows.send(1)  # E: attr-defined | reportAttributeAccessIssue, reportUnknownMemberType
        len(rows)  # E: arg-type | reportArgumentType
    numbers: Iterator[float] = table.rows("a*")
    texts: Iterator[str] = table.rows("a*")  # E: assignment | reportAssignmentType
    plain: Callable[[str], Iterator[int]] = table.rows
    closing: Callable[[str], Stream[int]] = table.rows
    wider: BoundCommand[Callable[[str], Iterable[int]]] = table.rows
    assert_type(list(map(table.rows, ["a*"])), list[Stream[int]])
    iter(table.rows.aio("a*"))  # E: arg-type, call-overload | reportArgumentType, reportCallIssue
    Stream()  # E: abstract | reportAbstractUsage
    AsyncStream()  # E: abstract | reportAbstractUsage
    print(numbers, texts, plain, closing, wider)


async def async_calls(caller: Caller) -> None:
    table = make_proxy(AsyncTable, caller)

    assert_type(table.rows("a*"), AsyncStream[int])
    assert_type(table.rows.call("a*"), Stream[int])
    assert_type(table.rows.submit("a*"), Future[Stream[int]])
    assert_type(table.rows.aio("a*"), AsyncStream[int])
    assert_type(table.rows.map(["a*"]), Iterator[Stream[int]])
    assert_type(table.rows.with_options(metadata={"a": "b"})("a*"), AsyncStream[int])
    assert_type(table.double(table.rows("a*")), AsyncStream[float])
    assert_type(await table.put(table.rows("a*")), int)
    assert_type(await table.put.aio(table.rows("a*")), int)
    assert_type(table.put.call(table.rows("a*")), int)
    assert_type(await table.count("a*"), int)
    assert_type(await table.count.aio("a*"), int)
    assert_type(table.count.call("a*"), int)
    assert_type(table.count.submit("a*"), Future[int])
    assert_type(table.count.map(["a*"]), Iterator[int])
    assert_type([table.count.aio("a*")], list[Coroutine[Any, Any, int]])
    await table.rows("a*")  # E: misc | reportGeneralTypeIssues
    await table.count(1)  # E: arg-type | reportArgumentType
    await table.put(iter([1]))  # E: arg-type | reportArgumentType
    await table.put.aio([1])  # E: call-overload, arg-type, list-item | reportArgumentType, reportCallIssue
    table.rows(1)  # E: call-overload | reportArgumentType, reportCallIssue
    table.count("a*") + 1  # E: operator | reportOperatorIssue, reportUnusedExpression
    number: int = table.count("a*")  # E: assignment | reportAssignmentType

    async with table.rows("a*") as rows:
        assert_type(rows, AsyncStream[int])
        async for row in rows:
            assert_type(row, int)
        assert_type(await anext(rows), int)
        await rows.aclose()
        rows.close()  # E: attr-defined | reportAttributeAccessIssue, reportUnknownMemberType
    iter(table.rows("a*"))  # E: arg-type, call-overload | reportArgumentType, reportCallIssue
    plain: Callable[[str], AsyncIterator[int]] = table.rows
    coroutine: Callable[[str], Coroutine[Any, Any, int]] = table.count
    blocking: Callable[[str], int] = table.count.call
    print(number, plain, coroutine, blocking)


# A result of any type is no stream


class Anything(Service):
    @rpc
    def load(self, name: str) -> Any:
        raise NotImplementedError

    @rpc
    def items(self, name: str) -> dict[str, Any]:
        raise NotImplementedError

    @rpc
    def whole(self, name: str) -> Iterable[int]:
        raise NotImplementedError

    @rpc
    def rows(self, value: Any) -> Iterator[Any]:
        raise NotImplementedError


def anything(caller: Caller, value: Any) -> None:
    proxy = make_proxy(Anything, caller)
    assert_type(proxy.load("a"), Any)
    assert_type(proxy.load.call("a"), Any)
    assert_type(proxy.load.submit("a"), Future[Any])
    assert_type(proxy.load.map(["a"]), Iterator[Any])
    assert_type(Anything.load(proxy, "a"), Any)
    assert_type(proxy.items("a"), dict[str, Any])
    assert_type(proxy.items(value), dict[str, Any])
    assert_type(proxy.items.call("a"), dict[str, Any])
    assert_type(proxy.whole("a"), Iterable[int])
    assert_type(proxy.whole.submit("a"), Future[Iterable[int]])
    assert_type(proxy.rows(value), Stream[Any])
    proxy.load(1)  # E: call-overload | reportArgumentType, reportCallIssue
    proxy.load()  # E: call-arg, call-overload | reportCallIssue


def callbacks(plain: Callable[[int], str]) -> None:
    assert_type(remote(plain)(1), str)
    assert_type([remote(plain).aio(1)], list[Coroutine[Any, Any, str]])
