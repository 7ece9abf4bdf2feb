"""Which thread runs a request: the one that waits for the call which it is nested in, or whichever is free.

Only what descends from a thread's own call runs in that thread, so that locks and what is local to it stay as they are
in a program of one process.
"""

from collections.abc import Callable
from typing import Any, final

from typedrpc.callbacks import Callbacks, Group
from typedrpc.protocol import Protocol, Request
from typedrpc.sync.handling import HandlerThreads, Series
from typedrpc.sync.role import ReadRole
from typedrpc.sync.tokens import CallWaiter


@final
class Router:
    """Hands the requests of one connection to threads; used by the holder of the read role."""

    def __init__(self, core: Protocol[Any], role: ReadRole, threads: HandlerThreads, callbacks: Callbacks) -> None:
        """
        Args:
            core: The protocol's state.
            role: The connection's read role.
            threads: Those that are attached to it.
            callbacks: What this side has offered on it.
        """
        self._core = core
        self._role = role
        self._threads = threads
        self._callbacks = callbacks

    def give_to_waiting(self, request: Request) -> bool:
        """Give a request to the thread that waits for the call which it is nested in. Returns whether there is one."""
        parent, calls = request.extras.parent, self._core.calls
        token = calls.get(parent) if parent else None
        if isinstance(token, CallWaiter):
            return self._give(request, token, lambda: calls.get(parent) is token)
        group = self._group_of(request)
        if group is None or group.waiter is None:
            return False
        waiter = group.waiter
        return self._give(request, waiter, lambda: group.waiter is waiter)

    def _give(self, request: Request, waiter: CallWaiter, still_waits: Callable[[], bool]) -> bool:
        if not request.call:
            self._threads.hold(request)
        waiter.work.append(request)
        # It may have stopped waiting, and looked for the last time.
        if not still_waits():
            try:
                waiter.work.remove(request)
            except ValueError:
                return True
            if not request.call:
                self._threads.let_go(request)
            return False
        self._role.rouse(waiter)
        return True

    def accept(self, request: Request) -> None:
        """Leave a request to whichever thread is free."""
        group = self._group_of(request)
        if group is not None and group.series is None:
            group.series = Series()
        # The callbacks of one call run one after another.
        self._threads.accept(request, None if group is None else group.series)

    def hand_back(self, waiter: CallWaiter) -> None:
        """What is nested in a call that this thread waits for no more is for others."""
        while waiter.work:
            try:
                request = waiter.work.popleft()
            except IndexError:  # who put it there has taken it back
                return
            if not request.call:
                self._threads.let_go(request)
            self.accept(request)
            self._threads.call_for_help()

    def _group_of(self, request: Request) -> Group | None:
        target = request.extras.target
        return None if target is None else self._callbacks.groups.get(target[0])
