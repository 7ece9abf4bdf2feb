"""What the checkers say of callbacks: of the functions that callers give, and of what handlers get."""

from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, assert_type, reveal_type

from typedrpc.command import Caller, remote, rpc
from typedrpc.service import Service, make_proxy


class Chat(Service):
    @rpc
    def train(self, steps: int, progress: Callable[[float], None]) -> int:
        # A handler calls it as any function.
        reveal_type(progress)  # R: def (float) | (float) -> None
        progress(0.5)
        progress(1)
        progress("half")  # E: arg-type | reportArgumentType
        progress()  # E: call-arg | reportCallIssue
        progress(0.5, 0.5)  # E: call-arg | reportCallIssue
        progress(part=0.5)  # E: call-arg | reportCallIssue
        return steps

    @rpc
    def pick(self, choose: Callable[[list[str], int], str] | None = None, *more: Callable[[], int]) -> str:
        assert_type(choose, Callable[[list[str], int], str] | None)
        choose(["a"], 1)  # E: misc | reportOptionalCall
        assert_type([each() for each in more], list[int])
        return "" if choose is None else assert_type(choose(["a"], 1), str)

    @rpc
    async def ask(self, question: str, answer: Callable[[str], Awaitable[bool]]) -> bool:
        wrong: bool = answer(question)  # E: assignment | reportAssignmentType
        return assert_type(await answer(question), bool) or wrong

    @rpc
    async def later(self, answer: Callable[[str], Coroutine[Any, Any, bool]]) -> bool:
        return assert_type(await answer("?"), bool)


class Forms(Service):
    """The other call forms of a callback, in the handler."""

    @rpc
    def train(self, steps: int, progress: Callable[[float], int]) -> int:
        other = remote(progress)
        assert_type(other(0.5), int)
        assert_type(other.call(0.5), int)
        assert_type(other.submit(0.5), Future[int])
        assert_type(other.with_options(timeout=1)(0.5), int)
        assert_type([*other.map([0.5, 1.0])], list[int])
        other.notify(0.5)
        other.notify("half")  # E: arg-type | reportArgumentType
        other.notify()  # E: call-arg | reportCallIssue
        other.call("half")  # E: arg-type, call-overload | reportArgumentType, reportCallIssue
        other("half")  # E: arg-type | reportArgumentType
        other.map(["half"])  # E: list-item, call-overload, arg-type | reportArgumentType, reportCallIssue
        other.with_options(limit=1)  # E: call-arg | reportCallIssue
        remote(steps)  # E: arg-type, call-overload | reportArgumentType, reportCallIssue
        return steps

    @rpc
    def pick(self, choose: Callable[[str], str] | None = None) -> None:
        remote(choose).notify("a")  # E: arg-type, call-overload, type-var | reportArgumentType, reportCallIssue
        if choose is not None:
            remote(choose).notify("a")

    @rpc
    async def ask(self, answer: Callable[[str], Awaitable[bool]]) -> bool:
        other = remote(answer)
        assert_type(await other.aio("?"), bool)
        assert_type(await other("?"), bool)
        assert_type(other.submit("?"), Future[bool])
        other.notify("?")
        other.notify(1)  # E: arg-type | reportArgumentType
        return assert_type(other.call("?"), bool)

    @rpc
    async def later(self, answer: Callable[[str], Coroutine[Any, Any, bool]]) -> bool:
        return assert_type(remote(answer).call("?"), bool)


class Screen:
    def __init__(self) -> None:
        self.parts: list[float] = []

    def show(self, part: float) -> None:
        self.parts.append(part)

    def clear(self) -> None:
        self.parts.clear()

    @classmethod
    def of_class(cls, part: float) -> None: ...

    @staticmethod
    def static(part: float) -> None: ...


class Bar:
    def __call__(self, part: float, width: int = 80) -> None: ...


def show(part: float) -> None: ...
def show_any(part: object) -> None: ...
def show_wide(part: float, width: int = 80) -> None: ...
def show_int(part: int) -> None: ...
def show_two(part: float, width: int) -> None: ...
def show_named(part: float, *, width: int) -> None: ...
def count(part: float) -> int:
    return 1


async def show_later(part: float) -> None: ...


def first(names: list[str], number: int) -> str:
    return names[number]


async def agree(question: str) -> bool:
    return True


def agree_at_once(question: str) -> bool:
    return True


def agree_by_another(question: str) -> Awaitable[bool]:
    return agree(question)


def callers(caller: Caller) -> None:
    chat = make_proxy(Chat, caller)
    screen = Screen()

    # What fits
    assert_type(chat.train(1, show), int)
    chat.train(1, lambda part: None)
    chat.train(1, lambda part: screen.parts.append(part))
    chat.train(1, progress=screen.show)
    chat.train(1, Screen.of_class)
    chat.train(1, Screen.static)
    chat.train(1, screen.parts.append)
    chat.train(1, Bar())
    chat.train(1, show_any)
    chat.train(1, show_wide)
    chat.train(1, print)
    chat.train.submit(1, show)
    chat.train.notify(1, lambda part: None)
    chat.train.map([1, 2], [show, show])
    chat.train.with_options(timeout=1)(1, show)

    # What does not
    chat.train(1, 5)  # E: arg-type | reportArgumentType
    chat.train(1, None)  # E: arg-type | reportArgumentType
    chat.train(1, show_int)  # E: arg-type | reportArgumentType
    chat.train(1, show_two)  # E: arg-type | reportArgumentType
    chat.train(1, show_named)  # E: arg-type | reportArgumentType
    chat.train(1, count)  # E: arg-type | reportArgumentType
    chat.train(1, show_later)  # E: arg-type | reportArgumentType
    chat.train(1, screen.clear)  # E: arg-type | reportArgumentType
    chat.train(1, lambda: None)  # E: arg-type, misc | reportArgumentType
    chat.train(1, lambda part, width: None)  # E: arg-type, misc | reportArgumentType, reportUnknownLambdaType
    chat.train(1, lambda part: screen.parts.count(part))  # E: arg-type | reportArgumentType, reportReturnType
    chat.train(1)  # E: call-arg | reportCallIssue
    chat.train.notify(1, show_two)  # E: arg-type | reportArgumentType
    chat.train.submit(1, show_two)  # E: call-overload, arg-type | reportArgumentType, reportCallIssue

    # Optional ones, and any number
    assert_type(chat.pick(), str)
    chat.pick(None)
    chat.pick(first)
    chat.pick(lambda names, number: names[number])
    chat.pick(first, lambda: 1, lambda: 2)
    chat.pick(first, first)  # E: arg-type | reportArgumentType
    chat.pick(lambda names, number: number)  # E: arg-type, return-value | reportArgumentType, reportReturnType
    chat.pick(show)  # E: arg-type | reportArgumentType

    # Async ones
    chat.ask.call("?", agree)
    chat.ask.call("?", agree_by_another)
    chat.later.call(agree)
    chat.ask.notify("?", agree_at_once)  # E: arg-type | reportArgumentType
    chat.later.notify(agree_by_another)  # E: arg-type | reportArgumentType
    chat.later.notify(agree_at_once)  # E: arg-type | reportArgumentType
