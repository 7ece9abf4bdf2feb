"""Room for calls at the peer: who makes one too many waits until another one is answered."""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Final, final

from typedrpc.call import get_call
from typedrpc.common.handlers import Handlers
from typedrpc.common.tokens import NotSent, Token
from typedrpc.errors import DeadlineExceeded, RpcError, ServerBusy
from typedrpc.protocol import Protocol, State
from typedrpc.transport import LONGEST_WAIT

HANDLERS_PATIENCE: Final = 5.0
"""Seconds that a call which a handler makes waits for room at the peer: in a ring it would wait for itself."""


class NoRoom(Exception):
    """There is none, and the call is made by somebody who must not wait here."""


@final
class Room:
    """How many calls the peer has on one connection, and who waits to make another.

    Attributes:
        is_counted: No call may be made that the in-flight table does not count, since it may be one too many.
        waiting: Threads that wait for room. While there are any, or calls are counted, :meth:`look_again` is to be
            called when something was answered.
    """

    def __init__(self, core: Protocol[Any], state: threading.Lock, handlers: Handlers) -> None:
        """
        Args:
            core: The protocol's state.
            state: The lock that guards it.
            handlers: See to it that somebody reads.
        """
        self.is_counted = False
        self._core = core
        self._state = state
        self._handlers = handlers
        self._changed = threading.Condition(state)
        self.waiting = 0
        # What rouses the tasks that wait, in the order in which they came. The first of a plain dict is found behind
        # the places of all that were taken before it: a long line would take time with the square of its length.
        self._line: OrderedDict[Callable[[], None], None] = OrderedDict()
        self._given_up = 0  # calls that nobody waits for any more; they are in flight until their late replies come

    def open(self) -> None:
        """The peer's limits are known."""
        self.is_counted = self._core.peer_limits.max_calls == 1

    def has_place(self) -> bool:
        """Whether another call would not wait for room. The state lock is held."""
        core = self._core
        taken = len(core.calls.calls) + self._given_up - core.late_replies
        # One place is left for the thread that reads its own reply and is not in the table.
        return taken < core.peer_limits.max_calls - 1 or taken < 1

    def await_place(self, what: str, deadline: float | None, token: Token) -> None:
        """Return when the peer has room for another call, or none is needed: the connection has ended, or the call was
        aborted. The state lock is held.

        Raises:
            NotSent: The deadline passed; or a handler makes the call, and has waited for long.
        """
        if self.has_place():
            return
        last_moment = monotonic() + (math.inf if get_call() is None else HANDLERS_PATIENCE)
        expecting = False
        # Counted before the look that decides: whoever answers something does so first, and looks at the count then.
        self.waiting += 1
        try:
            while not self.has_place() and self._core.state is not State.CLOSED and token.aborted is None:
                end = last_moment if deadline is None else min(deadline, last_moment)
                left = end - monotonic()
                if left <= 0:
                    break
                if not expecting and self._given_up > self._core.late_replies:
                    # Those who made the calls have gone. Somebody has to read the late replies.
                    with suppress(RuntimeError):  # there are no threads; others may read
                        self._handlers.expect()
                        expecting = True
                self._changed.wait(min(left, LONGEST_WAIT))
        finally:
            self.waiting -= 1
            if expecting:
                self._handlers.forget()
        if not self.has_place() and self._core.state is not State.CLOSED and token.aborted is None:
            raise NotSent(_no_room_in_time(what, deadline, last_moment))

    async def stand_in_line(self, what: str, deadline: float | None) -> None:
        """As :meth:`await_place`, in a task: return when there may be room, which others may be quicker to take.

        Who does not take it then has to say so: by :meth:`look_again`.

        Raises:
            DeadlineExceeded: The deadline passed.
            ServerBusy: A handler makes the call, and has waited for long.
        """
        import asyncio  # whoever awaits has it

        running = asyncio.get_running_loop()
        roused = running.create_future()
        own = threading.get_ident()

        def wake() -> None:
            if not roused.done():
                roused.set_result(None)

        def rouse() -> None:
            if threading.get_ident() == own:
                wake()  # a loop writes to a socket to wake itself from elsewhere, which takes longer than all of this
                return
            with suppress(RuntimeError):  # its loop is closed
                running.call_soon_threadsafe(wake)

        last_moment = monotonic() + (math.inf if get_call() is None else HANDLERS_PATIENCE)
        end = last_moment if deadline is None else min(deadline, last_moment)
        self._handlers.expect()  # those who made the calls may have gone, and somebody has to read the answers
        try:
            with self._state:
                self.waiting += 1  # before the look, as above
                self._line[rouse] = None
                self._rouse()
            try:
                async with asyncio.timeout(None if end == math.inf else end - monotonic()):
                    await roused
            finally:
                with self._state:
                    self.waiting -= 1
                    self._line.pop(rouse, None)
        except TimeoutError:
            self.look_again()
            raise _no_room_in_time(what, deadline, last_moment) from None
        except BaseException:
            self.look_again()
            raise
        finally:
            self._handlers.forget()

    def _rouse(self) -> None:
        """Rouse as many tasks as there is room for. The state lock is held."""
        free = len(self._line) if self._core.state is State.CLOSED else self._free()
        while self._line and free > 0:
            rouse, _ = self._line.popitem(last=False)
            rouse()
            free -= 1

    def _free(self) -> int:
        """Calls for which :meth:`has_place` would be true, one after another."""
        room = max(1, self._core.peer_limits.max_calls - 1)
        return room - (len(self._core.calls) + self._given_up - self._core.late_replies)

    @property
    def is_taken(self) -> bool:
        """Not even the place is left of the thread that reads its own reply; that thread asks, when it has the role.

        One that had the role before may be in the table now: it runs what is nested in its call, or is parked.
        """
        return len(self._core.calls) >= self._core.peer_limits.max_calls

    def give_up(self, calls: int) -> None:
        """So many calls leave the table without an answer; to the peer they are still in flight.

        The state lock is held, since before they left: nobody may take them for room in between.
        """
        self._given_up += calls
        self.is_counted = True
        self.notify_all()  # not that there is room: those who wait have to see to it that somebody reads

    def notify_all(self) -> None:
        """Have all who wait look again. The state lock is held."""
        self._changed.notify_all()
        if self._line:
            self._rouse()

    def look_again(self) -> None:
        """Something was answered."""
        if self.waiting:
            with self._state:
                self.notify_all()
        if self.is_counted and self._core.peer_limits.max_calls > 1:
            with self._state:
                self.is_counted = self._given_up > self._core.late_replies


def _no_room_in_time(what: str, deadline: float | None, last_moment: float) -> RpcError:
    if deadline is None or deadline > last_moment:
        text = f"{what}: a handler calls it, and the peer had no room within {HANDLERS_PATIENCE:g} s"
        return ServerBusy(f"{text}; raise max_calls there")
    return DeadlineExceeded(f"{what}: the peer had no room for another call in time")
