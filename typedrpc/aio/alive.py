"""Keep-alive of a connection on an event loop: a timer looks whether anything came."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, final

from typedrpc import transport
from typedrpc.aio.outlet import Outlet
from typedrpc.common.outbox import STALL_TIME
from typedrpc.common.silence import SIGN_TIME, Heed, Silence
from typedrpc.messages import Feature
from typedrpc.protocol import Event, Protocol, State

STEPS: Final = 4
"""Looks at a silent peer in half of the time that it has."""


@final
class KeepAlive:
    """Of one connection. Used in the thread of the loop.

    Attributes:
        heard: Set whenever something was read.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        core: Protocol[Any],
        outlet: Outlet,
        *,
        deliver: Callable[[list[Event[Any]]], None],
        held_up: Callable[[], bool],
    ) -> None:
        """
        Args:
            loop: The loop.
            core: The protocol's state.
            outlet: Writes what is asked.
            deliver: Passes on what follows.
            held_up: Whether nothing is read, as too much waits to be handled.
        """
        self.heard = False
        self._loop = loop
        self._core = core
        self._outlet = outlet
        self._deliver = deliver
        self._held_up = held_up
        self._silence: Silence | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sign_at = 0.0

    def begin(self, silence: Silence, made: asyncio.Transport) -> None:
        """The handshake is over: from now on a silence that lasts is to be noticed."""
        with suppress(OSError):  # the peer has left again, as the loop will see
            reads = self._core.client or Feature.READS in self._core.peer_hello.features
            sock = made.get_extra_info("socket")
            transport.keep_alive(sock, silence.period, reads=reads, patience=STALL_TIME)
            silence.look = lambda: transport.delivery(sock)
        self._silence = silence
        self._look()

    def close(self) -> None:
        """The connection has ended."""
        self._silence = None
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        silence = self._silence
        if silence is None:
            return
        broken, self.heard = self.heard or self._held_up(), False
        heed = silence.grow(self._loop.time(), broken=broken, may_ask=self._core.may_ask)
        if heed is Heed.END:
            self._deliver(self._core.receive_nothing(silence.period))
            return
        if heed is Heed.ASK:
            self._outlet.add(self._core.ping())
        self._timer = self._loop.call_later(silence.half / STEPS, self._look)

    def hold_up(self) -> None:
        """From now on nothing is read."""
        self._sign_at = self._loop.time() + SIGN_TIME

    def give_sign(self) -> None:
        """Still nothing is read, and what has come may be a ping: answer it now and then."""
        now = self._loop.time()
        if now >= self._sign_at and not self._outlet.outbox.queue and self._core.state is State.OPEN:
            self._sign_at = now + SIGN_TIME
            self._outlet.add(self._core.sign_of_life())
