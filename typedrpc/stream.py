"""Streams: what a command that is declared ``-> Iterator[T]`` or ``-> AsyncIterator[T]`` gives its caller.

``Stream`` and ``AsyncStream`` say what every stream can do, from whichever side it comes. The local ones stand around
what a function here has returned, so that a plain instance gives the same kind of object as a proxy does.
"""

from __future__ import annotations

import contextvars
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Self, TypeVar, final

if TYPE_CHECKING:  # imported when used: it takes longer than all the rest
    import asyncio

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Stream(Iterator[T_co], ABC):
    """Items that come one by one, while the other side makes them::

        with proxy.rows("a*") as rows:
            for row in rows:
                ...

    An error of the producer is raised after the items before it. Whoever leaves early closes the stream, which stops
    the producer: its ``finally`` blocks run.
    """

    __slots__ = ()

    def __iter__(self) -> Self:
        return self

    @abstractmethod
    def __next__(self) -> T_co: ...

    @abstractmethod
    def close(self) -> None:
        """Stop the producer. Nothing comes after that; closing again does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class AsyncStream(AsyncIterator[T_co], ABC):
    """As ``Stream``, for ``async for`` and ``async with``."""

    __slots__ = ()

    def __aiter__(self) -> Self:
        return self

    @abstractmethod
    async def __anext__(self) -> T_co: ...

    @abstractmethod
    async def aclose(self) -> None:
        """Stop the producer. Nothing comes after that; closing again does nothing."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()


@final
class LocalStream(Stream[T_co]):
    """The items of an iterator that is here; those of an async one are awaited while the caller waits."""

    __slots__ = ("__weakref__", "_source")

    def __init__(self, source: Iterator[T_co] | AsyncIterator[T_co]) -> None:
        self._source: Iterator[T_co] | None = _Awaited(source) if isinstance(source, AsyncIterator) else iter(source)

    def __next__(self) -> T_co:
        if self._source is None:
            raise StopIteration
        return next(self._source)

    def close(self) -> None:
        """Closes a generator, and whatever else can be closed; of a plain iterator nothing more is asked."""
        source, self._source = self._source, None
        close = getattr(source, "close", None)
        if close is not None:
            close()


@final
class LocalAsyncStream(AsyncStream[T_co]):
    """The items of an async iterator that is here, or of a plain one, whose items are made in the event loop."""

    __slots__ = ("__weakref__", "_source")

    def __init__(self, source: Iterator[T_co] | AsyncIterator[T_co]) -> None:
        self._source: AsyncIterator[T_co] | None = (
            source if isinstance(source, AsyncIterator) else _Unawaited(iter(source))
        )

    async def __anext__(self) -> T_co:
        if self._source is None:
            raise StopAsyncIteration
        return await anext(self._source)

    async def aclose(self) -> None:
        """Closes a generator, and whatever else can be closed; of a plain iterator nothing more is asked."""
        source, self._source = self._source, None
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()


class _Unawaited(AsyncIterator[T]):
    """A plain iterator as an async one."""

    def __init__(self, source: Iterator[T]) -> None:
        self._source = source

    async def __anext__(self) -> T:
        try:
            return next(self._source)
        except StopIteration:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        close = getattr(self._source, "close", None)
        if close is not None:
            close()


class _Awaited(Iterator[T]):
    """An async iterator as a plain one: an event loop of its own runs for as long as each item takes."""

    _END: Any = object()

    def __init__(self, source: AsyncIterator[T]) -> None:
        self._source = source
        self._runner: asyncio.Runner | None = None
        self._ended = False

    def __next__(self) -> T:
        if self._ended:
            raise StopIteration
        runner = self._runner or self._start()
        try:
            item: T = without_loop(lambda: runner.run(_result_of(anext(self._source, self._END))))
        except BaseException:
            self.close()
            raise
        if item is self._END:
            self.close()
            raise StopIteration
        return item

    def close(self) -> None:
        if self._ended:
            return
        self._ended = True
        close = getattr(self._source, "aclose", None)
        runner = self._runner or self._start()
        try:
            if close is not None:
                without_loop(lambda: runner.run(_result_of(close())))
        finally:
            without_loop(runner.close)

    def _start(self) -> asyncio.Runner:
        import asyncio

        self._runner = asyncio.Runner()
        return self._runner

    def __del__(self) -> None:
        if self._runner is not None:
            self.close()


async def _result_of(awaitable: Awaitable[T]) -> T:
    return await awaitable


def wait_for(awaitable: Awaitable[T]) -> T:
    """What an awaitable gives; it is awaited on an event loop of its own, while this thread waits."""
    import asyncio

    return without_loop(lambda: asyncio.run(_result_of(awaitable)))


def without_loop(function: Callable[[], T]) -> T:
    """What a function gives that runs an event loop; in a thread of its own where this one runs a loop already."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return function()
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1, "typedrpc-local") as pool:
        return pool.submit(contextvars.copy_context().run, function).result()
