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
from typing import Any, Final, TypeVar, final

logger = logging.getLogger("typedrpc")

T = TypeVar("T")

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
        self._spare: tuple[asyncio.Task[Any], _Carrier] | None = None

    def start(self, coroutine: Coroutine[Any, Any, T], context: Context, name: str) -> asyncio.Task[T] | T:
        """Run a coroutine: its first step now, the rest as a task.

        The first step is run in any case, also where the task is cancelled before its turn has come.

        Args:
            coroutine: Raises nothing but ``CancelledError``.
            context: In which it runs.
            name: What it is told of by.

        Returns:
            The task; or what the coroutine has returned, where it has ended already.
        """
        loop, told = self._loop, name if self._debug else ""
        if asyncio.current_task(loop) is not None:  # some other task has just ended, or called: it goes on first
            carrier = _Carrier(loop)
            carrier.carry(coroutine, context, told)
            return loop.create_task(carrier, name=name)
        if self._spare is None or self._spare[0].done():  # of a loop that was cancelled as a whole
            carrier = _Carrier(loop)
            self._spare = loop.create_task(carrier, name="typedrpc-spare"), carrier
        task, carrier = self._spare
        began = monotonic() if told else 0.0
        _enter_task(loop, task)
        try:
            waits_for = context.run(coroutine.send, None)
        except StopIteration as end:
            if task.cancelling():  # by itself, in its last step
                self._spare = None
            returned: T = end.value
            return returned
        finally:
            _leave_task(loop, task)
            if told:
                _tell_if_slow(told, monotonic() - began)
        self._spare = None
        carrier.carry_on(coroutine, context, told, waits_for)
        task.set_name(name)
        return task

    def close(self) -> None:
        """The loop is used no more."""
        if self._spare is not None:
            self._spare[0].cancel()
            self._spare = None


@final
class _Carrier(Coroutine[Any, Any, Any]):
    """What a task runs that waits for a coroutine to go on with, and then goes on with that, step by step.

    It is no ``async def``, since a task may be cancelled before its first step, or in the same turn of the loop in
    which it is given the coroutine: an ``async def`` would end there, and the coroutine would never learn of it.
    """

    __slots__ = ("_begun", "_coroutine", "_given", "_name", "_parked", "_run", "_waits_for")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._given: asyncio.Future[None] = loop.create_future()
        self._coroutine: Coroutine[Any, Any, Any] | None = None
        self._run: Callable[..., Any]
        self._name = ""
        self._begun = False
        self._parked = False  # the coroutine waits, and the task has not been told for what
        self._waits_for: Any = None

    def carry(self, coroutine: Coroutine[Any, Any, Any], context: Context, name: str) -> None:
        """Run a coroutine.

        Args:
            coroutine: The coroutine.
            context: In which it runs.
            name: What it is told of by where a step takes long; empty where it is not.
        """
        self._coroutine, self._run, self._name = coroutine, context.run, name

    def carry_on(self, coroutine: Coroutine[Any, Any, Any], context: Context, name: str, waits_for: Any) -> None:
        """As :meth:`carry`, with a coroutine that has begun, and waits for what is given."""
        self.carry(coroutine, context, name)
        self._begun = self._parked = True
        self._waits_for = waits_for
        if not self._given.done():  # cancelled with the task, in the coroutine's first step
            self._given.set_result(None)

    def send(self, value: Any) -> Any:
        coroutine = self._coroutine
        if coroutine is None:
            return self._given.__await__().send(None)
        if self._parked:
            return self._unpark()
        self._begun = True
        return self._step(coroutine.send, value)

    def throw(self, error: Any, value: Any = None, trace: Any = None, /) -> Any:
        coroutine = self._coroutine
        if coroutine is None:
            raise error
        if not self._begun:
            self._begun = self._parked = True
            self._waits_for = self._step(coroutine.send, None)
        waits_for = self._unpark() if self._parked else None
        # As a task does that is cancelled while it waits: what it waits for is, and it goes on when that has ended.
        if waits_for is not None and waits_for.cancel(error.args[0] if error.args else None):
            return waits_for
        return self._step(coroutine.throw, error)

    def _unpark(self) -> Any:
        waits_for, self._waits_for, self._parked = self._waits_for, None, False
        return waits_for

    def _step(self, step: Callable[[Any], Any], value: Any) -> Any:
        if not self._name:
            return self._run(step, value)
        began = monotonic()
        try:
            return self._run(step, value)
        finally:
            _tell_if_slow(self._name, monotonic() - began)

    def close(self) -> None:
        if self._coroutine is not None:
            self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise NotImplementedError("tasks run it")


def _tell_if_slow(name: str, seconds: float) -> None:
    if seconds >= SLOW_TIME:
        logger.warning(
            "%s held up the event loop for %.0f ms: nothing else ran meanwhile; await what takes long, or declare the "
            "command with def, and it runs in a thread",
            name,
            1000 * seconds,
        )
