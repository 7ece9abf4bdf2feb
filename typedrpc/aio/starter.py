"""Coroutines that are run up to their first wait at once, and become tasks only where there is one.

A task for each call would cost more than all the rest of a quick one: it is made, and waits for the next turn of the
loop, before the handler's first line is run. So the first step is taken here, by the loop's own thread, between two
other things that it does. What asks for the current task in that step, such as ``asyncio.timeout`` or ``TaskGroup``, is
given the one that goes on with the coroutine if it waits: that task is made beforehand, and kept until one does.
"""

import asyncio
import logging
from asyncio.tasks import _enter_task, _leave_task  # documented for who runs coroutines by other means than tasks
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from time import monotonic
from typing import Any, Final, final

logger = logging.getLogger("typedrpc")

SLOW_TIME: Final = 0.1
"""Seconds that a handler may hold up its event loop before it is told of, where calls are debugged: asyncio's own."""


@final
class Starter:
    """Starts coroutines on one event loop; used in its thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, debug: bool) -> None:
        """
        Args:
            loop: The loop.
            debug: Tell of coroutines that hold it up.
        """
        self._loop = loop
        self._debug = debug
        self._spare: _Carrier | None = None

    def start(self, coroutine: Coroutine[Any, Any, None], context: Context, name: str) -> asyncio.Task[None] | None:
        """Run a coroutine: its first step now, the rest as a task.

        Args:
            coroutine: Raises nothing but ``CancelledError``.
            context: In which it runs.
            name: What it is told of by.

        Returns:
            The task; None where the coroutine has ended already.
        """
        loop = self._loop
        if asyncio.current_task(loop) is not None:  # some other task has just ended, or called: it goes on first
            return loop.create_task(self._watched(coroutine, name), context=context, name=name)
        carrier = self._spare
        if carrier is None or carrier.task.done():  # of a loop that was cancelled as a whole
            carrier = self._spare = _Carrier(loop)
        began = monotonic() if self._debug else 0.0
        _enter_task(loop, carrier.task)
        try:
            waits_for = context.run(coroutine.send, None)
        except StopIteration:
            return None
        finally:
            _leave_task(loop, carrier.task)
            if self._debug:
                _tell_if_slow(name, monotonic() - began)
        self._spare = None
        carrier.carry(_Rest(coroutine, context, waits_for, name if self._debug else ""))
        carrier.task.set_name(name)
        return carrier.task

    async def _watched(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        if self._debug:
            await _Rest(coroutine, None, None, name)
        else:
            await coroutine

    def close(self) -> None:
        """The loop is used no more."""
        if self._spare is not None:
            self._spare.task.cancel()
            self._spare = None


@final
class _Carrier:
    """A task that waits for a coroutine to go on with."""

    __slots__ = ("_given", "task")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._given: asyncio.Future[_Rest] = loop.create_future()
        self.task: asyncio.Task[None] = loop.create_task(self._run(), name="typedrpc-spare")

    async def _run(self) -> None:
        rest = await self._given
        await rest

    def carry(self, rest: "_Rest") -> None:
        self._given.set_result(rest)


@final
class _Rest:
    """What is left of a coroutine, step by step in its own context."""

    __slots__ = ("_context", "_coroutine", "_name", "_waits_for")

    def __init__(
        self, coroutine: Coroutine[Any, Any, None], context: Context | None, waits_for: Any, name: str
    ) -> None:
        """
        Args:
            coroutine: The coroutine.
            context: In which it runs; None for the task's.
            waits_for: What it waits for now, if it was begun.
            name: What it is told of by; empty where it is not.
        """
        self._coroutine = coroutine
        self._context = context
        self._waits_for = waits_for
        self._name = name

    def __await__(self) -> Generator[Any, Any, None]:
        coroutine, waits_for = self._coroutine, self._waits_for
        run = _directly if self._context is None else self._context.run
        step: Callable[..., Any] = coroutine.send
        value: Any = None
        begun = self._context is not None
        try:
            while True:
                if begun:
                    try:
                        value, step = (yield waits_for), coroutine.send
                    except BaseException as error:
                        value, step = error, coroutine.throw
                begun = True
                began = monotonic() if self._name else 0.0
                try:
                    waits_for = run(step, value)
                finally:
                    if self._name:
                        _tell_if_slow(self._name, monotonic() - began)
        except StopIteration:
            return
        finally:
            coroutine.close()


def _directly(step: Callable[[Any], Any], value: Any) -> Any:
    return step(value)


def _tell_if_slow(name: str, seconds: float) -> None:
    if seconds >= SLOW_TIME:
        logger.warning(
            "%s held up the event loop for %.0f ms: nothing else ran meanwhile; await what takes long, or declare the "
            "command with def, and it runs in a thread",
            name,
            1000 * seconds,
        )
