"""One peer's stay, from the end of the handshake until its connection has ended and nothing runs for it any more.

What happens in it, in this order: its services are made, ``on_connect`` runs, it is let in; its connection ends,
``on_disconnect`` runs, its handlers finish, its services are left, its place is free. A peer that is not let in has
``on_connect_failed`` instead. Each step may be the last thing that some thread does, so whoever finishes last goes on.
"""

import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack
from threading import Lock
from typing import Any, Final, final

from typedrpc.common.connection import Connection
from typedrpc.errors import ConnectionLost, RpcError
from typedrpc.factories import Factory
from typedrpc.hooks import Event
from typedrpc.peer import Peer

logger = logging.getLogger("typedrpc")


@final
class Stay:
    """Of one peer. Thread-safe."""

    __slots__ = (
        "_begun",
        "_connect",
        "_disconnect",
        "_ended",
        "_entered",
        "_factories",
        "_failed",
        "_let_in",
        "_lock",
        "_on_over",
        "_parts",
        "_refusal",
        "_run_async",
        "_start",
        "connection",
        "peer",
    )

    def __init__(
        self,
        connection: Connection,
        peer: Peer,
        *,
        connect: Event,
        disconnect: Event,
        failed: Event,
        factories: Sequence[Factory] = (),
        start: Callable[[Callable[[], None]], None],
        run_async: Callable[[Coroutine[Any, Any, Any]], Any],
        on_over: Callable[["Stay"], None] = lambda stay: None,
    ) -> None:
        """
        Args:
            connection: To the peer.
            peer: The peer.
            connect: Told before it is let in.
            disconnect: Told when it has left.
            failed: Told when it is not let in.
            factories: Make its services.
            start: Runs a function in a thread of its own.
            run_async: Runs a coroutine on an event loop, and waits for what it returns.
            on_over: Called when all is over; must not block.
        """
        self.connection: Final = connection
        self.peer: Final = peer
        self._connect = connect
        self._disconnect = disconnect
        self._failed = failed
        self._factories = factories
        self._start = start
        self._run_async = run_async
        self._on_over = on_over
        self._lock = Lock()
        self._begun = False
        self._ended = False
        self._let_in = False
        self._refusal: RpcError | None = None
        self._entered: ExitStack | None = None
        # What is still to come before all is over: that the connection ends and the hooks learn of it; that its
        # handlers are done; and while it is let in, the end of that.
        self._parts = 2
        connection.handlers.when_over(self._finish_part)

    def refuse(self, error: RpcError) -> None:
        """Say why the peer is not let in, where its connection's end does not. Whoever says so closes it then."""
        self._refusal = error

    @property
    def let_in(self) -> bool:
        """Whether the peer is in, or was."""
        return self._let_in

    def begin(self, let_in: Callable[[], bool]) -> bool:
        """Make what the peer needs, tell the hooks, and let it in. May take its time.

        Args:
            let_in: Lets it in. Returns whether it came to that.

        Returns:
            Whether the peer is in.
        """
        with self._lock:
            if self._ended:
                return False
            self._begun = True
            self._parts += 1
        inside = False
        try:
            if self._make_services():
                self._connect.run(self.peer, until=lambda: self.connection.ended)
                inside = not self.connection.ended and let_in()
        except BaseException as error:
            self.connection.end(ConnectionLost(f"the connection was not made: {error!r}"))
            raise
        finally:
            if not self.connection.forked:
                self._stop_beginning(inside)
        return inside

    def _stop_beginning(self, inside: bool) -> None:
        with self._lock:
            self._begun = False
            self._let_in = inside
            ended = self._ended
        if ended:
            self._tell_of_end()
        self._finish_part()

    def _make_services(self) -> bool:
        """Whether the services of this peer could be made and entered; otherwise it is refused."""
        try:
            instances = []
            for factory in self._factories:
                instance = factory.make(self.peer)
                instances.append(instance)
                if isinstance(instance, AbstractContextManager | AbstractAsyncContextManager):
                    self._entered = self._entered or ExitStack()
                    self._enter(instance, self._entered)
        except BaseException:  # whatever it is, it is no reason for this thread to end
            error_id = os.urandom(4).hex()
            logger.exception("the services of %s could not be made, error id %s", self.peer, error_id)
            self.connection.close(f"the server could not make the service of this client, error id {error_id}")
            return False
        self.peer.instances = tuple(instances)
        return True

    def _enter(
        self, instance: AbstractContextManager[Any] | AbstractAsyncContextManager[Any], entered: ExitStack
    ) -> None:
        if isinstance(instance, AbstractContextManager):
            entered.enter_context(instance)
            return
        leave = instance.__aexit__
        self._run_async(_await(instance.__aenter__))
        entered.push(lambda *error: self._run_async(_await(leave, *error)))

    def end(self) -> None:
        """The connection has ended. Does not block."""
        if self.connection.forked:
            return
        with self._lock:
            if self._ended:
                return
            self._ended = True
            if self._begun:
                return  # whoever lets it in goes on
        self._tell_of_end()

    def _tell_of_end(self) -> None:
        """Have the hooks run that are told of the end."""
        error = self.connection.core.lost()
        if self._let_in:
            told = self._disconnect
            self._run_apart(bool(told), lambda: told.run(self.peer, error))
        else:
            reason = self._refusal or error
            self._run_apart(bool(self._failed), lambda: self._failed.run(reason))

    def _run_apart(self, needed: bool, run: Callable[[], None]) -> None:
        """Run something that may take its time and call others: in a thread of its own, if there is any need."""

        def run_and_finish() -> None:
            try:
                run()
            finally:
                self._finish_part()

        if not needed:
            self._finish_part()
            return
        try:
            self._start(run_and_finish)
        except RuntimeError:
            logger.warning("no thread could be started for the hooks of %s: they were not called", self.peer)
            self._finish_part()

    def _finish_part(self) -> None:
        if self.connection.forked:
            return
        with self._lock:
            self._parts -= 1
            if self._parts:
                return
        entered = self._entered
        if entered is None:
            self._on_over(self)
            return

        def leave_services() -> None:
            try:
                entered.close()
            except BaseException:
                logger.exception("a service of %s could not be left", self.peer)
            finally:
                self._on_over(self)

        try:
            self._start(leave_services)
        except RuntimeError:
            leave_services()


async def _await(function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    return await function(*args)
