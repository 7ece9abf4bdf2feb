"""Coroutines that threads run: on the event loop that the caller has, or on one that is kept for them."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from typedrpc.common.fork import forsake_after_fork
from typedrpc.errors import BlockingCall

if TYPE_CHECKING:  # imported when used: it takes longer than all the rest
    import asyncio

logger = logging.getLogger("typedrpc")

CHECK_TIME: Final = 1.0
"""Seconds after which a thread that waits for a coroutine looks whether its loop still runs."""


class _KeptLoop:
    """One loop in a thread of its own, started when first needed; it lasts as long as the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.thread: int | None = None
        forsake_after_fork(self)

    def get(self) -> asyncio.AbstractEventLoop:
        import asyncio

        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                try:
                    thread = threading.Thread(target=_run, args=(loop,), name="typedrpc-loop", daemon=True)
                    thread.start()
                except BaseException:  # nobody runs it: whoever comes next tries again
                    loop.close()
                    raise
                self._loop, self.thread = loop, thread.ident
            return self._loop

    def forsake(self) -> None:
        """See :mod:`typedrpc.common.fork`: the thread is not here."""
        self._lock = threading.Lock()
        self._loop = self.thread = None


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop for good: neither ``loop.stop()`` nor a task that would end a program ends it for all others."""
    while True:
        try:
            loop.run_forever()
        except BaseException:
            logger.exception("a task on the event loop for async handlers would have ended the program")


_kept: Final = _KeptLoop()


def kept_loop() -> asyncio.AbstractEventLoop:
    """The event loop that this process keeps, in a thread of its own, for what is ``async`` and has no other."""
    return _kept.get()


RIGHT_WAY: Final = "await proxy.{}.aio(...)"


def refuse_on_kept_loop(what: str, instead: str = RIGHT_WAY) -> BlockingCall | None:
    """The error of who is about to wait for a call in the thread of the kept loop, where all async handlers run."""
    return blocking_call(what, instead) if threading.get_ident() == _kept.thread else None


def blocking_call(what: str, instead: str = RIGHT_WAY) -> BlockingCall:
    """What says that a call must not wait in the thread of an event loop.

    Args:
        what: Names the command, or what came as an argument of one.
        instead: The right way, with a place for the command's own name.
    """
    command, _, argument = what.partition(": ")
    if argument:  # "Host.train: callback 'progress'"
        right = instead.replace("proxy.{}", "remote({})").format(argument.split("'")[1])
    else:
        right = instead.format(command.rpartition(".")[2])
    return BlockingCall(f"{what}: this would block the thread of the event loop that it waits for; write `{right}`")


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs in this thread, if one does."""
    import asyncio

    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def run_on(loop: asyncio.AbstractEventLoop | None, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on an event loop, with the context variables of this thread, and wait for what it returns.

    Args:
        loop: Where to; without one, the loop that is kept.
        coroutine: The coroutine.

    Raises:
        BlockingCall: This is the thread of that very loop.
        RuntimeError: The loop is closed, or has stopped.
    """
    try:
        target = loop or kept_loop()
        if running_loop() is target:
            raise blocking_call("an async function", "await it")
        return in_loop(lambda: coroutine, target)()
    finally:
        if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
            coroutine.close()


def awaiting(function: Callable[..., Any]) -> Callable[..., Any]:
    """A coroutine function that calls the given one, and awaits what that gives if it can be awaited."""

    async def await_it(*args: Any) -> Any:
        result = function(*args)
        return await result if inspect.isawaitable(result) else result

    return await_it


def in_loop(function: Callable[..., Any], loop: asyncio.AbstractEventLoop | None) -> Callable[..., Any]:
    """A function that calls the given one on an event loop, awaits what that gives, and returns it.

    The context variables of the calling thread are there. The thread must not be the loop's own.

    Args:
        function: Gives an awaitable, or a value at once.
        loop: Where to; without one, the loop that is kept.
    """

    await_it = awaiting(function)

    def run(*args: Any) -> Any:
        import asyncio

        target = loop or _kept.get()
        coroutine = await_it(*args)
        try:
            future: Future[Any] = asyncio.run_coroutine_threadsafe(coroutine, target)
        except RuntimeError as error:
            coroutine.close()
            raise RuntimeError("the event loop of an async function is closed") from error
        while True:
            try:
                return future.result(CHECK_TIME)
            except TimeoutError:
                if future.done():  # it raised that, or came just now
                    return future.result()
                if not target.is_running():
                    if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                        coroutine.close()
                    raise RuntimeError("the event loop of an async function has stopped") from None

    return run
