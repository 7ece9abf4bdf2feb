"""Which thread runs a request: the one that waits for the call which it is nested in, or whichever is free.

Only what descends from a thread's own call runs in that thread, so that locks and what is local to it stay as they are
in a program of one process.
"""

import threading
from typing import Any, final

from typedrpc.callbacks import Callbacks, Found
from typedrpc.common.handlers import Handlers, Series
from typedrpc.common.role import ReadRole
from typedrpc.common.tokens import CallWaiter
from typedrpc.messages import ProtocolCommand
from typedrpc.protocol import Protocol, Request


@final
class Router:
    """Hands the requests of one connection to threads; used by the holder of the read role."""

    def __init__(self, core: Protocol[Any], role: ReadRole, handlers: Handlers, callbacks: Callbacks) -> None:
        """
        Args:
            core: The protocol's state.
            role: The connection's read role.
            handlers: Run what comes on it.
            callbacks: What this side has offered on it.
        """
        self._core = core
        self._role = role
        self._handlers = handlers
        self._callbacks = callbacks
        # Held while requests are put where they are run: so they stay in the order in which they came when the thread
        # that they were for stops waiting.
        self._lock = threading.Lock()

    def forsake(self) -> None:
        """See :mod:`typedrpc.common.fork`: the lock may be held by a thread that is not here."""
        self._lock = threading.Lock()

    def deliver(self, request: Request) -> bool:
        """A request with extras came. Returns whether it has found its place here."""
        extras = request.extras
        if extras.target is not None and request.command == ProtocolCommand.CALLBACK:
            request.callback = self._callbacks.find(*extras.target)
        waiter = self._waiter_for(request)
        if waiter is None and request.callback is None:
            return False
        with self._lock:
            if waiter is None:
                self._accept(request)
                return True
            if not request.call:
                self._handlers.hold(request)
            waiter.work.append(request)
            # It may have stopped waiting, and looked for the last time.
            if self._waiter_for(request) is not waiter:
                self._hand_back(waiter)
                return True
        self._role.rouse(waiter)
        return True

    def _waiter_for(self, request: Request) -> CallWaiter | None:
        """The thread that a request is for, while it waits."""
        token = self._core.calls.get(request.extras.parent) if request.extras.parent else None
        if isinstance(token, CallWaiter):
            return token
        found: Found | None = request.callback
        return None if found is None else found.group.waiter

    def hand_back(self, waiter: CallWaiter) -> None:
        """What is nested in a call that this thread waits for no more is for others."""
        if waiter.work:
            with self._lock:
                self._hand_back(waiter)
            self._handlers.call_for_help()

    def _hand_back(self, waiter: CallWaiter) -> None:
        while waiter.work:
            try:
                request = waiter.work.popleft()
            except IndexError:  # the thread itself, which does not know yet that the connection has ended
                return
            if not request.call:
                self._handlers.let_go(request)
            self._accept(request)

    def _accept(self, request: Request) -> None:
        found: Found | None = request.callback
        if found is None:
            self._handlers.accept(request)
            return
        # The callbacks of one call run one after another.
        if found.group.series is None:
            found.group.series = Series()
        self._handlers.accept(request, found.group.series)
