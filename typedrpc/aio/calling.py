"""The calls of threads on a connection that belongs to an event loop: they wait, and the loop may end meanwhile."""

import asyncio
import threading
from typing import Final, final

from typedrpc.callbacks import Callbacks
from typedrpc.common.calling import Calls, Connection
from typedrpc.common.role import Waiter
from typedrpc.common.room import Room
from typedrpc.common.router import Router
from typedrpc.common.tokens import Token
from typedrpc.errors import ConnectionLost
from typedrpc.protocol import Protocol as Core

CHECK_TIME: Final = 1.0
"""Seconds after which a thread that waits looks whether the loop is closed, which nobody tells it."""


@final
class LoopCalls(Calls):
    """Makes calls, and looks after the loop while it waits for them."""

    def __init__(
        self,
        connection: Connection,
        core: Core[Token],
        state: threading.Lock,
        *,
        loop: asyncio.AbstractEventLoop,
        callbacks: Callbacks,
        room: Room,
        router: Router,
    ) -> None:
        """As for :class:`typedrpc.common.calling.Calls`; and the loop."""
        super().__init__(connection, core, state, callbacks=callbacks, room=room, router=router)
        self._loop = loop

    def _park(self, waiter: Waiter, timeout: float | None) -> BaseException | None:
        interrupt = super()._park(waiter, CHECK_TIME if timeout is None else min(timeout, CHECK_TIME))
        if not waiter.done and self._loop.is_closed():
            self._connection.end(ConnectionLost("the event loop of the connection is closed"))
        return interrupt
